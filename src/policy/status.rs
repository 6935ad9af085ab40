//! How policy is doing: what `status` shows and metrics export.

use super::api::{Hook, Outcome};
use super::plugin::hostlib::{Metric, MetricKind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything `tapwire status` says about plugins.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// Counts reloads; in every reply, log line and metric of policy.
    pub generation: u64,
    /// Of all sources and options: "did my change apply?"
    pub hash: String,
    /// A generation to go back to is kept.
    pub rollback: bool,
    pub threads: usize,
    pub plugins: Vec<PluginStatus>,
    /// Plugins with `required = false` that could not be loaded.
    pub left_out: Vec<String>,
}

/// One plugin in `status`.
#[derive(Debug, Clone, Serialize)]
pub struct PluginStatus {
    pub name: String,
    pub file: String,
    pub health: Health,
    /// Why it is not healthy.
    pub reason: Option<String>,
    pub hooks: Vec<&'static str>,
    pub calls: u64,
    /// Answers from memory, not counted as calls.
    pub cached: u64,
    pub failures: u64,
    /// Calls by how they ended.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Microseconds in all calls, and in the longest.
    pub total_us: u64,
    pub max_us: u64,
    /// Bytes its Lua state held after the last call.
    pub memory_bytes: usize,
    pub queue: usize,
    /// Threads lost to calls that did not come back.
    pub abandoned: u32,
    pub log_lines_dropped: u64,
    /// Calls by hook and how they ended.
    pub by_hook: Vec<(&'static str, &'static str, u64)>,
    /// `host.metric`.
    pub metrics: Vec<UserMetric>,
    /// Statements of `host.metric` that were dropped: too many series, or another kind than before.
    pub metrics_dropped: u64,
}

/// One series of `host.metric`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UserMetric {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub kind: MetricKind,
    /// What `inc` counted, what was `set` last, the sum of what was observed.
    pub value: f64,
    /// Statements so far.
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Ok,
    /// Its file can't be loaded: it runs as it was when it last was in force.
    LastGood,
    /// Some hook is not called for a while, because it failed too often.
    Suspended,
    /// Not called any more until the next reload.
    Disabled,
}

/// Series a plugin may create; more are dropped.
const MAX_SERIES: usize = 64;

/// One plugin's counters.
#[derive(Debug, Default)]
pub struct Counters {
    pub by_outcome: BTreeMap<(Hook, Outcome), u64>,
    pub cached: u64,
    pub total: Duration,
    pub max: Duration,
    pub memory: usize,
    pub last_error: Option<String>,
    pub lines_dropped: u64,
    pub metrics: BTreeMap<(String, BTreeMap<String, String>), UserMetric>,
    pub metrics_dropped: u64,
    /// Lines in the current second, for the rate limit.
    lines: (u64, u32),
}

/// Log lines a plugin may write per second.
const MAX_LINES_PER_SECOND: u32 = 100;

impl Counters {
    pub fn new(memory: usize) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }
    pub fn count(&mut self, hook: Hook, outcome: Outcome, elapsed: Duration) {
        *self.by_outcome.entry((hook, outcome)).or_default() += 1;
        self.total += elapsed;
        self.max = self.max.max(elapsed);
    }
    pub fn calls(&self) -> u64 {
        self.by_outcome
            .iter()
            .filter(|((_, o), _)| *o != Outcome::Tripped)
            .map(|(_, n)| n)
            .sum()
    }
    pub fn failures(&self) -> u64 {
        self.by_outcome
            .iter()
            .filter(|((_, o), _)| o.is_failure() && *o != Outcome::Tripped)
            .map(|(_, n)| n)
            .sum()
    }
    /// How many of `wanted` log lines may be written in second `second` of the process.
    pub fn admit_lines(&mut self, wanted: usize, second: u64) -> usize {
        if self.lines.0 != second {
            self.lines = (second, 0);
        }
        let room = MAX_LINES_PER_SECOND.saturating_sub(self.lines.1);
        let taken = u32::try_from(wanted).unwrap_or(u32::MAX).min(room);
        self.lines.1 += taken;
        self.lines_dropped += (wanted as u64).saturating_sub(u64::from(taken));
        taken as usize
    }
    pub fn add_metrics(&mut self, metrics: Vec<Metric>) {
        for metric in metrics {
            let same_name = |(name, _): &(String, BTreeMap<String, String>)| *name == metric.name;
            let kind = self
                .metrics
                .iter()
                .find(|(key, _)| same_name(key))
                .map(|(_, m)| m.kind);
            let key = (metric.name.clone(), metric.labels.clone());
            let full = self.metrics.len() >= MAX_SERIES && !self.metrics.contains_key(&key);
            if full || kind.is_some_and(|kind| kind != metric.kind) {
                self.metrics_dropped += 1;
                continue;
            }
            let series = self.metrics.entry(key).or_insert_with(|| UserMetric {
                name: metric.name,
                labels: metric.labels,
                kind: metric.kind,
                value: 0.0,
                count: 0,
            });
            series.count += 1;
            match metric.kind {
                MetricKind::Inc | MetricKind::Observe => series.value += metric.value,
                MetricKind::Set => series.value = metric.value,
            }
        }
    }
}
