//! A machine's whole story: a tap appears, and all that its guest knows it has from DHCP and router advertisements.

use super::{Running, host_with_internet};
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::guest::{Guest, VM1, VM2};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
/// For one connection.
const CONNECT: Duration = Duration::from_secs(3);

const NETWORK: &str = r#"
[daemon]
prune_after = "never"
[taps]
match = ["tap*"]
[[network]]
id = "blue"
network_type = "local"
metadata = { host = "198.51.100.7", port = 8775 }
[network.gateway]
addresses = ["10.0.0.1/24", "fd00:5::1/64"]
snat = { address6 = "masquerade", interface = "nic0" }
forward = ["nic0"]
[network.dhcp]
domain = "blue.example"
dns_servers = ["198.51.100.1"]
[network.ra]
slaac = true
[[port]]
tap = "tap1"
network = "blue"
mac = "52:54:00:00:00:01"
addresses = ["10.0.0.71", "fd00:5::71"]
hostname = "web-1"
[[port]]
tap = "tap2"
network = "blue"
mac = "52:54:00:00:00:02"
addresses = ["10.0.0.72", "fd00:5::72"]
hostname = "db-1"
[[floating_ip]]
address = "198.51.100.20"
fixed_address = "10.0.0.71"
interface = "nic0"
"#;

/// The internet's name server, which knows one name.
fn resolver(internet: &Host) -> Running {
    let mut dnsmasq = internet.command("dnsmasq");
    let dnsmasq = dnsmasq
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ])
        .args(["--user=", "--group=", "--pid-file=", "--bind-interfaces"])
        .args([
            "--listen-address=198.51.100.1",
            "--address=/www.example/198.51.100.80",
        ])
        .stderr(Stdio::null());
    Running::spawn(dnsmasq)
}

/// Answers every request over HTTP with the client's address as it is seen here.
fn serve(host: &Host, at: &str) {
    let at: SocketAddr = at.parse().expect("an address");
    let listener = host.within(|| TcpListener::bind(at).expect("a listener"));
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || answer(connection));
        }
    });
}

fn answer(mut connection: TcpStream) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && matches!(connection.read(&mut byte), Ok(1)) {
        request.push(byte[0]);
    }
    let peer = connection.peer_addr().map(|peer| peer.ip().to_string());
    let body = peer.unwrap_or_else(|error| error.to_string());
    let _ = write!(connection, "HTTP/1.0 200 OK\r\n\r\n{body}");
}

/// Whom the server sees.
fn seen_by(client: &Host, server: &str) -> Option<String> {
    begin(client, server).and_then(end)
}

/// A connection to a `serve`r over which nothing was asked yet.
fn begin(client: &Host, server: &str) -> Option<TcpStream> {
    let server: SocketAddr = server.parse().expect("an address and a port");
    client
        .within(|| TcpStream::connect_timeout(&server, CONNECT))
        .ok()
}

/// Asks, and tells whom the server sees.
fn end(mut connection: TcpStream) -> Option<String> {
    connection.set_read_timeout(Some(CONNECT)).ok()?;
    connection
        .write_all(b"GET /latest/meta-data/ HTTP/1.0\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    Some(answer.strip_prefix("HTTP/1.0 200 OK\r\n\r\n")?.to_owned())
}

#[test]
fn a_guest_knows_everything_from_its_network_and_gets_everywhere() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Ipv6,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc"),
            Feature::Program("dhclient"),
        );
        let (host, internet) = host_with_internet();
        let _resolver = resolver(&internet);
        serve(&internet, "198.51.100.1:80");
        serve(&internet, "[2001:db8::1]:80");
        serve(&host, "198.51.100.7:8775");
        let mut daemon = host.daemon(NETWORK);
        let (web, db) = (Guest::start(&host, "tap1", VM1), Guest::start(&host, "tap2", VM2));
        daemon.wait_port("tap1", "attached");
        daemon.wait_port("tap2", "attached");

        // IPv4: the reservation, and what belongs to it.
        let lease = web.wait_lease("10.0.0.71");
        for (key, value) in [
            ("router", "10.0.0.1"),
            ("dns", "10.0.0.1"),
            ("domain", "blue.example"),
            ("hostname", "web-1"),
            ("subnet", "255.255.255.0"),
        ] {
            assert_eq!(lease.get(key), Some(value), "{key}");
        }
        db.wait_lease("10.0.0.72");

        // IPv6: an address of its own making by what the router advertises, and the reserved one by DHCPv6.
        let made: IpAddr = "fd00:5::5054:ff:fe00:1".parse().expect("an address");
        assert_eq!(web.wait_advertised(), made);
        assert_eq!(web.dhcp6(), Some("fd00:5::71".parse().expect("an address")));
        db.wait_advertised();

        // Names: a neighbour's, by its reservations; one that is known in the internet; none that nobody has.
        let dns: IpAddr = "10.0.0.1".parse().expect("an address");
        let neighbour = ["10.0.0.72", "fd00:5::72"].map(|a| a.parse::<IpAddr>().expect("an address"));
        assert_eq!(web.resolve("db-1", dns), neighbour);
        assert_eq!(web.resolve("db-1.blue.example", dns), neighbour);
        assert_eq!(
            web.resolve("db-1.blue.example", "fd00:5::1".parse().expect("an address")),
            neighbour
        );
        let upstream: IpAddr = "198.51.100.80".parse().expect("an address");
        wait_until("the internet's name server answers", SOON, || {
            web.resolve("www.example", dns) == [upstream]
        });
        assert_eq!(web.resolve("nobody.blue.example", dns), Vec::<IpAddr>::new());

        // The neighbour, by each of the addresses.
        for address in ["10.0.0.71", "fd00:5::71", "fd00:5::5054:ff:fe00:1"] {
            assert!(db.reaches(address), "{address} from the neighbour");
        }
        // The internet sees the host in both families.
        let sees = |client: &Host, server: &str, whom: &str| {
            assert_eq!(seen_by(client, server).as_deref(), Some(whom), "{server}");
        };
        sees(&db.host, "198.51.100.1:80", "198.51.100.7");
        sees(&web.host, "[2001:db8::1]:80", "2001:db8::7");
        // Metadata sees the machine.
        sees(&web.host, "169.254.169.254:80", "10.0.0.71");
        sees(&db.host, "169.254.169.254:80", "10.0.0.72");
        // The floating address: of what the machine says, and to the machine from outside, from the host and from the
        // neighbour.
        sees(&web.host, "198.51.100.1:80", "198.51.100.20");
        serve(&web.host, "10.0.0.71:80");
        sees(&internet, "198.51.100.20:80", "198.51.100.1");
        sees(&host, "198.51.100.20:80", "198.51.100.20");
        sees(&db.host, "198.51.100.20:80", "10.0.0.1");

        // What somebody else's address would be good for.
        web.host.ip("address add 10.0.0.99/24 dev eth0");
        let mut ping = web.host.command("ping");
        let spoofed = ping
            .args(["-c", "1", "-W", "1", "-I", "10.0.0.99", "10.0.0.1"])
            .output();
        assert!(!spoofed.expect("run ping").status.success());

        assert_eq!(daemon.network("blue")["state"], "ready");
        daemon.assert_nothing_planned();
        told(&daemon);

        // What goes on while the daemon does not, and after it is back.
        let flows = [
            (&internet, "198.51.100.20:80", "198.51.100.1"),
            (&web.host, "198.51.100.1:80", "198.51.100.20"),
            (&db.host, "198.51.100.1:80", "198.51.100.7"),
            (&db.host, "169.254.169.254:80", "10.0.0.72"),
        ]
        .map(|(client, server, whom)| (begin(client, server).expect(server), whom));
        daemon.stop();
        sees(&internet, "198.51.100.20:80", "198.51.100.1");
        daemon.start();
        daemon.wait_in_sync();
        daemon.wait_network("blue", "ready");
        for (flow, whom) in flows {
            assert_eq!(end(flow).as_deref(), Some(whom));
        }
        daemon.assert_nothing_planned();
    });
}

/// What an operator sees of it.
fn told(daemon: &Daemon) {
    let detail = daemon.json(&["network", "show", "blue"]);
    assert_eq!(detail["server"]["state"], "running");
    let services = json!({
        "gateway": {
            "addresses": ["10.0.0.1/24", "fd00:5::1/64"],
            "snat": { "interface": "nic0", "address": "masquerade", "address6": "masquerade" },
            "forward": ["nic0"],
        },
        "metadata": { "host": "198.51.100.7", "port": 8775 },
        "dhcp": { "lease_time": "86400s", "domain": "blue.example", "dns_servers": ["198.51.100.1"] },
        "ra": { "slaac": true, "interval": "600s", "lifetime": "1800s" },
        "floating_ip": [{ "address": "198.51.100.20", "fixed_address": "10.0.0.71", "interface": "nic0" }],
    });
    assert_eq!(detail["services"], services);
    let leases = detail["leases"].as_array().expect("leases");
    let of = |key: &str| -> Vec<&str> { leases.iter().filter_map(|lease| lease[key].as_str()).collect() };
    assert_eq!(of("address"), ["10.0.0.71", "10.0.0.72", "fd00:5::71"]);
    assert_eq!(of("hostname"), ["web-1", "db-1", "web-1"]);
    assert_eq!(of("mac"), [VM1, VM2]);
    let left = leases[0]["expires_in_s"].as_u64().expect("an end");
    assert!((86_000..=86_400).contains(&left), "{left}");

    let page = daemon.output(&["metrics"]).stdout;
    let page = String::from_utf8(page).expect("text");
    for sample in [
        "tapwire_gateways{state=\"ready\"} 1",
        "tapwire_services{state=\"running\"} 1",
        "tapwire_service_starts_total 1",
        "tapwire_service_failures_total 0",
        "tapwire_leases_active 3",
        "tapwire_leases_total{what=\"added\"} 3",
        "tapwire_guard_drops_total{reason=\"spoofed_mac\"} 0",
    ] {
        assert!(page.lines().any(|line| line == sample), "{sample}\n{page}");
    }
    let spoofed = page
        .lines()
        .find_map(|line| line.strip_prefix("tapwire_guard_drops_total{reason=\"spoofed_ipv4\"} "));
    assert!(spoofed.is_some_and(|count| count != "0"), "{page}");
}
