//! What the demo shows: one line per thing that happens, with the time since the start; or one JSON object at the end.

use super::world::World;
use crate::cli::output::{Output, Style, micros};
use crate::cli::port;
use crate::control::api::PortRow;
use serde::Serialize;
use std::io;
use std::time::Instant;

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    pub taps: usize,
    pub attached: usize,
    pub networks: usize,
    /// From receiving RTM_NEWLINK to the last ack, microseconds, over the first attach of every tap.
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
    pub slowest_us: Option<u64>,
    /// Ports put back after something was broken by hand.
    pub repairs: usize,
    /// What a resync would still do at the end.
    pub left_to_do: usize,
    pub elapsed_us: u64,
}

impl Summary {
    pub fn times(&mut self, mut attach_us: Vec<u64>) {
        attach_us.sort_unstable();
        self.p50_us = percentile(&attach_us, 50);
        self.p99_us = percentile(&attach_us, 99);
        self.slowest_us = attach_us.last().copied();
    }
}

/// Nearest rank: the smallest value that at least `p` per cent of all are not above.
fn percentile(sorted: &[u64], p: usize) -> Option<u64> {
    let rank = (sorted.len() * p).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[derive(Debug)]
pub struct Screen<'a> {
    out: &'a mut Output,
    json: bool,
    started: Instant,
    /// Of the longest network id.
    width: usize,
}

impl<'a> Screen<'a> {
    pub fn new(out: &'a mut Output, json: bool) -> Self {
        Self {
            out,
            json,
            started: Instant::now(),
            width: 0,
        }
    }

    pub fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn opening(&mut self, world: &World) -> io::Result<()> {
        self.width = world.networks.iter().map(|n| n.id.len()).max().unwrap_or(0);
        if self.json {
            return Ok(());
        }
        let title = self.out.paint(Style::Bold, "tapwire demo");
        self.out.line(&format!(
            "{title}: a private network namespace, the real daemon, real taps. This host is not touched."
        ))?;
        for (at, network) in world.networks.iter().enumerate() {
            let id = self.out.paint(Style::Accent, &network.id);
            self.out
                .line(&format!("  network {id}: {}, for taps tap{at}-*", network.what))?;
        }
        if let Some(why) = world.left_out {
            let note = self.out.paint(Style::Dim, why);
            self.out.line(&format!("  {note}"))?;
        }
        self.out.flush()
    }

    /// A new part begins.
    pub fn heading(&mut self, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let text = self.out.paint(Style::Bold, text);
        self.out.line("")?;
        self.out.line(&text)?;
        self.out.flush()
    }

    /// Something happened, or was done.
    pub fn note(&mut self, style: Style, word: &str, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let stamp = self.stamp();
        let word = self.out.paint(style, &format!("{word:<9}"));
        self.out.line(&format!("{stamp}  {word}  {text}"))?;
        self.out.flush()
    }

    /// What was decided for a tap.
    pub fn port(&mut self, row: &PortRow) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let stamp = self.stamp();
        let word = self
            .out
            .paint(port::style(row.state), &format!("{:<9}", row.state.as_str()));
        let width = self.width;
        let to = match (&row.network, &row.bridge) {
            // `brq` before the id.
            (Some(network), Some(bridge)) => {
                format!("network {network:<width$}  bridge {bridge:<0$}", width + 3)
            }
            (Some(network), None) => format!("network {network}"),
            (None, _) => "no network".to_owned(),
        };
        let took = row.attach_us.map(micros).unwrap_or_default();
        let reason = row.reason.as_ref().map_or_else(String::new, |r| format!("  {r}"));
        let line = format!("ifindex {:<5}  {to}  {took:>9}{reason}", row.ifindex);
        let line = self.out.paint(Style::Plain, &line);
        let tap = self.out.paint(Style::Plain, &format!("{:<10}", row.tap));
        self.out.line(&format!("{stamp}  {word}  {tap}  {line}"))?;
        self.out.flush()
    }

    pub fn closing(&mut self, summary: &Summary) -> io::Result<()> {
        if self.json {
            self.out.json(summary)?;
            return self.out.flush();
        }
        self.heading("In the end")?;
        let all = summary.attached == summary.taps;
        let style = if all { Style::Good } else { Style::Bad };
        let attached = self.out.paint(
            style,
            &format!("{}/{} taps attached", summary.attached, summary.taps),
        );
        self.out
            .line(&format!("  {attached} to {} networks", summary.networks))?;
        if let (Some(p50), Some(p99), Some(slowest)) = (summary.p50_us, summary.p99_us, summary.slowest_us) {
            self.out.line(&format!(
                "  attach time p50 {}, p99 {}, slowest {} (from the kernel's announcement to its last acknowledgement)",
                micros(p50),
                micros(p99),
                micros(slowest)
            ))?;
        }
        self.out.line(&format!("  {} ports repaired", summary.repairs))?;
        self.out.line(&match summary.left_to_do {
            0 => "  `tapwire plan` has nothing left to do".to_owned(),
            n => format!("  `tapwire plan` would still do {n} operations"),
        })?;
        self.out
            .line(&format!("  {} in all", micros(summary.elapsed_us)))?;
        self.out.flush()
    }

    fn stamp(&self) -> String {
        let us = self.elapsed_us();
        let text = format!("{:>4}.{:03} s", us / 1_000_000, us / 1000 % 1000);
        self.out.paint(Style::Dim, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_take_the_nearest_rank() {
        assert_eq!(percentile(&[], 50), None);
        assert_eq!(percentile(&[7], 99), Some(7));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50), Some(50));
        assert_eq!(percentile(&hundred, 99), Some(99));
        assert_eq!(percentile(&[1, 2, 3, 4], 50), Some(2));
    }
}
