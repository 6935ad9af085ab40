//! `tapwire replay`.

use super::check::load_config;
use super::context::Context;
use super::failure::{Exit, Failure};
use super::output::{Output, Style, count, plain};
use crate::daemon::replay::{Line, Operation, Owner, ReplayError, Summary, replay};
use crate::daemon::sources::{self, Told};
use crate::engine::note::{Note, What};
use crate::engine::state::{GatewayState, PortLabel, PortState, SegmentState};
use crate::model::Time;
use crate::telemetry::trace::text as trace_text;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write};
use std::path::PathBuf;

/// Run a recording through the engine without touching the kernel, and print its decisions
///
/// Reads what `tapwire trace --record` wrote and decides as a daemon with --config would have: its events, the
/// operations that the daemon would ask the kernel for, and what became of ports and networks, in order. Every operation
/// is taken to succeed at once. The configured plugins are asked as they are now (what they keep begins empty); what was
/// told to a daemon by command is not known.
///
/// With --json one object per line: events as `trace` prints them; operations have `op`, `args` and `line`; changes of a
/// port or network have `state`; the last object is `summary`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recording (pcapng, link type NETLINK)
    file: PathBuf,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let file = File::open(&args.file)
        .map_err(|e| Failure::failed(format!("cannot read {}: {e}", args.file.display())))?;
    let config = load_config(context)?;
    let desired = sources::desired(&config, &Told::default(), &sources::host_identity());
    let (json, out) = (context.global.json, &mut context.out);
    let (plugins, prune_after) = (&config.policy, config.daemon.prune_after);
    let played = replay(BufReader::new(file), desired, plugins, prune_after, |line| {
        if json {
            object(out, &line)
        } else {
            text(out, &line)
        }
    });
    // What was decided up to the damage is worth having.
    context.out.flush()?;
    let summary = played.map_err(|error| match error {
        ReplayError::Print(error) => error.into(),
        ReplayError::Policy(report) => Failure::new(Exit::Usage, report.to_string()),
        error => Failure::from_error(Exit::Failed, &error).context(&args.file.display().to_string()),
    })?;
    if !summary.begins_with_listing {
        say("the recording does not begin with a listing: links that were there before are not known");
    }
    context.print(&summary_object(&summary), |out, _| summary_text(out, &summary))
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
                colours: super::output::colour(&stdout),
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
            let line = format!("{}{owner}", out.paint(Style::Bold, &operation.op.to_string()));
            said(out, operation.at, "=>", &line)
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

fn object(out: &mut Output, line: &Line) -> io::Result<()> {
    match line {
        Line::Event(event) => out.line(&event.to_json().map_err(io::Error::from)?),
        Line::Loss { at, lost } => out.json(&json!({"ts_us": at.micros(), "event": "loss", "lost": lost})),
        Line::Operation(operation) => out.json(&operation_object(operation)),
        Line::Note(note) => match note_object(note) {
            Some(object) => out.json(&object),
            None => Ok(()),
        },
        Line::Plugin {
            at,
            plugin,
            hook,
            error,
        } => out.json(&json!({"ts_us": at.micros(), "plugin": plugin, "hook": hook.word(), "error": error})),
    }
}

fn operation_object(operation: &Operation) -> Value {
    let mut object = json!({
        "ts_us": operation.at.micros(),
        "cause": operation.cause,
        "op": operation.op.name(),
        "args": operation.args,
        "line": operation.op.to_string(),
    });
    if let Some(object) = object.as_object_mut() {
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        match &operation.owner {
            Owner::Tap { ifindex, name } => {
                put("tap", json!(name));
                put("ifindex", json!(ifindex));
            }
            Owner::Network(id) => drop(put("network", json!(id))),
            Owner::Gateways => drop(put("gateways", json!(true))),
            Owner::Orphan(name) => drop(put("device", json!(name))),
            Owner::Guard => {}
        }
    }
    object
}

fn note_object(note: &Note) -> Option<Value> {
    let (ts_us, cause) = (note.at.micros(), note.cause.0);
    let (_, said) = note_text(note)?;
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    Some(match &note.what {
        What::Port {
            port, state, remark, ..
        } => json!({
            "ts_us": ts_us,
            "cause": cause,
            "tap": port.name.to_string(),
            "ifindex": port.index.get(),
            "network": port.network.as_ref().map(ToString::to_string),
            "state": state.word(),
            "reason": remark.as_deref().map(str::to_owned).or_else(|| text(state.to_string())),
        }),
        What::Network { network, state } => json!({
            "ts_us": ts_us,
            "cause": cause,
            "network": network.to_string(),
            "state": state.word(),
            "reason": text(state.to_string()),
        }),
        _ => json!({"ts_us": ts_us, "cause": cause, "note": said}),
    })
}

fn summary_object(summary: &Summary) -> Value {
    let ports = &summary.ports;
    json!({"summary": {
        "messages": summary.messages,
        "undecodable": summary.undecodable,
        "operations": summary.operations,
        "took_us": u64::try_from(summary.took.as_micros()).unwrap_or(u64::MAX),
        "begins_with_listing": summary.begins_with_listing,
        "ports": {
            "attached": ports.attached,
            "pending": ports.pending + ports.configuring,
            "failed": ports.failed,
            "conflict": ports.conflict,
            "denied": ports.denied,
            "unmanaged": ports.unmanaged,
        },
    }})
}

fn summary_text(out: &mut Output, summary: &Summary) -> io::Result<()> {
    let ports = &summary.ports;
    let states = [
        (ports.attached, "attached"),
        (ports.pending + ports.configuring, "pending"),
        (ports.failed, "failed"),
        (ports.conflict, "in conflict"),
    ];
    let states: Vec<String> = states
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    let states = match states.is_empty() {
        true => "no taps".to_owned(),
        false => states.join(", "),
    };
    out.line(&plain(&format!(
        "{} messages of {:.3} s: {} operations; at the end {states}",
        summary.messages,
        summary.took.as_secs_f64(),
        summary.operations
    )))
}
