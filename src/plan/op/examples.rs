//! One operation of every kind, for tests of what is said about them.

use super::{GuardTable, LinkChange, LinkRef, ListAction, Master, Op};
use crate::desired::ruleset::Ruleset;
use crate::model::record::{AddressRecord, RouteRecord};
use crate::model::{
    BridgeAttributes, FdbEntry, Ifindex, LinkName, Mac, NeighbourEntry, PortFlags, Vid, VlanRow, Vni, VniRow,
    VxlanAttributes,
};
use std::sync::Arc;

/// The place of its kind in [`all`]. A new kind does not compile without one.
fn place(op: &Op) -> usize {
    match op {
        Op::CreateBridge { .. } => 0,
        Op::CreateVlan { .. } => 1,
        Op::CreateVxlan { .. } => 2,
        Op::SetLink { .. } => 3,
        Op::SetBridge { .. } => 4,
        Op::SetVxlan { .. } => 5,
        Op::SetPort { .. } => 6,
        Op::DisableIpv6 { .. } => 7,
        Op::DeleteLink { .. } => 8,
        Op::Fdb { .. } => 9,
        Op::Vlan { .. } => 10,
        Op::Vni { .. } => 11,
        Op::Neighbour { .. } => 12,
        Op::Address { .. } => 13,
        Op::Route { .. } => 14,
        Op::Guard { .. } => 15,
        Op::GuardTable(_) => 16,
        Op::Ruleset(_) => 17,
        Op::Sysctls(_) => 18,
        Op::Announce { .. } => 19,
        Op::Readdress { .. } => 20,
    }
}

fn link() -> LinkRef {
    LinkRef {
        name: LinkName::new("tap0").unwrap(),
        index: Ifindex::new(7),
    }
}

fn set_link(master: Option<Master>, up: Option<bool>) -> Op {
    let change = LinkChange {
        master,
        up,
        ..LinkChange::default()
    };
    Op::SetLink { link: link(), change }
}

/// Every kind, and every word that `Op::name` has.
pub fn all() -> Vec<Op> {
    let (vid, vni) = (Vid::new(7).unwrap(), Vni::new(7).unwrap());
    let ip = "10.0.0.1".parse().unwrap();
    let name = link().name;
    let all = vec![
        Op::CreateBridge {
            name,
            mac: Mac::ZERO,
            mtu: None,
            attributes: BridgeAttributes::default(),
        },
        Op::CreateVlan {
            name,
            parent: link(),
            vid,
            mtu: None,
        },
        Op::CreateVxlan {
            name,
            mtu: None,
            attributes: VxlanAttributes::default(),
        },
        set_link(None, None),
        set_link(None, Some(true)),
        set_link(None, Some(false)),
        set_link(Some(Master::Set(link())), None),
        set_link(Some(Master::Clear), None),
        Op::SetBridge {
            link: link(),
            attributes: BridgeAttributes::default(),
        },
        Op::SetVxlan {
            link: link(),
            attributes: VxlanAttributes::default(),
        },
        Op::SetPort {
            link: link(),
            flags: PortFlags::default(),
        },
        Op::DisableIpv6 {
            link: link(),
            disable: true,
        },
        Op::DeleteLink { link: link() },
        Op::Fdb {
            action: ListAction::Append,
            link: link(),
            entry: FdbEntry {
                mac: Mac::ZERO,
                dst: Some(ip),
            },
            vni: None,
        },
        Op::Vlan {
            action: ListAction::Add,
            link: link(),
            row: VlanRow::access(vid),
        },
        Op::Vni {
            action: ListAction::Add,
            link: link(),
            row: VniRow { vni, group: None },
        },
        Op::Neighbour {
            action: ListAction::Replace,
            link: link(),
            entry: NeighbourEntry { ip, mac: Mac::ZERO },
        },
        Op::Address {
            action: ListAction::Add,
            link: link(),
            record: Box::new(AddressRecord {
                family: 2,
                prefix_len: 24,
                flags: 0,
                scope: 0,
                ifindex: 7,
                attributes: Vec::new(),
            }),
        },
        Op::Route {
            action: ListAction::Add,
            record: Box::new(RouteRecord {
                family: 2,
                dst_len: 0,
                src_len: 0,
                tos: 0,
                table: 254,
                protocol: 3,
                scope: 0,
                kind: 1,
                flags: 0,
                attributes: Vec::new(),
            }),
        },
        Op::Guard {
            link: link(),
            gone: Box::default(),
            new: Box::default(),
        },
        Op::GuardTable(GuardTable::Remove),
        Op::Ruleset(Arc::new(Ruleset::default())),
        Op::Sysctls(Arc::new([])),
        Op::Announce {
            link: link(),
            address: ip,
        },
        Op::Readdress {
            link: link(),
            steps: Box::new([Op::Announce {
                link: link(),
                address: ip,
            }]),
        },
    ];
    let mut places: Vec<usize> = all.iter().map(place).collect();
    places.dedup();
    assert_eq!(places, (0..=20).collect::<Vec<_>>());
    all
}

#[test]
fn every_operation_has_a_word_and_one_line() {
    for op in all() {
        let line = op.to_string();
        assert!(!op.name().is_empty());
        assert!(
            line.len() > op.name().len() / 2 && !line.contains('\n'),
            "{}: {line:?}",
            op.name()
        );
    }
}
