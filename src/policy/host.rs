//! The whole of policy, as the daemon sees it: load, ask, receive, reload, roll back, status.
//!
//! Owned by the reactor. `ask` never blocks; what blocks (`Preparation::load`, `Candidate::compare`) takes no reference
//! to the host and can run on another thread. A failed or refused reload changes nothing.

use super::answers;
use super::api::{Hook, Reply, Request, Subject};
use super::archive::{Archive, Edition};
use super::generation::{self, Inputs, LoadReport, Loaded};
use super::inbox::{self, Inbox, Outbox};
use super::plugin::load::Problem;
use super::plugin::store::Kept;
use super::pool::{Pool, Sink};
use super::status::{Health, Status};
use crate::config::PolicySettings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub struct Host {
    running: Generation,
    /// One earlier generation, for `rollback`.
    previous: Option<Generation>,
    /// Kept for the next start.
    archive: Arc<Mutex<Archive>>,
    /// Where the last good answers are kept.
    directory: Option<PathBuf>,
    writing: Arc<Mutex<()>>,
    numbers: u64,
    /// For the generations to come.
    outbox: Outbox,
    inbox: Inbox,
}

/// A set of plugins under one number.
struct Generation {
    number: u64,
    hash: u64,
    /// Digest of what it was made of.
    inputs: u64,
    pool: Pool,
    left_out: Vec<Problem>,
    last_good: BTreeMap<String, Problem>,
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
    /// Loads the configured plugins. Blocks for as long as their files take.
    pub fn load(config: &PolicySettings) -> Result<Self, LoadReport> {
        let archive = Archive::read(config.archive.as_deref());
        Ok(Self::begin(generation::load(config, &BTreeMap::new())?, archive))
    }

    /// The same at the daemon's start: a plugin whose file is broken runs its last good version, if one is known.
    pub fn load_or_last_good(config: &PolicySettings) -> Result<Self, LoadReport> {
        let archive = Archive::read(config.archive.as_deref());
        let loaded = generation::load_or_last_good(config, &archive)?;
        for (plugin, error) in &loaded.last_good {
            tracing::error!(plugin, %error, "plugin can't be loaded; it runs as it last was");
        }
        let host = Self::begin(loaded, archive);
        if let Some(directory) = &host.directory {
            host.running.pool.restore(answers::read(directory));
        }
        Ok(host)
    }

    /// What is to be done now and then, on a thread that may block: the last good answers are kept for the next start.
    /// `name` tells a tap's, of those that are there. `None`: there is nowhere to keep them.
    pub fn keep_answers(
        &self,
        name: &dyn Fn(&Subject) -> Option<Box<str>>,
    ) -> Option<impl FnOnce() + Send + use<> + 'static> {
        let directory = self.directory.clone()?;
        let answers = self.running.pool.answers(name);
        let writing = Arc::clone(&self.writing);
        Some(move || {
            let _one_at_a_time = writing.lock().unwrap_or_else(PoisonError::into_inner);
            answers::write(&directory, &answers);
        })
    }

    /// Is there a place for them?
    pub fn keeps_answers(&self) -> bool {
        self.directory.is_some()
    }

    fn begin(loaded: Loaded, mut archive: Archive) -> Self {
        if archive.note(loaded.inputs.edition()) {
            archive.save();
        }
        let (outbox, inbox) = inbox::inbox();
        Self {
            directory: archive.directory().map(Path::to_owned),
            writing: Arc::default(),
            running: Generation::start(1, loaded, &outbox),
            previous: None,
            archive: Arc::new(Mutex::new(archive)),
            numbers: 1,
            outbox,
            inbox,
        }
    }

    fn archive(&self) -> MutexGuard<'_, Archive> {
        // Only whole values are ever put in.
        self.archive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done after `commit` and `rollback`, on a thread that may block: the next start shall know of it.
    pub fn keep(&self) -> impl FnOnce() + Send + 'static {
        let archive = Arc::clone(&self.archive);
        move || archive.lock().unwrap_or_else(PoisonError::into_inner).save()
    }

    /// Would any plugin answer this hook? If not there is no need to build a context.
    pub fn has_hook(&self, hook: Hook) -> bool {
        self.running.pool.has_hook(hook)
    }

    /// Do plugins run while the asker does? See [`Pool::is_beside`].
    pub fn is_beside(&self) -> bool {
        self.running.pool.is_beside()
    }

    /// A question that needs a script is being made: its thread wakes up meanwhile.
    pub fn stir(&self) {
        self.running.pool.stir();
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
            let reply = self.inbox.next().await;
            // What an earlier generation still answers is dropped: after a reload everything is asked anew.
            if reply.generation == self.running.number {
                return reply;
            }
        }
    }

    /// The next reply, waited for: what was asked is answered, or given up by the watchdog. Not for an async context.
    pub fn wait(&mut self) -> Option<Reply> {
        self.inbox.wait()
    }

    /// A reply that is already there.
    pub fn try_recv(&mut self) -> Option<Reply> {
        while let Some(reply) = self.inbox.take() {
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
        let mut plugins = self.running.pool.status();
        for plugin in plugins.iter_mut().filter(|p| p.health == Health::Ok) {
            if let Some(problem) = self.running.last_good.get(&plugin.name) {
                plugin.health = Health::LastGood;
                plugin.reason = Some(format!("runs its last good version: {problem}"));
            }
        }
        Status {
            generation: self.running.number,
            hash: format!("{:016x}", self.running.hash),
            rollback: self.previous.is_some() || self.archive().previous.is_some(),
            threads: self.running.pool.workers(),
            plugins,
            left_out: self.running.left_out.iter().map(ToString::to_string).collect(),
        }
    }

    /// A plugin runs its last good version: which, and why.
    pub fn last_good(&self) -> Option<String> {
        let (plugin, problem) = self.running.last_good.iter().next()?;
        Some(format!("plugin {plugin} runs its last good version: {problem}"))
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
        self.archive().note(candidate.loaded.inputs.edition());
        let next = Generation::start(self.numbers, candidate.loaded, &self.outbox);
        next.pool.inherit(&self.running.pool);
        self.previous = Some(std::mem::replace(&mut self.running, next));
    }

    /// The generation before this one, of an earlier run of the daemon: for `Preparation::load_archived`.
    pub fn archived(&self) -> Option<Edition> {
        self.archive().previous.clone()
    }

    /// Goes back to the generation before the last reload. False: none was in force in this run.
    pub fn rollback(&mut self) -> bool {
        let Some(mut previous) = self.previous.take() else {
            return false;
        };
        self.numbers += 1;
        previous.number = self.numbers;
        previous.pool.renumber(self.numbers);
        previous.pool.inherit(&self.running.pool);
        self.archive().swap();
        self.previous = Some(std::mem::replace(&mut self.running, previous));
        true
    }

    /// Worker threads and watchdog wake-ups, for tests and metrics.
    pub fn pool(&self) -> &Pool {
        &self.running.pool
    }
}

impl Generation {
    fn start(number: u64, loaded: Loaded, outbox: &Outbox) -> Self {
        let outbox = outbox.clone();
        let sink: Sink = Box::new(move |reply| outbox.put(reply));
        for problem in &loaded.left_out {
            tracing::warn!(error = %problem, "plugin left out");
        }
        Self {
            number,
            hash: loaded.hash,
            inputs: loaded.inputs.digest,
            left_out: loaded.left_out,
            last_good: loaded.last_good,
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

    /// Loads what was in force before. Blocks.
    pub fn load_archived(self, edition: &Edition) -> Result<Candidate, LoadReport> {
        Ok(Candidate {
            loaded: generation::load_inputs(Inputs::archived(edition)?, &self.kept)?,
            kept: self.kept,
        })
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
