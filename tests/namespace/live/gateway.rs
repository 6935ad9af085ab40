//! The gateway half of a network, with machines behind it and an "internet" behind the host.
//!
//! The host's `nic0` (198.51.100.7) is the only way out; the internet (198.51.100.1) knows no route to the machines. A machine
//! is a namespace behind a veth that is taken for a tap, so that real stacks talk.

use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::guest::Guest;
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
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
tap = "tap*"
network = "blue"
REST
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

/// A machine behind `tap`, with an address and this host as its router.
fn machine(host: &Host, tap: &str, address: &str) -> Host {
    let machine = Host::new();
    host.join(tap, &machine, "eth0");
    machine.ip(&format!("address add {address}/24 dev eth0"));
    machine.ip("route add default via 10.0.0.1");
    machine
}

/// A server that answers every connection with the client's address as it sees it.
fn serve(host: &Host, at: &str) -> std::thread::JoinHandle<()> {
    let at: SocketAddr = at.parse().unwrap();
    let listener = host.within(|| TcpListener::bind(at).expect("a listener"));
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let peer = connection
                .peer_addr()
                .map_or_else(|e| e.to_string(), |a| a.ip().to_string());
            let _ = connection.write_all(peer.as_bytes());
        }
    })
}

/// Whom the server at `to` sees when this host connects; none if nobody answers.
fn seen_by(host: &Host, to: &str) -> Option<IpAddr> {
    let to: SocketAddr = to.parse().unwrap();
    host.within(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.parse().ok()
    })
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
        let _server = serve(&internet, "198.51.100.1:80");
        assert_eq!(seen_by(&guest, "198.51.100.1:80"), ip("198.51.100.7"));
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_floating_address_leads_in_and_out_and_from_everywhere() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, internet) = host_and_internet();
        let floating = "[[floating_ip]]\naddress = \"198.51.100.20\"\nfixed_address = \"10.0.0.5\"\n";
        let snat = "snat = { interface = \"nic0\" }";
        let daemon = Daemon::spawn(&host, &blue("", snat, floating));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        let neighbour = machine(&host, "tap0-2", "10.0.0.6");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap0-2", "attached");
        daemon.wait_network("blue", "ready");
        let _guest = serve(&guest, "10.0.0.5:80");
        let _internet = serve(&internet, "198.51.100.1:80");
        // From outside, with its own address.
        assert_eq!(seen_by(&internet, "198.51.100.20:80"), ip("198.51.100.1"));
        // To the outside, with the floating one; the neighbour with the host's.
        assert_eq!(seen_by(&guest, "198.51.100.1:80"), ip("198.51.100.20"));
        assert_eq!(seen_by(&neighbour, "198.51.100.1:80"), ip("198.51.100.7"));
        // From the host and from a neighbour.
        assert!(seen_by(&host, "198.51.100.20:80").is_some());
        assert_eq!(seen_by(&neighbour, "198.51.100.20:80"), ip("10.0.0.1"));
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
        let _internet = serve(&internet, "198.51.100.1:80");
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
        // Without the network there is no server.
        daemon.reload(NOTHING);
        wait_until("no server is left", SOON, || {
            !host.run("ps -eo args").contains("dnsmasq")
        });
    });
}
