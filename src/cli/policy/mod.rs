//! `tapwire policy`.

mod local;

use super::context::Context;
use super::failure::Failure;
use super::output::{Output, count, plain};
use super::status;
use crate::control::api::{PolicyReloadReport, PolicyReloadRequest, PolicyStatus};
use crate::control::client::escape;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

/// Check, test, try, reload plugins
///
/// check, test, replay, types and `eval --ctx` need neither a daemon nor privileges.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the loaded plugins and their health
    Status,
    /// Check plugins: syntax, API version, hooks, options against their schema; print the order they run in
    Check {
        /// Files or directories [default: the configuration's plugins]
        plugins: Vec<PathBuf>,
    },
    /// Run the plugins' own tests (*_test.lua) in the daemon's sandbox
    Test {
        /// Files or directories [default: the configuration's plugins]
        plugins: Vec<PathBuf>,
        /// Show which lines no test reached
        #[arg(long)]
        coverage: bool,
    },
    /// Show what the plugins decide for one tap, and which plugin decided it
    #[command(group = clap::ArgGroup::new("subject").args(["tap", "ctx"]).required(true).multiple(true))]
    Eval {
        /// A live tap (the daemon is asked), or with --ctx the name to put into the context
        #[arg(long)]
        tap: Option<String>,
        /// A context as JSON, or one line of what `policy record` wrote; no daemon is asked
        #[arg(long, value_name = "FILE")]
        ctx: Option<PathBuf>,
    },
    /// Write what the daemon asks its plugins and what they decide, one JSON object per line
    ///
    /// `policy replay` reads a recording back; `policy eval --ctx` takes one line of it.
    Record {
        /// Where to [default: stdout]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Stop after this many
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Ask plugins what was recorded and print the decisions that differ from the recorded ones
    ///
    /// Exit code 1 if any differs.
    Replay {
        /// What `policy record` wrote
        recording: PathBuf,
        /// Files or directories [default: the configuration's plugins]
        #[arg(long, value_name = "PATH", num_args = 1..)]
        plugins: Vec<PathBuf>,
    },
    /// Load the plugins again: all of them, or on any error none
    Reload {
        /// Refuse when more ports than this would change [default: 10 % of the ports, at least 10]
        #[arg(long, value_name = "N")]
        max_changes: Option<u64>,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Go back to the plugins before the last reload
    Rollback,
    /// Write type definitions for editors (tapwire.d.luau, tapwire_meta.lua)
    Types {
        /// Directory, made if missing
        directory: PathBuf,
    },
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Status => {
            let client = context.client()?;
            let status: PolicyStatus = context.block_on(async { Ok(client.get("/v1/policy").await?) })?;
            context.print(&status, show_status)
        }
        Command::Check { plugins } => local::check(context, &plugins),
        Command::Test { plugins, coverage } => local::test(context, plugins, coverage),
        Command::Eval { tap, ctx: Some(file) } => local::eval(context, tap.as_deref(), &file),
        Command::Eval { tap, ctx: None } => {
            let path = format!("/v1/policy/eval/{}", escape(tap.as_deref().unwrap_or_default()));
            let client = context.client()?;
            let decision: Value = context.block_on(async { Ok(client.get(&path).await?) })?;
            local::show_decision(context, &decision)
        }
        Command::Record { output, count } => record(context, output, count),
        Command::Replay { recording, plugins } => local::replay(context, &recording, &plugins),
        Command::Reload { max_changes, dry_run } => {
            let client = context.client()?;
            let request = PolicyReloadRequest { max_changes, dry_run };
            let report: PolicyReloadReport =
                context.block_on(async { Ok(client.post("/v1/policy/reload", &request).await?) })?;
            context.print(&report, |out, report| show_reload(out, report, dry_run))?;
            match report.refused {
                Some(refused) => {
                    Err(Failure::failed(refused)
                        .hint("that was a dry run; the reload itself would be refused"))
                }
                None => Ok(()),
            }
        }
        Command::Rollback => {
            let client = context.client()?;
            let nothing = serde_json::Map::new();
            let report: PolicyReloadReport =
                context.block_on(async { Ok(client.post("/v1/policy/rollback", &nothing).await?) })?;
            context.print(&report, |out, report| show_reload(out, report, false))
        }
        Command::Types { directory } => local::types(context, &directory),
    }
}

/// Until the daemon stops, the count is reached or the user interrupts; what was written so far is complete lines.
fn record(context: &mut Context, output: Option<PathBuf>, count: Option<u64>) -> Result<(), Failure> {
    let mut file = match &output {
        None => None,
        Some(path) => Some(
            File::create(path)
                .map_err(|e| Failure::failed(format!("cannot write {}: {e}", path.display())))?,
        ),
    };
    let client = context.client()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot wait for the daemon: {e}")))?;
    runtime.block_on(async {
        let mut lines = client.stream("/v1/policy/record").await?;
        let mut left = count.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(line) = lines.next().await? else { break };
            match &mut file {
                // One write for a line: whoever reads along, or is left with it after a kill, has whole lines.
                Some(file) => file
                    .write_all(format!("{line}\n").as_bytes())
                    .map_err(|e| Failure::failed(format!("cannot write the recording: {e}")))?,
                None => {
                    context.out.line(&line)?;
                    context.out.flush()?;
                }
            }
            left -= 1;
        }
        Ok(())
    })
}

fn show_status(out: &mut Output, status: &PolicyStatus) -> io::Result<()> {
    let generation = status.generation.as_deref().unwrap_or("none");
    let previous = status
        .previous
        .as_ref()
        .map_or_else(String::new, |p| format!(", rollback to {p}"));
    out.line(&plain(&format!("generation {generation}{previous}")))?;
    status::plugins(out, &status.plugins)?;
    status::conflicts(out, &status.conflicts)
}

fn show_reload(out: &mut Output, report: &PolicyReloadReport, dry_run: bool) -> io::Result<()> {
    for change in &report.changes {
        out.line(&plain(change))?;
    }
    let generation = report.generation.as_deref().unwrap_or("none");
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let changed = report.ports.map(|ports| {
        let ports = count(number(ports), "port");
        let networks = report.networks.filter(|n| *n > 0);
        let networks = networks.map_or_else(String::new, |n| format!(" and {}", count(number(n), "network")));
        let verb = if dry_run { "would change" } else { "changed" };
        format!(", {ports}{networks} {verb}")
    });
    out.line(&plain(&format!(
        "generation {generation}{}",
        changed.unwrap_or_default()
    )))
}
