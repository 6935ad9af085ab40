//! Runs script code once under a deadline, from a thread that may wait: loading, rebuilding, test files.

use super::error::Error;
use super::plugin::load::{Plugin, Problem, Surroundings, load};
use super::plugin::runtime::Runtime;
use super::plugin::sandbox::KillSwitch;
use super::plugin::source::Source;
use super::watch::{TICK, ThreadClock};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// CPU time a plugin file may take to load: it may prepare tables, which a hook must not. Nobody's tap waits for it, and a
/// virtual machine counts time that its host gave to others, so it is generous.
const LOAD_CPU: Duration = Duration::from_secs(1);
/// After this much wall time its thread is given up.
const LOAD_WALL: Duration = Duration::from_secs(10);
/// Stack of every thread that runs scripts. Luau's own C-call limit (200) needs a quarter of it; only touched pages
/// count as memory.
pub const STACK: usize = 1 << 20;

/// The call number that loading uses; `Pool` counts from 1 as well, but a switch belongs to one plugin at a time.
pub const LOAD_CALL: u64 = u64::MAX - 1;

/// Runs `work` on its own thread and stops it through `kill` when its CPU time is used up.
pub fn run<T: Send + 'static>(
    kill: &Arc<KillSwitch>,
    cpu: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (clock_out, clock_in) = channel();
    let (out, result) = channel();
    let body = move || {
        // A receiver that is gone means that nobody waits any more.
        let _ = clock_out.send(ThreadClock::of_this_thread());
        let _ = out.send(work());
    };
    std::thread::Builder::new()
        .name("policy-load".into())
        .stack_size(STACK)
        .spawn(body)
        .map_err(Error::NoThread)?;
    let clock = clock_in.recv().ok().flatten();
    let started = Instant::now();
    loop {
        match result.recv_timeout(TICK) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Lost),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let used = clock
            .and_then(ThreadClock::read)
            .unwrap_or_else(|| started.elapsed());
        if used >= cpu {
            kill.kill(LOAD_CALL);
        }
        if started.elapsed() >= LOAD_WALL {
            kill.kill(LOAD_CALL);
            return Err(Error::Wedged {
                seconds: LOAD_WALL.as_secs(),
            });
        }
    }
}

/// Loads a plugin under a deadline.
pub fn load_plugin(source: &Source, around: &Surroundings) -> Result<(Plugin, Runtime), Problem> {
    let kill = Arc::new(KillSwitch::default());
    let (source_in, around_in, kill_in) = (source.clone(), around.clone(), Arc::clone(&kill));
    match run(&kill, LOAD_CPU, move || {
        load(&source_in, &around_in, &kill_in, LOAD_CALL)
    }) {
        Ok(loaded) => loaded,
        Err(unfinished) => Err(Problem::of(source, unfinished.to_string())),
    }
}
