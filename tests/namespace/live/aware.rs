//! The VLAN-aware bridge on a kernel that has it: what is in which VLAN, what crosses and what must not.

use super::fabric::{self, SOON, guest, head, only_vlan, vlans};
use super::vxlan::{assert_reaches, peer, underlay};
use super::{bridge_option, detail};
use crate::support::feature::{Feature, require};
use crate::support::frame::Nic;
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;

/// Veth ends stand for guests' taps. `tap0-*` blue, `tap1-*` red (both local), `tap2-*` a VLAN on a trunk, `tap3-*` a VLAN
/// with a sub-interface.
const NETWORKS: &str = r#"
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

fn four() -> String {
    head("vlan-aware") + NETWORKS
}

#[test]
fn taps_of_one_network_hear_each_other_and_nobody_else_does() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::VlanFiltering);
        let host = Host::here();
        let mut daemon = host.daemon(&four());
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
        // The bridge gives its ports another PVID, of which the kernel tells VLAN by VLAN only.
        let resyncs = daemon.counter("resyncs");
        host.ip("link set brvlan type bridge vlan_default_pvid 1");
        wait_until("all are in their own VLANs again", SOON, || {
            let own = |tap: &str, vid: u64| vlans(&host, tap) == [(vid, "PVID Egress Untagged".to_owned())];
            bridge_option(&host, "brvlan", "vlan_default_pvid") == 0
                && own("tap0-a", blue)
                && own("tap1-d", red)
        });
        assert_eq!(daemon.counter("resyncs"), resyncs);
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
        let daemon = host.daemon(&four());
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
        let daemon = host.daemon(&four());
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
    let head = head("vlan-aware");
    format!(
        r#"{head}
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
    let fabric = fabric::two_hosts((&here, left), (&there, right), &["tap0-", "tap1-"], 1450);
    assert_eq!(only_vlan(&here, "tap0-a"), 100, "a VNI that is a VLAN id is one");
    // The operator sees it too.
    assert_eq!(fabric.near.network("blue")["vid"], 100);
    assert_eq!(fabric.far.network("red")["vid"], only_vlan(&there, "tap1-b"));
    drop(fabric.guests);
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
        // By hand, and put right because the kernel says so: nobody asks for a resync.
        let resyncs = daemon.counter("resyncs");
        host.run("bridge vni delete dev vxlan-shared vni 100");
        wait_until("blue's VNI is back", SOON, || vnis() == [true, false]);
        host.run("bridge vlan del dev vxlan-shared vid 100");
        wait_until("blue's VLAN is back", SOON, || {
            host.run("bridge vlan tunnelshow dev vxlan-shared")
                .contains("100")
        });
        daemon.assert_nothing_planned();
        assert_eq!((daemon.counter("resyncs"), entries()), (resyncs, 1));
        drop(blue);
        wait_until("the devices are gone", SOON, || {
            host.link("vxlan-shared").is_none() && host.link("brvlan").is_none()
        });
    });
}

#[test]
fn a_flat_network_keeps_a_bridge_of_its_own_beside_the_vlan_aware_one() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::VlanFiltering);
        let (host, far) = (Host::here(), Host::new());
        host.join("nic0", &far, "eth0");
        host.ip("address add 198.51.100.7/24 dev nic0");
        far.ip("address add 198.51.100.1/24 dev eth0");
        let daemon = host.daemon(
            &(head("vlan-aware")
                + r#"
[physical_networks]
physnet1 = { interface = "nic0" }
[[network]]
id = "flat"
network_type = "flat"
physical_network = "physnet1"
[[network]]
id = "blue"
network_type = "local"
[[port]]
tap = "tap0-*"
network = "flat"
[[port]]
tap = "tap1-*"
network = "blue"
"#),
        );
        let (one, two) = (guest(&host, "tap0-a"), guest(&host, "tap1-a"));
        daemon.wait_port("tap0-a", "attached");
        daemon.wait_port("tap1-a", "attached");
        assert!(host.is_attached("tap0-a", "brqflat") && host.is_attached("tap1-a", "brvlan"));
        assert!(host.is_attached("nic0", "brqflat"));
        assert!(host.ip("address show dev brqflat").contains("198.51.100.7/24"));
        one.ip("address add 198.51.100.9/24 dev eth0");
        assert_reaches(&one, &far, "198.51.100.1");
        assert_reaches(&host, &far, "198.51.100.1");
        daemon.assert_nothing_planned();
        drop((one, two));
        wait_until("the address is back", SOON, || {
            host.link("brqflat").is_none() && host.ip("address show dev nic0").contains("198.51.100.7/24")
        });
    });
}
