//! Changed files, and clients of the control socket that behave badly.

use super::{TWO_NETWORKS, reason};
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::observer::Change;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Blue and red have changed places.
fn swapped() -> String {
    TWO_NETWORKS
        .replace("network = \"blue\"", "network = \"tmp\"")
        .replace("network = \"red\"", "network = \"blue\"")
        .replace("network = \"tmp\"", "network = \"red\"")
}

#[test]
fn a_changed_file_is_read_and_its_difference_applied() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let _taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap1-1", "attached");
        // Nobody tells the daemon.
        daemon.write_configuration(&swapped());
        host.wait_attached("tap0-1", "brqred");
        host.wait_attached("tap1-1", "brqblue");
        daemon.write_configuration(TWO_NETWORKS);
        daemon.signal(libc::SIGHUP);
        host.wait_attached("tap0-1", "brqblue");
    });
}

#[test]
fn a_new_mapping_in_the_middle_of_a_burst_holds_for_old_and_new_taps() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        for n in 0..120 {
            host.lasting_tap(&format!("tap{}-{n}", n % 2));
            if n == 60 {
                daemon.write_configuration(&swapped());
                daemon.signal(libc::SIGHUP);
            }
        }
        wait_until("all are where the new mapping says", SOON, || {
            host.attached("brqblue") == 60
                && host.attached("brqred") == 60
                && host.master("tap0-0").as_deref() == Some("brqred")
        });
        for n in 0..120 {
            let bridge = ["brqred", "brqblue"][n % 2];
            assert!(host.is_attached(&format!("tap{}-{n}", n % 2), bridge), "{n}");
        }
    });
}

#[test]
fn a_broken_file_changes_nothing_and_is_shown() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = host.daemon(TWO_NETWORKS);
        daemon.expect_error("reload refused");
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        let observer = host.observer();
        for broken in ["[[network]", "[taps]\nmatsch = [\"x\"]\n"] {
            daemon.write_configuration(broken);
            daemon.signal(libc::SIGHUP);
            wait_until("it is shown", SOON, || daemon.status()["config"]["ok"] == false);
            let status = daemon.status();
            let error = status["config"]["error"].as_str().unwrap();
            assert!(error.contains("tapwire.toml:"), "{error}");
            let refused = daemon.output(&["reload"]);
            assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        }
        assert!(host.is_attached("tap0-1", "brqblue"));
        assert_eq!(observer.count(Change::Released), 0);
        let _later = host.tap("tap1-1");
        daemon.wait_port("tap1-1", "attached");
        daemon.reload(TWO_NETWORKS);
        assert_eq!(daemon.status()["config"]["ok"], true);
        assert!(daemon.status()["config"]["error"].is_null());
    });
}

#[test]
fn an_emptied_file_does_not_cut_the_guests_off() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = host.daemon(TWO_NETWORKS);
        daemon.expect_error("reload refused");
        for n in 0..15 {
            host.lasting_tap(&format!("tap0-{n}"));
        }
        daemon.wait_port("tap0-14", "attached");
        let emptied = "[daemon]\nprune_after = \"never\"\n";
        daemon.write_configuration(emptied);
        daemon.signal(libc::SIGHUP);
        wait_until("it is refused", SOON, || daemon.status()["config"]["ok"] == false);
        let error = daemon.status()["config"]["error"].to_string();
        assert!(error.contains("would detach 15 of 15 ports"), "{error}");
        assert_eq!(host.attached("brqblue"), 15);
        daemon.json(&["reload", "--force"]);
        wait_until("forced, it is done", SOON, || host.attached("brqblue") == 0);
        assert_eq!(daemon.port("tap0-3").unwrap()["state"], "pending");
        assert!(host.link("tap0-3").is_some(), "no tap is ever deleted");
    });
}

#[test]
fn a_mapping_taken_out_of_the_file_detaches_its_tap() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let _taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap1-1", "attached");
        let (head, _red) = TWO_NETWORKS.rsplit_once("[[port]]").unwrap();
        daemon.reload(head);
        wait_until("it is detached", SOON, || host.master("tap1-1").is_none());
        daemon.wait_port("tap1-1", "pending");
        assert_eq!(reason(&daemon, "tap1-1"), "no mapping names this tap");
        assert!(host.is_attached("tap0-1", "brqblue"));
    });
}

/// Writes bytes to the control socket and reads what comes until the other side is done or a second is over.
fn talk(daemon: &Daemon, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // The server may hang up before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn garbage_and_silence_on_the_control_socket_cost_others_nothing() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(TWO_NETWORKS);
        let silent: Vec<_> = (0..20)
            .map(|_| UnixStream::connect(daemon.socket()).unwrap())
            .collect();
        let mut half = UnixStream::connect(daemon.socket()).unwrap();
        half.write_all(b"POST /v1/ports/bind HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"po")
            .unwrap();
        let oversized = format!(
            "POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            2 << 20
        );
        for bytes in [
            &b"\x00\xff\xfe garbage \r\n\r\n"[..],
            b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"POST /v1/networks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{\"i",
            oversized.as_bytes(),
        ] {
            let answer = talk(&daemon, bytes);
            assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
        }
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(daemon.status()["in_sync"], true);
        drop((silent, half));
    });
}

#[test]
fn waiting_ends_with_the_exit_code_that_scripts_need() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = host.daemon(TWO_NETWORKS);
        let code = |daemon: &Daemon, arguments: &[&str]| daemon.output(arguments).status.code();
        assert_eq!(code(&daemon, &["wait", "--in-sync", "--timeout", "5"]), Some(0));
        let never = ["wait", "--port", "tap0-1", "--timeout", "0.2"];
        assert_eq!(code(&daemon, &never), Some(4));
        // Asked before the tap exists.
        let mut waiting = daemon
            .command(&["wait", "--port", "tap0-1", "--timeout", "10"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let _tap = host.tap("tap0-1");
        assert!(waiting.wait().unwrap().success());
        daemon.stop();
        assert_eq!(code(&daemon, &["status"]), Some(3));
        assert_eq!(code(&daemon, &["wait", "--in-sync", "--timeout", "0.2"]), Some(3));
    });
}
