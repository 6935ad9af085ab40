//! From how a network's bridge and uplink are to how they should be.
//!
//! A device found under the derived name is taken over attribute by attribute: what is right is not touched, what the
//! kernel can change is changed, and what it cannot change (VID, VNI, port, local address) means making it anew if
//! the device is ours to delete, else a conflict that names it.
//!
//! Length: bridge and three kinds of uplink share the rules of taking over a device; each kind is a page.

use super::Conflict;
use super::aware;
use super::bridge::{plan_bridge, take_over};
use super::flat::{Enslave, plan_flat};
use super::op::{LinkChange, LinkRef, Master, Op};
use crate::desired::segment::{Marks, SegmentWant, UplinkWant};
use crate::model::owned::Mark;
use crate::model::{Ifindex, Link, LinkKind, LinkName, Mtu, VlanAttributes, VxlanAttributes};
use crate::observed::Observed;

/// The operations, and what must happen besides them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentPlan {
    pub ops: Vec<Op>,
    /// A flat network's interface that has to become a port of the bridge, with its addresses.
    pub enslave: Option<Enslave>,
}

pub fn plan_segment(want: &SegmentWant, observed: &Observed) -> Result<SegmentPlan, Conflict> {
    if let Some(shared) = want.shared {
        return aware::plan_shared(want, shared, observed);
    }
    let mut plan = SegmentPlan::default();
    aware::plan_former_shared(want, observed, &mut plan.ops);
    let bridge = plan_bridge(&want.bridge, &want.bridge_marks(), observed, &mut plan.ops)?;
    match &want.uplink {
        UplinkWant::None => {}
        UplinkWant::Flat { name, index, adopt } => {
            plan_flat(*name, *index, *adopt, want, observed, bridge, &mut plan)?;
        }
        // Only on a shared bridge.
        UplinkWant::Trunk { .. } | UplinkWant::SharedVxlan { .. } => {}
        UplinkWant::Vlan { .. } => plan_sub_interface(want, observed, bridge, &mut plan.ops)?,
        UplinkWant::Vxlan {
            name,
            attributes,
            mtu,
        } => {
            let right = |link: &Link| match &link.kind {
                LinkKind::Vxlan(have) => vxlan_same_identity(have, attributes),
                _ => false,
            };
            let clash = |link: &&Link| match &link.kind {
                LinkKind::Vxlan(have) => {
                    link.name != *name
                        && !have.external
                        && have.vni == attributes.vni
                        && have.dstport == attributes.dstport
                }
                _ => false,
            };
            if let Some(other) = observed.links().find(clash) {
                return Err(conflict(
                    other,
                    format!(
                        "vni {} on port {} is in use by {}",
                        attributes.vni, attributes.dstport, other.name
                    ),
                ));
            }
            let make = Op::CreateVxlan {
                name: *name,
                mtu: *mtu,
                attributes: attributes.clone(),
            };
            // Before the MTU: the underlay bounds it.
            if let Some(link) = observed.by_name(name).filter(|l| right(l))
                && let LinkKind::Vxlan(have) = &link.kind
                && vxlan_needs_change(have, attributes)
            {
                plan.ops.push(Op::SetVxlan {
                    link: reference(link),
                    attributes: attributes.clone(),
                });
            }
            plan_uplink(
                *name,
                make,
                right,
                "another VNI, port, local address or responder",
                &want.marks(),
                observed,
                bridge,
                *mtu,
                &mut plan.ops,
            )?;
        }
    }
    plan_stale_uplinks(want, observed, bridge, &mut plan.ops);
    Ok(plan)
}

/// A VLAN network's sub-interface, as a port of `bridge`.
pub(super) fn plan_sub_interface(
    want: &SegmentWant,
    observed: &Observed,
    bridge: LinkRef,
    ops: &mut Vec<Op>,
) -> Result<(), Conflict> {
    let UplinkWant::Vlan {
        name,
        parent,
        parent_index,
        vid,
        mtu,
    } = &want.uplink
    else {
        return Ok(());
    };
    plan_parent(*parent_index, *mtu, observed, ops);
    let right = |link: &Link| match &link.kind {
        LinkKind::Vlan(VlanAttributes { vid: have, .. }) => {
            *have == Some(*vid) && link.parent == Some(*parent_index)
        }
        _ => false,
    };
    // Two cannot have one VID: whoever has the name has it, or another device may.
    let has_name = observed.by_name(name).is_some_and(right);
    if !has_name && let Some(other) = observed.links().find(|l| right(l)) {
        return Err(conflict(
            other,
            format!("vlan {vid} on {parent} is in use by {}", other.name),
        ));
    }
    let make = Op::CreateVlan {
        name: *name,
        parent: LinkRef {
            name: *parent,
            index: Some(*parent_index),
        },
        vid: *vid,
        mtu: *mtu,
    };
    plan_uplink(
        *name,
        make,
        right,
        "another VLAN id or parent",
        &want.marks(),
        observed,
        bridge,
        *mtu,
        ops,
    )
}

/// A VLAN's parent must be up, and not smaller than its child.
fn plan_parent(parent: Ifindex, mtu: Option<Mtu>, observed: &Observed, ops: &mut Vec<Op>) {
    let Some(link) = observed.link(parent) else { return };
    let change = LinkChange {
        mtu: mtu.filter(|mtu| link.mtu < mtu.get()),
        up: (!link.up).then_some(true),
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        ops.push(Op::SetLink {
            link: reference(link),
            change,
        });
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call per uplink kind; a struct would only rename the arguments"
)]
pub(super) fn plan_uplink(
    name: LinkName,
    make: Op,
    right: impl Fn(&Link) -> bool,
    wrong: &str,
    marks: &Marks,
    observed: &Observed,
    bridge: LinkRef,
    mtu: Option<Mtu>,
    ops: &mut Vec<Op>,
) -> Result<(), Conflict> {
    let standing = observed.by_name(&name);
    if let Some(link) = standing.filter(|link| right(link)) {
        let uplink = reference(link);
        if let Some(master) = link.master.filter(|m| Some(*m) != bridge.index) {
            let holder = observed.link(master);
            if holder.is_none_or(|l| Mark::read(l.alias.as_deref()).is_foreign()) {
                let holder = holder.map_or_else(|| master.to_string(), |l| l.name.to_string());
                return Err(conflict(
                    link,
                    format!("{name} is a port of {holder}, which is not ours"),
                ));
            }
        }
        if link.ipv6_disabled == Some(false) && !observed.has_address(link.index) {
            ops.push(Op::DisableIpv6 {
                link: uplink,
                disable: true,
            });
        }
        let mut change = LinkChange {
            mtu: mtu.filter(|mtu| !link.mtu_is(*mtu)),
            ..LinkChange::default()
        };
        take_over(link, marks, observed, &mut change);
        if bridge.index.is_none() || link.master != bridge.index {
            change.master = Some(Master::Set(bridge));
        }
        if change != LinkChange::default() {
            ops.push(Op::SetLink { link: uplink, change });
        }
        if !link.up {
            ops.push(Op::SetLink {
                link: uplink,
                change: LinkChange {
                    up: Some(true),
                    ..LinkChange::default()
                },
            });
        }
        return Ok(());
    }
    if let Some(link) = standing {
        if !Mark::read(link.alias.as_deref()).is_made() || observed.has_address(link.index) {
            let reason = format!(
                "{name} exists with {wrong}, and is not ours to make anew ({})",
                kind_word(link)
            );
            return Err(conflict(link, reason));
        }
        ops.push(Op::DeleteLink {
            link: reference(link),
        });
    }
    let made = LinkRef { name, index: None };
    ops.push(make);
    ops.push(Op::DisableIpv6 {
        link: made,
        disable: true,
    });
    let change = LinkChange {
        alias: Some(marks.made.clone()),
        master: Some(Master::Set(bridge)),
        ..LinkChange::default()
    };
    ops.push(Op::SetLink { link: made, change });
    ops.push(Op::SetLink {
        link: made,
        change: LinkChange {
            up: Some(true),
            ..LinkChange::default()
        },
    });
    Ok(())
}

/// An uplink that we made for this network when it was told otherwise (another VNI, VID, interface).
fn plan_stale_uplinks(want: &SegmentWant, observed: &Observed, bridge: LinkRef, ops: &mut Vec<Op>) {
    let Some(index) = bridge.index else { return };
    for port in observed.ports_of(index) {
        let is_uplink = matches!(port.kind, LinkKind::Vlan(_) | LinkKind::Vxlan(_));
        let told = want.uplink.name() == Some(port.name);
        let sub_port = Mark::read(port.alias.as_deref())
            .owner()
            .is_some_and(|o| o.trunk.is_some());
        if !is_uplink || told || sub_port {
            continue;
        }
        match Mark::read(port.alias.as_deref()) {
            Mark::Made(_) => ops.push(Op::DeleteLink {
                link: reference(port),
            }),
            // Not ours to delete, but two uplinks on one bridge would join two networks.
            Mark::Adopted(_) => ops.push(Op::SetLink {
                link: reference(port),
                change: LinkChange {
                    master: Some(Master::Clear),
                    ..LinkChange::default()
                },
            }),
            Mark::Foreign => {}
        }
    }
}

/// What the kernel refuses to change on a VXLAN device (`vxlan_nl2conf`, changelink): VNI, port, responder, source
/// port range; the local address too, by the contract.
pub(super) fn vxlan_same_identity(have: &VxlanAttributes, want: &VxlanAttributes) -> bool {
    have.vni == want.vni
        && have.dstport == want.dstport
        && have.local == want.local
        && have.proxy == want.proxy
        && have.external == want.external
        && have.vnifilter == want.vnifilter
        && (want.srcport == (0, 0) || have.srcport == want.srcport)
}

pub(super) fn vxlan_needs_change(have: &VxlanAttributes, want: &VxlanAttributes) -> bool {
    have.group != want.group
        || have.ttl != want.ttl
        || have.tos != want.tos
        || have.learning != want.learning
        || (want.link.is_some() && have.link != want.link)
}

pub fn reference(link: &Link) -> LinkRef {
    LinkRef {
        name: link.name,
        index: Some(link.index),
    }
}

pub(super) fn kind_word(link: &Link) -> &str {
    match link.kind.name() {
        "" => "physical device",
        kind => kind,
    }
}

pub(super) fn conflict(link: &Link, reason: String) -> Conflict {
    Conflict {
        device: link.name,
        reason,
    }
}
