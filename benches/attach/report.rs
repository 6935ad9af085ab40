//! Rounds in, a table or JSON lines out, and whether the targets were met.

use super::world::Sample;
use serde_json::json;

/// What a metric is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    None,
    /// Subject over baseline.
    Ratio(f64),
    /// The subject's own value.
    AtMost(f64),
}

/// One figure of a section.
pub struct Metric {
    name: &'static str,
    of: fn(&Sample) -> f64,
    target: Target,
    /// Is a ratio to the baseline worth printing?
    compared: bool,
}

impl Metric {
    pub fn ratio(name: &'static str, of: fn(&Sample) -> f64, target: Target) -> Self {
        Self {
            name,
            of,
            target,
            compared: true,
        }
    }

    pub fn value(name: &'static str, of: fn(&Sample) -> f64, target: Target) -> Self {
        Self {
            name,
            of,
            target,
            compared: false,
        }
    }
}

/// Prints as it goes.
pub struct Report {
    json: bool,
    names: [&'static str; 2],
    missed: bool,
}

impl Report {
    pub fn new(json: bool, baseline: &'static str, subject: &'static str) -> Self {
        Self {
            json,
            names: [baseline, subject],
            missed: false,
        }
    }

    pub fn missed_a_target(&self) -> bool {
        self.missed
    }

    /// Baseline and subject as named for the whole run.
    pub fn section(&mut self, title: &str, metrics: &[Metric], baseline: &[Sample], subject: &[Sample]) {
        self.section_of(title, self.names, metrics, baseline, subject);
    }

    /// `baseline` and `subject` have one sample per round, taken side by side.
    pub fn section_of(
        &mut self,
        title: &str,
        names: [&str; 2],
        metrics: &[Metric],
        baseline: &[Sample],
        subject: &[Sample],
    ) {
        if !self.json {
            println!("\n{title} (median of {} rounds)", subject.len());
            println!(
                "  {:<16} {:>12} {:>12} {:>8}  target",
                "", names[0], names[1], "ratio"
            );
        }
        let mut rows = serde_json::Map::new();
        for metric in metrics {
            let values = |samples: &[Sample]| samples.iter().map(metric.of).collect::<Vec<f64>>();
            let (before, after) = (values(baseline), values(subject));
            // What must not happen must not happen in any round.
            let (left, right) = match metric.target {
                Target::AtMost(0.0) => (quantile(&before, 1.0), quantile(&after, 1.0)),
                _ => (quantile(&before, 0.5), quantile(&after, 0.5)),
            };
            let ratio = metric.compared.then(|| {
                let each: Vec<f64> = before.iter().zip(&after).map(|(b, a)| a / b).collect();
                quantile(&each, 0.5)
            });
            let (ok, words) = match (metric.target, ratio) {
                (Target::Ratio(limit), Some(ratio)) => (ratio <= limit, format!("<= {limit}x")),
                (Target::AtMost(limit), _) => (right <= limit, format!("<= {limit}")),
                _ => (true, String::new()),
            };
            self.missed |= !ok;
            if !self.json {
                let ratio = ratio.map_or_else(String::new, |r| format!("{r:.2}x"));
                let verdict = if ok { "" } else { "  MISSED" };
                println!(
                    "  {:<16} {left:>12.1} {right:>12.1} {ratio:>8}  {words}{verdict}",
                    metric.name
                );
            }
            rows.insert(
                metric.name.replace(' ', "_"),
                json!({ "baseline": left, "subject": right, "ratio": ratio, "target": words, "ok": ok }),
            );
        }
        let (section, note) = title.split_once(": ").unwrap_or((title, ""));
        println!(
            "{}",
            json!({
                "section": section,
                "note": note,
                "baseline": names[0],
                "subject": names[1],
                "rounds": subject.len(),
                "metrics": rows,
            })
        );
    }
}

/// The value that a share `q` of the values does not exceed; 0 when there are none.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let rank = (last as f64 * q).round() as usize;
    sorted.get(rank.min(last)).copied().unwrap_or(0.0)
}
