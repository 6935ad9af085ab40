//! How long a tap waits for its bridge: the daemon against a reference attacher of the same end state.
//!
//! `cargo bench --bench attach -- [--quick] [--section NAME]... [--rounds N] [--check] [--json]`
//!
//! Every measurement runs in a fresh process and a fresh private namespace. Baseline and subject alternate, with taps one
//! after the other every few milliseconds, so that a machine that grows slower grows slower for both. Ratios are the
//! median of the rounds' own ratios.
//! The absolute figures are this machine's; the ratios are what the targets are about.
//!
//! Processes: this one (driver) starts one *world* per measurement (`--world`, see `world`), which starts the
//! *attacher* (see `attacher`): the release binary, or this binary as the reference (`--reference`).

// A bench is no daemon: what fails ends it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacher;
mod guarded;
mod netlink;
mod networks;
mod plugins;
mod reference;
mod report;
mod rounds;
mod world;

use anyhow::{Context as _, Result, bail, ensure};
use attacher::Attacher;
use report::{Metric, Report, Target};
use rounds::{be_world, measured, rounds};
use std::process::ExitCode;
use tapwire::daemon::namespace::enter_private;
use world::{Measure, Sample};

const USAGE: &str = "\
usage: cargo bench --bench attach -- [OPTION]...
  --section NAME       only this one (repeatable): sequential, existing, burst, idle, start, recorder, networks,
                       guarded, plugins
  --quick              fewer taps, rounds and idle seconds: a look, not a result
  --rounds N           rounds per section (default 5)
  --check              exit 1 when a target is missed
  --json               only the JSON line of each section, no table
  --reference-only     the reference against itself: what the ratios' noise is
  --with-plugins FILE  (repeatable) the daemon with these plugins against the daemon without
  --with-config FILE   the daemon with this text after its configuration against the daemon without";

/// As asked for on the command line.
struct Options {
    sections: Vec<String>,
    quick: bool,
    rounds: usize,
    check: bool,
    json: bool,
    baseline: Attacher,
    subject: Attacher,
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--reference", bridges] => reference::run(bridges.parse()?).map(|()| ExitCode::SUCCESS),
        ["--deciding", decides] => plugins::requests(decides.parse()?).map(|()| ExitCode::SUCCESS),
        ["--requests", standing, first] => {
            networks::requests(standing.parse()?, first.parse()?).map(|()| ExitCode::SUCCESS)
        }
        ["--world", task] => be_world(task).map(|()| ExitCode::SUCCESS),
        ["-h" | "--help", ..] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => drive(&parse(&words)?),
    }
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        sections: Vec::new(),
        quick: false,
        rounds: 5,
        check: false,
        json: false,
        baseline: Attacher::Reference,
        subject: daemon(String::new()),
    };
    let mut plugins = Vec::new();
    let mut extra = String::new();
    let mut rounds = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().copied().with_context(|| format!("{word} what?"));
        match *word {
            // Cargo's own.
            "--bench" => {}
            "--section" => options.sections.push(value()?.to_owned()),
            "--quick" => options.quick = true,
            "--rounds" => rounds = Some(value()?.parse()?),
            "--check" => options.check = true,
            "--json" => options.json = true,
            "--reference-only" => options.subject = Attacher::Reference,
            "--with-plugins" => plugins.push(std::fs::canonicalize(value()?)?),
            "--with-config" => extra += &std::fs::read_to_string(value()?)?,
            other => bail!("no option {other}\n{USAGE}"),
        }
    }
    options.rounds = rounds.unwrap_or(if options.quick { 2 } else { 5 });
    ensure!(options.rounds > 0, "no rounds");
    if !plugins.is_empty() {
        extra += &format!("[policy]\nplugins = {plugins:?}\n");
    }
    if !extra.is_empty() {
        options.baseline = options.subject;
        options.subject = daemon(extra);
    }
    Ok(options)
}

fn drive(options: &Options) -> Result<ExitCode> {
    // Root measures before other people's work, inherited by all that is measured; others measure among it.
    // SAFETY: takes no pointers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -15) };
    // Nothing below touches the host's network. Still single-threaded here.
    enter_private()?;
    let mut report = Report::new(options.json, label(&options.baseline), label(&options.subject));
    let known = [
        "sequential",
        "existing",
        "burst",
        "idle",
        "start",
        "recorder",
        "networks",
        "guarded",
        "plugins",
    ];
    for asked in &options.sections {
        ensure!(
            known.contains(&asked.as_str()),
            "no section {asked}: {}",
            known.join(", ")
        );
    }
    for section in known {
        if options.sections.is_empty() || options.sections.iter().any(|asked| asked == section) {
            match section {
                "sequential" => sequential(options, &mut report)?,
                "existing" => existing(options, &mut report)?,
                "burst" => burst(options, &mut report)?,
                "idle" => idle(options, &mut report)?,
                "start" => start(options, &mut report)?,
                "networks" => networks::networks(options, &mut report)?,
                "guarded" => guarded::guarded(options, &mut report)?,
                "plugins" => plugins::plugins(options, &mut report)?,
                _ => recorder(options, &mut report)?,
            }
        }
    }
    Ok(if options.check && report.missed_a_target() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn label(attacher: &Attacher) -> &'static str {
    match attacher {
        Attacher::Reference => "reference",
        Attacher::Daemon { extra, .. } if extra.is_empty() => "tapwire",
        Attacher::Daemon { .. } => "tapwire+",
        Attacher::Deciding { .. } | Attacher::Requests { .. } => "requests",
    }
}

fn sequential(options: &Options, report: &mut Report) -> Result<()> {
    let taps = if options.quick { 100 } else { 400 };
    let (baseline, subject) = rounds(options, Measure::Sequential { taps }, 0)?;
    report.section(
        &format!("sequential: {taps} taps, one after the other"),
        &[
            Metric::ratio("p50 us", p50, Target::Ratio(1.25)),
            Metric::ratio("p99 us", p99, Target::Ratio(1.5)),
            Metric::ratio("cpu us per tap", |s| s.cpu_us_per_tap, Target::Ratio(1.5)),
            Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
        ],
        &baseline,
        &subject,
    );
    Ok(())
}

/// The same attacher with and without existing taps: does a tap wait longer on a full host?
fn existing(options: &Options, report: &mut Report) -> Result<()> {
    let taps = if options.quick { 50 } else { 200 };
    let counts: &[usize] = if options.quick { &[1000] } else { &[1000, 5000] };
    let measure = Measure::Sequential { taps };
    for &count in counts {
        let mut empty = Vec::new();
        let mut full = Vec::new();
        for _ in 0..options.rounds {
            empty.push(measured(&options.subject, measure, 0)?);
            full.push(measured(&options.subject, measure, count)?);
        }
        report.section_of(
            &format!("existing: {count} taps are up already"),
            ["none", "existing"],
            &[
                Metric::ratio("p50 us", p50, Target::Ratio(1.6)),
                Metric::ratio("p99 us", p99, Target::None),
                Metric::ratio("cpu us per tap", |s| s.cpu_us_per_tap, Target::None),
                Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
            ],
            &empty,
            &full,
        );
    }
    Ok(())
}

fn burst(options: &Options, report: &mut Report) -> Result<()> {
    let taps = if options.quick { 400 } else { 2000 };
    let (baseline, subject) = rounds(options, Measure::Burst { taps, bridges: 4 }, 0)?;
    report.section(
        &format!("burst: {taps} taps at once over 4 bridges"),
        &[
            Metric::ratio("all attached ms", |s| s.burst_ms, Target::Ratio(1.15)),
            Metric::ratio("cpu us per tap", |s| s.cpu_us_per_tap, Target::Ratio(1.5)),
            Metric::value("peak rss KiB", |s| s.peak_rss_kib as f64, Target::AtMost(10240.0)),
            Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
        ],
        &baseline,
        &subject,
    );
    Ok(())
}

fn idle(options: &Options, report: &mut Report) -> Result<()> {
    let (taps, seconds) = if options.quick { (200, 5) } else { (1000, 30) };
    let measure = Measure::Idle { taps, seconds };
    let baseline = [measured(&options.baseline, measure, 0)?];
    let subject = [measured(&options.subject, measure, 0)?];
    report.section(
        &format!("idle: {seconds} s with {taps} taps attached"),
        &[Metric::value(
            "wakeups",
            |s| s.wakeups as f64,
            Target::AtMost(0.0),
        )],
        &baseline,
        &subject,
    );
    Ok(())
}

fn start(options: &Options, report: &mut Report) -> Result<()> {
    let (baseline, subject) = rounds(options, Measure::Start, 98)?;
    report.section(
        "start: in sync again on a host with 100 links",
        &[Metric::value("start ms", |s| s.start_ms, Target::AtMost(50.0))],
        &baseline,
        &subject,
    );
    Ok(())
}

/// The daemon with its flight recorder against the same daemon without, alternating within one run: what it costs an
/// attach. Two per cent is less than two runs differ by, so it takes more rounds than the others to see it.
fn recorder(options: &Options, report: &mut Report) -> Result<()> {
    let taps = if options.quick { 100 } else { 400 };
    let without = Options {
        baseline: Attacher::Daemon {
            keys: "flight_recorder = 0\n".to_owned(),
            extra: String::new(),
        },
        subject: daemon(String::new()),
        rounds: options.rounds * 4,
        sections: Vec::new(),
        ..*options
    };
    let (off, on) = rounds(&without, Measure::Sequential { taps }, 0)?;
    report.section_of(
        &format!("recorder: {taps} taps, one after the other"),
        ["off", "on"],
        &[
            Metric::ratio("p50 us", p50, Target::Ratio(1.02)),
            Metric::ratio("cpu us per tap", |s| s.cpu_us_per_tap, Target::None),
            Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
        ],
        &off,
        &on,
    );
    Ok(())
}

fn daemon(extra: String) -> Attacher {
    Attacher::Daemon {
        keys: String::new(),
        extra,
    }
}

fn p50(sample: &Sample) -> f64 {
    report::quantile(&sample.latency_us, 0.50)
}

fn p99(sample: &Sample) -> f64 {
    report::quantile(&sample.latency_us, 0.99)
}
