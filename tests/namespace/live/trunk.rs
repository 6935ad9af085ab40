//! Trunk ports: a guest with three networks on one tap, in both modes of the bridge.

use super::fabric::{SOON, guest, head, vlans};
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::frame::Nic;
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;

/// `tap0-fw` has blue untagged, red as 101 and green as 103, which on the wire of `nic0` is 103 too.
const THREE: &str = r#"
[physical_networks]
physnet1 = { interface = "nic0", trunk = true }
[[network]]
id = "blue"
network_type = "local"
[[network]]
id = "red"
network_type = "local"
[[network]]
id = "green"
network_type = "vlan"
physical_network = "physnet1"
segmentation_id = 103
[[port]]
tap = "tap0-fw"
network = "blue"
sub_port = [
  { network = "red", segmentation_id = 101 },
  { network = "green", segmentation_id = 103 },
]
[[port]]
tap = "tap1-*"
network = "blue"
[[port]]
tap = "tap2-*"
network = "red"
[[port]]
tap = "tap3-*"
network = "green"
"#;

/// Three networks on one guest: each heard where it belongs and nowhere else, both ways.
fn carries_three(host: &Host, daemon: &Daemon) -> Vec<Host> {
    let firewall = guest(host, "tap0-fw");
    for tag in ["101", "103"] {
        firewall.ip(&format!("link add link eth0 name eth0.{tag} type vlan id {tag}"));
        firewall.ip(&format!("link set eth0.{tag} up"));
    }
    let others: Vec<Host> = ["tap1-a", "tap2-a", "tap3-a"]
        .iter()
        .map(|tap| guest(host, tap))
        .collect();
    for tap in ["tap0-fw", "tap1-a", "tap2-a", "tap3-a"] {
        daemon.wait_port(tap, "attached");
    }
    wait_until("nothing is left to do", SOON, || {
        daemon
            .port("tap0-fw")
            .is_some_and(|port| port["reason"].is_null())
            && host
                .link("tap0-fw.101")
                .is_some_and(|link| !link["master"].is_null())
    });
    let inside: Vec<Nic> = ["eth0", "eth0.101", "eth0.103"]
        .iter()
        .map(|nic| Nic::open(&firewall, nic))
        .collect();
    let outside: Vec<Nic> = others.iter().map(|guest| Nic::open(guest, "eth0")).collect();
    for (near, far) in inside.iter().zip(&outside) {
        near.shout("out");
        assert_eq!(far.heard_until("out"), ["out"]);
    }
    for (number, far) in outside.iter().enumerate() {
        far.shout(&format!("in {number}"));
    }
    for (number, near) in inside.iter().enumerate() {
        let heard = near.heard_until(&format!("in {number}"));
        // The guest's own NIC hears all that comes over it, its VLAN devices only their own.
        assert!(
            number == 0 || heard == [format!("in {number}")],
            "{number}: {heard:?}"
        );
    }
    daemon.assert_nothing_planned();
    [vec![firewall], others].concat()
}

fn configuration(mode: &str) -> String {
    head(mode) + THREE
}

#[test]
fn with_a_bridge_for_each_network_sub_interfaces_carry_them() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Vlan);
        let (host, far) = (Host::here(), Host::new());
        host.join("nic0", &far, "eth0");
        let mut daemon = host.daemon(&configuration("per-network"));
        let guests = carries_three(&host, &daemon);
        for (sub, bridge) in [("tap0-fw.101", "brqred"), ("tap0-fw.103", "brqgreen")] {
            assert!(host.is_attached(sub, bridge), "{sub}");
            assert_eq!(host.sysctl(&format!("ipv6/conf/{sub}/disable_ipv6")), "1");
        }
        // By hand, and over a restart.
        host.ip("link delete tap0-fw.101");
        wait_until("it is back", SOON, || host.is_attached("tap0-fw.101", "brqred"));
        daemon.kill();
        daemon.start();
        daemon.wait_in_sync();
        daemon.wait_port("tap0-fw", "attached");
        daemon.assert_nothing_planned();
        // A sub-port less, then none, and its network goes.
        let one =
            configuration("per-network").replace("  { network = \"red\", segmentation_id = 101 },\n", "");
        daemon.reload(&one);
        wait_until("red's is gone", SOON, || host.link("tap0-fw.101").is_none());
        assert!(host.is_attached("tap0-fw.103", "brqgreen") && host.is_attached("tap0-fw", "brqblue"));
        drop(guests);
        wait_until("all of it is gone", SOON, || {
            ["brqblue", "brqred", "brqgreen", "nic0.103"]
                .iter()
                .all(|name| host.link(name).is_none())
        });
    });
}

#[test]
fn on_the_vlan_aware_bridge_a_tag_of_its_own_is_translated_and_an_equal_one_is_the_ports() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Vlan, Feature::VlanFiltering);
        let (host, far) = (Host::here(), Host::new());
        host.join("nic0", &far, "eth0");
        let daemon = host.daemon(&configuration("vlan-aware"));
        let _guests = carries_three(&host, &daemon);
        // 103 is green's VLAN on the bridge; 101 is nobody's, so a sub-interface takes it off.
        assert!(vlans(&host, "tap0-fw").contains(&(103, String::new())));
        assert!(host.link("tap0-fw.103").is_none());
        assert_eq!(vlans(&host, "tap0-fw.101").len(), 1);
        assert_eq!(vlans(&host, "tap0-fw.101"), vlans(&host, "tap2-a"));
        host.run("bridge vlan del dev tap0-fw vid 103");
        wait_until("it is back", SOON, || vlans(&host, "tap0-fw").len() == 2);
        let vid = vlans(&host, "tap2-a")[0].0;
        host.run(&format!("bridge vlan del dev tap0-fw.101 vid {vid}"));
        wait_until("the sub-interface is in red again", SOON, || {
            vlans(&host, "tap0-fw.101") == vlans(&host, "tap2-a")
        });
    });
}

#[test]
fn another_mode_moves_taps_and_trunk_ports_at_a_reload_and_back() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Vlan, Feature::VlanFiltering);
        let (host, far) = (Host::here(), Host::new());
        host.join("nic0", &far, "eth0");
        let daemon = host.daemon(&configuration("per-network"));
        let guests = carries_three(&host, &daemon);
        for (mode, bridge) in [("vlan-aware", "brvlan"), ("per-network", "brqgreen")] {
            daemon.reload(&configuration(mode));
            wait_until("the tap is on the other bridge", SOON, || {
                host.is_attached("tap3-a", bridge)
            });
            for tap in ["tap0-fw", "tap1-a", "tap2-a", "tap3-a"] {
                daemon.wait_port(tap, "attached");
            }
            wait_until("nothing is left to do", SOON, || {
                daemon.json(&["plan"]).as_array().is_some_and(Vec::is_empty)
            });
            let (one, two) = (Nic::open(&guests[0], "eth0.101"), Nic::open(&guests[2], "eth0"));
            one.shout(mode);
            assert_eq!(two.heard_until(mode), [mode]);
        }
        wait_until("the bridge in between is gone", SOON, || {
            host.link("brvlan").is_none()
        });
        assert!(host.link("nic0").unwrap()["master"].is_null());
        // It was silenced as a port, and is none any more.
        assert_eq!(host.sysctl("ipv6/conf/nic0/disable_ipv6"), "0");
    });
}
