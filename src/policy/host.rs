//! The whole of policy, as the daemon sees it: load, ask, receive, reload, roll back, status.
//!
//! Owned by the reactor. `ask` never blocks; what blocks (`Preparation::load`, `Candidate::compare`) takes no reference
//! to the host and can run on another thread. A failed or refused reload changes nothing.

use super::api::{Hook, Reply, Request, Subject};
use super::generation::{self, Inputs, LoadReport, Loaded};
use super::plugin::load::Problem;
use super::plugin::store::Kept;
use super::pool::{Pool, Sink};
use super::status::Status;
use crate::config::PolicySettings;
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
    /// Digest of what it was made of.
    inputs: u64,
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
            running: self.running.inputs,
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
            inputs: loaded.inputs.digest,
            left_out: loaded.left_out,
            pool: Pool::start(number, loaded.members, loaded.around, sink),
        }
    }
}

/// What a reload takes over from the running generation.
#[derive(Debug, Clone, Default)]
pub struct Preparation {
    kept: BTreeMap<String, Kept>,
    /// Digest of what the running generation was made of.
    running: u64,
}

impl Preparation {
    /// The files and the configuration say what they said when the running generation was made. Blocks.
    pub fn is_unchanged(&self, config: &PolicySettings) -> bool {
        Inputs::read(config).is_ok_and(|inputs| inputs.digest == self.running)
    }

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
            kept: self.kept,
        })
    }
}

/// A generation that could run.
pub struct Candidate {
    pub(super) loaded: Loaded,
    pub(super) kept: BTreeMap<String, Kept>,
}
