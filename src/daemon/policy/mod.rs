//! Policy's place in the loop: questions out, verdicts in, reloads.
//!
//! The engine asks about a tap or a network (`Action::AskPort`, `AskNetwork`); here the question becomes one to three
//! hook calls (`resolve`, `port`, `admit`) on the plugins' own threads, and the answers become one verdict. Nothing waits:
//! a question that needs a script is answered by a later event. Without plugins there is no host and no thread.

mod facts;
mod reload;
mod verdict;

use super::reactor::Reactor;
use crate::config::PolicySettings;
use crate::control::api::{
    Delivery, Failure, FailureKind, PluginRow, PolicyStatus, Reply as Answer, Sink, Verdict,
};
use crate::desired::verdict::{Denial, PortVerdict};
use crate::engine::event::{Event, PolicyUse};
use crate::engine::note::{Note, What};
use crate::engine::state::PortState;
use crate::model::{Ifindex, LinkName, NamePattern, NetworkId, Time};
use crate::policy::api::context::{AttachResult, HostFacts, Plan};
use crate::policy::api::{Context, Decision, Hook, Reply, Request, Step, Subject};
use crate::policy::tools::recording::Recorder;
use crate::policy::{Asked, Host, LoadReport, tools};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use verdict::Resolved;

/// Questions that may be under way for a recording; more are left out of it.
const MAX_RECORDED: usize = 4096;

/// A question about a tap that goes through several hooks.
#[derive(Debug, Clone)]
struct Question {
    ticket: u64,
    network: Option<NetworkId>,
    verdict: PortVerdict,
}

/// One plugin's last word about a tap.
#[derive(Debug, Clone)]
struct Said {
    hook: Hook,
    step: Step,
    verdict: String,
}

#[derive(Default)]
pub struct Policy {
    host: Option<Host>,
    facts: Arc<HostFacts>,
    questions: BTreeMap<Ifindex, Question>,
    /// Tickets of networks' questions.
    networks: BTreeMap<NetworkId, u64>,
    said: BTreeMap<Ifindex, Vec<Said>>,
    /// Replies that needed no script: handled after the engine has finished its turn.
    ready: VecDeque<Reply>,
    /// To be asked again then.
    again: BTreeMap<Ifindex, Time>,
    timers: Vec<(String, Duration, Time)>,
    recorders: Vec<Sink>,
    /// Questions under way that are being recorded.
    recorded: BTreeMap<(u64, Hook), Context>,
    /// The last `port` decision about each tap: what a reload is compared with.
    decisions: BTreeMap<Ifindex, Decision>,
    calls: u64,
    errors: u64,
    seq: u64,
}

impl Policy {
    /// Loads the plugins of a configuration; no thread without plugins.
    pub fn start(settings: &PolicySettings) -> Result<Self, LoadReport> {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let facts = Arc::new(HostFacts {
            name: hostname.trim().to_owned(),
            labels: labels(settings),
        });
        let host = if settings.plugins.is_empty() {
            None
        } else {
            Some(Host::load(settings)?)
        };
        Ok(Self {
            host,
            facts,
            ..Self::default()
        })
    }

    pub fn usage(&self) -> PolicyUse {
        let has = |hook| self.host.as_ref().is_some_and(|host| host.has_hook(hook));
        PolicyUse {
            ports: has(Hook::Resolve) || has(Hook::Port) || has(Hook::Admit),
            networks: has(Hook::Network),
        }
    }

    fn has(&self, hook: Hook) -> bool {
        self.host.as_ref().is_some_and(|host| host.has_hook(hook))
    }

    fn restart_timers(&mut self, now: Time) {
        let timers = self.host.as_ref().map(Host::timers).unwrap_or_default();
        self.timers = timers
            .into_iter()
            .map(|(name, every)| (name, every, now.plus(every)))
            .collect();
    }

    /// When `tick` or a second question is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let again = self.again.values().min().copied();
        self.timers.iter().map(|(_, _, at)| *at).chain(again).min()
    }

    /// The next reply of a script. Cancel-safe; never ends without plugins.
    pub async fn reply(&mut self) -> Reply {
        match &mut self.host {
            Some(host) => host.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Replies that are there already.
    pub fn take_reply(&mut self) -> Option<Reply> {
        self.ready.pop_front().or_else(|| self.host.as_mut()?.try_recv())
    }

    fn ask(&mut self, key: Subject, hook: Hook, seq: u64, mut context: Context) {
        context.hook = hook;
        context.seq = seq;
        if !self.recorders.is_empty() && self.recorded.len() < MAX_RECORDED {
            self.recorded.insert((seq, hook), context.clone());
        }
        let Some(host) = &self.host else { return };
        if let Asked::Answered(reply) = host.ask(Request {
            r#gen: 0,
            seq,
            key,
            hook,
            context,
        }) {
            self.ready.push_back(*reply);
        }
    }

    /// The question and its answer, for `policy record`.
    fn record(&mut self, reply: &Reply) {
        let Some(context) = self.recorded.remove(&(reply.seq, reply.hook)) else {
            return;
        };
        let mut recorder = Recorder::new(Vec::new());
        // Writing into memory cannot fail.
        let _ = recorder.write(&reply.key, reply.hook, &context, &reply.decision);
        let line: Arc<str> = String::from_utf8_lossy(&recorder.into_inner()).trim_end().into();
        self.recorders
            .retain_mut(|sink| sink.push(Arc::clone(&line)) != Delivery::Closed);
        if self.recorders.is_empty() {
            self.recorded.clear();
        }
    }
}

fn labels(settings: &PolicySettings) -> BTreeMap<String, String> {
    let table = settings.settings.get("labels").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    table
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

impl Reactor {
    /// The engine asks about a tap.
    pub(super) fn ask_port(&mut self, index: Ifindex, ticket: u64) {
        let mapping = self
            .engine
            .observed()
            .link(index)
            .and_then(|l| self.engine.desired().mapping_for(&l.name));
        let network = mapping.map(|m| m.network.clone());
        let unmapped = network.is_none();
        let question = Question {
            ticket,
            network,
            verdict: PortVerdict::default(),
        };
        self.policy.questions.insert(index, question);
        self.policy.said.remove(&index);
        if unmapped && self.policy.has(Hook::Resolve) {
            self.ask_hook(index, Hook::Resolve);
        } else {
            self.ask_after_resolve(index);
        }
    }

    fn ask_after_resolve(&mut self, index: Ifindex) {
        let mapped = self
            .policy
            .questions
            .get(&index)
            .is_some_and(|q| q.network.is_some());
        if mapped && self.policy.has(Hook::Port) {
            self.ask_hook(index, Hook::Port);
        } else {
            self.ask_after_port(index);
        }
    }

    fn ask_after_port(&mut self, index: Ifindex) {
        let Some(question) = self.policy.questions.get(&index) else {
            return;
        };
        let attached = self
            .engine
            .tap(index)
            .is_some_and(|tap| tap.state == PortState::Attached);
        let asks = question.network.is_some() && question.verdict.deny.is_none() && !attached;
        if asks && self.policy.has(Hook::Admit) {
            self.ask_hook(index, Hook::Admit);
        } else {
            self.conclude(index);
        }
    }

    fn ask_hook(&mut self, index: Ifindex, hook: Hook) {
        let Some(question) = self.policy.questions.get(&index) else {
            return;
        };
        let facts = Arc::clone(&self.policy.facts);
        let context = facts::of_port(&self.engine, index, hook, question.network.as_ref(), &facts);
        let Some(mut context) = context else {
            self.policy.questions.remove(&index);
            return;
        };
        if hook == Hook::Admit {
            let operations = self
                .engine
                .preview_port(index, &question.verdict, question.network.as_ref());
            context.plan = Some(Plan {
                changes: Vec::new(),
                operations: operations.iter().map(ToString::to_string).collect(),
            });
        }
        let ticket = question.ticket;
        self.policy.ask(Subject::Tap(index.get()), hook, ticket, context);
    }

    fn conclude(&mut self, index: Ifindex) {
        let Some(question) = self.policy.questions.remove(&index) else {
            return;
        };
        let mut verdict = question.verdict;
        let mapped = self
            .engine
            .tap(index)
            .is_some_and(|tap| self.engine.desired().mapping_for(&tap.name).is_some());
        verdict.network = question.network.filter(|_| !mapped);
        let now = self.now();
        self.engine.handle(
            Event::PortVerdict {
                index,
                ticket: question.ticket,
                verdict: Box::new(verdict),
            },
            now,
        );
    }

    /// The engine asks about a network.
    pub(super) fn ask_network(&mut self, id: &NetworkId, ticket: u64) {
        let Some(network) = self.engine.desired().network(id) else {
            return;
        };
        let context = facts::of_network(&self.engine, network, &self.policy.facts);
        self.policy.networks.insert(id.clone(), ticket);
        self.policy
            .ask(Subject::Network(id.to_string()), Hook::Network, ticket, context);
    }

    /// Handles every reply that is there. True if there was one.
    pub(super) fn take_replies(&mut self) -> bool {
        let mut any = false;
        while let Some(reply) = self.policy.take_reply() {
            any = true;
            self.on_reply(reply);
        }
        any
    }

    pub(super) fn on_reply(&mut self, reply: Reply) {
        self.count(&reply);
        self.policy.record(&reply);
        match (&reply.key, reply.hook) {
            (Subject::Tap(raw), Hook::Resolve | Hook::Port | Hook::Admit) => {
                if let Some(index) = Ifindex::new(*raw) {
                    self.on_port_reply(index, &reply);
                }
            }
            (Subject::Network(text), Hook::Network) => {
                let Ok(id) = NetworkId::new(text) else { return };
                if self.policy.networks.get(&id) == Some(&reply.seq)
                    && let Decision::Network(decided) = &reply.decision
                {
                    let event = Event::NetworkVerdict {
                        network: id,
                        ticket: reply.seq,
                        verdict: Box::new(verdict::network(decided)),
                    };
                    let now = self.now();
                    self.engine.handle(event, now);
                }
            }
            (_, Hook::Observe | Hook::Tick) => self.invalidate(&reply.decision),
            _ => {}
        }
    }

    fn on_port_reply(&mut self, index: Ifindex, reply: &Reply) {
        let current = self
            .policy
            .questions
            .get(&index)
            .is_some_and(|q| q.ticket == reply.seq);
        if !current {
            return;
        }
        if let Some(after) = reply.retry_after {
            let at = self.now().plus(after);
            self.policy.again.insert(index, at);
        }
        match &reply.decision {
            Decision::Resolve(decided) => {
                let resolved = verdict::resolved(self.engine.desired(), &decided.verdict);
                let network = match resolved {
                    Ok(Some(Resolved::Known(id))) => Some(id),
                    Ok(Some(Resolved::New(network))) => {
                        let id = network.id.clone();
                        let now = self.now();
                        self.engine.handle(Event::SetNetwork(network), now);
                        Some(id)
                    }
                    Ok(None) => None,
                    Err(problem) => {
                        tracing::warn!(target: "policy", ifindex = index.get(), %problem, "resolve names no usable network");
                        None
                    }
                };
                if let Some(question) = self.policy.questions.get_mut(&index) {
                    question.verdict.ignore = decided.verdict.ignore == Some(true);
                    question.network = network;
                }
                if decided.verdict.ignore == Some(true) {
                    self.conclude(index);
                } else {
                    self.ask_after_resolve(index);
                }
            }
            Decision::Port(decided) => {
                if let Some(question) = self.policy.questions.get_mut(&index) {
                    verdict::add_port(&mut question.verdict, decided);
                }
                self.policy.decisions.insert(index, reply.decision.clone());
                let defer = decided.verdict.defer.map(|s| s.get());
                self.defer(index, defer, &decided.by);
                self.ask_after_port(index);
            }
            Decision::Admit(decided) => {
                if let Some(reason) = &decided.verdict.deny
                    && let Some(question) = self.policy.questions.get_mut(&index)
                {
                    question.verdict.deny = Some(verdict::denial(reason, reply.hook, &decided.by));
                }
                let defer = decided.verdict.defer.map(|s| s.get());
                self.defer(index, defer, &decided.by);
                self.conclude(index);
            }
            Decision::Network(_) | Decision::Observe(_) | Decision::Nothing => {}
        }
    }

    /// "Not now": denied until it is asked again.
    fn defer(&mut self, index: Ifindex, seconds: Option<i64>, by: &BTreeMap<String, String>) {
        let Some(seconds) = seconds.and_then(|s| u64::try_from(s).ok()) else {
            return;
        };
        let at = self.now().plus(Duration::from_secs(seconds));
        self.policy.again.insert(index, at);
        if let Some(question) = self.policy.questions.get_mut(&index)
            && question.verdict.deny.is_none()
        {
            let plugin = by
                .get("defer")
                .and_then(|o| o.split(' ').next())
                .unwrap_or_default()
                .into();
            question.verdict.deny = Some(Denial {
                plugin,
                reason: format!("deferred for {seconds} s").into(),
            });
        }
    }

    fn count(&mut self, reply: &Reply) {
        let tap = match reply.key {
            Subject::Tap(raw) => Ifindex::new(raw),
            _ => None,
        };
        for step in &reply.steps {
            use crate::policy::api::Outcome;
            if step.outcome == Outcome::Skipped {
                continue;
            }
            self.policy.calls += 1;
            let failed = step.outcome.is_failure();
            self.policy.errors += u64::from(failed);
            self.observer
                .metrics
                .hook(reply.hook.word(), step.outcome.word(), step.elapsed_us);
            if let Some(error) = step.error.as_deref().filter(|_| failed) {
                let ifindex = tap.map_or(0, Ifindex::get);
                tracing::warn!(target: "policy", plugin = %step.plugin, hook = reply.hook.word(), ifindex, error, "plugin failed");
            }
            if let Some(index) = tap {
                let verdict = match &step.error {
                    Some(error) => format!("{}: {error}", step.outcome.word()),
                    None => step.outcome.word().to_owned(),
                };
                let now = self.now();
                let cause = self.engine.tap(index).map_or(0, |t| t.cause.0);
                let name = self
                    .engine
                    .tap(index)
                    .map(|t| t.name.to_string())
                    .unwrap_or_default();
                self.observer.policy_step(
                    now,
                    cause,
                    index,
                    &name,
                    &step.plugin,
                    reply.hook.word(),
                    &verdict,
                    step.elapsed_us,
                );
                let said = Said {
                    hook: reply.hook,
                    step: step.clone(),
                    verdict,
                };
                self.policy.said.entry(index).or_default().push(said);
            }
        }
        for conflict in &reply.conflicts {
            tracing::warn!(target: "policy", field = %conflict.field, kept = %conflict.kept, refused = %conflict.refused, "plugins disagree");
        }
    }

    fn invalidate(&mut self, decision: &Decision) {
        let Decision::Observe(decided) = decision else {
            return;
        };
        let Some(wanted) = &decided.verdict.invalidate else {
            return;
        };
        let matches = |patterns: &[String], name: &LinkName| {
            patterns
                .iter()
                .any(|p| NamePattern::new(p).is_ok_and(|p| p.matches(name)))
        };
        let taps = self
            .engine
            .taps()
            .filter(|(_, tap)| matches(&wanted.taps.0, &tap.name))
            .map(|(index, _)| index)
            .collect();
        let networks = self
            .engine
            .desired()
            .networks()
            .filter(|n| {
                wanted
                    .networks
                    .0
                    .iter()
                    .any(|w| w == n.id.as_str() || n.name.as_deref() == Some(w.as_str()))
            })
            .map(|n| n.id.clone())
            .collect();
        let now = self.now();
        self.engine.handle(Event::Invalidate { taps, networks }, now);
    }

    /// Timers and second questions that are due.
    pub(super) fn run_policy_timers(&mut self) {
        let now = self.now();
        let due: Vec<Ifindex> = self
            .policy
            .again
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(i, _)| *i)
            .collect();
        if !due.is_empty() {
            for index in &due {
                self.policy.again.remove(index);
            }
            self.engine.handle(
                Event::Invalidate {
                    taps: due,
                    networks: Vec::new(),
                },
                now,
            );
        }
        let mut ticks = Vec::new();
        for (name, every, at) in &mut self.policy.timers {
            if *at <= now {
                *at = now.plus(*every);
                ticks.push(name.clone());
            }
        }
        for name in ticks {
            self.policy.seq += 1;
            let (seq, context) = (self.policy.seq, facts::of_timer(&self.policy.facts));
            self.policy.ask(Subject::Plugin(name), Hook::Tick, seq, context);
        }
    }

    /// Hooks that only watch: `attached`, `detached`, `drift`, `observe`.
    pub(super) fn tell_policy(&mut self, note: &Note) {
        let (port, hook, result) = match &note.what {
            What::Port {
                port,
                state: PortState::Attached,
                attach_us,
                ..
            } => {
                let result = AttachResult {
                    state: "attached".to_owned(),
                    error: None,
                    elapsed_us: attach_us.unwrap_or_default(),
                };
                (port, Hook::Attached, Some(result))
            }
            What::TapGone { port } => {
                if let Some(host) = &self.policy.host {
                    host.forget(&Subject::Tap(port.index.get()));
                }
                self.policy.said.remove(&port.index);
                self.policy.decisions.remove(&port.index);
                self.policy.questions.remove(&port.index);
                self.policy.again.remove(&port.index);
                (port, Hook::Detached, None)
            }
            What::TapChanged { port, .. } => (port, Hook::Observe, None),
            _ => return,
        };
        if !self.policy.has(hook) {
            return;
        }
        let facts = Arc::clone(&self.policy.facts);
        let context = facts::of_port(&self.engine, port.index, hook, port.network.as_ref(), &facts);
        let mut context = context.unwrap_or_default();
        context.result = result;
        self.policy.seq += 1;
        let seq = self.policy.seq;
        self.policy
            .ask(Subject::Tap(port.index.get()), hook, seq, context);
    }

    pub(super) fn policy_counters(&self) -> (u64, u64) {
        (self.policy.calls, self.policy.errors)
    }

    pub(super) fn policy_status(&self) -> PolicyStatus {
        let Some(host) = &self.policy.host else {
            return PolicyStatus::default();
        };
        let status = host.status();
        PolicyStatus {
            generation: Some(format!("{} ({})", status.generation, status.hash)),
            previous: status.rollback.then(|| "kept".to_owned()),
            plugins: status
                .plugins
                .into_iter()
                .map(|plugin| PluginRow {
                    name: plugin.name,
                    path: plugin.file,
                    health: serde_json::to_value(plugin.health)
                        .ok()
                        .and_then(|v| v.as_str().map(str::to_owned))
                        .unwrap_or_default(),
                    hooks: plugin.hooks.iter().map(|h| (*h).to_owned()).collect(),
                    calls: plugin.calls,
                    errors: plugin.failures,
                    last_error: plugin.reason,
                    memory_bytes: plugin.memory_bytes as u64,
                })
                .collect(),
        }
    }

    pub(super) fn port_verdicts(&self, index: Ifindex) -> Vec<Verdict> {
        let said = self
            .policy
            .said
            .get(&index)
            .map(Vec::as_slice)
            .unwrap_or_default();
        said.iter()
            .map(|said| Verdict {
                plugin: said.step.plugin.clone(),
                hook: said.hook.word().to_owned(),
                verdict: said.verdict.clone(),
            })
            .collect()
    }

    /// What the plugins decide for a live tap now; nothing is done.
    pub(super) fn policy_eval(&mut self, port: &str, reply: Answer<Value>) {
        let answer = self
            .find_tap(port)
            .map(|(link, tap)| (link.index, tap.and_then(|t| t.intent.network()).cloned()));
        let (index, network) = match answer {
            Ok(found) => found,
            Err(failure) => {
                let _ = reply.send(Err(failure));
                return;
            }
        };
        let hook = if network.is_some() {
            Hook::Port
        } else {
            Hook::Resolve
        };
        let context = facts::of_port(&self.engine, index, hook, network.as_ref(), &self.policy.facts);
        let (settings, Some(context)) = (self.config.policy.clone(), context) else {
            let _ = reply.send(Err(Failure::new(FailureKind::NotFound, "the tap has just gone")));
            return;
        };
        // On states of its own, so that the answer does not touch the running plugins; and off this thread.
        tokio::task::spawn_blocking(move || {
            let evaluation = tools::eval::eval(&settings, hook, context);
            let _ = reply.send(Ok(evaluation.json));
        });
    }

    pub(super) fn policy_record(&mut self, sink: Sink) -> Result<(), Failure> {
        if self.policy.host.is_none() {
            return Err(Failure::new(FailureKind::Unavailable, "no plugins are loaded"));
        }
        self.policy.recorders.push(sink);
        Ok(())
    }

    /// Tells the engine which questions the plugins want; everything is asked anew.
    pub(super) fn policy_changed(&mut self) {
        let now = self.now();
        self.policy.restart_timers(now);
        let usage = self.policy.usage();
        self.engine.handle(Event::PolicyChanged(usage), now);
    }
}
