//! One question on its way through the chain of plugins.

use super::merged::Merged;
use crate::policy::api::context::Part;
use crate::policy::api::decision::{AdmitVerdict, Decision, PortVerdict, Verdict};
use crate::policy::api::{Conflict, Context, Fallback, Hook, Outcome, Reply, Request, Step, Subject};
use crate::policy::merge::{Statement, merge};
use crate::policy::plugin::load::Plugin;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// What a plugin contributed, or that it has not been asked yet.
#[derive(Debug, Clone)]
pub enum Contribution {
    Pending,
    /// Not concerned: no such hook, `when` does not match, or another plugin's `tick`.
    Skipped,
    Done {
        outcome: Outcome,
        fallback: Fallback,
        cached: bool,
        elapsed: Duration,
        error: Option<String>,
        verdict: Option<Arc<Verdict>>,
    },
}

impl Contribution {
    /// What it says; `None` without an opinion.
    fn verdict(&self) -> Option<&Arc<Verdict>> {
        match self {
            Contribution::Done { verdict, .. } => verdict.as_ref(),
            Contribution::Pending | Contribution::Skipped => None,
        }
    }
}

/// A question and the contributions so far, by lane.
#[derive(Debug, Clone)]
pub struct Job {
    pub r#gen: u64,
    pub seq: u64,
    pub key: Subject,
    pub hook: Hook,
    pub context: Arc<Context>,
    pub contributions: Vec<Contribution>,
    /// Digests of parts of the context, by `Part as usize`, as far as asked for.
    digests: [Option<u128>; Part::ALL.len()],
    pub retry_after: Option<Duration>,
}

impl Job {
    pub fn new(request: Request, lanes: usize) -> Self {
        let mut context = request.context;
        context.hook = request.hook;
        Self {
            r#gen: request.r#gen,
            seq: request.seq,
            key: request.key,
            hook: request.hook,
            context: Arc::new(context),
            contributions: vec![Contribution::Pending; lanes],
            digests: [None; Part::ALL.len()],
            retry_after: None,
        }
    }

    /// The next lane to be asked, from `from` on. `resolve` ends with the first answer, or with the first failure that
    /// nothing stands in for.
    pub fn next(&self, from: usize) -> Option<usize> {
        let ends = |contribution: &Contribution| match contribution {
            Contribution::Done {
                verdict, fallback, ..
            } => verdict.is_some() || *fallback == Fallback::Deny,
            _ => false,
        };
        let is_pending = |contribution: &Contribution| matches!(contribution, Contribution::Pending);
        let next = self.contributions.iter().skip(from).position(is_pending)? + from;
        let settled = self.hook == Hook::Resolve && self.contributions.iter().take(next).any(ends);
        (!settled).then_some(next)
    }

    pub fn set(&mut self, lane: usize, contribution: Contribution) {
        if let Some(place) = self.contributions.get_mut(lane) {
            *place = contribution;
        }
    }

    /// Digest of a part of the context: equal digests, equal input. Each part is looked at once, however many plugins
    /// read it. `None`: a part that can't be compared.
    pub fn digest(&mut self, part: Part) -> Option<u128> {
        let known = self.digests.get_mut(part as usize)?;
        match known {
            Some(digest) => Some(*digest),
            None => Some(*known.insert(digest_of(part, &self.context)?)),
        }
    }

    /// Ask again no later than `pause` from now.
    pub fn retry(&mut self, pause: Duration) {
        self.retry_after = Some(self.retry_after.map_or(pause, |earlier| earlier.min(pause)));
    }

    /// Tags that plugins before `lane` decided, over those of the context.
    pub fn tags(&self, lane: usize) -> BTreeMap<String, String> {
        let mut tags = self.context.tags.clone();
        for contribution in self.contributions.iter().take(lane) {
            let Some(verdict) = contribution.verdict() else {
                continue;
            };
            let said = match verdict.as_ref() {
                Verdict::Port(v) => &v.tags,
                Verdict::Network(v) => &v.tags,
                _ => continue,
            };
            for (key, value) in said {
                tags.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        tags
    }

    /// The merged answer, once every lane contributed.
    pub fn into_reply(self, plugins: &[Arc<Plugin>], generation: u64, merged: &Merged) -> Reply {
        let hook = self.hook;
        let (decision, conflicts) = match self.closed() {
            // An earlier resolver failed: what a later one says must not map the tap elsewhere for a while.
            true if hook == Hook::Resolve => (Arc::new(Decision::none(hook)), Arc::default()),
            _ => {
                let said = self.contributions.iter().map(Contribution::verdict);
                merged.outcome(hook, said, || self.merge(plugins))
            }
        };
        Reply {
            r#gen: self.r#gen,
            seq: self.seq,
            hook,
            generation,
            decision,
            conflicts,
            steps: self.steps(plugins),
            retry_after: self.retry_after,
            key: self.key,
        }
    }

    fn merge(&self, plugins: &[Arc<Plugin>]) -> (Decision, Vec<Conflict>) {
        let hook = self.hook;
        let origins: Vec<_> = plugins
            .iter()
            .map(|plugin| move |path: &str| plugin.origins.of(hook, path))
            .collect();
        let contributions = self.contributions.iter().zip(plugins).zip(&origins);
        let statements = contributions.filter_map(|((contribution, plugin), origin)| {
            Some(Statement {
                verdict: contribution.verdict()?,
                overrides: &plugin.manifest.overrides,
                origin,
            })
        });
        merge(hook, statements)
    }

    /// The first plugin with a say failed and nothing stands in for it.
    fn closed(&self) -> bool {
        let first = self.contributions.iter().find_map(|c| match c {
            Contribution::Done { verdict: Some(_), .. } => Some(false),
            Contribution::Done {
                fallback: Fallback::Deny,
                ..
            } => Some(true),
            _ => None,
        });
        first == Some(true)
    }

    fn steps(&self, plugins: &[Arc<Plugin>]) -> Vec<Step> {
        let step = |(contribution, plugin): (&Contribution, &Arc<Plugin>)| match contribution {
            Contribution::Done {
                outcome,
                fallback,
                cached,
                elapsed,
                error,
                ..
            } => Some(Step {
                plugin: plugin.name.clone(),
                outcome: *outcome,
                fallback: *fallback,
                cached: *cached,
                elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
                error: error.clone(),
            }),
            Contribution::Pending | Contribution::Skipped => None,
        };
        self.contributions.iter().zip(plugins).filter_map(step).collect()
    }
}

/// The verdict that stands for "closed", where the hook has one.
pub fn closed_verdict(hook: Hook, reason: String) -> Option<Verdict> {
    match hook {
        Hook::Port => Some(Verdict::Port(PortVerdict {
            deny: Some(reason),
            ..PortVerdict::default()
        })),
        Hook::Admit => Some(Verdict::Admit(AdmitVerdict {
            deny: Some(reason),
            defer: None,
        })),
        _ => None,
    }
}

/// How an answer counts.
pub fn outcome_of(verdict: Option<&Verdict>) -> Outcome {
    match verdict {
        None => Outcome::Nil,
        Some(
            Verdict::Port(PortVerdict { deny: Some(_), .. })
            | Verdict::Admit(AdmitVerdict { deny: Some(_), .. }),
        ) => Outcome::Denied,
        Some(
            Verdict::Port(PortVerdict { defer: Some(_), .. })
            | Verdict::Admit(AdmitVerdict { defer: Some(_), .. }),
        ) => Outcome::Deferred,
        Some(_) => Outcome::Answered,
    }
}

/// 128 bits: two SipHash streams, so that a chance collision never gives one tap another's answer.
pub struct Digest {
    first: DefaultHasher,
    second: DefaultHasher,
}

impl Digest {
    pub fn of(value: &impl Hash) -> u128 {
        let mut digest = Self {
            first: DefaultHasher::new(),
            second: DefaultHasher::new(),
        };
        digest.second.write_u8(1);
        value.hash(&mut digest);
        u128::from(digest.first.finish()) << 64 | u128::from(digest.second.finish())
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.first.write(bytes);
        self.second.write(bytes);
    }

    /// Half of it.
    fn finish(&self) -> u64 {
        self.first.finish()
    }
}

fn digest_of(part: Part, context: &Context) -> Option<u128> {
    Some(match part {
        Part::Link => Digest::of(&context.link),
        Part::Port => Digest::of(&context.port),
        Part::Network => Digest::of(&context.network),
        Part::Uplink => Digest::of(&context.uplink),
        Part::Bridge => Digest::of(&context.bridge),
        Part::Current => Digest::of(&context.current),
        Part::Host => Digest::of(&context.host),
        Part::Plan => Digest::of(&context.plan),
        Part::Result => Digest::of(&context.result),
        Part::Lease => Digest::of(&context.lease),
        Part::Diff => Digest::of(&context.diff),
        Part::Tags | Part::Now | Part::Seq | Part::Gen | Part::Reason => return None,
    })
}
