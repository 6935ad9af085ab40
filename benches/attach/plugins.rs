//! What plugins add to an attach, against the daemon without: shipped ones as they are, and three as somebody writes them
//! who has read no further than the first example (no `reads`, each looks at the tap).

use super::report::{Metric, Report, Target};
use super::rounds::rounds;
use super::world::Measure;
use super::{Options, daemon, p50, p99};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Without configuration they have nothing to decide, and their answers are remembered.
const SHIPPED: [&str; 3] = ["mtu", "port_isolation", "fdb_static"];
/// They look and have no opinion: what asking costs.
const LOOK: [&str; 3] = [
    "if ctx.network.id == 'none' or ctx.link.name:match('^gw') then return { mtu = 1400 } end",
    "if ctx.link.kind ~= 'tap' then return { port = { learning = false } } end",
    "if ctx.network.network_type == 'flat' and ctx.link.mac then return { fdb = { { mac = ctx.link.mac } } } end",
];
/// They decide: an MTU and two requests more (port flags, an entry), which are counted too.
const DECIDE: [&str; 3] = [
    "if ctx.network.id ~= 'none' and ctx.link.name:match('^tap') then return { mtu = 1400 } end",
    "if ctx.link.kind == 'tap' then return { port = { learning = false } } end",
    "if ctx.network.network_type == 'local' then return { fdb = { { mac = '52:54:00:00:00:07' } } } end",
];

pub fn plugins(options: &Options, report: &mut Report) -> Result<()> {
    let shipped = SHIPPED.map(|name| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("plugins")
            .join(name)
            .with_extension("lua")
    });
    let folder = tempfile::tempdir()?;
    let write = |name: &str, body: &str| -> Result<PathBuf> {
        let file = folder.path().join(name).with_extension("lua");
        std::fs::write(
            &file,
            format!("return {{ api = 1, port = function(ctx)\n{body}\nend }}\n"),
        )?;
        Ok(file)
    };
    let written = |name: &str, bodies: [&str; 3]| -> Result<Vec<PathBuf>> {
        let numbered = bodies.iter().enumerate();
        numbered
            .map(|(n, body)| write(&format!("{name}{n}"), body))
            .collect()
    };
    compare(options, report, "shipped plugins", &shipped)?;
    compare(options, report, "plugins look", &written("look", LOOK)?)?;
    compare(options, report, "plugins decide", &written("decide", DECIDE)?)
}

fn compare(options: &Options, report: &mut Report, what: &str, files: &[PathBuf]) -> Result<()> {
    let target = Target::Ratio(1.15);
    let (taps, many) = if options.quick { (100, 400) } else { (400, 2000) };
    let with = Options {
        baseline: daemon(String::new()),
        subject: daemon(format!("[policy]\nplugins = {files:?}\n")),
        sections: Vec::new(),
        ..*options
    };
    let (without, plugins) = rounds(&with, Measure::Sequential { taps }, 0)?;
    report.section_of(
        &format!("plugins: {taps} taps, one after the other, three {what}"),
        ["none", "plugins"],
        &[
            Metric::ratio("p50 us", p50, target),
            Metric::ratio("p99 us", p99, Target::None),
            Metric::ratio("cpu us per tap", |s| s.cpu_us_per_tap, Target::None),
            Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
        ],
        &without,
        &plugins,
    );
    let burst = Measure::Burst {
        taps: many,
        bridges: 4,
    };
    let (without, plugins) = rounds(&with, burst, 0)?;
    report.section_of(
        &format!("plugins: {many} taps at once, three {what}"),
        ["none", "plugins"],
        &[
            Metric::ratio("all attached ms", |s| s.burst_ms, target),
            Metric::ratio("peak rss KiB", |s| s.peak_rss_kib as f64, Target::None),
            Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
        ],
        &without,
        &plugins,
    );
    Ok(())
}
