//! `tapwire replay`: a recording through the engine, without touching a kernel.
//!
//! A recording of a running daemon holds its account of itself: `exact` decides again what it decided, and compares. For a
//! recording without, or to see what another configuration would have done, there is what follows.
//!
//! The engine is the daemon's own. Around it, everything that the daemon's loop does is simulated from the recording:
//! its listing is the snapshot, its messages are the events, its stamps are the clock, and every operation succeeds at
//! once (`world`, `execute`). So what is printed is what a daemon with the given configuration would have decided, had
//! it never been late and never been refused. Its plugins are asked and answer at once (`plugins`).
//!
//! The recorded daemon's own effects are in the recording too. They do not confuse the replay (`merge` says why); a
//! requester's port id is not needed to know them, and link messages carry none.

mod exact;
mod execute;
mod line;
mod merge;
mod plugins;
mod tape;
mod world;

use super::policy::Policy;
use super::rows;
use crate::config::PolicySettings;
use crate::desired::Desired;
use crate::engine::Engine;
use crate::engine::event::{Action, Event, Loss, Snapshot};
use crate::engine::note::Note;
use crate::engine::service::ServiceState;
use crate::kernel;
use crate::model::Time;
use crate::observed::Change;
use crate::plan::Plan;
use crate::plan::gateway::{HostHave, RulesetHave};
use crate::policy::api::Hook;
use crate::telemetry::trace::{self, Tracer};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;
use tape::What;
use world::World;

pub use exact::{Checked, check};
use line::owner;
pub use line::{Line, Operation, Owner, ReplayError, Summary};
pub use tape::Tape as Recording;
use tape::Tape;

/// The engine looks at each key once in a round, and comes to rest after a few (the longest way is an address move).
/// One that does not would repeat itself for ever on a kernel that answers at once.
const MAX_ROUNDS: u32 = 100;

/// A recording may end while the engine puts something off for a moment. What it has put off so long is still done.
const AFTERWARDS: Duration = Duration::from_millis(100);

/// Plays a recording to its end. `prune_after` as in the configuration.
pub fn replay(
    tape: &Recording,
    desired: Desired,
    plugins: &PolicySettings,
    prune_after: Option<Duration>,
    tell: &mut dyn FnMut(Line) -> io::Result<()>,
) -> Result<Summary, ReplayError> {
    let mut engine = Engine::new(desired, prune_after, Time::ZERO);
    engine.handle(Event::SourcesInSync, Time::ZERO);
    let mut policy = Policy::replayed(plugins)?;
    policy.restart_timers(Time::ZERO);
    engine.handle(Event::PolicyChanged(policy.usage()), Time::ZERO);
    let begins_with_listing =
        matches!(tape.entries.first(), Some(entry) if matches!(entry.what, What::Listing(_)));
    let mut player = Player {
        tape,
        engine,
        policy,
        failing: BTreeSet::new(),
        world: World::default(),
        tracer: Tracer::new(),
        tell,
        position: 0,
        untold: VecDeque::new(),
        summary: Summary {
            begins_with_listing,
            ..Summary::default()
        },
    };
    player.play()?;
    Ok(player.summary)
}

struct Player<'a> {
    tape: &'a Tape,
    engine: Engine,
    policy: Policy,
    /// Plugins and hooks whose last call failed: told once.
    failing: BTreeSet<(String, Hook)>,
    world: World,
    tracer: Tracer,
    tell: &'a mut dyn FnMut(Line) -> io::Result<()>,
    /// Of the entry being played.
    position: usize,
    /// Told to the plugins that watch, once the engine is at rest.
    untold: VecDeque<Note>,
    summary: Summary,
}

impl Player<'_> {
    fn play(&mut self) -> Result<(), ReplayError> {
        let tape = self.tape;
        for (position, entry) in tape.entries.iter().enumerate() {
            self.wait_until(entry.at)?;
            self.position = position;
            match &entry.what {
                What::Listing(rows) => self.listing(rows, tape::changes(entry), entry.at)?,
                What::Event(raw) => {
                    let event = self.tracer.apply_message(raw, entry.at.micros());
                    (self.tell)(Line::Event(trace::Line::Event(Box::new(event))))?;
                    self.messages(tape::changes(entry), entry.at);
                }
                What::Loss(lost) => {
                    (self.tell)(Line::Loss {
                        at: entry.at,
                        lost: *lost,
                    })?;
                    self.engine.handle(Event::Lost(Loss::Overrun), entry.at);
                }
            }
            // A loss's listing is the next entry; before it there is nothing to decide by.
            if !matches!(entry.what, What::Loss(_)) {
                self.settle(entry.at)?;
            }
            self.summary.took = Duration::from_micros(entry.at.micros());
        }
        if let Some(last) = tape.entries.last() {
            self.wait_until(last.at.plus(AFTERWARDS))?;
        }
        self.summary.ports = self.engine.port_counts();
        Ok(())
    }

    fn listing(
        &mut self,
        rows: &[Box<[u8]>],
        changes: Vec<Option<kernel::Change>>,
        at: Time,
    ) -> Result<(), ReplayError> {
        let raw = rows.iter().map(|row| &**row);
        if !self.tape.follows_loss(self.position) {
            // The first one, or (in captures of other tools) somebody's look at a part of it all.
            self.tracer.seed(raw);
        } else {
            for line in self.tracer.resync(raw, None, 0, at.micros()) {
                // The loss has been told.
                if !matches!(line, trace::Line::Loss(_)) {
                    (self.tell)(Line::Event(line))?;
                }
            }
            let listed: Vec<kernel::Change> = changes.iter().flatten().cloned().collect();
            for gone in self.world.unlisted(&listed) {
                self.absorb(gone, at);
            }
        }
        self.messages(changes, at);
        Ok(())
    }

    fn messages(&mut self, changes: Vec<Option<kernel::Change>>, at: Time) {
        for change in changes {
            self.summary.messages += 1;
            match change {
                Some(change) => self.absorb(change, at),
                None => {
                    self.summary.undecodable += 1;
                    self.engine.handle(Event::Lost(Loss::Undecodable), at);
                }
            }
        }
    }

    fn absorb(&mut self, change: kernel::Change, at: Time) {
        let changes: Vec<Change> = self.world.absorb(change, self.engine.observed());
        for change in changes {
            self.engine.handle(Event::Kernel(change), at);
        }
    }

    /// What the engine does by itself before `at`: retries, pruning.
    fn wait_until(&mut self, at: Time) -> Result<(), ReplayError> {
        while let Some(due) = self.next_deadline().filter(|due| *due < at) {
            self.settle(due)?;
            // A deadline that stays is one whose reason has yet to come.
            if self.next_deadline().is_some_and(|next| next <= due) {
                break;
            }
        }
        Ok(())
    }

    fn next_deadline(&self) -> Option<Time> {
        let plugins = self.policy.next_deadline();
        self.engine.next_deadline().into_iter().chain(plugins).min()
    }

    /// Everything the engine wants to do now, until it wants nothing more.
    fn settle(&mut self, now: Time) -> Result<(), ReplayError> {
        let mut last = None;
        for _ in 0..MAX_ROUNDS {
            self.run_timers(now)?;
            self.engine.handle(Event::Drained, now);
            let mut acted = false;
            while let Some(action) = self.engine.poll_action(now) {
                acted = true;
                // What led to it before what it leads to.
                self.notes()?;
                if let Action::Execute(plan) = &action {
                    last = plan.steps.last().map(|step| step.op.to_string());
                    self.operations(plan, now)?;
                }
                if let Some(event) = self.carry_out(action, now)? {
                    self.engine.handle(event, now);
                }
            }
            self.notes()?;
            // What hooks answer to the notes may be to look again.
            if !acted && !self.tell_plugins(now)? {
                return Ok(());
            }
        }
        Err(ReplayError::Restless {
            at: now,
            last: last.unwrap_or_default(),
        })
    }

    /// None: the engine has been told already.
    fn carry_out(&mut self, action: Action, now: Time) -> Result<Option<Event>, ReplayError> {
        Ok(Some(match action {
            Action::Execute(plan) => {
                let observed = self.engine.observed();
                Event::Done(self.world.execute(plan, observed, self.tape, self.position))
            }
            Action::Snapshot => Event::Snapshot(Snapshot {
                links: self.engine.observed().links().cloned().collect(),
                addresses: self.world.addresses(),
                ..Snapshot::default()
            }),
            Action::ReadForwarding { network, device } => Event::Forwarding {
                network,
                device,
                have: Ok(self.world.forwarding(device)),
            },
            Action::ReadGuard { .. } => Event::Guard(Ok(self.world.guard.clone())),
            // What is in nftables is in no recording.
            Action::ReadGateways { .. } => Event::Gateways(Ok(HostHave {
                ruleset: RulesetHave::Nothing,
                sysctls: Some(Vec::new()),
            })),
            Action::ReadCarried { key, devices } => Event::Carried {
                key,
                have: Ok(devices.iter().map(|device| self.world.carried(*device)).collect()),
            },
            // Nobody asks a recording for a lease.
            Action::Serve { network, .. } => Event::Service {
                network,
                state: ServiceState::Starting,
            },
            Action::EndService { network, .. } => Event::Service {
                network,
                state: ServiceState::Waiting,
            },
            Action::AskPort { index, ticket, why } => {
                self.asking(now).ask_port(index, ticket, why);
                self.answers(now)?;
                return Ok(None);
            }
            Action::AskNetwork { network, ticket, why } => {
                self.asking(now).ask_network(&network, ticket, why);
                self.answers(now)?;
                return Ok(None);
            }
        }))
    }

    fn operations(&mut self, plan: &Plan, at: Time) -> Result<(), ReplayError> {
        let owner = owner(&plan.key, self.engine.observed());
        for step in &plan.steps {
            self.summary.operations += 1;
            (self.tell)(Line::Operation(Box::new(Operation {
                at,
                cause: plan.cause.0,
                owner: owner.clone(),
                op: step.op.clone(),
                args: rows::op_args(&step.op),
                error: None,
            })))?;
        }
        Ok(())
    }

    fn notes(&mut self) -> Result<(), ReplayError> {
        for note in self.engine.take_notes() {
            if self.policy.watches() {
                self.untold.push_back(note.clone());
            }
            (self.tell)(Line::Note(Box::new(note)))?;
        }
        Ok(())
    }
}
