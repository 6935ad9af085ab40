//! `tapwire policy record` and `replay`: real questions through changed plugins, before they are deployed.
//!
//! One JSON object per line: `{"v": 1, "subject": .., "hook": .., "context": {..}, "decision": {..}}`.

use super::{Bench, Report, diff::diff};
use crate::config::PolicySettings;
use crate::policy::api::{Context, Decision, Hook, Request, Subject};
use crate::policy::generation::load;
use crate::policy::without_nulls;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;

/// Version of the format.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    v: u32,
    subject: Subject,
    hook: Hook,
    context: Context,
    decision: Json,
}

/// Writes questions with their answers.
pub struct Recorder<W: Write> {
    out: W,
}

impl<W: Write> Recorder<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }
    /// One line.
    pub fn write(
        &mut self,
        subject: &Subject,
        hook: Hook,
        context: &Context,
        decision: &Decision,
    ) -> std::io::Result<()> {
        let record = Record {
            v: VERSION,
            subject: subject.clone(),
            hook,
            context: context.clone(),
            decision: plain(decision),
        };
        serde_json::to_writer(&mut self.out, &record)?;
        self.out.write_all(b"\n")
    }
    pub fn into_inner(self) -> W {
        self.out
    }
}

/// A decision without origins: a moved line is no difference.
fn plain(decision: &Decision) -> Json {
    let mut value = without_nulls(serde_json::to_value(decision).unwrap_or_default());
    if let Some(map) = value.as_object_mut() {
        map.remove("by");
    }
    value
}

/// Asks recorded questions of the plugins in `paths` (or the configured ones) and reports answers that differ. Exit
/// code 1 if there are any.
pub fn replay(recording: impl BufRead, paths: &[PathBuf], config: &PolicySettings) -> Report {
    let config = super::check::with_paths(paths, config);
    let loaded = match load(&config, &BTreeMap::new()) {
        Ok(loaded) => loaded,
        Err(report) => return Report::wrong(report),
    };
    let bench = Bench::start(loaded.members, loaded.around);
    let mut report = Report::default();
    let (mut asked, mut changed) = (0, 0);
    for (number, line) in (1..).zip(recording.lines()) {
        let line = match line {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => line,
            Err(error) => return Report::wrong(format!("line {number}: {error}")),
        };
        let record: Record = match serde_json::from_str(&line) {
            Ok(record) => record,
            Err(error) => return Report::wrong(format!("line {number}: {error}")),
        };
        if record.v != VERSION {
            return Report::wrong(format!(
                "line {number}: format {} is not known, this program reads {VERSION}",
                record.v
            ));
        }
        asked += 1;
        let tap = record.context.tap().to_owned();
        let reply = bench.ask(Request {
            r#gen: 0,
            seq: number,
            key: record.subject.clone(),
            hook: record.hook,
            context: record.context,
        });
        let Some(reply) = reply else {
            return Report::wrong(format!("line {number}: no answer"));
        };
        let differences = diff(&record.decision, &plain(&reply.decision));
        let failures = reply
            .steps
            .iter()
            .filter_map(|s| Some(format!("{} failed: {}", s.plugin, s.error.as_ref()?)));
        let lines: Vec<_> = differences.into_iter().chain(failures).collect();
        if !lines.is_empty() {
            changed += 1;
            report.raise(1);
            report.line(format!("{tap} {} (line {number})", record.hook));
            for line in lines {
                report.line(format!("  {line}"));
            }
        }
    }
    report.line(format!("{asked} questions, {changed} answers differ"));
    report
}
