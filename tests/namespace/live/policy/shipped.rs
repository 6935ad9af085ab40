//! Each shipped plugin, as its header says to configure it: its decision is on the kernel's devices, comes back after
//! drift, follows a changed option, and leaves nothing behind when the plugin goes.

use super::super::{bridge_option, detail, reason};
use super::{fdb, has_static, policy, port_flag, reload_plugins, shipped};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Networks `storage` and `guests` without uplink, taps `tap0-*` and `tap1-*`.
const LOCAL: &str = r#"
[daemon]
prune_after = "never"
[taps]
match = ["tap*", "fc-*", "fwpr*"]
[[network]]
id = "storage"
network_type = "local"
[[network]]
id = "guests"
network_type = "local"
[[port]]
tap = "tap0-*"
network = "storage"
[[port]]
tap = "tap1-*"
network = "guests"
"#;

/// A VXLAN network `blue` over `wire0`.
const VXLAN: &str = r#"
[daemon]
prune_after = "never"
[taps]
match = ["tap*"]
[vxlan]
local_ip = "192.0.2.11"
l2_population = true
[[network]]
id = "blue"
network_type = "vxlan"
segmentation_id = 100
[[network.peer]]
vtep = "192.0.2.12"
[[port]]
tap = "tap0-*"
network = "blue"
"#;

fn underlay(mtu: u32) -> Host {
    let host = Host::here();
    host.ip("link add wire0 type veth peer name wire1");
    host.ip(&format!("link set wire0 mtu {mtu} up"));
    host.ip("link set wire1 up");
    host.ip("address add 192.0.2.11/24 dev wire0");
    host
}

#[track_caller]
fn wait_mtu(host: &Host, link: &str, mtu: u32) {
    wait_until(&format!("{link} has mtu {mtu}"), SOON, || {
        detail(host, link, "mtu") == mtu
    });
}

#[track_caller]
fn wait_flag(host: &Host, tap: &str, flag: &str, value: bool) {
    wait_until(&format!("{tap} has {flag} {value}"), SOON, || {
        port_flag(host, tap, flag) == value
    });
}

#[test]
fn mtu_sets_tap_bridge_and_vxlan_device_and_follows_the_underlay() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vxlan);
        let host = underlay(4000);
        let mtu = policy(&[shipped("mtu")], "[policy.plugin.mtu]\nheadroom = 60");
        let daemon = host.daemon(&format!("{VXLAN}{mtu}"));
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        for link in ["tap0-1", "brqblue", "vxlan-100"] {
            assert_eq!(detail(&host, link, "mtu"), 3940, "{link}");
        }
        // Drift.
        for link in ["tap0-1", "brqblue", "vxlan-100"] {
            host.ip(&format!("link set {link} mtu 1400"));
            wait_mtu(&host, link, 3940);
        }
        // The underlay changes: what was made from its MTU is asked for again.
        host.ip("link set wire0 mtu 3000");
        for link in ["tap0-1", "brqblue", "vxlan-100"] {
            wait_mtu(&host, link, 2940);
        }
        // Another option.
        let wider = policy(&[shipped("mtu")], "[policy.plugin.mtu]\nheadroom = 100");
        daemon.reload(&format!("{VXLAN}{wider}"));
        reload_plugins(&daemon);
        for link in ["tap0-1", "brqblue", "vxlan-100"] {
            wait_mtu(&host, link, 2900);
        }
        daemon.assert_nothing_planned();
        // Without the plugin: what the underlay leaves room for.
        daemon.reload(VXLAN);
        for link in ["tap0-1", "brqblue", "vxlan-100"] {
            wait_mtu(&host, link, 2950);
        }
        assert_eq!(daemon.port("tap0-1").unwrap()["state"], "attached");
    });
}

#[test]
fn mtu_takes_a_table_by_network() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mtu = policy(
            &[shipped("mtu")],
            "[policy.plugin.mtu]\nnetworks = { storage = 9000 }",
        );
        let daemon = host.daemon(&format!("{LOCAL}{mtu}"));
        let _taps = [host.tap("tap0-1"), host.tap("tap1-1")];
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap1-1", "attached");
        assert_eq!(detail(&host, "tap0-1", "mtu"), 9000);
        assert_eq!(detail(&host, "brqstorage", "mtu"), 9000);
        assert_eq!(detail(&host, "tap1-1", "mtu"), 1500);
    });
}

#[test]
fn fdb_static_writes_its_table_turns_learning_off_and_leaves_others_entries() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vxlan);
        let host = underlay(1500);
        let rows = |rows: &str| {
            let entries = format!("[policy.plugin.fdb_static]\nentries = [{rows}]");
            format!("{VXLAN}{}", policy(&[shipped("fdb_static")], &entries))
        };
        let here = r#"{ network = "blue", mac = "fa:16:3e:00:00:05", tap = "tap0-1" }"#;
        let there = r#"{ network = "blue", mac = "fa:16:3e:00:00:06", vtep = "192.0.2.12" }"#;
        let daemon = host.daemon(&rows(&format!("{here}, {there}")));
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        assert!(!port_flag(&host, "tap0-1", "learning"));
        assert!(has_static(&host, "tap0-1", "fa:16:3e:00:00:05"));
        assert_eq!(detail(&host, "vxlan-100", "linkinfo/info_data/learning"), false);
        let remote = |mac: &str| {
            fdb(&host, "vxlan-100")
                .iter()
                .any(|row| row["mac"] == mac && row["dst"] == "192.0.2.12")
        };
        wait_until("the remote entry is there", SOON, || remote("fa:16:3e:00:00:06"));
        // Drift: a flag heals at once, entries with the next resync (the kernel's links tell nothing of them) ...
        host.run("bridge link set dev tap0-1 learning on");
        wait_flag(&host, "tap0-1", "learning", false);
        host.run("bridge fdb del fa:16:3e:00:00:06 dev vxlan-100 dst 192.0.2.12");
        host.run("bridge fdb del fa:16:3e:00:00:05 dev tap0-1 master");
        daemon.json(&["resync"]);
        wait_until("the entries are back", SOON, || {
            remote("fa:16:3e:00:00:06") && has_static(&host, "tap0-1", "fa:16:3e:00:00:05")
        });
        // ... and with a port that left and came back.
        host.ip("link set tap0-1 nomaster");
        host.wait_attached("tap0-1", "brqblue");
        wait_until("the static entry is back", SOON, || {
            has_static(&host, "tap0-1", "fa:16:3e:00:00:05")
        });
        wait_flag(&host, "tap0-1", "learning", false);
        // An entry of the operator's own stays whatever the table says.
        host.run("bridge fdb add fa:16:3e:00:00:77 dev tap0-1 master static");
        let moved = r#"{ network = "blue", mac = "fa:16:3e:00:00:08", tap = "tap0-1" }"#;
        daemon.reload(&rows(moved));
        reload_plugins(&daemon);
        wait_until("the new table is in force", SOON, || {
            has_static(&host, "tap0-1", "fa:16:3e:00:00:08")
                && !has_static(&host, "tap0-1", "fa:16:3e:00:00:05")
                && !remote("fa:16:3e:00:00:06")
        });
        assert!(has_static(&host, "tap0-1", "fa:16:3e:00:00:77"));
        daemon.assert_nothing_planned();
        daemon.reload(VXLAN);
        wait_until("nothing of the plugin is left", SOON, || {
            !has_static(&host, "tap0-1", "fa:16:3e:00:00:08") && port_flag(&host, "tap0-1", "learning")
        });
        assert!(has_static(&host, "tap0-1", "fa:16:3e:00:00:77"));
    });
}

#[test]
fn port_isolation_isolates_listed_networks_except_gateways() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let options = |networks: &str| {
            let table =
                format!("[policy.plugin.port_isolation]\nnetworks = [{networks}]\ngateways = [\"gw$\"]");
            format!("{LOCAL}{}", policy(&[shipped("port_isolation")], &table))
        };
        let daemon = host.daemon(&options("\"guests\""));
        let _taps = [host.tap("tap0-1"), host.tap("tap1-1"), host.tap("tap1-gw")];
        for tap in ["tap0-1", "tap1-1", "tap1-gw"] {
            daemon.wait_port(tap, "attached");
        }
        let isolated = |tap| port_flag(&host, tap, "isolated");
        assert!(isolated("tap1-1") && !isolated("tap1-gw") && !isolated("tap0-1"));
        host.run("bridge link set dev tap1-1 isolated off");
        wait_flag(&host, "tap1-1", "isolated", true);
        host.ip("link set tap1-1 nomaster");
        host.wait_attached("tap1-1", "brqguests");
        wait_flag(&host, "tap1-1", "isolated", true);
        daemon.reload(&options("\"storage\""));
        reload_plugins(&daemon);
        wait_flag(&host, "tap1-1", "isolated", false);
        wait_flag(&host, "tap0-1", "isolated", true);
        daemon.assert_nothing_planned();
        daemon.reload(LOCAL);
        wait_flag(&host, "tap0-1", "isolated", false);
    });
}

#[test]
fn storm_guard_cuts_floods_and_sets_the_guard() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let options = |more: &str| {
            let table = format!("[policy.plugin.storm_guard]\nexempt = [\"gw$\"]\n{more}");
            format!("{LOCAL}{}", policy(&[shipped("storm_guard")], &table))
        };
        let daemon = host.daemon(&options(""));
        let _taps = [host.tap("tap1-1"), host.tap("tap1-gw")];
        daemon.wait_port("tap1-1", "attached");
        daemon.wait_port("tap1-gw", "attached");
        let flags = |tap| ["flood", "mcast_flood", "bcast_flood", "guard"].map(|f| port_flag(&host, tap, f));
        assert_eq!(flags("tap1-1"), [false, true, true, true]);
        assert_eq!(flags("tap1-gw"), [true, true, true, false]);
        host.run("bridge link set dev tap1-1 flood on guard off");
        wait_until("the flags are back", SOON, || {
            flags("tap1-1") == [false, true, true, true]
        });
        daemon.reload(&options("broadcast = false\nguard = false"));
        reload_plugins(&daemon);
        wait_until("the new options are in force", SOON, || {
            flags("tap1-1") == [false, true, false, false]
        });
        daemon.assert_nothing_planned();
        daemon.reload(LOCAL);
        wait_until("the flags are the kernel's own", SOON, || {
            flags("tap1-1") == [true, true, true, false]
        });
    });
}

#[test]
fn name_patterns_finds_networks_by_name_and_by_an_alias_set_later() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let table = r#"[policy.plugin.name_patterns]
rules = [
  { name = "^fwpr", ignore = true },
  { name = "^fc%-(%l+)%-", network = "%1" },
  { name = "^tapv", alias = "^net:(%S+)", network = "%1" },
]"#;
        let configured = format!("{LOCAL}{}", policy(&[shipped("name_patterns")], table));
        let daemon = host.daemon(&configured);
        let _taps = [host.tap("fc-storage-7"), host.tap("tapv3"), host.tap("fwpr100p0")];
        daemon.wait_port("fc-storage-7", "attached");
        assert_eq!(host.master("fc-storage-7").unwrap(), "brqstorage");
        daemon.wait_port("tapv3", "pending");
        daemon.wait_port("fwpr100p0", "pending");
        // Pending too while the plugin is asked.
        wait_until("the plugin said to leave it alone", SOON, || {
            reason(&daemon, "fwpr100p0") == "left alone by policy"
        });
        // As a libvirt hook does it. The kernel tells of an alias only where the link is up.
        host.ip("link set tapv3 up");
        host.ip("link set tapv3 alias net:guests");
        host.wait_attached("tapv3", "brqguests");
        host.ip("link set tapv3 nomaster");
        host.wait_attached("tapv3", "brqguests");
        // A rule less: the tap of that rule is nobody's any more and is taken off.
        let fewer = table.replace("  { name = \"^fc%-(%l+)%-\", network = \"%1\" },\n", "");
        daemon.reload(&format!("{LOCAL}{}", policy(&[shipped("name_patterns")], &fewer)));
        reload_plugins(&daemon);
        daemon.wait_port("fc-storage-7", "pending");
        assert_eq!(host.master("fc-storage-7"), None);
        assert!(host.is_attached("tapv3", "brqguests"));
        assert_eq!(host.master("fwpr100p0"), None);
    });
}

#[test]
fn deny_unknown_lets_in_ports_and_exceptions_and_detaches_nobody() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let known = "\n[[port]]\nid = \"0f3a9c6e-1b22-4f5d-8d7e-aa0102030405\"\nnetwork = \"guests\"\n";
        let options = |networks: &str| {
            let table = format!("[policy.plugin.deny_unknown]\nnetworks = [{networks}]");
            format!("{LOCAL}{known}{}", policy(&[shipped("deny_unknown")], &table))
        };
        let daemon = host.daemon(&options("\"storage\""));
        let _taps = [host.tap("tap0f3a9c6e-1b"), host.tap("tap0-1"), host.tap("tap1-1")];
        daemon.wait_port("tap0f3a9c6e-1b", "attached");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap1-1", "denied");
        assert!(reason(&daemon, "tap1-1").contains("no mapping names tap1-1"));
        assert_eq!(host.master("tap1-1"), None);
        assert!(!host.is_up("tap1-1"));
        // Somebody puts it there by hand: it is still denied, and nobody's port.
        host.ip("link set tap1-1 up");
        assert_eq!(host.master("tap1-1"), None);
        // Stricter: who is in stays in.
        daemon.reload(&options(""));
        reload_plugins(&daemon);
        daemon.wait_port("tap0-1", "denied");
        assert!(
            host.is_attached("tap0-1", "brqstorage"),
            "no script detaches a tap"
        );
        // Off: everybody may.
        daemon.reload(LOCAL);
        daemon.wait_port("tap1-1", "attached");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(bridge_option(&host, "brqguests", "stp_state"), 0);
    });
}
