//! `tapwire explain` through the daemon: failures that are really there, and last lines that name their true cause.
//!
//! The lines are compared whole: an operator acts on them.

use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The last line of the story as printed, without its stamp.
#[track_caller]
pub fn conclusion(daemon: &Daemon, tap: &str) -> String {
    let output = daemon.output(&["explain", tap]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let line = text.lines().last().unwrap_or_default();
    let (_stamp, rest) = line.trim_start().split_once("  ").expect(line);
    rest.strip_prefix("state    ").expect(line).to_owned()
}

const NOTHING_TO_DO: &str = "attached to network blue on bridge brqblue and up; nothing is to be done";

/// One daemon with a network for each way to fail.
const CONFIGURATION: &str = r#"
[taps]
match = ["tap*"]
[physical_networks]
absent = { interface = "eth9" }
nobridge = { bridge = "br-ext" }
[vxlan]
local_ip = "192.0.2.99"
l2_population = true
[policy]
plugins = ["PLUGINS"]
[[network]]
id = "blue"
network_type = "local"
[[network]]
id = "bridged"
network_type = "flat"
physical_network = "nobridge"
[[network]]
id = "nicless"
network_type = "flat"
physical_network = "absent"
[[network]]
id = "tunnel"
network_type = "vxlan"
segmentation_id = 7
[[network]]
id = "inway"
network_type = "local"
[[network]]
id = "big"
network_type = "local"
mtu = 65535
[[port]]
tap = "tap-blue*"
network = "blue"
[[port]]
tap = "tap-down"
network = "blue"
admin_state_up = false
[[port]]
tap = "tap-bridged"
network = "bridged"
[[port]]
tap = "tap-nic"
network = "nicless"
[[port]]
tap = "tap-tunnel"
network = "tunnel"
[[port]]
tap = "tap-inway"
network = "inway"
[[port]]
tap = "tap-big"
network = "big"
"#;

const POLICY: &str = r#"
return {
  api = 1,
  resolve = function(ctx)
    if ctx.link.name == "tap-lost" then return { network = "nowhere" } end
    if ctx.link.name == "tap-ignored" then return { ignore = true } end
  end,
  port = function(ctx)
    if ctx.link.name == "tap-blue-quota" then return { deny = "tenant over quota" } end
  end,
}
"#;

const BROKEN: &str = r#"
return {
  api = 1,
  on_error = "deny",
  when = { tap = "tap-blue-broken" },
  port = function(ctx)
    return { mtu = ctx.link.alias.name }
  end,
}
"#;

#[test]
fn the_last_line_names_the_true_cause_of_failures_that_are_really_there() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vxlan);
        let host = Host::here();
        host.ip("link add virbr0 type bridge");
        host.ip("link add brqinway type veth peer name pipe");
        let plugins = tempfile::tempdir().unwrap();
        for (file, text) in [("policy.lua", POLICY), ("broken.lua", BROKEN)] {
            std::fs::write(plugins.path().join(file), text).unwrap();
        }
        let folder = plugins.path().to_str().unwrap();
        let daemon = host.daemon(&CONFIGURATION.replace("PLUGINS", folder));
        let names = [
            "tap-blue",
            "tap-blue-quota",
            "tap-blue-held",
            "tap-blue-set",
            "tap-blue-broken",
            "tap-down",
            "tap-bridged",
            "tap-nic",
            "tap-tunnel",
            "tap-inway",
            "tap-big",
            "tap-lost",
            "tap-ignored",
            "tap-unmapped",
            "vnet0",
        ];
        let _taps: Vec<_> = names.iter().map(|name| host.tap(name)).collect();
        host.ip("link add tap-pair type veth peer name tap-riap");
        daemon.wait_port("tap-blue-held", "attached");
        daemon.wait_port("tap-blue-set", "attached");
        host.ip("link set tap-blue-held master virbr0");
        host.ip("link set tap-blue-set down");
        daemon.wait_port("tap-blue-held", "conflict");
        for name in ["tap-blue", "tap-down", "tap-big"] {
            daemon.wait_port(name, "attached");
        }
        for name in ["tap-blue-quota", "tap-blue-broken"] {
            daemon.wait_port(name, "denied");
        }
        wait_until("tap-blue-set is seen down", Duration::from_secs(10), || {
            daemon.port("tap-blue-set").unwrap()["reason"] != serde_json::Value::Null
        });
        daemon.wait_port("tap-inway", "pending");
        for name in ["tap-bridged", "tap-nic", "tap-tunnel", "tap-lost", "tap-unmapped"] {
            daemon.wait_port(name, "pending");
        }
        let policy = format!("(hook port, {folder}/policy.lua:9)");
        let broken = format!(
            "{folder}/broken.lua:7: `ctx.link.alias` is nil, it has no `name`; \
             parts that do not apply are nil, so test it first"
        );
        let causes = [
            ("tap-blue", NOTHING_TO_DO.to_owned()),
            (
                "tap-unmapped",
                "pending: no mapping says which network it belongs to; add a [[port]] or `tapwire port bind` it".into(),
            ),
            (
                "vnet0",
                "unmanaged: its name matches none of taps.match (tap*); rename it or add a pattern".into(),
            ),
            (
                "tap-pair",
                "unmanaged: it is no tap (kind: veth); kinds other than tap must be named in taps.other_kinds".into(),
            ),
            (
                "tap-lost",
                "pending: it is mapped to network nowhere, which nobody has told of; \
                 add the [[network]] or correct the mapping"
                    .into(),
            ),
            (
                "tap-ignored",
                "pending: a plugin told us to leave it alone; `tapwire policy eval` says which".into(),
            ),
            (
                "tap-nic",
                "pending: network nicless waits for interface eth9 of physical network absent; \
                 it goes on the moment eth9 appears; is the name right, the driver loaded?"
                    .into(),
            ),
            (
                "tap-bridged",
                "pending: network bridged waits for bridge br-ext of physical network nobridge; \
                 it goes on the moment br-ext appears"
                    .into(),
            ),
            (
                "tap-tunnel",
                "pending: network tunnel waits for local_ip 192.0.2.99 to be on a link; \
                 it goes on the moment 192.0.2.99 is on a link that is up"
                    .into(),
            ),
            (
                "tap-inway",
                "pending: network inway is in conflict: brqinway exists but is a veth, not a bridge; \
                 remove the other device, or give the network another name with `bridge`"
                    .into(),
            ),
            (
                "tap-blue-quota",
                format!(
                    "denied by plugin policy: tenant over quota {policy}; \
                     the plugin, its input or its on_error decides otherwise"
                ),
            ),
            (
                "tap-blue-broken",
                format!(
                    "denied by plugin broken: hook port: {broken}; \
                     the plugin, its input or its on_error decides otherwise"
                ),
            ),
            (
                "tap-blue-held",
                "conflict: it is a port of bridge virbr0, which is not ours; \
                 take it out there, or set taps.adopt = true"
                    .into(),
            ),
            (
                "tap-blue-set",
                "attached to network blue on bridge brqblue, but somebody else set it down; \
                 it is left down until it is set up by hand or attached anew"
                    .into(),
            ),
            (
                "tap-down",
                "attached to network blue on bridge brqblue, down because its mapping says admin_state_up = false"
                    .into(),
            ),
            (
                "tap-big",
                "attached to network big on bridge brqbig and up, but the kernel refused mtu 65535 for this tap; \
                 the MTU asked for is outside what the device takes; change the network's mtu or the plugin's"
                    .into(),
            ),
        ];
        for (tap, cause) in &causes {
            assert_eq!(conclusion(&daemon, tap), *cause, "{tap}");
        }
    });
}

const VXLAN: &str = r#"
[taps]
match = ["tap*"]
[vxlan]
local_ip = "192.0.2.11"
l2_population = true
[physical_networks]
physnet1 = { interface = "eth0" }
[[network]]
id = "red"
network_type = "vxlan"
segmentation_id = 7
[[network]]
id = "green"
network_type = "vlan"
segmentation_id = 8
physical_network = "physnet1"
[[port]]
tap = "tap-red"
network = "red"
[[port]]
tap = "tap-green"
network = "green"
"#;

#[test]
fn a_network_that_cannot_be_made_is_told_with_what_is_in_the_way() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vxlan);
        let (host, other) = (Host::here(), Host::new());
        host.join("eth0", &other, "eth0");
        host.ip("address add 192.0.2.11/24 dev eth0");
        // Somebody else's device with the same VNI.
        host.ip("link add theirs type vxlan id 7 local 192.0.2.11 dev eth0 dstport 4789");
        let daemon = host.daemon(VXLAN);
        let _taps = [host.tap("tap-red"), host.tap("tap-green")];
        daemon.wait_port("tap-red", "pending");
        assert_eq!(
            conclusion(&daemon, "tap-red"),
            "pending: network red is in conflict: vni 7 on port 4789 is in use by theirs; \
             remove that device, or give the network another segmentation_id"
        );
        if Feature::Vlan.probe().is_err() {
            daemon.wait_port("tap-green", "failed");
            let story = daemon.json(&["explain", "tap-green"]);
            let steps = story["steps"].as_array().unwrap();
            let told = "create_vlan of network green refused: Operation not supported: Unknown device type";
            assert!(steps.iter().any(|step| step["text"] == told), "{story}");
            let refused = conclusion(&daemon, "tap-green");
            assert!(
                refused.starts_with("failed: network green cannot be made: ip link add link eth0 name eth0.8 ")
                    && refused.ends_with(
                        "; this kernel lacks 802.1Q devices (module 8021q); load the module or use a kernel that has it"
                    ),
                "{refused}"
            );
        }
    });
}

#[test]
fn a_fight_is_told_as_one() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(super::TWO_NETWORKS);
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        // More often than a daemon repairs within five seconds.
        let mut fight = String::new();
        wait_until("the daemon has had enough", Duration::from_secs(20), || {
            host.ip("link set tap0-1 nomaster");
            fight = conclusion(&daemon, "tap0-1");
            fight.starts_with("conflict: ")
        });
        assert!(
            fight.starts_with("conflict: somebody else keeps taking tap0-1 away: ")
                && fight.contains(" repairs; find out who (`tapwire trace`) and stop it; tried again in "),
            "{fight}"
        );
    });
}

#[test]
fn a_tap_that_is_gone_is_told_of_as_long_as_it_is_remembered() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(super::TWO_NETWORKS);
        let tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        drop(tap);
        wait_until("the tap is gone", Duration::from_secs(10), || {
            daemon.port("tap0-1").is_none()
        });
        let story = daemon.json(&["explain", "tap0-1"]);
        let steps = story["steps"].as_array().unwrap();
        assert!(steps.iter().any(|step| step["text"] == "attach done"), "{story}");
        assert_eq!(
            steps.last().unwrap()["text"],
            "there is no such link; it is looked at the moment it appears"
        );
        let never = daemon.output(&["explain", "tap0-2"]);
        assert_eq!(never.status.code(), Some(1));
        let said = String::from_utf8_lossy(&never.stderr).into_owned();
        assert!(said.contains("no link is named tap0-2"), "{said}");
    });
}

#[test]
fn what_the_daemon_remembers_is_written_to_its_state_directory_on_request() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(super::TWO_NETWORKS);
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        let saved = daemon.json(&["trace", "--history", "--save"]);
        let written = std::fs::read_to_string(saved["path"].as_str().unwrap()).unwrap();
        let steps: Vec<serde_json::Value> = written
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(
            steps
                .iter()
                .any(|step| step["kind"] == "op" && step["word"] == "attach" && step["ifname"] == "tap0-1"),
            "{written}"
        );
    });
}

#[test]
fn a_traced_tap_shows_all_that_was_done_about_it() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(super::TWO_NETWORKS);
        // The bridge is there then, and the daemon has nothing else to do.
        let _first = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        let mut trace = daemon
            .command(&["--json", "trace", "--filter", "tap0-2"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Open to the end: it may have more to say.
        let mut stderr = BufReader::new(trace.stderr.take().unwrap());
        let mut begun = String::new();
        stderr.read_line(&mut begun).unwrap();
        assert!(begun.contains("with the daemon's decisions"), "{begun}");
        let _second = host.tap("tap0-2");
        let told = Arc::new(Mutex::new(Vec::<serde_json::Value>::new()));
        let (stdout, lines) = (trace.stdout.take().unwrap(), Arc::clone(&told));
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // The last line may be half a one: the trace is killed.
                let Ok(line) = serde_json::from_str(&line.unwrap()) else {
                    break;
                };
                lines.lock().unwrap().push(line);
            }
        });
        // Beside the event; on a machine so slow that the event did not wait for it, in a line of its own.
        let decided = || {
            told.lock()
                .unwrap()
                .iter()
                .find(|l| l["decision"].is_string())
                .cloned()
        };
        wait_until("the decision is told", Duration::from_secs(10), || {
            decided().is_some()
        });
        trace.kill().unwrap();
        trace.wait().unwrap();
        reader.join().unwrap();
        let line = decided().unwrap();
        assert!(
            line["decision"].as_str().unwrap().ends_with("attach, up"),
            "{line}"
        );
        assert_eq!(line["outcome"], "ok", "{line}");
    });
}
