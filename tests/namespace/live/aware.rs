//! The VLAN-aware bridge on a kernel that has it: what is in which VLAN, what crosses and what must not.

use super::vxlan::{assert_reaches, peer, underlay};
use super::{bridge_option, detail};
use crate::support::feature::{Feature, require};
use crate::support::frame::Nic;
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Veth ends stand for guests' taps. `tap0-*` blue, `tap1-*` red (both local), `tap2-*` a VLAN on a trunk, `tap3-*` a VLAN
/// with a sub-interface.
const FOUR: &str = r#"
[daemon]
prune_after = "1s"
[bridge]
mode = "vlan-aware"
[taps]
match = ["tap*"]
other_kinds = ["veth"]
[physical_networks]
trunk = { interface = "nic0", trunk = true }
access = { interface = "nic1" }
[[network]]
id = "blue"
network_type = "local"
[[network]]
id = "red"
network_type = "local"
[[network]]
id = "tagged"
network_type = "vlan"
physical_network = "trunk"
segmentation_id = 100
[[network]]
id = "sub"
network_type = "vlan"
physical_network = "access"
segmentation_id = 100
[[port]]
tap = "tap0-*"
network = "blue"
[[port]]
tap = "tap1-*"
network = "red"
[[port]]
tap = "tap2-*"
network = "tagged"
[[port]]
tap = "tap3-*"
network = "sub"
"#;

/// A guest: its own namespace, `eth0` there, `tap` on the host.
pub fn guest(host: &Host, tap: &str) -> Host {
    let guest = Host::new();
    host.join(tap, &guest, "eth0");
    guest
}

/// (VID, flags) of a port, as `bridge vlan show` has it.
pub fn vlans(host: &Host, port: &str) -> Vec<(u64, String)> {
    let listed = host.bridge_json(&format!("vlan show dev {port}"));
    let rows = listed[0]["vlans"].as_array().cloned().unwrap_or_default();
    rows.iter()
        .map(|row| {
            let flags = row["flags"].as_array().cloned().unwrap_or_default();
            let flags: Vec<&str> = flags.iter().filter_map(|f| f.as_str()).collect();
            (row["vlan"].as_u64().unwrap(), flags.join(" "))
        })
        .collect()
}

fn only_vlan(host: &Host, port: &str) -> u64 {
    match &vlans(host, port)[..] {
        [(vid, flags)] if flags == "PVID Egress Untagged" => *vid,
        other => panic!("{port} is in {other:?}"),
    }
}

#[test]
fn taps_of_one_network_hear_each_other_and_nobody_else_does() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::VlanFiltering);
        let host = Host::here();
        let mut daemon = host.daemon(FOUR);
        let guests: Vec<Host> = ["tap0-a", "tap0-b", "tap1-c", "tap1-d"]
            .iter()
            .map(|tap| guest(&host, tap))
            .collect();
        for tap in ["tap0-a", "tap0-b", "tap1-c", "tap1-d"] {
            daemon.wait_port(tap, "attached");
            assert!(host.is_attached(tap, "brvlan"));
        }
        assert_eq!(bridge_option(&host, "brvlan", "vlan_filtering"), 1);
        assert_eq!(bridge_option(&host, "brvlan", "vlan_default_pvid"), 0);
        let (blue, red) = (only_vlan(&host, "tap0-a"), only_vlan(&host, "tap1-c"));
        assert_ne!(blue, red);
        assert_eq!(
            (only_vlan(&host, "tap0-b"), only_vlan(&host, "tap1-d")),
            (blue, red)
        );
        let nics: Vec<Nic> = guests.iter().map(|guest| Nic::open(guest, "eth0")).collect();
        nics[0].shout("from blue");
        assert_eq!(nics[1].heard_until("from blue"), ["from blue"]);
        // Sent later, on the same bridge: had the first one come here, it would have come before.
        nics[3].shout("from red");
        assert_eq!(nics[2].heard_until("from red"), ["from red"]);
        daemon.assert_nothing_planned();
        // A restart finds the VLANs where they are.
        daemon.kill();
        let observer = host.observer();
        daemon.start();
        daemon.wait_in_sync();
        daemon.wait_port("tap1-d", "attached");
        assert_eq!(observer.take(), []);
        assert_eq!(
            (only_vlan(&host, "tap0-a"), only_vlan(&host, "tap1-c")),
            (blue, red)
        );
        // Somebody lets red hear blue, then joins the two.
        host.run(&format!("bridge vlan add dev tap1-c vid {blue} untagged"));
        wait_until("the VLAN is gone", SOON, || vlans(&host, "tap1-c").len() == 1);
        host.run(&format!("bridge vlan add dev tap1-c vid {blue} pvid untagged"));
        wait_until("its own is back", SOON, || {
            vlans(&host, "tap1-c") == [(red, "PVID Egress Untagged".to_owned())]
        });
        host.ip("link set brvlan type bridge vlan_filtering 0");
        wait_until("it filters again", SOON, || {
            bridge_option(&host, "brvlan", "vlan_filtering") == 1
        });
        drop((guests, nics));
        wait_until("the bridge is gone", SOON, || host.link("brvlan").is_none());
    });
}

#[test]
fn a_trunk_carries_tags_and_the_same_vid_on_another_nic_is_another_network() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::VlanFiltering, Feature::Vlan);
        let (host, far) = (Host::here(), Host::new());
        host.join("nic0", &far, "trunk");
        host.join("nic1", &far, "access");
        host.ip("address add 198.51.100.1/24 dev nic1");
        host.ip("link set nic0 down");
        for (link, name) in [("trunk", "t100"), ("access", "a100")] {
            far.ip(&format!("link add link {link} name {name} type vlan id 100"));
            far.ip(&format!("link set {name} up"));
        }
        let daemon = host.daemon(FOUR);
        let (two, three) = (guest(&host, "tap2-a"), guest(&host, "tap3-a"));
        daemon.wait_port("tap2-a", "attached");
        daemon.wait_port("tap3-a", "attached");
        assert!(host.is_attached("nic0", "brvlan") && host.is_up("nic0"));
        assert_eq!(vlans(&host, "nic0"), [(100, String::new())]);
        assert!(host.is_attached("nic1.100", "brvlan") && host.link("nic1").unwrap()["master"].is_null());
        assert_eq!(
            (only_vlan(&host, "tap2-a"), only_vlan(&host, "tap3-a")),
            (100, only_vlan(&host, "nic1.100"))
        );
        assert_ne!(only_vlan(&host, "nic1.100"), 100);
        let nic = |host: &Host, name: &str| Nic::open(host, name);
        let (two, three) = (nic(&two, "eth0"), nic(&three, "eth0"));
        let (t100, a100) = (nic(&far, "t100"), nic(&far, "a100"));
        // Each side once the first frame got through: a port learns and a carrier comes up.
        two.shout("over the trunk");
        three.shout("over the sub-interface");
        assert_eq!(t100.heard_until("over the trunk"), ["over the trunk"]);
        assert_eq!(
            a100.heard_until("over the sub-interface"),
            ["over the sub-interface"]
        );
        t100.shout("back by tag");
        a100.shout("back by sub-interface");
        assert_eq!(two.heard_until("back by tag"), ["back by tag"]);
        assert_eq!(
            three.heard_until("back by sub-interface"),
            ["back by sub-interface"]
        );
        // A trunk that has addresses would cut them off.
        daemon.assert_nothing_planned();
        // Drift on the shared uplink, and when nothing needs it.
        host.run("bridge vlan del dev nic0 vid 100");
        wait_until("the tag is back", SOON, || vlans(&host, "nic0").len() == 1);
        host.ip("link set nic0 nomaster");
        wait_until("the trunk is a port again", SOON, || {
            host.is_attached("nic0", "brvlan") && vlans(&host, "nic0").len() == 1
        });
    });
}

#[test]
fn a_trunk_with_addresses_of_the_host_is_left_alone_and_others_work() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::VlanFiltering);
        let (host, far) = (Host::here(), Host::new());
        host.join("nic0", &far, "trunk");
        host.ip("address add 198.51.100.1/24 dev nic0");
        let daemon = host.daemon(FOUR);
        let _taps = (host.tap("tap2-a"), host.tap("tap0-a"));
        daemon.wait_port("tap0-a", "attached");
        daemon.wait_network("tagged", "conflict");
        let reason = daemon.network("tagged")["reason"].to_string();
        assert!(reason.contains("nic0 has addresses of the host"), "{reason}");
        assert!(host.link("nic0").unwrap()["master"].is_null());
        host.ip("address del 198.51.100.1/24 dev nic0");
        daemon.wait_port("tap2-a", "attached");
        assert!(host.is_attached("nic0", "brvlan"));
    });
}

fn tunnels(local_ip: &str, vxlan: &str, peers: &str) -> String {
    format!(
        r#"
[daemon]
prune_after = "1s"
[bridge]
mode = "vlan-aware"
[taps]
match = ["tap*"]
other_kinds = ["veth"]
[vxlan]
local_ip = "{local_ip}"
{vxlan}
[[network]]
id = "blue"
network_type = "vxlan"
segmentation_id = 100
{peers}
[[network]]
id = "red"
network_type = "vxlan"
segmentation_id = 70000
{peers}
[[port]]
tap = "tap0-*"
network = "blue"
[[port]]
tap = "tap1-*"
network = "red"
"#
    )
}

fn two_hosts_over_vxlan(left: &str, right: &str) {
    let (here, there) = underlay();
    let (near, far) = (here.daemon(left), there.daemon(right));
    let guests: Vec<Host> = [
        (&here, "tap0-a"),
        (&there, "tap0-b"),
        (&here, "tap1-a"),
        (&there, "tap1-b"),
    ]
    .iter()
    .map(|(host, tap)| guest(host, tap))
    .collect();
    for (guest, address) in guests
        .iter()
        .zip(["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"])
    {
        guest.ip("link set eth0 mtu 1450");
        guest.ip(&format!("address add {address}/24 dev eth0"));
    }
    for (daemon, tap) in [
        (&near, "tap0-a"),
        (&far, "tap0-b"),
        (&near, "tap1-a"),
        (&far, "tap1-b"),
    ] {
        daemon.wait_port(tap, "attached");
    }
    assert_eq!(only_vlan(&here, "tap0-a"), 100, "a VNI that is a VLAN id is one");
    for pair in [(0, 1), (1, 0), (2, 3)] {
        let address = if pair.1 == 0 { "10.0.0.1" } else { "10.0.0.2" };
        assert_reaches(&guests[pair.0], &guests[pair.1], address);
    }
    let nics: Vec<Nic> = guests.iter().map(|guest| Nic::open(guest, "eth0")).collect();
    nics[0].shout("from blue");
    assert_eq!(nics[1].heard_until("from blue"), ["from blue"]);
    nics[2].shout("from red");
    assert_eq!(nics[3].heard_until("from red"), ["from red"]);
    near.assert_nothing_planned();
    far.assert_nothing_planned();
}

#[test]
fn two_hosts_reach_each_other_over_one_vxlan_device_by_unicast() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::VlanFiltering, Feature::Vxlan);
        two_hosts_over_vxlan(
            &tunnels("192.0.2.11", "l2_population = true", &peer("192.0.2.12", "")),
            &tunnels("192.0.2.12", "l2_population = true", &peer("192.0.2.11", "")),
        );
    });
}

#[test]
fn two_hosts_reach_each_other_over_one_vxlan_device_by_multicast() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::VlanFiltering, Feature::Vxlan);
        let group = "vxlan_group = \"239.1.1.0/24\"";
        two_hosts_over_vxlan(
            &tunnels("192.0.2.11", group, ""),
            &tunnels("192.0.2.12", group, ""),
        );
    });
}

#[test]
fn the_vxlan_device_has_each_networks_vni_entries_and_vlan_while_it_is_needed() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Veth,
            Feature::VlanFiltering,
            Feature::Vxlan
        );
        let (host, _other) = underlay();
        let peers = [
            peer("192.0.2.12", "mac = \"fa:16:3e:00:00:07\""),
            peer("192.0.2.13", ""),
        ]
        .concat();
        let mut daemon = host.daemon(&tunnels("192.0.2.11", "l2_population = true", &peers));
        let (blue, red) = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap1-1", "attached");
        let vnis = || {
            let shown = host.run("bridge vni show dev vxlan-shared");
            let words: Vec<&str> = shown.split_whitespace().collect();
            [words.contains(&"100"), words.contains(&"70000")]
        };
        assert_eq!(vnis(), [true, true]);
        assert_eq!(detail(&host, "vxlan-shared", "linkinfo/info_data/external"), true);
        let entries = || {
            let rows = host.bridge_json("fdb show dev vxlan-shared");
            let rows = rows.as_array().cloned().unwrap_or_default();
            rows.iter().filter(|row| row["dst"].is_string()).count()
        };
        assert_eq!(entries(), 6);
        let red_vlan = only_vlan(&host, "tap1-1");
        // What a stopped daemon was not told: a peer less.
        daemon.kill();
        daemon.write_configuration(&tunnels(
            "192.0.2.11",
            "l2_population = true",
            &peer("192.0.2.13", ""),
        ));
        daemon.start();
        daemon.wait_in_sync();
        daemon.wait_port("tap1-1", "attached");
        wait_until("the peer's entries are gone", SOON, || entries() == 2);
        assert_eq!(only_vlan(&host, "tap1-1"), red_vlan);
        assert_eq!(only_vlan(&host, "tap0-1"), 100);
        drop(red);
        wait_until("red is off the device", SOON, || {
            vnis() == [true, false] && vlans(&host, "vxlan-shared").len() == 1 && entries() == 1
        });
        // By hand, and made good with a resync at the latest.
        host.run("bridge vni delete dev vxlan-shared vni 100");
        daemon.json(&["resync"]);
        wait_until("blue's VNI is back", SOON, || vnis() == [true, false]);
        drop(blue);
        wait_until("the devices are gone", SOON, || {
            host.link("vxlan-shared").is_none() && host.link("brvlan").is_none()
        });
    });
}
