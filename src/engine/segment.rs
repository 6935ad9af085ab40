//! One network's bridge, uplink and forwarding entries: from how they are to how they should be.
//!
//! The stages of one look, each of which may return an action and be entered again after its answer: policy's
//! verdict, the plan for bridge and uplink, the move of a flat interface's addresses (`relocation`), the forwarding
//! entries. Only when nothing is left to do is the segment ready, and its taps are looked at.

use super::event::{Action, Failure, Why};
use super::state::SegmentState;
use super::{Engine, Mirror, orphan, relocation};
use crate::desired::fdb::derive_forwarding;
use crate::desired::segment::{SegmentWant, UplinkWant, derive_segment};
use crate::desired::verdict::NetworkVerdict;
use crate::engine::note::What;
use crate::model::{Ifindex, NetworkId, Time, Vni};
use crate::plan::forwarding::{ForwardingHave, plan_forwarding};
use crate::plan::segment::{plan_segment, reference};
use crate::plan::{CauseId, Conflict, Key, Plan, Step};
use std::time::Duration;

impl Engine {
    pub(super) fn look_at_segment(&mut self, id: &NetworkId, now: Time) -> Option<Action> {
        let entry = self.segments.get_mut(id)?;
        entry.dirty = false;
        let cause = entry.cause;
        let Some(network) = self.desired.network(id) else {
            return self.drop_segment(id, cause, now);
        };
        if entry.users.is_empty() && !network.stands() {
            entry.moving = None;
            self.set_segment_state(id, SegmentState::Idle, now);
            return self.leave_nic(id, cause);
        }
        if entry.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        if self.policy.networks && entry.verdict.needs_asking() {
            self.tickets += 1;
            let ticket = self.tickets;
            entry.verdict.ask(ticket);
            return Some(Action::AskNetwork {
                network: id.clone(),
                ticket,
                why: std::mem::replace(&mut entry.why, Why::Change),
            });
        }
        if entry.verdict.is_first_wait() {
            return None;
        }
        self.settle_vid(id, cause);
        let network = self.desired.network(id)?;
        let entry = self.segments.get(id)?;
        let verdict = entry.verdict.verdict();
        // A move of the host's addresses that has begun is not stopped half-way.
        let undenied = verdict
            .filter(|v| v.deny.is_some())
            .map(|v| NetworkVerdict {
                deny: None,
                ..v.clone()
            })
            .filter(|v| entry.moving.is_some() || self.is_half_moved(network, v));
        let verdict = undenied.as_ref().or(verdict);
        let mut want = match derive_segment(&self.desired, &self.observed, network, verdict) {
            Ok(want) => want,
            Err(waiting) => {
                self.set_segment_state(
                    id,
                    SegmentState::Pending {
                        reason: waiting.to_string().into(),
                    },
                    now,
                );
                self.mark_users(id, cause);
                return None;
            }
        };
        if self.is_giving_back(want.bridge.name) {
            self.set_segment_state(id, SegmentState::Configuring, now);
            return None;
        }
        if let Some((bridge, uplink)) = self.stale_uplink(&want) {
            self.set_segment_state(id, SegmentState::Configuring, now);
            return orphan::begin_give_back(self, bridge, uplink);
        }
        let said = want.bridge.clone();
        if want.bridge.make && want.shared.is_none() {
            let entry = self.segments.get_mut(id)?;
            entry.original.complete(&mut want.bridge, &self.observed);
        }
        let nic = self.ask_of_nic(id, Some(&want));
        let mut plan = match plan_segment(&want, &self.observed) {
            Ok(plan) => plan,
            Err(Conflict { reason, .. }) => {
                self.set_segment_state(
                    id,
                    SegmentState::Conflict {
                        reason: reason.into(),
                    },
                    now,
                );
                self.mark_users(id, cause);
                return None;
            }
        };
        plan.enslave = plan.enslave.filter(|enslave| self.is_to_enslave(&want, enslave));
        // All was right and nobody told otherwise since: somebody else undid it.
        let undone = self
            .segments
            .get(id)
            .is_some_and(|s| s.state == SegmentState::Ready && s.settled.as_ref() == Some(&want));
        if undone
            && (!plan.ops.is_empty() || plan.enslave.is_some())
            && !self.wait_in_segment_fight(id, want.bridge.name, now)
        {
            return None;
        }
        self.note_raise(&want, &plan.ops);
        plan.ops.extend(nic.and_then(|nic| self.lower_nic(nic)));
        if !plan.ops.is_empty() {
            self.set_segment_state(id, SegmentState::Configuring, now);
            return Some(Action::Execute(self.segment_plan(id, cause, plan.ops)));
        }
        let bridge = self.observed.by_name(&want.bridge.name)?.index;
        if plan.enslave.is_some() || self.segments.get(id).is_some_and(|s| s.moving.is_some()) {
            self.set_segment_state(id, SegmentState::Configuring, now);
            return relocation::enslave_flat(self, id, &want, plan.enslave, bridge);
        }
        let vxlan = match &want.uplink {
            UplinkWant::Vxlan { name, .. } => Some((name, None)),
            UplinkWant::SharedVxlan { name, vni, .. } => Some((name, Some(*vni))),
            _ => None,
        };
        if let Some((name, vni)) = vxlan {
            let device = self.observed.by_name(name)?.index;
            if let Some(action) = self.look_at_forwarding(id, device, vni, cause) {
                return Some(action);
            }
        }
        if self.mirror == Mirror::Current
            && let Some(entry) = self.segments.get_mut(id)
        {
            entry.original.settle(&said);
        }
        self.settle_ready(id, &want, bridge, cause, now);
        None
    }

    /// A network that is not used asks nothing of its interface.
    fn leave_nic(&mut self, id: &NetworkId, cause: CauseId) -> Option<Action> {
        self.ask_of_nic(id, None);
        let failures = self.segments.get(id)?.failures;
        // Whoever comes next finds no old failure to wait for.
        self.clear_segment_retry(id);
        let op = self.lower_nics()?;
        if let Some(entry) = self.segments.get_mut(id) {
            entry.failures = failures;
        }
        Some(Action::Execute(self.segment_plan(id, cause, vec![op])))
    }

    /// `vni`: on the device of many networks, which one's entries.
    fn look_at_forwarding(
        &mut self,
        id: &NetworkId,
        device: Ifindex,
        vni: Option<Vni>,
        cause: CauseId,
    ) -> Option<Action> {
        let network = self.desired.network(id)?;
        let entry = self.segments.get(id)?;
        let ports = entry
            .users
            .iter()
            .filter_map(|index| self.taps.get(index))
            // Not of a trunk port that has another network for its own.
            .filter(|tap| tap.intent.network() == Some(id))
            .filter_map(|tap| tap.verdict());
        let want = derive_forwarding(&self.desired, network, entry.verdict.verdict(), ports);
        match &entry.forwarding {
            Some((read, have)) if *read == device => {
                let link = reference(self.observed.link(device)?);
                let ops = plan_forwarding(&want, have, link, vni);
                if ops.is_empty() {
                    return None;
                }
                // Somebody else's entry of meanwhile must not be replaced unseen.
                if !std::mem::take(&mut self.segments.get_mut(id)?.forwarding_fresh) {
                    return Some(Action::ReadForwarding {
                        network: id.clone(),
                        device,
                    });
                }
                Some(Action::Execute(self.segment_plan(id, cause, ops)))
            }
            _ => Some(Action::ReadForwarding {
                network: id.clone(),
                device,
            }),
        }
    }

    fn settle_ready(
        &mut self,
        id: &NetworkId,
        want: &SegmentWant,
        bridge: Ifindex,
        cause: CauseId,
        now: Time,
    ) {
        let uplink = want
            .uplink
            .name()
            .and_then(|name| self.observed.by_name(&name))
            .map(|l| l.index);
        let Some(entry) = self.segments.get_mut(id) else {
            return;
        };
        let news =
            entry.state != SegmentState::Ready || entry.bridge != Some(bridge) || entry.mtu != want.mtu;
        let news = news
            || entry
                .settled
                .as_ref()
                .is_some_and(|was| was.shared != want.shared);
        entry.bridge = Some(bridge);
        entry.uplink = uplink;
        entry.mtu = want.mtu;
        entry.failures = 0;
        entry.awaits_gone = false;
        entry.forwarding_fresh = false;
        entry.settled = Some(want.clone());
        self.set_segment_state(id, SegmentState::Ready, now);
        if news {
            self.mark_service(id);
            // What failed on the bridge that was may work on the one that is.
            let users: Vec<Ifindex> = self
                .segments
                .get(id)
                .into_iter()
                .flat_map(|s| s.users.iter().copied())
                .collect();
            for index in users {
                self.retry_now(index);
                if let Some(tap) = self.taps.get_mut(&index) {
                    tap.refused_mtu = None;
                }
            }
            self.mark_users(id, cause);
        }
    }

    pub(super) fn segment_plan(
        &mut self,
        id: &NetworkId,
        cause: CauseId,
        ops: Vec<crate::plan::op::Op>,
    ) -> Plan {
        self.segment_steps(id, cause, ops.into_iter().map(Step::from).collect())
    }

    pub(super) fn segment_steps(&mut self, id: &NetworkId, cause: CauseId, steps: Vec<Step>) -> Plan {
        if let Some(entry) = self.segments.get_mut(id) {
            entry.touched = self.epoch;
        }
        Plan {
            key: Key::Network(id.clone()),
            cause,
            steps,
        }
    }

    /// The network is not wanted any more: its taps are told, its devices are left to the pruning.
    fn drop_segment(&mut self, id: &NetworkId, cause: CauseId, now: Time) -> Option<Action> {
        self.mark_users(id, cause);
        let last = self.leave_nic(id, cause);
        if last.is_none()
            && let Some(entry) = self.segments.get(id)
            && entry.users.is_empty()
        {
            for name in entry.watched.clone() {
                if let Some(networks) = self.watched.get_mut(&name) {
                    networks.remove(id);
                    if networks.is_empty() {
                        self.watched.remove(&name);
                    }
                }
            }
            self.clear_segment_retry(id);
            self.segments.remove(id);
        } else {
            self.set_segment_state(id, SegmentState::Idle, now);
        }
        last
    }

    pub(super) fn set_segment_state(&mut self, id: &NetworkId, state: SegmentState, now: Time) {
        let Some(entry) = self.segments.get_mut(id) else {
            return;
        };
        if entry.state == state {
            return;
        }
        entry.state = state.clone();
        entry.since = now;
        let cause = entry.cause;
        self.mark_service(id);
        // Between two requests of one plan nobody needs to hear.
        if state != SegmentState::Configuring {
            self.note(
                now,
                cause,
                What::Network {
                    network: id.clone(),
                    state,
                },
            );
        }
    }

    pub(super) fn fail_segment(&mut self, id: &NetworkId, error: String, retry: Option<Duration>, now: Time) {
        let retry_at = retry.map(|pause| now.plus(pause));
        let Some(entry) = self.segments.get_mut(id) else {
            return;
        };
        entry.failures += 1;
        let cause = entry.cause;
        self.retry_segment(id, retry_at);
        self.set_segment_state(
            id,
            SegmentState::Failed {
                error: error.into(),
                retry_at,
            },
            now,
        );
        self.mark_users(id, cause);
    }

    pub(super) fn on_forwarding(
        &mut self,
        id: &NetworkId,
        device: Ifindex,
        have: Result<ForwardingHave, Failure>,
        now: Time,
    ) {
        let shared = self.is_shared_vxlan(device);
        let Some(entry) = self.segments.get_mut(id) else {
            return;
        };
        match have {
            Ok(have) if shared => {
                let cause = entry.cause;
                self.share_forwarding(device, &have);
                self.mark_segment(id, cause);
            }
            Ok(have) => {
                entry.has_forwarding(device, have);
                let cause = entry.cause;
                self.mark_segment(id, cause);
            }
            Err(failure) => self.on_segment_failure(id, &failure, "read forwarding entries".to_owned(), now),
        }
    }
}
