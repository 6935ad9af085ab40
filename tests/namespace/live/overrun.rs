//! More events than the socket holds: one resync makes it good.

use crate::support::feature::{Feature, require};
use crate::support::host::{Crowd, Host};
use crate::support::wait::wait_until;
use crate::support::world::{crowd, in_namespace};
use std::time::{Duration, Instant};

/// Four networks, `tap0-*` to `tap3-*`: a bridge has room for 1,023 ports.
fn four_networks(buffer: &str) -> String {
    let mut text = format!("[daemon]\nprune_after = \"never\"\nreceive_buffer = \"{buffer}\"\n");
    for n in 0..4 {
        text += &format!(
            "[[network]]\nid = \"net{n}\"\nnetwork_type = \"local\"\n[[port]]\ntap = \"tap{n}-*\"\nnetwork = \"net{n}\"\n"
        );
    }
    text
}

/// Held open: of a tap without carrier the kernel tells more, a hundred a second.
fn taps_of_four_networks(host: &Host, count: usize) -> Crowd {
    Crowd(
        (0..count)
            .map(|n| host.tap(&format!("tap{}-{n}", n % 4)))
            .collect(),
    )
}

fn all_attached(host: &Host, count: usize) -> bool {
    (0..4).all(|n| host.attached(&format!("brqnet{n}")) == count / 4)
}

#[test]
fn two_thousand_taps_that_came_while_the_daemon_was_stopped_cost_one_resync() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(&four_networks("64KiB"));
        let count = crowd(2000);
        daemon.signal(libc::SIGSTOP);
        let _taps = taps_of_four_networks(&host, count);
        daemon.signal(libc::SIGCONT);
        wait_until("all are attached", Duration::from_secs(30), || {
            all_attached(&host, count)
        });
        wait_until("it is in sync again", Duration::from_secs(10), || {
            daemon.status()["in_sync"] == true
        });
        let status = daemon.status();
        assert!(status["counters"]["overruns"].as_u64().unwrap() >= 1, "{status}");
        assert_eq!(status["counters"]["resyncs"], 1, "{status}");
        assert_eq!(status["ports"]["attached"], count, "{status}");
        daemon.assert_nothing_planned();
    });
}

#[test]
fn the_default_buffer_takes_two_thousand_taps_without_a_loss() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(&four_networks("64MiB"));
        let count = crowd(2000);
        daemon.signal(libc::SIGSTOP);
        let _taps = taps_of_four_networks(&host, count);
        daemon.signal(libc::SIGCONT);
        wait_until("all are attached", Duration::from_secs(30), || {
            all_attached(&host, count)
        });
        let status = daemon.status();
        assert_eq!(status["counters"]["overruns"], 0, "{status}");
        assert_eq!(status["counters"]["resyncs"], 0, "{status}");
        assert_eq!(status["ports"]["attached"], count, "{status}");
    });
}

#[test]
fn a_thousand_deletes_that_were_lost_are_found_by_one_resync() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(&four_networks("64KiB"));
        let (gone, stays) = (crowd(1000), 60);
        let _stay = taps_of_four_networks(&host, stays);
        // Closing takes the kernel 20 ms each; a group goes in one go.
        for n in 0..gone {
            host.lasting_tap(&format!("tap{}-gone{n}", n % 4));
        }
        let to_group = (0..gone).map(|n| format!("link set tap{}-gone{n} group 7\n", n % 4));
        host.ip_batch(&to_group.collect::<String>());
        wait_until("all are attached", Duration::from_secs(30), || {
            all_attached(&host, gone + stays)
        });
        wait_until("it is in sync", Duration::from_secs(10), || {
            daemon.status()["in_sync"] == true
        });
        let resyncs = daemon.counter("resyncs");
        let overruns = daemon.counter("overruns");
        daemon.signal(libc::SIGSTOP);
        host.ip("link delete group 7");
        daemon.signal(libc::SIGCONT);
        wait_until("the gone taps are forgotten", Duration::from_secs(20), || {
            daemon.json(&["port", "list"]).as_array().unwrap().len() == stays
        });
        wait_until("it is in sync again", Duration::from_secs(10), || {
            daemon.status()["in_sync"] == true
        });
        let status = daemon.status();
        assert!(daemon.counter("overruns") > overruns, "{status}");
        assert_eq!(status["counters"]["resyncs"], resyncs + 1, "{status}");
        assert_eq!(status["ports"]["attached"], stays, "{status}");
        assert!(all_attached(&host, stays));
        daemon.assert_nothing_planned();
    });
}

#[test]
fn an_overrun_storm_costs_at_most_one_resync_a_second() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(&four_networks("64KiB"));
        let _taps = taps_of_four_networks(&host, 100);
        wait_until("all are attached", Duration::from_secs(30), || {
            all_attached(&host, 100)
        });
        let before = daemon.counter("resyncs");
        let begin = Instant::now();
        let mut mtu = 1400;
        while begin.elapsed() < Duration::from_secs(3) {
            // All links of the host in one request; the networks say nothing of an MTU.
            mtu += 1;
            host.ip(&format!("link set group default mtu {mtu}"));
        }
        wait_until("it is in sync again", Duration::from_secs(10), || {
            daemon.status()["in_sync"] == true
        });
        let status = daemon.status();
        let resyncs = status["counters"]["resyncs"].as_u64().unwrap() - before;
        let seconds = begin.elapsed().as_secs();
        assert!(status["counters"]["overruns"].as_u64().unwrap() >= 3, "{status}");
        assert!((1..=seconds + 2).contains(&resyncs), "{resyncs} in {seconds} s");
        let _late = host.tap("tap0-late");
        daemon.wait_port("tap0-late", "attached");
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_thousand_idle_taps_wake_nobody() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(&four_networks("64MiB"));
        let count = crowd(1000);
        let _taps = taps_of_four_networks(&host, count);
        wait_until("all are attached", Duration::from_secs(30), || {
            all_attached(&host, count)
        });
        // The kernel tells a bridge's carrier up to a second late, the file watch settles: wait until a whole second
        // was quiet, then measure.
        let quiet_for = |period: Duration| {
            let before = daemon.main_wakeups();
            std::thread::sleep(period);
            daemon.main_wakeups() == before
        };
        wait_until("the last echo is read", Duration::from_secs(10), || {
            quiet_for(Duration::from_secs(1))
        });
        let before = daemon.main_wakeups();
        // What is measured, not a synchronisation.
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(daemon.main_wakeups() - before, 0);
    });
}
