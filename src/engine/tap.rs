//! One tap: from how it is to where it belongs.
//!
//! Length: one port's whole decision, top to bottom; cut up it would have to be read in several files at once.

use super::backoff::Fight;
use super::event::{Action, Why};
use super::note::What;
use super::state::{PortLabel, PortState, SegmentState, WAITS_FOR_POLICY};
use super::{Engine, Mirror};
use crate::desired::port::{PortIntent, PortWant, derive_port};
use crate::model::owned::Mark;
use crate::model::{Ifindex, Link, NetworkId, TapSelector, Time};
use crate::plan::membership::Membership;
use crate::plan::op::{LinkChange, Op};
use crate::plan::port::{Place, PortMemory, plan_ahead, plan_detach, plan_port};
use crate::plan::segment::reference;
use crate::plan::{CauseId, Key, Plan, Step};
use std::sync::Arc;

impl Engine {
    pub(super) fn look_at_tap(&mut self, index: Ifindex, now: Time) -> Option<Action> {
        let tap = self.taps.get_mut(&index)?;
        tap.dirty = false;
        let cause = tap.cause;
        let previous = tap.intent.network().cloned();
        let Some(link) = self.observed.link(index) else {
            self.forget_tap(index, previous, cause, now);
            return None;
        };
        let intent = derive_port(&self.desired, link, tap.verdict());
        if intent == PortIntent::Unmanaged && !crate::desired::port::is_managed(&self.desired, link) {
            // Renamed away: left as it is, forgotten.
            self.forget_tap(index, previous, cause, now);
            return None;
        }
        // Not where a mapping names a network that nobody has told of: there is nothing to be said about that.
        let unknown = matches!(intent, PortIntent::UnknownNetwork(_));
        let asks = self.policy.ports && (!unknown || self.desired.mapping_for(&link.name).is_none());
        if asks && tap.verdict.needs_asking() {
            let ticket = self.next_ticket();
            let tap = self.taps.get_mut(&index)?;
            tap.verdict.ask(ticket);
            let why = std::mem::replace(&mut tap.why, Why::Change);
            let first = tap.verdict.is_first_wait();
            tap.intent = intent;
            let network = tap.intent.network().cloned();
            self.move_user(index, previous, network, cause, now);
            if first {
                // Looked at once more, for what can be done while policy thinks; an answer from memory comes before that.
                self.mark_tap(index, cause);
            }
            return Some(Action::AskPort { index, ticket, why });
        }
        let tap = self.taps.get_mut(&index)?;
        let waits = asks && tap.verdict.is_first_wait();
        if tap.intent != intent {
            tap.intent = intent;
            // What was in the way of another intent may not be in the way of this one.
            tap.fight = Fight::default();
            tap.refused_mtu = None;
            if tap.intent.network() != previous.as_ref() && tap.intent.network().is_some() {
                let port = tap.label(index);
                let by = match self.desired.mapping_for(&port.name).map(|m| &m.tap) {
                    Some(TapSelector::Exact(_)) => "port",
                    Some(TapSelector::Pattern(_)) => "pattern",
                    None => "policy",
                };
                self.note(now, cause, What::Mapped { port, by });
            }
            self.clear_retry(index);
        }
        let tap = self.taps.get(&index)?;
        let network = tap.intent.network().cloned();
        self.move_user(index, previous, network, cause, now);
        self.move_sub_users(index, cause, now);
        if waits {
            let reason = WAITS_FOR_POLICY.into();
            self.keep_or_wait(index, PortState::Pending { reason }, now);
        }
        match self.taps.get(&index)?.intent.clone() {
            PortIntent::Unmanaged => {
                self.set_port_state(
                    index,
                    PortState::Pending {
                        reason: "left alone by policy".into(),
                    },
                    now,
                );
                self.guard_left(index, cause);
                None
            }
            PortIntent::Unmapped => self.unwire(index, "no mapping names this tap".to_owned(), cause, now),
            PortIntent::UnknownNetwork(id) => {
                self.unwire(index, format!("network {id} is not known"), cause, now)
            }
            PortIntent::Denied { plugin, reason } => {
                self.set_port_state(index, PortState::Denied { plugin, reason }, now);
                self.guard_left(index, cause);
                None
            }
            PortIntent::Attach(want) => self.attach(index, &want, cause, now),
        }
    }

    fn attach(&mut self, index: Ifindex, want: &PortWant, cause: CauseId, now: Time) -> Option<Action> {
        let tap = self.taps.get(&index)?;
        if tap.retry_at.is_some_and(|at| at > now) && !self.went_with_its_bridge(index, &want.network) {
            return None;
        }
        if tap.verdict.is_first_wait() {
            let ops = plan_ahead(self.observed.link(index)?);
            return (!ops.is_empty()).then(|| Action::Execute(self.port_plan(index, cause, ops)));
        }
        let segment = self.segments.get(&want.network)?;
        let (bridge, segment_mtu) = match (&segment.state, segment.bridge) {
            (SegmentState::Ready, Some(bridge)) => (bridge, segment.mtu),
            (SegmentState::Configuring | SegmentState::Idle | SegmentState::Ready, _) => {
                // A port that forwards goes on while its bridge or uplink is put right.
                if !self.is_on_its_bridge(index) {
                    self.set_port_state(index, PortState::Configuring, now);
                }
                return None;
            }
            (SegmentState::Pending { reason } | SegmentState::Conflict { reason }, _) => {
                let reason = format!("network {}: {reason}", want.network).into();
                return self.keep_or_leave(index, want, PortState::Pending { reason }, cause, now);
            }
            (SegmentState::Failed { error, .. }, _) => {
                let state = PortState::Failed {
                    error: format!("network {}: {error}", want.network).into(),
                    retry_at: None,
                };
                return self.keep_or_leave(index, want, state, cause, now);
            }
        };
        let link = self.observed.link(index)?;
        let bridge_ref = reference(self.observed.link(bridge)?);
        let place = self.place_of(link, bridge);
        if let Place::Foreign(holder) = place
            && !self.desired.taps.adopt
        {
            let holder = self
                .observed
                .link(holder)
                .map_or_else(|| holder.to_string(), |l| l.name.to_string());
            let reason = format!(
                "{} is a port of {holder}, which is not ours (taps.adopt = true takes it)",
                link.name
            );
            self.set_port_state(
                index,
                PortState::Conflict {
                    bridge: holder.into(),
                    reason: reason.into(),
                },
                now,
            );
            return None;
        }
        if want.guard.is_some() && !self.guard_allows(index, cause, now) {
            return None;
        }
        let tap = self.taps.get_mut(&index)?;
        if tap.wired != Some(bridge) && place == Place::Right {
            // Put there by somebody else, without the entries that it had elsewhere.
            tap.fdb.clear();
        }
        let tap = self.taps.get(&index)?;
        let link = self.observed.link(index)?;
        // All was right once and nobody told otherwise since: somebody else undid it.
        let undone = tap.wired == Some(bridge)
            && tap.state == PortState::Attached
            && tap
                .settled
                .as_ref()
                .is_some_and(|(was, mtu)| **was == *want && *mtu == segment_mtu);
        let mut want = want.clone();
        let segment_mtu = segment_mtu.filter(|mtu| Some(*mtu) != tap.refused_mtu);
        want.mtu = want.mtu.filter(|mtu| Some(*mtu) != tap.refused_mtu);
        let mut original = tap.original.clone();
        original.note_policy(tap.verdict().is_some_and(|v| v.mtu.is_some()));
        original.complete(&mut want, segment_mtu, link, place != Place::Right);
        let vlans = self.vlans_wanted(&want);
        let memory = PortMemory {
            admin_state_applied: tap.admin_state_applied == Some(want.admin_state_up),
            fdb: &tap.fdb,
            guard: self.entries_of(index),
            vlans: vlans.as_ref().map(|want| Membership {
                want,
                have: self.observed.vlans_of(index),
            }),
        };
        let ops = plan_port(&want, segment_mtu, link, bridge_ref, memory);
        if let Some(tap) = self.taps.get_mut(&index) {
            tap.original = original;
        }
        if ops.is_empty() {
            if let Some(action) = self.look_at_sub_ports(index, &want, cause) {
                return Some(action);
            }
            self.settle_attached(index, bridge, want.admin_state_up, now);
            return None;
        }
        if undone && !self.wait_in_fight(index, place == Place::Right, now) {
            return None;
        }
        if place != Place::Right {
            if self.taps.get(&index)?.wired == Some(bridge) {
                self.note_drift(index, now);
            }
            self.set_port_state(index, PortState::Configuring, now);
        }
        Some(Action::Execute(self.port_plan(index, cause, ops)))
    }

    pub(super) fn port_plan(
        &mut self,
        index: Ifindex,
        cause: CauseId,
        ops: Vec<crate::plan::op::Op>,
    ) -> Plan {
        if let Some(tap) = self.taps.get_mut(&index) {
            tap.touched = self.epoch;
        }
        Plan {
            key: Key::Port(index),
            cause,
            steps: ops.into_iter().map(Step::from).collect(),
        }
    }

    /// Everything is as it should be.
    pub(super) fn settle_attached(&mut self, index: Ifindex, bridge: Ifindex, admin_up: bool, now: Time) {
        let link_up = self.observed.link(index).map(|l| l.up);
        let current = self.mirror == Mirror::Current;
        let Some(tap) = self.taps.get_mut(&index) else {
            return;
        };
        if let PortIntent::Attach(want) = &tap.intent {
            let mtu = self.segments.get(&want.network).and_then(|segment| segment.mtu);
            // After lost events what was read may be what was before: then it is not known yet that all is put back.
            if current {
                tap.original.settle(want, mtu);
            }
            tap.settled = Some((Arc::clone(want), mtu));
        }
        tap.wired = Some(bridge);
        tap.admin_state_applied = Some(admin_up);
        tap.failures = 0;
        tap.retry_at = None;
        let first = match tap.attach_us {
            Some(_) => None,
            None => Some(now.micros().saturating_sub(tap.seen_at.micros())),
        };
        tap.attach_us = tap.attach_us.or(first);
        let remark: Option<Box<str>> = match (admin_up, link_up) {
            (true, Some(false)) => Some("link is down: set down by somebody else".into()),
            (false, Some(true)) => {
                Some("link is up although admin_state_up is false: set up by somebody else".into())
            }
            _ => tap
                .refused_mtu
                .map(|mtu| format!("the kernel refused mtu {mtu} for this tap").into())
                .or_else(|| tap.trunk.as_ref()?.remark.clone())
                .or_else(|| unguarded_sub_ports(&tap.intent)),
        };
        let changed = tap.remark != remark;
        tap.remark = remark;
        if changed && tap.state == PortState::Attached {
            self.note_port(index, None, now);
        }
        self.change_port_state(index, PortState::Attached, first, now);
    }

    /// The network has trouble. A port that forwards in it goes on; one that was told to leave another network for it does not
    /// stay in that other network meanwhile.
    fn keep_or_leave(
        &mut self,
        index: Ifindex,
        want: &PortWant,
        state: PortState,
        cause: CauseId,
        now: Time,
    ) -> Option<Action> {
        let tap = self.taps.get(&index)?;
        let elsewhere = match &tap.settled {
            Some((was, _)) => was.network != want.network,
            None => self.segments.get(&want.network).and_then(|s| s.bridge) != tap.wired,
        };
        if elsewhere && self.is_on_its_bridge(index) {
            let ops = plan_detach(self.observed.link(index)?, self.entries_of(index));
            self.set_port_state(index, state, now);
            return Some(Action::Execute(self.port_plan(index, cause, ops)));
        }
        self.keep_or_wait(index, state, now);
        None
    }

    /// A port that forwards is not torn down because its network has trouble now.
    pub(super) fn keep_or_wait(&mut self, index: Ifindex, state: PortState, now: Time) {
        if !self.is_on_its_bridge(index) {
            self.set_port_state(index, state, now);
            // Whoever was to be guarded there and is not any more has no plan that would take its entries along.
            let cause = self.taps.get(&index).map(|tap| tap.cause);
            cause.into_iter().for_each(|cause| self.guard_left(index, cause));
            return;
        }
        let Some(tap) = self.taps.get_mut(&index) else {
            return;
        };
        let remark = Some(state.to_string().into());
        if tap.remark != remark {
            tap.remark = remark;
            if tap.state == PortState::Attached {
                self.note_port(index, None, now);
            }
        }
        self.set_port_state(index, PortState::Attached, now);
    }

    pub(super) fn is_on_its_bridge(&self, index: Ifindex) -> bool {
        self.taps.get(&index).and_then(|t| t.wired).is_some_and(|bridge| {
            self.observed
                .link(index)
                .is_some_and(|l| l.master == Some(bridge))
        })
    }

    /// It left a bridge that is gone, and another stands ready: nobody meant the port, so nothing is to be waited for.
    fn went_with_its_bridge(&self, index: Ifindex, network: &NetworkId) -> bool {
        let bridge = self.segments.get(network).and_then(|segment| segment.bridge);
        self.taps.get(&index).is_some_and(|tap| {
            tap.state == PortState::Configuring
                && tap.wired.is_some_and(|was| {
                    self.observed.link(was).is_none() && bridge.is_some_and(|now| now != was)
                })
        })
    }

    /// No mapping any more. Taken off the bridge only if it was this run that knew the mapping: after a start, a tap
    /// on one of our bridges without a mapping stays where it is (a forgotten file must not cut guests off).
    fn unwire(&mut self, index: Ifindex, reason: String, cause: CauseId, now: Time) -> Option<Action> {
        let mut away = self.sub_ports_away(index);
        let link = self.observed.link(index)?;
        let tap = self.taps.get(&index)?;
        let on_ours = link.master.is_some() && tap.wired == link.master;
        let mut original = tap.original.clone();
        let change = original.leave(link);
        let restores = change != LinkChange::default();
        if on_ours || restores || !away.is_empty() {
            if on_ours {
                away.extend(plan_detach(link, self.entries_of(index)));
            }
            if restores {
                away.push(Op::SetLink {
                    link: reference(link),
                    change,
                });
            }
            let ops = away;
            return Some(Action::Execute(self.port_plan(index, cause, ops)));
        }
        let reason = match link.master.and_then(|m| self.observed.link(m)) {
            Some(bridge) => format!("{reason}; left on {}", bridge.name),
            None => reason,
        };
        if let Some(tap) = self.taps.get_mut(&index) {
            tap.wired = None;
            tap.admin_state_applied = None;
            tap.original = original;
        }
        self.guard_left(index, cause);
        self.set_port_state(
            index,
            PortState::Pending {
                reason: reason.into(),
            },
            now,
        );
        None
    }

    fn place_of(&self, link: &Link, bridge: Ifindex) -> Place {
        match link.master {
            Some(master) if master == bridge => Place::Right,
            None => Place::Movable,
            Some(master) => {
                // A master that is gone already is no owner.
                let Some(holder) = self.observed.link(master) else {
                    return Place::Movable;
                };
                // By its mark, by use, or by the name that a network's bridge has.
                let ours = !Mark::read(holder.alias.as_deref()).is_foreign()
                    || self.segments.values().any(|s| s.bridge == Some(master))
                    || self
                        .desired
                        .networks()
                        .any(|network| self.desired.bridge_name(network) == Some(holder.name));
                if ours {
                    Place::Movable
                } else {
                    Place::Foreign(master)
                }
            }
        }
    }

    pub(super) fn set_port_state(&mut self, index: Ifindex, state: PortState, now: Time) {
        self.change_port_state(index, state, None, now);
    }

    fn change_port_state(&mut self, index: Ifindex, state: PortState, attach_us: Option<u64>, now: Time) {
        let Some(tap) = self.taps.get_mut(&index) else {
            return;
        };
        if tap.state == state {
            return;
        }
        if state != PortState::Attached {
            tap.remark = None;
        }
        tap.state = state;
        tap.since = now;
        self.note_port(index, attach_us, now);
    }

    /// `attach_us`: if this is what it was attached by first.
    fn note_port(&mut self, index: Ifindex, attach_us: Option<u64>, now: Time) {
        let Some(tap) = self.taps.get(&index) else { return };
        let port = PortLabel {
            index,
            name: tap.name,
            network: tap.intent.network().cloned(),
        };
        let what = What::Port {
            port,
            state: tap.state.clone(),
            remark: tap.remark.clone(),
            attach_us,
        };
        self.note(now, tap.cause, what);
    }
}

/// Who told what a port may send should not think that it holds for its sub-ports.
fn unguarded_sub_ports(intent: &PortIntent) -> Option<Box<str>> {
    match intent {
        PortIntent::Attach(want) if want.guard.is_some() && !want.sub_ports.is_empty() => {
            Some("its sub-ports have no spoof guard".into())
        }
        _ => None,
    }
}
