//! The daemon's account of itself: everything that its engine is told, in order, and everything that it asks for.
//!
//! The engine is pure: the same state told the same things at the same times asks for the same. So the state at the
//! moment when somebody begins to record, and what comes in from then on, are enough to have every decision again
//! (`replay::exact`), whatever led to it: files, commands, plugins' verdicts, lists read, the kernel's refusals, timers.
//! What it asked for is told too, so that a replay can be compared with what really happened.
//!
//! A message of the kernel is told by its checksum alone: `tapwire trace --record` reads the same messages itself (the
//! kernel gives every listener the same bytes), and the recording is where they are found again.
//!
//! Hence it is the only door to the running engine (`tests/layering.rs` holds that).
//!
//! Costs nothing while nobody records. While somebody does: the state once (some 2 KB a tap), and about 1 KB for each
//! plan. A reader that does not keep up loses lines, up to `control::api::ACCOUNT_QUEUE` of which wait for it; the account then begins anew
//! with the state as it is by then, and the gap is told.

use super::reactor::Reactor;
use crate::control::api::{Delivery, Sink};
use crate::engine::Engine;
use crate::engine::event::{Action, Done, Event, StepResult};
use crate::model::Time;
use crate::observed::Change;
use crate::telemetry::clock;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a line; longer ones are continued on the next.
const LINE: usize = 64 << 10;
/// In front of a piece of a line that others follow, and in front of the last piece.
const MORE: char = '+';
const LAST: char = '.';

/// One thing that happened, as it is read back. Written as [`Telling`].
#[derive(Deserialize)]
pub enum Told {
    /// The state from which on everything is told. The engine's time zero as CLOCK_MONOTONIC, microseconds; how many plans
    /// there have been.
    Begin {
        version: String,
        clock_base_us: u64,
        plans: u64,
        engine: Box<Engine>,
    },
    /// Messages of the kernel that the engine was told: when each was received, and its checksum.
    Read(Vec<(Time, u64)>),
    Heard(Time, Box<Event>),
    /// The plan of this number was carried out.
    Done {
        at: Time,
        plan: u64,
        results: Vec<StepResult>,
        undo_failures: Vec<String>,
    },
    /// The engine was asked for its next action, and said this.
    Asked(Time, Option<Box<Action>>),
    PruneAfter(Option<Duration>),
}

#[derive(Serialize)]
enum Telling<'a> {
    Begin {
        version: &'a str,
        clock_base_us: u64,
        plans: u64,
        engine: &'a Engine,
    },
    Read(&'a [(Time, u64)]),
    Heard(Time, &'a Event),
    Done {
        at: Time,
        plan: u64,
        results: &'a [StepResult],
        undo_failures: &'a [String],
    },
    Asked(Time, Option<&'a Action>),
    PruneAfter(Option<Duration>),
}

/// FNV-1a of a whole message, header included.
pub fn checksum(message: &[u8]) -> u64 {
    message.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

struct Recorder {
    sink: Sink,
    /// It has the state; false: it is to get it.
    begun: bool,
}

/// See the module.
pub(super) struct Account {
    recorders: Vec<Recorder>,
    /// Of this turn of the loop, as elements of a JSON list.
    told: String,
    /// Messages read in a row.
    read: Vec<(Time, u64)>,
    clock_base_us: u64,
    /// Plans so far.
    plans: u64,
    /// Plans that are being carried out beside the loop.
    under_way: u64,
}

impl Account {
    /// Made at the engine's time zero.
    pub fn new() -> Self {
        Self {
            recorders: Vec::new(),
            told: String::new(),
            read: Vec::new(),
            clock_base_us: clock::monotonic_us(),
            plans: 0,
            under_way: 0,
        }
    }

    /// Gets the state at the next turn of the loop.
    pub fn add(&mut self, sink: Sink) {
        self.recorders.push(Recorder { sink, begun: false });
    }

    fn listened_to(&self) -> bool {
        self.recorders.iter().any(|recorder| recorder.begun)
    }

    /// Tells the engine what happened.
    pub fn hear(&mut self, engine: &mut Engine, event: Event, at: Time) {
        if self.listened_to() {
            self.tell(&Telling::Heard(at, &event));
        }
        engine.handle(event, at);
    }

    /// A replay's engine has no account.
    pub fn hear_if_kept(account: Option<&mut Self>, engine: &mut Engine, event: Event, at: Time) {
        match account {
            Some(account) => account.hear(engine, event, at),
            None => engine.handle(event, at),
        }
    }

    /// Tells the engine what a message of the kernel says.
    pub fn hear_message(&mut self, engine: &mut Engine, change: Change, message: &[u8], at: Time) {
        if self.listened_to() {
            self.read.push((at, checksum(message)));
        }
        engine.handle(Event::Kernel(change), at);
    }

    /// Tells the engine what became of the plan it asked for last.
    pub fn hear_done(&mut self, engine: &mut Engine, done: Done, at: Time) {
        self.hear_done_as(engine, self.plans, done, at);
    }

    /// The number of the plan asked for last. It will be carried out beside the loop; until then nobody can begin to record.
    pub fn begins_beside_the_loop(&mut self) -> u64 {
        self.under_way += 1;
        self.plans
    }

    /// Tells the engine what became of the plan of this number.
    pub fn hear_done_beside_the_loop(&mut self, engine: &mut Engine, plan: u64, done: Done, at: Time) {
        self.under_way -= 1;
        self.hear_done_as(engine, plan, done, at);
    }

    fn hear_done_as(&mut self, engine: &mut Engine, plan: u64, done: Done, at: Time) {
        if self.listened_to() {
            self.tell(&Telling::Done {
                at,
                plan,
                results: &done.results,
                undo_failures: &done.undo_failures,
            });
        }
        engine.handle(Event::Done(done), at);
    }

    /// Asks the engine what to do next.
    pub fn ask(&mut self, engine: &mut Engine, now: Time) -> Option<Action> {
        let action = engine.poll_action(now);
        if matches!(action, Some(Action::Execute(_))) {
            self.plans += 1;
        }
        if self.listened_to() {
            self.tell(&Telling::Asked(now, action.as_ref()));
        }
        action
    }

    pub fn set_prune_after(&mut self, engine: &mut Engine, prune_after: Option<Duration>) {
        if self.listened_to() {
            self.tell(&Telling::PruneAfter(prune_after));
        }
        engine.set_prune_after(prune_after);
    }

    fn tell(&mut self, telling: &Telling<'_>) {
        if !self.read.is_empty() {
            let read = std::mem::take(&mut self.read);
            self.write(&Telling::Read(&read));
            self.read = read;
            self.read.clear();
        }
        self.write(telling);
    }

    fn write(&mut self, telling: &Telling<'_>) {
        match serde_json::to_string(telling) {
            Ok(text) => {
                self.told.push(if self.told.is_empty() { '[' } else { ',' });
                self.told.push_str(&text);
            }
            Err(error) => {
                tracing::error!(target: "telemetry", %error, "the account of what was decided cannot be told");
                // A gap that nobody would know of is worse than none at all.
                self.recorders.clear();
            }
        }
    }

    /// The end of a turn: what was told goes out, and who waits for the state gets it; if everything queued was read in
    /// that turn (`read_out`), because a message that was sent before somebody began to record is in no recording.
    pub fn hand_out(&mut self, engine: &Engine, read_out: bool) {
        if self.recorders.is_empty() {
            return;
        }
        if !self.read.is_empty() {
            let read = std::mem::take(&mut self.read);
            self.write(&Telling::Read(&read));
        }
        if !self.told.is_empty() {
            let mut told = std::mem::take(&mut self.told);
            told.push(']');
            let lines = lines(&told);
            self.recorders
                .retain_mut(|recorder| !recorder.begun || recorder.send(&lines));
        }
        let waits = |recorder: &Recorder| !recorder.begun && recorder.sink.has_room();
        if read_out && self.under_way == 0 && self.recorders.iter().any(waits) {
            let begin = Telling::Begin {
                version: env!("CARGO_PKG_VERSION"),
                clock_base_us: self.clock_base_us,
                plans: self.plans,
                engine,
            };
            match serde_json::to_string(&[begin]) {
                Ok(text) => {
                    let lines = lines(&text);
                    self.recorders.retain_mut(|recorder| {
                        if !waits(recorder) {
                            return true;
                        }
                        recorder.begun = true;
                        recorder.send(&lines)
                    });
                }
                Err(error) => {
                    tracing::error!(target: "telemetry", %error, "the account of what was decided cannot be told");
                    self.recorders.clear();
                }
            }
        }
        if self.recorders.is_empty() {
            // Memory for when somebody records is for then.
            self.told = String::new();
            self.read = Vec::new();
        }
    }
}

impl Recorder {
    /// False: its reader has gone.
    fn send(&mut self, lines: &[Arc<str>]) -> bool {
        for line in lines {
            match self.sink.push(Arc::clone(line)) {
                Delivery::Queued => {}
                Delivery::Lost => {
                    self.begun = false;
                    return true;
                }
                Delivery::Closed => return false,
            }
        }
        true
    }
}

fn lines(text: &str) -> Vec<Arc<str>> {
    if text.len() <= LINE {
        return vec![text.into()];
    }
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(LINE));
        let mark = if after.is_empty() { LAST } else { MORE };
        lines.push(format!("{mark}{piece}").into());
        rest = after;
    }
    lines
}

/// A line of the account as it comes.
pub enum Line {
    Told(Vec<Told>),
    /// So many lines are missing; none: it is not known.
    Gap(Option<u64>),
}

/// Puts an account together again.
#[derive(Default)]
pub struct Lines {
    pieces: String,
}

impl Lines {
    /// The next line in its order; none as long as it is a piece.
    pub fn take(&mut self, line: &str) -> Result<Option<Line>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Loss {
            lost: Option<u64>,
        }
        if let Some(piece) = line.strip_prefix(MORE) {
            self.pieces.push_str(piece);
            return Ok(None);
        }
        let pieces = std::mem::take(&mut self.pieces);
        if let Some(piece) = line.strip_prefix(LAST) {
            return serde_json::from_str(&(pieces + piece)).map(|told| Some(Line::Told(told)));
        }
        if line.starts_with('{') {
            let loss: Loss = serde_json::from_str(line)?;
            return Ok(Some(Line::Gap(loss.lost)));
        }
        serde_json::from_str(line).map(|told| Some(Line::Told(told)))
    }
}

impl Reactor {
    /// Tells the engine, and those who keep account.
    pub(super) fn hear(&mut self, event: Event, at: Time) {
        self.account.hear(&mut self.engine, event, at);
    }
}

#[cfg(test)]
mod tests;
