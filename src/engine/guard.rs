//! The spoof guard's table: there before the first guarded port, right as long as there is one, gone after the last.
//!
//! A port's own entries are part of the port's plan; what all ports share is looked at here, as one key. It is read when
//! a pass begins and when the monitor says that somebody else touched it. A table that is not as we make it is made
//! anew in one transaction with all entries, so a version's change or somebody's flush leaves no port half guarded.
//!
//! Nothing of it costs a host without guarded ports more than one question at each full pass: is there a table left
//! over from an earlier configuration?

use super::Engine;
use super::backoff::{self, Fight};
use super::event::{Action, Failure, FailureClass};
use super::note::What;
use super::state::PortState;
use crate::desired::guard::{Entry, derive_guard};
use crate::desired::port::{PortIntent, is_managed};
use crate::model::{Ifindex, LinkName, Time};
use crate::plan::guard::{GuardHave, GuardedPort, TableHave};
use crate::plan::op::{GuardTable, Op};
use crate::plan::{CauseId, Key, Plan, Step};

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Guard {
    /// What the kernel has, as last read and as changed by us since; none when in doubt.
    pub have: Option<GuardHave>,
    /// Some mapping asks for it.
    wanted: bool,
    /// It was right by our hand.
    settled: bool,
    fight: Fight,
    failures: u32,
    /// Why it cannot be had.
    failed: Option<Box<str>>,
    retry_at: Option<Time>,
    pub dirty: bool,
    cause: CauseId,
}

/// What a port can expect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// Will be looked at before any port is.
    Soon,
    Failed(Box<str>),
}

impl Engine {
    /// A new desired world, or a mapping of it.
    pub(super) fn look_for_guards(&mut self, cause: CauseId) {
        let wanted = self.desired.guards_anything();
        if self.guard.wanted != wanted {
            self.guard.wanted = wanted;
            // From now on it is watched, and what was read before that may be old.
            self.guard.have = None;
            self.mark_guard(cause);
            if self.desired.mode.shared().is_some() {
                self.mark_segments(cause);
            }
        }
    }

    /// All networks share a bridge, which is another one with a guard.
    fn mark_segments(&mut self, cause: CauseId) {
        let all: Vec<_> = self.segments.keys().cloned().collect();
        for id in all {
            self.mark_segment(&id, cause);
        }
    }

    pub(super) fn mark_guard(&mut self, cause: CauseId) {
        self.guard.cause = cause;
        self.guard.dirty = true;
    }

    /// What is known may be old: somebody else changed it, or events were lost.
    pub(super) fn doubt_guard(&mut self, cause: CauseId) {
        self.guard.have = None;
        self.mark_guard(cause);
    }

    /// A full pass tries again what this kernel could not do before.
    pub(super) fn forget_guard_failure(&mut self) {
        if let Some(at) = self.guard.retry_at.take() {
            self.timers.remove(&(at, Key::Guard));
        }
    }

    /// A port is no longer ours, or no longer there: its entries are swept, many at a time.
    pub(super) fn guard_left(&mut self, index: Ifindex, cause: CauseId) {
        if !self.entries_of(index).is_empty() {
            self.mark_guard(cause);
        }
    }

    /// The entries that the kernel has of a port.
    pub(super) fn entries_of(&self, index: Ifindex) -> &[Entry] {
        let ports = self.guard.have.as_ref().map(|have| &have.ports);
        ports
            .and_then(|ports| ports.get(&index))
            .map_or(&[], Vec::as_slice)
    }

    pub(super) fn guard_readiness(&mut self, cause: CauseId) -> Readiness {
        if self
            .guard
            .have
            .as_ref()
            .is_some_and(|have| have.table == TableHave::Right)
        {
            return Readiness::Ready;
        }
        if let Some(error) = &self.guard.failed {
            return Readiness::Failed(error.clone());
        }
        self.mark_guard(cause);
        Readiness::Soon
    }

    /// Every port that is to be guarded now, with its entries.
    fn guarded_ports(&self) -> Vec<GuardedPort> {
        let mut ports = Vec::new();
        for (index, tap) in &self.taps {
            if self.observed.link(*index).is_none() {
                continue;
            }
            let entries = match &tap.intent {
                PortIntent::Attach(want) => want.guard.as_deref().map(<[Entry]>::to_vec),
                // One that policy denies now still forwards, and not unguarded.
                _ if self.is_on_its_bridge(*index) => self.guard_of_mapping(&tap.name),
                _ => None,
            };
            ports.extend(entries.map(|entries| GuardedPort {
                index: *index,
                entries,
            }));
        }
        ports
    }

    fn guard_of_mapping(&self, name: &LinkName) -> Option<Vec<Entry>> {
        let mapping = self.desired.mapping_for(name)?;
        let network = self.desired.network(&mapping.network)?;
        let entries = derive_guard(mapping, network, self.desired.mode.shared().is_some());
        (!entries.is_empty()).then_some(entries)
    }

    pub(super) fn look_at_guard(&mut self, now: Time) -> Option<Action> {
        self.guard.dirty = false;
        if self.guard.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let Some(have) = &self.guard.have else {
            return Some(Action::ReadGuard {
                watch: self.guard.wanted,
            });
        };
        match have.table {
            TableHave::Right if self.guard.wanted => self.settle_guard(),
            TableHave::Absent | TableHave::Other if self.guard.wanted => self.make_guard(now),
            // Not before every source has said what it has, nor while a port is still to leave its bridge.
            TableHave::Right | TableHave::Other
                if self.in_sync && have.ports.keys().all(|index| self.is_stale(*index)) =>
            {
                Some(self.guard_plan(Op::GuardTable(GuardTable::Remove)))
            }
            TableHave::Absent | TableHave::Right | TableHave::Other => None,
        }
    }

    /// What a look at it would do now, as far as it is known.
    pub(super) fn preview_guard(&self) -> Option<Op> {
        let right = |have: &GuardHave| have.table == TableHave::Right;
        let make = self.guard.wanted && !self.guard.have.as_ref().is_some_and(right);
        make.then(|| Op::GuardTable(GuardTable::Make(self.guarded_ports().into())))
    }

    fn make_guard(&mut self, now: Time) -> Option<Action> {
        if self.guard.settled {
            self.guard.settled = false;
            let pause = self.guard.fight.lost(now);
            if !pause.is_zero() {
                let repairs = self.guard.fight.repairs();
                let error =
                    format!("somebody else keeps changing nftables' table bridge tapwire: {repairs} repairs");
                self.retry_guard(now.plus(pause));
                self.guard_failed(error.into());
                return None;
            }
            if let Ok(device) = LinkName::new(crate::desired::guard::table::NAME) {
                let what = What::Drift {
                    device,
                    network: None,
                };
                self.note(now, self.guard.cause, what);
            }
        }
        let ports = self.guarded_ports();
        Some(self.guard_plan(Op::GuardTable(GuardTable::Make(ports.into()))))
    }

    /// The table is right; are there entries of ports that are none of ours any more?
    fn settle_guard(&mut self) -> Option<Action> {
        self.guard.settled = true;
        self.guard.failures = 0;
        if self.guard.failed.take().is_some() {
            self.mark_guarded();
        }
        let stale: Vec<GuardedPort> = self
            .guard
            .have
            .iter()
            .flat_map(|have| &have.ports)
            .filter(|(index, _)| self.is_stale(**index))
            .map(|(index, entries)| GuardedPort {
                index: *index,
                entries: entries.clone(),
            })
            .collect();
        (!stale.is_empty()).then(|| self.guard_plan(Op::GuardTable(GuardTable::Sweep(stale.into()))))
    }

    /// A port that leaves its bridge takes its entries along in its own plan, after that.
    fn is_stale(&self, index: Ifindex) -> bool {
        let Some(link) = self.observed.link(index) else {
            return true;
        };
        let guarded = is_managed(&self.desired, link)
            && self
                .desired
                .mapping_for(&link.name)
                .is_some_and(|mapping| mapping.is_guarded());
        !guarded && self.in_sync && !self.is_on_its_bridge(index)
    }

    fn guard_plan(&self, op: Op) -> Action {
        Action::Execute(Plan {
            key: Key::Guard,
            cause: self.guard.cause,
            steps: vec![Step::from(op)],
        })
    }

    /// Answer to `Action::ReadGuard`.
    pub(super) fn on_guard(&mut self, have: Result<GuardHave, Failure>, now: Time) {
        match have {
            Ok(have) => {
                self.guard.have = Some(have);
                // Who differs is put right by its own plan.
                self.mark_guarded();
                let cause = self.guard.cause;
                self.mark_guard(cause);
            }
            // A kernel without nftables has no table of ours either.
            Err(_) if !self.guard.wanted => self.guard.have = Some(GuardHave::default()),
            Err(failure) => self.guard_refused("read the table bridge tapwire", &failure, now),
        }
    }

    pub(super) fn guard_acknowledged(&mut self, op: &Op) {
        if let Some(have) = &mut self.guard.have {
            have.acknowledge(op);
        }
        // Perhaps the last that was in the table's way.
        if !self.guard.wanted {
            self.guard.dirty = true;
        }
    }

    pub(super) fn guard_done(&mut self) {
        if self.guard.failed.take().is_some() {
            self.guard.failures = 0;
        }
        self.mark_guarded();
        let cause = self.guard.cause;
        self.mark_guard(cause);
    }

    pub(super) fn guard_refused(&mut self, op: &str, failure: &Failure, now: Time) {
        self.guard.have = None;
        self.guard.failures += 1;
        let pause = backoff::after_failures(self.guard.failures, 0);
        match failure.class {
            FailureClass::Unsupported => self.guard.retry_at = Some(Time(u64::MAX)),
            _ => self.retry_guard(now.plus(pause)),
        }
        if self.guard.failures == 1 {
            let what = What::Failed {
                op: op.to_owned(),
                error: failure.message.clone(),
                port: None,
                network: None,
            };
            self.note(now, self.guard.cause, what);
        }
        self.guard_failed(format!("{op}: {}", failure.message).into());
    }

    fn guard_failed(&mut self, error: Box<str>) {
        self.guard.failed = Some(error);
        self.mark_guarded();
    }

    fn retry_guard(&mut self, at: Time) {
        if let Some(old) = self.guard.retry_at.replace(at) {
            self.timers.remove(&(old, Key::Guard));
        }
        self.timers.insert((at, Key::Guard));
    }

    /// Ports that have a guard, or should have one.
    fn mark_guarded(&mut self) {
        let cause = self.guard.cause;
        let concerned: Vec<Ifindex> = self
            .taps
            .iter()
            .filter(|(index, tap)| {
                matches!(&tap.intent, PortIntent::Attach(want) if want.guard.is_some())
                    || !self.entries_of(**index).is_empty()
            })
            .map(|(index, _)| *index)
            .collect();
        for index in concerned {
            self.mark_tap(index, cause);
        }
    }

    /// False if the port may not be attached now: it would send unguarded.
    pub(super) fn guard_allows(&mut self, index: Ifindex, cause: CauseId, now: Time) -> bool {
        match self.guard_readiness(cause) {
            Readiness::Ready => true,
            Readiness::Soon => {
                if !self.is_on_its_bridge(index) {
                    self.set_port_state(index, PortState::Configuring, now);
                }
                false
            }
            Readiness::Failed(error) => {
                let error = format!("spoof guard: {error}").into();
                self.keep_or_wait(
                    index,
                    PortState::Failed {
                        error,
                        retry_at: self.guard.retry_at.filter(|at| *at != Time(u64::MAX)),
                    },
                    now,
                );
                false
            }
        }
    }
}
