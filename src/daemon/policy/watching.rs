//! Hooks that decide nothing: what happened, timers, and what they want looked at again.

use super::ask::Asking;
use super::{Again, facts};
use crate::engine::event::Event;
use crate::engine::note::{Note, TapChange, What};
use crate::engine::state::{PortLabel, PortState};
use crate::model::{LinkName, NamePattern};
use crate::policy::api::context::{AttachResult, Difference};
use crate::policy::api::{Context, Decision, Hook, Subject};
use std::sync::Arc;

impl Asking<'_> {
    pub(in crate::daemon) fn invalidate(&mut self, decision: &Decision) {
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
        let now = self.now;
        self.hear(Event::Invalidate { taps, networks }, now);
    }

    /// Timers and second questions that are due.
    pub(in crate::daemon) fn run_policy_timers(&mut self) {
        let now = self.now;
        let (mut taps, mut networks) = (Vec::new(), Vec::new());
        self.policy.again.retain(|whom, at| {
            if *at > now {
                return true;
            }
            match whom {
                Again::Tap(index) => taps.push(*index),
                Again::Network(id) => networks.push(id.clone()),
            }
            false
        });
        if !taps.is_empty() || !networks.is_empty() {
            self.hear(Event::Invalidate { taps, networks }, now);
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

    /// Something happened to a lease; `tap`: behind which it is, if that is known.
    pub(in crate::daemon) fn tell_policy_lease(
        &mut self,
        lease: &crate::service::Lease,
        tap: Option<crate::model::Ifindex>,
    ) {
        if !self.policy.has(Hook::Lease) {
            return;
        }
        let host = Arc::clone(&self.policy.facts);
        let of_tap =
            tap.and_then(|i| facts::of_port(self.engine, i, Hook::Lease, Some(&lease.network), &host));
        let context = of_tap.or_else(|| {
            let network = self.engine.desired().network(&lease.network)?;
            Some(facts::of_network(self.engine, network, &host))
        });
        let mut context = context.unwrap_or_default();
        context.lease = Some(crate::policy::api::context::Lease {
            what: lease.what.word().to_owned(),
            address: lease.address.to_string(),
            mac: lease.mac.map(|mac| mac.to_string()),
            hostname: lease.hostname.clone(),
            expires_in: lease.expires_in,
        });
        self.policy.seq += 1;
        let seq = self.policy.seq;
        let subject = match tap {
            Some(index) => Subject::Tap(index.get()),
            None => Subject::Network(lease.network.to_string()),
        };
        self.policy.ask(subject, Hook::Lease, seq, context);
    }

    /// Hooks that only watch: `attached`, `detached`, `drift`, `observe`.
    pub(in crate::daemon) fn tell_policy(&mut self, note: &Note) {
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
                for hook in [Hook::Resolve, Hook::Port] {
                    self.policy
                        .decisions
                        .remove(&(Subject::Tap(port.index.get()), hook));
                }
                self.policy.questions.remove(&port.index);
                self.policy.again.remove(&Again::Tap(port.index));
                (port, Hook::Detached, None)
            }
            What::TapChanged { port, change } => {
                let attached = self.engine.tap(port.index).is_some_and(|t| t.attach_us.is_some());
                let diff = difference(change);
                if attached && !diff.is_empty() {
                    self.tell_hook(port, Hook::Drift, |context| context.diff = diff);
                }
                (port, Hook::Observe, None)
            }
            _ => return,
        };
        self.tell_hook(port, hook, |context| context.result = result);
    }

    fn tell_hook(&mut self, port: &PortLabel, hook: Hook, add: impl FnOnce(&mut Context)) {
        if !self.policy.has(hook) {
            return;
        }
        let facts = Arc::clone(&self.policy.facts);
        let context = facts::of_port(self.engine, port.index, hook, port.network.as_ref(), &facts);
        let mut context = context.unwrap_or_default();
        self.policy.tag(&mut context, port.network.as_ref());
        add(&mut context);
        self.policy.seq += 1;
        let seq = self.policy.seq;
        self.policy
            .ask(Subject::Tap(port.index.get()), hook, seq, context);
    }
}

/// What somebody changed and what is put right again: bridge and MTU. A link that is set down is left so.
fn difference(change: &TapChange) -> Vec<Difference> {
    let name = |link: Option<LinkName>| link.map_or_else(|| "none".to_owned(), |l| l.to_string());
    let row = |field: &str, have: String, want: String| Difference {
        field: field.to_owned(),
        have: Some(have.into()),
        want: Some(want.into()),
        ..Difference::default()
    };
    let master = change
        .master
        .map(|(before, now)| row("master", name(now), name(before)));
    let mtu = change
        .mtu
        .map(|(before, now)| row("mtu", now.to_string(), before.to_string()));
    master.into_iter().chain(mtu).collect()
}
