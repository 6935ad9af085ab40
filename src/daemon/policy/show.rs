//! What `status`, `port show`, `policy eval` and `policy record` say of the plugins.

use super::super::reactor::Reactor;
use super::{Unbooked, conflicts, facts};
use crate::control::api::{Failure, FailureKind, PluginRow, PolicyStatus, Reply as Answer, Sink, Verdict};
use crate::model::{Ifindex, LinkName};
use crate::policy::api::{Conflict, Hook, Outcome, Reply, Step, Subject};
use crate::policy::plugin::hostlib::MetricKind;
use crate::policy::status::{Health, PluginStatus, UserMetric};
use crate::policy::{Host, tools};
use crate::telemetry::metrics::{OwnMetric, OwnValue, PluginSnapshot, PolicySnapshot};
use serde_json::Value;
use std::collections::BTreeSet;

fn plugin_snapshot(plugin: PluginStatus) -> PluginSnapshot {
    PluginSnapshot {
        name: plugin.name,
        calls: plugin.by_hook,
        seconds: plugin.total_us as f64 / 1e6,
        remembered: plugin.cached,
        memory_bytes: plugin.memory_bytes as u64,
        queue: plugin.queue as u64,
        abandoned: plugin.abandoned.into(),
        healthy: plugin.health == Health::Ok,
        log_lines_dropped: plugin.log_lines_dropped,
        metrics_dropped: plugin.metrics_dropped,
        own: plugin.metrics.into_iter().map(own_metric).collect(),
    }
}

fn own_metric(metric: UserMetric) -> OwnMetric {
    OwnMetric {
        name: metric.name,
        labels: metric.labels,
        value: match metric.kind {
            MetricKind::Inc => OwnValue::Counter(metric.value),
            MetricKind::Set => OwnValue::Gauge(metric.value),
            MetricKind::Observe => OwnValue::Summary {
                sum: metric.value,
                count: metric.count,
            },
        },
    }
}

impl Reactor {
    /// Counts and shows the replies that were acted on.
    pub(in crate::daemon) fn book_replies(&mut self) {
        if self.policy.unbooked.is_empty() {
            return;
        }
        // Booking asks and answers nothing: none comes in meanwhile.
        let mut unbooked = std::mem::take(&mut self.policy.unbooked);
        for booking in unbooked.drain(..) {
            self.book(&booking);
            if booking.decides {
                self.policy.decided(booking.reply, booking.at);
            }
        }
        self.policy.unbooked = unbooked;
    }

    /// The event that the tap's attach goes back to, as far as the tap is there.
    pub(super) fn cause_of(&self, reply: &Reply) -> u64 {
        let tap = self.tap_of(reply);
        tap.and_then(|index| self.engine.tap(index))
            .map_or(0, |tap| tap.cause.0)
    }

    fn tap_of(&self, reply: &Reply) -> Option<Ifindex> {
        match reply.key {
            Subject::Tap(raw) => Ifindex::new(raw),
            Subject::Network(_) | Subject::Plugin(_) => None,
        }
    }

    fn book(&mut self, booking: &Unbooked) {
        let (reply, hook) = (&booking.reply, booking.reply.hook.word());
        let tap = self.tap_of(reply);
        let name = tap.and_then(|index| Some(self.engine.tap(index)?.name));
        let shown = name.as_ref().map(LinkName::to_text).unwrap_or_default();
        for step in reply.steps.iter().filter(|step| step.outcome != Outcome::Skipped) {
            self.policy.calls += 1;
            self.policy.errors += u64::from(step.outcome.is_failure());
            if !step.cached {
                self.observer
                    .metrics
                    .hook(hook, step.outcome.word(), step.elapsed_us);
            }
            self.tell_failure(reply.hook, step, tap);
            let Some(index) = tap else { continue };
            let verdict = match &step.error {
                Some(error) => format!("{}: {error}", step.outcome.word()),
                None => step.outcome.word().to_owned(),
            };
            tracing::debug_span!(target: "policy", "hook", cause = booking.cause, ifindex = index.get(), ifname = &*shown,
                plugin = %step.plugin, hook, verdict, elapsed_us = step.elapsed_us)
            .in_scope(|| {});
            self.observer.policy_step(
                booking.at,
                booking.cause,
                index,
                &shown,
                &step.plugin,
                hook,
                &verdict,
                step.elapsed_us,
            );
            if name.is_some() {
                self.policy.say(index, reply.hook, &step.plugin, verdict);
            }
        }
        match (tap, name) {
            // What came for a tap that has gone meanwhile would stay for ever.
            (Some(_), None) => self.policy.forget(&reply.key),
            _ => self.note_failed(reply),
        }
        for conflict in reply.conflicts.iter() {
            self.tell_conflict(booking, conflict, tap);
        }
    }

    fn note_failed(&mut self, reply: &Reply) {
        if !matches!(reply.hook, Hook::Resolve | Hook::Network | Hook::Port) {
            return;
        }
        let failed = reply.steps.iter().filter(|step| step.outcome.is_failure());
        let failed: BTreeSet<String> = failed.map(|step| step.plugin.clone()).collect();
        let id = (reply.key.clone(), reply.hook);
        if !failed.is_empty() {
            self.policy.failed.insert(id, failed);
        } else if !self.policy.failed.is_empty() {
            self.policy.failed.remove(&id);
        }
    }

    /// To `explain`, `status` and the log; there once, not with every tap.
    fn tell_conflict(&mut self, booking: &Unbooked, conflict: &Conflict, tap: Option<Ifindex>) {
        let (reply, at, cause) = (&booking.reply, booking.at, booking.cause);
        let (field, kept, refused) = (&conflict.field, &conflict.kept, &conflict.refused);
        let known = tap.and_then(|index| Some((index, self.engine.tap(index)?)));
        let subject = match (&reply.key, known) {
            (_, Some((_, tap))) => tap.name.to_string(),
            (Subject::Network(id) | Subject::Plugin(id), None) => id.clone(),
            (Subject::Tap(raw), None) => raw.to_string(),
        };
        if let Some((index, _)) = known {
            let text = format!("conflict in {field}: {}", conflicts::words(kept, refused));
            let plugin = refused.split(' ').next().unwrap_or_default();
            self.observer
                .policy_step(at, cause, index, &subject, plugin, reply.hook.word(), &text, 0);
        }
        if self.policy.conflicts.note(conflict, &subject) {
            tracing::warn!(target: "policy", %field, %kept, %refused, subject, "plugins disagree");
        } else {
            tracing::debug!(target: "policy", %field, %kept, %refused, subject, "plugins disagree again");
        }
    }

    /// The first failure of a row, and its end: a plugin that fails for every tap must not fill the log.
    fn tell_failure(&mut self, hook: Hook, step: &Step, tap: Option<Ifindex>) {
        let ifindex = tap.map_or(0, Ifindex::get);
        let (plugin, word) = (step.plugin.as_str(), hook.word());
        if step.outcome.is_failure() {
            let error = step.error.as_deref().unwrap_or_default();
            if self.policy.failing.insert((plugin.to_owned(), hook)) {
                tracing::warn!(target: "policy", plugin, hook = word, ifindex, error, fallback = step.fallback.word(), "plugin failed");
            } else {
                tracing::debug!(target: "policy", plugin, hook = word, ifindex, error, fallback = step.fallback.word(), "plugin failed again");
            }
        } else if !self.policy.failing.is_empty() && self.policy.failing.remove(&(plugin.to_owned(), hook)) {
            tracing::info!(target: "policy", plugin, hook = word, "plugin answers again");
        }
    }

    pub(in crate::daemon) fn policy_counters(&self) -> (u64, u64) {
        (self.policy.calls, self.policy.errors)
    }

    pub(in crate::daemon) fn policy_status(&self) -> PolicyStatus {
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
            conflicts: self.policy.conflicts.lines(),
        }
    }

    /// For a scrape.
    pub(in crate::daemon) fn policy_snapshot(&self) -> PolicySnapshot {
        let status = self.policy.host.as_ref().map(Host::status);
        PolicySnapshot {
            generation: status.as_ref().map(|s| (s.generation, s.hash.clone())),
            plugins: status
                .into_iter()
                .flat_map(|status| status.plugins)
                .map(plugin_snapshot)
                .collect(),
            conflicts: self.policy.conflicts.counts(),
            reloads: self.policy_reloads.iter().map(|(k, n)| (*k, *n)).collect(),
        }
    }

    pub(in crate::daemon) fn port_verdicts(&self, index: Ifindex) -> Vec<Verdict> {
        let said = self
            .policy
            .said
            .get(&index)
            .map(Vec::as_slice)
            .unwrap_or_default();
        said.iter()
            .map(|said| Verdict {
                plugin: said.plugin.clone(),
                hook: said.hook.word().to_owned(),
                verdict: said.verdict.clone(),
            })
            .collect()
    }

    /// What the plugins decide for a live tap now; nothing is done.
    pub(in crate::daemon) fn policy_eval(&mut self, port: &str, reply: Answer<Value>) {
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

    pub(in crate::daemon) fn policy_record(&mut self, sink: Sink) -> Result<(), Failure> {
        if self.policy.host.is_none() {
            return Err(Failure::new(FailureKind::Unavailable, "no plugins are loaded"));
        }
        self.policy.recorders.push(sink);
        Ok(())
    }
}
