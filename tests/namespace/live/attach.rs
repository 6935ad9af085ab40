//! What a port gets, and who is a port: names, kinds, MTU, states.

use super::{TWO_NETWORKS, bridge_option, detail, reason, two_networks_with_taps};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::observer::Change;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::time::Duration;

#[test]
fn a_tap_is_attached_to_a_bridge_as_the_contract_says() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        assert!(host.is_attached("tap0-1", "brqblue"));
        let bridge = host.link("brqblue").unwrap();
        assert!(host.is_up("brqblue"));
        assert_eq!(bridge_option(&host, "brqblue", "forward_delay"), 0);
        assert_eq!(bridge_option(&host, "brqblue", "stp_state"), 0);
        assert!(
            bridge["ifalias"].as_str().unwrap().contains("blue"),
            "the alias names the network: {bridge}"
        );
        assert_eq!(host.sysctl("ipv6/conf/brqblue/disable_ipv6"), "1");
        assert_eq!(host.sysctl("ipv6/conf/tap0-1/disable_ipv6"), "1");
        // NET_ADDR_SET: told, not made up by the kernel, hence kept whatever ports come.
        let assigned = std::fs::read_to_string("/sys/class/net/brqblue/addr_assign_type").unwrap();
        assert_eq!(assigned.trim(), "3");
        let port = daemon.port("tap0-1").unwrap();
        assert_eq!(port["ifindex"], tap.index().get());
        assert_eq!(
            (&port["network"], &port["bridge"], &port["state"]),
            (&"blue".into(), &"brqblue".into(), &"attached".into())
        );
        assert!(port["attach_us"].as_u64().unwrap() > 0);
        assert!(host.link("brqred").is_none(), "nobody needs red's bridge");
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_tap_costs_three_requests_however_many_are_there() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Ipv6);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let _first = host.tap("tap0-first");
        daemon.wait_port("tap0-first", "attached");
        let made = daemon.counter("ops");
        let _taps = host.taps("tap0-", 50);
        daemon.wait_port("tap0-49", "attached");
        // IPv6 off, master, up; nothing is read again.
        assert_eq!(daemon.counter("ops") - made, 3 * 50);
        assert_eq!(daemon.counter("resyncs"), 0);
    });
}

#[test]
fn a_bridge_keeps_its_address_and_mtu_whatever_ports_come_and_go() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(&TWO_NETWORKS.replacen(
            "network_type = \"local\"",
            "network_type = \"local\"\nmtu = 9000",
            1,
        ));
        let first = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        let before = host.link("brqblue").unwrap();
        assert_eq!(before["mtu"], 9000);
        let observer = host.observer();
        let mut others = host.taps("tap0-x", 4);
        host.run("ip link set tap0-x3 mtu 1400");
        for tap in &others {
            daemon.wait_port(&tap.name().to_string(), "attached");
        }
        assert!(others.iter().all(|tap| {
            detail(&host, &tap.name().to_string(), "mtu") == 9000
                && host.is_attached(&tap.name().to_string(), "brqblue")
        }));
        drop(first);
        others.truncate(1);
        wait_until("the gone taps are forgotten", Duration::from_secs(5), || {
            daemon.json(&["port", "list"]).as_array().unwrap().len() == 1
        });
        let after = host.link("brqblue").unwrap();
        assert_eq!(
            (&before["address"], &before["mtu"]),
            (&after["address"], &after["mtu"])
        );
        let index = before["ifindex"].as_u64().unwrap();
        assert!(
            observer
                .take()
                .iter()
                .filter(|event| u64::from(event.index) == index)
                .all(|event| event.change == Change::New),
            "the bridge itself was never made anew"
        );
    });
}

#[test]
fn no_ipv6_address_is_ever_on_a_tap_or_its_bridge() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Ipv6);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let _taps = host.taps("tap0-", 3);
        for name in ["tap0-0", "tap0-1", "tap0-2"] {
            daemon.wait_port(name, "attached");
        }
        let addresses = host.ip_json("-6 address show");
        for link in addresses.as_array().unwrap() {
            let name = link["ifname"].as_str().unwrap_or("lo");
            assert_eq!(name, "lo", "{link}");
        }
    });
}

#[test]
fn a_tap_without_mapping_waits_and_is_attached_when_the_mapping_comes() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let _tap = host.tap("tap9");
        daemon.wait_port("tap9", "pending");
        assert_eq!(reason(&daemon, "tap9"), "no mapping names this tap");
        assert!(!host.is_up("tap9") && host.master("tap9").is_none());
        daemon.json(&["port", "bind", "tap9", "blue"]);
        daemon.wait_port("tap9", "attached");
        assert!(host.is_attached("tap9", "brqblue"));
    });
}

#[test]
fn a_mapping_told_first_attaches_the_tap_when_it_comes() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let port = "0f3a9c6e-1b22-4f5d-8d7e-aa0102030405";
        daemon.json(&["port", "bind", port, "red"]);
        let _tap = host.tap("tap0f3a9c6e-1b");
        daemon.wait_port("tap0f3a9c6e-1b", "attached");
        assert!(host.is_attached("tap0f3a9c6e-1b", "brqred"));
        assert_eq!(daemon.port("tap0f3a9c6e-1b").unwrap()["port"], port);
    });
}

#[test]
fn devices_of_other_kinds_with_a_taps_name_are_left_alone() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        host.ip("link add tap0-veth type veth peer name other");
        host.ip("tuntap add dev tap0-tun mode tun");
        host.ip("link add tap0-br type bridge");
        let _tap = host.tap("tap0-real");
        daemon.wait_port("tap0-real", "attached");
        for name in ["tap0-veth", "tap0-tun", "tap0-br"] {
            assert!(host.master(name).is_none() && !host.is_up(name), "{name}");
            assert!(daemon.port(name).is_none(), "{name} is not listed");
        }
    });
}

#[test]
fn other_kinds_are_taken_when_the_configuration_names_them() {
    in_namespace(|| {
        require!(Feature::Veth);
        let host = Host::here();
        let daemon = host.daemon(&two_networks_with_taps("other_kinds = [\"veth\"]"));
        host.ip("link add tap0-veth type veth peer name other");
        daemon.wait_port("tap0-veth", "attached");
        assert!(host.is_attached("tap0-veth", "brqblue"));
        assert!(host.master("other").is_none());
    });
}

#[test]
fn unusual_names_are_matched_byte_by_byte() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        // 15 bytes, a dot, two bytes a letter, and what a shell would not like.
        let names = ["tap0-abcdefghij", "tap0-a.b", "tap0-äöü", "tap0-$(x);'\""];
        let taps: Vec<_> = names.iter().map(|name| host.tap(name)).collect();
        for (name, tap) in names.iter().zip(&taps) {
            daemon.wait_port(name, "attached");
            assert_eq!(daemon.port(name).unwrap()["ifindex"], tap.index().get());
            assert!(host.is_attached(name, "brqblue"), "{name}");
        }
        daemon.assert_nothing_planned();
        daemon.json(&["resync"]);
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_hundred_alternative_names_do_not_hide_a_tap() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let _tap = host.tap("foreign");
        for hundred in 0..4 {
            let names: String = (0..25)
                .map(|n| format!(" altname {:x<118}", format!("a{hundred}{n:02}-")))
                .collect();
            host.ip(&format!("link property add dev foreign{names}"));
        }
        host.rename("foreign", "tap0-7");
        daemon.wait_port("tap0-7", "attached");
        assert_eq!(daemon.counter("decode_errors"), 0);
    });
}

#[test]
fn a_tap_made_and_deleted_at_once_leaves_nothing_behind() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let _canary = host.tap("tap0-canary");
        daemon.wait_port("tap0-canary", "attached");
        for round in 0..150 {
            drop(host.tap(&format!("tap{}-{}", round % 2, round % 7)));
        }
        let _last = host.tap("tap1-last");
        daemon.wait_port("tap1-last", "attached");
        wait_until("only what exists is listed", Duration::from_secs(5), || {
            daemon.json(&["port", "list"]).as_array().unwrap().len() == 2
        });
        assert!(host.is_attached("tap0-canary", "brqblue"));
        daemon.assert_nothing_planned();
        let failed = daemon.log_text().matches("operation failed").count();
        assert_eq!(failed, 0, "a vanished tap is no failure:\n{}", daemon.log_text());
    });
}

#[test]
fn the_same_name_made_again_at_once_is_attached_anew() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let mut tap = host.tap("tap0-1");
        for _ in 0..10 {
            drop(tap);
            tap = host.tap("tap0-1");
        }
        let index = tap.index().get();
        wait_until("the newest one is attached", Duration::from_secs(5), || {
            daemon
                .port("tap0-1")
                .is_some_and(|port| port["ifindex"] == index && port["state"] == "attached")
        });
        assert!(host.is_attached("tap0-1", "brqblue"));
        assert_eq!(daemon.json(&["port", "list"]).as_array().unwrap().len(), 1);
    });
}

#[test]
fn an_index_that_another_device_takes_over_is_another_tap() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let host = Host::here();
        let daemon = host.daemon(&two_networks_with_taps("other_kinds = [\"veth\"]"));
        let tap = host.tap("tap0-1");
        let index = tap.index().get();
        daemon.wait_port("tap0-1", "attached");
        // The daemon sees the end of the one and the beginning of the other in one go.
        daemon.signal(libc::SIGSTOP);
        drop(tap);
        host.ip(&format!(
            "link add tap1-1 index {index} type veth peer name other"
        ));
        daemon.signal(libc::SIGCONT);
        daemon.wait_port("tap1-1", "attached");
        assert!(host.is_attached("tap1-1", "brqred"));
        let ports = daemon.json(&["port", "list"]);
        assert_eq!(ports.as_array().unwrap().len(), 1, "{ports}");
        assert_eq!(ports[0]["ifindex"], index);
    });
}

#[test]
fn a_rename_moves_a_tap_in_and_out_of_what_the_mapping_says() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let _tap = host.tap("foo");
        host.ip("link set foo up");
        host.rename("foo", "tap0-7");
        daemon.wait_port("tap0-7", "attached");
        let observer = host.observer();
        host.rename("tap0-7", "tap1-7");
        daemon.wait_port("tap1-7", "attached");
        host.wait_attached("tap1-7", "brqred");
        assert_eq!(observer.count(Change::Released), 1, "moved once");
        assert_eq!(daemon.json(&["port", "list"]).as_array().unwrap().len(), 1);
        host.rename("tap1-7", "foo");
        wait_until(
            "a name that nobody maps is not listed",
            Duration::from_secs(5),
            || daemon.json(&["port", "list"]).as_array().unwrap().is_empty(),
        );
        assert_eq!(host.master("foo").as_deref(), Some("brqred"), "left where it is");
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_tap_moved_to_another_namespace_is_forgotten_and_comes_back() {
    in_namespace(|| {
        require!(Feature::Tap);
        let (host, other) = (Host::here(), Host::new());
        let daemon = host.daemon(TWO_NETWORKS);
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        host.send("tap0-1", &other);
        wait_until("it is not listed any more", Duration::from_secs(5), || {
            daemon.port("tap0-1").is_none()
        });
        assert!(other.link("tap0-1").is_some());
        other.send("tap0-1", &host);
        daemon.wait_port("tap0-1", "attached");
        assert!(host.is_attached("tap0-1", "brqblue"));
    });
}

#[test]
fn an_admin_down_port_is_attached_and_stays_down() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let down = TWO_NETWORKS.replacen(
            "network = \"blue\"",
            "network = \"blue\"\nadmin_state_up = false",
            1,
        );
        let daemon = host.daemon(&down);
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(host.master("tap0-1").as_deref(), Some("brqblue"));
        assert!(!host.is_up("tap0-1"));
        daemon.reload(TWO_NETWORKS);
        wait_until("it is set up", Duration::from_secs(5), || host.is_up("tap0-1"));
        daemon.reload(&down);
        wait_until("it is set down", Duration::from_secs(5), || !host.is_up("tap0-1"));
        assert_eq!(host.master("tap0-1").as_deref(), Some("brqblue"));
    });
}

#[test]
fn a_tap_that_its_creator_wired_right_is_not_touched() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let _first = host.tap("tap0-first");
        daemon.wait_port("tap0-first", "attached");
        // libvirt's order: everything is done before anybody could look.
        daemon.signal(libc::SIGSTOP);
        let _tap = host.tap("tap0-1");
        std::fs::write("/proc/sys/net/ipv6/conf/tap0-1/disable_ipv6", "1").unwrap();
        host.ip("link set tap0-1 address fe:16:3e:00:00:01");
        host.ip("link set tap0-1 master brqblue");
        host.ip("link set tap0-1 up");
        let observer = host.observer();
        daemon.signal(libc::SIGCONT);
        daemon.wait_port("tap0-1", "attached");
        let index = super::index(&host, "tap0-1");
        let events = observer.take();
        assert!(
            !events.iter().any(|event| u64::from(event.index) == index),
            "{events:?}"
        );
    });
}

#[test]
fn a_full_bridge_fails_one_tap_with_the_kernels_words_and_takes_it_when_there_is_room() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        // 1,023 ports are the kernel's limit.
        (1..1023).for_each(|n| host.lasting_tap(&format!("tap0-{n}")));
        let first = host.tap("tap0-0");
        let daemon = host.daemon(TWO_NETWORKS);
        assert_eq!(host.attached("brqblue"), 1023);
        let _late = host.tap("tap0-late");
        let _other = host.tap("tap1-other");
        daemon.wait_port("tap0-late", "failed");
        daemon.wait_port("tap1-other", "attached");
        let reason = reason(&daemon, "tap0-late");
        assert!(reason.contains("Exchange full"), "{reason}");
        let cause = super::explain::conclusion(&daemon, "tap0-late");
        assert!(
            cause.starts_with("failed: bridge brqblue has all the 1,023 ports")
                || cause.contains("1,023 ports"),
            "{cause}"
        );
        assert!(!host.is_up("tap0-late"), "nobody's port and up is a leak");
        drop(first);
        daemon.wait_port("tap0-late", "attached");
        assert!(host.is_attached("tap0-late", "brqblue"));
    });
}

#[test]
fn an_mtu_that_the_device_refuses_does_not_keep_it_from_its_network() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(&TWO_NETWORKS.replacen(
            "network_type = \"local\"",
            "network_type = \"local\"\nmtu = 65535",
            1,
        ));
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        let port = daemon.port("tap0-1").unwrap();
        let refused = port["reason"].as_str().unwrap_or_default();
        assert!(
            detail(&host, "tap0-1", "mtu") == 65535 || refused.contains("refused mtu 65535"),
            "{port}"
        );
        assert!(host.is_attached("tap0-1", "brqblue"));
    });
}

#[test]
fn the_first_tap_of_a_network_needs_no_second_event() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        // Only the kernel is asked: a command would wake the daemon.
        for round in 0..2 {
            let name = format!("tap{round}-1");
            let _tap = host.tap(&name);
            host.wait_attached(&name, ["brqblue", "brqred"][round]);
        }
        drop(daemon);
    });
}
