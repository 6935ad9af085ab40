//! Start, stop, kill and start again: nothing is lost, nothing right is touched.

use super::{TWO_NETWORKS, index};
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::observer::Change;
use crate::support::wait::wait_until;
use crate::support::world::{crowd, in_namespace};
use std::time::Duration;

#[test]
fn taps_that_were_there_first_are_attached_when_the_daemon_says_in_sync() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let _taps = (host.taps("tap0-", 5), host.taps("tap1-", 5), host.tap("foreign"));
        let daemon = host.daemon(TWO_NETWORKS);
        // No waiting here: in sync means attached.
        assert_eq!((host.attached("brqblue"), host.attached("brqred")), (5, 5));
        assert!(host.master("foreign").is_none());
        let status = daemon.status();
        assert_eq!(status["in_sync"], true);
        assert_eq!(status["ports"]["attached"], 10);
        assert_eq!(status["counters"]["resyncs"], 0);
    });
}

#[test]
fn a_restart_with_nothing_to_repair_causes_no_link_event() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, peer) = (Host::here(), Host::new());
        host.join("nic0", &peer, "nic0");
        host.ip("address add 198.51.100.7/24 dev nic0");
        host.join("wire0", &peer, "wire0");
        host.ip("address add 192.0.2.11/24 dev wire0");
        let _taps: Vec<_> = (0..3).map(|n| host.taps(&format!("tap{n}-"), 4)).collect();
        let mut daemon = host.daemon(ALL_HERE);
        // The uplink is a port too.
        for (bridge, ports) in [("brqlocal", 4), ("brqflat", 5), ("brqvxlan", 5)] {
            assert_eq!(host.attached(bridge), ports, "{bridge}");
        }
        daemon.assert_nothing_planned();
        for end in [Daemon::stop, Daemon::kill] {
            let observer = host.observer();
            // The kernel tells changes of operstate up to a second late (linkwatch): those are about what was before. And
            // it looks for duplicates of a link-local address as long.
            let mut last_word = std::time::Instant::now();
            wait_until(
                "the kernel has said its last word",
                Duration::from_secs(20),
                || {
                    if !observer.take().is_empty() {
                        last_word = std::time::Instant::now();
                    }
                    last_word.elapsed() > Duration::from_millis(1_500)
                        && !host.ip("address show").contains("tentative")
                },
            );
            let before = (host.ip("address show"), host.run("bridge fdb show"));
            end(&mut daemon);
            assert_eq!(observer.take(), [], "stopping leaves everything as it is");
            daemon.start();
            daemon.wait_in_sync();
            assert_eq!(observer.take(), [], "starting finds everything right");
            assert_eq!(before, (host.ip("address show"), host.run("bridge fdb show")));
            assert_eq!(daemon.counter("ops"), 0);
            daemon.assert_nothing_planned();
        }
        assert_eq!(daemon.status()["ports"]["attached"], 12);
    });
}

const ALL_HERE: &str = r#"
[daemon]
prune_after = "never"
[physical_networks]
physnet1 = { interface = "nic0" }
[vxlan]
local_ip = "192.0.2.11"
l2_population = true
[[network]]
id = "local"
network_type = "local"
[[network]]
id = "flat"
network_type = "flat"
physical_network = "physnet1"
[[network]]
id = "vxlan"
network_type = "vxlan"
segmentation_id = 100
[[network.peer]]
vtep = "192.0.2.12"
mac = "fa:16:3e:00:00:07"
[[port]]
tap = "tap0-*"
network = "local"
[[port]]
tap = "tap1-*"
network = "flat"
[[port]]
tap = "tap2-*"
network = "vxlan"
"#;

#[test]
fn killed_in_the_middle_of_a_burst_and_started_again_it_has_them_all() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = host.daemon(TWO_NETWORKS);
        let observer = host.observer();
        for n in 0..500 {
            host.lasting_tap(&format!("tap{}-{n}", n % 2));
            if n == 250 {
                daemon.kill();
            }
            if n == 400 {
                daemon.start();
            }
        }
        daemon.wait_in_sync();
        daemon.wait_port("tap1-499", "attached");
        assert_eq!((host.attached("brqblue"), host.attached("brqred")), (250, 250));
        assert_eq!(
            observer.count(Change::Released),
            0,
            "no port ever left its bridge"
        );
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_start_under_churn_ends_with_what_is_there() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let standing = crowd(200);
        (0..standing).for_each(|n| host.lasting_tap(&format!("tap1-{n}")));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (daemon, kept) = std::thread::scope(|scope| {
            let churn = scope.spawn(|| {
                let mut kept = 0;
                for round in 0..400 {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let tap = host.tap(&format!("tap0-{round}"));
                    if round % 3 == 0 {
                        tap.set_persistent(true).unwrap();
                        kept += 1;
                    }
                }
                kept
            });
            let daemon = Daemon::spawn(&host, TWO_NETWORKS);
            daemon.wait_in_sync();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            (daemon, churn.join().unwrap())
        });
        let there = kept + standing;
        wait_until(
            "what is there is attached and listed",
            Duration::from_secs(20),
            || {
                let status = daemon.status();
                status["ports"]["attached"] == there && status["ports"]["pending"] == 0
            },
        );
        assert_eq!(host.attached("brqblue"), kept);
        assert_eq!(host.attached("brqred"), standing);
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_second_daemon_in_the_same_namespace_refuses() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let mut second = Daemon::spawn(&host, TWO_NETWORKS);
        second.expect_error("another tapwire");
        let status = second.ended();
        assert_eq!(status.code(), Some(1));
        let log = second.log_text();
        assert!(
            log.contains("another tapwire runs in this network namespace"),
            "{log}"
        );
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        // Another namespace is another host.
        let elsewhere = Host::new();
        let other = elsewhere.daemon(TWO_NETWORKS);
        let _tap = elsewhere.tap("tap0-1");
        other.wait_port("tap0-1", "attached");
    });
}

#[test]
fn without_the_right_to_change_links_it_says_so_and_ends() {
    in_namespace(|| {
        let host = Host::here();
        let daemon = Daemon::unprivileged(&host, TWO_NETWORKS);
        let output = daemon;
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("CAP_NET_ADMIN is missing"), "{text}");
    });
}

#[test]
fn the_daemon_keeps_no_other_right_than_to_change_links() {
    in_namespace(|| {
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        };
        // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW.
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(
                u64::from_str_radix(&field(set), 16).unwrap(),
                1 << 10 | 1 << 12 | 1 << 13,
                "{set}"
            );
        }
        assert_eq!(field("NoNewPrivs"), "1");
    });
}

#[test]
fn what_commands_told_survives_kill_9() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = host.daemon(TWO_NETWORKS);
        daemon.json(&[
            "network",
            "add",
            "green",
            "--network-type",
            "local",
            "--mtu",
            "1400",
        ]);
        daemon.json(&["network", "add", "grey", "--network-type", "local"]);
        daemon.json(&["port", "bind", "tap7", "green"]);
        daemon.json(&["port", "bind", "tap8", "grey"]);
        let _taps = (host.tap("tap7"), host.tap("tap8"));
        daemon.wait_port("tap7", "attached");
        daemon.wait_port("tap8", "attached");
        daemon.json(&["port", "unbind", "tap8"]);
        wait_until("tap8 is detached", Duration::from_secs(5), || {
            host.master("tap8").is_none()
        });
        daemon.json(&["network", "delete", "grey"]);
        daemon.kill();
        let later = index(&host, "tap7");
        host.ip("link set tap7 nomaster");
        daemon.start();
        daemon.wait_in_sync();
        assert_eq!(host.master("tap7").as_deref(), Some("brqgreen"));
        assert_eq!(daemon.network("green")["mtu"], 1400);
        assert_eq!(daemon.port("tap7").unwrap()["ifindex"], later);
        assert_eq!(daemon.port("tap8").unwrap()["state"], "pending");
        assert!(host.master("tap8").is_none());
        let networks = daemon.json(&["network", "list"]);
        assert_eq!(networks.as_array().unwrap().len(), 3, "{networks}");
    });
}

#[test]
fn a_network_with_taps_is_only_deleted_when_forced() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        daemon.json(&["network", "add", "green", "--network-type", "local"]);
        daemon.json(&["port", "bind", "tap7", "green"]);
        let _tap = host.tap("tap7");
        daemon.wait_port("tap7", "attached");
        let refused = daemon.output(&["network", "delete", "green"]);
        assert_eq!(refused.status.code(), Some(1));
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("1 attached tap"), "{text}");
        assert!(host.is_attached("tap7", "brqgreen"));
        let from_file = daemon.output(&["network", "delete", "blue"]);
        let text = String::from_utf8_lossy(&from_file.stderr).into_owned();
        assert!(
            !from_file.status.success() && text.contains("tapwire.toml"),
            "{text}"
        );
        daemon.json(&["network", "delete", "green", "--force"]);
        wait_until("its tap is detached", Duration::from_secs(5), || {
            host.master("tap7").is_none()
        });
        assert_eq!(daemon.port("tap7").unwrap()["state"], "pending");
        assert!(host.link("tap7").is_some());
    });
}
