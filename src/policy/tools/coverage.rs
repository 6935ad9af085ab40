//! Which lines of the plugins the tests ran (`policy test --coverage`).

use std::collections::BTreeMap;

/// Hits by file and line; lines without code do not appear.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    files: BTreeMap<String, BTreeMap<usize, u64>>,
}

impl Lines {
    /// Adds one function's counters: by line, negative where there is no code.
    pub fn add(&mut self, file: &str, hits: &[i32]) {
        let lines = self.files.entry(file.to_owned()).or_default();
        for (line, hits) in hits.iter().enumerate() {
            if let Ok(hits) = u64::try_from(*hits) {
                *lines.entry(line).or_default() += hits;
            }
        }
    }
    pub fn absorb(&mut self, other: Lines) {
        for (file, lines) in other.files {
            let into = self.files.entry(file).or_default();
            for (line, hits) in lines {
                *into.entry(line).or_default() += hits;
            }
        }
    }
    /// "plugins/mtu.lua: 10 of 12 lines, not run: 14 20".
    pub fn describe(&self) -> Vec<String> {
        let describe = |(file, lines): (&String, &BTreeMap<usize, u64>)| {
            let missed: Vec<String> = lines
                .iter()
                .filter(|(_, hits)| **hits == 0)
                .map(|(l, _)| l.to_string())
                .collect();
            let run = lines.len() - missed.len();
            let rest = if missed.is_empty() {
                String::new()
            } else {
                format!(", not run: {}", missed.join(" "))
            };
            format!("{file}: {run} of {} lines{rest}", lines.len())
        };
        self.files.iter().map(describe).collect()
    }
}
