//! What the pool's threads do: carry questions from plugin to plugin, and carry on when one of them is lost.

use super::job::Job;
use super::lane::{Lane, MAX_ABANDONED};
use super::{Hands, Next, REHEARSAL, Shared, State, processor, spawn};
use crate::policy::api::{Context, Hook, Outcome, Reply};
use crate::policy::guard::load_plugin;
use crate::policy::memory::give_memory_back;
use crate::policy::pause;
use crate::policy::plugin::fault::Fault;
use crate::policy::plugin::hostlib::{Effects, Line};
use crate::policy::plugin::runtime::{Called, Runtime};
use crate::policy::plugin::store::Store;
use crate::policy::watch::{Slot, Watched};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a worker that was called looks for its question: making one takes a fifth of that.
const LINGER: Duration = Duration::from_micros(50);

impl Shared {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics; if it ever does, bookkeeping of whole values is still usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The merged answer, once every lane contributed.
    pub(super) fn reply(&self, job: Job) -> Reply {
        job.into_reply(&self.plugins, self.generation(), &self.merged)
    }

    /// Starts a worker. Called with the lock held, so that two callers don't start one too many.
    pub(super) fn hire(self: &Arc<Self>, state: &mut State) {
        let shared = Arc::clone(self);
        state.workers += 1;
        if !spawn("policy-worker", move || shared.work()) {
            state.workers -= 1;
        }
    }

    /// Something is ready: wake a worker, or start one when all are busy.
    pub(super) fn call_for_help(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.ready.is_empty() {
            return;
        }
        if state.expected {
            drop(state);
            self.asked.store(true, Ordering::Release);
            return;
        }
        if state.idle == 0 {
            if state.workers < state.lanes.len() {
                self.hire(&mut state);
            }
            return;
        }
        drop(state);
        self.wake.notify_one();
    }

    fn work(self: Arc<Self>) {
        let slot = Arc::new(Slot::of_this_thread(
            self.slots.fetch_add(1, Ordering::Relaxed) + 1,
        ));
        self.watch.add(Arc::clone(&slot));
        let mut state = self.lock();
        let mut woken = Instant::now();
        while !state.closed {
            let now = Instant::now();
            match state.take_ready(now) {
                Some(Next::Run(index, runtime, job)) => {
                    state.expected = false;
                    // Whoever asked may have counted on this thread while it was still waking up: what else is ready
                    // must not wait for this call to end.
                    self.call_for_help(state);
                    if !self.carry(&slot, index, runtime, job) {
                        return;
                    }
                    state = self.lock();
                }
                Some(Next::Done(job)) => {
                    drop(state);
                    (self.sink)(self.reply(job));
                    state = self.lock();
                }
                Some(Next::Waits) | None
                    if state.expected
                        && self.beside.load(Ordering::Relaxed)
                        && now.duration_since(woken) < LINGER =>
                {
                    self.asked.store(false, Ordering::Relaxed);
                    drop(state);
                    self.linger(woken);
                    state = self.lock();
                }
                Some(Next::Waits) | None => {
                    state.expected = false;
                    state.idle += 1;
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle -= 1;
                    woken = Instant::now();
                    let asker = self.asker.load(Ordering::Relaxed);
                    self.beside.store(asker != processor(), Ordering::Relaxed);
                }
            }
        }
        state.workers -= 1;
        drop(state);
        self.watch.remove(slot.id);
    }

    /// Looks for a question without the lock: with it, who asks would find it taken and have to sleep.
    fn linger(&self, woken: Instant) {
        while !self.asked.load(Ordering::Acquire) && woken.elapsed() < LINGER {
            pause();
        }
    }

    /// Carries a question from plugin to plugin as long as their states are free. False: this thread was abandoned.
    fn carry(self: &Arc<Self>, slot: &Arc<Slot>, index: usize, runtime: Box<Runtime>, job: Job) -> bool {
        let (mut index, mut runtime, mut job) = (index, runtime, job);
        let mut visited = Vec::with_capacity(self.plugins.len());
        loop {
            let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
            let (hook, context, tags) = (job.hook, Arc::clone(&job.context), job.tags(index));
            let store = {
                let mut state = self.lock();
                let Some(lane) = state.lanes.get_mut(index) else {
                    return true;
                };
                lane.running = Some((call, job));
                Arc::clone(&lane.store)
            };
            visited.push((index, Arc::clone(&store)));
            let kept = store
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .kept
                .values
                .clone();
            self.watch.begin(slot, index, call);
            let mut called = runtime.ask(hook, &context, &tags, kept, call);
            slot.end();
            if slot.is_abandoned() {
                return false;
            }
            self.commit(&store, &mut called);
            let mut state = self.lock();
            let taken_over = slot.is_abandoned();
            let Some((_, finished)) = state.lanes.get_mut(index).and_then(|lane| lane.running.take()) else {
                return !taken_over;
            };
            job = finished;
            let lines = self.book(&mut state, index, &mut job, &mut called);
            let exhausted = runtime.is_exhausted();
            let worn_out = if exhausted {
                Some(runtime)
            } else {
                state.return_runtime(index, runtime);
                None
            };
            let next = state.advance(job, index + 1, Instant::now(), Hands::Free);
            // Others may be served meanwhile: by a worker that sleeps, or by this one when it is through.
            if matches!(next, Next::Run(..)) && !state.ready.is_empty() {
                self.call_for_help(state);
            } else {
                drop(state);
            }
            if let Some(worn_out) = worn_out {
                drop(worn_out);
                self.rebuild(index);
            }
            let finished = index;
            let on = match next {
                Next::Run(next_index, next_runtime, next_job) => Some((next_index, next_runtime, next_job)),
                Next::Waits => None,
                Next::Done(done) => {
                    (self.sink)(self.reply(done));
                    None
                }
            };
            // After the answer: writing a log line may take longer than the script.
            self.log(finished, hook, &context, &called, &lines);
            match on {
                Some(next) => (index, runtime, job) = next,
                None => {
                    for (lane, store) in visited {
                        self.idle_work(lane, &store);
                    }
                    return true;
                }
            }
        }
    }

    /// State writes count only if the call succeeded; too much state is a failure of the call.
    fn commit(&self, store: &Arc<Mutex<Store>>, called: &mut Called) {
        if called.effects.writes.is_empty() || called.answer.is_err() {
            return;
        }
        let writes = std::mem::take(&mut called.effects.writes);
        if let Err(error) = store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .commit(writes)
        {
            called.answer = Err(Fault::new(Outcome::Invalid, None, error.to_string()));
        }
    }

    /// Books a call; returns the log lines that may be written.
    fn book(&self, state: &mut State, index: usize, job: &mut Job, called: &mut Called) -> Vec<Line> {
        let Some(lane) = state.lanes.get_mut(index) else {
            return Vec::new();
        };
        if lane.finish(index, job, called, Instant::now()) {
            let error = lane.counters.last_error.clone().unwrap_or_default();
            if self.generation() != REHEARSAL {
                tracing::warn!(plugin = %lane.plugin.name, hook = %job.hook, error, "plugin suspended");
            }
        }
        lane.counters
            .add_metrics(std::mem::take(&mut called.effects.metrics));
        let mut lines = std::mem::take(&mut called.effects.lines);
        lane.counters.lines_dropped += called.effects.lines_dropped as u64;
        lines.truncate(
            lane.counters
                .admit_lines(lines.len(), self.started.elapsed().as_secs()),
        );
        lines
    }

    fn log(&self, index: usize, hook: Hook, context: &Context, called: &Called, lines: &[Line]) {
        let Some(plugin) = self.plugins.get(index) else {
            return;
        };
        if self.generation() == REHEARSAL {
            return;
        }
        let ifindex = context.link.as_ref().map_or(0, |link| link.ifindex);
        let elapsed_us = u64::try_from(called.elapsed.as_micros()).unwrap_or(u64::MAX);
        let _span = tracing::debug_span!("policy", plugin = %plugin.name, hook = %hook, generation = self.generation(),
            ifname = context.tap(), ifindex, network = context.network_id(), elapsed_us)
        .entered();
        for line in lines {
            write_line(&plugin.name, self.generation(), context.tap(), line);
        }
        // Who asked tells people (the daemon once, not for every tap).
        if let Err(fault) = &called.answer {
            tracing::debug!(plugin = %plugin.name, hook = %hook, ifname = context.tap(), network = context.network_id(),
                outcome = %fault.outcome, error = %fault, "plugin failed");
        }
    }

    /// What can wait until the answer is out: collecting garbage, saving state, giving memory back.
    fn idle_work(&self, index: usize, store: &Arc<Mutex<Store>>) {
        let runtime = {
            let mut state = self.lock();
            match state.lanes.get_mut(index) {
                Some(lane) if lane.waiting() == 0 && !lane.is_ready => lane.runtime.take(),
                _ => None,
            }
        };
        if let Some(runtime) = runtime {
            runtime.rest();
            let mut state = self.lock();
            state.return_runtime(index, runtime);
        }
        if let Err(error) = store.lock().unwrap_or_else(PoisonError::into_inner).save() {
            tracing::warn!(%error, cause = ?std::error::Error::source(&error), "plugin state not saved");
        }
    }

    /// Builds a plugin's state anew, on a thread of its own. Until then its questions wait.
    fn rebuild(self: &Arc<Self>, index: usize) {
        let shared = Arc::clone(self);
        spawn("policy-rebuild", move || {
            let Some(plugin) = shared.plugins.get(index) else {
                return;
            };
            give_memory_back();
            let loaded = load_plugin(&plugin.source, &shared.around);
            let mut state = shared.lock();
            let Some(lane) = state.lanes.get_mut(index) else {
                return;
            };
            match loaded {
                Ok((_, runtime)) => {
                    lane.kill = runtime.kill_switch();
                    state.return_runtime(index, Box::new(runtime));
                    shared.call_for_help(state);
                }
                Err(problem) => {
                    lane.disabled = Some(format!("it can't be loaded again: {problem}"));
                    tracing::error!(plugin = %plugin.name, error = %problem, "plugin disabled");
                    shared.release(state, index);
                }
            }
        });
    }

    /// Answers everything that waits for a lane that is disabled now.
    fn release(self: &Arc<Self>, mut state: MutexGuard<'_, State>, index: usize) {
        let mut done = Vec::new();
        while let Some(job) = state.lanes.get_mut(index).and_then(Lane::pop) {
            if let Next::Done(job) = state.advance(job, index, Instant::now(), Hands::Full) {
                done.push(job);
            }
        }
        self.call_for_help(state);
        for job in done {
            (self.sink)(self.reply(job));
        }
    }
}

impl Watched for Arc<Shared> {
    fn limits(&self, lane: usize) -> (Duration, Duration) {
        let state = self.lock();
        state.lanes.get(lane).map_or((Duration::MAX, Duration::MAX), |l| {
            (l.limits.deadline, l.limits.abandon)
        })
    }

    fn stop(&self, lane: usize, call: u64) {
        if let Some(lane) = self.lock().lanes.get(lane) {
            lane.kill.kill(call);
        }
    }

    fn give_up(&self, slot: &Arc<Slot>, index: usize, call: u64) {
        let mut state = self.lock();
        // The call may have ended while the lock was awaited.
        if slot.running() != Some((call, index)) {
            return;
        }
        let Some(lane) = state.lanes.get_mut(index) else {
            return;
        };
        let Some((_, mut job)) = lane.running.take_if(|(running, _)| *running == call) else {
            return;
        };
        slot.abandon();
        self.watch.remove(slot.id);
        lane.abandoned += 1;
        let wall = lane.limits.abandon.as_millis();
        let called = Called {
            answer: Err(Fault::new(
                Outcome::Wedged,
                Some(lane.plugin.origins.hook(job.hook)),
                format!("did not come back within {wall} ms; its thread was abandoned"),
            )),
            effects: Effects::default(),
            elapsed: lane.limits.abandon,
            read: None,
        };
        lane.finish(index, &mut job, &called, Instant::now());
        let lost = lane.abandoned >= MAX_ABANDONED;
        tracing::error!(plugin = %lane.plugin.name, hook = %job.hook, ifname = job.context.tap(),
            abandoned = lane.abandoned, "plugin thread abandoned");
        if lost {
            lane.disabled = Some(format!("{MAX_ABANDONED} calls did not come back"));
        }
        state.workers = state.workers.saturating_sub(1);
        if let Next::Done(done) = state.advance(job, index + 1, Instant::now(), Hands::Full) {
            (self.sink)(self.reply(done));
        }
        if lost {
            self.release(state, index);
        } else {
            self.call_for_help(state);
            self.rebuild(index);
        }
    }
}

fn write_line(plugin: &str, generation: u64, ifname: &str, line: &Line) {
    use tracing::Level;
    let fields = Some(line.fields.as_str()).filter(|fields| !fields.is_empty());
    macro_rules! write_at {
        ($($level:ident => $macro:ident),*) => {
            match line.level {
                $( Level::$level => tracing::$macro!(target: "policy", plugin, generation, place = line.place, ifname, message = %line.message, fields, "plugin says"), )*
            }
        };
    }
    write_at!(ERROR => error, WARN => warn, INFO => info, DEBUG => debug, TRACE => trace);
}
