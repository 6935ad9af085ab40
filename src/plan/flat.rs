//! A flat network's interface: made a port of the bridge together with the host's addresses, and given back.

use super::Conflict;
use super::op::{LinkChange, LinkRef, Op};
use super::segment::{SegmentPlan, conflict, reference};
use crate::desired::segment::SegmentWant;
use crate::model::owned::Mark;
use crate::model::{Ifindex, Link, LinkName};
use crate::observed::Observed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enslave {
    pub interface: Ifindex,
    /// Where the host's addresses are now: on the interface, or on the bridge of ours that had it until now.
    pub source: Ifindex,
}

pub(super) fn plan_flat(
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
