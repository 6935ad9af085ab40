//! Ten networks or a thousand on the VLAN-aware bridge: does a tap wait longer for its port where there are more?
//!
//! VXLAN networks, all standing; taps spread over them. Where a kernel does not filter by VLAN it is said and left out.
//! Under user-mode Linux: `tests/rigs/vmrun -k uml -m 1500 -- target/release/deps/attach-* --section networks`.

use super::attacher::Attacher;
use super::report::{Metric, Report, Target};
use super::world::Measure;
use super::{Options, daemon, p50, p99, rounds};
use anyhow::{Result, ensure};
use std::fmt::Write as _;
use std::process::{Command, Stdio};

/// Spreads the taps: it has no factor in common with either number of networks.
const STRIDE: usize = 7;

pub fn networks(options: &Options, report: &mut Report) -> Result<()> {
    if !kernel_filters_by_vlan()? {
        let asked = options.sections.iter().any(|section| section == "networks");
        ensure!(!asked, "this kernel does not filter by VLAN");
        eprintln!("networks: left out, this kernel does not filter by VLAN");
        return Ok(());
    }
    let taps = if options.quick { 100 } else { 400 };
    let many = Options {
        baseline: with_networks(10, taps),
        subject: with_networks(1000, taps),
        sections: Vec::new(),
        ..*options
    };
    let (few, many) = rounds(&many, Measure::Shared { taps }, 0)?;
    report.section_of(
        &format!("networks: {taps} taps on a VLAN-aware bridge, one after the other"),
        ["10", "1000"],
        &[
            Metric::ratio("p50 us", p50, Target::Ratio(1.3)),
            Metric::ratio("p99 us", p99, Target::None),
            Metric::ratio("cpu us per tap", |s| s.cpu_us_per_tap, Target::None),
            Metric::value("peak rss KiB", |s| s.peak_rss_kib as f64, Target::None),
            Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
        ],
        &few,
        &many,
    );
    Ok(())
}

/// In the driver's own private namespace.
fn kernel_filters_by_vlan() -> Result<bool> {
    let ip = |arguments: &str| {
        let mut command = Command::new("ip");
        command.args(arguments.split(' ')).stderr(Stdio::null());
        command.status().map(|status| status.success())
    };
    let has = ip("link add probe type bridge vlan_filtering 1")?;
    if has {
        ip("link delete probe")?;
    }
    Ok(has)
}

fn with_networks(count: usize, taps: usize) -> Attacher {
    let mut text = String::from(
        "[bridge]\nmode = \"vlan-aware\"\n[vxlan]\nlocal_ip = \"127.0.0.1\"\nl2_population = true\n",
    );
    // Writing to a String cannot fail.
    for number in 0..count {
        let _ = write!(
            text,
            "[[network]]\nid = \"n{number}\"\nnetwork_type = \"vxlan\"\nsegmentation_id = {}\nmtu = 1450\n\
             prewarm = true\n[[network.peer]]\nvtep = \"127.0.0.2\"\n",
            10_000 + number
        );
    }
    for number in 0..taps {
        let network = number * STRIDE % count;
        let _ = write!(
            text,
            "[[port]]\ntap = \"tap0-{number}\"\nnetwork = \"n{network}\"\n"
        );
    }
    daemon(text)
}
