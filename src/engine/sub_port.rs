//! Trunk ports: the further networks of a tap (`plan::sub_port`). The tap is a user of each of them, so that they are
//! made and kept; the tap's own network does not wait for them.

use super::Engine;
use super::event::Action;
use super::state::{SegmentState, Trunk};
use crate::desired::port::{PortIntent, PortWant};
use crate::model::owned::{self, Mark};
use crate::model::{Ifindex, Link, LinkName, NetworkId, PortVlans, SubPort, Time, VlanRow};
use crate::plan::CauseId;
use crate::plan::op::Op;
use crate::plan::segment::reference;
use crate::plan::sub_port::{SubPortWant, plan_sub_port, plan_sub_port_away};

impl Engine {
    /// The VLANs of a tap's port, where its bridge is the shared one.
    pub(super) fn vlans_wanted(&self, want: &PortWant) -> Option<PortVlans> {
        let own = VlanRow::access(self.vid_of(&want.network)?);
        let others = want.sub_ports.iter().filter(|sub| self.is_tagged(want, sub));
        Some(others.map(|sub| VlanRow::tagged(sub.vid)).chain([own]).collect())
    }

    /// The guest's tag is the network's own VLAN on the bridge that both share.
    fn is_tagged(&self, want: &PortWant, sub: &SubPort) -> bool {
        self.vid_of(&want.network).is_some() && self.vid_of(&sub.network) == Some(sub.vid)
    }

    /// Registers the tap with the networks of its sub-ports.
    pub(super) fn move_sub_users(&mut self, index: Ifindex, cause: CauseId, now: Time) {
        let Some(tap) = self.taps.get_mut(&index) else {
            return;
        };
        let subs: Vec<NetworkId> = match &tap.intent {
            PortIntent::Attach(want) => want.sub_ports.iter().map(|sub| sub.network.clone()).collect(),
            _ => Vec::new(),
        };
        if subs.is_empty() && tap.trunk.is_none() {
            return;
        }
        let own = tap.intent.network().cloned();
        let trunk = tap.trunk.get_or_insert_default();
        let before = std::mem::replace(&mut trunk.networks, subs.clone());
        for id in before
            .iter()
            .filter(|id| !subs.contains(id) && own.as_ref() != Some(id))
        {
            self.release(id, index, now);
        }
        for id in subs {
            self.move_user(index, None, Some(id), cause, now);
        }
    }

    /// The tap is gone: its sub-interfaces are too.
    pub(super) fn release_sub_users(&mut self, trunk: Option<&Trunk>, index: Ifindex, now: Time) {
        for id in trunk.into_iter().flat_map(|trunk| &trunk.networks) {
            self.release(id, index, now);
        }
    }

    /// The tap whose sub-interface this is.
    pub(super) fn trunk_of(&self, index: Ifindex) -> Option<Ifindex> {
        let link = self.observed.link(index)?;
        let owner = Mark::read(link.alias.as_deref()).owner()?;
        owner.trunk?;
        link.parent.filter(|parent| self.taps.contains_key(parent))
    }

    pub(super) fn mark_trunk_of(&mut self, index: Ifindex, cause: CauseId) {
        if let Some(tap) = self.trunk_of(index) {
            self.mark_tap(tap, cause);
        }
    }

    pub(super) fn sub_interface_gone(&mut self, link: &Link, cause: CauseId) {
        if let Some(tap) = link.parent.filter(|parent| self.taps.contains_key(parent)) {
            self.mark_tap(tap, cause);
        }
    }

    /// The next plan for a tap's sub-ports; afterwards what stands in their way is the tap's remark.
    pub(super) fn look_at_sub_ports(
        &mut self,
        index: Ifindex,
        want: &PortWant,
        cause: CauseId,
    ) -> Option<Action> {
        let tap = self.taps.get(&index)?;
        if want.sub_ports.is_empty() && tap.sub_interfaces().is_empty() {
            return None;
        }
        let link = self.observed.link(index)?;
        let (mut ops, mut wanted, mut remarks) = (Vec::new(), Vec::new(), Vec::new());
        for sub in want.sub_ports.iter().filter(|sub| !self.is_tagged(want, sub)) {
            let Ok(name) = owned::vlan_name(&link.name, sub.vid) else {
                continue;
            };
            wanted.push(name);
            let planned = self
                .sub_port_want(name, link.name, sub)
                .and_then(|want| plan_sub_port(&want, link, &self.observed, &mut ops).map_err(|c| c.reason));
            if let Err(reason) = planned {
                remarks.push(format!("sub-port {}: {reason}", sub.vid));
            }
        }
        let stale: Vec<Op> = tap
            .sub_interfaces()
            .iter()
            .filter(|name| !wanted.contains(name))
            .filter_map(|name| plan_sub_port_away(*name, link, &self.observed))
            .collect();
        ops.splice(0..0, stale);
        let tap = self.taps.get_mut(&index)?;
        let trunk = tap.trunk.get_or_insert_default();
        trunk.interfaces = wanted;
        trunk.remark = (!remarks.is_empty()).then(|| remarks.join("; ").into());
        (!ops.is_empty()).then(|| Action::Execute(self.port_plan(index, cause, ops)))
    }

    fn sub_port_want(&self, name: LinkName, tap: LinkName, sub: &SubPort) -> Result<SubPortWant, String> {
        let waits = |why: &dyn std::fmt::Display| format!("network {}: {why}", sub.network);
        let segment = self
            .segments
            .get(&sub.network)
            .ok_or_else(|| waits(&"not known"))?;
        let bridge = match (&segment.state, segment.bridge.and_then(|b| self.observed.link(b))) {
            (SegmentState::Ready | SegmentState::Configuring, Some(bridge)) => reference(bridge),
            (state, _) if state.to_string().is_empty() => return Err(waits(&state.word())),
            (state, _) => return Err(waits(state)),
        };
        let vid = self.vid_of(&sub.network);
        Ok(SubPortWant {
            name,
            tag: sub.vid,
            made: owned::alias_sub_port(&sub.network, &tap),
            bridge,
            mtu: segment.mtu,
            vlans: vid.map(|vid| [VlanRow::access(vid)].into_iter().collect()),
        })
    }

    /// Takes every sub-interface of a tap away.
    pub(super) fn sub_ports_away(&mut self, index: Ifindex) -> Vec<Op> {
        let Some(tap) = self.taps.get_mut(&index) else {
            return Vec::new();
        };
        let Some(trunk) = &mut tap.trunk else {
            return Vec::new();
        };
        let names = std::mem::take(&mut trunk.interfaces);
        trunk.remark = None;
        let Some(link) = self.observed.link(index) else {
            return Vec::new();
        };
        let away = names
            .into_iter()
            .filter_map(|name| plan_sub_port_away(name, link, &self.observed));
        away.collect()
    }

    /// Names of the sub-interfaces that taps have.
    pub(super) fn sub_interfaces(&self) -> impl Iterator<Item = LinkName> {
        self.taps
            .values()
            .filter_map(|tap| match &tap.intent {
                PortIntent::Attach(want) if !want.sub_ports.is_empty() => Some((tap.name, &want.sub_ports)),
                _ => None,
            })
            .flat_map(|(tap, subs)| {
                subs.iter()
                    .filter_map(move |sub| owned::vlan_name(&tap, sub.vid).ok())
            })
    }
}
