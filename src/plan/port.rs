//! From how a tap is to how it should be.
//!
//! Order: the spoof guard before everything, so that no frame goes unseen; MTU and IPv6 before the bridge (its own MTU never moves, no router advertisement is ever heard), the
//! bridge before the flags (they are refused without one), the flags before `up` (it never forwards without them).

use super::guard::plan_guard;
use super::membership::Membership;
use super::op::{LinkChange, LinkRef, ListAction, Master, Op};
use crate::desired::guard::Entry;
use crate::desired::port::PortWant;
use crate::model::{FdbEntry, Ifindex, Link, Mac, Mtu, PortFlags};

/// RFC 8200, section 5.
const MIN_IPV6_MTU: u32 = 1280;

/// What the engine remembers of a tap that the kernel does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortMemory<'a> {
    /// `up` (or `down`) was already brought about as told: later changes by others are left alone.
    pub admin_state_applied: bool,
    /// Static entries we put on the port.
    pub fdb: &'a [Mac],
    /// What the kernel has of the spoof guard for it.
    pub guard: &'a [Entry],
    /// On a VLAN-aware bridge: the VLANs it should be in, and those it is in.
    pub vlans: Option<Membership<'a>>,
}

pub fn plan_port(
    want: &PortWant,
    segment_mtu: Option<Mtu>,
    link: &Link,
    bridge: LinkRef,
    memory: PortMemory<'_>,
) -> Vec<Op> {
    let tap = LinkRef {
        name: link.name,
        index: Some(link.index),
    };
    let mut ops = Vec::new();
    let guarded = want.guard.as_deref();
    let mut guard = plan_guard(guarded.unwrap_or_default(), memory.guard, tap);
    if guarded.is_some() {
        ops.extend(guard.take());
    }
    let joins = bridge.index.is_none() || link.master != bridge.index;
    let mtu = want.mtu.or(segment_mtu).filter(|mtu| !link.mtu_is(*mtu));
    // Below IPv6's minimum MTU a link has no IPv6 to switch off; it comes with the larger MTU, so that goes first.
    let regains_ipv6 = link.mtu < MIN_IPV6_MTU && mtu.is_some_and(|mtu| mtu.get() >= MIN_IPV6_MTU);
    if regains_ipv6 {
        ops.push(Op::SetLink {
            link: tap,
            change: LinkChange {
                mtu,
                ..LinkChange::default()
            },
        });
    }
    if regains_ipv6 || link.ipv6_disabled == Some(false) {
        ops.push(Op::DisableIpv6 {
            link: tap,
            disable: true,
        });
    }
    let mtu = mtu.filter(|_| !regains_ipv6);
    let alias = want
        .alias
        .clone()
        // None and an empty one are the same.
        .filter(|alias| link.alias.as_deref().unwrap_or_default() != &**alias);
    let tx_queue_len = want.tx_queue_len.filter(|length| *length != link.tx_queue_len);
    if joins || mtu.is_some() || alias.is_some() || tx_queue_len.is_some() {
        let master = joins.then_some(Master::Set(bridge));
        ops.push(Op::SetLink {
            link: tap,
            change: LinkChange {
                mtu,
                alias,
                tx_queue_len,
                master,
                ..LinkChange::default()
            },
        });
    }
    let have = if joins {
        PortFlags::NEW_PORT
    } else {
        link.port.unwrap_or_default()
    };
    let flags = want.flags.missing_in(&have);
    if !flags.is_empty() {
        ops.push(Op::SetPort { link: tap, flags });
    }
    if let Some(membership) = memory.vlans {
        membership.plan(tap, joins, &mut ops);
    }
    let known: &[Mac] = if joins { &[] } else { memory.fdb };
    for mac in want.fdb.iter().filter(|mac| !known.contains(mac)) {
        ops.push(Op::Fdb {
            action: ListAction::Replace,
            link: tap,
            entry: FdbEntry { mac: *mac, dst: None },
            vni: None,
        });
    }
    for mac in known.iter().filter(|mac| !want.fdb.contains(mac)) {
        ops.push(Op::Fdb {
            action: ListAction::Delete,
            link: tap,
            entry: FdbEntry { mac: *mac, dst: None },
            vni: None,
        });
    }
    if link.up != want.admin_state_up && !memory.admin_state_applied {
        ops.push(Op::SetLink {
            link: tap,
            change: LinkChange {
                up: Some(want.admin_state_up),
                ..LinkChange::default()
            },
        });
    }
    // One that is no longer wanted holds to the last.
    ops.extend(guard);
    ops
}

/// What a tap of a network gets whatever policy decides, for the time until it has decided: no IPv6. A tap that is on a
/// bridge already is left until all is known.
pub fn plan_ahead(link: &Link) -> Vec<Op> {
    if link.master.is_some() || link.mtu < MIN_IPV6_MTU || link.ipv6_disabled != Some(false) {
        return Vec::new();
    }
    vec![Op::DisableIpv6 {
        link: LinkRef {
            name: link.name,
            index: Some(link.index),
        },
        disable: true,
    }]
}

/// Takes a tap out of a bridge, and then its guard away; it stays as it is otherwise.
pub fn plan_detach(link: &Link, guard: &[Entry]) -> Vec<Op> {
    let tap = LinkRef {
        name: link.name,
        index: Some(link.index),
    };
    let detach = Op::SetLink {
        link: tap,
        change: LinkChange {
            master: Some(Master::Clear),
            ..LinkChange::default()
        },
    };
    [Some(detach), plan_guard(&[], guard, tap)]
        .into_iter()
        .flatten()
        .collect()
}

/// What stands between a tap and its bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the right bridge.
    Right,
    /// On no bridge, or on one of ours: free to be moved.
    Movable,
    /// On somebody else's.
    Foreign(Ifindex),
}
