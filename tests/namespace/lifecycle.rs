//! Start, stop, death and overrun of the daemon: what a virtual machine's tap may never notice.

use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::observer::Change;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// One local network for every `tap*`.
const BLUE: &str = r#"
[taps]
match = ["tap*"]
[[network]]
id = "blue"
network_type = "local"
[[port]]
tap = "tap*"
network = "blue"
"#;

#[test]
fn a_tap_is_attached_when_it_appears() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        assert_eq!(daemon.status()["in_sync"], true);
        let _tap = host.tap("tap0");
        daemon.wait_port("tap0", "attached");
        assert!(host.is_attached("tap0", "brqblue"));
        let port = daemon.port("tap0").unwrap();
        assert_eq!(port["network"], "blue");
        assert_eq!(port["bridge"], "brqblue");
        assert_eq!(daemon.status()["ports"]["attached"], 1);
        let members = host.bridge_json("link show");
        assert!(
            members
                .as_array()
                .unwrap()
                .iter()
                .any(|port| port["ifname"] == "tap0")
        );
    });
}

#[test]
fn taps_that_were_there_first_are_attached_before_the_daemon_says_in_sync() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let _taps = host.taps("tap", 20);
        let _daemon = host.daemon(BLUE);
        for number in 0..20 {
            assert!(host.is_attached(&format!("tap{number}"), "brqblue"));
        }
    });
}

#[test]
fn a_restart_changes_nothing_that_is_right() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = host.daemon(BLUE);
        let _taps = host.taps("tap", 5);
        daemon.wait_port("tap4", "attached");
        for number in 0..5 {
            daemon.wait_port(&format!("tap{number}"), "attached");
        }
        daemon.stop();
        assert!(
            host.is_attached("tap0", "brqblue"),
            "stopping leaves ports attached"
        );
        settle(&host);
        let observer = host.observer();
        daemon.start();
        daemon.wait_in_sync();
        assert_eq!(observer.take(), []);
    });
}

#[test]
fn killed_in_a_burst_the_daemon_finishes_it_after_the_restart_and_no_port_leaves_its_bridge() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = host.daemon(BLUE);
        let observer = host.observer();
        let _taps = host.taps("tap", 100);
        daemon.kill();
        daemon.start();
        daemon.wait_in_sync();
        wait_until("all are attached", SOON, || {
            (0..100).all(|n| host.is_attached(&format!("tap{n}"), "brqblue"))
        });
        assert_eq!(observer.count(Change::Released), 0);
    });
}

#[test]
fn events_that_came_while_the_daemon_was_stopped_are_not_lost() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        daemon.signal(libc::SIGSTOP);
        let _taps = host.taps("tap", 200);
        daemon.signal(libc::SIGCONT);
        wait_until("all are attached", SOON, || {
            daemon.status()["ports"]["attached"] == 200
        });
    });
}

#[test]
fn a_second_daemon_in_one_namespace_refuses_to_start_and_one_on_another_host_does_not() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        let mut second = crate::support::daemon::Daemon::spawn(&host, BLUE);
        second.expect_error("another tapwire runs");
        assert_eq!(second.ended().code(), Some(1));
        assert!(
            second.log_text().contains("another tapwire runs"),
            "{}",
            second.log_text()
        );
        let elsewhere = Host::new();
        let other = elsewhere.daemon(BLUE);
        let _tap = elsewhere.tap("tap7");
        other.wait_port("tap7", "attached");
        assert!(daemon.port("tap7").is_none());
    });
}

#[test]
fn an_included_file_that_appears_serves_waiting_taps_after_sighup() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon("include = [\"networks.d/*.toml\"]\n[taps]\nmatch = [\"tap*\"]\n");
        let _tap = host.tap("tap0");
        daemon.wait_port("tap0", "pending");
        let network = BLUE.split_once("[[network]]").unwrap().1;
        daemon.write_file("networks.d/blue.toml", &format!("[[network]]{network}"));
        daemon.signal(libc::SIGHUP);
        daemon.wait_port("tap0", "attached");
    });
}

#[test]
fn a_daemon_with_nothing_to_do_sleeps() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        let _taps = host.taps("tap", 10);
        wait_until("all are attached", SOON, || {
            daemon.status()["ports"]["attached"] == 10
        });
        settle(&host);
        let before = daemon.wakeups();
        // Not a wait for something: the length of the observation.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(daemon.wakeups(), before);
    });
}

/// The bridge tells of its carrier up to 250 ms after its ports came up; until then a link event means nothing.
fn settle(host: &Host) {
    let observer = host.observer();
    let mut quiet_looks = 0;
    wait_until("no link event for a second", SOON, || {
        quiet_looks = if observer.take().is_empty() {
            quiet_looks + 1
        } else {
            0
        };
        quiet_looks > 200
    });
}
