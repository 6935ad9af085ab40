//! A gateway's address among the host's own: first, and nothing of the host's is away for a moment.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Asks and sends without a pause, from both sides, and counts what failed.
struct Watch {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    threads: Vec<JoinHandle<u64>>,
}

impl Watch {
    fn begin(host: &Host, office: &Host, own: &str, other: &str) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let bind = |host: &Host, at: &str| {
            let socket = host.within(|| UdpSocket::bind(at).expect("a socket"));
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket
        };
        let (server, client) = (
            bind(host, &format!("{own}:7")),
            bind(office, &format!("{other}:0")),
        );
        client.connect(format!("{own}:7")).expect("an address");
        let sender = bind(host, &format!("{own}:0"));
        let far = format!("{other}:9");
        let sink = bind(office, &far);
        let (until, count) = (Arc::clone(&stop), Arc::clone(&asked));
        let ask = std::thread::spawn(move || {
            let (mut failed, mut buffer) = (0, [0; 8]);
            while !until.load(Ordering::Relaxed) {
                let answered = client.send(b"x").is_ok()
                    && server
                        .recv_from(&mut buffer)
                        .is_ok_and(|(_, peer)| server.send_to(b"x", peer).is_ok())
                    && client.recv(&mut buffer).is_ok();
                failed += u64::from(!answered);
                count.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
        let until = Arc::clone(&stop);
        let send = std::thread::spawn(move || {
            let _sink = sink;
            let mut failed = 0;
            while !until.load(Ordering::Relaxed) {
                failed += u64::from(sender.send_to(b"x", &far).is_err());
            }
            failed
        });
        Self {
            stop,
            asked,
            threads: vec![ask, send],
        }
    }

    /// How often the host was asked, and what failed: questions from outside, the host's own packets.
    fn end(self) -> (u64, Vec<u64>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("a count"));
        let failed = failed.collect();
        (self.asked.load(Ordering::Relaxed), failed)
    }
}

fn addresses(host: &Host, device: &str) -> Vec<String> {
    let shown = host.ip(&format!("-4 -o address show dev {device}"));
    let each = shown.lines().filter_map(|line| line.split_whitespace().nth(3));
    each.map(str::to_owned).collect()
}

/// Everything that the kernel tells of them, but for the seconds that are left.
fn as_shown(host: &Host) -> String {
    let addresses = host.ip("-4 address show dev brqblue");
    let seconds = |word: &str| word.ends_with("sec");
    let words: Vec<&str> = addresses
        .split_whitespace()
        .filter(|word| !seconds(word))
        .collect();
    format!("{}\n{}", words.join(" "), host.ip("-4 route show table all"))
}

#[test]
fn a_gateways_address_is_first_and_the_hosts_own_are_never_away() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, office) = (Host::here(), Host::new());
        host.join("nic1", &office, "eth0");
        host.ip("address add 192.0.2.7/24 brd + dev nic1");
        host.ip("address add 10.0.0.7/24 brd + dev nic1 label nic1:own valid_lft 3000 preferred_lft 2000");
        host.ip("address add 10.0.0.8/24 dev nic1");
        host.ip("route add default via 10.0.0.9 dev nic1 src 10.0.0.7 proto static metric 50");
        host.ip("route add 203.0.113.0/24 via 192.0.2.9 dev nic1 src 192.0.2.7 table 77");
        office.ip("address add 10.0.0.9/24 dev eth0");
        office.ip("address add 192.0.2.9/24 dev eth0");
        let without = "[daemon]\nprune_after = \"1s\"\n[taps]\nmatch = [\"tap*\"]\n\
             [physical_networks]\nphysnet1 = { interface = \"nic1\" }\n\
             [[network]]\nid = \"blue\"\nnetwork_type = \"flat\"\nphysical_network = \"physnet1\"\nprewarm = true\n";
        let with = format!(
            "{without}[network.gateway]\naddresses = [\"10.0.0.1/24\", \"10.0.1.1/24\"]\nsnat = true\n"
        );
        let daemon = host.daemon(without);
        let own = ["192.0.2.7/24", "10.0.0.7/24", "10.0.0.8/24"];
        wait_until("the addresses are on the bridge", SOON, || {
            addresses(&host, "brqblue") == own && addresses(&host, "nic1").is_empty()
        });
        daemon.wait_network("blue", "ready");
        wait_until("the host is reached", SOON, || reaches(&office, "10.0.0.7"));
        let before = as_shown(&host);
        let main = host.ip("-4 route show");
        serve(&host, "10.0.0.8:80");
        let mut flow = Flow::begin(&office, "10.0.0.8:80").expect("a flow");
        let watches = [
            Watch::begin(&host, &office, "10.0.0.7", "10.0.0.9"),
            Watch::begin(&host, &office, "192.0.2.7", "192.0.2.9"),
        ];
        for _ in 0..5 {
            daemon.reload(&with);
            wait_until("the gateway's address is first", SOON, || {
                addresses(&host, "brqblue") == ["10.0.0.1/24", "10.0.1.1/24", own[0], own[1], own[2]]
            });
            daemon.wait_network("blue", "ready");
            let now = host.ip("-4 route show");
            let more: Vec<&str> = now.lines().filter(|line| !main.contains(line)).collect();
            assert!(main.lines().all(|line| now.contains(line)), "{now}");
            assert_eq!(more.len(), 2, "{more:?}");
            assert!(host.ip("route get 10.0.0.9").contains("src 10.0.0.7"));
            assert!(flow.lives());
            let left = host.ip("-4 address show dev brqblue");
            let seconds = left.contains("valid_lft 3000sec") || left.contains("valid_lft 29");
            assert!(left.contains("nic1:own") && seconds, "{left}");
            daemon.assert_nothing_planned();
            daemon.reload(without);
            wait_until("it is gone", SOON, || addresses(&host, "brqblue") == own);
            wait_until("all is as before", SOON, || as_shown(&host) == before);
        }
        assert!(flow.lives());
        for watch in watches {
            let (asked, failed) = watch.end();
            assert!(asked > 1000, "asked {asked} times");
            assert_eq!(failed, [0, 0], "of {asked}");
        }
        // And back on the interface, when the network goes.
        daemon.reload(NOTHING);
        wait_until("the interface has them", SOON, || addresses(&host, "nic1") == own);
    });
}

#[test]
fn what_somebody_adds_in_the_gateways_subnet_stays_when_the_gateway_goes() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, _internet) = host_and_internet();
        host.ip("link add name br-ext type bridge");
        host.ip("link set br-ext up");
        let text = |gateway: &str| {
            format!(
                "[daemon]\nprune_after = \"1s\"\n[taps]\nmatch = [\"tap*\"]\n\
                 [physical_networks]\nphysnet1 = {{ bridge = \"br-ext\" }}\n\
                 [[network]]\nid = \"blue\"\nnetwork_type = \"flat\"\nphysical_network = \"physnet1\"\nprewarm = true\n{gateway}"
            )
        };
        let daemon = host.daemon(&text("[network.gateway]\naddresses = [\"10.0.0.1/24\"]\n"));
        wait_until("the gateway has its address", SOON, || {
            addresses(&host, "br-ext") == ["10.0.0.1/24"]
        });
        // The kernel makes them secondaries, and would take them along.
        host.ip("address add 10.0.0.7/24 dev br-ext");
        host.ip("address add 10.0.0.8/24 dev br-ext");
        host.ip("route add 203.0.113.0/24 via 10.0.0.9 dev br-ext src 10.0.0.7");
        daemon.reload(&text(""));
        wait_until("the gateway's is gone", SOON, || {
            addresses(&host, "br-ext") == ["10.0.0.7/24", "10.0.0.8/24"]
        });
        let routes = host.ip("-4 route show dev br-ext");
        let expected = ["10.0.0.0/24 proto kernel", "203.0.113.0/24 via 10.0.0.9"];
        assert!(expected.iter().all(|route| routes.contains(route)), "{routes}");
        assert_eq!(routes.lines().count(), 2, "{routes}");
    });
}

#[test]
fn machines_are_told_the_gateways_address_where_the_host_has_one_in_the_subnet() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Veth,
            Feature::Nat,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let (host, office) = (Host::here(), Host::new());
        host.join("nic1", &office, "eth0");
        host.ip("address add 10.0.0.7/24 dev nic1");
        let daemon = host.daemon(
            "[taps]\nmatch = [\"tap*\"]\n[physical_networks]\nphysnet1 = { interface = \"nic1\" }\n\
             [[network]]\nid = \"blue\"\nnetwork_type = \"flat\"\nphysical_network = \"physnet1\"\nprewarm = true\n\
             [network.gateway]\naddresses = [\"10.0.0.1/24\"]\n[network.dhcp]\ndns_servers = []\n\
             [[port]]\ntap = \"tap1\"\nnetwork = \"blue\"\nmac = \"52:54:00:00:00:05\"\naddresses = [\"10.0.0.5\"]\n",
        );
        wait_until("the gateway's address is first", SOON, || {
            addresses(&host, "brqblue") == ["10.0.0.1/24", "10.0.0.7/24"]
        });
        let guest = Guest::start(&host, "tap1", "52:54:00:00:00:05");
        daemon.wait_port("tap1", "attached");
        daemon.wait_network("blue", "ready");
        let lease = guest.wait_lease("10.0.0.5");
        for key in ["serverid", "router", "dns"] {
            assert_eq!(lease.get(key), Some("10.0.0.1"), "{key}");
        }
        assert!(guest.reaches("10.0.0.7") && guest.reaches("10.0.0.1"));
    });
}

#[test]
fn an_address_that_the_host_gets_later_stays_the_one_it_sends_from() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, office) = (Host::here(), Host::new());
        host.join("nic1", &office, "eth0");
        office.ip("address add 10.0.0.9/24 dev eth0");
        let daemon = host.daemon(
            "[daemon]\nprune_after = \"1s\"\n[taps]\nmatch = [\"tap*\"]\n\
             [physical_networks]\nphysnet1 = { interface = \"nic1\" }\n\
             [[network]]\nid = \"blue\"\nnetwork_type = \"flat\"\nphysical_network = \"physnet1\"\nprewarm = true\n\
             [network.gateway]\naddresses = [\"10.0.0.1/24\"]\n",
        );
        wait_until("the gateway has its address", SOON, || {
            addresses(&host, "brqblue") == ["10.0.0.1/24"]
        });
        wait_until("the bridge carries", SOON, || reaches(&host, "10.0.0.9"));
        host.ip("address add 10.0.0.7/24 brd + dev nic1");
        wait_until("it is moved", SOON, || {
            addresses(&host, "brqblue") == ["10.0.0.1/24", "10.0.0.7/24"]
                && addresses(&host, "nic1").is_empty()
        });
        wait_until("the host sends from it", SOON, || {
            host.ip("route get 10.0.0.9").contains("src 10.0.0.7")
        });
        assert!(reaches(&office, "10.0.0.7") && reaches(&office, "10.0.0.1"));
        daemon.assert_nothing_planned();
        daemon.reload(NOTHING);
        wait_until("the interface has it", SOON, || {
            addresses(&host, "nic1") == ["10.0.0.7/24"]
        });
        let route = "10.0.0.0/24 proto kernel scope link src 10.0.0.7";
        wait_until("and its route", SOON, || {
            host.ip("-4 route show dev nic1").trim() == route
        });
        wait_until("the bridge is gone", SOON, || host.link("brqblue").is_none());
    });
}
