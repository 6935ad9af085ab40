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
mod merged;
mod remembered;
mod worker;

use super::answers::Answer;
use super::api::{Hook, Reply, Request, Subject};
use super::generation::Member;
use super::guard::STACK;
use super::memory::give_memory_back;
use super::plugin::load::{Plugin, Surroundings};
use super::plugin::runtime::Runtime;
use super::plugin::store::{Kept, Store};
use super::status::PluginStatus;
use super::tools::coverage::Lines;
use super::watch::Watch;
use job::{Contribution, Job};
use lane::Lane;
use merged::Merged;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// The number of a generation that is only tried: what its plugins log goes nowhere.
pub const REHEARSAL: u64 = 0;

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
    merged: Merged,
    wake: Condvar,
    /// Something is ready for the worker that looks for it (`State::expected`).
    asked: AtomicBool,
    /// The processor on which was asked last.
    asker: AtomicI32,
    /// The last worker that woke up did so on another one than the asker's.
    beside: AtomicBool,
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
    /// A worker was called and looks for something to do, again and again for a moment: nobody need be woken.
    expected: bool,
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
                expected: false,
                closed: false,
            }),
            merged: Merged::default(),
            wake: Condvar::new(),
            asked: AtomicBool::new(false),
            asker: AtomicI32::new(-1),
            beside: AtomicBool::new(true),
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
            if !lane.concerns(job.hook, &job.key, &job.context) {
                job.set(index, Contribution::Skipped);
            }
        }
        match state.advance(job, 0, Instant::now(), Hands::Full) {
            Next::Done(job) => {
                drop(state);
                Some(shared.reply(job))
            }
            Next::Waits | Next::Run(..) => {
                shared.asker.store(processor(), Ordering::Relaxed);
                shared.call_for_help(state);
                None
            }
        }
    }

    /// Does a worker run while the asker does? Some schedulers put all threads of a quiet program on one processor, and
    /// there may be no other; then who waits awake is in the way of what it waits for. Told of the last wake-up.
    pub fn is_beside(&self) -> bool {
        self.shared.beside.load(Ordering::Relaxed)
    }

    /// A question is being made: a worker that sleeps wakes up meanwhile, if it can do so beside the asker.
    pub fn stir(&self) {
        if !self.is_beside() {
            return;
        }
        let mut state = self.shared.lock();
        if state.idle == 0 || state.expected {
            return;
        }
        state.expected = true;
        drop(state);
        self.shared.asker.store(processor(), Ordering::Relaxed);
        self.shared.wake.notify_one();
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

    /// What plugins answered in the daemon's last run stands in for those that fail now.
    pub fn restore(&self, answers: Vec<Answer>) {
        let mut state = self.shared.lock();
        for answer in answers {
            if let Some(lane) = state.lanes.iter_mut().find(|l| l.plugin.name == answer.plugin) {
                lane.restore(answer);
            }
        }
    }

    /// Every last good answer; `name` tells a tap's, of those that are there.
    pub fn answers(&self, name: &dyn Fn(&Subject) -> Option<Box<str>>) -> Vec<Answer> {
        let mut answers = Vec::new();
        for lane in &self.shared.lock().lanes {
            lane.answers(name, &mut answers);
        }
        answers
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

    /// Every worker waits for a question: what was asked is answered, logged and saved.
    pub fn is_at_rest(&self) -> bool {
        let state = self.shared.lock();
        state.idle == state.workers && state.ready.is_empty()
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
        self.shared.lock().lanes.iter().map(Lane::status).collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        self.shared.watch.close();
    }
}

impl Drop for Shared {
    /// On the thread that lets go last, usually a worker: the states' memory goes back to the system.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !state.lanes.is_empty() {
            state.lanes.clear();
            give_memory_back();
        }
    }
}

/// The processor that runs this thread; negative if the system does not say.
fn processor() -> i32 {
    // SAFETY: takes nothing and only reads.
    unsafe { libc::sched_getcpu() }
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
            if lane.recall(index, &mut job) || lane.refuse(index, &mut job, now) {
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
            // Answered while it waited, perhaps: a burst asks the same many times.
            if !lane.recall(index, &mut job) && !lane.refuse(index, &mut job, now) {
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
