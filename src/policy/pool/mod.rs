//! The threads that run plugins.
//!
//! One mutex guards all bookkeeping (queues, breakers, memory of answers); it is never held while a script runs. A
//! question enters at the first plugin concerned; the worker that finished one plugin carries the question on to the
//! next one whose state is free, so that a chain costs one wake-up instead of one per plugin (measured: 2 us against
//! 60 us for three). A state is used by one thread at a time. Workers are started when a question waits and all are
//! busy, at most one per plugin, so a plugin that hangs never holds up another.
//!
//! A call that does not come back loses its thread: the watchdog takes the question out of the worker's hands, answers
//! it by the failure policy, and rebuilds the plugin's state; the lost thread finds itself abandoned and ends.

pub mod job;
pub mod lane;

use super::api::{Hook, Outcome, Reply, Request, Subject};
use super::generation::Member;
use super::guard::{STACK, load_plugin};
use super::plugin::fault::Fault;
use super::plugin::hostlib::{Effects, Line};
use super::plugin::load::{Plugin, Surroundings};
use super::plugin::runtime::{Called, Runtime, give_memory_back};
use super::plugin::store::{Kept, Store};
use super::status::{Health, PluginStatus};
use super::tools::coverage::Lines;
use super::watch::{Slot, Watch, Watched};
use job::{Contribution, Job};
use lane::{Lane, MAX_ABANDONED};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where finished answers go; called on a worker thread.
pub type Sink = Box<dyn Fn(Reply) + Send + Sync>;

/// A generation's plugins with their threads. Dropping it lets the threads end after their current call.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    generation: AtomicU64,
    plugins: Vec<Arc<Plugin>>,
    around: Surroundings,
    sink: Sink,
    state: Mutex<State>,
    wake: Condvar,
    watch: Watch,
    calls: AtomicU64,
    slots: AtomicU64,
    started: Instant,
}

struct State {
    lanes: Vec<Lane>,
    ready: VecDeque<usize>,
    idle: usize,
    workers: usize,
    closed: bool,
}

/// Where a question goes next.
enum Next {
    /// The caller's thread runs this lane's state.
    Run(usize, Box<Runtime>, Job),
    /// It waits in a queue.
    Waits,
    Done(Job),
}

/// Can the calling thread run a script itself? Workers can; the reactor and the watchdog must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hands {
    Free,
    Full,
}

impl Pool {
    /// Starts with loaded plugins, in chain order. Without plugins no thread is started, ever.
    pub fn start(generation: u64, loaded: Vec<Member>, around: Surroundings, sink: Sink) -> Self {
        let mut plugins = Vec::new();
        let mut lanes = Vec::new();
        for member in loaded {
            let plugin = Arc::new(member.plugin);
            plugins.push(Arc::clone(&plugin));
            lanes.push(Lane::new(plugin, member.runtime, member.store, member.migrated));
        }
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(generation),
            plugins,
            around,
            sink,
            state: Mutex::new(State {
                lanes,
                ready: VecDeque::new(),
                idle: 0,
                workers: 0,
                closed: false,
            }),
            wake: Condvar::new(),
            watch: Watch::default(),
            calls: AtomicU64::new(0),
            slots: AtomicU64::new(0),
            started: Instant::now(),
        });
        if !shared.plugins.is_empty() {
            let watching = Arc::clone(&shared);
            spawn("policy-watch", move || watching.watch.run(&watching));
            let mut state = shared.lock();
            shared.hire(&mut state);
        }
        Self { shared }
    }

    pub fn plugins(&self) -> &[Arc<Plugin>] {
        &self.shared.plugins
    }

    /// Asks without blocking. An answer that needs no script comes back at once; otherwise it goes to the sink.
    pub fn ask(&self, request: Request) -> Option<Reply> {
        let shared = &self.shared;
        let mut job = Job::new(request, shared.plugins.len());
        let mut state = shared.lock();
        for (index, lane) in state.lanes.iter_mut().enumerate() {
            if lane.concerns(job.hook, &job.key, &job.context) {
                lane.recall(index, &mut job);
            } else {
                job.set(index, Contribution::Skipped);
            }
        }
        match state.advance(job, 0, Instant::now(), Hands::Full) {
            Next::Done(job) => {
                drop(state);
                Some(job.into_reply(&shared.plugins, shared.generation()))
            }
            Next::Waits | Next::Run(..) => {
                shared.call_for_help(state);
                None
            }
        }
    }

    /// Would anybody answer this hook?
    pub fn has_hook(&self, hook: Hook) -> bool {
        self.shared
            .plugins
            .iter()
            .any(|plugin| plugin.hooks.contains(&hook))
    }

    /// Drops what is known about a subject that is gone.
    pub fn forget(&self, key: &Subject) {
        for lane in &mut self.shared.lock().lanes {
            lane.forget(key);
        }
    }

    /// Plugins of the same name keep their last good answers.
    pub fn inherit(&self, old: &Pool) {
        let old = old.shared.lock();
        for lane in &mut self.shared.lock().lanes {
            if let Some(before) = old.lanes.iter().find(|l| l.plugin.name == lane.plugin.name) {
                lane.inherit(before);
            }
        }
    }

    /// The state that plugins hold, for a new generation.
    pub fn kept(&self) -> BTreeMap<String, Kept> {
        let stores: Vec<_> = self
            .shared
            .lock()
            .lanes
            .iter()
            .map(|l| (l.plugin.name.clone(), Arc::clone(&l.store)))
            .collect();
        let kept =
            |store: Arc<Mutex<Store>>| store.lock().unwrap_or_else(PoisonError::into_inner).kept.clone();
        stores
            .into_iter()
            .map(|(name, store)| (name, kept(store)))
            .collect()
    }

    /// The pool runs again under another number (`rollback`).
    pub fn renumber(&self, generation: u64) {
        self.shared.generation.store(generation, Ordering::SeqCst);
    }

    /// Live worker threads, without the watchdog.
    pub fn workers(&self) -> usize {
        self.shared.lock().workers
    }

    /// Nothing runs, and nothing wakes up until somebody asks.
    pub fn is_asleep(&self) -> bool {
        self.shared.watch.is_asleep()
    }

    /// Lines run so far, of plugins that are loaded with `Coverage::Lines` and not busy.
    pub fn coverage(&self) -> Lines {
        let mut lines = Lines::default();
        for lane in &self.shared.lock().lanes {
            if let Some(runtime) = &lane.runtime {
                runtime.coverage(&mut lines);
            }
        }
        lines
    }

    pub fn status(&self) -> Vec<PluginStatus> {
        self.shared.lock().lanes.iter().map(lane_status).collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        self.shared.watch.close();
    }
}

fn lane_status(lane: &Lane) -> PluginStatus {
    let open = lane.breakers.open();
    let (health, reason) = match (&lane.disabled, open.is_empty()) {
        (Some(why), _) => (Health::Disabled, Some(why.clone())),
        (None, false) => {
            let last = lane.counters.last_error.as_deref().unwrap_or_default();
            (Health::Suspended, Some(format!("{}: {last}", open.join(", "))))
        }
        (None, true) => (Health::Ok, lane.counters.last_error.clone()),
    };
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    PluginStatus {
        name: lane.plugin.name.clone(),
        file: lane.plugin.source.shown.to_string(),
        health,
        reason,
        hooks: lane.plugin.hooks.iter().map(|hook| hook.word()).collect(),
        calls: lane.counters.calls(),
        cached: lane.counters.cached,
        failures: lane.counters.failures(),
        outcomes: lane
            .counters
            .by_outcome
            .iter()
            .map(|(outcome, n)| (outcome.word(), *n))
            .collect(),
        total_us: micros(lane.counters.total),
        max_us: micros(lane.counters.max),
        memory_bytes: lane.counters.memory,
        queue: lane.waiting(),
        abandoned: lane.abandoned,
        log_lines_dropped: lane.counters.lines_dropped,
        metrics: lane.counters.metrics.clone(),
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> bool {
    match std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(body)
    {
        Ok(_) => true,
        Err(error) => {
            tracing::error!(%error, thread = name, "no thread for policy");
            false
        }
    }
}

impl State {
    /// Sends a question on from lane `from`.
    fn advance(&mut self, mut job: Job, from: usize, now: Instant, hands: Hands) -> Next {
        let mut index = from;
        while let Some(next) = job.next(index) {
            index = next;
            let Some(lane) = self.lanes.get_mut(index) else {
                break;
            };
            if lane.refuse(index, &mut job, now) {
                continue;
            }
            if hands == Hands::Free
                && lane.waiting() == 0
                && !lane.is_ready
                && let Some(runtime) = lane.runtime.take()
            {
                return Next::Run(index, runtime, job);
            }
            lane.push(job);
            if lane.runtime.is_some() && !lane.is_ready {
                lane.is_ready = true;
                self.ready.push_back(index);
            }
            return Next::Waits;
        }
        Next::Done(job)
    }

    /// A state is free again: give it back, or note that questions wait for it.
    fn return_runtime(&mut self, index: usize, runtime: Box<Runtime>) {
        let Some(lane) = self.lanes.get_mut(index) else {
            return;
        };
        lane.counters.memory = runtime.used_memory();
        lane.runtime = Some(runtime);
        if lane.waiting() > 0 && !lane.is_ready {
            lane.is_ready = true;
            self.ready.push_back(index);
        }
    }

    /// The next thing to do for a worker: a waiting question with the state it waits for, or one that was answered while
    /// it waited, because its plugin is suspended meanwhile.
    fn take_ready(&mut self, now: Instant) -> Option<Next> {
        while let Some(index) = self.ready.pop_front() {
            let Some(lane) = self.lanes.get_mut(index) else {
                continue;
            };
            lane.is_ready = false;
            let Some(runtime) = lane.runtime.take() else {
                continue;
            };
            let Some(mut job) = lane.pop() else {
                lane.runtime = Some(runtime);
                continue;
            };
            if !lane.refuse(index, &mut job, now) {
                return Some(Next::Run(index, runtime, job));
            }
            self.return_runtime(index, runtime);
            if let Next::Done(job) = self.advance(job, index + 1, now, Hands::Full) {
                return Some(Next::Done(job));
            }
        }
        None
    }
}

impl Shared {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics; if it ever does, bookkeeping of whole values is still usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a worker. Called with the lock held, so that two callers don't start one too many.
    fn hire(self: &Arc<Self>, state: &mut State) {
        let shared = Arc::clone(self);
        state.workers += 1;
        if !spawn("policy-worker", move || shared.work()) {
            state.workers -= 1;
        }
    }

    /// Something is ready: wake a worker, or start one when all are busy.
    fn call_for_help(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.ready.is_empty() {
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
        while !state.closed {
            match state.take_ready(Instant::now()) {
                Some(Next::Run(index, runtime, job)) => {
                    drop(state);
                    if !self.carry(&slot, index, runtime, job) {
                        return;
                    }
                    state = self.lock();
                }
                Some(Next::Done(job)) => {
                    drop(state);
                    (self.sink)(job.into_reply(&self.plugins, self.generation()));
                    state = self.lock();
                }
                Some(Next::Waits) | None => {
                    state.idle += 1;
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle -= 1;
                }
            }
        }
        state.workers -= 1;
        drop(state);
        self.watch.remove(slot.id);
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
            let mut called = runtime.ask(hook, &context, &tags, &kept, call);
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
                    (self.sink)(done.into_reply(&self.plugins, self.generation()));
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
            tracing::warn!(plugin = %lane.plugin.name, hook = %job.hook, error, "plugin suspended");
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

    fn log(&self, index: usize, hook: Hook, context: &super::api::Context, called: &Called, lines: &[Line]) {
        let Some(plugin) = self.plugins.get(index) else {
            return;
        };
        let ifindex = context.link.as_ref().map_or(0, |link| link.ifindex);
        let elapsed_us = u64::try_from(called.elapsed.as_micros()).unwrap_or(u64::MAX);
        let _span = tracing::debug_span!("policy", plugin = %plugin.name, hook = %hook, generation = self.generation(),
            ifname = context.tap(), ifindex, network = context.network_id(), elapsed_us)
        .entered();
        for line in lines {
            write_line(&plugin.name, context.tap(), line);
        }
        if let Err(fault) = &called.answer {
            tracing::warn!(plugin = %plugin.name, hook = %hook, ifname = context.tap(), network = context.network_id(),
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
            (self.sink)(job.into_reply(&self.plugins, self.generation()));
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
            (self.sink)(done.into_reply(&self.plugins, self.generation()));
        }
        if lost {
            self.release(state, index);
        } else {
            self.call_for_help(state);
            self.rebuild(index);
        }
    }
}

fn write_line(plugin: &str, ifname: &str, line: &Line) {
    use tracing::Level;
    macro_rules! write_at {
        ($($level:ident => $macro:ident),*) => {
            match line.level {
                $( Level::$level => tracing::$macro!(plugin, ifname, message = %line.message, fields = line.fields, "plugin says"), )*
            }
        };
    }
    write_at!(ERROR => error, WARN => warn, INFO => info, DEBUG => debug, TRACE => trace);
}
