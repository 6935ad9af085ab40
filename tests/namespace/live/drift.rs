//! What others do to ports and bridges, and what becomes of it.

use super::{TWO_NETWORKS, bridge_option, detail, index, reason, two_networks_with_taps};
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::observer::Change;
use crate::support::wait::wait_until;
use crate::support::world::{in_namespace, slowness};
use std::time::{Duration, Instant};
use tapwire::kernel::tuntap::Tap;

const SOON: Duration = Duration::from_secs(10);

/// A daemon with `tap0-1` attached to blue and `tap1-1` to red.
fn two_ports(host: &Host, configuration: &str) -> (Daemon, [Tap; 2]) {
    let daemon = host.daemon(configuration);
    let taps = [host.tap("tap0-1"), host.tap("tap1-1")];
    daemon.wait_port("tap0-1", "attached");
    daemon.wait_port("tap1-1", "attached");
    (daemon, taps)
}

#[test]
fn a_port_detached_by_hand_is_attached_again_once() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let (daemon, _taps) = two_ports(&host, TWO_NETWORKS);
        let observer = host.observer();
        host.ip("link set tap0-1 nomaster");
        host.wait_attached("tap0-1", "brqblue");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(observer.count(Change::Released), 1);
        assert!(host.is_attached("tap1-1", "brqred"));
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_port_on_the_wrong_bridge_of_ours_is_moved_back() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let (daemon, _taps) = two_ports(&host, TWO_NETWORKS);
        host.ip("link set tap0-1 master brqred");
        host.wait_attached("tap0-1", "brqblue");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(host.attached("brqred"), 1);
    });
}

#[test]
fn a_port_on_a_foreign_bridge_is_a_conflict_until_it_is_let_go() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        host.ip("link add virbr0 type bridge");
        let _early = host.tap("tap0-early");
        host.ip("link set tap0-early master virbr0");
        let (daemon, _taps) = two_ports(&host, TWO_NETWORKS);
        host.ip("link set tap0-1 master virbr0");
        for tap in ["tap0-early", "tap0-1"] {
            daemon.wait_port(tap, "conflict");
            let reason = reason(&daemon, tap);
            assert!(reason.contains("virbr0") && reason.contains("adopt"), "{reason}");
            assert_eq!(host.master(tap).as_deref(), Some("virbr0"), "not stolen");
            assert_eq!(daemon.port(tap).unwrap()["bridge"], "virbr0");
        }
        daemon.assert_nothing_planned();
        for tap in ["tap0-early", "tap0-1"] {
            host.ip(&format!("link set {tap} nomaster"));
            host.wait_attached(tap, "brqblue");
            daemon.wait_port(tap, "attached");
        }
    });
}

#[test]
fn with_adopt_a_port_on_a_foreign_bridge_is_taken() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        host.ip("link add virbr0 type bridge");
        let _early = host.tap("tap0-early");
        host.ip("link set tap0-early master virbr0");
        let (daemon, _taps) = two_ports(&host, &two_networks_with_taps("adopt = true"));
        daemon.wait_port("tap0-early", "attached");
        assert!(host.is_attached("tap0-early", "brqblue"));
        host.ip("link set tap0-1 master virbr0");
        host.wait_attached("tap0-1", "brqblue");
        assert!(host.link("virbr0").is_some());
    });
}

#[test]
fn an_mtu_changed_by_hand_is_set_back_where_the_network_has_one() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let with_mtu = TWO_NETWORKS.replacen(
            "network_type = \"local\"",
            "network_type = \"local\"\nmtu = 1400",
            1,
        );
        let (_daemon, _taps) = two_ports(&host, &with_mtu);
        assert_eq!(detail(&host, "tap0-1", "mtu"), 1400);
        for link in ["tap0-1", "brqblue"] {
            host.ip(&format!("link set {link} mtu 1280"));
            wait_until("the MTU is back", SOON, || detail(&host, link, "mtu") == 1400);
        }
    });
}

#[test]
fn a_changed_network_mtu_reaches_bridge_and_taps() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let with = |mtu: u32| {
            let line = format!("network_type = \"local\"\nmtu = {mtu}");
            TWO_NETWORKS.replacen("network_type = \"local\"", &line, 1)
        };
        let (daemon, _taps) = two_ports(&host, &with(1400));
        let observer = host.observer();
        for mtu in [9000, 1300] {
            daemon.reload(&with(mtu));
            wait_until("bridge and tap have it", SOON, || {
                detail(&host, "brqblue", "mtu") == mtu && detail(&host, "tap0-1", "mtu") == mtu
            });
            assert_eq!(detail(&host, "brqred", "mtu"), 1500);
        }
        assert_eq!(observer.count(Change::Released), 0);
    });
}

#[test]
fn a_bridge_changed_by_hand_is_set_right() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let (daemon, _taps) = two_ports(&host, TWO_NETWORKS);
        host.ip("link set brqblue type bridge stp_state 1");
        wait_until("STP is off", SOON, || {
            bridge_option(&host, "brqblue", "stp_state") == 0
        });
        host.ip("link set brqblue type bridge forward_delay 400");
        wait_until("the forward delay is 0", SOON, || {
            bridge_option(&host, "brqblue", "forward_delay") == 0
        });
        host.ip("link set brqblue down");
        wait_until("it is up", SOON, || host.is_up("brqblue"));
        assert!(host.is_attached("tap0-1", "brqblue"));
        daemon.wait_network("blue", "ready");
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_deleted_bridge_is_made_again_with_its_ports() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let (daemon, _taps) = two_ports(&host, TWO_NETWORKS);
        for n in 0..60 {
            host.lasting_tap(&format!("tap0-x{n}"));
        }
        daemon.wait_port("tap0-x59", "attached");
        let before = host.link("brqblue").unwrap();
        let observer = host.observer();
        host.ip("link delete brqblue");
        wait_until("all are back", SOON, || host.attached("brqblue") == 61);
        let after = host.link("brqblue").unwrap();
        for key in ["address", "mtu", "ifalias"] {
            assert_eq!(before[key], after[key], "{key}");
        }
        assert_ne!(before["ifindex"], after["ifindex"]);
        assert_eq!(
            observer.count(Change::Released),
            61,
            "only the deletion itself took ports away"
        );
        assert_eq!(daemon.counter("resyncs"), 0);
        daemon.wait_port("tap0-1", "attached");
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_renamed_bridge_is_replaced_and_its_ports_come_along() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let (daemon, _taps) = two_ports(&host, TWO_NETWORKS);
        // Before 6.2 only what is down is renamed, and the daemon would set it up at once.
        daemon.signal(libc::SIGSTOP);
        host.rename("brqblue", "mine");
        daemon.signal(libc::SIGCONT);
        host.wait_attached("tap0-1", "brqblue");
        daemon.wait_port("tap0-1", "attached");
        assert!(host.link("mine").is_some(), "nothing is deleted in a hurry");
    });
}

#[test]
fn a_name_taken_by_another_device_is_a_conflict_and_others_are_served() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let host = Host::here();
        host.ip("link add brqblue type veth peer name other");
        let daemon = host.daemon(TWO_NETWORKS);
        let _taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap1-1", "attached");
        daemon.wait_network("blue", "conflict");
        daemon.wait_port("tap0-1", "pending");
        let reason = reason(&daemon, "tap0-1");
        assert!(reason.contains("brqblue exists but is a veth"), "{reason}");
        host.ip("link delete brqblue");
        daemon.wait_port("tap0-1", "attached");
        assert!(host.is_attached("tap0-1", "brqblue"));
    });
}

#[test]
fn a_port_set_down_by_hand_stays_down_and_is_shown() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let (mut daemon, _taps) = two_ports(&host, TWO_NETWORKS);
        host.ip("link set tap0-1 down");
        wait_until("it is shown", SOON, || {
            reason(&daemon, "tap0-1").contains("set down by somebody else")
        });
        assert_eq!(daemon.port("tap0-1").unwrap()["state"], "attached");
        daemon.json(&["resync"]);
        daemon.assert_nothing_planned();
        assert!(!host.is_up("tap0-1"));
        // What is said of a port anew is not another attach.
        let page = String::from_utf8_lossy(&daemon.output(&["metrics"]).stdout).into_owned();
        assert!(
            page.lines().any(|line| line == "tapwire_attach_seconds_count 2"),
            "{page}"
        );
        // A tap that is nobody's port is not thought to have been set down; one that already is one is.
        daemon.stop();
        daemon.start();
        daemon.wait_in_sync();
        assert!(host.is_attached("tap1-1", "brqred"));
        host.ip("link set tap0-1 up");
        wait_until("nothing is left to show", SOON, || {
            reason(&daemon, "tap0-1").is_empty()
        });
    });
}

#[test]
fn a_fight_is_answered_with_growing_pauses_and_ends_after_the_other_side_stops() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let (daemon, _taps) = two_ports(&host, TWO_NETWORKS);
        let begin = Instant::now();
        let mut taken = Vec::new();
        // The tenth repair and those after it are a minute apart.
        // On a slow machine the pause must be long enough to be seen.
        let losses = if slowness() > 1 { 10 } else { 8 };
        while taken.len() < losses {
            wait_until("the daemon repairs it", SOON, || {
                host.is_attached("tap0-1", "brqblue")
            });
            host.ip("link set tap0-1 nomaster");
            taken.push(begin.elapsed());
        }
        assert!(taken[7] > Duration::from_millis(300), "too eager: {taken:?}");
        let pauses: Vec<_> = taken.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(pauses.last() > pauses.first(), "the pauses grow: {pauses:?}");
        wait_until("the conflict is told", SOON, || {
            let port = daemon.port("tap0-1").unwrap();
            let reason = port["reason"].as_str().unwrap_or_default();
            port["state"] == "conflict" && reason.contains("somebody else keeps taking")
        });
        assert!(host.is_attached("tap1-1", "brqred"), "nobody else is concerned");
        host.wait_attached("tap0-1", "brqblue");
        daemon.wait_port("tap0-1", "attached");
    });
}

#[test]
fn a_persistent_tap_that_lost_its_guest_is_left_as_it_is() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let (daemon, [tap, _other]) = two_ports(&host, TWO_NETWORKS);
        tap.set_persistent(true).unwrap();
        let before = index(&host, "tap0-1");
        let ops = daemon.counter("ops");
        drop(tap);
        wait_until("the carrier is gone", SOON, || {
            let link = host.link("tap0-1").unwrap();
            link["flags"]
                .as_array()
                .unwrap()
                .iter()
                .any(|f| f == "NO-CARRIER")
        });
        assert!(host.is_attached("tap0-1", "brqblue"));
        let _again = host.tap("tap0-1");
        assert_eq!(index(&host, "tap0-1"), before);
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(daemon.counter("ops"), ops, "nothing was done");
    });
}

#[test]
fn deleted_taps_are_no_drift() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let (daemon, taps) = two_ports(&host, TWO_NETWORKS);
        drop(taps);
        wait_until("they are forgotten", SOON, || {
            daemon.json(&["port", "list"]).as_array().unwrap().is_empty()
        });
        let log = daemon.log_text();
        assert!(!log.contains("drift"), "{log}");
        assert!(!log.contains("operation failed"), "{log}");
    });
}
