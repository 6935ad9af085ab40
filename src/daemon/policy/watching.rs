//! Hooks that decide nothing: what happened, timers, and what they want looked at again.

use super::ask::Asking;
use super::{Again, facts};
use crate::engine::event::Event;
use crate::engine::note::{Note, TapChange, What};
use crate::engine::state::{PortLabel, PortState, Tap};
use crate::model::{Ifindex, Link, LinkName, NamePattern, NetworkId};
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

    /// What is to be done so that the last good answers outlive the daemon, if some changed.
    pub(in crate::daemon) fn keep_answers(&mut self) -> Option<impl FnOnce() + Send + use<> + 'static> {
        self.policy.keep_at.take()?;
        let engine = &*self.engine;
        let name = |subject: &Subject| match subject {
            Subject::Tap(raw) => {
                let tap = engine.tap(Ifindex::new(*raw)?)?;
                Some(tap.name.to_string().into_boxed_str())
            }
            Subject::Network(_) | Subject::Plugin(_) => Some(Box::default()),
        };
        self.policy.host.as_ref()?.keep_answers(&name)
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
        if self.policy.keep_at.is_some_and(|at| at <= now)
            && let Some(keep) = self.keep_answers()
            && let Err(error) = std::thread::Builder::new().name("policy-keep".into()).spawn(keep)
        {
            tracing::warn!(target: "policy", %error, "no thread to keep the plugins' answers");
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
        match &note.what {
            What::Port {
                port,
                state: PortState::Attached,
                attach_us,
                ..
            } => {
                if let Some(network) = port.network.as_ref().filter(|_| self.policy.has(Hook::Detached)) {
                    self.policy.attached.insert(port.index, network.clone());
                }
                let result = AttachResult {
                    state: "attached".to_owned(),
                    error: None,
                    elapsed_us: attach_us.unwrap_or_default(),
                };
                self.tell_hook(port, Hook::Attached, |context| context.result = Some(result));
            }
            What::Port { port, state, .. } => self.tell_if_detached(port, state),
            What::TapGone { port, link } => {
                self.policy.forget(&Subject::Tap(port.index.get()));
                self.policy.said.remove(&port.index);
                for hook in [Hook::Resolve, Hook::Port] {
                    let id = (Subject::Tap(port.index.get()), hook);
                    self.policy.decisions.remove(&id);
                    self.policy.failed.remove(&id);
                }
                self.policy.questions.remove(&port.index);
                self.policy.again.remove(&Again::Tap(port.index));
                if let Some(network) = self.policy.attached.remove(&port.index) {
                    self.tell_detached(port, link.as_deref(), network);
                }
            }
            What::TapChanged { port, change } => {
                let attached = self.engine.tap(port.index).is_some_and(|t| t.attach_us.is_some());
                if attached && self.policy.has(Hook::Drift) {
                    let diff = self.difference(port, change);
                    if !diff.is_empty() {
                        self.tell_hook(port, Hook::Drift, |context| context.diff = diff);
                    }
                }
                self.tell_hook(port, Hook::Observe, |_| ());
            }
            _ => {}
        }
    }

    /// A port that left its bridge, and is not on the way back to it.
    fn tell_if_detached(&mut self, port: &PortLabel, state: &PortState) {
        let link = self.engine.observed().link(port.index);
        let left = link.is_none_or(|link| link.master.is_none());
        if *state != PortState::Configuring
            && left
            && let Some(network) = self.policy.attached.remove(&port.index)
        {
            self.tell_detached(port, None, network);
        }
    }

    fn tell_detached(&mut self, port: &PortLabel, link: Option<&Link>, network: NetworkId) {
        let port = PortLabel {
            network: Some(network),
            ..port.clone()
        };
        let facts = Arc::clone(&self.policy.facts);
        let context =
            link.map(|link| facts::of_link(self.engine, link, Hook::Detached, port.network.as_ref(), &facts));
        self.tell(&port, Hook::Detached, context, |_| ());
    }

    fn tell_hook(&mut self, port: &PortLabel, hook: Hook, add: impl FnOnce(&mut Context)) {
        self.tell(port, hook, None, add);
    }

    /// `context`: of a link that is gone.
    fn tell(
        &mut self,
        port: &PortLabel,
        hook: Hook,
        context: Option<Context>,
        add: impl FnOnce(&mut Context),
    ) {
        if !self.policy.has(hook) {
            return;
        }
        let facts = Arc::clone(&self.policy.facts);
        let now = || facts::of_port(self.engine, port.index, hook, port.network.as_ref(), &facts);
        // What happened to a link that has gone since is not told; that it has gone is.
        let Some(mut context) = context.or_else(now) else {
            return;
        };
        self.policy.tag(&mut context, port.network.as_ref());
        add(&mut context);
        self.policy.seq += 1;
        let seq = self.policy.seq;
        self.policy
            .ask(Subject::Tap(port.index.get()), hook, seq, context);
    }

    /// What somebody changed and what is put right again, bridge and MTU, and who wants it so. A link that is set down is
    /// left so.
    fn difference(&self, port: &PortLabel, change: &TapChange) -> Vec<Difference> {
        let name = |link: Option<LinkName>| link.map_or_else(|| "none".to_owned(), |l| l.to_string());
        let network = port.network.as_ref();
        let mut rows = Vec::new();
        if let Some((before, now)) = change.master {
            let network = network.and_then(|id| self.engine.desired().network(id));
            let bridge = network.and_then(|network| self.engine.desired().bridge_name(network));
            rows.push(Difference {
                field: "master".to_owned(),
                have: Some(name(now).into()),
                want: Some(name(bridge.or(before)).into()),
                by: None,
            });
        }
        let verdict = self.engine.tap(port.index).and_then(Tap::verdict);
        let decided = verdict.and_then(|verdict| verdict.mtu);
        let segment = network.and_then(|id| self.engine.segment(id)?.mtu);
        // An MTU that nobody asked for is the other's business.
        if let (Some((_, now)), Some(want)) = (change.mtu, decided.or(segment))
            && want.get() != now
        {
            let id = (Subject::Tap(port.index.get()), Hook::Port);
            let by = match self.policy.decisions.get(&id).map(Arc::as_ref) {
                Some(Decision::Port(said)) if decided.is_some() => said.by.get("mtu").cloned(),
                _ => None,
            };
            rows.push(Difference {
                field: "mtu".to_owned(),
                have: Some(now.into()),
                want: Some(want.get().into()),
                by,
            });
        }
        rows
    }
}
