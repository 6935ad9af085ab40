//! `tapwire replay`.

mod object;

use crate::cli::check::load_config;
use crate::cli::context::Context;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Output, Style, count, plain};
use crate::daemon::replay::{Checked, Line, Owner, Recording, ReplayError, Summary, check, replay};
use crate::daemon::sources::{self, Told};
use crate::engine::note::{Note, What};
use crate::engine::state::{GatewayState, PortLabel, PortState, SegmentState};
use crate::engine::view::PortCounts;
use crate::model::Time;
use crate::telemetry::trace::text as trace_text;
use object::{checked_object, object, summary_object};
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write};
use std::path::PathBuf;

/// Run a recording through the engine without touching the kernel, and print its decisions
///
/// Reads what `tapwire trace --record` wrote. A recording of a running daemon tells how it stood and all that it heard:
/// its decisions are made again, exactly, and compared with what it did then; the first difference ends the replay with
/// exit code 1. Neither a configuration nor plugins are needed for that.
///
/// A recording without a daemon, or any with --what-if, is decided as a daemon with --config would have: its events, the
/// operations that the daemon would ask the kernel for, and what became of ports and networks, in order. Every operation
/// is then taken to succeed at once. The configured plugins are asked as they are now (what they keep begins empty); what
/// was told to a daemon by command is not known.
///
/// With --json one object per line: events as `trace` prints them; operations have `op`, `args` and `line`; changes of a
/// port or network have `state`; the last object is `summary`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recording (pcapng, link type NETLINK)
    file: PathBuf,

    /// Decide as a daemon with --config would have, whatever the recorded one did
    #[arg(long)]
    what_if: bool,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let of_file = |error: ReplayError| match error {
        ReplayError::Print(error) => error.into(),
        ReplayError::Policy(report) => Failure::new(Exit::Usage, report.to_string()),
        error => Failure::from_error(Exit::Failed, &error).context(&args.file.display().to_string()),
    };
    let file = File::open(&args.file)
        .map_err(|e| Failure::failed(format!("cannot read {}: {e}", args.file.display())))?;
    let recording = Recording::read(BufReader::new(file)).map_err(|error| of_file(error.into()))?;
    let losses = recording.losses();
    if losses > 0 {
        say(&format!(
            "messages are missing in {} of the recording",
            count(losses, "place")
        ));
    }
    let played = if recording.account.is_empty() || args.what_if {
        simulated(context, &recording)?
    } else {
        compared(context, &recording)
    };
    // What was decided up to the damage is worth having.
    context.out.flush()?;
    played.map_err(of_file)?;
    recording
        .damage
        .map_or(Ok(()), |damage| Err(of_file(damage.into())))
}

type Played = Result<(), ReplayError>;

fn simulated(context: &mut Context, recording: &Recording) -> Result<Played, Failure> {
    let config = load_config(context)?;
    let desired = sources::desired(&config, &Told::default(), &sources::host_identity());
    let (json, out) = (context.global.json, &mut context.out);
    let mut tell = |line: Line| print(out, json, &line);
    let prune_after = config.daemon.prune_after;
    let summary = match replay(recording, desired, &config.policy, prune_after, &mut tell) {
        Ok(summary) => summary,
        Err(error) => return Ok(Err(error)),
    };
    if recording.damage.is_some() {
        return Ok(Ok(()));
    }
    if !summary.begins_with_listing {
        say("the recording does not begin with a listing: links that were there before are not known");
    }
    context.print(&summary_object(&summary), |out, _| summary_text(out, &summary))?;
    Ok(Ok(()))
}

fn compared(context: &mut Context, recording: &Recording) -> Played {
    let (json, out) = (context.global.json, &mut context.out);
    let checked = check(recording, &mut |line| print(out, json, &line))?;
    match json {
        _ if recording.damage.is_some() => Ok(()),
        true => out.json(&checked_object(&checked)),
        false => checked_text(out, &checked),
    }
    .map_err(ReplayError::Print)
}

fn print(out: &mut Output, json: bool, line: &Line) -> io::Result<()> {
    match json {
        true => object(out, line),
        false => text(out, line),
    }
}

fn say(what: &str) {
    // Nobody is left to tell when stderr itself fails.
    let _unseen = writeln!(io::stderr(), "note: {what}");
}

fn text(out: &mut Output, line: &Line) -> io::Result<()> {
    match line {
        Line::Event(event) => {
            let stdout = io::stdout();
            let style = trace_text::Style {
                colours: crate::cli::output::colour(&stdout),
                columns: stdout.is_terminal(),
            };
            out.line(&trace_text::line(event, style))
        }
        Line::Loss { at, lost } => {
            let lost = match lost {
                Some(lost) => format!("{lost} messages are missing here"),
                None => "messages are missing here".to_owned(),
            };
            said(out, *at, &out.paint(Style::Bad, "loss"), &lost)
        }
        Line::Operation(operation) => {
            let owner = match &operation.owner {
                Owner::Tap { name, .. } => name.clone(),
                Owner::Network(id) => format!("network {id}"),
                Owner::Gateways => "gateways".to_owned(),
                Owner::Orphan(name) => format!("{name} is not needed"),
                Owner::Guard => "spoof guard".to_owned(),
            };
            let owner = out.paint(Style::Dim, &format!("  # {owner}"));
            let error = operation.error.as_ref().map(|error| format!(": {error}"));
            let error = out.paint(Style::Bad, &error.unwrap_or_default());
            let line = format!(
                "{}{error}{owner}",
                out.paint(Style::Bold, &operation.op.to_string())
            );
            said(out, operation.at, "=>", &line)
        }
        Line::State {
            version,
            links,
            ports,
        } => {
            let text = format!(
                "from here on everything that tapwire {version} heard is known ({}, {} attached)",
                count(*links, "link"),
                count(ports.attached, "port")
            );
            let text = out.paint(Style::Dim, &text);
            out.line(&text)
        }
        Line::Gap { why } => {
            let text = out.paint(
                Style::Bad,
                &format!("gap: {why}; what the daemon decided from here on is not known"),
            );
            out.line(&text)
        }
        Line::Difference {
            at,
            recorded,
            replayed,
        } => {
            let recorded = out.paint(Style::Bad, recorded);
            said(out, *at, "recorded:", &recorded)?;
            let replayed = out.paint(Style::Bad, replayed);
            said(out, *at, "replayed:", &replayed)
        }
        Line::Note(note) => match note_text(note) {
            Some((style, text)) => said(out, note.at, "--", &out.paint(style, &text)),
            None => Ok(()),
        },
        Line::Plugin {
            at,
            plugin,
            hook,
            error,
        } => {
            let text = format!("plugin {plugin}, hook {hook}: {error}");
            said(out, *at, "--", &out.paint(Style::Bad, &text))
        }
    }
}

/// A line that is no recorded message: a dash where those have their number. `text` is painted already.
fn said(out: &mut Output, at: Time, word: &str, text: &str) -> io::Result<()> {
    // As `trace` prints its stamps.
    let stamp = match io::stdout().is_terminal() {
        true => format!("{:>14} {:>6}", at.to_string(), "-"),
        false => format!("{at} -"),
    };
    out.line(&format!("{stamp} {word} {text}"))
}

fn port_name(port: &PortLabel) -> String {
    match &port.network {
        Some(network) => format!("{}#{}, network {network}", port.name, port.index),
        None => format!("{}#{}", port.name, port.index),
    }
}

/// None for what an event or operation line says already.
fn note_text(note: &Note) -> Option<(Style, String)> {
    let with = |text: String, reason: String| match reason.is_empty() {
        true => text,
        false => format!("{text}: {reason}"),
    };
    Some(match &note.what {
        What::TapAppeared { .. } | What::TapGone { .. } | What::TapChanged { .. } | What::Mapped { .. } => {
            return None;
        }
        // Over before anything else happens: its operations are the next lines.
        What::Port {
            state: PortState::Configuring,
            ..
        } => return None,
        What::Port {
            port, state, remark, ..
        } => {
            let style = match state {
                PortState::Attached => Style::Good,
                PortState::Pending { .. } | PortState::Configuring => Style::Attention,
                PortState::Failed { .. } | PortState::Conflict { .. } | PortState::Denied { .. } => {
                    Style::Bad
                }
            };
            let reason = remark.as_deref().map_or_else(|| state.to_string(), str::to_owned);
            (
                style,
                with(format!("{} {}", port_name(port), state.word()), reason),
            )
        }
        What::Network { network, state } => {
            let style = match state {
                SegmentState::Ready => Style::Good,
                SegmentState::Idle => Style::Plain,
                SegmentState::Pending { .. } | SegmentState::Configuring => Style::Attention,
                SegmentState::Failed { .. } | SegmentState::Conflict { .. } => Style::Bad,
            };
            (
                style,
                with(format!("network {network} {}", state.word()), state.to_string()),
            )
        }
        What::Gateway { network, state } => {
            let style = match state {
                GatewayState::Ready => Style::Good,
                GatewayState::Pending { .. } => Style::Attention,
                GatewayState::Failed { .. } => Style::Bad,
            };
            let text = format!("gateway of network {network} {}", state.word());
            (style, with(text, state.to_string()))
        }
        What::Failed { op, error, .. } => (Style::Bad, format!("{op}: {error}")),
        What::Resync { reason } => (Style::Attention, format!("resync: {reason}")),
        What::InSync { links, taps } => (
            Style::Good,
            format!("in sync ({}, {})", count(*links, "link"), count(*taps, "tap")),
        ),
        What::Service { .. } => return None,
        What::Pruned { device } => (Style::Plain, format!("{device} removed")),
        What::AddressesMoved {
            from,
            to,
            addresses,
            routes,
        } => {
            let text = format!("{addresses} addresses and {routes} routes moved from {from} to {to}");
            (Style::Plain, text)
        }
        What::Drift { device, .. } => (Style::Attention, format!("drift of {device} is being repaired")),
    })
}

fn checked_text(out: &mut Output, checked: &Checked) -> io::Result<()> {
    let gaps = match checked.gaps {
        0 => "nothing missing".to_owned(),
        gaps => format!("{} in between", count(gaps, "gap")),
    };
    out.line(&format!(
        "{} and {} from {}: each decided as the daemon did, {gaps}; at the end {}",
        count(checked.plans, "plan"),
        count(checked.questions, "question"),
        count(checked.messages, "message"),
        states(&checked.ports)
    ))
}

fn summary_text(out: &mut Output, summary: &Summary) -> io::Result<()> {
    out.line(&plain(&format!(
        "{} messages of {:.3} s: {} operations; at the end {}",
        summary.messages,
        summary.took.as_secs_f64(),
        summary.operations,
        states(&summary.ports)
    )))
}

fn states(ports: &PortCounts) -> String {
    let states = [
        (ports.attached, "attached"),
        (ports.pending + ports.configuring, "pending"),
        (ports.failed, "failed"),
        (ports.conflict, "in conflict"),
        (ports.denied, "denied"),
    ];
    let states: Vec<String> = states
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    match states.is_empty() {
        true => "no taps".to_owned(),
        false => states.join(", "),
    }
}
