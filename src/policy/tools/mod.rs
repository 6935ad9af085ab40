//! Tools for plugin authors: no root, no daemon, no kernel. Each returns a report with its exit code; printing is the
//! command line's business.

pub mod check;
pub mod coverage;
pub mod diff;
pub mod eval;
pub mod globals;
pub mod recording;
pub mod suite;
pub mod testing;
pub mod typegen;

pub use check::check;
pub use eval::eval;
pub use recording::{Recorder, replay};
pub use testing::run as test;

use super::api::{Reply, Request};
use super::plugin::load::Problem;
use super::pool::{Pool, Sink};
use serde::Serialize;
use std::fmt;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a tool found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub lines: Vec<String>,
    /// Of `policy test`.
    pub cases: Vec<CaseResult>,
    /// Of `policy check`, in the order of the chain.
    pub plugins: Vec<check::Checked>,
    /// Of `policy check`: plugins that can't be loaded.
    pub problems: Vec<Problem>,
    /// 0 all is well; 1 a test failed or an answer differs; 2 a plugin, file or argument is wrong.
    pub code: u8,
}

/// How one case of a test file ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// "plugins/mtu_test.lua:3".
    pub place: String,
    pub name: String,
    /// What is wrong, one line each; none: it passed.
    pub problems: Vec<String>,
}

impl Report {
    pub fn line(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }
    /// The worst code stands.
    pub fn raise(&mut self, code: u8) {
        self.code = self.code.max(code);
    }
    /// A report that only says what is wrong.
    pub fn wrong(problem: impl fmt::Display) -> Self {
        Self {
            lines: problem.to_string().lines().map(str::to_owned).collect(),
            code: 2,
            ..Self::default()
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Longer than every deadline of a chain with a rebuild.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool that is asked one question at a time by a thread that may wait.
pub struct Bench {
    pub pool: Pool,
    replies: Receiver<Reply>,
}

impl Bench {
    pub fn start(members: Vec<super::generation::Member>, around: super::plugin::load::Surroundings) -> Self {
        let (out, replies) = channel();
        let sink: Sink = Box::new(move |reply| {
            // Nobody waits any more: the tool has given up on this question.
            let _ = out.send(reply);
        });
        Self {
            pool: Pool::start(1, members, around, sink),
            replies,
        }
    }
    /// `None`: no answer within half a minute.
    pub fn ask(&self, request: Request) -> Option<Reply> {
        self.pool
            .ask(request)
            .or_else(|| self.replies.recv_timeout(PATIENCE).ok())
    }
    /// Until the plugins' log lines are written, which comes after the answer.
    pub fn settle(&self) {
        let started = Instant::now();
        while !self.pool.is_at_rest() && started.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
