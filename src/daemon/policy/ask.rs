//! Questions of the engine, hook by hook, until there is a verdict.

use super::super::reactor::Reactor;
use super::verdict::Resolved;
use super::{Question, facts, verdict};
use crate::desired::verdict::{Denial, PortVerdict};
use crate::engine::event::Event;
use crate::engine::state::PortState;
use crate::model::{Ifindex, NetworkId};
use crate::policy::api::context::Plan;
use crate::policy::api::{Decision, Hook, Reply, Subject};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

impl Reactor {
    /// The engine asks about a tap.
    pub(in crate::daemon) fn ask_port(&mut self, index: Ifindex, ticket: u64) {
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

    pub(in crate::daemon) fn ask_after_resolve(&mut self, index: Ifindex) {
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

    pub(in crate::daemon) fn ask_after_port(&mut self, index: Ifindex) {
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

    pub(in crate::daemon) fn ask_hook(&mut self, index: Ifindex, hook: Hook) {
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

    pub(in crate::daemon) fn conclude(&mut self, index: Ifindex) {
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
    pub(in crate::daemon) fn ask_network(&mut self, id: &NetworkId, ticket: u64) {
        let Some(network) = self.engine.desired().network(id) else {
            return;
        };
        let context = facts::of_network(&self.engine, network, &self.policy.facts);
        self.policy.networks.insert(id.clone(), ticket);
        self.policy
            .ask(Subject::Network(id.to_string()), Hook::Network, ticket, context);
    }

    /// Handles every reply that is there. True if there was one.
    pub(in crate::daemon) fn take_replies(&mut self) -> bool {
        let mut any = false;
        while let Some(reply) = self.policy.take_reply() {
            any = true;
            self.on_reply(reply);
        }
        any
    }

    pub(in crate::daemon) fn on_reply(&mut self, reply: Reply) {
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

    pub(in crate::daemon) fn on_port_reply(&mut self, index: Ifindex, reply: &Reply) {
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
    pub(in crate::daemon) fn defer(
        &mut self,
        index: Ifindex,
        seconds: Option<i64>,
        by: &BTreeMap<String, String>,
    ) {
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
}
