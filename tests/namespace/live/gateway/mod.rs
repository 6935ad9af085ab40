//! The gateway half of a network, with machines behind it and an "internet" behind the host.
//!
//! The host's `nic0` (198.51.100.7) is the only way out; the internet (198.51.100.1) knows no route to the machines. A machine
//! is a namespace behind a veth that is taken for a tap, so that real stacks talk.

mod first;
mod floating;
mod foreign;
mod forwards;
mod life;
mod mac;
mod policy;
mod settings;
mod six;
mod uplink;

use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::guest::Guest;
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(3);

/// A network with everything of the IPv4 kind but DHCP; `KEYS` go into the network, `REST` to the end.
const BLUE: &str = r#"
[daemon]
prune_after = "1s"
[taps]
match = ["tap*"]
other_kinds = ["veth"]
[[network]]
id = "blue"
network_type = "local"
KEYS
[network.gateway]
addresses = ["10.0.0.1/24"]
GATEWAY
[[port]]
tap = "tap0-*"
network = "blue"
REST
"#;

/// A second network, for `REST`.
const RED: &str = r#"
[[network]]
id = "red"
network_type = "local"
[network.gateway]
addresses = ["10.0.1.1/24"]
GATEWAY
[[port]]
tap = "tap1-*"
network = "red"
"#;

const NOTHING: &str = r#"
[daemon]
prune_after = "1s"
[taps]
match = ["tap*"]
other_kinds = ["veth"]
"#;

fn blue(keys: &str, gateway: &str, rest: &str) -> String {
    BLUE.replace("KEYS", keys)
        .replace("GATEWAY", gateway)
        .replace("REST", rest)
}

/// The host with its way out, and what is there.
fn host_and_internet() -> (Host, Host) {
    let (host, internet) = (Host::here(), Host::new());
    host.join("nic0", &internet, "eth0");
    host.ip("address add 198.51.100.7/24 dev nic0");
    host.ip("route add default via 198.51.100.1");
    internet.ip("address add 198.51.100.1/24 dev eth0");
    (host, internet)
}

/// A machine behind `tap`, with an address and the first one of its range as its router.
fn machine(host: &Host, tap: &str, address: &str) -> Host {
    let machine = Host::new();
    host.join(tap, &machine, "eth0");
    let (range, _) = address.rsplit_once('.').expect("an IPv4 address");
    machine.ip(&format!("address add {address}/24 dev eth0"));
    machine.ip(&format!("route add default via {range}.1"));
    machine
}

/// A server that tells every client's address as it sees it, and then sends back what it is sent.
fn serve(host: &Host, at: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let listener = host.within(|| TcpListener::bind(at).expect("a listener"));
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || answer(connection));
        }
    });
}

fn answer(mut connection: TcpStream) -> std::io::Result<()> {
    let line = format!("{}\n", connection.peer_addr()?.ip());
    connection.write_all(line.as_bytes())?;
    let mut echo = connection.try_clone()?;
    std::io::copy(&mut connection, &mut echo).map(drop)
}

/// Whom the server at `to` sees when this host connects; none if nobody answers.
fn seen_by(host: &Host, to: &str) -> Option<IpAddr> {
    Some(Flow::begin(host, to)?.seen)
}

/// A connection to a `serve`r that stays.
struct Flow {
    stream: BufReader<TcpStream>,
    /// Whom the server sees.
    seen: IpAddr,
}

impl Flow {
    fn begin(host: &Host, to: &str) -> Option<Self> {
        let to: SocketAddr = to.parse().unwrap();
        let stream = host.within(|| TcpStream::connect_timeout(&to, PATIENCE)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let seen = line.trim().parse().ok()?;
        Some(Self { stream, seen })
    }

    /// A byte there and back.
    fn lives(&mut self) -> bool {
        let mut byte = [0];
        let sent = self.stream.get_mut().write_all(b"x");
        sent.is_ok() && self.stream.read_exact(&mut byte).is_ok() && byte == *b"x"
    }
}

/// What connection tracking knows, one flow a line.
fn flows(host: &Host) -> Vec<String> {
    let listed = host.run("conntrack -L -o extended");
    listed.lines().map(str::to_owned).collect()
}

/// A flow between addresses that are all of these.
fn is_of(flow: &str, addresses: &[&str]) -> bool {
    let words: Vec<&str> = flow.split(['=', ' ']).collect();
    addresses.iter().all(|address| words.contains(address))
}

/// As on a host without `br_netfilter`.
fn bridged_packets_pass_unseen() {
    for file in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        let path = Path::new("/proc/sys/net/bridge").join(file);
        if path.exists() {
            std::fs::write(path, "0").expect("switch it off");
        }
    }
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn reaches(host: &Host, address: &str) -> bool {
    let output = host
        .command("ping")
        .args(["-c", "1", "-W", "2", address])
        .output()
        .expect("run ping");
    output.status.success()
}

/// Everything of the host that a gateway may touch, for comparison before and after.
fn footprint(host: &Host) -> String {
    let sysctls = [
        "net/ipv4/ip_forward",
        "net/ipv4/conf/all/accept_redirects",
        "net/ipv4/conf/default/forwarding",
        "net/ipv4/conf/nic0/forwarding",
        "net/ipv6/conf/all/forwarding",
        "net/ipv6/conf/default/forwarding",
        "net/ipv6/conf/nic0/forwarding",
        "net/ipv6/conf/nic0/accept_ra",
    ];
    let read = |path: &&str| std::fs::read_to_string(format!("/proc/sys/{path}")).unwrap_or_default();
    let sysctls: Vec<String> = sysctls
        .iter()
        .map(|path| format!("{path}={}", read(path).trim()))
        .collect();
    let mut addresses: Vec<String> = host
        .ip("-br address show")
        .lines()
        .filter(|line| !line.starts_with("tap"))
        // A link-local address comes when its check for duplicates is through, whenever that is.
        .map(|line| {
            let words = line.split_whitespace().filter(|word| !word.starts_with("fe80"));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    addresses.sort();
    [
        sysctls.join("\n"),
        addresses.join("\n"),
        host.ip("route show table all")
            .lines()
            .filter(|l| !l.contains("dev tap") && !l.contains("fe80"))
            .collect::<Vec<_>>()
            .join("\n"),
        host.run("nft list ruleset"),
    ]
    .join("\n--\n")
}

/// Waits until the host is as it was.
#[track_caller]
fn wait_for(host: &Host, before: &str) {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline && footprint(host) != before {
        std::thread::yield_now();
    }
    pretty_eq(&footprint(host), before);
}

#[track_caller]
fn pretty_eq(now: &str, before: &str) {
    assert!(now == before, "now:\n{now}\n\nbefore:\n{before}");
}

#[test]
fn a_machine_reaches_the_internet_by_source_translation() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, internet) = host_and_internet();
        let daemon = Daemon::spawn(&host, &blue("", "snat = { interface = \"nic0\" }", ""));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        assert!(reaches(&guest, "10.0.0.1") && reaches(&guest, "198.51.100.1"));
        serve(&internet, "198.51.100.1:80");
        assert_eq!(seen_by(&guest, "198.51.100.1:80"), ip("198.51.100.7"));
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_removed_network_leaves_nothing_behind() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, internet) = host_and_internet();
        let before = footprint(&host);
        let floating = "[[floating_ip]]\naddress = \"198.51.100.20\"\nfixed_address = \"10.0.0.5\"\n";
        let with = blue("", "snat = { interface = \"nic0\" }", floating);
        let mut daemon = Daemon::spawn(&host, &with);
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        daemon.wait_network("blue", "ready");
        daemon.wait_port("tap0-1", "attached");
        serve(&internet, "198.51.100.1:80");
        assert_eq!(seen_by(&guest, "198.51.100.1:80"), ip("198.51.100.20"));
        assert_ne!(footprint(&host), before);
        daemon.reload(NOTHING);
        wait_for(&host, &before);

        // Killed, and started again with less.
        daemon.reload(&with);
        daemon.wait_network("blue", "ready");
        daemon.kill();
        // A tap that nobody maps stays where it is, and its bridge with it.
        host.ip("link del tap0-1");
        daemon.write_configuration(NOTHING);
        daemon.start();
        wait_for(&host, &before);
    });
}

#[test]
fn a_machine_gets_its_reservation_and_names_from_the_networks_own_server() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let (host, _internet) = host_and_internet();
        let machine =
            "mac = \"52:54:00:00:00:05\"\naddresses = [\"10.0.0.5\"]\nhostname = \"web-1\"\n[network.dhcp]";
        let (port, dhcp) = machine
            .split_once("[network.dhcp]")
            .map(|(a, _)| (a, "[network.dhcp]\ndns_servers = []\ndomain = \"blue.example\""))
            .unwrap();
        let text = blue("", "snat = true", "")
            .replace("network = \"blue\"\n", &format!("network = \"blue\"\n{port}"));
        let text = text.replace("[[port]]", &format!("{dhcp}\n[[port]]"));
        let daemon = Daemon::spawn(&host, &text);
        let guest = Guest::start(&host, "tap0-1", "52:54:00:00:00:05");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        let mut lease = None;
        wait_until("a lease", SOON, || {
            lease = guest.dhcp4(&[]);
            lease.is_some()
        });
        assert_eq!(lease.unwrap().get("ip"), Some("10.0.0.5"));
        assert_eq!(
            guest.resolve("web-1.blue.example", "10.0.0.1".parse().unwrap()),
            ["10.0.0.5".parse::<IpAddr>().unwrap()]
        );
        // Without the network there is no server of ours; others of the machine are in sight too.
        let ours = daemon.path("state/dnsmasq").to_string_lossy().into_owned();
        assert!(host.run("ps -eo args").contains(&ours));
        daemon.reload(NOTHING);
        wait_until("no server is left", SOON, || {
            !host.run("ps -eo args").contains(&ours)
        });
    });
}
