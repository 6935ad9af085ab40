//! From how a network's bridge is to how it should be, and the mark of what is taken over.

use super::Conflict;
use super::op::{LinkChange, LinkRef, Op};
use super::segment::{conflict, kind_word, reference};
use crate::desired::segment::{BridgeWant, Marks};
use crate::model::owned::Mark;
use crate::model::{BridgeAttributes, Link, LinkKind, Mtu};
use crate::observed::Observed;

pub(super) fn plan_bridge(
    want: &BridgeWant,
    marks: &Marks,
    observed: &Observed,
    ops: &mut Vec<Op>,
) -> Result<LinkRef, Conflict> {
    let Some(link) = observed.by_name(&want.name) else {
        let made = LinkRef {
            name: want.name,
            index: None,
        };
        // 1500 even when nobody asked: an MTU never set follows the smallest port for ever. And only a change counts as
        // set (`br_change_mtu`): neither the MTU told at creation does, nor the same one told again (6.18). So the
        // bridge is born with a neighbouring one.
        let mtu = want.mtu.or(Mtu::new(1500).ok());
        let birth = mtu.map(neighbouring);
        ops.push(Op::CreateBridge {
            name: want.name,
            mac: want.mac,
            mtu: birth,
            attributes: want.attributes,
        });
        if !want.carries_addresses {
            ops.push(Op::DisableIpv6 {
                link: made,
                disable: true,
            });
        }
        let change = LinkChange {
            mtu,
            alias: Some(marks.made.clone()),
            up: Some(true),
            ..LinkChange::default()
        };
        ops.push(Op::SetLink { link: made, change });
        return Ok(made);
    };
    let LinkKind::Bridge(have) = &link.kind else {
        let reason = format!("{} exists but is a {}, not a bridge", link.name, kind_word(link));
        return Err(conflict(link, reason));
    };
    let bridge = reference(link);
    if !want.make {
        if !link.up {
            ops.push(Op::SetLink {
                link: bridge,
                change: LinkChange {
                    up: Some(true),
                    ..LinkChange::default()
                },
            });
        }
        return Ok(bridge);
    }
    let mut attributes = missing_attributes(&want.attributes, have);
    if attributes.stp == Some(false) && attributes.forward_delay.is_some() {
        // The kernel looks at the delay first, and with STP still on takes none under 2 s.
        let stp = attributes.stp.take();
        ops.push(Op::SetBridge {
            link: bridge,
            attributes: BridgeAttributes {
                stp,
                ..BridgeAttributes::default()
            },
        });
    }
    if attributes != BridgeAttributes::default() {
        ops.push(Op::SetBridge {
            link: bridge,
            attributes,
        });
    }
    let carries = want.carries_addresses || want.gateway6 || observed.has_address(link.index);
    if !carries && link.ipv6_disabled == Some(false) {
        ops.push(Op::DisableIpv6 {
            link: bridge,
            disable: true,
        });
    }
    let mut change = LinkChange {
        mtu: want.mtu.filter(|mtu| !link.mtu_is(*mtu)),
        ..LinkChange::default()
    };
    take_over(link, marks, observed, &mut change);
    let unmarked = change.alias.is_some() && Mark::read(link.alias.as_deref()).is_foreign();
    if unmarked && observed.is_made_here(link.index) {
        // The request behind the one that made it failed: it has no MTU that counts as set, and may have followed a port
        // to the one it is to have.
        change.mtu = want.mtu.or(Mtu::new(1500).ok());
        let same = change.mtu.filter(|mtu| link.mtu_is(*mtu));
        ops.extend(same.map(|mtu| Op::SetLink {
            link: bridge,
            change: LinkChange {
                mtu: Some(neighbouring(mtu)),
                ..LinkChange::default()
            },
        }));
    } else if unmarked {
        // Found, not made: pin the address it has, or it would follow its lowest port.
        change.mac = link.mac;
        change.mtu = want.mtu.or(Mtu::new(i64::from(link.mtu)).ok());
    }
    change.up = (!link.up).then_some(true);
    if change != LinkChange::default() {
        ops.push(Op::SetLink { link: bridge, change });
    }
    Ok(bridge)
}

/// `ifalias`: ours when it already says made or adopted (kept current), "adopted" when it says nothing, and never
/// over an operator's own text. What this run made and could not mark yet is made, not found.
pub(super) fn take_over(link: &Link, marks: &Marks, observed: &Observed, change: &mut LinkChange) {
    let alias = match Mark::read(link.alias.as_deref()) {
        Mark::Made(_) => &marks.made,
        Mark::Adopted(_) => &marks.adopted,
        Mark::Foreign if link.alias.is_none() && observed.is_made_here(link.index) => &marks.made,
        Mark::Foreign if link.alias.is_none() => &marks.adopted,
        Mark::Foreign => return,
    };
    change.alias = Some(alias.clone()).filter(|alias| link.alias.as_ref() != Some(alias));
}

fn missing_attributes(want: &BridgeAttributes, have: &BridgeAttributes) -> BridgeAttributes {
    fn pick<T: PartialEq>(want: Option<T>, have: Option<T>) -> Option<T> {
        if want == have { None } else { want }
    }
    BridgeAttributes {
        stp: pick(want.stp, have.stp),
        forward_delay: pick(want.forward_delay, have.forward_delay),
        ageing_time: pick(want.ageing_time, have.ageing_time),
        multicast_snooping: pick(want.multicast_snooping, have.multicast_snooping),
        vlan_filtering: pick(want.vlan_filtering, have.vlan_filtering),
        vlan_default_pvid: pick(want.vlan_default_pvid, have.vlan_default_pvid),
        // A kernel that does not say cannot be told either.
        link_local_learning: pick(want.link_local_learning, have.link_local_learning)
            .filter(|_| have.link_local_learning.is_some()),
    }
}

/// Another MTU, one byte off; upwards where it can be, so that the bridge never falls below IPv6's minimum and back.
fn neighbouring(mtu: Mtu) -> Mtu {
    let (up, down) = (i64::from(mtu.get()) + 1, i64::from(mtu.get()) - 1);
    Mtu::new(up).or_else(|_| Mtu::new(down)).unwrap_or(mtu)
}
