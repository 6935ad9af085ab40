//! One further network of a trunk port, as a sub-interface of the tap: `tap0.101` is a port of that network's bridge.
//!
//! Where tap and network share the VLAN-aware bridge and the guest's tag is the network's own VLAN, none is needed: the
//! tap's port has the VLAN tagged (`plan::membership`). Anywhere else the sub-interface takes the tag off, so that the
//! guest's numbers are its own.

use super::Conflict;
use super::membership::Membership;
use super::op::{LinkChange, LinkRef, Master, Op};
use super::segment::{conflict, reference};
use crate::model::owned::Mark;
use crate::model::{Link, LinkKind, LinkName, Mtu, PortVlans, Vid};
use crate::observed::Observed;

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SubPortWant {
    pub name: LinkName,
    /// The guest's tag.
    pub tag: Vid,
    /// Text of `ifalias`.
    pub made: Box<str>,
    pub bridge: LinkRef,
    /// The network's; never more than the tap's.
    pub mtu: Option<Mtu>,
    /// On the VLAN-aware bridge.
    pub vlans: Option<PortVlans>,
}

pub fn plan_sub_port(
    want: &SubPortWant,
    tap: &Link,
    observed: &Observed,
    ops: &mut Vec<Op>,
) -> Result<(), Conflict> {
    let mtu = want
        .mtu
        .filter(|mtu| mtu.get() <= tap.mtu)
        .or(Mtu::new(i64::from(tap.mtu)).ok());
    let standing = observed.by_name(&want.name);
    if let Some(link) = standing.filter(|link| !is_right(want, tap, link)) {
        if !Mark::read(link.alias.as_deref()).is_made() {
            return Err(conflict(
                link,
                format!("{} is there and is another device", want.name),
            ));
        }
        ops.push(Op::DeleteLink {
            link: reference(link),
        });
    }
    let standing = standing.filter(|link| is_right(want, tap, link));
    let link = standing.map_or(
        LinkRef {
            name: want.name,
            index: None,
        },
        reference,
    );
    if standing.is_none() {
        ops.push(Op::CreateVlan {
            name: want.name,
            parent: reference(tap),
            vid: want.tag,
            mtu,
        });
    }
    if let Some(master) = standing
        .and_then(|l| l.master)
        .filter(|m| Some(*m) != want.bridge.index)
        && let Some(holder) = observed.link(master)
        && Mark::read(holder.alias.as_deref()).is_foreign()
    {
        let reason = format!("{} is a port of {}, which is not ours", want.name, holder.name);
        return Err(conflict(holder, reason));
    }
    if standing.is_none_or(|l| l.ipv6_disabled == Some(false)) {
        ops.push(Op::DisableIpv6 { link, disable: true });
    }
    let joins = standing.is_none_or(|l| l.master != want.bridge.index || l.master.is_none());
    let unmarked = match standing {
        None => true,
        Some(l) => match Mark::read(l.alias.as_deref()) {
            Mark::Made(_) => l.alias.as_ref() != Some(&want.made),
            _ => l.alias.is_none() && observed.is_made_here(l.index),
        },
    };
    let change = LinkChange {
        mtu: mtu.filter(|mtu| standing.is_some_and(|l| !l.mtu_is(*mtu))),
        alias: unmarked.then(|| want.made.clone()),
        master: joins.then_some(Master::Set(want.bridge)),
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        ops.push(Op::SetLink { link, change });
    }
    if let Some(vlans) = &want.vlans {
        let have = link.index.and_then(|index| observed.vlans_of(index));
        Membership { want: vlans, have }.plan(link, joins, ops);
    }
    // Below a tap that is down it does not come up, and with the tap it does.
    if tap.up && standing.is_none_or(|l| !l.up) {
        ops.push(Op::SetLink {
            link,
            change: LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        });
    }
    Ok(())
}

fn is_right(want: &SubPortWant, tap: &Link, link: &Link) -> bool {
    matches!(&link.kind, LinkKind::Vlan(have) if have.vid == Some(want.tag)) && link.parent == Some(tap.index)
}

/// Takes away a sub-interface that is not wanted any more, if we made it.
pub fn plan_sub_port_away(name: LinkName, tap: &Link, observed: &Observed) -> Option<Op> {
    let link = observed.by_name(&name)?;
    let ours = link.parent == Some(tap.index) && Mark::read(link.alias.as_deref()).is_made();
    ours.then(|| Op::DeleteLink {
        link: reference(link),
    })
}
