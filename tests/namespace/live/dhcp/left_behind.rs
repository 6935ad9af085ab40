//! Nothing of a gateway outlives the wish for it: everything of the host that it may touch, before and after, to the letter.

use super::host_with_internet;
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::guest::{Guest, VM1};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

const NOTHING: &str = "[daemon]\nprune_after = \"1s\"\n[taps]\nmatch = [\"tap*\"]\n[vxlan]\nlocal_ip = \"198.51.100.7\"\nl2_population = true\n";

/// A network with all there is.
const BLUE: &str = r#"
[[network]]
id = "blue"
network_type = "local"
metadata = { host = "198.51.100.7", port = 8775 }
[network.gateway]
addresses = ["10.0.0.1/24", "fd00:5::1/64"]
snat = { address6 = "masquerade", interface = "nic0" }
[network.dhcp]
dns_servers = []
[network.ra]
slaac = true
[[floating_ip]]
address = "198.51.100.20"
fixed_address = "10.0.0.71"
interface = "nic0"
[[port_forward]]
protocol = "tcp"
address = "198.51.100.7"
port = 2200
fixed_address = "10.0.0.71"
fixed_port = 80
"#;

/// One that has rules for its uplink too, and of which only one device forwards.
const RED: &str = r#"
[[network]]
id = "red"
network_type = "vxlan"
segmentation_id = 7
share_dhcp_address = true
[network.gateway]
addresses = ["10.7.0.1/24"]
forward = ["nic0"]
[network.dhcp]
dns_servers = []
"#;

const PORT: &str = r#"
[[port]]
tap = "tap1"
network = "blue"
mac = "52:54:00:00:00:01"
addresses = ["10.0.0.71", "fd00:5::71"]
hostname = "vm1"
"#;

/// The same networks' keys for `network add --services`.
const BLUE_SERVICES: &str = r#"{
  "metadata": { "host": "198.51.100.7", "port": 8775 },
  "gateway": { "addresses": ["10.0.0.1/24", "fd00:5::1/64"],
               "snat": { "address6": "masquerade", "interface": "nic0" } },
  "dhcp": { "dns_servers": [], "range": ["10.0.0.71-10.0.0.71"] },
  "ra": { "slaac": true },
  "floating_ip": [{ "address": "198.51.100.20", "fixed_address": "10.0.0.71", "interface": "nic0" }],
  "port_forward": [{ "protocol": "tcp", "address": "198.51.100.7", "port": 2200,
                     "fixed_address": "10.0.0.71", "fixed_port": 80 }] }"#;
const RED_SERVICES: &str = r#"{
  "share_dhcp_address": true,
  "gateway": { "addresses": ["10.7.0.1/24"], "forward": ["nic0"] },
  "dhcp": { "dns_servers": [] } }"#;

/// What a host had before: rules and settings of its own, and a connection.
struct Before {
    host: Host,
    internet: Host,
    _connection: (TcpStream, TcpStream),
    state: String,
}

impl Before {
    fn new() -> Self {
        let (host, internet) = host_with_internet();
        // What nobody answers ends soon here: DHCP's and IGMP's first words have no address yet by which they were ours.
        for timeout in ["udp", "icmp", "icmpv6", "generic"] {
            write(&format!("netfilter/nf_conntrack_{timeout}_timeout"), "1");
        }
        // Another router's work: one device forwards, the others do not.
        host.join("other", &internet, "eth1");
        host.ip("address add 192.0.2.1/24 dev other");
        write("ipv4/conf/other/forwarding", "1");
        write("ipv6/conf/nic0/accept_ra", "1");
        host.run("nft add table inet firewall");
        host.run("nft add chain inet firewall seen { type filter hook forward priority 0 ; }");
        host.run("nft add rule inet firewall seen ct state established accept");
        host.run("nft add rule inet firewall seen ct state new accept");
        let listener = internet.within(|| TcpListener::bind("198.51.100.1:443").expect("a listener"));
        let here = TcpStream::connect("198.51.100.1:443").expect("a connection");
        let (there, _) = listener.accept().expect("a connection");
        wait_until("addresses are checked", SOON, || {
            !host.ip("address show").contains("tentative")
        });
        let state = state(&host);
        Self {
            host,
            internet,
            _connection: (here, there),
            state,
        }
    }

    /// A guest with flows of every kind.
    fn use_everything(&self, daemon: &Daemon) -> Guest {
        let listeners = ["198.51.100.1:80", "[2001:db8::1]:80"].map(|at| {
            self.internet
                .within(|| TcpListener::bind(at).expect("a listener"))
        });
        let metadata = TcpListener::bind("198.51.100.7:8775").expect("a listener");
        daemon.wait_network("blue", "ready");
        daemon.wait_network("red", "ready");
        super::wait_servers(daemon, 2);
        let guest = Guest::start(&self.host, "tap1", VM1);
        daemon.wait_port("tap1", "attached");
        guest.wait_lease("10.0.0.71");
        guest.wait_advertised();
        let served = guest
            .host
            .within(|| TcpListener::bind("10.0.0.71:80").expect("a listener"));
        let from = |host: &Host, to: &str| {
            let to = to.parse().expect("an address");
            host.within(|| TcpStream::connect_timeout(&to, SOON).unwrap_or_else(|e| panic!("{to}: {e}")))
        };
        let flows = [
            from(&guest.host, "198.51.100.1:80"),
            from(&guest.host, "[2001:db8::1]:80"),
            from(&guest.host, "169.254.169.254:80"),
            from(&self.internet, "198.51.100.20:80"),
            from(&self.internet, "198.51.100.7:2200"),
            from(&self.host, "10.0.0.71:80"),
        ];
        for mut flow in flows.iter() {
            flow.write_all(b"x").expect("a flow");
        }
        assert_ne!(state(&self.host), self.state);
        // Ends that are closed in order would end the flows by themselves.
        std::mem::forget((flows, listeners, metadata, served));
        guest
    }

    #[track_caller]
    fn wait_restored(&self, way: &str) {
        let begin = Instant::now();
        let mut now = state(&self.host);
        while now != self.state && begin.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(20));
            now = state(&self.host);
        }
        let (now, before): (BTreeSet<_>, BTreeSet<_>) = (now.lines().collect(), self.state.lines().collect());
        let more: Vec<_> = now.difference(&before).collect();
        let less: Vec<_> = before.difference(&now).collect();
        assert!(
            more.is_empty() && less.is_empty(),
            "{way}: more: {more:#?}, less: {less:#?}"
        );
    }
}

fn write(setting: &str, value: &str) {
    let path = format!("/proc/sys/net/{setting}");
    fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// Rules, links, addresses, routes, settings, processes and connections, a line each.
fn state(host: &Host) -> String {
    let mut lines = vec![host.run("nft list ruleset")];
    for what in [
        "-o -d link show",
        "-o address show",
        "-4 route show table all",
        "-6 route show table all",
        "-4 rule show",
        "-6 rule show",
    ] {
        let text = host.ip(what);
        // Counters of use and the like are none of anybody's doing.
        let mut rows: Vec<String> = text
            .lines()
            .map(|line| format!("{what}: {}", line.trim_end()))
            .collect();
        rows.sort();
        lines.extend(rows);
    }
    settings(Path::new("/proc/sys/net"), &mut lines);
    lines.extend(processes());
    lines.extend(flows(host));
    lines.join("\n")
}

/// All of `/proc/sys/net`, but for what counts, and a secret that the kernel makes for the first server that takes TCP
/// Fast Open (dnsmasq does).
fn settings(folder: &Path, lines: &mut Vec<String>) {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        // Of a device that is going this moment; whoever compares looks again.
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    let mut entries: Vec<_> = listing.flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            settings(&path, lines);
        } else if !path.ends_with("nf_conntrack_count")
            && !path.ends_with("tcp_fastopen_key")
            && let Ok(value) = fs::read_to_string(&path)
        {
            lines.push(format!("{} = {}", path.display(), value.trim()));
        }
    }
}

/// Programs of this network namespace, other than the test's own.
fn processes() -> Vec<String> {
    let here = fs::read_link("/proc/self/ns/net").expect("a namespace");
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| fs::read_link(entry.path().join("ns/net")).is_ok_and(|ns| ns == here))
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .map(|name| format!("process {}", name.trim()))
        .filter(|name| name != "process tapwire")
        .collect();
    names.sort();
    names
}

/// Flows that are tracked, without their clocks.
fn flows(host: &Host) -> Vec<String> {
    let mut flows = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let text = host.run(&format!("conntrack -L -f {family}"));
        flows.extend(text.lines().map(|line| {
            let words = line
                .split_whitespace()
                .filter(|word| word.parse::<u64>().is_err());
            words.collect::<Vec<_>>().join(" ")
        }));
    }
    flows.sort();
    flows
}

#[test]
fn networks_taken_out_of_the_files_leave_the_host_as_it_was() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Ipv6,
            Feature::Vxlan,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc"),
            Feature::Program("conntrack"),
        );
        let before = Before::new();
        let daemon = before.host.daemon(&format!("{NOTHING}{BLUE}{RED}{PORT}"));
        let guest = before.use_everything(&daemon);
        daemon.reload(NOTHING);
        drop(guest);
        before.wait_restored("taken out of the files");
    });
}

#[test]
fn networks_deleted_by_command_leave_the_host_as_it_was() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Ipv6,
            Feature::Vxlan,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc"),
            Feature::Program("conntrack"),
        );
        let before = Before::new();
        let daemon = before.host.daemon(NOTHING);
        let add = |id: &str, options: &[&str], services: &str| {
            daemon.write_file("services.json", services);
            let file = daemon.path("services.json");
            let file = file.to_str().expect("a path");
            let fixed = ["network", "add", id, "--services", file];
            daemon.json(&[&fixed[..], options].concat());
        };
        add("blue", &["--network-type", "local"], BLUE_SERVICES);
        // What is told of it is what tells it.
        let told = daemon.json(&["network", "show", "blue"])["services"].to_string();
        daemon.json(&["network", "delete", "blue"]);
        add("blue", &["--network-type", "local"], &told);
        assert_eq!(
            daemon.json(&["network", "show", "blue"])["services"].to_string(),
            told
        );
        add(
            "red",
            &["--network-type", "vxlan", "--segmentation-id", "7"],
            RED_SERVICES,
        );
        daemon.json(&["port", "bind", "tap1", "blue"]);
        let guest = before.use_everything(&daemon);
        daemon.json(&["network", "delete", "blue", "--force"]);
        daemon.json(&["network", "delete", "red"]);
        drop(guest);
        before.wait_restored("deleted by command");
    });
}

#[test]
fn a_killed_daemon_that_is_started_with_less_leaves_the_host_as_it_was() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Ipv6,
            Feature::Vxlan,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc"),
            Feature::Program("conntrack"),
        );
        let before = Before::new();
        let mut daemon = before.host.daemon(&format!("{NOTHING}{BLUE}{RED}{PORT}"));
        let guest = before.use_everything(&daemon);
        daemon.kill();
        // A tap that nobody maps stays where it is, and its bridge with it.
        drop(guest);
        daemon.write_configuration(NOTHING);
        daemon.start();
        daemon.wait_in_sync();
        before.wait_restored("killed");
    });
}

#[test]
fn forwarding_of_one_network_stays_when_anothers_goes() {
    in_namespace(|| {
        require!(
            Feature::Nat,
            Feature::Ipv6,
            Feature::Vxlan,
            Feature::Program("dnsmasq")
        );
        let before = Before::new();
        let [blue, red] = [BLUE, RED].map(|network| format!("{NOTHING}{network}"));
        let both = format!("{NOTHING}{BLUE}{RED}");
        let daemon = before.host.daemon(NOTHING);
        // Told, and what is there then: all forwards for blue, only nic0 (and what always did) for red.
        let steps = [
            (&red, ["red"].as_slice(), "0"),
            (&both, &["blue", "red"], "1"),
            (&blue, &["blue"], "1"),
            (&both, &["blue", "red"], "1"),
            (&red, &["red"], "0"),
        ];
        for (configuration, networks, all) in steps {
            daemon.reload(configuration);
            for id in ["blue", "red"] {
                if networks.contains(&id) {
                    daemon.wait_network(id, "ready");
                } else {
                    // Its bridge goes a second after its settings did.
                    wait_until(&format!("{id} is gone"), SOON, || {
                        before.host.link(&format!("brq{id}")).is_none()
                    });
                }
            }
            let mut forwarding = vec![("ip_forward".to_owned(), all)];
            let devices = ["nic0".to_owned(), "other".to_owned()];
            let bridges = networks.iter().map(|id| format!("brq{id}"));
            forwarding.extend(
                devices
                    .into_iter()
                    .chain(bridges)
                    .map(|d| (format!("conf/{d}/forwarding"), "1")),
            );
            for (setting, value) in forwarding {
                let now = before.host.sysctl(&format!("ipv4/{setting}"));
                assert_eq!(now, value, "{setting} with {networks:?}");
            }
            daemon.assert_nothing_planned();
        }
        daemon.reload(NOTHING);
        before.wait_restored("after both");
    });
}
