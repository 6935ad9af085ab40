//! Questions of the engine, hook by hook, until there is a verdict.

use super::super::account::Account;
use super::super::reactor::Reactor;
use super::verdict::Resolved;
use super::{Again, Policy, Question, Unbooked, facts, verdict};
use crate::desired::verdict::{Denial, PortVerdict};
use crate::engine::Engine;
use crate::engine::event::{Event, Why};
use crate::engine::state::PortState;
use crate::model::{Ifindex, NetworkId, Time};
use crate::policy::api::context::{Plan, Reason};
use crate::policy::api::{Decision, Fallback, Hook, Reply, Subject};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn reason(why: Why) -> Reason {
    match why {
        Why::New => Reason::New,
        Why::Change => Reason::Change,
        Why::Resync => Reason::Resync,
        Why::Reload => Reason::Reload,
        Why::Invalidate => Reason::Invalidate,
    }
}

impl Reactor {
    pub(in crate::daemon) fn asking(&mut self) -> Asking<'_> {
        let now = self.now();
        Asking {
            engine: &mut self.engine,
            account: Some(&mut self.account),
            policy: &mut self.policy,
            now,
        }
    }

    /// Handles the replies that needed no script.
    pub(in crate::daemon) fn take_ready_replies(&mut self) {
        while let Some(reply) = self.policy.ready.pop_front() {
            self.on_reply(reply);
        }
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

    /// What the reply leads to goes first; it is booked when that is done.
    pub(in crate::daemon) fn on_reply(&mut self, reply: Reply) {
        self.policy.record(&reply);
        self.policy.fresh.take_if(|(ticket, _)| *ticket == reply.seq);
        let (at, cause) = (self.now(), self.cause_of(&reply));
        let decides = self.asking().on_reply(&reply);
        self.policy.unbooked.push(Unbooked {
            at,
            cause,
            decides,
            reply,
        });
    }
}

/// The engine and the plugins at one moment: the daemon's, or those of a replay.
pub(in crate::daemon) struct Asking<'a> {
    pub engine: &'a mut Engine,
    /// A replay keeps none.
    pub account: Option<&'a mut Account>,
    pub policy: &'a mut Policy,
    pub now: Time,
}

impl Asking<'_> {
    pub(super) fn hear(&mut self, event: Event, at: Time) {
        Account::hear_if_kept(self.account.as_deref_mut(), self.engine, event, at);
    }

    /// The engine asks about a tap.
    pub(in crate::daemon) fn ask_port(&mut self, index: Ifindex, ticket: u64, why: Why) {
        self.policy.stir();
        let mapping = self
            .engine
            .observed()
            .link(index)
            .and_then(|l| self.engine.desired().mapping_for(&l.name));
        let network = mapping.map(|m| m.network.clone());
        let unmapped = network.is_none();
        let question = Question {
            ticket,
            why,
            network,
            verdict: PortVerdict::default(),
            said: None,
        };
        self.policy.questions.insert(index, question);
        self.policy.said.remove(&index);
        self.policy.again.remove(&Again::Tap(index));
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
        let context = facts::of_port(self.engine, index, hook, question.network.as_ref(), &facts);
        let Some(mut context) = context else {
            self.policy.questions.remove(&index);
            return;
        };
        if hook == Hook::Admit {
            let operations = self
                .engine
                .preview_port(index, &question.verdict, question.network.as_ref());
            let by = match question.said.as_deref() {
                Some(Decision::Port(said)) => &said.by,
                _ => &BTreeMap::new(),
            };
            context.plan = Some(Plan {
                changes: facts::changes(self.engine, index, &operations, by),
                operations: operations.iter().map(ToString::to_string).collect(),
            });
        }
        context.reason = reason(question.why);
        self.policy.tag(&mut context, question.network.as_ref());
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
        let now = self.now;
        self.hear(
            Event::PortVerdict {
                index,
                ticket: question.ticket,
                verdict: Box::new(verdict),
            },
            now,
        );
    }

    /// The engine asks about a network.
    pub(in crate::daemon) fn ask_network(&mut self, id: &NetworkId, ticket: u64, why: Why) {
        let Some(network) = self.engine.desired().network(id) else {
            return;
        };
        let mut context = facts::of_network(self.engine, network, &self.policy.facts);
        context.reason = reason(why);
        self.policy.networks.insert(id.clone(), ticket);
        self.policy.again.remove(&Again::Network(id.clone()));
        self.policy
            .ask(Subject::Network(id.to_string()), Hook::Network, ticket, context);
    }

    /// True: it is a decision from now on, to be noted with `Policy::decided`.
    #[must_use]
    pub(in crate::daemon) fn on_reply(&mut self, reply: &Reply) -> bool {
        match (&reply.key, reply.hook) {
            (Subject::Tap(raw), Hook::Resolve | Hook::Port | Hook::Admit) => {
                Ifindex::new(*raw).is_some_and(|index| self.on_port_reply(index, reply))
            }
            (Subject::Network(text), Hook::Network) => {
                NetworkId::new(text).is_ok_and(|id| self.on_network_reply(id, reply))
            }
            (_, Hook::Observe | Hook::Tick) => {
                self.invalidate(&reply.decision);
                false
            }
            _ => false,
        }
    }

    fn on_network_reply(&mut self, id: NetworkId, reply: &Reply) -> bool {
        let Decision::Network(decided) = &*reply.decision else {
            return false;
        };
        if self.policy.networks.get(&id) != Some(&reply.seq) {
            return false;
        }
        let now = self.now;
        if let Some(after) = reply.retry_after {
            self.policy
                .again
                .insert(Again::Network(id.clone()), now.plus(after));
        }
        let mut verdict = verdict::network(decided);
        // A plugin without an answer that must have one: the network waits, as a port would be denied.
        let failed = reply.steps.iter().find(|step| step.fallback == Fallback::Deny);
        verdict.deny = failed.map(|step| Denial {
            plugin: step.plugin.as_str().into(),
            reason: format!("hook network: {}", step.error.as_deref().unwrap_or_default()).into(),
        });
        let tags = &decided.verdict.tags;
        let retagged = self.policy.tags.get(&id).unwrap_or(&BTreeMap::new()) != tags;
        let users = self.engine.segment(&id).map(|segment| segment.users.iter());
        let taps: Vec<Ifindex> = users
            .into_iter()
            .flatten()
            .copied()
            .filter(|_| retagged)
            .collect();
        if tags.is_empty() {
            self.policy.tags.remove(&id);
        } else if retagged {
            self.policy.tags.insert(id.clone(), tags.clone());
        }
        let event = Event::NetworkVerdict {
            network: id,
            ticket: reply.seq,
            verdict: Box::new(verdict),
        };
        self.hear(event, now);
        if !taps.is_empty() {
            // Their answers may have been made without the tags.
            let networks = Vec::new();
            self.hear(Event::Invalidate { taps, networks }, now);
        }
        true
    }

    fn on_port_reply(&mut self, index: Ifindex, reply: &Reply) -> bool {
        let current = self
            .policy
            .questions
            .get(&index)
            .is_some_and(|q| q.ticket == reply.seq);
        if !current {
            return false;
        }
        if let Some(after) = reply.retry_after {
            let at = self.now.plus(after);
            self.policy.again.insert(Again::Tap(index), at);
        }
        match &*reply.decision {
            Decision::Resolve(decided) => {
                let resolved = verdict::resolved(self.engine.desired(), &decided.verdict);
                let network = match resolved {
                    Ok(Some(Resolved::Known(id))) => Some(id),
                    Ok(Some(Resolved::New(network))) => {
                        let id = network.id.clone();
                        let now = self.now;
                        self.hear(Event::SetNetwork(network), now);
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
                true
            }
            Decision::Port(decided) => {
                if let Some(question) = self.policy.questions.get_mut(&index) {
                    verdict::add_port(&mut question.verdict, decided);
                    question.said = Some(Arc::clone(&reply.decision));
                }
                let defer = decided.verdict.defer.map(|s| s.get());
                self.defer(index, defer, &decided.by);
                self.ask_after_port(index);
                true
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
                // Asked for each attach anew: nothing to compare a reload with.
                false
            }
            Decision::Network(_) | Decision::Observe(_) | Decision::Nothing => false,
        }
    }

    /// "Not now": denied until it is asked again.
    fn defer(&mut self, index: Ifindex, seconds: Option<i64>, by: &BTreeMap<String, String>) {
        let Some(seconds) = seconds.and_then(|s| u64::try_from(s).ok()) else {
            return;
        };
        let at = self.now.plus(Duration::from_secs(seconds));
        self.policy.again.insert(Again::Tap(index), at);
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
