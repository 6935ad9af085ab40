//! What can be asked of the engine: status, lists, the plan that a resync would carry out. Nothing here changes it.

use super::state::{Asked, PortState, SegmentEntry, SegmentState, Tap};
use super::{Counters, Engine, Mirror};
use crate::desired::Desired;
use crate::desired::fdb::derive_forwarding;
use crate::desired::port::{PortIntent, derive_port, is_managed};
use crate::desired::segment::{UplinkWant, derive_segment};
use crate::desired::verdict::PortVerdict;
use crate::model::{Ifindex, Link, Network, NetworkId, Time};
use crate::observed::{Observed, is_tap_kind};
use crate::plan::forwarding::plan_forwarding;
use crate::plan::membership::Membership;
use crate::plan::op::{LinkChange, LinkRef, Master, Op};
use crate::plan::port::{PortMemory, plan_port};
use crate::plan::segment::{plan_segment, reference};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Ports by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounts {
    pub attached: usize,
    pub pending: usize,
    pub configuring: usize,
    pub failed: usize,
    pub conflict: usize,
    pub denied: usize,
    /// Taps of the host that `[taps]` does not name.
    pub unmanaged: usize,
}

/// One operation that a resync would carry out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub op: Op,
    /// The network or tap it is for, in words.
    pub cause: String,
}

impl Engine {
    pub fn is_in_sync(&self) -> bool {
        self.in_sync && self.mirror == Mirror::Current && !self.pass_open
    }
    /// Keys that wait to be looked at.
    pub fn dirty_keys(&self) -> usize {
        self.dirty_taps.len()
            + self.dirty_segments.len()
            + self.deferred.len()
            + usize::from(self.gateways.dirty)
    }
    pub fn in_sync_since(&self) -> Option<Time> {
        self.in_sync_since
    }
    pub fn started(&self) -> Time {
        self.started
    }
    pub fn counters(&self) -> Counters {
        self.counters
    }
    pub fn observed(&self) -> &Observed {
        &self.observed
    }
    pub fn desired(&self) -> &Desired {
        &self.desired
    }
    pub fn taps(&self) -> impl Iterator<Item = (Ifindex, &Tap)> {
        self.taps.iter().map(|(index, tap)| (*index, &**tap))
    }
    pub fn tap(&self, index: Ifindex) -> Option<&Tap> {
        self.taps.get(&index).map(|tap| &**tap)
    }
    pub fn segment(&self, id: &NetworkId) -> Option<&SegmentEntry> {
        self.segments.get(id)
    }
    /// Links that are taps by kind but that `[taps]` does not name.
    pub fn unmanaged(&self) -> impl Iterator<Item = &Link> {
        let kinds = &self.desired.taps.other_kinds;
        self.observed
            .links()
            .filter(move |link| is_tap_kind(&link.kind, kinds) && !is_managed(&self.desired, link))
    }

    pub fn port_counts(&self) -> PortCounts {
        let mut counts = PortCounts {
            unmanaged: self.unmanaged().count(),
            ..PortCounts::default()
        };
        for tap in self.taps.values() {
            match tap.state {
                PortState::Attached => counts.attached += 1,
                PortState::Pending { .. } => counts.pending += 1,
                PortState::Configuring => counts.configuring += 1,
                PortState::Failed { .. } => counts.failed += 1,
                PortState::Conflict { .. } => counts.conflict += 1,
                PortState::Denied { .. } => counts.denied += 1,
            }
        }
        counts
    }

    /// State of a network, also of one that nothing has used yet.
    pub fn network_state(&self, network: &Network) -> SegmentState {
        self.segments
            .get(&network.id)
            .map_or(SegmentState::Idle, |segment| segment.state.clone())
    }

    /// How many attached ports would lose their place if `desired` came into force.
    pub fn ports_detached_by(&self, desired: &Desired) -> usize {
        self.taps
            .iter()
            .filter(|(index, tap)| {
                tap.state == PortState::Attached
                    && self.observed.link(**index).is_some_and(|link| {
                        !matches!(derive_port(desired, link, tap.verdict()), PortIntent::Attach(_))
                    })
            })
            .count()
    }

    /// What attaching this tap would take with this verdict, for `admit`.
    pub fn preview_port(
        &self,
        index: Ifindex,
        verdict: &PortVerdict,
        network: Option<&NetworkId>,
    ) -> Vec<Op> {
        let verdict = PortVerdict {
            network: network.cloned(),
            ..verdict.clone()
        };
        let plan = || {
            let link = self.observed.link(index)?;
            let PortIntent::Attach(want) = derive_port(&self.desired, link, Some(&verdict)) else {
                return None;
            };
            let network = self.desired.network(&want.network)?;
            let segment = derive_segment(&self.desired, &self.observed, network, None).ok()?;
            let name = segment.bridge.name;
            let bridge = self
                .observed
                .by_name(&name)
                .map_or(LinkRef { name, index: None }, reference);
            Some(plan_port(&want, segment.mtu, link, bridge, PortMemory::default()))
        };
        plan().unwrap_or_default()
    }

    /// What a full pass would do now; nothing is done. Devices that the plan itself would make appear by name.
    pub fn preview(&self) -> Vec<Planned> {
        let mut planned = Vec::new();
        let mut wanted: BTreeSet<NetworkId> = self
            .segments
            .iter()
            .filter(|(id, s)| !s.users.is_empty() || self.desired.network(id).is_some_and(|n| n.stands()))
            .map(|(id, _)| id.clone())
            .collect();
        let verdict_of = |tap: &Tap| tap.verdict().cloned();
        for (index, tap) in &self.taps {
            if let Some(link) = self.observed.link(*index)
                && let PortIntent::Attach(want) = derive_port(&self.desired, link, verdict_of(tap).as_ref())
            {
                wanted.insert(want.network.clone());
            }
        }
        for id in &wanted {
            if let Some(network) = self.desired.network(id) {
                self.preview_segment(network, &mut planned);
            }
        }
        planned.extend(self.preview_guard().map(|op| Planned {
            op,
            cause: "spoof guard".to_owned(),
        }));
        for (index, tap) in &self.taps {
            let Some(link) = self.observed.link(*index) else {
                continue;
            };
            let PortIntent::Attach(want) = derive_port(&self.desired, link, tap.verdict()) else {
                continue;
            };
            let mut want = Arc::unwrap_or_clone(want);
            if matches!(tap.state, PortState::Conflict { .. })
                || tap.verdict == Asked::Never && self.policy.ports
            {
                continue;
            }
            let Some(network) = self.desired.network(&want.network) else {
                continue;
            };
            let verdict = self.segments.get(&want.network).and_then(|s| s.verdict.verdict());
            let Ok(segment) = derive_segment(&self.desired, &self.observed, network, verdict) else {
                continue;
            };
            if plan_segment(&segment, &self.observed).is_err() {
                continue;
            }
            let bridge = match self.observed.by_name(&segment.bridge.name) {
                Some(bridge) => reference(bridge),
                None => LinkRef {
                    name: segment.bridge.name,
                    index: None,
                },
            };
            let joins = bridge.index.is_none() || link.master != bridge.index;
            tap.original.clone().complete(&mut want, segment.mtu, link, joins);
            let vlans = self.vlans_wanted(&want);
            let memory = PortMemory {
                admin_state_applied: tap.admin_state_applied == Some(want.admin_state_up),
                fdb: &tap.fdb,
                guard: self.entries_of(*index),
                vlans: vlans.as_ref().map(|want| Membership {
                    want,
                    have: self.observed.vlans_of(*index),
                }),
            };
            let ops = plan_port(&want, segment.mtu, link, bridge, memory);
            planned.extend(ops.into_iter().map(|op| Planned {
                op,
                cause: format!("tap {}", tap.name),
            }));
        }
        planned.extend(self.preview_gateways().into_iter().map(|(op, network)| Planned {
            op,
            cause: network.map_or_else(|| "gateways".to_owned(), |id| format!("network {id}")),
        }));
        planned
    }

    fn preview_segment(&self, network: &Network, planned: &mut Vec<Planned>) {
        let cause = format!("network {}", network.id);
        let entry = self.segments.get(&network.id);
        let verdict = entry.and_then(|s| s.verdict.verdict());
        let Ok(mut want) = derive_segment(&self.desired, &self.observed, network, verdict) else {
            return;
        };
        if want.bridge.make && want.shared.is_none() {
            let mut original = entry.map(|s| s.original.clone()).unwrap_or_default();
            original.complete(&mut want.bridge, &self.observed);
        }
        if let Some((bridge, uplink)) = self.stale_uplink(&want)
            && let Some(uplink) = self.observed.link(uplink).filter(|l| l.master == Some(bridge))
        {
            let change = LinkChange {
                master: Some(Master::Clear),
                ..LinkChange::default()
            };
            planned.push(Planned {
                op: Op::SetLink {
                    link: reference(uplink),
                    change,
                },
                cause: cause.clone(),
            });
        }
        let Ok(mut plan) = plan_segment(&want, &self.observed) else {
            return;
        };
        plan.enslave = plan.enslave.filter(|enslave| self.is_to_enslave(&want, enslave));
        planned.extend(plan.ops.into_iter().map(|op| Planned {
            op,
            cause: cause.clone(),
        }));
        if let (Some(enslave), Some(bridge)) = (
            plan.enslave,
            self.observed
                .by_name(&want.bridge.name)
                .map(reference)
                .or(Some(LinkRef {
                    name: want.bridge.name,
                    index: None,
                })),
        ) && let Some(interface) = self.observed.link(enslave.interface)
        {
            // Its addresses and routes move along; which ones is read when it happens.
            let change = LinkChange {
                master: Some(Master::Set(bridge)),
                ..LinkChange::default()
            };
            planned.push(Planned {
                op: Op::SetLink {
                    link: reference(interface),
                    change,
                },
                cause: cause.clone(),
            });
        }
        let (name, vni) = match &want.uplink {
            UplinkWant::Vxlan { name, .. } => (name, None),
            UplinkWant::SharedVxlan { name, vni, .. } => (name, Some(*vni)),
            _ => return,
        };
        let ports = entry
            .into_iter()
            .flat_map(|s| &s.users)
            .filter_map(|index| self.taps.get(index))
            .filter(|tap| tap.intent.network() == Some(&network.id))
            .filter_map(|tap| tap.verdict());
        let forwarding = derive_forwarding(&self.desired, network, verdict, ports);
        let none = crate::plan::forwarding::ForwardingHave::default();
        let have = entry
            .and_then(|s| s.forwarding.as_ref())
            .map_or(&none, |(_, have)| have);
        let device = match self.observed.by_name(name) {
            Some(link) => reference(link),
            None => LinkRef {
                name: *name,
                index: None,
            },
        };
        let ops = plan_forwarding(&forwarding, have, device, vni);
        planned.extend(ops.into_iter().map(|op| Planned {
            op,
            cause: cause.clone(),
        }));
    }
}
