//! The rig itself: private worlds, taps, hosts on one underlay, the observer.

use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::observer::Change;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::net::UdpSocket;
use std::time::Duration;
use tapwire::kernel::tuntap::{Tap, TapError};
use tapwire::model::LinkName;

#[test]
fn a_test_sees_only_its_own_loopback() {
    in_namespace(|| {
        let host = Host::here();
        let links = host.ip_json("link show");
        assert!(
            links
                .as_array()
                .unwrap()
                .iter()
                .any(|link| link["ifname"] == "lo")
        );
        // Kernels with tunnel modules built in put their fallback devices into every namespace; taps and bridges never.
        assert!(
            links
                .as_array()
                .unwrap()
                .iter()
                .all(|link| link["linkinfo"]["info_kind"] != "tun")
        );
        assert!(host.is_up("lo"));
        assert!(std::fs::read_dir("/run").unwrap().next().is_none());
        std::fs::create_dir("/run/tapwire").unwrap();
    });
}

#[test]
fn sysfs_shows_the_private_namespace() {
    in_namespace(|| {
        let host = Host::here();
        host.ip("link add probe0 type bridge");
        assert!(std::path::Path::new("/sys/class/net/probe0").exists());
    });
}

#[test]
fn a_tap_appears_down_and_without_master() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let observer = host.observer();
        let tap = host.tap("tap0-1");
        let events = observer.take();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(
            (
                events[0].change,
                events[0].name.as_str(),
                events[0].up,
                events[0].master
            ),
            (Change::New, "tap0-1", false, None)
        );
        assert_eq!(events[0].index, tap.index().get());
        assert_eq!(tap.name(), LinkName::new("tap0-1").unwrap());
        drop(tap);
        assert!(observer.take().iter().any(|e| e.change == Change::Gone));
        assert!(host.link("tap0-1").is_none());
    });
}

#[test]
fn a_tap_without_a_name_is_named_by_the_kernel() {
    in_namespace(|| {
        require!(Feature::Tap);
        let tap = Tap::create(None).unwrap();
        assert_eq!(tap.name(), LinkName::new("tap0").unwrap());
    });
}

#[test]
fn a_taken_name_is_refused_with_the_name() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let _tap = host.tap("tap0");
        host.ip("link add br0 type bridge");
        for name in ["tap0", "br0"] {
            let name = LinkName::new(name).unwrap();
            let error = Tap::create(Some(&name)).unwrap_err();
            assert!(
                matches!(&error, TapError::Taken { name: taken, .. } if *taken == name),
                "{error:?}"
            );
        }
    });
}

#[test]
fn a_persistent_tap_outlives_its_descriptor() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let tap = host.tap("tap0");
        tap.set_persistent(true).unwrap();
        drop(tap);
        assert!(host.link("tap0").is_some());
        let again = host.tap("tap0");
        again.set_persistent(false).unwrap();
        drop(again);
        assert!(host.link("tap0").is_none());
    });
}

#[test]
fn the_observer_tells_a_released_port_from_a_gone_device() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        host.ip("link add br0 type bridge");
        let taps = host.taps("tap", 2);
        host.ip("link set tap0 master br0 up");
        assert!(host.is_attached("tap0", "br0"));
        assert!(!host.is_attached("tap1", "br0"));
        let observer = host.observer();
        host.ip("link set tap0 nomaster");
        assert_eq!(observer.count(Change::Released), 1);
        host.ip("link set tap0 master br0");
        observer.take();
        drop(taps);
        let events = observer.take();
        let count = |change| events.iter().filter(|e| e.change == change).count();
        assert_eq!((count(Change::Released), count(Change::Gone)), (1, 2));
    });
}

#[test]
fn two_hosts_reach_each_other_over_their_underlay() {
    in_namespace(|| {
        require!(Feature::Veth);
        let (left, right) = (Host::here(), Host::new());
        left.join("eth0", &right, "eth0");
        left.ip("address add 192.0.2.11/24 dev eth0");
        right.ip("address add 192.0.2.12/24 dev eth0");
        let socket = |host: &Host, address| host.within(|| UdpSocket::bind(address)).unwrap();
        let (here, there) = (
            socket(&left, "192.0.2.11:4789"),
            socket(&right, "192.0.2.12:4789"),
        );
        there.set_nonblocking(true).unwrap();
        wait_until("a datagram crosses the underlay", Duration::from_secs(5), || {
            here.send_to(b"?", "192.0.2.12:4789").unwrap();
            there.recv(&mut [0; 1]).is_ok()
        });
        assert!(
            UdpSocket::bind("192.0.2.12:4789").is_err(),
            "the other host's address is not ours"
        );
        right.ip("link add br0 type bridge");
        assert!(left.link("br0").is_none());
        if Feature::Tap.probe().is_ok() {
            let _tap = right.tap("vnet0");
            assert!(right.link("vnet0").is_some() && left.link("vnet0").is_none());
        }
    });
}

#[test]
fn a_vlan_device_can_be_made_here_or_in_a_virtual_machine() {
    in_namespace(|| {
        require!(Feature::Vlan, Feature::VlanFiltering);
        let host = Host::here();
        host.ip("link add br0 type bridge vlan_filtering 1");
        host.ip("link add link br0 name br0.100 type vlan id 100");
        let link = host.link("br0.100").unwrap();
        assert_eq!(link["linkinfo"]["info_data"]["id"], 100);
    });
}

#[test]
fn looking_for_features_leaves_no_trace() {
    in_namespace(|| {
        let host = Host::here();
        let observer = host.observer();
        let features = [
            Feature::Tap,
            Feature::Vlan,
            Feature::VlanFiltering,
            Feature::Vxlan,
            Feature::Veth,
            Feature::Dummy,
            Feature::Ipv6,
            Feature::Program("ip"),
        ];
        for feature in features {
            if let Err(reason) = feature.probe() {
                println!("{feature:?}: {reason}");
            }
        }
        assert_eq!(observer.take(), []);
        assert!(Feature::Program("ip").probe().is_ok());
        assert!(Feature::Program("no such program").probe().is_err());
    });
}
