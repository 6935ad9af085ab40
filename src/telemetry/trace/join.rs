//! The daemon's decisions beside the events they answer.
//!
//! The trace reads the kernel's events itself and, over the control socket (`/v1/trace`, server-sent events), the
//! daemon's decisions: one JSON object each, [`Decision`]. Both stamp with CLOCK_MONOTONIC, and both received the same
//! message within moments of each other. Rule of joining:
//! - a decision answers the **last event of its ifindex received up to `ts_us`** (+ [`SLACK_US`]);
//! - events of that ifindex received after it and up to the decision's end (`ts_us + elapsed_us`, + slack) are caused
//!   by it, unless the kernel names somebody else's port id: cause "own", with the operation that fits;
//! - a decision that fits no event within [`HOLD_US`] gets a line of its own.
//!
//! So lines are held back for [`HOLD_US`] when a daemon is there; without one, nothing is held.

use super::event::{Decided, Line, Object, TraceEvent, Value, Word};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How far apart the two processes may have read the same message, microseconds.
pub const SLACK_US: u64 = 20_000;
/// How long a line waits for its decision, microseconds.
pub const HOLD_US: u64 = 250_000;

/// One decision of the daemon, as `/v1/trace` streams it and as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// CLOCK_MONOTONIC, microseconds, when the daemon received what it answers.
    pub ts_us: u64,
    /// The id that events, plans, operations and logs of one cause share.
    pub cause: u64,
    pub ifindex: u32,
    pub ifname: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Box<str>>,
    /// "disable_ipv6, attach, up", "leave alone: no mapping" ...
    pub decision: Box<str>,
    /// Names of the operations carried out, as in `plan --json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<Box<str>>,
    /// The same as command lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Box<str>>,
    /// "ok", or the error with the kernel's text; absent when nothing was to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Box<str>>,
    /// To the last acknowledgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_us: Option<u64>,
}

impl Decision {
    fn end_us(&self) -> u64 {
        self.ts_us
            .saturating_add(self.elapsed_us.unwrap_or(0))
            .saturating_add(SLACK_US)
    }
}

/// Holds lines back until their decision can have come. Bounded by time on one side and by the kernel's event rate on
/// the other.
#[derive(Debug, Default)]
pub struct Joiner {
    lines: VecDeque<Line>,
    decisions: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    decision: Decision,
    shown: bool,
}

impl Joiner {
    pub fn push(&mut self, line: Line) {
        self.lines.push_back(line);
    }

    pub fn decide(&mut self, decision: Decision) {
        self.decisions.push_back(Pending {
            decision,
            shown: false,
        });
    }

    /// When [`Joiner::release`] has something next; microseconds.
    pub fn deadline_us(&self) -> Option<u64> {
        let line = self.lines.front().map(Line::ts_us);
        let decision = self.decisions.front().map(|p| p.decision.ts_us);
        let first = match (line, decision) {
            (Some(line), Some(decision)) => line.min(decision),
            (line, decision) => line.or(decision)?,
        };
        Some(first.saturating_add(HOLD_US))
    }

    /// Lines that have waited long enough, joined with what was decided. `now_us` as `u64::MAX` empties it.
    pub fn release(&mut self, now_us: u64) -> Vec<Line> {
        let due = |ts: u64| ts.saturating_add(HOLD_US) <= now_us;
        let mut out = Vec::new();
        while self.lines.front().is_some_and(|line| due(line.ts_us())) {
            let Some(mut line) = self.lines.pop_front() else {
                break;
            };
            if let Line::Event(event) = &mut line {
                self.join(event);
            }
            out.push(line);
        }
        // A decision may still cause lines that wait; it goes when it can no longer.
        while self.decisions.front().is_some_and(|p| due(p.decision.end_us())) {
            if let Some(Pending {
                decision,
                shown: false,
            }) = self.decisions.pop_front()
            {
                out.push(Line::Decision(Box::new(decision)));
            }
        }
        out
    }

    fn join(&mut self, event: &mut TraceEvent) {
        if event.object == Object::Other || event.resync {
            return;
        }
        let later = self.lines.iter().filter_map(|line| match line {
            Line::Event(later)
                if later.ifindex == event.ifindex && matches!(later.object, Object::Link | Object::Port) =>
            {
                Some(later.ts_us)
            }
            _ => None,
        });
        let next = later.min();
        for pending in self
            .decisions
            .iter_mut()
            .filter(|p| p.decision.ifindex == event.ifindex)
        {
            let decision = &pending.decision;
            let answered_by = decision.ts_us.saturating_add(SLACK_US);
            // The last one up to the decision, and within slack of it the first that is not after it.
            let last = matches!(event.object, Object::Link | Object::Port)
                && next.is_none_or(|next| next > decision.ts_us);
            if !pending.shown && event.ts_us <= answered_by && last {
                event.decided = Some(Decided {
                    decision: decision.decision.clone(),
                    outcome: decision.outcome.clone(),
                    elapsed_us: decision.elapsed_us,
                });
                pending.shown = true;
                // Often the first event of a device that it made, which is not what it answers.
                if matches!(event.word, Word::New | Word::Gone)
                    && event.object == Object::Link
                    && event.ts_us >= decision.ts_us
                    && event.cause.portid.is_none()
                    && let Some(op) = operation(event, &decision.ops)
                {
                    event.cause.own = true;
                    event.cause.op = Some(op.into());
                }
            } else if event.ts_us >= decision.ts_us
                && event.ts_us <= decision.end_us()
                && (event.cause.own || event.cause.portid.is_none())
                && let Some(op) = operation(event, &decision.ops)
            {
                event.cause.own = true;
                event.cause.op = Some(op.into());
            }
        }
    }
}

/// Which of the operations made this difference; none when no one of them could have: then it was somebody else. Every
/// operation that the kernel tells of (`Op::echo`) has its place here.
fn operation<'a>(event: &TraceEvent, ops: &'a [Box<str>]) -> Option<&'a str> {
    // The likeliest first.
    let any = |names: &[&str]| {
        let carried_out = |name: &&str| ops.iter().map(|op| &**op).find(|op| op == name);
        names.iter().find_map(carried_out)
    };
    match (event.object, event.word) {
        (Object::Fdb, _) => return any(&["fdb"]),
        (Object::Neighbour, _) => return any(&["neighbour"]),
        (Object::Address, _) => return any(&["address", "readdress"]),
        (Object::Route, _) => return any(&["route", "readdress"]),
        (_, Word::New) => return any(&["create_bridge", "create_vlan", "create_vxlan"]),
        (_, Word::Gone) => return any(&["delete_link"]),
        (_, Word::Enslaved) => return any(&["attach"]),
        (_, Word::Released) => return any(&["detach", "attach"]),
        _ => {}
    }
    let changes = |field| event.diff.iter().find(|change| change.field == field);
    let up = changes("flags").and_then(|change| match &change.new {
        Value::Flags(flags) => Some(flags.contains(&"up")),
        _ => None,
    });
    match up {
        Some(true) => any(&["up", "attach"]),
        Some(false) => any(&["down"]),
        None if changes("vlans").is_some() => any(&["vlan", "attach"]),
        // A port begins as it joins; what becomes of it follows the link's own state.
        None if changes("port_state").is_some_and(|change| change.old != Value::Absent) => {
            any(&["up", "down", "attach", "set_port"])
        }
        None if changes("port_state").is_some() => any(&["attach", "set_port", "up"]),
        // A set_link carries MTU, alias and address; they ride on an attach or an up where there is one.
        None if event.object == Object::Port => any(&["set_port", "vlan", "attach", "up"]),
        None => any(&["set_link", "attach", "up", "set_bridge", "set_vxlan"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::op::{Echo, examples};
    use crate::telemetry::trace::{Cause, Change};

    fn event(ts_us: u64, ifindex: u32, word: Word) -> Line {
        Line::Event(Box::new(TraceEvent {
            ts_us,
            seq: 0,
            word,
            object: Object::Link,
            family: "unspec",
            ifindex,
            ifname: "tap0".into(),
            kind: "tap".into(),
            key: None,
            master: None,
            network: None,
            diff: Vec::<Change>::new(),
            cause: Cause::default(),
            decided: None,
            resync: false,
        }))
    }

    fn decision(ts_us: u64, ifindex: u32, elapsed_us: u64) -> Decision {
        Decision {
            ts_us,
            cause: 1,
            ifindex,
            ifname: "tap0".into(),
            network: Some("blue".into()),
            decision: "attach".into(),
            ops: vec!["attach".into(), "up".into()],
            lines: Vec::new(),
            outcome: Some("ok".into()),
            elapsed_us: Some(elapsed_us),
        }
    }

    fn shown(lines: &[Line]) -> Vec<(bool, bool, Option<&str>)> {
        lines
            .iter()
            .map(|line| match line {
                Line::Event(e) => (e.decided.is_some(), e.cause.own, e.cause.op.as_deref()),
                _ => (false, false, Some("a line of its own")),
            })
            .collect()
    }

    #[test]
    fn a_decision_is_shown_on_the_event_it_answers_and_owns_what_follows() {
        let mut joiner = Joiner::default();
        joiner.push(event(1_000, 5, Word::New));
        joiner.push(event(1_000, 6, Word::New));
        joiner.push(event(1_200, 5, Word::Enslaved));
        joiner.push(event(900_000, 5, Word::Change));
        joiner.decide(decision(1_010, 5, 400));
        assert_eq!(joiner.release(100_000), []);
        let lines = joiner.release(u64::MAX);
        assert_eq!(
            shown(&lines),
            [
                (true, false, None),
                (false, false, None),
                (false, true, Some("attach")),
                (false, false, None)
            ]
        );
    }

    #[test]
    fn of_several_operations_the_likeliest_owns_a_difference() {
        let all: Vec<Box<str>> = ["disable_ipv6", "attach", "set_port", "fdb", "up"]
            .map(Into::into)
            .to_vec();
        let state = |word: &str| match word {
            "" => Value::Absent,
            word => Value::Text(word.into()),
        };
        let told = |object, field, old: &str, new| {
            let Line::Event(mut told) = event(0, 7, Word::Change) else {
                unreachable!("an event");
            };
            told.object = object;
            told.diff = vec![Change {
                field,
                old: state(old),
                new,
            }];
            operation(&told, &all).map(str::to_owned)
        };
        let of = |object, field, old, new| told(object, field, old, new).unwrap_or_default();
        let up = Value::Flags(vec!["up", "running"]);
        assert_eq!(of(Object::Link, "flags", "", up), "up");
        assert_eq!(of(Object::Link, "mtu", "", Value::Number(1400)), "attach");
        assert_eq!(of(Object::Port, "learning", "", Value::Bool(false)), "set_port");
        assert_eq!(of(Object::Port, "port_state", "", state("disabled")), "attach");
        assert_eq!(
            of(Object::Port, "port_state", "disabled", state("forwarding")),
            "up"
        );
    }

    /// A trace that wakes up late reads the cause, what was made and what happened to it in one go.
    #[test]
    fn a_device_that_was_made_by_a_decision_is_its_work() {
        let mut joiner = Joiner::default();
        joiner.push(event(2_000, 5, Word::New));
        joiner.push(event(2_000, 6, Word::New));
        joiner.push(event(2_001, 6, Word::Change));
        let mut made = decision(1_010, 6, 600);
        made.ops = vec!["create_bridge".into(), "up".into()];
        joiner.decide(made);
        let lines = joiner.release(u64::MAX);
        assert_eq!(
            shown(&lines)[..2],
            [(false, false, None), (true, true, Some("create_bridge"))]
        );
    }

    #[test]
    fn a_decision_without_its_event_gets_a_line_of_its_own() {
        let mut joiner = Joiner::default();
        joiner.push(event(1_000, 6, Word::New));
        joiner.decide(decision(1_010, 5, 400));
        assert_eq!(
            shown(&joiner.release(u64::MAX)).last(),
            Some(&(false, false, Some("a line of its own")))
        );
        assert_eq!(joiner.deadline_us(), None);
    }

    #[test]
    fn every_operation_that_the_kernel_tells_of_owns_what_it_tells() {
        for op in examples::all() {
            let (object, word, field) = match op.echo() {
                Echo::NewLink => (Object::Link, Word::New, ""),
                Echo::Link => match op.name() {
                    "up" | "down" => (Object::Link, Word::Change, "flags"),
                    _ => (Object::Link, Word::Change, "mtu"),
                },
                Echo::Port => match op.name() {
                    "vlan" => (Object::Port, Word::Change, "vlans"),
                    _ => (Object::Port, Word::Change, "isolated"),
                },
                Echo::Enslaved => (Object::Link, Word::Enslaved, "master"),
                Echo::Released => (Object::Link, Word::Released, "master"),
                Echo::LinkGone => (Object::Link, Word::Gone, ""),
                Echo::Fdb => (Object::Fdb, Word::New, ""),
                Echo::Neighbour => (Object::Neighbour, Word::New, ""),
                Echo::Address => (Object::Address, Word::New, ""),
                Echo::Route => (Object::Route, Word::New, ""),
                Echo::None => continue,
            };
            let Line::Event(mut told) = event(0, 7, word) else {
                continue;
            };
            told.object = object;
            told.diff = vec![Change {
                field,
                old: Value::Absent,
                new: match op.name() {
                    "up" => Value::Flags(vec!["up"]),
                    "down" => Value::Flags(vec!["broadcast"]),
                    _ => Value::Number(1),
                },
            }];
            let ops: [Box<str>; 2] = ["announce".into(), op.name().into()];
            assert_eq!(operation(&told, &ops), Some(op.name()), "{op:?}");
        }
    }
}
