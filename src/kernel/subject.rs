//! What the executor asks of an op: is it one of many, what does it make, which links does it name.

use crate::model::{Link, LinkKind, LinkName};
use crate::plan::op::{LinkRef, Master, Op};

/// Ops that are many, small and independent of each other.
pub const fn is_list_entry(op: &Op) -> bool {
    matches!(op, Op::Fdb { .. } | Op::Neighbour { .. })
}

pub const fn created_name(op: &Op) -> Option<LinkName> {
    match op {
        Op::CreateBridge { name, .. } | Op::CreateVlan { name, .. } | Op::CreateVxlan { name, .. } => {
            Some(*name)
        }
        _ => None,
    }
}

/// Is this how the op's device comes into the world: down, alone, unnamed, and with what the op told of it?
pub fn is_newborn(op: &Op, link: &Link) -> bool {
    let untouched = !link.up && link.master.is_none() && link.alias.is_none();
    untouched
        && match (op, &link.kind) {
            (Op::CreateBridge { mac, .. }, LinkKind::Bridge(_)) => link.mac == Some(*mac),
            (Op::CreateVlan { parent, vid, .. }, LinkKind::Vlan(vlan)) => {
                vlan.vid == Some(*vid) && link.parent == parent.index
            }
            (Op::CreateVxlan { attributes, .. }, LinkKind::Vxlan(vxlan)) => {
                vxlan.vni == attributes.vni
                    && vxlan.dstport == attributes.dstport
                    && vxlan.local == attributes.local
            }
            _ => false,
        }
}

/// The links an op names: itself and its master or parent.
pub fn links_of(op: &Op) -> [Option<&LinkRef>; 2] {
    match op {
        Op::CreateBridge { .. }
        | Op::CreateVxlan { .. }
        | Op::Route { .. }
        | Op::GuardTable(_)
        | Op::Ruleset(_)
        | Op::Sysctls(_) => [None, None],
        Op::CreateVlan { parent, .. } => [Some(parent), None],
        Op::SetLink { link, change } => match &change.master {
            Some(Master::Set(master)) => [Some(link), Some(master)],
            Some(Master::Clear) | None => [Some(link), None],
        },
        // Checks by itself, after opening the file.
        Op::DisableIpv6 { .. } => [None, None],
        Op::SetBridge { link, .. }
        | Op::SetVxlan { link, .. }
        | Op::SetPort { link, .. }
        | Op::DeleteLink { link }
        | Op::Fdb { link, .. }
        | Op::Vlan { link, .. }
        | Op::Vni { link, .. }
        | Op::Neighbour { link, .. }
        | Op::Address { link, .. }
        | Op::Readdress { link, .. }
        | Op::Guard { link, .. }
        | Op::Announce { link, .. } => [Some(link), None],
    }
}
