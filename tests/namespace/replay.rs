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
        let mut recording = Self::start(daemon.command(&[]), daemon.path("recording.pcapng"));
        recording.wait_for_the_account();
        recording
    }

    /// Until everything that the daemon does is recorded.
    fn wait_for_the_account(&mut self) {
        self.wait_for("from here on the recording holds all");
    }

    fn wait_for(&mut self, said: &str) {
        let mut line = String::new();
        while !line.contains(said) {
            line.clear();
            assert_ne!(self.stderr.read_line(&mut line).unwrap(), 0, "never said: {said}");
        }
    }

    /// Everything the kernel has sent by now is in.
    fn finish(mut self) -> PathBuf {
        let pid = libc::pid_t::try_from(self.process.id()).unwrap();
        // SAFETY: takes no pointers; the pid is our own child's, not yet waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        assert!(self.process.wait().unwrap().success());
        self.wait_for(" 0 lost");
        self.file
    }
}

/// Operations in their order, by tap; those of networks under "".
type Decisions = BTreeMap<String, Vec<String>>;

fn lines(output: &std::process::Output) -> Vec<Value> {
    let said = String::from_utf8_lossy(&output.stdout);
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}{last:#?}");
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

/// `tapwire` that finds no daemon.
fn without_daemon(host: &Host, folder: &Path) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_tapwire"));
    command.env("TAPWIRE_SOCKET", folder.join("none.sock"));
    command
}

/// As a daemon with this configuration would have decided.
fn replayed(mut tapwire: Command, file: &Path) -> Vec<Value> {
    lines(
        &tapwire
            .args(["--json", "replay", "--what-if"])
            .arg(file)
            .output()
            .unwrap(),
    )
}

/// As the recorded daemon did decide: anything else would be an error.
fn repeated(daemon: &Daemon, file: &Path) -> Vec<Value> {
    lines(&daemon.command(&["--json", "replay"]).arg(file).output().unwrap())
}

/// Index (0: not of a tap), operation and whether it failed, in order.
type Step = (u64, String, bool);

/// By the daemon's own memory.
fn remembered(daemon: &Daemon) -> Vec<Step> {
    lines(&daemon.output(&["--json", "trace", "--history"]))
        .iter()
        .filter(|step| text(step, "kind") == "op")
        .map(|step| {
            let index = step["ifindex"].as_u64().unwrap_or_default();
            (
                index,
                text(step, "word").to_owned(),
                !text(step, "text").is_empty(),
            )
        })
        .collect()
}

fn steps(replayed: &[Value]) -> Vec<Step> {
    replayed
        .iter()
        .filter(|line| line["op"].is_string())
        .map(|line| {
            let index = line["ifindex"].as_u64().unwrap_or_default();
            (index, text(line, "op").to_owned(), line["error"].is_string())
        })
        .collect()
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

#[track_caller]
fn assert_same(replayed: &[Step], done: &[Step]) {
    let pairs = replayed.iter().zip(done).enumerate();
    let differ: Vec<_> = pairs.filter(|(_, (a, b))| a != b).take(3).collect();
    assert!(
        differ.is_empty() && replayed.len() == done.len(),
        "replayed and done differ: {differ:?}"
    );
}

const MANY: &str = r#"
[taps]
match = ["tap*"]
[vxlan]
local_ip = "192.0.2.11"
l2_population = true
[policy]
plugins = ["plugins/mtu.lua"]
[[network]]
id = "blue"
network_type = "local"
[[network]]
id = "green"
network_type = "local"
[[network]]
id = "red"
network_type = "vxlan"
segmentation_id = 7
[[network.peer]]
vtep = "192.0.2.12"
mac = "fa:16:3e:00:00:07"
[[port]]
tap = "tap-b*"
network = "blue"
[[port]]
tap = "tap-r*"
network = "red"
"#;

/// A verdict that takes a worker's time.
const PLUGIN: &str = r#"
return { api = 1, port = function(ctx)
  -- More than a tap can take.
  if ctx.link.name == "tap-x" then return { mtu = 65535 } end
  return { mtu = 1400 }
end }
"#;

#[test]
fn a_recorded_life_replays_to_exactly_the_same_decisions() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("eth0", &other, "eth0");
        host.ip("address add 192.0.2.11/24 dev eth0");
        // Somebody has the VNI: the kernel refuses ours until that is gone.
        host.ip("link add other type vxlan id 7 dstport 4789 local 192.0.2.11");
        let mut daemon = host.daemon(BLUE);
        daemon.stop();
        daemon.write_file("plugins/mtu.lua", PLUGIN);
        daemon.write_configuration(MANY);
        // Recorded from before the start.
        let mut recording = Recording::start(daemon.command(&[]), daemon.path("recording.pcapng"));
        daemon.start();
        daemon.wait_in_sync();
        recording.wait_for_the_account();
        let blue = host.taps("tap-b", 3);
        attached(&daemon, 3);
        let _red = host.tap("tap-r0");
        wait_until("the VNI is refused", SOON, || {
            daemon.network("red")["state"] != "ready"
        });
        host.ip("link set tap-b1 nomaster");
        wait_until("tap-b1 is put back", SOON, || {
            host.is_attached("tap-b1", "brqblue")
        });
        // By command: bound, moved, unbound.
        let _bound = host.tap("tap-x");
        daemon.json(&["port", "bind", "tap-x", "green"]);
        daemon.wait_port("tap-x", "attached");
        daemon.json(&["port", "bind", "tap-x", "blue"]);
        wait_until("it is moved", SOON, || host.is_attached("tap-x", "brqblue"));
        daemon.json(&["port", "unbind", "tap-x"]);
        host.ip("link del other");
        daemon.wait_port("tap-r0", "attached");
        // By file.
        daemon.reload(&MANY.replace("192.0.2.12", "192.0.2.13"));
        daemon.reload(&MANY.replace(
            "tap = \"tap-b*\"\nnetwork = \"blue\"",
            "tap = \"tap-b*\"\nnetwork = \"green\"",
        ));
        wait_until("all are moved", SOON, || {
            (0..3).all(|n| host.is_attached(&format!("tap-b{n}"), "brqgreen"))
        });
        daemon.json(&["resync"]);
        let burst = host.taps("tap-b9", 100);
        attached(&daemon, 104);
        host.ip("link del brqgreen");
        drop(burst);
        drop(blue);
        attached(&daemon, 1);
        let first = remembered(&daemon);
        daemon.stop();
        daemon.start();
        daemon.wait_in_sync();
        recording.wait_for_the_account();
        let _last = host.tap("tap-b0");
        attached(&daemon, 2);
        let second = remembered(&daemon); //DBG
        let file = recording.finish();
        std::fs::copy(&file, "/tmp/life.pcapng").unwrap();
        let repeated = repeated(&daemon, &file);
        let steps = steps(&repeated);
        assert!(first.iter().any(|(_, _, failed)| *failed), "{first:?}");
        assert!(first.len() > 300, "{}", first.len());
        assert_same(&steps[..first.len()], &first);
        assert_same(&steps[steps.len() - second.len()..], &second);
        let summary = &repeated.last().unwrap()["summary"];
        assert_eq!(summary["as_recorded"]["states"], 2);
        assert_eq!(summary["as_recorded"]["gaps"], 0);
        assert_eq!(summary["ports"]["attached"], 2);
    });
}

#[test]
fn a_recording_begun_in_the_middle_of_a_burst_replays_exactly() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        let made = std::thread::scope(|scope| {
            let burst = scope.spawn(|| host.within(|| host.taps("tap", 300)));
            let recording = Recording::of(&daemon);
            let taps = burst.join().unwrap();
            attached(&daemon, 300);
            (taps, recording)
        });
        let file = made.1.finish();
        let repeated = repeated(&daemon, &file);
        let (all, recorded) = (remembered(&daemon), steps(&repeated));
        assert!(all.ends_with(&recorded));
        assert_eq!(repeated.last().unwrap()["summary"]["ports"]["attached"], 300);
        assert_eq!(repeated.last().unwrap()["summary"]["as_recorded"]["gaps"], 0);
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
        let tapwire = || without_daemon(&host, folder.path());
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
fn what_is_put_off_for_a_moment_at_the_end_of_a_recording_is_still_done() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let folder = tempfile::tempdir().unwrap();
        let tapwire = || without_daemon(&host, folder.path());
        host.ip("link add other type bridge");
        let recording = Recording::start(tapwire(), folder.path().join("recording.pcapng"));
        let _tap = host.tap("tap0");
        // A port that left its bridge may be on its way elsewhere: the engine waits a little before it takes it back.
        host.ip("link set tap0 master other");
        let file = recording.finish();
        let config = folder.path().join("tapwire.toml");
        std::fs::write(&config, BLUE.replace("[taps]", "[taps]\nadopt = true")).unwrap();
        let mut command = tapwire();
        command.arg("--config").arg(&config);
        let replayed = replayed(command, &file);
        let attaches = operations(&replayed)["tap0"]
            .iter()
            .filter(|op| *op == "attach")
            .count();
        assert_eq!(attaches, 2, "once when it came, once when it was taken");
        assert_eq!(ports(&replayed)["attached"], 1);
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
        let tapwire = || without_daemon(&host, folder.path());
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

const SITE_PLUGIN: &str = r#"
return {
  api = 1,
  resolve = function(ctx)
    if ctx.link.name == "other0" then return { network = "blue" } end
  end,
  network = function(ctx) return { tags = { word = "said by " .. ctx.network.id } } end,
  port = function(ctx)
    if ctx.link.name == "tap1" then return { deny = "not this one" } end
    return { mtu = 1400, port = { isolated = true }, alias = ctx.network.tags.word }
  end,
}
"#;

#[test]
fn the_configured_plugins_are_asked_as_the_daemon_asked_them() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let site = BLUE.replace("\"tap*\"]", "\"tap*\", \"other*\"]");
        let site = format!("{site}[policy]\nplugins = [\"site.lua\"]\n");
        let mut daemon = Daemon::spawn(&host, BLUE);
        daemon.wait_in_sync();
        daemon.write_file("site.lua", SITE_PLUGIN);
        daemon.stop();
        daemon.write_configuration(&site);
        daemon.start();
        daemon.wait_in_sync();
        let recording = Recording::of(&daemon);
        let _taps = [host.tap("tap0"), host.tap("tap1"), host.tap("other0")];
        attached(&daemon, 2);
        daemon.wait_port("tap1", "denied");
        let decided = decided(&daemon);
        let file = recording.finish();
        let again = replayed(daemon.command(&[]), &file);
        let (done, mut decided) = (operations(&again), decided);
        // What is done for a tap while its plugins think: here they answer at once.
        decided.remove("tap1");
        // A tap may be asked about a moment before its network's tags are said; then the alias is a request of its own.
        for operations in decided.values_mut() {
            operations.retain(|op| op != "set_link");
        }
        assert_eq!(kinds(&done), kinds(&decided));
        assert_eq!(ports(&again)["attached"], 2);
        assert_eq!(ports(&again)["denied"], 1);
        let has = |replayed: &[Value], tap: &str, words: &str| {
            replayed
                .iter()
                .any(|line| text(line, "tap") == tap && text(line, "line").contains(words))
        };
        for tap in ["tap0", "other0"] {
            assert!(has(&again, tap, "mtu 1400"), "{again:#?}");
            assert!(has(&again, tap, "said by blue"), "{again:#?}");
            assert!(has(&again, tap, "isolated on"), "{again:#?}");
        }
        // What a changed plugin would have decided on the same day, and that one failed.
        daemon.write_file(
            "site.lua",
            "return { api = 1, on_error = 'skip', port = function(ctx)\n\
             if ctx.link.name == 'tap1' then error('no idea') end\n\
             return { mtu = 1300 } end }",
        );
        let changed = replayed(daemon.command(&[]), &file);
        assert!(has(&changed, "tap0", "mtu 1300"), "{changed:#?}");
        assert_eq!(ports(&changed)["attached"], 2, "{changed:#?}");
        let failures: Vec<&Value> = changed.iter().filter(|line| line["plugin"].is_string()).collect();
        assert!(
            failures.len() == 1 && text(failures[0], "error").contains("site.lua:2: no idea"),
            "{failures:?}"
        );
        // One that does not load is no replay.
        daemon.write_file("site.lua", "return {");
        let refused = daemon
            .command(&["replay", "--what-if"])
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    });
}

#[test]
fn timers_of_plugins_run_in_the_recordings_time() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        let recording = Recording::of(&daemon);
        let _one = host.tap("tap0");
        attached(&daemon, 1);
        // Two whole seconds of the recording are in this, wherever it begins.
        std::thread::sleep(Duration::from_millis(2200));
        let _two = host.tap("tap1");
        attached(&daemon, 2);
        let file = recording.finish();
        daemon.write_file(
            "site.lua",
            "return { api = 1, every = '1s', tick = function() return { invalidate = { taps = { 'tap0' } } } end,\n\
             port = function(ctx)\n\
             if ctx.reason == 'invalidate' then return { alias = 'asked again at ' .. math.floor(ctx.now) } end end }",
        );
        let config = daemon.path("other.toml");
        std::fs::write(&config, format!("{BLUE}[policy]\nplugins = [\"site.lua\"]\n")).unwrap();
        let mut command = daemon.command(&[]);
        command.arg("--config").arg(&config);
        let began = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let replayed = replayed(command, &file);
        // When, in the recording and by the clock. How often depends on how long the machine took to record.
        let asked: Vec<(u64, u64)> = replayed
            .iter()
            .filter(|line| text(line, "tap") == "tap0")
            .filter_map(|line| {
                Some((
                    line["ts_us"].as_u64()?,
                    text(line, "line").split_once("asked again at ")?.1,
                ))
            })
            .map(|(ts_us, rest)| {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                (ts_us, digits.parse().unwrap())
            })
            .collect();
        assert!(asked.len() >= 2, "{replayed:#?}");
        // Each second of the recording once; the replay itself takes milliseconds.
        assert!(asked[0].0 >= 1_000_000, "{asked:?}");
        for pair in asked.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= 1_000_000, "{asked:?}");
        }
        let end = replayed.last().unwrap()["summary"]["took_us"].as_u64().unwrap();
        assert!(asked.len() as u64 <= end / 1_000_000, "{asked:?} {end}");
        for (ts_us, at) in &asked {
            let began_recording = at - ts_us / 1_000_000;
            let (first_ts, first) = asked[0];
            assert!(
                began_recording.abs_diff(first - first_ts / 1_000_000) <= 1,
                "{asked:?}"
            );
            assert!(*at <= began && at + 60 > began, "{asked:?} {began}");
        }
    });
}
