//! `tapwire status`.

use super::context::Context;
use super::failure::Failure;
use super::output::{Cell, Output, Style, Table, plain, uptime};
use crate::control::api::{PluginRow, Status};
use std::io;

/// Show whether the daemon is in sync, and what it holds
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(context: &mut Context, _: Args) -> Result<(), Failure> {
    let client = context.client()?;
    let status: Status = context.block_on(async { Ok(client.get("/v1/status").await?) })?;
    context.print(&status, text)
}

fn text(out: &mut Output, status: &Status) -> io::Result<()> {
    let sync = if status.in_sync {
        out.paint(Style::Good, "in sync")
    } else {
        out.paint(Style::Attention, "not in sync")
    };
    let version = out.paint(Style::Bold, &format!("tapwire {}", status.version));
    out.line(&format!(
        "{version}  {sync} since {}, up {}",
        status.since,
        uptime(status.uptime_s)
    ))?;
    let config = if status.config.ok {
        out.paint(Style::Plain, &status.config.path)
    } else {
        let error = status.config.error.as_deref().unwrap_or("refused");
        let text = format!(
            "{}  last reload refused: {}",
            status.config.path,
            first_mistake(error)
        );
        out.paint(Style::Bad, &text)
    };
    out.line(&format!("config     {config}"))?;
    let ports = &status.ports;
    let counts = [
        ("attached", ports.attached, Style::Good),
        ("configuring", ports.configuring, Style::Attention),
        ("pending", ports.pending, Style::Attention),
        ("failed", ports.failed, Style::Bad),
        ("conflict", ports.conflict, Style::Bad),
        ("denied", ports.denied, Style::Bad),
        ("unmanaged", ports.unmanaged, Style::Dim),
    ];
    let words: Vec<String> = counts
        .iter()
        .filter(|(word, number, _)| *number > 0 || *word == "attached")
        .map(|(word, number, style)| out.paint(*style, &format!("{number} {word}")))
        .collect();
    out.line(&format!("ports      {}", words.join(", ")))?;
    out.line(&format!("networks   {}", status.networks))?;
    out.line(&format!("links      {}", status.links))?;
    let c = &status.counters;
    out.line(&format!(
        "events     {}, {} overruns, {} resyncs, {} not decoded",
        c.events, c.overruns, c.resyncs, c.decode_errors
    ))?;
    out.line(&format!("operations {}, {} failed", c.ops, c.op_errors))?;
    out.line(&format!(
        "hooks      {} calls, {} failed",
        c.hook_calls, c.hook_errors
    ))?;
    if !status.plugins.is_empty() {
        out.line("")?;
        plugins(out, &status.plugins)?;
        conflicts(out, &status.conflicts)?;
    }
    Ok(())
}

/// Also what `policy status` shows.
pub fn conflicts(out: &mut Output, lines: &[String]) -> io::Result<()> {
    let tag = out.paint(Style::Attention, "conflict in");
    lines
        .iter()
        .try_for_each(|line| out.line(&format!("{tag} {}", plain(line))))
}

/// One line of a report of many: the first mistake with its place, and how to see the rest.
fn first_mistake(error: &str) -> String {
    let mut lines = error.lines();
    let first = lines.next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    match lines
        .next()
        .map(|line| line.trim_start().trim_start_matches("--> "))
    {
        Some(place) => format!("{first} ({place}); `tapwire check` shows all of it"),
        None => first.to_owned(),
    }
}

/// Also what `policy status` shows.
pub fn plugins(out: &mut Output, rows: &[PluginRow]) -> io::Result<()> {
    let mut table = Table::new(&[
        "PLUGIN",
        "HEALTH",
        "HOOKS",
        ">CALLS",
        ">ERRORS",
        ">MEMORY",
        "LAST ERROR",
    ]);
    for row in rows {
        let style = if row.health == "ok" {
            Style::Good
        } else {
            Style::Bad
        };
        table.push(vec![
            row.name.clone().into(),
            Cell::styled(style, row.health.clone()),
            row.hooks.join(",").into(),
            row.calls.into(),
            row.errors.into(),
            format!("{} KiB", row.memory_bytes / 1024).into(),
            row.last_error.clone().into(),
        ]);
    }
    out.table(&table)
}
