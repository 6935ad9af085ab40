//! From how a network's bridge and uplink are to how they should be.
//!
//! A device found under the derived name is taken over attribute by attribute: what is right is not touched, what the
//! kernel can change is changed, and what it cannot change (VID, VNI, port, local address) means making it anew if
//! the device is ours to delete, else a conflict that names it.
//!
//! Length: bridge and three kinds of uplink share the rules of taking over a device; each kind is a page.

use super::Conflict;
use super::op::{LinkChange, LinkRef, Master, Op};
use crate::desired::segment::{BridgeWant, SegmentWant, UplinkWant};
use crate::model::owned::Mark;
use crate::model::{
    BridgeAttributes, Ifindex, Link, LinkKind, LinkName, Mtu, VlanAttributes, VxlanAttributes,
};
use crate::observed::Observed;

/// The operations, and what must happen besides them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentPlan {
    pub ops: Vec<Op>,
    /// A flat network's interface that has to become a port of the bridge, with its addresses.
    pub enslave: Option<Enslave>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enslave {
    pub interface: Ifindex,
    /// Where the host's addresses are now: on the interface, or on the bridge of ours that had it until now.
    pub source: Ifindex,
}

pub fn plan_segment(want: &SegmentWant, observed: &Observed) -> Result<SegmentPlan, Conflict> {
    let mut plan = SegmentPlan::default();
    let bridge = plan_bridge(&want.bridge, want, observed, &mut plan.ops)?;
    match &want.uplink {
        UplinkWant::None => {}
        UplinkWant::Flat { name, index, adopt } => {
            plan_flat(*name, *index, *adopt, want, observed, bridge, &mut plan)?;
        }
        UplinkWant::Vlan {
            name,
            parent,
            parent_index,
            vid,
            mtu,
        } => {
            plan_parent(*parent_index, *mtu, observed, &mut plan.ops);
            let right = |link: &Link| match &link.kind {
                LinkKind::Vlan(VlanAttributes { vid: have, .. }) => {
                    *have == Some(*vid) && link.parent == Some(*parent_index)
                }
                _ => false,
            };
            if let Some(other) = observed.links().find(|l| right(l) && l.name != *name) {
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
                want,
                observed,
                bridge,
                *mtu,
                &mut plan.ops,
            )?;
        }
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
            plan_uplink(
                *name,
                make,
                right,
                "another VNI, port, local address or responder",
                want,
                observed,
                bridge,
                *mtu,
                &mut plan.ops,
            )?;
            if let Some(link) = observed.by_name(name).filter(|l| right(l))
                && let LinkKind::Vxlan(have) = &link.kind
                && vxlan_needs_change(have, attributes)
            {
                plan.ops.push(Op::SetVxlan {
                    link: reference(link),
                    attributes: attributes.clone(),
                });
            }
        }
    }
    plan_stale_uplinks(want, observed, bridge, &mut plan.ops);
    Ok(plan)
}

fn plan_bridge(
    want: &BridgeWant,
    segment: &SegmentWant,
    observed: &Observed,
    ops: &mut Vec<Op>,
) -> Result<LinkRef, Conflict> {
    let Some(link) = observed.by_name(&want.name) else {
        let made = LinkRef {
            name: want.name,
            index: None,
        };
        // 1500 even when nobody asked: an MTU never set follows the smallest port for ever.
        let mtu = want.mtu.or(Mtu::new(1500).ok());
        ops.push(Op::CreateBridge {
            name: want.name,
            mac: want.mac,
            mtu,
            attributes: want.attributes,
        });
        if !want.carries_addresses {
            ops.push(Op::DisableIpv6 {
                link: made,
                disable: true,
            });
        }
        let change = LinkChange {
            alias: Some(segment.made.clone()),
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
    let carries = want.carries_addresses || observed.has_address(link.index);
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
    take_over(link, segment, observed, &mut change);
    let found = Mark::read(link.alias.as_deref()).is_foreign() && !observed.is_made_here(link.index);
    if change.alias.is_some() && found {
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
fn take_over(link: &Link, segment: &SegmentWant, observed: &Observed, change: &mut LinkChange) {
    let alias = match Mark::read(link.alias.as_deref()) {
        Mark::Made(_) => &segment.made,
        Mark::Adopted(_) => &segment.adopted,
        Mark::Foreign if link.alias.is_none() && observed.is_made_here(link.index) => &segment.made,
        Mark::Foreign if link.alias.is_none() => &segment.adopted,
        Mark::Foreign => return,
    };
    change.alias = Some(alias.clone()).filter(|alias| link.alias.as_ref() != Some(alias));
}

fn plan_flat(
    name: LinkName,
    index: Ifindex,
    adopt: bool,
    want: &SegmentWant,
    observed: &Observed,
    bridge: LinkRef,
    plan: &mut SegmentPlan,
) -> Result<(), Conflict> {
    let Some(link) = observed.link(index) else {
        return Ok(());
    };
    if link.is_bridge() {
        let reason =
            format!("{name} is a bridge and cannot be a port; name it as `bridge` of the physical network");
        return Err(conflict(link, reason));
    }
    if let Some(master) = link.master.filter(|m| Some(*m) != bridge.index) {
        let holder = observed.link(master);
        let ours = holder.is_some_and(|l| !Mark::read(l.alias.as_deref()).is_foreign());
        if !ours && !adopt {
            let holder = holder.map_or_else(|| master.to_string(), |l| l.name.to_string());
            let reason = format!(
                "{name} is a port of {holder}, which is not ours (physical network: adopt = true takes it)"
            );
            return Err(conflict(link, reason));
        }
    }
    let interface = reference(link);
    let short = want.mtu.filter(|mtu| link.mtu < mtu.get());
    let change = LinkChange {
        mtu: short,
        up: (!link.up).then_some(true),
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        plan.ops.push(Op::SetLink {
            link: interface,
            change,
        });
    }
    // Another bridge of ours had the interface, and still has its addresses.
    let holder = observed.links().find(|l| {
        l.is_bridge()
            && Some(l.index) != bridge.index
            && recorded_uplink(l) == Some(name)
            && observed.has_address(l.index)
    });
    let source = holder.map_or(index, |holder| holder.index);
    // Already a port but with addresses: a move that was cut short, or somebody put them there. They belong on the bridge.
    let joins = link.master != bridge.index || bridge.index.is_none();
    if joins || source != index || observed.has_address(index) {
        plan.enslave = Some(Enslave {
            interface: index,
            source,
        });
    } else if link.ipv6_disabled == Some(false) {
        plan.ops.push(Op::DisableIpv6 {
            link: interface,
            disable: true,
        });
    }
    Ok(())
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
fn plan_uplink(
    name: LinkName,
    make: Op,
    right: impl Fn(&Link) -> bool,
    wrong: &str,
    want: &SegmentWant,
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
        take_over(link, want, observed, &mut change);
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
        alias: Some(want.made.clone()),
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
        if !is_uplink || told {
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
fn vxlan_same_identity(have: &VxlanAttributes, want: &VxlanAttributes) -> bool {
    have.vni == want.vni
        && have.dstport == want.dstport
        && have.local == want.local
        && have.proxy == want.proxy
        && have.external == want.external
        && (want.srcport == (0, 0) || have.srcport == want.srcport)
}

fn vxlan_needs_change(have: &VxlanAttributes, want: &VxlanAttributes) -> bool {
    have.group != want.group
        || have.ttl != want.ttl
        || have.tos != want.tos
        || have.learning != want.learning
        || (want.link.is_some() && have.link != want.link)
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
    }
}

/// The interface whose addresses a flat network's bridge carries, as its mark says.
pub fn recorded_uplink(bridge: &Link) -> Option<LinkName> {
    let owner = Mark::read(bridge.alias.as_deref()).owner()?;
    LinkName::new(owner.uplink?).ok()
}

/// A flat network's interface that is still a port of the bridge although the network now has another uplink, or whose
/// addresses the bridge still has: they go back to it before anything else.
pub fn stale_flat_uplink(want: &SegmentWant, observed: &Observed) -> Option<(Ifindex, Ifindex)> {
    let bridge = observed.by_name(&want.bridge.name).filter(|l| l.is_bridge())?;
    let name = recorded_uplink(bridge).filter(|name| want.uplink.name() != Some(*name))?;
    let uplink = observed.by_name(&name)?;
    let held = uplink.master == Some(bridge.index) || observed.has_address(bridge.index);
    held.then_some((bridge.index, uplink.index))
}

pub fn reference(link: &Link) -> LinkRef {
    LinkRef {
        name: link.name,
        index: Some(link.index),
    }
}

fn kind_word(link: &Link) -> &str {
    match link.kind.name() {
        "" => "physical device",
        kind => kind,
    }
}

fn conflict(link: &Link, reason: String) -> Conflict {
    Conflict {
        device: link.name,
        reason,
    }
}
