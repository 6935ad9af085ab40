//! The machine: events in, actions out, no I/O and no clock.
//!
//! `handle` applies an event and marks keys (taps, segments) dirty; `poll_action` looks at dirty keys, one at a time,
//! comparing what is with what should be, and returns the next thing to do; `next_deadline` says when to poll again
//! without an event. Nothing is replayed: a key is always judged by how things are now, so a full pass is nothing
//! but every key marked dirty after the mirror was replaced by a dump.
//!
//! Who drives it must, between two actions, read the monitor socket until it is empty and then send
//! [`Event::Drained`]: an operation's own echo is then in the mirror before its key is looked at again. A key that
//! was operated on waits for that (`epoch`).
//!
//! Blast radius: a failed plan fails its key; others go on. A crash needs no recovery: the first pass finds what is.
//!
//! Length: the machine's one state struct with the three calls that drive it; what they do is in the files beside it.

mod acknowledge;
mod asked;
mod aware;
pub mod backoff;
pub mod event;
mod gateway;
mod guard;
mod kernel;
mod needed;
mod nic;
pub mod note;
mod original;
mod orphan;
mod outcome;
mod queue;
mod relocation;
mod retry;
mod segment;
pub mod service;
pub mod state;
mod sub_port;
mod tap;
mod users;
mod verdicts;
pub mod view;

use crate::desired::Desired;
use crate::model::{Ifindex, LinkName, NetworkId, Time, Vni};
use crate::observed::Observed;
use crate::plan::{CauseId, Key, Plan};
use event::{Action, Event, Loss, PolicyUse, Why};
use note::{Note, What};
use state::{SegmentEntry, Tap};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Between two full dumps asked for by losses: an overrun storm costs one dump a second, not one per overrun.
const RESYNC_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    pub events: u64,
    pub overruns: u64,
    /// Full passes after the first one.
    pub resyncs: u64,
    pub decode_errors: u64,
    pub ops: u64,
    pub op_errors: u64,
}

/// How the mirror stands towards the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Mirror {
    /// A dump is needed; not before this time.
    Stale {
        not_before: Time,
        first: bool,
    },
    /// Asked for.
    Dumping {
        first: bool,
        lost_again: bool,
    },
    Current,
}

#[derive(serde::Serialize, serde::Deserialize)]
pub struct Engine {
    observed: Observed,
    desired: Desired,
    /// Boxed: a tree's nodes are half empty when keys come in order, and a tap's state is large.
    taps: BTreeMap<Ifindex, Box<Tap>>,
    segments: BTreeMap<NetworkId, SegmentEntry>,
    dirty_taps: VecDeque<Ifindex>,
    dirty_segments: VecDeque<NetworkId>,
    /// Keys operated on in this epoch that became dirty: looked at after the next `Drained`.
    deferred: Vec<Key>,
    timers: BTreeSet<(Time, Key)>,
    /// Which networks lean on a link of this name.
    watched: BTreeMap<LinkName, BTreeSet<NetworkId>>,
    /// Devices of ours that nothing needs, and since when.
    idle: BTreeMap<Ifindex, Time>,
    /// Networks with a VLAN on the shared bridge that nothing needs, and since when.
    idle_vids: BTreeMap<NetworkId, Time>,
    /// VNIs with entries of ours on the VXLAN device of many networks that no network has, as when it was last read: an
    /// earlier run's. Unknown when somebody else changed its VNIs since.
    strays: Option<(Ifindex, BTreeSet<Vni>)>,
    prune_check_at: Option<Time>,
    prune_after: Option<Duration>,
    give_back: Option<relocation::GiveBack>,
    raised: BTreeMap<Ifindex, nic::Raised>,
    guard: guard::Guard,
    gateways: gateway::Gateways,
    /// Addresses that reading found to be nobody's to move, by device: as long as the mirror shows just these, there is
    /// nothing to move.
    left_behind: BTreeMap<Ifindex, BTreeSet<IpAddr>>,
    /// Worked out while an answer was handled; handed out before anything else.
    pending_plans: VecDeque<Plan>,
    mirror: Mirror,
    sources_in_sync: bool,
    in_sync: bool,
    /// A pass begun by a snapshot has not ended yet.
    pass_open: bool,
    services: service::Services,
    policy: PolicyUse,
    tickets: u64,
    epoch: u64,
    causes: u64,
    started: Time,
    in_sync_since: Option<Time>,
    last_dump: Option<Time>,
    counters: Counters,
    /// For people; nothing is decided by them.
    #[serde(skip)]
    notes: Vec<Note>,
}

impl Engine {
    /// `prune_after`: how long an empty bridge or uplink of ours stays; `None` is for ever.
    pub fn new(desired: Desired, prune_after: Option<Duration>, now: Time) -> Self {
        let mut engine = Self {
            observed: Observed::default(),
            desired,
            taps: BTreeMap::new(),
            segments: BTreeMap::new(),
            dirty_taps: VecDeque::new(),
            dirty_segments: VecDeque::new(),
            deferred: Vec::new(),
            timers: BTreeSet::new(),
            watched: BTreeMap::new(),
            idle: BTreeMap::new(),
            idle_vids: BTreeMap::new(),
            strays: None,
            prune_check_at: None,
            prune_after,
            give_back: None,
            raised: BTreeMap::new(),
            guard: guard::Guard::default(),
            gateways: gateway::Gateways::default(),
            left_behind: BTreeMap::new(),
            pending_plans: VecDeque::new(),
            mirror: Mirror::Stale {
                not_before: now,
                first: true,
            },
            sources_in_sync: false,
            in_sync: false,
            pass_open: false,
            services: service::Services::default(),
            policy: PolicyUse::default(),
            tickets: 0,
            epoch: 1,
            causes: 0,
            started: now,
            in_sync_since: None,
            last_dump: None,
            counters: Counters::default(),
            notes: Vec::new(),
        };
        engine.observed.keep_vlans(engine.desired.mode.shared().is_some());
        engine.start_prewarmed(now);
        engine.mark_services();
        engine.look_for_guards(CauseId::default());
        engine.gateways_told(CauseId::default());
        engine
    }

    /// From the next look at unused devices on.
    pub fn set_prune_after(&mut self, prune_after: Option<Duration>) {
        self.prune_after = prune_after;
    }

    pub fn handle(&mut self, event: Event, now: Time) {
        let cause = CauseId(self.causes + 1);
        match event {
            Event::Kernel(change) => {
                self.causes += 1;
                self.counters.events += 1;
                self.on_kernel(change, cause, now);
            }
            Event::Drained => {
                self.epoch += 1;
                for key in std::mem::take(&mut self.deferred) {
                    self.queue(key);
                }
            }
            Event::Lost(loss) => self.on_loss(loss, now),
            Event::Snapshot(snapshot) => {
                self.causes += 1;
                self.on_snapshot(snapshot, cause, now);
                self.doubt_gateways(cause);
            }
            Event::SnapshotFailed { error } => {
                let first = matches!(self.mirror, Mirror::Dumping { first: true, .. });
                self.mirror = Mirror::Stale {
                    not_before: now.plus(RESYNC_PAUSE),
                    first,
                };
                self.note(
                    now,
                    cause,
                    What::Failed {
                        op: "dump links".to_owned(),
                        error,
                        port: None,
                        network: None,
                    },
                );
            }
            Event::Desired(desired) => {
                self.causes += 1;
                self.replace_desired(*desired, cause, now);
                self.gateways_told(cause);
            }
            Event::SetNetwork(network) => {
                self.causes += 1;
                let id = network.id.clone();
                if self.desired.network(&id) != Some(&network) {
                    self.desired.set_network(*network);
                    self.network_changed(&id, cause, now);
                    self.gateways_told(cause);
                }
            }
            Event::RemoveNetwork(id) => {
                self.causes += 1;
                if self.desired.remove_network(&id).is_some() {
                    self.network_changed(&id, cause, now);
                    self.gateways_told(cause);
                }
            }
            Event::SetMapping(mapping) => {
                self.causes += 1;
                let tap = mapping.tap.clone();
                let network = mapping.network.clone();
                let guards = self.desired.guards(&network);
                let before = self
                    .desired
                    .mappings()
                    .find(|m| m.tap == tap)
                    .map(|m| m.network.clone());
                self.desired.set_mapping(*mapping);
                before
                    .iter()
                    .chain([&network])
                    .for_each(|id| self.mark_service(id));
                if self.desired.guards(&network) != guards {
                    self.mark_segment(&network, cause);
                }
                self.look_for_guards(cause);
                self.mapping_changed(&tap, cause);
            }
            Event::RemoveMapping(tap) => {
                self.causes += 1;
                if let Some(mapping) = self.desired.remove_mapping(&tap) {
                    self.mark_service(&mapping.network);
                    self.look_for_guards(cause);
                    self.mapping_changed(&tap, cause);
                }
            }
            Event::SourcesInSync => self.sources_in_sync = true,
            Event::Service { network, state } => self.on_service(&network, state, now),
            Event::Done(done) => self.on_done(done, now),
            Event::Forwarding {
                network,
                device,
                have,
            } => self.on_forwarding(&network, device, have, now),
            Event::Guard(have) => self.on_guard(have, now),
            Event::GuardTouched => {
                self.causes += 1;
                self.doubt_guard(cause);
            }
            Event::Gateways(have) => self.on_gateways_read(have, now),
            Event::RulesetTouched => {
                self.causes += 1;
                self.on_ruleset_touched(now);
            }
            Event::SysctlsTouched => {
                self.causes += 1;
                self.on_sysctls_touched(now);
            }
            Event::Carried { key, have } => self.on_carried(&key, have, now),
            Event::PortVerdict {
                index,
                ticket,
                verdict,
            } => self.on_port_verdict(index, ticket, *verdict),
            Event::NetworkVerdict {
                network,
                ticket,
                verdict,
            } => self.on_network_verdict(&network, ticket, *verdict),
            Event::PolicyChanged(usage) => {
                self.causes += 1;
                self.policy = usage;
                self.forget_verdicts();
                self.mark_everything(cause);
            }
            Event::Invalidate { taps, networks } => {
                self.causes += 1;
                for id in networks {
                    self.ask_network_again(&id, Why::Invalidate);
                    self.mark_segment(&id, cause);
                }
                for index in taps {
                    self.ask_port_again(index, Why::Invalidate);
                    self.mark_tap(index, cause);
                }
            }
            Event::Resync => {
                if self.mirror == Mirror::Current {
                    self.note(now, cause, What::Resync { reason: "asked for" });
                    self.counters.resyncs += 1;
                    self.mirror = Mirror::Stale {
                        not_before: now,
                        first: false,
                    };
                }
            }
        }
    }

    /// The next thing to do, if any. Call until `None`, feeding answers back in between.
    pub fn poll_action(&mut self, now: Time) -> Option<Action> {
        match self.mirror {
            Mirror::Stale { not_before, first } if now >= not_before => {
                self.mirror = Mirror::Dumping {
                    first,
                    lost_again: false,
                };
                self.last_dump = Some(now);
                return Some(Action::Snapshot);
            }
            Mirror::Stale { first: true, .. } | Mirror::Dumping { first: true, .. } => return None,
            Mirror::Stale { .. } | Mirror::Dumping { .. } | Mirror::Current => {}
        }
        self.fire_timers(now);
        if let Some(plan) = self.pending_plans.pop_front() {
            return Some(Action::Execute(plan));
        }
        // Each may make the other dirty: a tap starts its segment, a segment that is ready calls its taps.
        loop {
            if self.guard.dirty {
                if let Some(action) = self.look_at_guard(now) {
                    return Some(action);
                }
            } else if let Some(id) = self.dirty_segments.pop_front() {
                if let Some(action) = self.look_at_segment(&id, now) {
                    return Some(action);
                }
            } else if let Some(index) = self.dirty_taps.pop_front() {
                if let Some(action) = self.look_at_tap(index, now) {
                    return Some(action);
                }
            } else {
                break;
            }
        }
        if self.deferred.is_empty() {
            self.end_pass(now);
            if self.guard.dirty
                && let Some(action) = self.look_at_guard(now)
            {
                return Some(action);
            }
            if self.gateways.dirty
                && let Some(action) = self.look_at_gateways(now)
            {
                return Some(action);
            }
            if let Some(action) = self.look_at_services() {
                return Some(action);
            }
            return self.look_at_orphans(now);
        }
        None
    }

    /// When `poll_action` may have something to do without a further event.
    pub fn next_deadline(&self) -> Option<Time> {
        let stale = match self.mirror {
            Mirror::Stale { not_before, .. } => Some(not_before),
            Mirror::Dumping { .. } | Mirror::Current => None,
        };
        let timer = self.timers.first().map(|(at, _)| *at);
        let prune = if self.in_sync { self.prune_check_at } else { None };
        [stale, timer, prune].into_iter().flatten().min()
    }

    /// The number of the last event that may have consequences: the cause of what follows from it.
    pub fn last_cause(&self) -> CauseId {
        CauseId(self.causes)
    }

    /// How many notes wait to be taken.
    pub fn pending_notes(&self) -> usize {
        self.notes.len()
    }

    /// Since when the first of them waits.
    pub fn oldest_note(&self) -> Option<Time> {
        self.notes.first().map(|note| note.at)
    }

    /// What happened since the last call, in order.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    fn note(&mut self, at: Time, cause: CauseId, what: What) {
        self.notes.push(Note { at, cause, what });
    }

    fn on_loss(&mut self, loss: Loss, now: Time) {
        let reason = match loss {
            Loss::Overrun => {
                self.counters.overruns += 1;
                "events were lost"
            }
            Loss::Undecodable => {
                self.counters.decode_errors += 1;
                "a message could not be read"
            }
        };
        match &mut self.mirror {
            // Lost before a dump that is still to come: that dump makes it good.
            Mirror::Stale { .. } => {}
            Mirror::Dumping { lost_again, .. } => *lost_again = true,
            Mirror::Current => {
                let not_before = match self.last_dump {
                    Some(last) => last.plus(RESYNC_PAUSE).max(now),
                    None => now,
                };
                self.counters.resyncs += 1;
                self.mirror = Mirror::Stale {
                    not_before,
                    first: false,
                };
                let cause = CauseId(self.causes);
                self.note(now, cause, What::Resync { reason });
            }
        }
    }

    fn fire_timers(&mut self, now: Time) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            if let Some((_, key)) = self.timers.pop_first() {
                let cause = CauseId(self.causes);
                match &key {
                    Key::Network(id) => self.mark_segment(id, cause),
                    Key::Port(index) => self.mark_tap(*index, cause),
                    Key::Guard => self.mark_guard(cause),
                    Key::Gateways | Key::Gateway(_) => self.mark_gateways(cause),
                    Key::Orphan(_) => {}
                }
            }
        }
    }

    fn end_pass(&mut self, now: Time) {
        if !self.pass_open || !self.sources_in_sync || self.mirror != Mirror::Current {
            return;
        }
        self.pass_open = false;
        if !self.in_sync {
            self.in_sync = true;
            self.in_sync_since = Some(now);
            let what = What::InSync {
                links: self.observed.len(),
                taps: self.taps.len(),
            };
            self.note(now, CauseId(self.causes), what);
        }
        self.mark_guard(CauseId(self.causes));
        self.mark_gateways(CauseId(self.causes));
        self.schedule_prune(now);
    }
}

#[cfg(test)]
mod tests;
