//! From how a network's place on the VLAN-aware bridge is to how it should be (`desired::aware` says what that is).
//!
//! Each network plans the shared devices too, if they are missing or wrong, and its own VLAN on them: there is no other
//! plan that could forget it. VLANs of other networks on a shared uplink are nobody's business here; those that nothing
//! needs any more go with the pruning.

use super::Conflict;
use super::bridge::plan_bridge;
use super::membership::Membership;
use super::op::{LinkChange, LinkRef, ListAction, Master, Op};
use super::segment::{
    SegmentPlan, conflict, plan_sub_interface, plan_uplink, reference, vxlan_needs_change,
    vxlan_same_identity,
};
use crate::desired::segment::{Marks, SegmentWant, SharedWant, UplinkWant};
use crate::model::owned::{self, Mark};
use crate::model::{Ifindex, LinkKind, LinkName, Mtu, PortFlags, PortVlans, Vid, VlanRow, VniRow};
use crate::observed::Observed;

pub(super) fn plan_shared(
    want: &SegmentWant,
    shared: SharedWant,
    observed: &Observed,
) -> Result<SegmentPlan, Conflict> {
    let mut plan = SegmentPlan::default();
    let ops = &mut plan.ops;
    plan_former_uplink(want, observed, ops);
    let bridge = plan_bridge(&want.bridge, &want.bridge_marks(), observed, ops)?;
    match &want.uplink {
        UplinkWant::Trunk { name, index, adopt } => {
            plan_trunk(*name, *index, *adopt, want.mtu, observed, bridge, ops)?;
            plan_row(
                link_of(*name, observed),
                bridge,
                VlanRow::tagged(shared.vid),
                observed,
                ops,
            );
        }
        UplinkWant::Vlan {
            name, parent_index, ..
        } => {
            release_trunk(*parent_index, bridge, observed, ops);
            plan_sub_interface(want, observed, bridge, ops)?;
            let link = link_of(*name, observed);
            let vlans = [VlanRow::access(shared.vid)].into_iter().collect();
            let membership = Membership {
                want: &vlans,
                have: link.index.and_then(|index| observed.vlans_of(index)),
            };
            membership.plan(link, !is_port(link, bridge, observed), ops);
        }
        UplinkWant::SharedVxlan { .. } => plan_shared_vxlan(want, shared.vid, observed, bridge, ops)?,
        UplinkWant::None | UplinkWant::Flat { .. } | UplinkWant::Vxlan { .. } => {}
    }
    Ok(plan)
}

fn link_of(name: LinkName, observed: &Observed) -> LinkRef {
    observed
        .by_name(&name)
        .map_or(LinkRef { name, index: None }, reference)
}

fn is_port(link: LinkRef, bridge: LinkRef, observed: &Observed) -> bool {
    let master = link
        .index
        .and_then(|index| observed.link(index))
        .and_then(|l| l.master);
    master.is_some() && master == bridge.index
}

/// One VLAN of a port that has others too.
fn plan_row(link: LinkRef, bridge: LinkRef, row: VlanRow, observed: &Observed, ops: &mut Vec<Op>) {
    let have = link
        .index
        .filter(|_| is_port(link, bridge, observed))
        .and_then(|index| observed.vlan(index, row.vid));
    if have == Some(&row) {
        return;
    }
    let vlan = |action, row| Op::Vlan { action, link, row };
    // A VLAN keeps the VNI it was told first, and no two have the same one.
    if let Some(other) = have.filter(|have| have.vni.is_some() && have.vni != row.vni) {
        ops.push(vlan(ListAction::Delete, *other));
    }
    let all = link.index.and_then(|index| observed.vlans_of(index));
    let rows = all
        .into_iter()
        .flat_map(PortVlans::rows)
        .filter(|_| row.vni.is_some());
    ops.extend(
        rows.filter(|other| other.vni == row.vni && other.vid != row.vid)
            .map(|other| vlan(ListAction::Delete, *other)),
    );
    ops.push(vlan(ListAction::Add, row));
}

/// The NIC itself becomes a port. Never one with addresses of the host, which would be cut off.
fn plan_trunk(
    name: LinkName,
    index: Ifindex,
    adopt: bool,
    mtu: Option<Mtu>,
    observed: &Observed,
    bridge: LinkRef,
    ops: &mut Vec<Op>,
) -> Result<(), Conflict> {
    let Some(link) = observed.link(index) else {
        return Ok(());
    };
    if link.is_bridge() {
        let reason =
            format!("{name} is a bridge and cannot be a port: take `trunk` away from its physical network");
        return Err(conflict(link, reason));
    }
    let joins = !is_port(reference(link), bridge, observed);
    if joins && observed.has_address(index) {
        let reason = format!(
            "{name} has addresses of the host and cannot be a trunk (take `trunk` away: each VLAN network then has a sub-interface)"
        );
        return Err(conflict(link, reason));
    }
    if let Some(master) = link.master.filter(|_| joins) {
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
    if link.ipv6_disabled == Some(false) {
        ops.push(Op::DisableIpv6 {
            link: reference(link),
            disable: true,
        });
    }
    let change = LinkChange {
        mtu: mtu.filter(|mtu| link.mtu < mtu.get()),
        master: joins.then_some(Master::Set(bridge)),
        ..LinkChange::default()
    };
    let up = LinkChange {
        up: (!link.up).then_some(true),
        ..LinkChange::default()
    };
    for change in [change, up]
        .into_iter()
        .filter(|change| *change != LinkChange::default())
    {
        ops.push(Op::SetLink {
            link: reference(link),
            change,
        });
    }
    Ok(())
}

/// A NIC that was a trunk and is to have sub-interfaces: what it has tagged would come twice. It was silenced when it became a
/// port (`plan_trunk`).
fn release_trunk(parent: Ifindex, bridge: LinkRef, observed: &Observed, ops: &mut Vec<Op>) {
    if let Some(link) = observed.link(parent)
        && is_port(reference(link), bridge, observed)
    {
        let link = reference(link);
        let change = LinkChange {
            master: Some(Master::Clear),
            ..LinkChange::default()
        };
        ops.push(Op::SetLink { link, change });
        ops.push(Op::DisableIpv6 { link, disable: false });
    }
}

fn plan_shared_vxlan(
    want: &SegmentWant,
    vid: Vid,
    observed: &Observed,
    bridge: LinkRef,
    ops: &mut Vec<Op>,
) -> Result<(), Conflict> {
    let UplinkWant::SharedVxlan {
        name,
        vni,
        group,
        attributes,
        mtu,
    } = &want.uplink
    else {
        return Ok(());
    };
    let right = |link: &crate::model::Link| match &link.kind {
        LinkKind::Vxlan(have) => vxlan_same_identity(have, attributes),
        _ => false,
    };
    if let Some(link) = observed.by_name(name).filter(|l| right(l))
        && let LinkKind::Vxlan(have) = &link.kind
        && vxlan_needs_change(have, attributes)
    {
        ops.push(Op::SetVxlan {
            link: reference(link),
            attributes: attributes.clone(),
        });
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
        "another port, local address or kind",
        &Marks::shared(),
        observed,
        bridge,
        *mtu,
        ops,
    )?;
    let standing = observed.by_name(name).filter(|l| right(l));
    let link = standing.map_or(
        LinkRef {
            name: *name,
            index: None,
        },
        reference,
    );
    let port = standing
        .filter(|_| is_port(link, bridge, observed))
        .and_then(|l| l.port);
    if port.and_then(|flags| flags.vlan_tunnel) != Some(true) {
        let flags = PortFlags {
            vlan_tunnel: Some(true),
            ..PortFlags::default()
        };
        ops.push(Op::SetPort { link, flags });
    }
    let row = VniRow {
        vni: *vni,
        group: *group,
    };
    if link.index.and_then(|index| observed.vni(index, *vni)) != Some(row) {
        ops.push(Op::Vni {
            action: ListAction::Add,
            link,
            row,
        });
    }
    plan_row(link, bridge, VlanRow::tunnel(vid, *vni), observed, ops);
    Ok(())
}

/// The network's own uplink of the other mode, if we made it: with a shared one beside it every frame would come twice,
/// and two VXLAN devices do not share a port.
fn plan_former_uplink(want: &SegmentWant, observed: &Observed, ops: &mut Vec<Op>) {
    let former = match (&want.uplink, want.shared) {
        (UplinkWant::SharedVxlan { vni, .. }, _) => owned::vxlan_name(*vni).ok(),
        (UplinkWant::Trunk { name, .. }, Some(shared)) => owned::vlan_name(name, shared.vid).ok(),
        _ => None,
    };
    let standing = former.and_then(|name| observed.by_name(&name));
    if let Some(link) = standing.filter(|l| Mark::read(l.alias.as_deref()).is_made())
        && matches!(link.kind, LinkKind::Vlan(_) | LinkKind::Vxlan(_))
    {
        ops.push(Op::DeleteLink {
            link: reference(link),
        });
    }
}

/// The other way round: what was shared, if we made it, is in the way of a bridge for each network.
pub(super) fn plan_former_shared(want: &SegmentWant, observed: &Observed, ops: &mut Vec<Op>) {
    match &want.uplink {
        UplinkWant::Vxlan { .. } => {
            let standing = owned::shared_vxlan_name()
                .ok()
                .and_then(|name| observed.by_name(&name));
            if let Some(link) = standing.filter(|l| owned::is_shared(l.alias.as_deref()))
                && Mark::read(link.alias.as_deref()).is_made()
            {
                ops.push(Op::DeleteLink {
                    link: reference(link),
                });
            }
        }
        UplinkWant::Vlan { parent_index, .. } => {
            let holder = observed
                .link(*parent_index)
                .and_then(|l| observed.link(l.master?));
            if let Some(holder) = holder.filter(|l| l.is_bridge() && owned::is_shared(l.alias.as_deref())) {
                release_trunk(*parent_index, reference(holder), observed, ops);
            }
        }
        _ => {}
    }
}
