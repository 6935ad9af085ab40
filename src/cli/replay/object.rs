//! A replay for programs: one JSON object a line.

use super::note_text;
use crate::cli::output::Output;
use crate::daemon::replay::{Checked, Line, Operation, Owner, Summary};
use crate::engine::note::{Note, What};
use crate::engine::view::PortCounts;
use serde_json::{Value, json};
use std::io;

pub(super) fn object(out: &mut Output, line: &Line) -> io::Result<()> {
    match line {
        Line::Event(event) => out.line(&event.to_json().map_err(io::Error::from)?),
        Line::Loss { at, lost } => out.json(&json!({"ts_us": at.micros(), "event": "loss", "lost": lost})),
        Line::Operation(operation) => out.json(&operation_object(operation)),
        Line::State {
            version,
            links,
            ports,
        } => out.json(&json!({"state": {
            "version": version,
            "links": links,
            "ports": ports_object(ports),
        }})),
        Line::Gap { why } => out.json(&json!({"gap": why})),
        Line::Difference {
            at,
            recorded,
            replayed,
        } => out.json(&json!({"ts_us": at.micros(), "recorded": recorded, "replayed": replayed})),
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
        if let Some(error) = &operation.error {
            object.insert("error".to_owned(), json!(error));
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

pub(super) fn summary_object(summary: &Summary) -> Value {
    json!({"summary": {
        "messages": summary.messages,
        "undecodable": summary.undecodable,
        "operations": summary.operations,
        "took_us": u64::try_from(summary.took.as_micros()).unwrap_or(u64::MAX),
        "begins_with_listing": summary.begins_with_listing,
        "ports": ports_object(&summary.ports),
    }})
}

fn ports_object(ports: &PortCounts) -> Value {
    json!({
        "attached": ports.attached,
        "pending": ports.pending + ports.configuring,
        "failed": ports.failed,
        "conflict": ports.conflict,
        "denied": ports.denied,
        "unmanaged": ports.unmanaged,
    })
}

pub(super) fn checked_object(checked: &Checked) -> Value {
    json!({"summary": {
        "messages": checked.messages,
        "operations": checked.operations,
        "took_us": u64::try_from(checked.took.as_micros()).unwrap_or(u64::MAX),
        "ports": ports_object(&checked.ports),
        "as_recorded": {
            "plans": checked.plans,
            "questions": checked.questions,
            "states": checked.states,
            "gaps": checked.gaps,
        },
    }})
}
