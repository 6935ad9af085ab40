//! What the kernel answered to a plan.

use super::event::{Applied, Done, Failure, FailureClass};
use super::note::What;
use super::state::{PortLabel, PortState, SegmentState};
use super::{Engine, acknowledge, backoff, orphan, relocation};
use crate::desired::port::PortIntent;
use crate::model::{FdbEntry, Ifindex, NetworkId, PortFlags, Time};
use crate::observed::Effect;
use crate::plan::forwarding::ForwardingHave;
use crate::plan::op::{LinkChange, ListAction, Master, Op};
use crate::plan::{CauseId, Key};
use std::sync::Arc;

impl Engine {
    pub(super) fn on_done(&mut self, done: Done, now: Time) {
        let cause = done.plan.cause;
        let mut failed: Option<(usize, Failure)> = None;
        for (at, (step, result)) in done.plan.steps.iter().zip(&done.results).enumerate() {
            self.counters.ops += 1;
            match &result.outcome {
                Ok(applied) => self.acknowledged(&done.plan.key, &step.op, applied, cause, now),
                Err(failure) => {
                    self.counters.op_errors += 1;
                    failed = Some((at, failure.clone()));
                }
            }
        }
        if let Some((at, _)) = &failed
            && done.undo_failures.is_empty()
        {
            // Else a next try would take what was taken back for done, until the events of it are read.
            let steps = done.plan.steps.iter().take(at + 1).rev();
            for undo in steps.filter_map(|step| step.undo.as_ref()) {
                self.acknowledged(&done.plan.key, undo, &Applied::Done, cause, now);
            }
        }
        for error in done.undo_failures {
            let what = What::Failed {
                op: "undo".to_owned(),
                error,
                port: None,
                network: None,
            };
            self.note(now, cause, what);
        }
        let op_text = |at: usize| {
            done.plan
                .steps
                .get(at)
                .map_or_else(String::new, |step| step.op.to_string())
        };
        let complete = done.results.len() == done.plan.steps.len();
        match (&done.plan.key, failed) {
            (Key::Port(index), None) => self.port_done(*index, complete, cause, now),
            (Key::Port(index), Some((at, failure))) => {
                let op = done.plan.steps.get(at).map(|step| step.op.clone());
                self.port_failed(*index, op, &failure, now);
            }
            (Key::Network(id), None) => {
                relocation::step_done(self, id);
                self.mark_segment(id, cause);
            }
            (Key::Network(id), Some((at, mut failure))) => {
                let op = done.plan.steps.get(at).map(|step| &step.op);
                if op.is_some_and(|op| self.joins_a_bridge_that_goes(id, op, &failure)) {
                    failure.class = FailureClass::Gone;
                }
                if failure.class == FailureClass::Gone
                    && let Some(entry) = self.segments.get_mut(id)
                {
                    // The move did not fail; there is another bridge to move to in a moment.
                    entry.moving = None;
                }
                relocation::step_failed(self, id);
                self.on_segment_failure(id, &failure, op_text(at), now);
            }
            (Key::Guard, None) => self.guard_done(),
            (Key::Guard, Some((at, failure))) => self.guard_refused(&op_text(at), &failure, now),
            (Key::Gateways, failed) => {
                let op = failed.as_ref().map_or_else(String::new, |(at, _)| op_text(*at));
                self.gateways_done(failed.as_ref().map(|(_, failure)| failure), &op, now);
            }
            (Key::Gateway(id), failed) => {
                let failed = failed.as_ref().map(|(at, failure)| (failure, op_text(*at)));
                self.gateway_done(id, failed, now);
            }
            (Key::Orphan(index), None) => orphan::step_done(self, *index, now),
            (Key::Orphan(index), Some((at, failure))) => {
                orphan::step_failed(self, *index, op_text(at), &failure, cause, now);
            }
        }
    }

    fn acknowledged(&mut self, key: &Key, op: &Op, applied: &Applied, cause: CauseId, now: Time) {
        let effect = acknowledge::acknowledge(&mut self.observed, op, applied);
        let of_orphan = matches!(key, Key::Orphan(_));
        // A device made or deleted, an address moved concern others as their events would; a changed device is our own news.
        match effect {
            Effect::Gone(ref link) if of_orphan => {
                self.note(now, cause, What::Pruned { device: link.name });
                self.on_effect(effect, cause, now);
            }
            Effect::Appeared(_) | Effect::Gone(_) | Effect::Addresses(_) => {
                self.on_effect(effect, cause, now);
            }
            // Giving back works on what may be another network's by now.
            Effect::Changed(_) if of_orphan => self.on_effect(effect, cause, now),
            _ => self.remember(key, op),
        }
    }

    /// What the mirror of links does not hold.
    fn remember(&mut self, key: &Key, op: &Op) {
        match (key, op) {
            (_, Op::Guard { .. } | Op::GuardTable(_)) => {
                self.guard_acknowledged(op);
            }
            // A VNI just made known has no entries of ours, as far as is known: no need to read a list that is long on a
            // shared device.
            (Key::Network(id), Op::Vni { link, row, .. }) => {
                let device = self.observed.by_name(&link.name).map(|l| l.index);
                let clean = device.filter(|device| self.is_clean(*device, row.vni));
                if let Some(segment) = self.segments.get_mut(id) {
                    match clean {
                        Some(device) => segment.has_forwarding(device, ForwardingHave::default()),
                        None => segment.forwarding = None,
                    }
                }
            }
            (Key::Orphan(device), Op::Fdb { vni: Some(vni), .. }) => {
                self.entry_went_with_its_vlan(*device, *vni, op)
            }
            (Key::Network(id), Op::Fdb { link, .. } | Op::Neighbour { link, .. }) => {
                if let (Some(entry), Some(device)) = (self.segments.get_mut(id), link.index) {
                    entry.forwarding_done(device, op);
                }
            }
            (Key::Port(index), Op::SetLink { change, .. }) => {
                // On a bridge by our hand, whatever fails later: an unbinding takes it off again.
                if let Some(Master::Set(bridge)) = change.master
                    && let Some(tap) = self.taps.get_mut(index)
                {
                    // It may be a port of this one all along: what was read last is old after lost events.
                    let again = tap.wired == bridge.index;
                    tap.wired = bridge.index;
                    tap.settled = None;
                    let (flags, fdb) = match &tap.intent {
                        PortIntent::Attach(want) => (want.flags, &want.fdb[..]),
                        _ => (PortFlags::default(), &[][..]),
                    };
                    // Those of another bridge's port; this one's come in later steps, or in a later plan.
                    tap.fdb.retain(|mac| again && !fdb.contains(mac));
                    tap.original.joined(&flags, again);
                }
            }
            (
                Key::Port(index),
                Op::Fdb {
                    action,
                    entry: FdbEntry { mac, .. },
                    ..
                },
            ) => {
                if let Some(tap) = self.taps.get_mut(index) {
                    tap.fdb.retain(|known| known != mac);
                    if *action != ListAction::Delete {
                        tap.fdb.push(*mac);
                    }
                }
            }
            _ => {}
        }
    }

    fn port_done(&mut self, index: Ifindex, complete: bool, cause: CauseId, now: Time) {
        let Some(tap) = self.taps.get(&index) else { return };
        let want = match &tap.intent {
            PortIntent::Attach(want) if complete => Some(Arc::clone(want)),
            _ => None,
        };
        let bridge = want
            .as_ref()
            .and_then(|want| self.segments.get(&want.network))
            .and_then(|s| s.bridge)
            .filter(|bridge| {
                self.observed
                    .link(index)
                    .is_some_and(|l| l.master == Some(*bridge))
            });
        match (want, bridge) {
            (Some(want), Some(bridge)) => {
                self.settle_attached(index, bridge, want.admin_state_up, now);
                if !want.sub_ports.is_empty()
                    || self
                        .taps
                        .get(&index)
                        .is_some_and(|t| !t.sub_interfaces().is_empty())
                {
                    self.mark_tap(index, cause);
                }
            }
            // Detached on purpose, or overtaken by events: look again.
            _ => self.mark_tap(index, cause),
        }
    }

    fn port_failed(&mut self, index: Ifindex, op: Option<Op>, failure: &Failure, now: Time) {
        let epoch = self.epoch;
        let Some(tap) = self.taps.get_mut(&index) else {
            return;
        };
        tap.touched = epoch;
        let cause = tap.cause;
        if matches!(op, Some(Op::Guard { .. })) {
            // Not as it was thought to be, or not known.
            self.doubt_guard(cause);
        }
        let Some(tap) = self.taps.get_mut(&index) else {
            return;
        };
        let refused = match &op {
            Some(Op::SetLink { change, .. }) if failure.class == FailureClass::Refused => Some(change),
            _ => None,
        };
        if let Some(mtu) = refused.and_then(|change| change.mtu)
            && tap.refused_mtu != Some(mtu)
        {
            tap.refused_mtu = Some(mtu);
            self.mark_tap(index, cause);
            self.note_failure(index, op.as_ref(), failure, cause, now);
            return;
        }
        tap.failures += 1;
        // The tap's event is on the way, or the bridge's is (a bridge that is going refuses ports with EINVAL): looked
        // at again when that is in. Once: the next failure in a row waits like any other.
        let joins = |change: &LinkChange| matches!(change.master, Some(Master::Set(_)));
        if tap.failures == 1 && (failure.class == FailureClass::Gone || refused.is_some_and(joins)) {
            self.mark_tap(index, cause);
            return;
        }
        // The MTU may not have been what was refused.
        tap.refused_mtu = None;
        let pause = backoff::after_failures(tap.failures, u64::from(index.get()));
        let text = op.as_ref().map_or_else(String::new, ToString::to_string);
        let retry_at = (failure.class != FailureClass::Unsupported).then(|| now.plus(pause));
        match retry_at {
            Some(at) => self.retry_tap(index, at),
            None => {
                if let Some(tap) = self.taps.get_mut(&index) {
                    tap.retry_at = Some(Time(u64::MAX));
                }
            }
        }
        self.note_failure(index, op.as_ref(), failure, cause, now);
        let error = format!("{text}: {}", failure.message).into();
        self.set_port_state(index, PortState::Failed { error, retry_at }, now);
    }

    fn note_failure(
        &mut self,
        index: Ifindex,
        op: Option<&Op>,
        failure: &Failure,
        cause: CauseId,
        now: Time,
    ) {
        let Some(tap) = self.taps.get(&index) else { return };
        // The first of a row is said; the state shows the others.
        if tap.failures > 1 {
            return;
        }
        let port = Some(PortLabel {
            index,
            name: tap.name,
            network: tap.intent.network().cloned(),
        });
        let op = op.map_or_else(String::new, ToString::to_string);
        self.note(
            now,
            cause,
            What::Failed {
                op,
                error: failure.message.clone(),
                port,
                network: None,
            },
        );
    }

    /// A bridge that stood and is unlisted, but not told to be gone yet, refuses ports with EINVAL instead of ENODEV.
    fn joins_a_bridge_that_goes(&self, id: &NetworkId, op: &Op, failure: &Failure) -> bool {
        let Some(entry) = self.segments.get(id) else {
            return false;
        };
        let joined = match op {
            Op::SetLink { change, .. } => change.master,
            _ => None,
        };
        let stood = matches!(joined, Some(Master::Set(bridge)) if bridge.index == entry.bridge);
        stood && entry.bridge.is_some() && entry.failures < 2 && failure.class == FailureClass::Refused
    }

    pub(super) fn on_segment_failure(&mut self, id: &NetworkId, failure: &Failure, op: String, now: Time) {
        let epoch = self.epoch;
        let Some(entry) = self.segments.get_mut(id) else {
            return;
        };
        entry.touched = epoch;
        entry.forwarding = None;
        let (cause, failures) = (entry.cause, entry.failures);
        if failure.class == FailureClass::Gone && failures == 0 {
            // One immediate look; a second failure in a row waits like any other.
            entry.failures = 1;
            self.mark_segment(id, cause);
            return;
        }
        let seed = id
            .as_str()
            .bytes()
            .fold(7, |hash: u64, b| hash.wrapping_mul(31).wrapping_add(u64::from(b)));
        let pause = backoff::after_failures(failures.max(1), seed);
        if failure.class == FailureClass::Gone && failures == 1 {
            // The kernel unlists a device an RCU grace period (30 ms for a bridge) before it tells so: `on_gone` ends the
            // wait. Nothing has failed yet that an operator should hear of.
            entry.failures = 2;
            entry.awaits_gone = true;
            self.retry_segment(id, Some(now.plus(pause)));
            self.set_segment_state(id, SegmentState::Configuring, now);
            return;
        }
        if failures <= 2 {
            let what = What::Failed {
                op: op.clone(),
                error: failure.message.clone(),
                port: None,
                network: Some(id.clone()),
            };
            self.note(now, cause, what);
        }
        let retry = (failure.class != FailureClass::Unsupported).then_some(pause);
        if self.is_unused(id) {
            // What is left is to put its interface back. Whoever comes to the network does not wait for that.
            if let Some(entry) = self.segments.get_mut(id) {
                entry.failures += 1;
            }
            self.timers
                .extend(retry.map(|pause| (now.plus(pause), Key::Network(id.clone()))));
            return;
        }
        self.fail_segment(id, format!("{op}: {}", failure.message), retry, now);
    }
}
