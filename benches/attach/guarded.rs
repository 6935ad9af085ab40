//! What the spoof guard adds to an attach.

use super::report::{Metric, Report, Target};
use super::rounds::rounds;
use super::world::{Measure, OLD_PER_BRIDGE};
use super::{Options, daemon, p50, p99};
use anyhow::Result;

/// The same ports with the spoof guard and without, alternating within one run, on a host where many more are guarded.
pub fn guarded(options: &Options, report: &mut Report) -> Result<()> {
    let (taps, existing) = if options.quick { (100, 200) } else { (400, 1000) };
    let with = |port_security: bool| {
        let old = (0..existing).map(|n| format!("old{}-{}", n / OLD_PER_BRIDGE, n % OLD_PER_BRIDGE));
        let new = (0..taps).map(|n| format!("tap0-{n}"));
        let ports = (0..).zip(old.chain(new));
        daemon(
            ports
                .map(|(n, tap)| guarded_port(n, &tap, port_security))
                .collect(),
        )
    };
    let unequal = Options {
        baseline: with(false),
        subject: with(true),
        sections: Vec::new(),
        ..*options
    };
    let (without, guarded) = rounds(&unequal, Measure::Sequential { taps }, existing)?;
    report.section_of(
        &format!("guarded: {taps} taps, one after the other, {existing} are guarded already"),
        ["without", "guarded"],
        &[
            Metric::ratio("p50 us", p50, Target::Ratio(1.15)),
            // The guard's entries are a part of it.
            Metric::value("whole p50 us", p50, Target::AtMost(1000.0)),
            Metric::ratio("p99 us", p99, Target::None),
            Metric::ratio("cpu us per tap", |s| s.cpu_us_per_tap, Target::None),
            Metric::ratio("peak rss KiB", |s| s.peak_rss_kib as f64, Target::None),
            Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
        ],
        &without,
        &guarded,
    );
    Ok(())
}

fn guarded_port(number: u16, tap: &str, port_security: bool) -> String {
    let [high, low] = number.to_be_bytes();
    let network = tap.split('-').next().unwrap_or(tap).replace("tap", "bench");
    format!(
        "[[port]]\ntap = \"{tap}\"\nnetwork = \"{network}\"\nport_security = {port_security}\n\
         mac = \"fa:16:3e:00:{high:02x}:{low:02x}\"\naddresses = [\"10.0.{high}.{low}\", \"2001:db8::{number:x}\"]\n"
    )
}
