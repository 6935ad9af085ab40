//! The VLAN-aware bridge: who has which VLAN id, whom a change of VLANs concerns, and when a VLAN leaves the uplinks.
//!
//! The ids are in memory only. A start finds them in the kernel: a VXLAN port says which VLAN stands for which VNI, a
//! sub-interface and a tap say it by the VLAN they are in. A VID that is on some port is not given to another network,
//! whoever put it there: two networks would be one.

use super::event::Action;
use super::{Engine, Mirror};
use crate::desired::{Desired, aware, port, vid};
use crate::model::owned::{self, Mark};
use crate::model::{Ifindex, LinkKind, LinkName, NetworkId, Segment, Time, Vid, Vni};
use crate::plan::forwarding::ForwardingHave;
use crate::plan::op::{ListAction, Op};
use crate::plan::segment::reference;
use crate::plan::{CauseId, Key, Plan, Step};
use std::collections::BTreeMap;
use std::time::Duration;

impl Engine {
    /// Is this the VXLAN device of many networks?
    pub(super) fn is_shared_vxlan(&self, device: Ifindex) -> bool {
        let name = self.observed.link(device).map(|l| l.name);
        self.desired.mode.shared().is_some() && name.is_some() && name == owned::shared_vxlan_name().ok()
    }

    /// The network's VLAN, if it is on the shared bridge and has one.
    pub fn vid_of(&self, id: &NetworkId) -> Option<Vid> {
        let network = self.desired.network(id)?;
        aware::shared_bridge(&self.desired, network)?;
        self.desired.vids.get(id)
    }

    /// Sees to it that a network on the shared bridge has a VLAN id.
    pub(super) fn settle_vid(&mut self, id: &NetworkId, cause: CauseId) {
        let Some(network) = self.desired.network(id) else {
            return;
        };
        if aware::shared_bridge(&self.desired, network).is_none() {
            return;
        }
        let fixed = vid::fixed(&self.desired, network);
        let known = self.desired.vids.get(id);
        let chosen = match (fixed, known) {
            (Some(fixed), Some(known)) if fixed == known => return,
            (Some(fixed), _) => Some(fixed),
            (None, Some(_)) => return,
            (None, None) => self
                .users_vid(id)
                .or_else(|| vid::choose(&self.desired, network, |vid| self.observed.is_vid_in_use(vid))),
        };
        if let Some(chosen) = chosen
            && let Some(displaced) = self.desired.vids.assign(id, chosen)
        {
            self.mark_segment(&displaced, cause);
        }
    }

    /// The VLAN that its taps are in already (mapped by policy, whose answers a start has to wait for).
    fn users_vid(&self, id: &NetworkId) -> Option<Vid> {
        let bridge = self.shared_bridge_index()?;
        let users = self.segments.get(id)?.users.iter();
        let on_it = users.filter(|index| {
            self.observed
                .link(**index)
                .is_some_and(|l| l.master == Some(bridge))
        });
        let of_ours = on_it.filter(|index| {
            self.taps
                .get(index)
                .is_some_and(|t| t.intent.network() == Some(id))
        });
        let mut vids = of_ours.filter_map(|index| self.observed.vlans_of(*index)?.pvid());
        vids.find(|vid| self.may_claim(id, *vid))
    }

    fn shared_bridge_index(&self) -> Option<Ifindex> {
        let shared = self.desired.mode.shared()?;
        self.observed.by_name(&shared.name).map(|l| l.index)
    }

    fn may_claim(&self, id: &NetworkId, vid: Vid) -> bool {
        let free = self.desired.vids.get(id).is_none() && self.desired.vids.network_of(vid).is_none();
        free && self.desired.network(id).is_some_and(|network| {
            aware::shared_bridge(&self.desired, network).is_some()
                && vid::fixed(&self.desired, network).is_none()
                && !vid::is_reserved(&self.desired, vid)
        })
    }

    /// Other facts, the same VLAN ids.
    pub(super) fn take_desired(&mut self, desired: Desired, now: Time) {
        let shared = desired.mode.shared().is_some();
        if shared != self.desired.mode.shared().is_some() {
            self.observed.keep_vlans(shared);
            // The VLANs of ports are in no message that came before.
            if shared && self.mirror == Mirror::Current {
                self.mirror = Mirror::Stale {
                    not_before: now,
                    first: false,
                };
            }
        }
        let vids = std::mem::take(&mut self.desired.vids);
        self.desired = desired;
        if shared {
            self.desired.vids = vids;
        }
    }

    /// After a dump: the VLANs that networks have in the kernel.
    pub(super) fn recognise_vids(&mut self) {
        let Some(bridge) = self.shared_bridge_index() else {
            return;
        };
        let by_vni: BTreeMap<Vni, &NetworkId> = self
            .desired
            .networks()
            .filter_map(|network| match network.segment {
                Segment::Vxlan { vni } => Some((vni, &network.id)),
                _ => None,
            })
            .collect();
        let (mut told, mut taps) = (Vec::new(), Vec::new());
        for link in self.observed.ports_of(bridge) {
            let Some(vlans) = self.observed.vlans_of(link.index) else {
                continue;
            };
            if self.is_shared_vxlan(link.index) {
                let rows = vlans.rows().filter_map(|row| Some((row.vid, row.vni?)));
                told.extend(rows.filter_map(|(vid, vni)| Some(((*by_vni.get(&vni)?).clone(), vid))));
            } else if let Some(vid) = vlans.pvid() {
                if port::is_managed(&self.desired, link) {
                    let mapping = self.desired.mapping_for(&link.name);
                    taps.extend(mapping.map(|mapping| (mapping.network.clone(), vid)));
                } else if let Some(owner) = Mark::read(link.alias.as_deref()).owner() {
                    told.extend(NetworkId::new(owner.network).ok().map(|id| (id, vid)));
                }
            }
        }
        for (id, vid) in told.into_iter().chain(taps) {
            if self.may_claim(&id, vid) {
                self.desired.vids.assign(&id, vid);
            }
        }
    }

    /// Somebody changed the VLANs of a port.
    pub(super) fn on_vlans(&mut self, index: Ifindex, vids: &[Vid], cause: CauseId) {
        if self.taps.contains_key(&index) {
            self.mark_tap(index, cause);
            return;
        }
        if let Some(tap) = self.trunk_of(index) {
            self.mark_tap(tap, cause);
            return;
        }
        let concerned: Vec<NetworkId> = vids
            .iter()
            .filter_map(|vid| self.desired.vids.network_of(*vid).cloned())
            .collect();
        for id in concerned {
            self.mark_segment(&id, cause);
        }
        // A port of one network: whatever VLAN was added.
        if let Some(link) = self.observed.link(index)
            && matches!(link.kind, LinkKind::Vlan(_))
        {
            let name = link.name;
            self.mark_watchers(&name, cause);
        }
    }

    /// Somebody gave the VXLAN device a VNI, or took one away.
    pub(super) fn on_vnis(&mut self, device: Ifindex, vnis: &[Vni], cause: CauseId) {
        if !self.is_shared_vxlan(device) {
            return;
        }
        self.strays = None;
        let concerned: Vec<NetworkId> = self
            .desired
            .networks()
            .filter(|n| matches!(&n.segment, Segment::Vxlan { vni } if vnis.contains(vni)))
            .map(|n| n.id.clone())
            .collect();
        for id in concerned {
            self.mark_segment(&id, cause);
        }
    }

    /// What was read of the VXLAN device of many networks, for each of them.
    pub(super) fn share_forwarding(&mut self, device: Ifindex, have: &ForwardingHave) {
        let mut parts: BTreeMap<Vni, ForwardingHave> = BTreeMap::new();
        for row in &have.fdb {
            if let Some(vni) = row.vni {
                parts.entry(vni).or_default().fdb.push(*row);
            }
        }
        for (id, segment) in &mut self.segments {
            if let Some(Segment::Vxlan { vni }) = self.desired.network(id).map(|n| &n.segment) {
                segment.has_forwarding(device, parts.remove(vni).unwrap_or_default());
            }
        }
        let ours = |have: &ForwardingHave| have.fdb.iter().any(|row| row.ours);
        let strays = parts.into_iter().filter(|(_, have)| ours(have));
        self.strays = Some((device, strays.map(|(vni, _)| vni).collect()));
    }

    /// A network's entries go with its VLAN (`vlan_away`). If its VNI stands there again before it is ours to make, because
    /// somebody gave it back or it could not be taken away, they must not be taken for standing.
    pub(super) fn entry_went_with_its_vlan(&mut self, device: Ifindex, vni: Vni, op: &Op) {
        let segment = Segment::Vxlan { vni };
        for (id, state) in &mut self.segments {
            if self.desired.network(id).is_some_and(|n| n.segment == segment) {
                state.forwarding_done(device, op);
            }
        }
    }

    /// Whether a VNI that the device is just given is known to have no entries of ours.
    pub(super) fn is_clean(&self, device: Ifindex, vni: Vni) -> bool {
        let strays = self.strays.as_ref().filter(|(read, _)| *read == device);
        strays.is_some_and(|(_, vnis)| !vnis.contains(&vni))
    }

    /// VLANs of networks that nothing needs, on uplinks that others use. Only those that this run knows: what it does not
    /// know, somebody may have put there.
    pub(super) fn look_at_idle_vlans(
        &mut self,
        now: Time,
        prune_after: Duration,
    ) -> (Option<Action>, Option<Time>) {
        let Some(bridge) = self.shared_bridge_index() else {
            return (None, None);
        };
        let idle: BTreeMap<NetworkId, Vid> = self
            .desired
            .vids
            .iter()
            .filter(|(id, _)| !self.is_needed(id))
            .map(|(id, vid)| (id.clone(), vid))
            .collect();
        self.idle_vids.retain(|id, _| idle.contains_key(id));
        let mut next: Option<Time> = None;
        for (id, vid) in idle {
            let due = self.idle_vids.entry(id.clone()).or_insert(now).plus(prune_after);
            if due > now {
                next = Some(next.map_or(due, |at| at.min(due)));
                continue;
            }
            if let Some(plan) = self.vlan_away(bridge, &id, vid) {
                // Which entries it leaves behind is not known, if it was never asked.
                if self.segments.get(&id).is_none_or(|s| s.forwarding.is_none()) {
                    self.strays = None;
                }
                return (Some(Action::Execute(plan)), next);
            }
            self.desired.vids.release(&id);
            self.idle_vids.remove(&id);
        }
        (None, next)
    }

    fn is_needed(&self, id: &NetworkId) -> bool {
        let prewarm = self.desired.network(id).is_some_and(|n| n.stands());
        prewarm || self.segments.get(id).is_some_and(|s| !s.users.is_empty())
    }

    /// The plan that takes a VLAN off the first shared uplink that still has it.
    fn vlan_away(&self, bridge: Ifindex, id: &NetworkId, vid: Vid) -> Option<Plan> {
        let trunks: Vec<LinkName> = self
            .trunk_interfaces()
            .chain(owned::shared_vxlan_name().ok())
            .collect();
        let uplinks = trunks.iter().filter_map(|name| self.observed.by_name(name));
        let mut on_bridge = uplinks.filter(|link| link.master == Some(bridge));
        let (link, row) = on_bridge.find_map(|link| Some((link, *self.observed.vlan(link.index, vid)?)))?;
        let device = reference(link);
        let mut ops = vec![Op::Vlan {
            action: ListAction::Delete,
            link: device,
            row,
        }];
        if let Some(vni) = row.vni {
            let known = self.segments.get(id).and_then(|s| s.forwarding.as_ref());
            let ours = known
                .into_iter()
                .flat_map(|(_, have)| &have.fdb)
                .filter(|row| row.ours);
            ops.extend(ours.map(|row| Op::Fdb {
                action: ListAction::Delete,
                link: device,
                entry: row.entry,
                vni: Some(vni),
            }));
            ops.extend(self.observed.vni(link.index, vni).map(|row| Op::Vni {
                action: ListAction::Delete,
                link: device,
                row,
            }));
        }
        Some(Plan {
            key: Key::Orphan(link.index),
            cause: CauseId(self.causes),
            steps: ops.into_iter().map(Step::from).collect(),
        })
    }

    /// NICs that are ports of the shared bridge.
    pub(super) fn trunk_interfaces(&self) -> impl Iterator<Item = LinkName> {
        let trunks = self.desired.physical.values().filter(|p| p.trunk);
        trunks.filter_map(|p| p.interface)
    }
}
