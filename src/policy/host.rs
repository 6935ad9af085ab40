//! The whole of policy, as the daemon sees it: load, ask, receive, reload, roll back, status.
//!
//! Owned by the reactor. `ask` never blocks; what blocks (`Preparation::load`, `Candidate::compare`) takes no reference
//! to the host and can run on another thread. A failed or refused reload changes nothing.

use super::api::{Context, Decision, Hook, Reply, Request, Subject};
use super::generation::{self, LoadReport, Loaded};
use super::plugin::load::Problem;
use super::plugin::store::Kept;
use super::pool::{Pool, Sink};
use super::status::Status;
use crate::config::PolicySettings;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

pub struct Host {
    running: Generation,
    /// One earlier generation, for `rollback`.
    previous: Option<Generation>,
    numbers: u64,
    replies_in: mpsc::UnboundedSender<Reply>,
    replies: mpsc::UnboundedReceiver<Reply>,
}

/// A set of plugins under one number.
struct Generation {
    number: u64,
    hash: u64,
    pool: Pool,
    left_out: Vec<Problem>,
}

/// What became of a question.
#[derive(Debug)]
pub enum Asked {
    /// No script had to run: nobody is concerned, or all answers were remembered.
    Answered(Box<Reply>),
    /// The reply comes through `Host::recv`.
    Pending,
}

impl Host {
    /// Loads the configured plugins. Blocks for as long as their files take; for start-up.
    pub fn load(config: &PolicySettings) -> Result<Self, LoadReport> {
        let loaded = generation::load(config, &BTreeMap::new())?;
        let (replies_in, replies) = mpsc::unbounded_channel();
        Ok(Self {
            running: Generation::start(1, loaded, &replies_in),
            previous: None,
            numbers: 1,
            replies_in,
            replies,
        })
    }

    /// Would any plugin answer this hook? If not there is no need to build a context.
    pub fn has_hook(&self, hook: Hook) -> bool {
        self.running.pool.has_hook(hook)
    }

    /// Asks all plugins concerned. Never blocks. A newer question about the same subject and hook replaces an older one
    /// that still waits; the older one then gets no reply.
    pub fn ask(&self, mut request: Request) -> Asked {
        request.context.r#gen = self.running.number;
        match self.running.pool.ask(request) {
            Some(reply) => Asked::Answered(Box::new(reply)),
            None => Asked::Pending,
        }
    }

    /// The next reply. Cancel-safe; pending for ever when nothing was asked.
    pub async fn recv(&mut self) -> Reply {
        loop {
            match self.replies.recv().await {
                // What an earlier generation still answers is dropped: after a reload everything is asked anew.
                Some(reply) if reply.generation == self.running.number => return reply,
                Some(_) => {}
                // Can't happen while `self.replies_in` lives; a future that never ends is right anyway.
                None => std::future::pending().await,
            }
        }
    }

    /// The next reply, waited for: what was asked is answered, or given up by the watchdog. Not for an async context.
    pub fn wait(&mut self) -> Option<Reply> {
        self.replies.blocking_recv()
    }

    /// A reply that is already there.
    pub fn try_recv(&mut self) -> Option<Reply> {
        while let Ok(reply) = self.replies.try_recv() {
            if reply.generation == self.running.number {
                return Some(reply);
            }
        }
        None
    }

    /// Drops what is known about a subject that is gone.
    pub fn forget(&self, key: &Subject) {
        self.running.pool.forget(key);
    }

    /// Timers that plugins asked for: name and period. The daemon asks `Hook::Tick` with `Subject::Plugin(name)`.
    pub fn timers(&self) -> Vec<(String, Duration)> {
        let timer = |plugin: &std::sync::Arc<super::plugin::load::Plugin>| {
            let every = plugin.manifest.every().ok().flatten()?;
            Some((plugin.name.clone(), every))
        };
        self.running.pool.plugins().iter().filter_map(timer).collect()
    }

    /// The number of the running generation.
    pub fn generation(&self) -> u64 {
        self.running.number
    }

    pub fn status(&self) -> Status {
        Status {
            generation: self.running.number,
            hash: format!("{:016x}", self.running.hash),
            rollback: self.previous.is_some(),
            threads: self.running.pool.workers(),
            plugins: self.running.pool.status(),
            left_out: self.running.left_out.iter().map(ToString::to_string).collect(),
        }
    }

    /// First step of a reload: what the new generation inherits. Send it to a thread that may block.
    pub fn prepare(&self) -> Preparation {
        Preparation {
            kept: self.running.pool.kept(),
        }
    }

    /// Last step: the candidate runs, the old generation is kept for `rollback`. The caller asks everything anew.
    pub fn commit(&mut self, candidate: Candidate) {
        self.numbers += 1;
        let next = Generation::start(self.numbers, candidate.loaded, &self.replies_in);
        next.pool.inherit(&self.running.pool);
        self.previous = Some(std::mem::replace(&mut self.running, next));
    }

    /// Goes back to the generation before the last reload. False: there is none.
    pub fn rollback(&mut self) -> bool {
        let Some(mut previous) = self.previous.take() else {
            return false;
        };
        self.numbers += 1;
        previous.number = self.numbers;
        previous.pool.renumber(self.numbers);
        previous.pool.inherit(&self.running.pool);
        self.previous = Some(std::mem::replace(&mut self.running, previous));
        true
    }

    /// Worker threads and watchdog wake-ups, for tests and metrics.
    pub fn pool(&self) -> &Pool {
        &self.running.pool
    }
}

impl Generation {
    fn start(number: u64, loaded: Loaded, replies: &mpsc::UnboundedSender<Reply>) -> Self {
        let replies = replies.clone();
        let sink: Sink = Box::new(move |reply| {
            // The daemon is going down when nobody receives.
            let _ = replies.send(reply);
        });
        for problem in &loaded.left_out {
            tracing::warn!(error = %problem, "plugin left out");
        }
        Self {
            number,
            hash: loaded.hash,
            left_out: loaded.left_out,
            pool: Pool::start(number, loaded.members, loaded.around, sink),
        }
    }
}

/// What a reload takes over from the running generation.
#[derive(Debug, Clone, Default)]
pub struct Preparation {
    kept: BTreeMap<String, Kept>,
}

impl Preparation {
    /// Runs the tests beside the plugins, then loads. Blocks. What a reload should use.
    pub fn load_tested(self, config: &PolicySettings) -> Result<Candidate, LoadReport> {
        let report = super::tools::testing::run_where_present(&config.plugins);
        if report.code != 0 {
            let problems = report
                .lines
                .iter()
                .filter(|line| !line.starts_with("ok "))
                .map(|line| Problem {
                    plugin: String::new(),
                    place: "policy test".into(),
                    message: line.trim().to_owned(),
                });
            return Err(LoadReport {
                problems: problems.collect(),
            });
        }
        self.load(config)
    }

    /// Loads a new generation aside. Blocks.
    pub fn load(self, config: &PolicySettings) -> Result<Candidate, LoadReport> {
        Ok(Candidate {
            loaded: generation::load(config, &self.kept)?,
            config: config.clone(),
            kept: self.kept,
        })
    }
}

/// A generation that could run.
pub struct Candidate {
    loaded: Loaded,
    config: PolicySettings,
    kept: BTreeMap<String, Kept>,
}

/// A question with the answer that holds now.
#[derive(Debug, Clone)]
pub struct Known {
    pub key: Subject,
    pub hook: Hook,
    pub context: Context,
    pub before: Decision,
}

/// One answer that a candidate would change.
#[derive(Debug, Clone, Serialize)]
pub struct Changed {
    pub subject: Subject,
    pub tap: String,
    pub hook: Hook,
    pub before: serde_json::Value,
    pub after: serde_json::Value,
}

/// What a candidate would change.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Comparison {
    pub asked: usize,
    pub changed: Vec<Changed>,
    /// Failures of plugins on the way.
    pub errors: Vec<String>,
}

/// Why a comparison speaks against a reload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the new plugins fail: {0}")]
    Errors(String),
    #[error("{changed} of {asked} answers would change, at most {allowed} may (--max-changes)")]
    TooManyChanges {
        changed: usize,
        asked: usize,
        allowed: usize,
    },
}

impl Comparison {
    /// Nothing may fail, and at most `percent` of the answers, but always ten, may change.
    pub fn check(&self, percent: u8) -> Result<(), Refusal> {
        self.check_at_most((self.asked * usize::from(percent) / 100).max(10))
    }

    /// Nothing may fail, and at most `allowed` answers may change.
    pub fn check_at_most(&self, allowed: usize) -> Result<(), Refusal> {
        if let Some(error) = self.errors.first() {
            return Err(Refusal::Errors(error.clone()));
        }
        if self.changed.len() > allowed {
            return Err(Refusal::TooManyChanges {
                changed: self.changed.len(),
                asked: self.asked,
                allowed,
            });
        }
        Ok(())
    }
}

impl Changed {
    /// One line per field: "tap3f mtu 1500 -> 8950 (mtu plugins/mtu.lua:14)".
    pub fn lines(&self) -> Vec<String> {
        let who = match &self.subject {
            Subject::Tap(_) => self.tap.clone(),
            Subject::Network(id) | Subject::Plugin(id) => id.clone(),
        };
        let fields = |side: &serde_json::Value| {
            let mut plain = side.clone();
            let by = plain
                .as_object_mut()
                .and_then(|map| map.remove("by"))
                .unwrap_or_default();
            let mut out = Vec::new();
            super::tools::eval::flatten("", &plain, &mut out);
            (out.into_iter().collect::<BTreeMap<_, _>>(), by)
        };
        let ((before, _), (after, by)) = (fields(&self.before), fields(&self.after));
        let paths: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let text =
            |value: Option<&serde_json::Value>| value.map_or_else(|| "-".to_owned(), ToString::to_string);
        let line = |path: &String| {
            let (old, new) = (before.get(path), after.get(path));
            let origin = by
                .get(path)
                .and_then(|o| o.as_str())
                .map_or(String::new(), |o| format!(" ({o})"));
            (old != new).then(|| format!("{who} {path} {} -> {}{origin}", text(old), text(new)))
        };
        paths.into_iter().filter_map(line).collect()
    }
}

/// How long one answer may take in a comparison: chain, deadlines and a rebuild included.
const PATIENCE: Duration = Duration::from_secs(10);

impl Candidate {
    pub fn hash(&self) -> u64 {
        self.loaded.hash
    }

    /// Asks the candidate everything that is known and compares. Blocks. Runs on states of its own: log lines,
    /// metrics and state writes of this rehearsal go nowhere.
    pub fn compare(&self, known: &[Known]) -> Result<Comparison, LoadReport> {
        let mut config = self.config.clone();
        config.settings.remove("state");
        let rehearsal = generation::load(&config, &self.kept)?;
        let (out, answers) = std::sync::mpsc::channel();
        let sink: Sink = Box::new(move |reply| {
            let _ = out.send(reply);
        });
        let pool = Pool::start(0, rehearsal.members, rehearsal.around, sink);
        let mut comparison = Comparison {
            asked: known.len(),
            ..Comparison::default()
        };
        for (seq, question) in (1..).zip(known) {
            let asked = pool.ask(Request {
                r#gen: 0,
                seq,
                key: question.key.clone(),
                hook: question.hook,
                context: question.context.clone(),
            });
            let reply = match asked {
                Some(reply) => reply,
                None => match answers.recv_timeout(PATIENCE) {
                    Ok(reply) => reply,
                    Err(_) => {
                        comparison
                            .errors
                            .push(format!("no answer about {:?}", question.key));
                        continue;
                    }
                },
            };
            comparison.errors.extend(reply.steps.iter().filter_map(|step| {
                let error = step.error.as_ref()?;
                Some(format!(
                    "{} {} {}: {error}",
                    step.plugin,
                    question.hook,
                    question.context.tap()
                ))
            }));
            if !same_verdict(&question.before, &reply.decision) {
                comparison.changed.push(Changed {
                    subject: question.key.clone(),
                    tap: question.context.tap().to_owned(),
                    hook: question.hook,
                    before: shown(&question.before),
                    after: shown(&reply.decision),
                });
            }
        }
        Ok(comparison)
    }
}

fn shown(decision: &Decision) -> serde_json::Value {
    super::without_nulls(serde_json::to_value(decision).unwrap_or_default())
}

/// Equal but for the lines that decided it: an edited comment is no change.
fn same_verdict(a: &Decision, b: &Decision) -> bool {
    let without_origin = |decision| {
        let mut value = shown(decision);
        if let Some(map) = value.as_object_mut() {
            map.remove("by");
        }
        value
    };
    without_origin(a) == without_origin(b)
}
