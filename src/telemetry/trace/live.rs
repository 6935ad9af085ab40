//! The trace of the running kernel: watch socket -> tracer -> filter -> output and recording.
//!
//! One task reads and prints. A reader of the output that is too slow blocks it, the kernel's queue fills, and that
//! shows as a loss marker; nothing else in the system waits. After a loss the queue is drained first (what is queued is
//! older than the loss), then everything is listed once, at most once a second, and the differences are printed.

use super::join::{Decision, Joiner};
use super::{Filter, Line, Tracer, text};
use crate::kernel::watch::{self, Objects, Received, Watch, WatchError, decode};
use crate::telemetry::clock;
use crate::telemetry::record::{Direction, Recorder};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two listings after losses.
const RESYNC_PAUSE: Duration = Duration::from_secs(1);
/// A recording waits at its end for what the daemon has still to say: until it is silent for so long, and no longer than
/// that.
const SILENCE: Duration = Duration::from_millis(100);
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Datagrams read before output, the stop signal and decisions get a turn.
const TURN: usize = 512;

/// How lines are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Text(text::Style),
}

/// What the daemon says over `/v1/trace`, one JSON object each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Told {
    /// Port ids of its netlink sockets: the first thing it says.
    Sockets {
        portids: Vec<u32>,
    },
    Decision(Decision),
    /// A line of its account of itself (`/v1/account`), for the recording.
    #[serde(skip)]
    Account(Box<str>),
    /// There is no daemon now.
    #[serde(skip)]
    Gone,
}

/// What to do. The recording's writer is anything; the caller finishes it.
pub struct Settings<'a, R: Write> {
    pub objects: Objects,
    /// Bytes.
    pub receive_buffer: usize,
    pub filter: Filter,
    pub format: Format,
    pub record: Option<&'a mut Recorder<R>>,
    /// Called when messages are missing in the recording: the daemon's account of what it read cannot be followed any
    /// more.
    pub missed: &'a dyn Fn(),
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Messages received as events.
    pub events: u64,
    /// Lines printed.
    pub lines: u64,
    /// Known losses.
    pub lost: u64,
    /// Losses, known or not.
    pub losses: u64,
    pub undecodable: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error("cannot trace")]
    Watch(#[from] WatchError),
    #[error("cannot write the recording")]
    Record(#[source] io::Error),
    #[error("cannot print")]
    Print(#[source] io::Error),
}

/// Prints until `stop` resolves or the reader of `out` goes away. `ready` is called with the granted receive buffer
/// once no event can be missed any more. `decisions`: from the daemon, if there is one; when its sender is dropped the
/// trace goes on without.
pub async fn follow<R: Write>(
    settings: Settings<'_, R>,
    mut out: impl Write,
    decisions: Option<mpsc::Receiver<Told>>,
    ready: impl FnOnce(usize),
    stop: impl Future<Output = ()>,
) -> Result<Summary, LiveError> {
    let mut summary = Summary::default();
    match run(settings, &mut out, decisions, ready, stop, &mut summary).await {
        // The reader has seen enough.
        Err(LiveError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(summary),
        Err(error) => Err(error),
        Ok(()) => Ok(summary),
    }
}

async fn run<R: Write>(
    settings: Settings<'_, R>,
    out: &mut impl Write,
    mut decisions: Option<mpsc::Receiver<Told>>,
    ready: impl FnOnce(usize),
    stop: impl Future<Output = ()>,
    summary: &mut Summary,
) -> Result<(), LiveError> {
    let Settings {
        objects,
        receive_buffer,
        filter,
        format,
        record,
        missed,
    } = settings;
    // Subscribed before the listing: what changes in between is queued and told again, harmlessly.
    let watch = Watch::open(objects, receive_buffer)?;
    let granted = watch.receive_buffer();
    let snapshot = watch::dump(objects)?;
    // SAFETY: `Watch` owns its descriptor, always returns that one, and `get_mut` below never replaces it.
    let registered = unsafe { AsyncFd::register(watch) };
    let mut watch = registered.map_err(|error| WatchError::Receive(error.into()))?;
    let mut tracer = Tracer::new();
    tracer.seed(snapshot.rows());
    let mut session = Session {
        objects,
        tracer,
        filter,
        format,
        record,
        missed,
        joiner: decisions.is_some().then(Joiner::default),
        summary,
        overrun: false,
        next_resync: Instant::now(),
    };
    session.record_snapshot(&snapshot)?;
    drop(snapshot);
    ready(granted);
    let mut stop = pin!(stop);
    loop {
        let drained = session.read(watch.get_mut(), out)?;
        if drained && session.overrun && Instant::now() >= session.next_resync {
            session.resync(watch.get_mut(), out)?;
        }
        session.release(clock::monotonic_us(), out)?;
        session.flush(out)?;
        let wake = session.wake();
        tokio::select! {
            biased;
            () = &mut stop => {
                // What the daemon has to say of what happened before the stop is on its way.
                let end = Instant::now() + LAST_WORDS;
                while session.record.is_some() && session.joiner.is_some() && Instant::now() < end {
                    match tokio::time::timeout(SILENCE, next(&mut decisions)).await {
                        Ok(Some(told)) => session.told(told, out)?,
                        Ok(None) | Err(_) => break,
                    }
                }
                // What is queued happened before the stop.
                while !session.read(watch.get_mut(), out)? {}
                if session.overrun {
                    session.resync(watch.get_mut(), out)?;
                }
                session.release(u64::MAX, out)?;
                return session.flush(out);
            }
            told = next(&mut decisions) => match told {
                Some(told) => session.told(told, out)?,
                None => decisions = None,
            },
            readable = watch.readable(), if drained => {
                readable.map_err(WatchError::Receive)?.clear_ready();
            }
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            () = std::future::ready(()), if !drained => {}
        }
    }
}

/// Pends for ever without a daemon.
async fn next(decisions: &mut Option<mpsc::Receiver<Told>>) -> Option<Told> {
    match decisions {
        Some(decisions) => decisions.recv().await,
        None => std::future::pending().await,
    }
}

struct Session<'a, R: Write> {
    objects: Objects,
    tracer: Tracer,
    filter: Filter,
    format: Format,
    record: Option<&'a mut Recorder<R>>,
    missed: &'a dyn Fn(),
    joiner: Option<Joiner>,
    summary: &'a mut Summary,
    overrun: bool,
    next_resync: Instant,
}

impl<R: Write> Session<'_, R> {
    /// One turn of reading; true: nothing is queued any more.
    fn read(&mut self, watch: &mut Watch, out: &mut impl Write) -> Result<bool, LiveError> {
        for _ in 0..TURN {
            match watch.receive()? {
                Received::Datagram(datagram) => {
                    let ts_us = clock::monotonic_us();
                    for message in decode::messages(datagram) {
                        self.summary.events += 1;
                        if let (Some(record), Ok(message)) = (&mut self.record, message) {
                            record
                                .message(ts_us, Direction::FromKernel, message)
                                .map_err(LiveError::Record)?;
                        }
                        // A broken length is shown like any broken message, as one that is too short.
                        let message = message.unwrap_or(&[]);
                        let event = self.tracer.apply_message(message, ts_us);
                        self.summary.undecodable = self.tracer.undecodable();
                        self.emit(Line::Event(Box::new(event)), out)?;
                    }
                }
                Received::Overrun | Received::Truncated(_) => self.overrun = true,
                Received::Empty => return Ok(true),
            }
        }
        Ok(false)
    }

    fn told(&mut self, told: Told, out: &mut impl Write) -> Result<(), LiveError> {
        match told {
            Told::Sockets { portids } => {
                self.tracer.set_own_portids(portids);
                self.joiner.get_or_insert_default();
            }
            Told::Decision(decision) => {
                if let Some(joiner) = &mut self.joiner {
                    joiner.decide(decision);
                }
            }
            Told::Account(line) => {
                if let Some(record) = &mut self.record {
                    record.account(&line).map_err(LiveError::Record)?;
                }
            }
            Told::Gone => {
                self.release(u64::MAX, out)?;
                self.joiner = None;
                self.tracer.set_own_portids(Vec::new());
            }
        }
        Ok(())
    }

    fn emit(&mut self, line: Line, out: &mut impl Write) -> Result<(), LiveError> {
        match &mut self.joiner {
            // Filtered when printed: a decision is joined to its event whether or not that is shown.
            Some(joiner) => joiner.push(line),
            None => self.print(&line, out)?,
        }
        Ok(())
    }

    fn print(&mut self, line: &Line, out: &mut impl Write) -> Result<(), LiveError> {
        if !self.filter.passes(line) {
            return Ok(());
        }
        self.summary.lines += 1;
        match self.format {
            Format::Json => line
                .to_json()
                .map_err(io::Error::from)
                .and_then(|json| writeln!(out, "{json}")),
            Format::Text(style) => writeln!(out, "{}", text::line(line, style)),
        }
        .map_err(LiveError::Print)
    }

    fn release(&mut self, now_us: u64, out: &mut impl Write) -> Result<(), LiveError> {
        let lines = match &mut self.joiner {
            Some(joiner) => joiner.release(now_us),
            None => return Ok(()),
        };
        lines.iter().try_for_each(|line| self.print(line, out))
    }

    /// When something is to be done without an event.
    fn wake(&self) -> Option<Instant> {
        let held = self
            .joiner
            .as_ref()
            .and_then(Joiner::deadline_us)
            .map(|deadline| {
                Instant::now() + Duration::from_micros(deadline.saturating_sub(clock::monotonic_us()))
            });
        let resync = self.overrun.then_some(self.next_resync);
        held.into_iter().chain(resync).min()
    }

    fn resync(&mut self, watch: &mut Watch, out: &mut impl Write) -> Result<(), LiveError> {
        let lost = watch.lost_since_last_asked();
        let begin = Instant::now();
        let snapshot = watch::dump(self.objects)?;
        let took = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.overrun = false;
        self.next_resync = Instant::now() + RESYNC_PAUSE;
        self.summary.losses += 1;
        self.summary.lost += lost.unwrap_or(0);
        if let Some(record) = &mut self.record {
            record.loss(lost);
            (self.missed)();
        }
        self.record_snapshot(&snapshot)?;
        let lines = self
            .tracer
            .resync(snapshot.rows(), lost, took, clock::monotonic_us());
        lines.into_iter().try_for_each(|line| self.emit(line, out))
    }

    fn record_snapshot(&mut self, snapshot: &watch::Snapshot) -> Result<(), LiveError> {
        let Some(record) = &mut self.record else {
            return Ok(());
        };
        let ts_us = clock::monotonic_us();
        for message in &snapshot.messages {
            let direction = match message.outgoing {
                true => Direction::ToKernel,
                false => Direction::FromKernel,
            };
            record
                .message(ts_us, direction, &message.bytes)
                .map_err(LiveError::Record)?;
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut impl Write) -> Result<(), LiveError> {
        if let Some(record) = &mut self.record {
            record.flush().map_err(LiveError::Record)?;
        }
        out.flush().map_err(LiveError::Print)
    }
}
