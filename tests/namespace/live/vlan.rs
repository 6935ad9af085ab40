//! VLAN networks, where the kernel has 802.1Q; and where it has not.

use super::{detail, reason};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

const VLANS: &str = r#"
[daemon]
prune_after = "1s"
[taps]
match = ["tap*"]
[physical_networks]
physnet1 = { interface = "nic0" }
physnet2 = { interface = "nic-with-long0" }
[[network]]
id = "blue"
network_type = "vlan"
physical_network = "physnet1"
segmentation_id = 100
mtu = 1400
[[network]]
id = "long"
network_type = "vlan"
physical_network = "physnet2"
segmentation_id = 1001
[[network]]
id = "local"
network_type = "local"
[[port]]
tap = "tap0-*"
network = "blue"
[[port]]
tap = "tap1-*"
network = "local"
[[port]]
tap = "tap2-*"
network = "long"
"#;

#[test]
fn without_802_1q_a_vlan_network_fails_with_the_kernels_words_and_others_work() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        if Feature::Vlan.probe().is_ok() {
            // This kernel has it: there is nothing to see here.
            return;
        }
        let (host, other) = (Host::here(), Host::new());
        host.join("nic0", &other, "eth0");
        let daemon = host.daemon(VLANS);
        let _taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap1-1", "attached");
        daemon.wait_port("tap0-1", "failed");
        let text = reason(&daemon, "tap0-1");
        assert!(text.contains("nic0.100") && text.contains("vlan"), "{text}");
        assert_eq!(daemon.network("blue")["state"], "failed");
        let errors = daemon.counter("op_errors");
        let _second = host.tap("tap0-2");
        daemon.wait_port("tap0-2", "failed");
        assert_eq!(
            daemon.counter("op_errors"),
            errors,
            "asked once, not for each tap"
        );
        let said = daemon.log_text().matches("operation failed").count();
        assert_eq!(said, 1, "{}", daemon.log_text());
    });
}

#[test]
fn vlan_devices_are_made_named_kept_and_removed_as_the_contract_says() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vlan);
        let (host, other) = (Host::here(), Host::new());
        host.join("nic0", &other, "eth0");
        host.join("nic-with-long0", &other, "eth1");
        host.ip("link set nic0 down");
        let daemon = host.daemon(VLANS);
        let taps = (host.tap("tap0-1"), host.tap("tap2-1"));
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap2-1", "attached");
        assert!(host.is_up("nic0"), "the parent is set up");
        assert_eq!(detail(&host, "nic0.100", "linkinfo/info_data/id"), 100);
        assert_eq!(detail(&host, "nic0.100", "link"), "nic0");
        assert!(host.is_attached("nic0.100", "brqblue"));
        for link in ["nic0.100", "brqblue", "tap0-1"] {
            assert_eq!(detail(&host, link, "mtu"), 1400, "{link}");
            assert_eq!(host.sysctl(&format!("ipv6/conf/{link}/disable_ipv6")), "1");
        }
        assert_eq!(
            detail(&host, "brqblue", "address"),
            detail(&host, "nic0", "address")
        );
        // Longer than 15 bytes: four characters and six digits of a SHA-1.
        let uplink = daemon.network("long")["uplink"].as_str().unwrap().to_owned();
        assert!(
            uplink.starts_with("nic-") && uplink.ends_with(".1001"),
            "{uplink}"
        );
        assert_eq!(uplink.len(), 15);
        assert!(host.is_attached(&uplink, "brqlong"));
        daemon.assert_nothing_planned();
        // Drift.
        host.ip("link delete nic0.100");
        wait_until("it is back", SOON, || host.is_attached("nic0.100", "brqblue"));
        host.ip("link set nic0.100 mtu 1300");
        wait_until("its MTU is back", SOON, || {
            detail(&host, "nic0.100", "mtu") == 1400
        });
        host.ip("link set nic0 down");
        wait_until("the parent is up", SOON, || {
            host.is_up("nic0") && host.is_up("nic0.100")
        });
        drop(taps);
        wait_until("bridge and uplink are gone", SOON, || {
            ["brqblue", "nic0.100", "brqlong", &uplink]
                .iter()
                .all(|name| host.link(name).is_none())
        });
        assert!(host.link("nic0").is_some());
    });
}

#[test]
fn a_vid_in_use_is_a_conflict_and_an_agents_device_is_taken_over() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vlan);
        let (host, other) = (Host::here(), Host::new());
        host.join("nic0", &other, "eth0");
        host.ip("link add link nic0 name storage type vlan id 100");
        let daemon = host.daemon(VLANS);
        let _tap = host.tap("tap0-1");
        daemon.wait_network("blue", "conflict");
        let text = daemon.network("blue")["reason"].to_string();
        assert!(text.contains("vlan 100 on nic0 is in use by storage"), "{text}");
        host.ip("link delete storage");
        daemon.wait_port("tap0-1", "attached");
        drop(daemon);
        // As Neutron's agent leaves it, without any mark of ours, and with another VID under the name.
        host.ip("link set nic0.100 alias agent");
        let index = super::index(&host, "nic0.100");
        let observer = host.observer();
        let daemon = host.daemon(VLANS);
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(super::index(&host, "nic0.100"), index);
        assert_eq!(observer.take(), []);
        host.ip("link delete nic0.100");
        daemon.wait_network("blue", "ready");
        drop(daemon);
        host.ip("link delete nic0.100");
        host.ip("link add link nic0 name nic0.100 type vlan id 200");
        let daemon = host.daemon(VLANS);
        daemon.wait_network("blue", "conflict");
        assert_eq!(detail(&host, "nic0.100", "linkinfo/info_data/id"), 200);
    });
}
