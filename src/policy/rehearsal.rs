//! A candidate's answers to everything that is known, compared with those that hold: what a reload would change.

use super::api::{Context, Decision, Fallback, Hook, Request, Step, Subject};
use super::generation::{self, LoadReport};
use super::host::Candidate;
use super::pool::{Pool, REHEARSAL, Sink};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A question with the answer that holds now.
#[derive(Debug, Clone)]
pub struct Known {
    pub key: Subject,
    pub hook: Hook,
    pub context: Context,
    pub before: Arc<Decision>,
    /// Plugins whose last answer to it was a failure: what fails already is no reason against a reload.
    pub failing: BTreeSet<String>,
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
    /// Taps and networks that some answer changes for.
    pub fn subjects(&self) -> (usize, usize) {
        let subjects: BTreeSet<&Subject> = self.changed.iter().map(|changed| &changed.subject).collect();
        let taps = subjects.iter().filter(|s| matches!(s, Subject::Tap(_))).count();
        (taps, subjects.len() - taps)
    }

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
        let inputs = self.loaded.inputs.without_state_directory();
        let rehearsal = generation::load_inputs(inputs, &self.kept)?;
        let (out, answers) = std::sync::mpsc::channel();
        let sink: Sink = Box::new(move |reply| {
            let _ = out.send(reply);
        });
        let pool = Pool::start(REHEARSAL, rehearsal.members, rehearsal.around, sink);
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
            let fails_already = |step: &Step| step.error.is_some() && question.failing.contains(&step.plugin);
            let new = reply.steps.iter().filter(|step| !fails_already(step));
            comparison.errors.extend(new.filter_map(|step| {
                let error = step.error.as_ref()?;
                Some(format!(
                    "{} {} {}: {error}",
                    step.plugin,
                    question.hook,
                    question.context.tap()
                ))
            }));
            let closed = |step: &Step| fails_already(step) && step.fallback == Fallback::Deny;
            if reply.steps.iter().any(closed) {
                // An earlier answer may stand in for it, which is not known here; it goes on standing.
                continue;
            }
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
