use super::*;
use crate::model::gateway::{Gateway, RouterAdvertisement};
use crate::model::{AddressPair, LinkName, NetworkId, Segment, TapSelector};

fn mapping(mac: Option<&str>, addresses: &[&str], pairs: &[(&str, Option<&str>)]) -> PortMapping {
    let tap = TapSelector::Exact(LinkName::new("tap0").unwrap());
    let mut mapping = PortMapping::new(tap, NetworkId::new("blue").unwrap());
    mapping.mac = mac.map(|m| m.parse().unwrap());
    mapping.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    mapping.allowed_address_pairs = pairs
        .iter()
        .map(|(ip, mac)| AddressPair {
            ip: ip.parse().unwrap(),
            mac: mac.map(|m| m.parse().unwrap()),
        })
        .collect();
    mapping
}

fn network() -> Network {
    Network::new(NetworkId::new("blue").unwrap(), Segment::Local)
}

fn line(entry: &Entry) -> String {
    format!("{} tap0{entry}", table::set_of(entry).name())
}

fn text(mapping: &PortMapping) -> Vec<String> {
    derive_guard(mapping, &network(), false)
        .iter()
        .map(line)
        .collect()
}

const MAC: Option<&str> = Some("fa:16:3e:00:00:05");

#[test]
fn a_mapping_that_says_nothing_of_the_machine_guards_nothing() {
    assert!(derive_guard(&mapping(None, &[], &[]), &network(), false).is_empty());
    let mut off = mapping(MAC, &["10.0.0.5"], &[]);
    off.port_security = Some(false);
    assert!(derive_guard(&off, &network(), false).is_empty());
    let mut on = mapping(None, &[], &[]);
    on.port_security = Some(true);
    assert_eq!(text(&on), ["ports tap0", "free_macs tap0", "free_addresses tap0"]);
}

#[test]
fn mac_and_addresses_bring_the_link_local_address_of_the_mac() {
    assert_eq!(
        text(&mapping(MAC, &["10.0.0.5", "2001:db8::5"], &[])),
        [
            "ports tap0",
            "macs tap0 . fa:16:3e:00:00:05",
            "ipv4 tap0 . fa:16:3e:00:00:05 . 10.0.0.5",
            "ipv6 tap0 . fa:16:3e:00:00:05 . 2001:db8::5",
            "ipv6 tap0 . fa:16:3e:00:00:05 . fe80::f816:3eff:fe00:5",
        ]
    );
}

#[test]
fn in_a_network_that_advertises_a_prefix_the_address_made_of_the_mac_may_be_used() {
    let advertising = |slaac| {
        let mut network = network();
        network.gateway = Some(Box::new(Gateway {
            addresses: vec!["10.0.0.1/24".parse().unwrap(), "2001:db8::1/64".parse().unwrap()],
            ra: Some(RouterAdvertisement {
                slaac,
                ..RouterAdvertisement::default()
            }),
            ..Gateway::default()
        }));
        network
    };
    let of = |mapping: &PortMapping, slaac| -> Vec<String> {
        let entries = derive_guard(mapping, &advertising(slaac), false);
        let six = entries.iter().map(line).filter(|line| line.starts_with("ipv6"));
        six.collect()
    };
    let told = mapping(MAC, &["10.0.0.5"], &[]);
    assert_eq!(
        of(&told, true),
        [
            "ipv6 tap0 . fa:16:3e:00:00:05 . 2001:db8::f816:3eff:fe00:5",
            "ipv6 tap0 . fa:16:3e:00:00:05 . fe80::f816:3eff:fe00:5",
        ]
    );
    assert_eq!(
        of(&told, false),
        ["ipv6 tap0 . fa:16:3e:00:00:05 . fe80::f816:3eff:fe00:5"]
    );
    // No MAC to make it of; and nothing is compared without addresses.
    assert!(
        !of(&mapping(None, &["10.0.0.5"], &[]), true)
            .iter()
            .any(|l| l.contains("2001"))
    );
    assert_eq!(of(&mapping(MAC, &[], &[]), true), Vec::<String>::new());
}

#[test]
fn a_mac_alone_leaves_the_addresses_free() {
    assert_eq!(
        text(&mapping(MAC, &[], &[])),
        [
            "ports tap0",
            "free_addresses tap0",
            "macs tap0 . fa:16:3e:00:00:05"
        ]
    );
}

#[test]
fn addresses_alone_leave_the_mac_free() {
    assert_eq!(
        text(&mapping(None, &["10.0.0.5", "2001:db8::5"], &[])),
        [
            "ports tap0",
            "free_macs tap0",
            "ipv4_ranges tap0 . any . 10.0.0.5/32",
            "ipv6_ranges tap0 . any . 2001:db8::5/128",
            "ipv6_ranges tap0 . any . fe80::/10",
        ]
    );
}

#[test]
fn an_allowed_pair_takes_the_ports_mac_or_brings_its_own() {
    let pairs = [
        ("10.0.0.100", Some("00:00:5e:00:01:07")),
        ("10.1.2.3/16", None),
        ("10.1.9.0/24", None),
    ];
    assert_eq!(
        text(&mapping(MAC, &["10.0.0.5"], &pairs)),
        [
            "ports tap0",
            "macs tap0 . 00:00:5e:00:01:07",
            "macs tap0 . fa:16:3e:00:00:05",
            "ipv4 tap0 . 00:00:5e:00:01:07 . 10.0.0.100",
            "ipv6 tap0 . 00:00:5e:00:01:07 . fe80::200:5eff:fe00:107",
            "ipv4 tap0 . fa:16:3e:00:00:05 . 10.0.0.5",
            "ipv6 tap0 . fa:16:3e:00:00:05 . fe80::f816:3eff:fe00:5",
            // The narrower one lies inside: the kernel takes no overlapping elements.
            "ipv4_ranges tap0 . fa:16:3e:00:00:05 . 10.1.0.0/16",
        ]
    );
}

#[test]
fn a_range_of_one_mac_around_one_of_any_mac_is_cut_up() {
    let pairs = [("10.0.0.0/29", Some("00:00:5e:00:01:07"))];
    let ranges: Vec<String> = derive_guard(&mapping(None, &["10.0.0.5"], &pairs), &network(), false)
        .iter()
        .filter(|entry| matches!(entry, Entry::Range(..)))
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        ranges,
        [
            " . any . 10.0.0.5/32",
            " . 00:00:5e:00:01:07 . 10.0.0.0/30",
            " . 00:00:5e:00:01:07 . 10.0.0.4/32",
            " . 00:00:5e:00:01:07 . 10.0.0.6/31",
        ]
    );
}

#[test]
fn the_difference_names_only_what_changes() {
    let have = derive_guard(&mapping(MAC, &["10.0.0.5"], &[]), &network(), false);
    let want = derive_guard(&mapping(MAC, &["10.0.0.6"], &[]), &network(), false);
    let (gone, new) = difference(&have, &want);
    let mac = "fa:16:3e:00:00:05".parse().unwrap();
    assert_eq!(gone, [Entry::Address(mac, "10.0.0.5".parse().unwrap())]);
    assert_eq!(new, [Entry::Address(mac, "10.0.0.6".parse().unwrap())]);
    assert_eq!(difference(&want, &want), (Vec::new(), Vec::new()));
}
