//! A plugin's place in the pool: its state while nobody uses it, the questions waiting for it, what it answered before
//! and how it has been doing.

use super::job::{Contribution, Job, closed_verdict, outcome_of};
use super::remembered::Remembered;
use crate::policy::answers::Answer;
use crate::policy::api::decision::Verdict;
use crate::policy::api::{Context, Fallback, Hook, Outcome, Subject};
use crate::policy::breaker::{Breakers, retry_after};
use crate::policy::plugin::fault::Fault;
use crate::policy::plugin::load::Plugin;
use crate::policy::plugin::manifest::OnError;
use crate::policy::plugin::runtime::{Called, Runtime};
use crate::policy::plugin::sandbox::KillSwitch;
use crate::policy::plugin::store::Store;
use crate::policy::settings::Limits;
use crate::policy::status::{Counters, Health, PluginStatus};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Threads a plugin may lose before it is not called any more.
pub const MAX_ABANDONED: u32 = 3;

/// The network that it was about, and what was said. "No opinion" is an answer too.
type GoodAnswer = (Box<str>, Option<Arc<Verdict>>);

pub struct Lane {
    pub plugin: Arc<Plugin>,
    pub limits: Limits,
    /// Of the current state.
    pub kill: Arc<KillSwitch>,
    /// `None` while a worker uses it, and while it is rebuilt.
    pub runtime: Option<Box<Runtime>>,
    pub store: Arc<Mutex<Store>>,
    /// Its state was of another version: the old generation's store is not shared.
    migrated: bool,
    pub queue: VecDeque<Job>,
    /// Questions about networks whose last call failed: they wait behind all others.
    pub suspects: VecDeque<Job>,
    waiting: HashSet<(Hook, Subject)>,
    /// In the pool's list of lanes to be served.
    pub is_ready: bool,
    /// The call under way, kept here so that the watchdog can carry on without its thread.
    pub running: Option<(u64, Job)>,
    pub abandoned: u32,
    /// Why it is not called any more.
    pub disabled: Option<String>,
    pub breakers: Breakers,
    last_good: HashMap<(Hook, Subject), GoodAnswer>,
    /// Those of the daemon's last run that no newer one took the place of.
    restored: HashMap<(Hook, Subject), Answer>,
    remembered: Remembered,
    pub counters: Counters,
}

impl Lane {
    pub fn new(plugin: Arc<Plugin>, runtime: Runtime, store: Store, migrated: bool) -> Self {
        Self {
            limits: runtime.limits(),
            kill: runtime.kill_switch(),
            counters: Counters::new(runtime.used_memory()),
            runtime: Some(Box::new(runtime)),
            plugin,
            store: Arc::new(Mutex::new(store)),
            migrated,
            queue: VecDeque::new(),
            suspects: VecDeque::new(),
            waiting: HashSet::new(),
            is_ready: false,
            running: None,
            abandoned: 0,
            disabled: None,
            breakers: Breakers::default(),
            last_good: HashMap::new(),
            restored: HashMap::new(),
            remembered: Remembered::default(),
        }
    }

    /// Does this question concern the plugin at all?
    pub fn concerns(&self, hook: Hook, key: &Subject, context: &Context) -> bool {
        self.plugin.hooks.contains(&hook)
            && match key {
                Subject::Plugin(name) => *name == self.plugin.name,
                _ => self
                    .plugin
                    .manifest
                    .when
                    .as_ref()
                    .is_none_or(|when| when.matches(context)),
            }
    }

    /// Adds a question; a newer one about the same subject takes the place of the older.
    pub fn push(&mut self, job: Job) {
        let id = (job.hook, job.key.clone());
        if !self.waiting.insert(id) {
            let same = |old: &&mut Job| old.hook == job.hook && old.key == job.key;
            if let Some(old) = self.queue.iter_mut().chain(self.suspects.iter_mut()).find(same) {
                if old.seq <= job.seq {
                    *old = job;
                }
                return;
            }
        }
        if self.breakers.is_suspect(job.hook, job.context.network_id()) {
            self.suspects.push_back(job);
        } else {
            self.queue.push_back(job);
        }
    }

    pub fn pop(&mut self) -> Option<Job> {
        let job = self.queue.pop_front().or_else(|| self.suspects.pop_front())?;
        self.waiting.remove(&(job.hook, job.key.clone()));
        Some(job)
    }

    pub fn waiting(&self) -> usize {
        self.queue.len() + self.suspects.len()
    }

    /// Answers from memory, if the same input was answered before.
    pub fn recall(&mut self, index: usize, job: &mut Job) -> bool {
        if self.plugin.manifest.reads.is_none() || !job.hook.decides() || self.disabled.is_some() {
            return false;
        }
        let Some(verdict) = self.remembered.recall(job) else {
            return false;
        };
        self.counters.cached += 1;
        self.note_good(job, verdict.as_ref());
        let outcome = outcome_of(verdict.as_deref());
        job.set(
            index,
            Contribution::Done {
                outcome,
                fallback: Fallback::None,
                cached: true,
                elapsed: Duration::ZERO,
                error: None,
                verdict,
            },
        );
        true
    }

    fn note_good(&mut self, job: &Job, verdict: Option<&Arc<Verdict>>) {
        if job.hook.remembers() {
            self.last_good.insert(
                (job.hook, job.key.clone()),
                (job.context.network_id().into(), verdict.cloned()),
            );
            if !self.restored.is_empty() {
                self.restored.remove(&(job.hook, job.key.clone()));
            }
        }
    }

    /// Drops what is known about a subject that is gone.
    pub fn forget(&mut self, key: &Subject) {
        for hook in [Hook::Resolve, Hook::Network, Hook::Port] {
            self.last_good.remove(&(hook, key.clone()));
            self.restored.remove(&(hook, key.clone()));
        }
    }

    /// What the plugin of this name answered in the daemon's last run.
    pub fn restore(&mut self, answer: Answer) {
        self.restored
            .insert((answer.hook, answer.subject.clone()), answer);
    }

    /// Every last good answer. `name` tells a tap's, of those that are there.
    pub fn answers(&self, name: &dyn Fn(&Subject) -> Option<Box<str>>, out: &mut Vec<Answer>) {
        let current = self.last_good.iter().filter_map(|((hook, subject), good)| {
            Some(Answer {
                plugin: self.plugin.name.clone(),
                hook: *hook,
                subject: subject.clone(),
                name: name(subject)?,
                network: good.0.clone(),
                verdict: good.1.clone(),
            })
        });
        out.extend(current);
        let same = |answer: &&Answer| name(&answer.subject).as_ref() == Some(&answer.name);
        out.extend(self.restored.values().filter(same).cloned());
    }

    /// Takes over what the same plugin answered in an earlier generation.
    pub fn inherit(&mut self, old: &Lane) {
        self.last_good.clone_from(&old.last_good);
        self.restored.clone_from(&old.restored);
        if !self.migrated {
            self.store = Arc::clone(&old.store);
        }
    }

    /// If the plugin must not be called now: its stand-in is put into the job.
    pub fn refuse(&mut self, index: usize, job: &mut Job, now: Instant) -> bool {
        let message = if let Some(why) = &self.disabled {
            format!("disabled: {why}")
        } else if self.breakers.admits(job.hook, job.context.network_id(), now) {
            return false;
        } else {
            let last = self.counters.last_error.as_ref().map_or("", |e| e.as_str());
            format!("not called, it failed too often; last: {last}")
        };
        self.counters.count(job.hook, Outcome::Tripped, Duration::ZERO);
        let fault = Fault::new(Outcome::Tripped, None, message);
        job.retry(crate::policy::breaker::PROBE_AFTER);
        let stand_in = self.stand_in(job, &fault, Duration::ZERO);
        job.set(index, stand_in);
        true
    }

    /// Books a finished call and puts its contribution into the job. True if a breaker opened.
    pub fn finish(&mut self, index: usize, job: &mut Job, called: &Called, now: Instant) -> bool {
        let network = job.context.network_id().to_owned();
        match &called.answer {
            Ok(verdict) => {
                let outcome = outcome_of(verdict.as_deref());
                self.counters.count(job.hook, outcome, called.elapsed);
                self.breakers.succeed(job.hook, &network);
                let verdict = verdict.clone();
                if let Some(read) = &called.read
                    && job.hook.decides()
                {
                    self.remembered.store(job, read, verdict.clone());
                }
                self.note_good(job, verdict.as_ref());
                job.set(
                    index,
                    Contribution::Done {
                        outcome,
                        fallback: Fallback::None,
                        cached: false,
                        elapsed: called.elapsed,
                        error: None,
                        verdict,
                    },
                );
                false
            }
            Err(fault) => {
                self.counters.count(job.hook, fault.outcome, called.elapsed);
                self.counters.last_error = Some(format!("{}: {fault}", job.hook));
                let tripped = self.breakers.fail(job.hook, &network, fault.outcome, now);
                if job.hook.decides() {
                    job.retry(retry_after(tripped.failures));
                }
                let stand_in = self.stand_in(job, fault, called.elapsed);
                job.set(index, stand_in);
                tripped.newly
            }
        }
    }

    /// What stands in for a failed answer (LUA 3.5).
    fn stand_in(&self, job: &Job, fault: &Fault, elapsed: Duration) -> Contribution {
        let hook = job.hook;
        let id = (hook, job.key.clone());
        let restored = || {
            let answer = self.restored.get(&id)?;
            (*answer.name == *job.context.tap()).then_some((&answer.network, &answer.verdict))
        };
        let good = self
            .last_good
            .get(&id)
            .map(|(network, verdict)| (network, verdict));
        let good = good.or_else(restored);
        let good =
            good.filter(|(network, _)| hook == Hook::Resolve || ***network == *job.context.network_id());
        let on_error = self
            .limits
            .on_error
            .or(self.plugin.manifest.on_error)
            .unwrap_or(OnError::LastGood);
        let (fallback, verdict) = match (hook, good) {
            (Hook::Resolve | Hook::Network | Hook::Port, Some((_, verdict))) => {
                (Fallback::LastGood, verdict.clone())
            }
            (Hook::Network | Hook::Port, None) if on_error == OnError::Skip => (Fallback::Skip, None),
            (Hook::Resolve | Hook::Network | Hook::Port | Hook::Admit, _) => {
                let reason = format!("hook {hook}: {fault}");
                (Fallback::Deny, closed_verdict(hook, reason).map(Arc::new))
            }
            _ => (Fallback::Skip, None),
        };
        Contribution::Done {
            outcome: fault.outcome,
            fallback,
            cached: false,
            elapsed,
            error: Some(fault.to_string()),
            verdict,
        }
    }

    pub fn status(&self) -> PluginStatus {
        let open = self.breakers.open();
        let (health, reason) = match (&self.disabled, open.is_empty()) {
            (Some(why), _) => (Health::Disabled, Some(why.clone())),
            (None, false) => {
                let last = self.counters.last_error.as_deref().unwrap_or_default();
                (Health::Suspended, Some(format!("{}: {last}", open.join(", "))))
            }
            (None, true) => (Health::Ok, self.counters.last_error.clone()),
        };
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        PluginStatus {
            name: self.plugin.name.clone(),
            file: self.plugin.source.shown.to_string(),
            health,
            reason,
            hooks: self.plugin.hooks.iter().map(|hook| hook.word()).collect(),
            calls: self.counters.calls(),
            cached: self.counters.cached,
            failures: self.counters.failures(),
            outcomes: self
                .counters
                .by_outcome
                .iter()
                .fold(BTreeMap::new(), |mut sum, ((_, outcome), n)| {
                    *sum.entry(outcome.word()).or_default() += n;
                    sum
                }),
            by_hook: self
                .counters
                .by_outcome
                .iter()
                .map(|((hook, outcome), n)| (hook.word(), outcome.word(), *n))
                .collect(),
            total_us: micros(self.counters.total),
            max_us: micros(self.counters.max),
            memory_bytes: self.counters.memory,
            queue: self.waiting(),
            abandoned: self.abandoned,
            log_lines_dropped: self.counters.lines_dropped,
            metrics: self.counters.metrics.values().cloned().collect(),
            metrics_dropped: self.counters.metrics_dropped,
        }
    }
}
