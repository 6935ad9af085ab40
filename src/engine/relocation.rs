//! A flat network's interface becomes a port of its bridge, with its addresses; and comes back with them.
//!
//! The stages: read what the devices carry; carry out one transaction that enslaves the interface and tells
//! everything to the bridge (each step with its undo, so a failure in the middle leaves the host as it was); read
//! again and compare; only then remove the old ones. A mismatch takes the new ones away again. A failed move is
//! retried slowly; a daemon that dies half-way finds addresses on both devices and simply goes on.

use super::Engine;
use super::event::{Action, Failure};
use super::note::What;
use super::state::Moving;
use crate::desired::segment::{SegmentWant, UplinkWant, derive_segment};
use crate::desired::verdict::NetworkVerdict;
use crate::model::{Ifindex, Network, NetworkId, Time};
use crate::plan::address_move::{AddressMove, Carried, End, address_of, carries_anything, plan_move, verify};
use crate::plan::flat::{Enslave, recorded_uplink, stale_flat_uplink};
use crate::plan::op::{LinkChange, Master, Op};
use crate::plan::segment::{plan_segment, reference};
use crate::plan::{CauseId, Key, Plan, Step};
use std::time::Duration;

/// A failed move is not tried again before this: each try touches the host's own reachability.
pub(super) const SLOW_RETRY: Duration = Duration::from_secs(30);

/// The devices of a move: the interface becomes a port of the bridge, the addresses come from the source, which is the
/// interface itself or the bridge of ours that had it until now.
#[derive(Debug, Clone, Copy)]
struct Ends {
    interface: End,
    source: End,
    bridge: End,
}

/// The way back: from a bridge that nothing needs to the interface recorded in its alias.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct GiveBack {
    pub bridge: Ifindex,
    pub uplink: Ifindex,
    pub stage: Moving,
}

pub(super) fn end_of(engine: &Engine, index: Ifindex) -> Option<End> {
    engine.observed.link(index).map(|l| End {
        name: l.name,
        index,
        mac: l.mac,
    })
}

/// The next stage of making `want`'s interface a port of `bridge`.
pub(super) fn enslave_flat(
    engine: &mut Engine,
    id: &NetworkId,
    want: &SegmentWant,
    enslave: Option<Enslave>,
    bridge: Ifindex,
) -> Option<Action> {
    let UplinkWant::Flat { index, .. } = want.uplink else {
        return None;
    };
    let has_carrier = |index| engine.observed.link(index).is_some_and(|link| link.carrier);
    // Until the kernel has noticed the bridge's carrier (up to a second on a busy host) the bridge sends nothing; the
    // interface does, and keeps what it has so long. The bridge's event brings us back.
    let mute = has_carrier(index) && !has_carrier(bridge);
    let entry = engine.segments.get_mut(id)?;
    if entry.moving_between.is_some_and(|(_, to)| to != bridge) {
        // Begun with a bridge that is gone.
        entry.moving = None;
    }
    match entry.moving {
        Some(Moving::Verifying(_)) if mute => None,
        None => {
            let source = enslave.map_or(index, |enslave| enslave.source);
            entry.moving = Some(Moving::Reading);
            entry.moving_between = Some((source, bridge));
            Some(Action::ReadCarried {
                key: Key::Network(id.clone()),
                devices: vec![source, bridge],
            })
        }
        Some(Moving::Verifying(_)) => Some(Action::ReadCarried {
            key: Key::Network(id.clone()),
            devices: vec![entry.moving_between.map_or(index, |(from, _)| from), bridge],
        }),
        // Under way: the answer comes as an event.
        Some(Moving::Reading | Moving::Restoring(_) | Moving::Finishing) => None,
    }
}

impl Engine {
    /// Reading showed nothing to move on this device, whatever the mirror says it has (temporary addresses, say).
    pub(super) fn leave_behind(&mut self, device: Ifindex) {
        let addresses = self.observed.addresses_of(device).collect();
        self.left_behind.insert(device, addresses);
    }

    /// Nothing changed since reading showed nothing to move.
    pub(super) fn is_left_behind(&self, device: Ifindex) -> bool {
        self.left_behind
            .get(&device)
            .is_some_and(|left| left.iter().copied().eq(self.observed.addresses_of(device)))
    }

    /// Is there a port to make of the interface, or an address to move?
    pub(super) fn is_to_enslave(&self, want: &SegmentWant, enslave: &Enslave) -> bool {
        let master = self.observed.link(enslave.interface).and_then(|l| l.master);
        let is_port = master.is_some() && master == self.observed.by_name(&want.bridge.name).map(|l| l.index);
        !is_port || !self.is_left_behind(enslave.source)
    }

    /// A move that was begun and is not under way, because its network was told otherwise in the middle or its daemon ended:
    /// addresses are on both devices, or on an interface that is the port of our bridge already.
    pub(super) fn is_half_moved(&self, network: &Network, verdict: &NetworkVerdict) -> bool {
        let half = || {
            let want = derive_segment(&self.desired, &self.observed, network, Some(verdict)).ok()?;
            let enslave = plan_segment(&want, &self.observed).ok()?.enslave?;
            let bridge = self.observed.by_name(&want.bridge.name)?;
            let begun = recorded_uplink(bridge) == want.uplink.name()
                && (self.observed.link(enslave.interface)?.master == Some(bridge.index)
                    || self
                        .observed
                        .addresses_of(enslave.source)
                        .any(|address| self.observed.carries(bridge.index, address)));
            Some(begun && self.is_to_enslave(&want, &enslave))
        };
        half().unwrap_or(false)
    }

    /// The bridge, and the interface that is to get its addresses back before anything else is done to the bridge.
    pub(super) fn stale_uplink(&self, want: &SegmentWant) -> Option<(Ifindex, Ifindex)> {
        let (bridge, uplink) = stale_flat_uplink(want, &self.observed)?;
        let is_port = self.observed.link(uplink)?.master == Some(bridge);
        (is_port || !self.is_left_behind(bridge)).then_some((bridge, uplink))
    }

    pub(super) fn on_carried(&mut self, key: &Key, have: Result<Vec<Carried>, Failure>, now: Time) {
        let first =
            |have: Result<Vec<Carried>, Failure>| have.map(|all| all.into_iter().next().unwrap_or_default());
        match key {
            Key::Network(id) => self.on_network_carried(&id.clone(), have, now),
            Key::Orphan(index) => super::orphan::on_carried(self, *index, have, now),
            Key::Gateway(id) => self.on_gateway_carried(&id.clone(), first(have), now),
            Key::Gateways => self.on_gateways_carried(first(have), now),
            Key::Port(_) | Key::Guard => {}
        }
    }

    fn on_network_carried(&mut self, id: &NetworkId, have: Result<Vec<Carried>, Failure>, now: Time) {
        let Some(stage) = self.segments.get_mut(id).and_then(|entry| entry.moving.take()) else {
            return;
        };
        let Some(cause) = self.segments.get(id).map(|entry| entry.cause) else {
            return;
        };
        let [on_source, on_bridge] = match have {
            Ok(have) => <[Carried; 2]>::try_from(have).unwrap_or_default(),
            Err(failure) => {
                let what = "read addresses and routes".to_owned();
                self.on_segment_failure(id, &failure, what, now);
                return;
            }
        };
        let Some(ends) = self.flat_ends(id) else {
            // A device went away meanwhile.
            self.mark_segment(id, cause);
            return;
        };
        for (end, carried) in [(ends.source, &on_source), (ends.bridge, &on_bridge)] {
            let addresses = carried.addresses.iter().filter_map(address_of).collect();
            let effect = self.observed.set_addresses(end.index, &addresses);
            self.on_effect(effect, cause, now);
        }
        let plan = match stage {
            Moving::Reading => self.restore_plan(id, ends, &on_source, &on_bridge, cause, now),
            Moving::Verifying(movement) => {
                Some(self.finish_plan(id, ends, *movement, &on_bridge, cause, now))
            }
            Moving::Restoring(_) | Moving::Finishing => None,
        };
        match plan {
            Some(plan) => self.pending_plans.push_back(plan),
            None => self.mark_segment(id, cause),
        }
    }

    fn flat_ends(&self, id: &NetworkId) -> Option<Ends> {
        let network = self.desired.network(id)?;
        let physical = self.desired.physical.get(network.segment.physical()?)?;
        let interface = self.observed.by_name(&physical.interface?)?.index;
        let bridge = self.observed.by_name(&self.desired.bridge_name(network)?)?.index;
        let (source, to) = self.segments.get(id)?.moving_between?;
        if to != bridge {
            return None;
        }
        Some(Ends {
            interface: end_of(self, interface)?,
            source: end_of(self, source)?,
            bridge: end_of(self, bridge)?,
        })
    }

    /// Enslave, then tell everything to the bridge.
    fn restore_plan(
        &mut self,
        id: &NetworkId,
        ends: Ends,
        carried: &Carried,
        there: &Carried,
        cause: CauseId,
        now: Time,
    ) -> Option<Plan> {
        let Ends {
            interface,
            source,
            bridge,
        } = ends;
        let mut movement = match plan_move(source, bridge, carried, there) {
            Ok(movement) => movement,
            Err(error) => {
                self.fail_segment(id, error.to_string(), Some(SLOW_RETRY), now);
                return None;
            }
        };
        let link = self.observed.link(interface.index)?;
        let bridge_link = self.observed.link(bridge.index)?;
        let target = reference(link);
        let set = |master| Op::SetLink {
            link: target,
            change: LinkChange {
                master: Some(master),
                ..LinkChange::default()
            },
        };
        let back = match link.master.and_then(|m| self.observed.link(m)) {
            Some(old) => Master::Set(reference(old)),
            None => Master::Clear,
        };
        let mut steps = Vec::new();
        let carries = carries_anything(carried, source.mac);
        if carries && bridge_link.ipv6_disabled == Some(true) {
            steps.push(Step::from(Op::DisableIpv6 {
                link: reference(bridge_link),
                disable: false,
            }));
        }
        if !carries && source == interface && link.ipv6_disabled == Some(false) {
            steps.push(Step::from(Op::DisableIpv6 {
                link: target,
                disable: true,
            }));
        }
        let enslave = (link.master != Some(bridge.index)).then(|| Step {
            op: set(Master::Set(reference(bridge_link))),
            undo: Some(set(back)),
        });
        if source == interface {
            // As a port it still answers for the addresses it has.
            steps.extend(enslave);
            steps.extend(movement.restore.iter().cloned());
        } else {
            // The bridge that has them now is without a way out the moment the interface leaves it.
            steps.extend(movement.restore.iter().cloned());
            steps.extend(enslave);
        }
        movement.undo = undo_of(&steps);
        let stage = if carries {
            Moving::Restoring(Box::new(movement))
        } else {
            Moving::Finishing
        };
        if !carries {
            self.leave_behind(source.index);
        }
        let entry = self.segments.get_mut(id)?;
        entry.moving = Some(stage);
        Some(self.segment_steps(id, cause, steps))
    }

    /// Compare; remove the old ones, or take everything back.
    fn finish_plan(
        &mut self,
        id: &NetworkId,
        ends: Ends,
        movement: AddressMove,
        on_bridge: &Carried,
        cause: CauseId,
        now: Time,
    ) -> Plan {
        let Ends { source, bridge, .. } = ends;
        let steps: Vec<Step> = match verify(&movement.expected, on_bridge) {
            Ok(()) => {
                let what = What::AddressesMoved {
                    from: source.name,
                    to: bridge.name,
                    addresses: movement.expected.addresses.len(),
                    routes: movement.expected.routes.len(),
                };
                self.note(now, cause, what);
                let quiet = self
                    .observed
                    .link(source.index)
                    .filter(|l| l.ipv6_disabled == Some(false));
                let quiet = quiet.map(|l| Op::DisableIpv6 {
                    link: reference(l),
                    disable: true,
                });
                movement.remove.into_iter().chain(quiet).map(Step::from).collect()
            }
            Err(missing) => {
                self.fail_segment(
                    id,
                    format!("moving addresses to {}: {missing}", bridge.name),
                    Some(SLOW_RETRY),
                    now,
                );
                movement.undo.into_iter().map(Step::from).collect()
            }
        };
        if let Some(entry) = self.segments.get_mut(id) {
            entry.moving = Some(Moving::Finishing);
        }
        self.segment_steps(id, cause, steps)
    }
}

/// What takes steps that went through back, last first.
pub(super) fn undo_of(steps: &[Step]) -> Vec<Op> {
    steps.iter().rev().filter_map(|step| step.undo.clone()).collect()
}

/// A plan of this segment went through.
pub(super) fn step_done(engine: &mut Engine, id: &NetworkId) {
    let Some(entry) = engine.segments.get_mut(id) else {
        return;
    };
    match entry.moving.take() {
        Some(Moving::Restoring(movement)) => entry.moving = Some(Moving::Verifying(movement)),
        Some(Moving::Finishing) | None => {}
        Some(other) => entry.moving = Some(other),
    }
}

/// A plan of this segment failed; the executor has undone what it could.
pub(super) fn step_failed(engine: &mut Engine, id: &NetworkId) {
    if let Some(entry) = engine.segments.get_mut(id)
        && entry.moving.take().is_some()
    {
        // The next try starts from reading, and not soon.
        entry.failures = entry.failures.max(6);
    }
}
