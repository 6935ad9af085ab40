//! VLAN networks beyond one NIC and one host: two hosts over a trunk, two NICs, bridges and addresses of the operator's.

use super::detail;
use super::fabric::{self, SOON, guest, head};
use super::vxlan::assert_reaches;
use crate::support::feature::{Feature, require};
use crate::support::frame::Nic;
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;

/// Two networks on one NIC, one on another with the same VID.
fn configuration(mode: &str, trunk: bool) -> String {
    let head = head(mode);
    format!(
        r#"{head}
[physical_networks]
physnet1 = {{ interface = "nic0", trunk = {trunk} }}
physnet2 = {{ interface = "nic1" }}
[[network]]
id = "blue"
network_type = "vlan"
physical_network = "physnet1"
segmentation_id = 100
[[network]]
id = "red"
network_type = "vlan"
physical_network = "physnet1"
segmentation_id = 200
[[network]]
id = "other"
network_type = "vlan"
physical_network = "physnet2"
segmentation_id = 100
[[port]]
tap = "tap0-*"
network = "blue"
[[port]]
tap = "tap1-*"
network = "red"
[[port]]
tap = "tap2-*"
network = "other"
"#
    )
}

fn two_hosts(configuration: &str) {
    let (here, there) = (Host::here(), Host::new());
    here.join("nic0", &there, "nic0");
    here.join("nic1", &there, "nic1");
    let taps = ["tap0-", "tap1-", "tap2-"];
    fabric::two_hosts((&here, configuration), (&there, configuration), &taps, 1500);
}

#[test]
fn guests_on_two_hosts_reach_each_other_over_a_trunk_with_a_bridge_for_each_network() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Vlan);
        two_hosts(&configuration("per-network", false));
    });
}

#[test]
fn guests_on_two_hosts_reach_each_other_over_a_trunk_with_the_vlan_aware_bridge() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Vlan, Feature::VlanFiltering);
        two_hosts(&configuration("vlan-aware", true));
    });
}

#[test]
fn guests_on_two_hosts_reach_each_other_over_sub_interfaces_of_the_vlan_aware_bridge() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Vlan, Feature::VlanFiltering);
        two_hosts(&configuration("vlan-aware", false));
    });
}

#[test]
fn a_network_with_a_larger_mtu_raises_its_parent_and_nothing_lowers_it() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vlan);
        let (host, other) = (Host::here(), Host::new());
        host.join("nic0", &other, "eth0");
        host.join("nic1", &other, "eth1");
        let text = configuration("per-network", false);
        let blue = "segmentation_id = 100\n";
        let daemon = host.daemon(&text.replacen(blue, &format!("{blue}mtu = 9000\n"), 1));
        let taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap1-1", "attached");
        for link in ["nic0", "nic0.100", "brqblue", "tap0-1"] {
            assert_eq!(detail(&host, link, "mtu"), 9000, "{link}");
        }
        // A child cannot be larger than its parent: the kernel takes it along, and both come back.
        host.ip("link set nic0 mtu 1500");
        wait_until("parent and child are back", SOON, || {
            ["nic0", "nic0.100"]
                .iter()
                .all(|link| detail(&host, link, "mtu") == 9000)
        });
        daemon.assert_nothing_planned();
        drop(taps);
    });
}

#[test]
fn a_vlan_on_a_physical_network_with_a_bridge_rides_on_that_bridge() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Vlan);
        let (host, far) = (Host::here(), Host::new());
        host.join("wire0", &far, "eth0");
        host.ip("link add br-ext type bridge");
        host.ip("link set wire0 master br-ext");
        host.ip("address add 198.51.100.1/24 dev br-ext");
        far.ip("link add link eth0 name eth0.100 type vlan id 100");
        far.ip("link set eth0.100 up");
        let text = configuration("per-network", false);
        let daemon = host.daemon(&text.replace("interface = \"nic0\", trunk = false", "bridge = \"br-ext\""));
        let guest = guest(&host, "tap0-a");
        daemon.wait_port("tap0-a", "attached");
        assert_eq!(detail(&host, "br-ext.100", "link"), "br-ext");
        assert!(host.is_attached("br-ext.100", "brqblue") && host.is_up("br-ext"));
        let (near, far) = (Nic::open(&guest, "eth0"), Nic::open(&far, "eth0.100"));
        near.shout("out");
        assert_eq!(far.heard_until("out"), ["out"]);
        far.shout("in");
        assert_eq!(near.heard_until("in"), ["in"]);
        daemon.assert_nothing_planned();
        drop((guest, near));
        wait_until("our devices are gone, the operator's are not", SOON, || {
            host.link("brqblue").is_none() && host.link("br-ext.100").is_none()
        });
        assert!(host.is_attached("wire0", "br-ext"));
        assert!(host.ip("address show dev br-ext").contains("198.51.100.1/24"));
    });
}

#[test]
fn addresses_of_a_vlan_device_made_by_the_operator_move_to_a_flat_networks_bridge_and_back() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vlan);
        let (host, far) = (Host::here(), Host::new());
        host.join("nic0", &far, "eth0");
        host.ip("link add link nic0 name nic0.100 type vlan id 100");
        host.ip("address add 198.51.100.7/24 dev nic0.100");
        host.ip("link set nic0.100 up");
        host.ip("route add default via 198.51.100.1 dev nic0.100 metric 50");
        far.ip("link add link eth0 name eth0.100 type vlan id 100");
        far.ip("address add 198.51.100.1/24 dev eth0.100");
        far.ip("link set eth0.100 up");
        let daemon = host.daemon(
            r#"
[daemon]
prune_after = "1s"
[taps]
match = ["tap*"]
[physical_networks]
physnet1 = { interface = "nic0.100" }
[[network]]
id = "flat"
network_type = "flat"
physical_network = "physnet1"
[[port]]
tap = "tap0-*"
network = "flat"
"#,
        );
        let tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        assert!(host.is_attached("nic0.100", "brqflat"));
        assert!(host.ip("address show dev brqflat").contains("198.51.100.7/24"));
        assert!(
            host.ip("route show default")
                .contains("via 198.51.100.1 dev brqflat metric 50")
        );
        assert_reaches(&host, &far, "198.51.100.1");
        drop(tap);
        wait_until("the addresses are back", SOON, || {
            host.link("brqflat").is_none() && host.ip("address show dev nic0.100").contains("198.51.100.7/24")
        });
        assert!(
            host.ip("route show default")
                .contains("via 198.51.100.1 dev nic0.100 metric 50")
        );
        assert_eq!(
            detail(&host, "nic0.100", "linkinfo/info_data/id"),
            100,
            "not ours, so it stays"
        );
        assert_reaches(&host, &far, "198.51.100.1");
    });
}

#[test]
fn a_sub_interface_with_somebodys_address_is_not_pruned_until_that_is_gone() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vlan);
        let (host, other) = (Host::here(), Host::new());
        host.join("nic0", &other, "eth0");
        host.join("nic1", &other, "eth1");
        let daemon = host.daemon(&configuration("per-network", false));
        let (blue, red) = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap1-1", "attached");
        host.ip("address add 10.9.9.1/24 dev nic0.100");
        drop((blue, red));
        // The other network is through with its grace period, and this one began earlier.
        wait_until("red is gone", SOON, || host.link("brqred").is_none());
        assert!(host.link("nic0.200").is_none());
        assert!(host.is_attached("nic0.100", "brqblue"));
        assert!(host.ip("address show dev nic0.100").contains("10.9.9.1/24"));
        host.ip("address del 10.9.9.1/24 dev nic0.100");
        wait_until("and blue too", SOON, || {
            host.link("brqblue").is_none() && host.link("nic0.100").is_none()
        });
    });
}
