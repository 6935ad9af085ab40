//! What goes and comes, in order.

use super::*;
use crate::model::{Cidr, LinkName};
use crate::plan::gateway::plan_removal;

fn link() -> (LinkRef, Ifindex) {
    let index = Ifindex::new(7).unwrap();
    let name = LinkName::new("br0").unwrap();
    (
        LinkRef {
            name,
            index: Some(index),
        },
        index,
    )
}

fn record(address: &str, flags: u32) -> AddressRecord {
    let (address, length) = address.split_once('/').unwrap();
    let address: Ipv4Addr = address.parse().unwrap();
    AddressRecord {
        family: AF_INET,
        prefix_len: length.parse().unwrap(),
        flags: 0,
        scope: 0,
        ifindex: 7,
        attributes: vec![
            bytes(ifa::LOCAL, address),
            bytes(ifa::ADDRESS, address),
            attribute(ifa::FLAGS, flags),
        ],
    }
}

fn carried(addresses: &[(&str, u32)]) -> Carried {
    let addresses: Vec<_> = addresses.iter().map(|(a, flags)| record(a, *flags)).collect();
    let routes = addresses
        .iter()
        .filter(|a| flags(a) & ifa::F_SECONDARY == 0)
        .map(|a| {
            let mut route = stays_in_reach(a, link().1).unwrap();
            route.protocol = rt::PROTO_KERNEL;
            route.attributes.retain(|a| a.kind != rt::PRIORITY);
            route
        });
    Carried {
        routes: routes.collect(),
        addresses: addresses.clone(),
    }
}

/// Which addresses go and come, in order.
fn changes(op: &Op) -> Vec<String> {
    let Op::Readdress { steps, .. } = op else {
        panic!("{op}");
    };
    let changes = steps.iter().filter_map(|step| match step {
        Op::Address { action, record, .. } => {
            let sign = if *action == ListAction::Delete { '-' } else { '+' };
            Some(format!(
                "{sign}{}/{}",
                address_of(record).unwrap(),
                record.prefix_len
            ))
        }
        _ => None,
    });
    changes.collect()
}

#[test]
fn the_hosts_addresses_come_again_behind_the_gateways_in_their_order() {
    let have = carried(&[
        ("192.0.2.7/24", 0),
        ("10.0.0.7/24", 0),
        ("10.0.0.8/24", ifa::F_SECONDARY),
    ]);
    let (link, index) = link();
    let op = plan_first(link, index, &record("10.0.0.1/24", 0), &have).unwrap();
    assert_eq!(
        changes(&op),
        [
            "+192.0.0.8/32",
            "-10.0.0.8/24",
            "-10.0.0.7/24",
            "-192.0.2.7/24",
            "+10.0.0.1/24",
            "+192.0.2.7/24",
            "+10.0.0.7/24",
            "+10.0.0.8/24",
            "-192.0.0.8/32",
        ]
    );
    // In a subnet of the host's, its route stays the better one.
    assert!(op.to_string().contains("192.0.2.7"), "{op}");
    let metric = |op: &Op| {
        let Op::Readdress { steps, .. } = op else {
            return None;
        };
        let told = steps.iter().find_map(|step| match step {
            Op::Address { record, .. } if address_of(record) == Some("10.0.0.1".parse().unwrap()) => {
                Some(record)
            }
            _ => None,
        })?;
        Some(number(&told.attributes, ifa::RT_PRIORITY))
    };
    assert_eq!(metric(&op), Some(1));
    let elsewhere = carried(&[("192.0.2.7/24", 0)]);
    let op = plan_first(link, index, &record("10.0.0.1/24", 0), &elsewhere).unwrap();
    assert_eq!(metric(&op), Some(0));
}

#[test]
fn nothing_in_the_way_is_no_op_of_its_own() {
    let (link, index) = link();
    let gateway = record("10.0.0.1/24", 0);
    assert_eq!(plan_first(link, index, &gateway, &Carried::default()), None);
    let mut local = carried(&[("169.254.169.254/16", 0)]);
    local.addresses[0].scope = rt::SCOPE_LINK;
    assert_eq!(plan_first(link, index, &gateway, &local), None);
    let mut own = carried(&[("10.0.1.1/24", 0)]);
    own.addresses[0].attributes.push(Attribute {
        kind: AddressRecord::PROTO,
        value: vec![owned::PROTOCOL],
    });
    assert_eq!(plan_first(link, index, &gateway, &own), None);
}

#[test]
fn what_would_go_along_is_told_again_when_the_gateways_goes() {
    let (link, index) = link();
    let gateway = Cidr::new("10.0.0.1".parse().unwrap(), 24).unwrap();
    let removal = || plan_removal(link, index, gateway);
    let alone = carried(&[("10.0.0.1/24", 0), ("192.0.2.7/24", 0)]);
    assert_eq!(plan_last(link, index, removal(), &alone), None);
    let have = carried(&[
        ("10.0.0.1/24", 0),
        ("192.0.2.7/24", 0),
        ("10.0.0.7/24", ifa::F_SECONDARY),
    ]);
    let op = plan_last(link, index, removal(), &have).unwrap();
    assert_eq!(
        changes(&op),
        [
            "+192.0.0.8/32",
            "-10.0.0.7/24",
            "-10.0.0.1/24",
            "+10.0.0.7/24",
            "-192.0.0.8/32"
        ]
    );
}
