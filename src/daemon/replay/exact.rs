//! What the recorded daemon decided, decided again: its engine from the state it told, with everything that it heard, at
//! the same times, in the same order. Nothing is simulated, and each action is compared with the one that was told.
//!
//! An account is as long as it is whole. Where a part of it is missing, or a message that the daemon read is not in the
//! recording, nothing is guessed: that is told, and the replay goes on with the next state in the recording, if any.

use super::tape::Tape;
use super::{Line, Operation, ReplayError, owner};
use crate::daemon::account::{self, Told};
use crate::daemon::{convert, rows};
use crate::engine::Engine;
use crate::engine::event::{Action, Done, Event};
use crate::kernel::decode;
use crate::kernel::wire::Messages;
use crate::model::Time;
use crate::plan::Plan;
use crate::telemetry::trace::{self, Tracer};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// States that the daemon told: one when the recording began, one after each gap or restart.
    pub states: usize,
    pub messages: usize,
    /// Plans decided alike, and their operations.
    pub plans: usize,
    pub operations: usize,
    /// Questions (lists to read, plugins to ask) decided alike.
    pub questions: usize,
    /// Parts of the account that are missing or cannot be followed.
    pub gaps: usize,
    /// From the first state to the last entry.
    pub took: Duration,
    /// At the end.
    pub ports: crate::engine::view::PortCounts,
}

/// Plays the account of a recording to its end or to the first difference.
pub fn check(tape: &Tape, tell: &mut dyn FnMut(Line) -> io::Result<()>) -> Result<Checked, ReplayError> {
    let mut tracer = Tracer::new();
    if let Some(rows) = tape.first_listing() {
        tracer.seed(rows.iter().map(|row| &**row));
    }
    let mut check = Check {
        tape,
        tell,
        tracer,
        clock_base_us: None,
        shift_us: 0,
        section: None,
        checked: Checked::default(),
    };
    let mut lines = account::Lines::default();
    for line in &tape.account {
        match lines.take(line).map_err(ReplayError::Account)? {
            None => {}
            Some(account::Line::Gap(lost)) => check.gap(match lost {
                Some(lost) => format!("{lost} lines of the daemon's account are missing"),
                None => "lines of the daemon's account are missing".to_owned(),
            })?,
            Some(account::Line::Told(told)) => {
                for told in told {
                    check.take(told)?;
                }
            }
        }
    }
    if let Some(section) = &check.section {
        check.checked.ports = section.engine.port_counts();
    }
    Ok(check.checked)
}

/// From one state on.
struct Section {
    engine: Engine,
    /// Plans so far.
    plans: u64,
    /// Asked for and not carried out yet.
    open: BTreeMap<u64, Plan>,
}

struct Check<'a> {
    tape: &'a Tape,
    tell: &'a mut dyn FnMut(Line) -> io::Result<()>,
    tracer: Tracer,
    /// Of the first state.
    clock_base_us: Option<u64>,
    /// A daemon that was started again begins to count at zero: what is to be added.
    shift_us: u64,
    /// None: until the next state, nothing can be followed.
    section: Option<Section>,
    checked: Checked,
}

impl Check<'_> {
    fn at(&self, at: Time) -> Time {
        Time(at.micros().saturating_add(self.shift_us))
    }

    fn take(&mut self, told: Told) -> Result<(), ReplayError> {
        if let Told::Begin {
            version,
            clock_base_us,
            plans,
            engine,
        } = told
        {
            return self.begin(&version, clock_base_us, plans, *engine);
        }
        let Some(section) = &mut self.section else {
            return Ok(());
        };
        match told {
            Told::Begin { .. } => {}
            Told::Read(messages) => {
                for (at, checksum) in messages {
                    self.read(at, checksum)?;
                }
            }
            Told::Heard(at, event) => {
                if let Event::Lost(_) = *event {
                    let at = self.at(at);
                    (self.tell)(Line::Loss { at, lost: None })?;
                }
                self.hear(*event, at)?;
            }
            Told::PruneAfter(prune_after) => section.engine.set_prune_after(prune_after),
            Told::Asked(at, recorded) => self.asked(at, recorded.map(|action| *action))?,
            Told::Done {
                at,
                plan,
                results,
                undo_failures,
            } => match section.open.remove(&plan) {
                None => self.gap(format!("the end of plan {plan}, which is not known"))?,
                Some(plan) => {
                    let done = Done {
                        plan,
                        results,
                        undo_failures,
                    };
                    self.operations(&done, at)?;
                    self.hear(Event::Done(done), at)?;
                }
            },
        }
        Ok(())
    }

    fn begin(&mut self, version: &str, base_us: u64, plans: u64, engine: Engine) -> Result<(), ReplayError> {
        let first = *self.clock_base_us.get_or_insert(base_us);
        self.shift_us = base_us.saturating_sub(first);
        self.checked.states += 1;
        (self.tell)(Line::State {
            version: version.to_owned(),
            links: engine.observed().len(),
            ports: engine.port_counts(),
        })?;
        self.section = Some(Section {
            engine,
            plans,
            open: BTreeMap::new(),
        });
        Ok(())
    }

    fn gap(&mut self, why: String) -> Result<(), ReplayError> {
        self.section = None;
        self.checked.gaps += 1;
        Ok((self.tell)(Line::Gap { why })?)
    }

    fn read(&mut self, at: Time, checksum: u64) -> Result<(), ReplayError> {
        // A gap among the messages of one entry.
        if self.section.is_none() {
            return Ok(());
        }
        let Some(raw) = self.tape.message(checksum) else {
            let seconds = self.at(at);
            return self.gap(format!(
                "a message that the daemon read at {seconds} s is not in the recording"
            ));
        };
        let message = Messages::new(raw).next().and_then(Result::ok);
        let change = message.and_then(|message| decode::change(&message).ok());
        let event = self.tracer.apply_message(raw, self.at(at).micros());
        self.checked.messages += 1;
        (self.tell)(Line::Event(trace::Line::Event(Box::new(event))))?;
        match change.and_then(convert::change) {
            Some(change) => self.hear(Event::Kernel(change), at),
            None => self.gap("a message that the daemon could read does not decode".to_owned()),
        }
    }

    fn hear(&mut self, event: Event, at: Time) -> Result<(), ReplayError> {
        if let Some(section) = &mut self.section {
            section.engine.handle(event, at);
        }
        self.checked.took = Duration::from_micros(self.at(at).micros());
        self.notes()
    }

    fn asked(&mut self, at: Time, recorded: Option<Action>) -> Result<(), ReplayError> {
        let Some(section) = &mut self.section else {
            return Ok(());
        };
        let replayed = section.engine.poll_action(at);
        self.notes()?;
        let written = |action: &Option<Action>| serde_json::to_string(action).map_err(ReplayError::Account);
        if written(&recorded)? != written(&replayed)? {
            let at = self.at(at);
            (self.tell)(Line::Difference {
                at,
                recorded: words(recorded.as_ref()),
                replayed: words(replayed.as_ref()),
            })?;
            return Err(ReplayError::Differs { at });
        }
        match replayed {
            Some(Action::Execute(plan)) => {
                self.checked.plans += 1;
                if let Some(section) = &mut self.section {
                    section.plans += 1;
                    section.open.insert(section.plans, plan);
                }
            }
            Some(_) => self.checked.questions += 1,
            None => {}
        }
        Ok(())
    }

    /// The operations of a plan with the kernel's answers; those behind a refused one were not tried.
    fn operations(&mut self, done: &Done, at: Time) -> Result<(), ReplayError> {
        let Some(section) = &self.section else {
            return Ok(());
        };
        let owner = owner(&done.plan.key, section.engine.observed());
        let at = self.at(at);
        for (step, result) in done.plan.steps.iter().zip(&done.results) {
            self.checked.operations += 1;
            let error = result.outcome.as_ref().err();
            (self.tell)(Line::Operation(Box::new(Operation {
                at,
                cause: done.plan.cause.0,
                owner: owner.clone(),
                op: step.op.clone(),
                args: rows::op_args(&step.op),
                error: error.map(|failure| failure.message.clone()),
            })))?;
        }
        Ok(())
    }

    fn notes(&mut self) -> Result<(), ReplayError> {
        let Some(section) = &mut self.section else {
            return Ok(());
        };
        for mut note in section.engine.take_notes() {
            note.at = Time(note.at.micros().saturating_add(self.shift_us));
            (self.tell)(Line::Note(Box::new(note)))?;
        }
        Ok(())
    }
}

/// An action as people read it.
fn words(action: Option<&Action>) -> String {
    match action {
        None => "nothing".to_owned(),
        Some(Action::Execute(plan)) => {
            let ops: Vec<String> = plan.steps.iter().map(|step| step.op.to_string()).collect();
            format!("{:?}: {}", plan.key, ops.join("; "))
        }
        Some(other) => format!("{other:?}"),
    }
}
