//! Golden scenarios: a folder per case in `tests/scenarios/`.
//!
//! `given.toml` is a configuration as an operator writes it; `events.jsonl` is what happens, one step a line (the steps are
//! in `step`); `expected.txt` is what the program did after each step, operation by operation as iproute2 would write it,
//! what it said, and how ports, networks and devices stand at the end.

pub mod step;
mod verdicts;

use crate::fake_kernel::Kernel;
use crate::fake_kernel::host::Host;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use step::Step;
use tapwire::desired::Desired;
use tapwire::engine::note::{Note, What};
use tapwire::model::LinkKind;
use tapwire::{config, daemon};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// A configuration and what the program makes of it. The host's name is fixed: derived addresses depend on it.
pub fn read_desired(path: &Path) -> (Desired, Option<Duration>) {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let config = config::load_str(&text, path).unwrap_or_else(|report| panic!("{report}"));
    let desired = daemon::sources::desired(&config, &daemon::sources::Told::default(), "host");
    (desired, config.daemon.prune_after)
}

/// The first scenario whose name begins so, told; `look` is called before each step and sees the world as it is.
pub fn tell(story: &str, look: &mut dyn FnMut(&mut Host)) -> Host {
    let case = fs::read_dir(folder())
        .expect("tests/scenarios")
        .map(|entry| entry.expect("a folder").path())
        .find(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(story))
        })
        .unwrap_or_else(|| panic!("no scenario {story}"));
    let (desired, prune_after) = read_desired(&case.join("given.toml"));
    let mut host = Host::new(Kernel::default(), desired, prune_after);
    let lines = fs::read_to_string(case.join("events.jsonl")).expect("events.jsonl");
    for line in lines
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
    {
        look(&mut host);
        let step: Step = serde_json::from_str(line).expect("a step");
        step.take(&mut host, &case, &mut String::new());
    }
    host
}

/// One case: runs it and returns the transcript.
fn play(case: &Path) -> String {
    let (desired, prune_after) = read_desired(&case.join("given.toml"));
    let mut host = Host::new(Kernel::default(), desired, prune_after);
    // A recording holds the engine as it was: what is read back goes on in the same way.
    host.rewrites = true;
    let mut text = String::new();
    let lines = fs::read_to_string(case.join("events.jsonl")).expect("events.jsonl");
    for (at, line) in lines.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        if line.starts_with('#') {
            let _infallible = writeln!(text, "{line}");
            continue;
        }
        let step: Step = serde_json::from_str(line)
            .unwrap_or_else(|e| panic!("{}/events.jsonl:{}: {e}", case.display(), at + 1));
        let _infallible = writeln!(text, "> {line}");
        step.take(&mut host, case, &mut text);
        report(&mut host, &mut text);
    }
    final_state(&host, &mut text);
    for breach in &host.breaches {
        let _infallible = writeln!(text, "BROKEN RULE {breach}");
    }
    assert!(host.breaches.is_empty(), "{}:\n{text}", case.display());
    text
}

fn report(host: &mut Host, text: &mut String) {
    for operation in host.take_operations() {
        let _infallible = match operation.error {
            None => writeln!(text, "  {}", operation.line),
            Some(error) => writeln!(text, "  {} => {error}", operation.line),
        };
    }
    for note in std::mem::take(&mut host.notes) {
        if let Some(line) = say(&note) {
            let _infallible = writeln!(text, "  * {line}");
        }
    }
}

fn say(note: &Note) -> Option<String> {
    let with = |text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            format!(": {text}")
        }
    };
    Some(match &note.what {
        What::TapAppeared { .. } => return None,
        What::TapGone { port, .. } => format!("{} is gone", port.name),
        What::Port {
            port, state, remark, ..
        } => {
            let remark = remark.as_ref().map_or(String::new(), |r| format!(" ({r})"));
            format!(
                "{} {}{}{remark}",
                port.name,
                state.word(),
                with(&state.to_string())
            )
        }
        What::Network { network, state } => {
            format!("network {network} {}{}", state.word(), with(&state.to_string()))
        }
        What::Gateway { network, state } => format!(
            "gateway of network {network} {}{}",
            state.word(),
            with(&state.to_string())
        ),
        What::Failed { op, error, .. } => format!("failed: {op}: {error}"),
        What::Resync { reason } => format!("resync: {reason}"),
        What::InSync { links, taps } => format!("in sync: {links} links, {taps} taps"),
        What::Service { network, state } => {
            format!(
                "dnsmasq of {network} {}{}",
                state.word(),
                with(&state.to_string())
            )
        }
        What::Pruned { device } => format!("pruned {device}"),
        What::AddressesMoved {
            from,
            to,
            addresses,
            routes,
        } => format!("{addresses} addresses and {routes} routes moved from {from} to {to}"),
        What::Drift { device, .. } => format!("drift: {device}"),
        What::TapChanged { .. } | What::Mapped { .. } => return None,
    })
}

fn final_state(host: &Host, text: &mut String) {
    let mut line = |l: String| text.push_str(&(l + "\n"));
    line("= ports".to_owned());
    for (index, tap) in host.engine.taps() {
        let remark = tap.remark.as_ref().map_or(String::new(), |r| format!(" ({r})"));
        let reason = tap.state.to_string();
        let reason = if reason.is_empty() {
            String::new()
        } else {
            format!(": {reason}")
        };
        line(format!(
            "{} #{index} {}{reason}{remark}",
            tap.name,
            tap.state.word()
        ));
    }
    line("= networks".to_owned());
    for network in host.engine.desired().networks() {
        let state = host.engine.network_state(network);
        let reason = state.to_string();
        let reason = if reason.is_empty() {
            String::new()
        } else {
            format!(": {reason}")
        };
        let server = host.engine.service_state(&network.id);
        let server = server.map_or_else(String::new, |s| format!(", dnsmasq {}", s.word()));
        line(format!("{} {}{reason}{server}", network.id, state.word()));
    }
    line("= devices".to_owned());
    for device in host.kernel.devices() {
        line(step::describe(&host.kernel, device));
    }
    if !host.kernel.routes.is_empty() {
        line("= routes".to_owned());
        for route in &host.kernel.routes {
            line(
                tapwire::plan::op::Op::Route {
                    action: tapwire::plan::op::ListAction::Add,
                    record: Box::new(route.clone()),
                }
                .to_string(),
            );
        }
    }
    line("= plan".to_owned());
    for planned in host.engine.preview() {
        line(format!("{} ({})", planned.op, planned.cause));
    }
}

#[test]
fn each_scenario_goes_as_written() {
    let bless = std::env::var_os("TAPWIRE_BLESS").is_some();
    let only = std::env::var("TAPWIRE_SCENARIO").unwrap_or_default();
    let mut cases: Vec<PathBuf> = fs::read_dir(folder())
        .expect("tests/scenarios")
        .map(|entry| entry.expect("a folder").path())
        .filter(|path| path.is_dir() && path.to_string_lossy().contains(&only))
        .collect();
    cases.sort();
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case.file_name().expect("a name").to_string_lossy().into_owned();
        let text = match std::panic::catch_unwind(|| play(case)) {
            Ok(text) => text,
            Err(_) => {
                wrong.push(format!("{name}: see above"));
                continue;
            }
        };
        let expected = case.join("expected.txt");
        if bless {
            fs::write(&expected, &text).expect("expected.txt");
            continue;
        }
        let known = fs::read_to_string(&expected).unwrap_or_default();
        if known != text {
            wrong.push(format!("{name}:\n{}", difference(&known, &text)));
        }
    }
    assert!(
        only.is_empty() && cases.len() >= 25 || !only.is_empty(),
        "{} cases",
        cases.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {} scenarios differ (TAPWIRE_BLESS=1 rewrites them):\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// From the first line that differs.
fn difference(expected: &str, actual: &str) -> String {
    let same = expected
        .lines()
        .zip(actual.lines())
        .take_while(|(a, b)| a == b)
        .count();
    let part = |text: &str, mark: char| {
        text.lines()
            .skip(same)
            .take(12)
            .map(|line| format!("  {mark} {line}\n"))
            .collect::<String>()
    };
    format!(
        "  line {}:\n{}{}",
        same + 1,
        part(expected, '-'),
        part(actual, '+')
    )
}

/// A bridge, tap or uplink is what everybody means by it.
pub fn kind_word(kind: &LinkKind) -> &str {
    match kind.name() {
        "" => "physical",
        word => word,
    }
}
