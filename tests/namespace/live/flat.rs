//! Flat networks: the host's own interface with its addresses and routes becomes a port, and comes back as it was.

use super::{detail, reason};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

const FLAT: &str = r#"
[daemon]
prune_after = "1s"
[taps]
match = ["tap*"]
[physical_networks]
physnet1 = { interface = "nic0" }
[[network]]
id = "flat"
network_type = "flat"
physical_network = "physnet1"
[[network]]
id = "local"
network_type = "local"
[[port]]
tap = "tap0-*"
network = "flat"
[[port]]
tap = "tap1-*"
network = "local"
"#;

/// `nic0` with what a host may have on it, and a neighbour at the other end of the cable.
fn host_with_nic() -> (Host, Host) {
    let (host, neighbour) = (Host::here(), Host::new());
    host.join("nic0", &neighbour, "eth0");
    neighbour.ip("address add 198.51.100.1/24 dev eth0");
    neighbour.ip("address add 2001:db8::1/64 dev eth0 nodad");
    for address in [
        "198.51.100.7/24 brd + dev nic0 label nic0:web",
        "198.51.100.8/24 brd + dev nic0",
        "198.51.101.5/24 brd + dev nic0 valid_lft 3650 preferred_lft 1850 noprefixroute",
        "203.0.113.9/24 dev nic0 metric 512",
        "10.9.9.1 peer 10.9.9.2/32 dev nic0 scope link",
        "2001:db8::7/64 dev nic0 nodad",
        "2001:db8:1::7/64 dev nic0 nodad noprefixroute valid_lft 3650 preferred_lft 1850",
        "fe80::7/64 dev nic0 nodad",
    ] {
        host.ip(&format!("address add {address}"));
    }
    for route in [
        "default via 198.51.100.1 dev nic0 proto dhcp metric 100",
        "default via 198.51.100.2 dev nic0 metric 200",
        "10.1.0.0/16 via 198.51.100.1 dev nic0 proto static",
        "10.2.0.0/16 dev nic0 scope link src 198.51.100.8 table 100",
        "10.3.0.0/16 via 192.0.2.77 dev nic0 onlink table 200 mtu lock 1400",
        "10.4.0.0/16 table 100 nexthop via 198.51.100.1 dev nic0 weight 2 nexthop via 198.51.100.3 dev nic0",
        "10.5.0.0/16 via 198.51.100.1 dev nic0 tos 0x10 initcwnd 20",
        "-6 default via 2001:db8::1 dev nic0 metric 512 pref high",
        "-6 2001:db8:f::/48 via 2001:db8::1 dev nic0 table 300 expires 3650",
        "-6 2001:db8:e::/48 dev nic0 proto static metric 77",
    ] {
        let (family, route) = route
            .strip_prefix("-6 ")
            .map_or(("", route), |rest| ("-6 ", rest));
        host.ip(&format!("{family}route add {route}"));
    }
    host.ip("rule add from 198.51.100.8 table 100");
    (host, neighbour)
}

/// What a device carries, in a form that can be compared: sorted, the device's name and the seconds of lifetimes
/// (rounded down to hundreds) left out.
fn carried(host: &Host, device: &str) -> Vec<String> {
    let addresses = host.ip(&format!("-d address show dev {device}"));
    let mut lines: Vec<String> = Vec::new();
    let mut address: Option<String> = None;
    for line in addresses.lines().map(str::trim) {
        if line.starts_with("inet") {
            address = Some(line.to_owned());
        } else if line.starts_with("valid_lft")
            && let Some(address) = address.take()
        {
            lines.push(format!("{address} {line}"));
        }
    }
    for family in ["-4", "-6"] {
        let routes = host.ip(&format!("-d {family} route show table all"));
        let mut lead = String::new();
        for line in routes.lines() {
            if line.starts_with(char::is_whitespace) {
                // A next hop of several.
                lead = format!("{lead} / {}", line.trim());
                lines.pop_if(|last| lead.starts_with(last.as_str()));
            } else {
                lead = line.to_owned();
            }
            lines.push(lead.clone());
        }
    }
    let mut lines: Vec<String> = lines
        .into_iter()
        .filter(|line| line.starts_with("inet") || names_device(line, device))
        .filter(|line| !line.contains("table local") && !line.contains("ff00::/8"))
        .map(|line| comparable(&line, device))
        .collect();
    lines.sort();
    lines
}

fn names_device(line: &str, device: &str) -> bool {
    let words: Vec<_> = line.split_whitespace().collect();
    words.windows(2).any(|pair| pair == ["dev", device])
}

fn comparable(line: &str, device: &str) -> String {
    let words = line
        .split_whitespace()
        .filter(|word| !matches!(*word, "linkdown" | "tentative"));
    let words: Vec<String> = words
        .map(|word| match word.strip_suffix("sec").map(str::parse::<u64>) {
            Some(Ok(seconds)) => format!("{}sec", seconds / 100 * 100),
            _ if word == device => "DEVICE".to_owned(),
            _ => word.to_owned(),
        })
        .collect();
    words.join(" ")
}

/// The kernel's own link-local address of a device comes and goes with IPv6 itself.
fn without_link_local(lines: &[String]) -> Vec<String> {
    let own = |line: &&String| !line.contains("fe80::") || line.contains("fe80::7/64");
    lines.iter().filter(own).cloned().collect()
}

#[test]
fn addresses_and_routes_move_to_the_bridge_and_come_back_as_they_were() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Ipv6);
        let (host, _neighbour) = host_with_nic();
        let before = carried(&host, "nic0");
        assert!(before.len() > 18, "{before:#?}");
        let nic = host.link("nic0").unwrap();
        let daemon = host.daemon(FLAT);
        assert_eq!(carried(&host, "nic0"), before, "nobody needs the network yet");
        let tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(host.master("nic0").as_deref(), Some("brqflat"));
        assert_eq!(
            without_link_local(&carried(&host, "brqflat")),
            without_link_local(&before)
        );
        assert_eq!(without_link_local(&carried(&host, "nic0")), Vec::<String>::new());
        assert_eq!(detail(&host, "brqflat", "address"), nic["address"]);
        assert_eq!(host.sysctl("ipv6/conf/nic0/disable_ipv6"), "1");
        assert_eq!(host.sysctl("ipv6/conf/brqflat/disable_ipv6"), "0");
        daemon.assert_nothing_planned();
        drop(tap);
        wait_until("the bridge is gone", SOON, || host.link("brqflat").is_none());
        wait_until("everything is back", SOON, || carried(&host, "nic0") == before);
        assert!(host.master("nic0").is_none());
        assert!(host.is_up("nic0"));
        let after = host.link("nic0").unwrap();
        assert_eq!((&after["mtu"], &after["address"]), (&nic["mtu"], &nic["address"]));
    });
}

#[test]
fn the_second_round_moves_the_same_things_as_the_first() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Ipv6);
        let (host, _neighbour) = host_with_nic();
        let before = carried(&host, "nic0");
        let daemon = host.daemon(FLAT);
        for _ in 0..3 {
            let tap = host.tap("tap0-1");
            daemon.wait_port("tap0-1", "attached");
            drop(tap);
            wait_until("the bridge is gone", SOON, || host.link("brqflat").is_none());
        }
        wait_until("everything is back", SOON, || carried(&host, "nic0") == before);
    });
}

#[test]
fn the_host_answers_at_every_moment_of_the_move() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, neighbour) = host_with_nic();
        let daemon = host.daemon(FLAT);
        let stop = AtomicBool::new(false);
        let begin = Instant::now();
        let echo = host.within(|| UdpSocket::bind("198.51.100.7:7007")).unwrap();
        let asker = neighbour.within(|| UdpSocket::bind("198.51.100.1:0")).unwrap();
        asker.connect("198.51.100.7:7007").unwrap();
        echo.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        asker.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (asked, lost) = thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 16];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = echo.recv_from(&mut buffer) {
                        let _ = echo.send_to(&buffer[..length], from);
                    }
                }
            });
            let asking = scope.spawn(|| {
                let (mut asked, mut lost) = (0_u64, Vec::new());
                let mut buffer = [0; 16];
                while !stop.load(Ordering::Relaxed) {
                    asked += 1;
                    let number = asked.to_ne_bytes();
                    let sent = asker.send(&number).is_ok();
                    let answered = sent
                        && asker
                            .recv(&mut buffer)
                            .is_ok_and(|length| buffer[..length] == number);
                    if !answered {
                        lost.push(begin.elapsed());
                    }
                    // A late answer to the previous question is no answer to the next.
                    if !answered {
                        asker.set_nonblocking(true).unwrap();
                        while asker.recv(&mut buffer).is_ok() {}
                        asker.set_nonblocking(false).unwrap();
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                (asked, lost)
            });
            let tap = host.tap("tap0-1");
            daemon.wait_port("tap0-1", "attached");
            drop(tap);
            wait_until("the bridge is gone", SOON, || host.link("brqflat").is_none());
            stop.store(true, Ordering::Relaxed);
            asking.join().unwrap()
        });
        assert!(asked > 200, "{asked}");
        assert!(
            lost.len() <= 2,
            "of {asked} questions those asked at {lost:?} had no answer within 50 ms"
        );
    });
}

#[test]
fn a_route_with_a_nexthop_object_is_refused_and_nothing_is_changed() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, _neighbour) = host_with_nic();
        host.ip("nexthop add id 5 via 198.51.100.1 dev nic0");
        host.ip("route add 10.7.0.0/16 nhid 5");
        let before = carried(&host, "nic0");
        let daemon = host.daemon(FLAT);
        let _taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap1-1", "attached");
        daemon.wait_port("tap0-1", "failed");
        let text = reason(&daemon, "tap0-1");
        assert!(text.contains("nexthop object 5"), "{text}");
        assert_eq!(daemon.network("flat")["state"], "failed");
        assert!(host.master("nic0").is_none());
        assert_eq!(carried(&host, "nic0"), before);
        host.ip("route delete 10.7.0.0/16");
        host.ip("nexthop delete id 5");
        daemon.json(&["resync"]);
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(host.master("nic0").as_deref(), Some("brqflat"));
    });
}

#[test]
fn a_daemon_killed_after_the_move_knows_where_the_addresses_belong() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Ipv6);
        let (host, _neighbour) = host_with_nic();
        let before = carried(&host, "nic0");
        let mut daemon = host.daemon(FLAT);
        let tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        daemon.kill();
        drop(tap);
        daemon.start();
        daemon.wait_in_sync();
        wait_until("the bridge is gone", SOON, || host.link("brqflat").is_none());
        wait_until("everything is back", SOON, || carried(&host, "nic0") == before);
    });
}

#[test]
fn an_address_that_comes_later_ends_on_the_bridge_and_goes_back_with_the_others() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, _neighbour) = host_with_nic();
        let daemon = host.daemon(FLAT);
        let tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        host.ip("address add 198.51.100.70/24 dev nic0");
        let has =
            |device: &str, address: &str| host.ip(&format!("address show dev {device}")).contains(address);
        wait_until("it is on the bridge", SOON, || {
            has("brqflat", "198.51.100.70/24") && !has("nic0", "198.51.100.70/24")
        });
        host.ip("address add 198.51.100.71/24 dev brqflat");
        drop(tap);
        wait_until("the bridge is gone", SOON, || host.link("brqflat").is_none());
        assert!(has("nic0", "198.51.100.70/24"));
        assert!(
            has("nic0", "198.51.100.71/24"),
            "somebody's address is not destroyed"
        );
    });
}

#[test]
fn an_interface_that_is_not_there_is_waited_for_and_one_that_goes_comes_back() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, neighbour) = (Host::here(), Host::new());
        let daemon = host.daemon(FLAT);
        let _taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap1-1", "attached");
        daemon.wait_port("tap0-1", "pending");
        let text = reason(&daemon, "tap0-1");
        assert!(text.contains("waits for interface nic0"), "{text}");
        assert_eq!(daemon.network("flat")["state"], "pending");
        // udev's way: another name first.
        host.join("eth9", &neighbour, "eth0");
        host.rename("eth9", "nic0");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(host.master("nic0").as_deref(), Some("brqflat"));
        host.ip("link delete nic0");
        wait_until("the network waits again", SOON, || {
            daemon.network("flat")["state"] == "pending"
        });
        assert!(host.is_attached("tap0-1", "brqflat"), "guests keep each other");
        host.join("nic0", &neighbour, "eth0");
        wait_until("it is a port again", SOON, || {
            host.master("nic0").as_deref() == Some("brqflat")
        });
        daemon.wait_network("flat", "ready");
        assert!(host.is_up("nic0"));
    });
}

#[test]
fn an_interface_in_a_foreign_bridge_is_a_conflict_unless_told() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, neighbour) = (Host::here(), Host::new());
        host.join("nic0", &neighbour, "eth0");
        host.ip("link add br-other type bridge");
        host.ip("link set nic0 master br-other");
        let daemon = host.daemon(FLAT);
        let _tap = host.tap("tap0-1");
        daemon.wait_network("flat", "conflict");
        daemon.wait_port("tap0-1", "pending");
        let text = reason(&daemon, "tap0-1");
        assert!(
            text.contains("br-other") && text.contains("adopt = true"),
            "{text}"
        );
        assert_eq!(host.master("nic0").as_deref(), Some("br-other"));
        daemon.reload(&FLAT.replace("interface = \"nic0\"", "interface = \"nic0\", adopt = true"));
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(host.master("nic0").as_deref(), Some("brqflat"));
    });
}

#[test]
fn a_flat_network_on_an_existing_bridge_uses_it_as_it_is() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, neighbour) = (Host::here(), Host::new());
        let daemon = host.daemon(&FLAT.replace("interface = \"nic0\"", "bridge = \"br-ext\""));
        let tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "pending");
        let text = reason(&daemon, "tap0-1");
        assert!(text.contains("waits for bridge br-ext"), "{text}");
        host.join("nic0", &neighbour, "eth0");
        host.ip("link add br-ext type bridge forward_delay 400 mcast_snooping 0");
        host.ip("link set nic0 master br-ext");
        host.ip("address add 198.51.100.7/24 dev br-ext");
        daemon.wait_port("tap0-1", "attached");
        assert!(host.is_attached("tap0-1", "br-ext"));
        let bridge = host.link("br-ext").unwrap();
        assert_eq!(bridge["linkinfo"]["info_data"]["forward_delay"], 400);
        assert!(
            bridge["ifalias"].is_null(),
            "the operator's bridge is not marked: {bridge}"
        );
        assert!(host.is_up("br-ext"));
        drop(tap);
        // Longer than prune_after: a later tap's network proves that the pruning had its chance.
        let later = host.tap("tap1-1");
        daemon.wait_port("tap1-1", "attached");
        drop(later);
        wait_until("the local network's bridge is pruned", SOON, || {
            host.link("brqlocal").is_none()
        });
        assert!(host.link("br-ext").is_some(), "not ours to delete");
        assert!(host.ip("address show dev br-ext").contains("198.51.100.7/24"));
    });
}

#[test]
fn an_interface_that_is_down_is_set_up() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, neighbour) = (Host::here(), Host::new());
        host.join("nic0", &neighbour, "eth0");
        host.ip("link set nic0 down");
        let daemon = host.daemon(FLAT);
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        assert!(host.is_attached("nic0", "brqflat"));
        host.ip("link set nic0 down");
        wait_until("it is up again", SOON, || host.is_up("nic0"));
    });
}

#[test]
fn addresses_stay_with_the_bridge_while_a_guest_is_on_it_and_never_go_to_the_guest() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, neighbour) = (Host::here(), Host::new());
        host.join("nic0", &neighbour, "eth0");
        host.ip("address add 198.51.100.7/24 dev nic0");
        host.ip("route add default via 198.51.100.1 dev nic0 metric 50");
        let daemon = host.daemon(FLAT);
        let (tap, local) = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap1-1", "attached");
        // Mapped by nobody, put there by hand. First by name and by index of its bridge's ports after `tap0-1` is gone.
        let _guest = host.tap("guest");
        host.ip("link set guest master brqflat up");
        drop((tap, local));
        wait_until("the local network's bridge is pruned", SOON, || {
            host.link("brqlocal").is_none()
        });
        assert!(host.is_attached("guest", "brqflat") && host.is_attached("nic0", "brqflat"));
        let on = |link: &str| {
            host.ip(&format!("address show dev {link}"))
                .contains("198.51.100.7/24")
        };
        assert!(on("brqflat") && !on("guest") && !on("nic0"));
        host.ip("link set guest nomaster");
        wait_until("the bridge is gone", SOON, || host.link("brqflat").is_none());
        assert!(on("nic0") && !on("guest"));
        assert!(
            host.ip("route show default")
                .contains("via 198.51.100.1 dev nic0 metric 50")
        );
        assert!(host.link("guest").is_some(), "guests' taps are never deleted");
    });
}

#[test]
fn a_move_that_the_kernel_refuses_half_way_is_taken_back() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Ipv6);
        let (host, _neighbour) = host_with_nic();
        // A gateway that was on the link when its route was made and is no more: the kernel keeps the route, but takes
        // no second one like it.
        host.ip("route add 192.0.2.0/24 dev nic0");
        host.ip("route add 10.8.0.0/16 via 192.0.2.9 dev nic0");
        host.ip("route delete 192.0.2.0/24 dev nic0");
        let before = carried(&host, "nic0");
        let daemon = host.daemon(FLAT);
        let _taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap0-1", "failed");
        daemon.wait_port("tap1-1", "attached");
        let text = reason(&daemon, "tap0-1");
        assert!(text.contains("gateway") && text.contains("10.8.0.0/16"), "{text}");
        assert!(host.master("nic0").is_none());
        assert_eq!(carried(&host, "nic0"), before);
        assert_eq!(
            without_link_local(&carried(&host, "brqflat")),
            Vec::<String>::new()
        );
        host.ip("route delete 10.8.0.0/16 via 192.0.2.9");
        daemon.json(&["resync"]);
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(host.master("nic0").as_deref(), Some("brqflat"));
    });
}

#[test]
fn an_interface_that_no_bridge_takes_keeps_what_it_has() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        host.ip("tuntap add dev nic0 mode tun");
        host.ip("link set nic0 up");
        host.ip("address add 198.51.100.7/24 dev nic0");
        host.ip("route add 10.1.0.0/16 dev nic0");
        let before = carried(&host, "nic0");
        let daemon = host.daemon(FLAT);
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "failed");
        let text = reason(&daemon, "tap0-1");
        assert!(text.contains("nic0 master brqflat"), "{text}");
        assert_eq!(carried(&host, "nic0"), before);
        assert!(host.master("nic0").is_none() && host.is_up("nic0"));
    });
}

#[test]
fn a_deleted_bridge_is_back_with_its_interface_at_once() {
    in_namespace(|| {
        require!(Feature::Veth);
        let (host, neighbour) = (Host::here(), Host::new());
        host.join("nic0", &neighbour, "eth0");
        let daemon = host.daemon(&FLAT.replace(
            "network_type = \"flat\"\n",
            "network_type = \"flat\"\nprewarm = true\n",
        ));
        // Between the moment when the kernel unlists a bridge and the one when it tells so it refuses ports in another way
        // than before and after.
        for _ in 0..6 {
            daemon.wait_network("flat", "ready");
            let old = host.link("brqflat").expect("a bridge")["ifindex"].clone();
            host.ip("link del brqflat");
            wait_until("the bridge is there again, with its interface", SOON, || {
                let new = host.link("brqflat").is_some_and(|link| link["ifindex"] != old);
                new && host.master("nic0").as_deref() == Some("brqflat")
            });
        }
        assert_eq!(daemon.counter("resyncs"), 0);
    });
}
