//! Captured messages decode to what iproute2 said; no bytes at all make it panic.
//!
//! `tests/data/rtnetlink-*.bin` are notifications of two kernels, one of each shape: a tap's life on a bridge, VXLAN
//! devices, forwarding entries, neighbours, addresses, routes (6.1 has a VLAN device too).

use super::*;
use crate::kernel::wire::Messages;
use crate::model::{LinkKind, Mac};
use proptest::prelude::*;

const CAPTURED: [&[u8]; 2] = [
    include_bytes!("../../../tests/data/rtnetlink-6.1.bin"),
    include_bytes!("../../../tests/data/rtnetlink-6.18.bin"),
];

fn all(datagram: &[u8]) -> Vec<Result<Change, Malformed>> {
    Messages::new(datagram)
        .map(|message| message.and_then(|message| change(&message)))
        .collect()
}

fn changes(captured: &[u8]) -> Vec<Change> {
    all(captured).into_iter().map(Result::unwrap).collect()
}

fn links<'a>(changes: &'a [Change], name: &'a str) -> impl Iterator<Item = &'a Link> {
    changes.iter().filter_map(move |change| match change {
        Change::Link(link) if link.name.to_text() == name => Some(link),
        _ => None,
    })
}

#[test]
fn every_captured_message_decodes_and_none_is_unknown() {
    for captured in CAPTURED {
        let changes = changes(captured);
        assert!(changes.len() > 40);
        assert!(!changes.contains(&Change::Other));
    }
}

#[test]
fn a_taps_life_is_in_the_capture() {
    for captured in CAPTURED {
        let changes = changes(captured);
        let birth = links(&changes, "tap0").next().unwrap();
        assert_eq!(birth.kind, LinkKind::Tap);
        assert_eq!(
            (birth.up, birth.master, birth.port, birth.mtu, birth.ipv6_disabled),
            (false, None, None, 1500, Some(false))
        );
        let port = links(&changes, "tap0").find(|link| link.port.is_some()).unwrap();
        let bridge = links(&changes, "br0").next().unwrap();
        assert_eq!(port.master, Some(bridge.index));
        assert_eq!(bridge.mac, Some(Mac::new([2, 0, 0, 0, 0, 1])));
        assert!(
            matches!(bridge.kind, LinkKind::Bridge(b) if b.forward_delay == Some(0) && b.stp == Some(false)
                && b.vlan_filtering == Some(false) && b.multicast_snooping == Some(true) && b.ageing_time == Some(30_000))
        );
        assert!(
            changes
                .iter()
                .any(|change| matches!(change, Change::BridgePort { index, flags, .. }
            if *index == birth.index && flags.isolated == Some(true) && flags.learning == Some(false)))
        );
        assert!(changes.contains(&Change::LeftBridge {
            index: birth.index,
            master: Some(bridge.index)
        }));
        assert!(links(&changes, "tap0").any(|link| link.alias.as_deref() == Some("some text")));
        assert!(changes.contains(&Change::LinkGone {
            index: birth.index,
            name: Some(birth.name),
            moved_to: None
        }));
    }
}

#[test]
fn vxlan_devices_and_their_entries_are_in_the_capture() {
    for captured in CAPTURED {
        let changes = changes(captured);
        let kind = |name| links(&changes, name).next().unwrap().kind.clone();
        let LinkKind::Vxlan(four) = kind("vxlan-100") else {
            panic!("{changes:?}")
        };
        assert_eq!(
            (
                four.vni,
                four.local,
                four.dstport,
                four.ttl,
                four.learning,
                four.proxy,
                four.srcport
            ),
            (
                100,
                Some("192.0.2.1".parse().unwrap()),
                4789,
                3,
                true,
                false,
                (40_000, 50_000)
            )
        );
        let LinkKind::Vxlan(six) = kind("vxlan-6") else {
            panic!("{changes:?}")
        };
        assert_eq!(
            (six.vni, six.local, six.learning, six.proxy, six.srcport),
            (101, Some("2001:db8::1".parse().unwrap()), false, true, (0, 0))
        );
        let entries: Vec<String> = changes
            .iter()
            .filter_map(|change| match change {
                Change::NeighbourSet(row) if row.is_forwarding() => row.forwarding(),
                _ => None,
            })
            .filter_map(|row| {
                row.entry
                    .dst
                    .map(|dst| format!("{} {dst} {}", row.entry.mac, row.ours))
            })
            .collect();
        for entry in [
            "00:00:00:00:00:00 192.0.2.11 false",
            "fa:16:3e:00:00:01 192.0.2.11 false",
            "fa:16:3e:00:00:01 2001:db8::11 false",
        ] {
            assert!(entries.iter().any(|e| e == entry), "{entry} in {entries:?}");
        }
        assert!(
            changes
                .iter()
                .any(|change| matches!(change, Change::NeighbourGone(row)
            if !row.is_forwarding() && row.ip == Some("10.0.0.7".parse().unwrap())))
        );
        assert!(
            changes
                .iter()
                .any(|change| matches!(change, Change::NeighbourSet(row)
            if !row.is_forwarding() && row.protocol == Some(crate::model::owned::PROTOCOL)))
        );
    }
}

#[test]
fn a_vlan_device_is_in_the_older_capture() {
    let changes = changes(CAPTURED[0]);
    let parent = links(&changes, "v0").next().unwrap().index;
    let vlan = links(&changes, "v0.7").next().unwrap();
    assert!(
        matches!(&vlan.kind, LinkKind::Vlan(v) if v.vid.is_some_and(|vid| vid.get() == 7) && v.protocol == 0x8100)
    );
    assert_eq!(vlan.parent, Some(parent));
}

#[test]
fn addresses_and_routes_keep_every_attribute() {
    for captured in CAPTURED {
        for message in Messages::new(captured) {
            let message = message.unwrap();
            let (fixed, attributes) = match change(&message).unwrap() {
                Change::AddressSet(r) | Change::AddressGone(r) => (8, r.attributes),
                Change::RouteSet(r) | Change::RouteGone(r) => (12, r.attributes),
                _ => continue,
            };
            let bytes: usize = attributes
                .iter()
                .map(|a| 4 + crate::kernel::wire::align(a.value.len()))
                .sum();
            assert_eq!(fixed + bytes, message.payload.len());
        }
    }
}

#[test]
fn truncated_anywhere_it_is_malformed_or_less_but_never_a_panic() {
    for captured in CAPTURED {
        for message in Messages::new(captured) {
            let raw = message.unwrap().raw;
            for cut in 0..raw.len() {
                // As a short datagram, and as a datagram whose header agrees with its length.
                let mut short = raw[..cut].to_vec();
                let _ = all(&short);
                if let Some(length) = short.get_mut(..4) {
                    length.copy_from_slice(&u32::try_from(cut).unwrap().to_ne_bytes());
                    let _ = all(&short);
                }
            }
        }
    }
}

/// A captured message with some of its bytes replaced; half of the replacements are lengths and types of attributes.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let messages: Vec<Vec<u8>> = CAPTURED
        .iter()
        .flat_map(|captured| Messages::new(captured))
        .map(|message| message.unwrap().raw.to_vec())
        .collect();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..12);
    (prop::sample::select(messages), edits).prop_map(|(mut message, edits)| {
        for (at, byte, aligned) in edits {
            let mut at = at.index(message.len());
            if aligned {
                at &= !3;
            }
            if let Some(place) = message.get_mut(at) {
                *place = byte;
            }
        }
        message
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = all(&bytes);
    }

    #[test]
    fn arbitrary_payloads_of_every_type_never_panic(
        kind in 0u16..130,
        family in prop::sample::select(vec![0u8, 2, 7, 10]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut payload = bytes;
        if let Some(first) = payload.first_mut() {
            *first = family;
        }
        let mut datagram = Vec::new();
        datagram.extend_from_slice(&u32::try_from(payload.len() + 16).unwrap().to_ne_bytes());
        datagram.extend_from_slice(&kind.to_ne_bytes());
        datagram.extend_from_slice(&[0; 10]);
        datagram.extend_from_slice(&payload);
        let _ = all(&datagram);
    }

    #[test]
    fn mutations_of_real_messages_never_panic(message in mutated()) {
        let _ = all(&message);
    }
}
