//! The watchdog: stops calls that used up their CPU time, gives up threads that do not come back.
//!
//! One thread per pool, asleep while no plugin is called. A worker that starts a call only wakes it when it sleeps; it
//! then ticks until a second without calls has passed, so a burst costs no wake-ups. CPU time is read from the worker
//! thread's own clock: on an overcommitted host wall time would punish the innocent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far a call may overrun its deadline before the watchdog sees it.
pub const TICK: Duration = Duration::from_millis(5);
/// How many times longer than one that computes a call without processor time is waited for.
const STARVED: u32 = 10;
/// Ticks without any call after which the watchdog sleeps.
const QUIET_TICKS: u32 = 200;

/// The CPU clock of a thread, readable from other threads.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// Of the calling thread. `None`: the system has no such clock; then wall time counts.
    pub fn of_this_thread() -> Option<Self> {
        let mut clock: libc::clockid_t = 0;
        // SAFETY: pthread_self() is a live thread, `clock` is valid for writing.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        (failed == 0).then_some(Self(clock))
    }
    /// CPU time used so far. `None` once the thread has ended.
    pub fn read(self) -> Option<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is valid for writing; an id of a thread that ended is answered with EINVAL.
        let failed = unsafe { libc::clock_gettime(self.0, &mut time) };
        let seconds = u64::try_from(time.tv_sec).ok()?;
        let nanos = u32::try_from(time.tv_nsec).ok()?;
        (failed == 0).then(|| Duration::new(seconds, nanos))
    }
}

/// What a worker shows of itself. Written by the worker, read by the watchdog, without locks.
#[derive(Debug)]
pub struct Slot {
    pub id: u64,
    /// Number of the running call; 0 between calls.
    call: AtomicU64,
    /// Lane (plugin) of the running call.
    lane: AtomicUsize,
    abandoned: AtomicBool,
    clock: Option<ThreadClock>,
}

impl Slot {
    /// For the calling thread.
    pub fn of_this_thread(id: u64) -> Self {
        Self {
            id,
            call: AtomicU64::new(0),
            lane: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            clock: ThreadClock::of_this_thread(),
        }
    }
    pub fn end(&self) {
        self.call.store(0, Ordering::SeqCst);
    }
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }
    /// The watchdog gave this thread up: it must not touch anything any more.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }
    pub fn running(&self) -> Option<(u64, usize)> {
        match self.call.load(Ordering::SeqCst) {
            0 => None,
            call => Some((call, self.lane.load(Ordering::SeqCst))),
        }
    }
}

/// Limits of a call, and what to do when they are passed; implemented by the pool.
pub trait Watched: Send + Sync {
    /// Deadline in CPU time and in wall time for a lane.
    fn limits(&self, lane: usize) -> (Duration, Duration);
    /// Stop the call at its next instruction.
    fn stop(&self, lane: usize, call: u64);
    /// The call did not come back: carry on without its thread.
    fn give_up(&self, slot: &Arc<Slot>, lane: usize, call: u64);
}

/// Shared by workers and the watchdog thread.
#[derive(Debug, Default)]
pub struct Watch {
    slots: Mutex<Vec<Arc<Slot>>>,
    ticking: AtomicBool,
    closed: AtomicBool,
    gate: Mutex<()>,
    wake: Condvar,
}

impl Watch {
    pub fn add(&self, slot: Arc<Slot>) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(slot);
    }
    pub fn remove(&self, id: u64) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|slot| slot.id != id);
    }
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.arm();
    }

    /// The watchdog thread sleeps until the next call.
    pub fn is_asleep(&self) -> bool {
        !self.ticking.load(Ordering::SeqCst)
    }

    /// A worker starts a call.
    pub fn begin(&self, slot: &Slot, lane: usize, call: u64) {
        slot.lane.store(lane, Ordering::SeqCst);
        slot.call.store(call, Ordering::SeqCst);
        // The watchdog stores `ticking = false` before it looks at the slots a last time, so one of the two sees the other.
        if !self.ticking.load(Ordering::SeqCst) {
            self.arm();
        }
    }

    fn arm(&self) {
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.ticking.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    fn snapshot(&self) -> Vec<Arc<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The watchdog thread.
    pub fn run(&self, watched: &dyn Watched) {
        let mut seen: HashMap<u64, Seen> = HashMap::new();
        let mut quiet = 0;
        while !self.closed.load(Ordering::SeqCst) {
            let busy = self.tick(&mut seen, watched);
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet < QUIET_TICKS {
                let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
                // Nobody notifies while it ticks, except `close`.
                drop(self.wake.wait_timeout(gate, TICK));
                continue;
            }
            self.sleep();
            quiet = 0;
        }
    }

    fn sleep(&self) {
        self.ticking.store(false, Ordering::SeqCst);
        if self.snapshot().iter().any(|slot| slot.running().is_some()) {
            self.ticking.store(true, Ordering::SeqCst);
            return;
        }
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.ticking.load(Ordering::SeqCst) && !self.closed.load(Ordering::SeqCst) {
            gate = self.wake.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Looks at every running call once. True if there was one.
    fn tick(&self, seen: &mut HashMap<u64, Seen>, watched: &dyn Watched) -> bool {
        let slots = self.snapshot();
        seen.retain(|id, _| slots.iter().any(|slot| slot.id == *id));
        let mut busy = false;
        for slot in slots {
            let Some((call, lane)) = slot.running() else {
                seen.remove(&slot.id);
                continue;
            };
            busy = true;
            let now = Instant::now();
            let cpu = || slot.clock.and_then(ThreadClock::read);
            let entry = seen.entry(slot.id).or_insert_with(|| Seen::new(call, now, cpu()));
            if entry.call != call {
                *entry = Seen::new(call, now, cpu());
                continue;
            }
            let (deadline, abandon) = watched.limits(lane);
            let wall = now.duration_since(entry.since);
            let used = match (cpu(), entry.cpu) {
                (Some(now), Some(then)) => now.saturating_sub(then),
                _ => wall,
            };
            if used >= deadline {
                watched.stop(lane, call);
            }
            // Not back although it went on computing after it was stopped. A thread that got no processor is not
            // wedged: it is given up much later.
            let wedged = wall >= abandon && used >= deadline * 2;
            if wedged || wall >= abandon * STARVED {
                watched.stop(lane, call);
                watched.give_up(&slot, lane, call);
            }
        }
        busy
    }
}

/// When the watchdog first saw a call.
struct Seen {
    call: u64,
    since: Instant,
    cpu: Option<Duration>,
}

impl Seen {
    fn new(call: u64, since: Instant, cpu: Option<Duration>) -> Self {
        Self { call, since, cpu }
    }
}
