//! What plugins add to an attach: three of them, as somebody writes them who has read no further than the first example
//! (no `reads`, each looks at the tap), against the daemon without.

use super::report::{Metric, Report, Target};
use super::rounds::rounds;
use super::world::Measure;
use super::{Options, daemon, p50, p99};
use anyhow::Result;

/// They look and have no opinion: what asking costs.
const LOOK: [&str; 3] = [
    "if ctx.network.id == 'none' or ctx.link.name:match('^gw') then return { mtu = 1400 } end",
    "if ctx.link.kind ~= 'tap' then return { port = { learning = false } } end",
    "if ctx.network.network_type == 'flat' and ctx.link.mac then return { fdb = { { mac = ctx.link.mac } } } end",
];
/// They decide: what is asked of the kernel besides is in it.
const DECIDE: [&str; 3] = [
    "if ctx.network.id ~= 'none' and ctx.link.name:match('^tap') then return { mtu = 1400 } end",
    "if ctx.link.kind == 'tap' then return { port = { learning = false } } end",
    "if ctx.network.network_type == 'local' then return { fdb = { { mac = '52:54:00:00:00:07' } } } end",
];

pub fn plugins(options: &Options, report: &mut Report) -> Result<()> {
    let (taps, many) = if options.quick { (100, 400) } else { (400, 2000) };
    for (name, bodies) in [("look", LOOK), ("decide", DECIDE)] {
        let folder = tempfile::tempdir()?;
        let mut files = Vec::new();
        for (n, body) in bodies.iter().enumerate() {
            let file = folder.path().join(format!("{name}{n}.lua"));
            std::fs::write(
                &file,
                format!("return {{ api = 1, port = function(ctx)\n{body}\nend }}\n"),
            )?;
            files.push(file);
        }
        let with = Options {
            baseline: daemon(String::new()),
            subject: daemon(format!("[policy]\nplugins = {files:?}\n")),
            sections: Vec::new(),
            ..*options
        };
        let (without, plugins) = rounds(&with, Measure::Sequential { taps }, 0)?;
        report.section_of(
            &format!("plugins: {taps} taps, one after the other, three plugins {name}"),
            ["none", "plugins"],
            &[
                Metric::ratio("p50 us", p50, Target::Ratio(1.15)),
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
            &format!("plugins: {many} taps at once, three plugins {name}"),
            ["none", "plugins"],
            &[
                Metric::ratio("all attached ms", |s| s.burst_ms, Target::Ratio(1.15)),
                Metric::ratio("peak rss KiB", |s| s.peak_rss_kib as f64, Target::None),
                Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
            ],
            &without,
            &plugins,
        );
    }
    Ok(())
}
