//! What an acknowledged operation of ours has done to the mirror.
//!
//! The kernel's own event says the same a moment later and is then no news. Updating from the acknowledgement
//! matters where no event comes (sysctl, FDB) and where the event was lost.

use super::event::Applied;
use crate::model::{Ifindex, Link, LinkKind};
use crate::observed::{Change, Effect, Observed};
use crate::plan::address_move::address_of;
use crate::plan::op::{LinkChange, LinkRef, ListAction, Master, Op};

/// Applies a successful operation to the mirror.
pub fn acknowledge(observed: &mut Observed, op: &Op, applied: &Applied) -> Effect {
    match applied {
        Applied::Created(link) => return observed.made((**link).clone()),
        Applied::AlreadyThere(link) => return observed.apply(Change::Upsert((**link).clone())),
        Applied::Done => {}
    }
    match op {
        Op::SetLink { link, change } => {
            let master = change.master.map(|master| match master {
                Master::Set(bridge) => index_of(observed, &bridge),
                Master::Clear => None,
            });
            update_ref(observed, link, |l| set_link(l, change, master))
        }
        Op::SetBridge { link, attributes } => update_ref(observed, link, |l| {
            if let LinkKind::Bridge(have) = &mut l.kind {
                have.stp = attributes.stp.or(have.stp);
                have.forward_delay = attributes.forward_delay.or(have.forward_delay);
                have.ageing_time = attributes.ageing_time.or(have.ageing_time);
                have.multicast_snooping = attributes.multicast_snooping.or(have.multicast_snooping);
                have.vlan_filtering = attributes.vlan_filtering.or(have.vlan_filtering);
                have.vlan_default_pvid = attributes.vlan_default_pvid.or(have.vlan_default_pvid);
                have.link_local_learning = attributes.link_local_learning.or(have.link_local_learning);
            }
        }),
        Op::SetVxlan { link, attributes } => update_ref(observed, link, |l| {
            if let LinkKind::Vxlan(have) = &mut l.kind {
                **have = attributes.clone();
            }
        }),
        Op::SetPort { link, flags } => update_ref(observed, link, |l| {
            l.port = Some(l.port.unwrap_or_default().overlaid_with(flags))
        }),
        Op::DisableIpv6 { link, disable } => update_ref(observed, link, |l| {
            if l.ipv6_disabled.is_some() {
                l.ipv6_disabled = Some(*disable);
            }
        }),
        Op::DeleteLink { link } => match index_of(observed, link) {
            Some(index) => observed.apply(Change::Removed(index)),
            None => Effect::Same,
        },
        Op::Address { action, link, record } => match (index_of(observed, link), address_of(record)) {
            (Some(index), Some(address)) => observed.apply(Change::Address {
                index,
                address,
                own: record.own(),
                present: *action != ListAction::Delete,
            }),
            _ => Effect::Same,
        },
        Op::Readdress { link, steps } => {
            let each = steps
                .iter()
                .map(|step| acknowledge(observed, step, &Applied::Done));
            let same = each.fold(true, |same, effect| same & matches!(effect, Effect::Same));
            match index_of(observed, link) {
                Some(index) if !same => Effect::Addresses(index),
                _ => Effect::Same,
            }
        }
        Op::Vlan { action, link, row } => match index_of(observed, link) {
            Some(index) => observed.apply(Change::PortVlan {
                index,
                vid: row.vid,
                row: (*action != ListAction::Delete).then_some(*row),
            }),
            None => Effect::Same,
        },
        Op::Vni { action, link, row } => match index_of(observed, link) {
            Some(index) => observed.apply(Change::Vnis {
                index,
                rows: vec![*row],
                present: *action != ListAction::Delete,
            }),
            None => Effect::Same,
        },
        // Not part of the link mirror: the engine keeps forwarding entries per device.
        Op::CreateBridge { .. }
        | Op::CreateVlan { .. }
        | Op::CreateVxlan { .. }
        | Op::Fdb { .. }
        | Op::Neighbour { .. }
        | Op::Route { .. }
        | Op::Guard { .. }
        | Op::GuardTable(_)
        | Op::Ruleset(_)
        | Op::Sysctls(_)
        | Op::Announce { .. } => Effect::Same,
    }
}

fn index_of(observed: &Observed, link: &LinkRef) -> Option<Ifindex> {
    link.index
        .or_else(|| observed.by_name(&link.name).map(|l| l.index))
}

fn update_ref(observed: &mut Observed, link: &LinkRef, change: impl FnOnce(&mut Link)) -> Effect {
    let known = index_of(observed, link)
        .and_then(|index| observed.link(index))
        .cloned();
    match known {
        Some(mut link) => {
            change(&mut link);
            observed.apply(Change::Upsert(link))
        }
        None => Effect::Same,
    }
}

fn set_link(link: &mut Link, change: &LinkChange, master: Option<Option<Ifindex>>) {
    if let Some(mtu) = change.mtu {
        link.mtu = mtu.get();
    }
    if let Some(mac) = change.mac {
        link.mac = Some(mac);
    }
    if let Some(alias) = &change.alias {
        link.alias = if alias.is_empty() {
            None
        } else {
            Some(alias.clone())
        };
    }
    if let Some(length) = change.tx_queue_len {
        link.tx_queue_len = length;
    }
    if let Some(up) = change.up {
        link.up = up;
    }
    if let Some(master) = master
        && link.master != master
    {
        link.master = master;
        link.port = None;
    }
}
