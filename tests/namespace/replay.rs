//! `tapwire replay`: what a daemon decided is decided again from the recording, and what it would have decided can be
//! asked of a recording made without one.

use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

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

/// `tapwire trace --record`, in a process of its own.
struct Recording {
    process: Child,
    stderr: BufReader<ChildStderr>,
    file: PathBuf,
}

impl Recording {
    /// Returns once no event can be missed.
    fn start(mut tapwire: Command, file: PathBuf) -> Self {
        let mut process = tapwire
            .args(["trace", "--record"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("tracing ("), "{line}");
        Self {
            process,
            stderr,
            file,
        }
    }

    fn of(daemon: &Daemon) -> Self {
        Self::start(daemon.command(&[]), daemon.path("recording.pcapng"))
    }

    /// Everything the kernel has sent by now is in.
    fn finish(mut self) -> PathBuf {
        let pid = libc::pid_t::try_from(self.process.id()).unwrap();
        // SAFETY: takes no pointers; the pid is our own child's, not yet waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        assert!(self.process.wait().unwrap().success());
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        assert!(line.contains("0 lost"), "{line}");
        self.file
    }
}

/// Operations in their order, by tap; those of networks under "".
type Decisions = BTreeMap<String, Vec<String>>;

fn lines(output: &std::process::Output) -> Vec<Value> {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

/// By the daemon's own memory.
fn decided(daemon: &Daemon) -> Decisions {
    let mut decisions = Decisions::new();
    for step in lines(&daemon.output(&["--json", "trace", "--history"])) {
        if text(&step, "kind") == "op" {
            // Operations of a network have its id as name, and no index.
            let owner = match step["ifindex"].is_u64() {
                true => text(&step, "ifname").to_owned(),
                false => String::new(),
            };
            decisions
                .entry(owner)
                .or_default()
                .push(text(&step, "word").to_owned());
        }
    }
    decisions
}

fn replayed(mut tapwire: Command, file: &Path) -> Vec<Value> {
    lines(&tapwire.args(["--json", "replay"]).arg(file).output().unwrap())
}

fn operations(replayed: &[Value]) -> Decisions {
    let mut decisions = Decisions::new();
    for operation in replayed.iter().filter(|line| line["op"].is_string()) {
        let owner = text(operation, "tap").to_owned();
        decisions
            .entry(owner)
            .or_default()
            .push(text(operation, "op").to_owned());
    }
    decisions
}

/// The last object: ports by state.
fn ports(replayed: &[Value]) -> Value {
    replayed.last().unwrap()["summary"]["ports"].clone()
}

fn attached(daemon: &Daemon, number: usize) {
    wait_until("all are attached", SOON, || {
        daemon.status()["ports"]["attached"] == number
    });
}

#[test]
fn the_recording_of_a_daemon_replays_to_the_same_decisions() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        let recording = Recording::of(&daemon);
        let mut taps = Vec::new();
        for number in 0..5 {
            taps.push(host.tap(&format!("tap{number}")));
            attached(&daemon, number + 1);
        }
        // Somebody takes one off.
        host.ip("link set tap1 nomaster");
        wait_until("tap1 is put back", SOON, || host.is_attached("tap1", "brqblue"));
        attached(&daemon, 5);
        let decided = decided(&daemon);
        let file = recording.finish();
        let replayed = replayed(daemon.command(&[]), &file);
        // Kinds, not numbers: a daemon that is kept from running sees two changes as one, or one as two.
        assert_eq!(kinds(&operations(&replayed)), kinds(&decided));
        assert!(decided["tap1"].iter().filter(|op| *op == "attach").count() >= 2);
        assert_eq!(ports(&replayed)["attached"], 5);
        assert_eq!(replayed.last().unwrap()["summary"]["undecodable"], 0);
    });
}

/// Which operations each device saw at all.
fn kinds(operations: &BTreeMap<String, Vec<String>>) -> BTreeMap<&str, BTreeSet<&str>> {
    operations
        .iter()
        .map(|(name, list)| (name.as_str(), list.iter().map(String::as_str).collect()))
        .collect()
}

#[test]
fn devices_that_go_and_come_again_are_followed_by_their_names() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        let recording = Recording::of(&daemon);
        let mut taps = host.taps("tap", 3);
        attached(&daemon, 3);
        drop(taps.pop());
        attached(&daemon, 2);
        let _successor = host.tap("tap2");
        attached(&daemon, 3);
        host.ip("link del brqblue");
        wait_until("all are back", SOON, || {
            (0..3).all(|number| host.is_attached(&format!("tap{number}"), "brqblue"))
        });
        attached(&daemon, 3);
        let file = recording.finish();
        let replayed = replayed(daemon.command(&[]), &file);
        // A daemon may or may not be quick enough to touch what is just going, so that operations differ in number.
        let operations = operations(&replayed);
        let made = operations[""].iter().filter(|op| *op == "create_bridge").count();
        assert_eq!(made, 2, "{operations:?}");
        assert_eq!(ports(&replayed)["attached"], 3);
    });
}

#[test]
fn what_stood_before_the_recording_is_taken_from_its_listing() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        let _taps = host.taps("tap", 3);
        attached(&daemon, 3);
        let recording = Recording::of(&daemon);
        let _one_more = host.tap("tap9");
        attached(&daemon, 4);
        let file = recording.finish();
        let replayed = replayed(daemon.command(&[]), &file);
        let operations = operations(&replayed);
        assert_eq!(operations.keys().collect::<Vec<_>>(), ["tap9"], "{operations:?}");
        assert_eq!(operations["tap9"], decided(&daemon)["tap9"]);
        assert_eq!(ports(&replayed)["attached"], 4);
    });
}

#[test]
fn vxlan_forwarding_and_a_flat_networks_address_replay_to_the_same_decisions() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("eth0", &other, "eth0");
        host.join("eth1", &other, "eth1");
        host.ip("address add 192.0.2.11/24 dev eth0");
        host.ip("address add 198.51.100.11/24 dev eth1");
        host.ip("route add 203.0.113.0/24 via 198.51.100.1");
        let daemon = host.daemon(
            r#"
[taps]
match = ["tap*"]
[physical_networks]
physnet1 = { interface = "eth1" }
[vxlan]
local_ip = "192.0.2.11"
l2_population = true
[[network]]
id = "red"
network_type = "vxlan"
segmentation_id = 7
[[network.peer]]
vtep = "192.0.2.12"
mac = "fa:16:3e:00:00:07"
[[network.peer]]
vtep = "192.0.2.13"
[[network]]
id = "flat"
network_type = "flat"
physical_network = "physnet1"
[[port]]
tap = "tap-r*"
network = "red"
[[port]]
tap = "tap-f*"
network = "flat"
"#,
        );
        let recording = Recording::of(&daemon);
        let _red = host.tap("tap-r0");
        attached(&daemon, 1);
        let _flat = host.tap("tap-f0");
        attached(&daemon, 2);
        let file = recording.finish();
        let replayed = replayed(daemon.command(&[]), &file);
        let operations = operations(&replayed);
        assert_eq!(operations, decided(&daemon));
        assert!(operations[""].contains(&"fdb".to_owned()), "{operations:?}");
        assert!(operations[""].contains(&"address".to_owned()), "{operations:?}");
        assert_eq!(ports(&replayed)["attached"], 2);
    });
}

#[test]
fn a_recording_without_a_daemon_shows_what_one_would_have_done() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let folder = tempfile::tempdir().unwrap();
        let tapwire = || {
            let mut command = host.command(env!("CARGO_BIN_EXE_tapwire"));
            command.env("TAPWIRE_SOCKET", folder.path().join("none.sock"));
            command
        };
        let recording = Recording::start(tapwire(), folder.path().join("recording.pcapng"));
        let taps = host.taps("tap", 3);
        // As a VM manager without tapwire goes on: none of this is a change to what the daemon would have done.
        for number in 0..3 {
            host.ip(&format!("link set tap{number} address 02:00:00:00:00:0{number}"));
            host.ip(&format!("link set tap{number} up"));
        }
        drop(taps);
        let _last = host.tap("tap3");
        let file = recording.finish();
        let config = folder.path().join("tapwire.toml");
        std::fs::write(&config, BLUE).unwrap();
        let mut command = tapwire();
        command.arg("--config").arg(&config);
        let replayed = replayed(command, &file);
        let operations = operations(&replayed);
        assert_eq!(operations[""][0], "create_bridge");
        for number in 0..4 {
            let of_tap = &operations[&format!("tap{number}")];
            let attaches = of_tap.iter().filter(|op| *op == "attach").count();
            assert_eq!(attaches, 1, "{operations:?}");
        }
        assert_eq!(ports(&replayed)["attached"], 1);
        assert!(!Path::new("/sys/class/net/brqblue").exists());
    });
}

#[test]
fn a_flat_networks_address_would_move_to_a_bridge_that_the_recording_never_tells_of() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("eth1", &other, "eth1");
        host.ip("address add 198.51.100.11/24 dev eth1");
        host.ip("route add 203.0.113.0/24 via 198.51.100.1");
        let folder = tempfile::tempdir().unwrap();
        let tapwire = || {
            let mut command = host.command(env!("CARGO_BIN_EXE_tapwire"));
            command.env("TAPWIRE_SOCKET", folder.path().join("none.sock"));
            command
        };
        let recording = Recording::start(tapwire(), folder.path().join("recording.pcapng"));
        let _tap = host.tap("tap0");
        // The address is told once more: no reason to move it again.
        host.ip("address change 198.51.100.11/24 dev eth1");
        let file = recording.finish();
        let config = folder.path().join("tapwire.toml");
        let flat = BLUE.replace(
            "network_type = \"local\"",
            "network_type = \"flat\"\nphysical_network = \"physnet1\"",
        );
        std::fs::write(
            &config,
            format!("[physical_networks]\nphysnet1 = {{ interface = \"eth1\" }}\n{flat}"),
        )
        .unwrap();
        let mut command = tapwire();
        command.arg("--config").arg(&config);
        let replayed = replayed(command, &file);
        let of_addresses: Vec<&str> = replayed
            .iter()
            .filter(|line| line["op"] == "address" || line["op"] == "route")
            .map(|line| text(line, "line"))
            .collect();
        let moved = [
            "ip address replace 198.51.100.11/24 dev brqblue",
            "ip route append 203.0.113.0/24 via 198.51.100.1",
            "ip route del 203.0.113.0/24 via 198.51.100.1",
            "ip address del 198.51.100.11/24 dev eth1",
        ];
        let begins = |(line, begin): (&&str, &&str)| line.starts_with(begin);
        assert!(
            of_addresses.len() == moved.len() && of_addresses.iter().zip(&moved).all(begins),
            "{of_addresses:#?}"
        );
        assert_eq!(ports(&replayed)["attached"], 1);
    });
}
