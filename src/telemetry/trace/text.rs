//! Lines for people: the words of the JSON form, columns and colours on a terminal, single spaces in a pipe.
//!
//! Names and aliases are chosen by others; control characters in them are shown escaped, never sent to a terminal.

use super::event::{Change, Line, Object, TraceEvent, Value, Word};
use std::borrow::Cow;
use std::fmt::Write;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    pub colours: bool,
    /// Pad to columns.
    pub columns: bool,
}

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";

/// One line, without the line end.
pub fn line(line: &Line, style: Style) -> String {
    let mut out = String::with_capacity(160);
    match line {
        Line::Event(e) => event(&mut out, e, style),
        Line::Loss(loss) => {
            stamp(&mut out, loss.ts_us, Some(loss.seq), style);
            word(&mut out, Word::Loss, style);
            let _infallible = match loss.lost {
                Some(lost) => write!(out, "{lost} messages lost"),
                None => write!(out, "an unknown number of messages lost"),
            };
            let _infallible = write!(out, ", listed again in {} ms", loss.resync_ms);
        }
        Line::Decision(decision) => {
            stamp(&mut out, decision.ts_us, None, style);
            let _infallible = write!(out, "{:<w$} ", "decision", w = if style.columns { 8 } else { 0 });
            let _infallible = match decision.ifindex {
                // What is no device's: by what it is for.
                0 => write!(out, "{} ", safe(&decision.ifname)),
                index => write!(out, "{}#{index} ", safe(&decision.ifname)),
            };
            let outcome = decision.outcome.as_deref();
            let lines = decision.lines.join("; ");
            let what = if lines.is_empty() {
                &*decision.decision
            } else {
                &lines
            };
            decided(&mut out, what, outcome, decision.elapsed_us);
        }
    }
    out
}

fn event(out: &mut String, event: &TraceEvent, style: Style) {
    stamp(out, event.ts_us, Some(event.seq), style);
    word(out, event.word, style);
    let width = |columns| if style.columns { columns } else { 0 };
    let _infallible = write!(out, "{:<w$} ", event.object.as_str(), w = width(9));
    let device = match event.ifindex {
        0 => "-".to_owned(),
        index => format!("{}#{index}", safe(&event.ifname)),
    };
    let _infallible = write!(out, "{device:<w$} ", w = width(20));
    let kind = if event.kind.is_empty() { "-" } else { &event.kind };
    let _infallible = write!(out, "{:<w$} ", safe(kind), w = width(6));
    if let Some(key) = &event.key {
        let _infallible = write!(out, "{} ", safe(key));
    }
    if event.diff.is_empty() {
        // A removal has no state after it; everything else without a difference is the kernel repeating itself.
        if !matches!(event.word, Word::Gone) && event.object != Object::Other {
            out.push_str("no difference ");
        }
    } else {
        // A new device's name has been said already, and so has the VTEP that is part of an entry's name.
        let said = |change: &&Change| match (change.field, &change.new, &event.key) {
            ("name", ..) => event.word == Word::New,
            ("dst", Value::Text(dst), Some(key)) => {
                event.object == Object::Fdb && key.ends_with(&format!(" dst {dst}"))
            }
            _ => false,
        };
        for (nth, change) in event.diff.iter().filter(|change| !said(change)).enumerate() {
            if nth > 0 {
                out.push_str(", ");
            }
            difference(out, change);
        }
        out.push(' ');
    }
    if style.colours {
        out.push_str(DIM);
    }
    out.push_str(if event.resync {
        "(found by the resync)"
    } else if event.cause.own {
        "(own"
    } else {
        "(foreign"
    });
    if !event.resync {
        if let Some(op) = &event.cause.op {
            let _infallible = write!(out, " {op}");
        }
        if let Some(portid) = event.cause.portid {
            let _infallible = write!(out, " {portid}");
        }
        out.push(')');
    }
    if style.colours {
        out.push_str(RESET);
    }
    if let Some(answer) = &event.decided {
        out.push(' ');
        decided(
            out,
            &answer.decision,
            answer.outcome.as_deref(),
            answer.elapsed_us,
        );
    }
}

fn decided(out: &mut String, decision: &str, outcome: Option<&str>, elapsed_us: Option<u64>) {
    let _infallible = write!(out, "=> {}", safe(decision));
    if let Some(outcome) = outcome {
        // What failed names its operation, which may have been said.
        let said = outcome
            .strip_prefix(decision)
            .and_then(|rest| rest.strip_prefix(": "));
        let _infallible = write!(out, ": {}", safe(said.unwrap_or(outcome)));
    }
    if let Some(elapsed) = elapsed_us {
        let after = match outcome {
            None | Some("ok") => " in",
            Some(_) => ", after",
        };
        let _infallible = write!(out, "{after} {elapsed} us");
    }
}

fn stamp(out: &mut String, ts_us: u64, seq: Option<u64>, style: Style) {
    let (seconds, micros) = (ts_us / 1_000_000, ts_us % 1_000_000);
    let seq = seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
    let _infallible = match (style.colours, style.columns) {
        (true, _) => write!(out, "{DIM}{seconds:>7}.{micros:06} {seq:>6}{RESET} "),
        (false, true) => write!(out, "{seconds:>7}.{micros:06} {seq:>6} "),
        (false, false) => write!(out, "{seconds}.{micros:06} {seq} "),
    };
}

fn word(out: &mut String, word: Word, style: Style) {
    let colour = match word {
        Word::New => "\x1b[32m",
        Word::Change => "",
        Word::Enslaved => "\x1b[36m",
        Word::Released => "\x1b[33m",
        Word::Gone => "\x1b[31m",
        Word::Loss => "\x1b[1;31m",
    };
    let text = word.as_str();
    let _infallible = match (style.colours && !colour.is_empty(), style.columns) {
        (true, _) => write!(out, "{colour}{text:<8}{RESET} "),
        (false, true) => write!(out, "{text:<8} "),
        (false, false) => write!(out, "{text} "),
    };
}

fn difference(out: &mut String, change: &Change) {
    out.push_str(change.field);
    if let (Value::Flags(old), Value::Flags(new)) = (&change.old, &change.new) {
        for flag in new.iter().filter(|flag| !old.contains(flag)) {
            let _infallible = write!(out, " +{flag}");
        }
        for flag in old.iter().filter(|flag| !new.contains(flag)) {
            let _infallible = write!(out, " -{flag}");
        }
        return;
    }
    if change.old != Value::Absent {
        out.push(' ');
        value(out, &change.old);
        out.push_str(" ->");
    }
    out.push(' ');
    value(out, &change.new);
}

fn value(out: &mut String, value: &Value) {
    match value {
        Value::Absent => out.push_str("none"),
        Value::Number(n) => {
            let _infallible = write!(out, "{n}");
        }
        Value::Bool(true) => out.push_str("on"),
        Value::Bool(false) => out.push_str("off"),
        Value::Text(text) => out.push_str(&safe(text)),
        Value::Flags(flags) => out.push_str(&flags.join(",")),
    }
}

/// Control characters (C0, DEL, C1) as escapes.
fn safe(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        let escaped = text.chars().map(|c| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        });
        Cow::Owned(escaped.collect())
    } else {
        Cow::Borrowed(text)
    }
}
