//! The guard through a port's life: before the first frame, at changes, after somebody's flush, over a restart, to its end.

use super::frame::*;
use super::{GUARDED, OTHER, OWN, Pair, read, spoofed, write};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// The table with its handles (a table made anew has others) and without what was counted.
fn table(host: &Host) -> String {
    let output = host
        .command("nft")
        .args(["-a", "list", "table", "bridge", "tapwire"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("packets")).collect();
    kept.join("\n")
}

#[test]
fn the_guard_is_there_before_the_first_frame() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter);
        let host = Host::here();
        let daemon = host.daemon(GUARDED);
        let neighbour = host.tap("tap1");
        daemon.wait_port("tap1", "attached");
        let guest = host.tap("tap0");
        // A guest that sends without pause, from before it is attached.
        let frame = ipv4(OTHER, "10.0.0.6", 1, b"?");
        wait_until("tap0 is attached", SOON, || {
            for _ in 0..1000 {
                write(&guest, &frame);
            }
            daemon
                .port("tap0")
                .is_some_and(|port| port["state"] == "attached")
        });
        let right = ipv4(OWN, "10.0.0.5", 1, b"!");
        let mut seen = Vec::new();
        wait_until("a right frame comes through", SOON, || {
            write(&guest, &right);
            write(&guest, &frame);
            seen.extend(std::iter::from_fn(|| read(&neighbour)));
            seen.contains(&right)
        });
        assert!(!seen.contains(&frame));
    });
}

#[test]
fn a_restart_leaves_the_guard_alone() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::Program("nft"));
        let host = Host::here();
        let mut daemon = host.daemon(GUARDED);
        let pair = Pair::attached(&host, &daemon);
        let before = table(&host);
        daemon.kill();
        for (what, frame) in spoofed() {
            assert!(!pair.passes(&frame), "passes without a daemon: {what}");
        }
        daemon.start();
        daemon.wait_in_sync();
        daemon.wait_port("tap0", "attached");
        daemon.assert_nothing_planned();
        assert_eq!(table(&host), before, "nothing was made anew");
    });
}

#[test]
fn a_tap_that_comes_and_goes_takes_its_entries_along() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::Program("nft"));
        let host = Host::here();
        let daemon = host.daemon(GUARDED);
        let before = table(&host);
        for _ in 0..3 {
            let tap = host.tap("tap0");
            daemon.wait_port("tap0", "attached");
            assert!(table(&host).contains("\"tap0\" . fa:16:3e:00:00:05 . 10.0.0.5"));
            drop(tap);
            wait_until("its entries are gone", SOON, || table(&host) == before);
        }
    });
}

#[test]
fn a_changed_mapping_changes_what_may_be_sent() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::Program("nft"));
        let host = Host::here();
        let daemon = host.daemon(GUARDED);
        let pair = Pair::attached(&host, &daemon);
        let more = ipv4(OWN, "10.0.0.7", 1, b"?");
        assert!(!pair.passes(&more));
        daemon.write_configuration(&GUARDED.replace("\"10.0.0.5\"", "\"10.0.0.5\", \"10.0.0.7\""));
        wait_until("the new address passes", SOON, || pair.passes(&more));
        assert!(!pair.passes(&ipv4(OWN, "10.0.0.8", 1, b"?")));
        daemon.write_configuration(GUARDED);
        wait_until("it passes no more", SOON, || !pair.passes(&more));
        // Off, for this port: the table goes with the last of its ports.
        daemon.write_configuration(&GUARDED.replace("addresses", "port_security = false\naddresses"));
        wait_until("everything passes", SOON, || pair.passes(&more));
        wait_until("the table is gone", SOON, || table(&host).is_empty());
        daemon.write_configuration(GUARDED);
        wait_until("the guard is back", SOON, || !pair.passes(&more));
        // Without a mapping the port leaves its bridge first.
        daemon.write_configuration(&GUARDED.replace("tap = \"tap0\"", "tap = \"tap7\""));
        wait_until("the port is off", SOON, || host.master("tap0").is_none());
        wait_until("its entries are gone", SOON, || {
            !table(&host).contains("\"tap0\"")
        });
    });
}

#[test]
fn what_somebody_else_did_to_the_guard_is_put_right() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::Program("nft"));
        let host = Host::here();
        let daemon = host.daemon(GUARDED);
        let pair = Pair::attached(&host, &daemon);
        let wrong = ipv4(OWN, "10.0.0.6", 1, b"?");
        for change in [
            "flush ruleset",
            "delete table bridge tapwire",
            "flush chain bridge tapwire ipv4",
            "add element bridge tapwire ipv4 { \"tap0\" . fa:16:3e:00:00:05 . 10.0.0.6 }",
            "flush set bridge tapwire macs",
        ] {
            host.run(&format!("nft {change}"));
            wait_until("the guard is whole again", SOON, || {
                let text = table(&host);
                text.contains("\"tap0\" . fa:16:3e:00:00:05 }")
                    && text.contains("\"tap0\" . fa:16:3e:00:00:05 . 10.0.0.5 }")
                    && text.contains("ip saddr @ipv4 accept")
            });
            assert!(!pair.passes(&wrong), "{change}");
        }
    });
}

#[test]
fn a_restart_with_less_to_guard_leaves_nothing_behind() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::Program("nft"));
        let host = Host::here();
        let mut daemon = host.daemon(GUARDED);
        let _pair = Pair::attached(&host, &daemon);
        daemon.kill();
        daemon.write_configuration(&GUARDED.replace("tap = \"tap0\"", "tap = \"tap7\""));
        daemon.start();
        daemon.wait_in_sync();
        wait_until("the entries are gone", SOON, || {
            !table(&host).contains("\"tap0\"")
        });
        daemon.kill();
        daemon.write_configuration(&GUARDED.replace("addresses = ", "port_security = false\naddresses = "));
        daemon.start();
        daemon.wait_in_sync();
        wait_until("the table is gone", SOON, || {
            host.run("nft list ruleset").is_empty()
        });
    });
}
