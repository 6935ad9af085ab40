//! What plugins do, and the metrics they make themselves (`host.metric`): names and labels that are only known at scrape
//! time, so written as text and not kept in a registry. Nothing without plugins.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The plugins at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub struct PolicySnapshot {
    /// Number and hash of the generation that runs.
    pub generation: Option<(u64, String)>,
    pub plugins: Vec<PluginSnapshot>,
    /// Fields about which plugins disagreed, since the start.
    pub conflicts: Vec<(String, u64)>,
    /// Reloads by result, since the start.
    pub reloads: Vec<(&'static str, u64)>,
}

/// One plugin of the running generation; counters start anew with every generation.
#[derive(Debug, Clone, Default)]
pub struct PluginSnapshot {
    pub name: String,
    /// Calls by hook and outcome.
    pub calls: Vec<(&'static str, &'static str, u64)>,
    pub seconds: f64,
    pub remembered: u64,
    pub memory_bytes: u64,
    pub queue: u64,
    pub abandoned: u64,
    pub healthy: bool,
    pub log_lines_dropped: u64,
    pub metrics_dropped: u64,
    pub own: Vec<OwnMetric>,
}

/// A series of `host.metric`.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnMetric {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: OwnValue,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OwnValue {
    Counter(f64),
    Gauge(f64),
    Summary { sum: f64, count: u64 },
}

impl OwnValue {
    fn kind(self) -> &'static str {
        match self {
            OwnValue::Counter(_) => "counter",
            OwnValue::Gauge(_) => "gauge",
            OwnValue::Summary { .. } => "summary",
        }
    }
}

struct Page<'a>(&'a mut String);

impl Page<'_> {
    /// `samples`: labels and values.
    fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'static str, String)>, f64)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        self.head(name, kind, help);
        for (labels, value) in samples {
            let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
            self.sample(name, labels, value);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string can't fail, here and below.
        let _ = writeln!(
            self.0,
            "# HELP tapwire_{name} {help}.\n# TYPE tapwire_{name} {kind}"
        );
    }

    fn sample<'b>(&mut self, name: &str, labels: impl Iterator<Item = (&'b str, &'b str)>, value: f64) {
        let _ = write!(self.0, "tapwire_{name}");
        let mut before = '{';
        for (label, text) in labels {
            let _ = write!(self.0, "{before}{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
            before = ',';
        }
        let end = if before == ',' { "}" } else { "" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

/// Appends everything about plugins to a page in the text format.
pub fn write(page: &mut String, now: &PolicySnapshot) {
    let mut page = Page(page);
    let generation = now.generation.iter().map(|(number, hash)| {
        (
            vec![("generation", number.to_string()), ("hash", hash.clone())],
            1.0,
        )
    });
    page.family(
        "policy_generation_info",
        "gauge",
        "Always 1; the labels are the generation of plugins that runs",
        generation,
    );
    let calls = now.plugins.iter().flat_map(|plugin| {
        plugin.calls.iter().map(|(hook, outcome, count)| {
            let labels = vec![
                ("plugin", plugin.name.clone()),
                ("hook", (*hook).to_owned()),
                ("outcome", (*outcome).to_owned()),
            ];
            (labels, *count as f64)
        })
    });
    page.family(
        "policy_hook_total",
        "counter",
        "Calls of a plugin's hooks by outcome",
        calls,
    );
    type Read = fn(&PluginSnapshot) -> f64;
    let numbers: [(&str, &str, &str, Read); 8] = [
        (
            "policy_hook_seconds_total",
            "counter",
            "Time in a plugin's hooks",
            |p| p.seconds,
        ),
        (
            "policy_remembered_total",
            "counter",
            "Questions answered from memory, without a call",
            |p| p.remembered as f64,
        ),
        (
            "policy_memory_bytes",
            "gauge",
            "Held by a plugin's Lua state",
            |p| p.memory_bytes as f64,
        ),
        (
            "policy_queue_depth",
            "gauge",
            "Questions that wait for a plugin",
            |p| p.queue as f64,
        ),
        (
            "policy_threads_abandoned_total",
            "counter",
            "Threads lost to calls that did not come back",
            |p| p.abandoned as f64,
        ),
        (
            "policy_healthy",
            "gauge",
            "0 while a plugin is suspended or disabled",
            |p| f64::from(u8::from(p.healthy)),
        ),
        (
            "policy_log_lines_dropped_total",
            "counter",
            "Log lines beyond a plugin's limits",
            |p| p.log_lines_dropped as f64,
        ),
        (
            "policy_metrics_dropped_total",
            "counter",
            "Statements about a plugin's own metrics that were dropped: too many series, or another kind than before",
            |p| p.metrics_dropped as f64,
        ),
    ];
    for (name, kind, help, read) in numbers {
        let samples = now
            .plugins
            .iter()
            .map(|plugin| (vec![("plugin", plugin.name.clone())], read(plugin)));
        page.family(name, kind, help, samples);
    }
    let conflicts = now
        .conflicts
        .iter()
        .map(|(field, count)| (vec![("field", field.clone())], *count as f64));
    page.family(
        "policy_conflicts_total",
        "counter",
        "Answers in which plugins disagreed about a field",
        conflicts,
    );
    let reloads = now
        .reloads
        .iter()
        .map(|(result, count)| (vec![("result", (*result).to_owned())], *count as f64));
    page.family(
        "policy_reload_total",
        "counter",
        "Reloads of the plugins by result",
        reloads,
    );
    own(&mut page, &now.plugins);
}

/// `tapwire_policy_user_NAME`. A name that two plugins use for different kinds is the first one's.
fn own(page: &mut Page<'_>, plugins: &[PluginSnapshot]) {
    let mut families: BTreeMap<String, Vec<(&str, &OwnMetric)>> = BTreeMap::new();
    for plugin in plugins {
        for metric in &plugin.own {
            let suffix = match metric.value {
                OwnValue::Counter(_) => "_total",
                OwnValue::Gauge(_) | OwnValue::Summary { .. } => "",
            };
            let name = format!("policy_user_{}{suffix}", metric.name);
            let family = families.entry(name).or_default();
            if family
                .first()
                .is_none_or(|(_, first)| first.value.kind() == metric.value.kind())
            {
                family.push((&plugin.name, metric));
            }
        }
    }
    for (name, series) in &families {
        let Some((_, first)) = series.first() else {
            continue;
        };
        page.head(name, first.value.kind(), "From a plugin's host.metric");
        for (plugin, metric) in series {
            let labels = || {
                let own = metric
                    .labels
                    .iter()
                    .map(|(label, text)| (label.as_str(), text.as_str()));
                std::iter::once(("plugin", *plugin)).chain(own)
            };
            match metric.value {
                OwnValue::Counter(value) | OwnValue::Gauge(value) => page.sample(name, labels(), value),
                OwnValue::Summary { sum, count } => {
                    page.sample(&format!("{name}_sum"), labels(), sum);
                    page.sample(&format!("{name}_count"), labels(), count as f64);
                }
            }
        }
    }
}
