//! What plugins add to an attach, against the daemon without: shipped ones as they are, and three as somebody writes them
//! who has read no further than the first example (no `reads`, each looks at the tap).
//!
//! Plugins that decide have the kernel do more than it does without them. How much longer that takes is measured by a
//! program that sends the same requests and nothing else; beside the whole ratio stands the one without it, which is what
//! asking the plugins takes.

use super::attacher::Attacher;
use super::report::{Metric, Report, Target, quantile};
use super::rounds::rounds;
use super::world::{Measure, Sample, bridge_name};
use super::{Options, daemon, p50, p99};
use anyhow::{Context as _, Result};
use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tapwire::kernel::executor::Verdict;
use tapwire::kernel::{Executor, LinkKey};
use tapwire::model::{FdbEntry, Ifindex, LinkName, Mtu, PortFlags};
use tapwire::plan::op::{LinkChange, LinkRef, ListAction, Master, Op};

/// Without configuration they have nothing to decide, and their answers are remembered.
const SHIPPED: [&str; 3] = ["mtu", "port_isolation", "fdb_static"];
/// For the same three: each decides about each tap. An MTU, and one request more for port flags, which are counted.
const CONFIGURED: &str = "
[policy.plugin.mtu]
networks = { bench0 = 1400, bench1 = 1400, bench2 = 1400, bench3 = 1400 }
[policy.plugin.port_isolation]
networks = [\"*\"]
[policy.plugin.fdb_static]
entries = [
    { network = \"bench0\", mac = \"52:54:00:00:00:07\", tap = \"tap0-7\" },
    { network = \"bench1\", mac = \"52:54:00:00:00:07\", tap = \"tap1-7\" },
    { network = \"bench2\", mac = \"52:54:00:00:00:07\", tap = \"tap2-7\" },
    { network = \"bench3\", mac = \"52:54:00:00:00:07\", tap = \"tap3-7\" },
]
";
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
    let policy = |files: &[PathBuf]| format!("[policy]\nplugins = {files:?}\n");
    let as_they_are = policy(&shipped);
    let configured = as_they_are.clone() + CONFIGURED;
    compare(options, report, "shipped plugins", as_they_are, false)?;
    compare(options, report, "shipped plugins that decide", configured, false)?;
    compare(
        options,
        report,
        "plugins look",
        policy(&written("look", LOOK)?),
        false,
    )?;
    compare(
        options,
        report,
        "plugins decide",
        policy(&written("decide", DECIDE)?),
        true,
    )
}

/// `decides`: as [`DECIDE`]; what its requests take is told apart.
fn compare(options: &Options, report: &mut Report, what: &str, policy: String, decides: bool) -> Result<()> {
    let target = Target::Ratio(1.15);
    let (taps, many) = if options.quick { (100, 400) } else { (400, 2000) };
    let with = Options {
        baseline: daemon(String::new()),
        subject: daemon(policy),
        sections: Vec::new(),
        ..*options
    };
    let one_by_one = Measure::Sequential { taps };
    let burst = Measure::Burst {
        taps: many,
        bridges: 4,
    };
    let (without, plugins) = rounds(&with, one_by_one, 0)?;
    let names = ["none", "plugins"];
    report.section_of(
        &format!("plugins: {taps} taps, one after the other, three {what}"),
        names,
        &[
            Metric::ratio("p50 us", p50, target),
            Metric::ratio("p99 us", p99, Target::None),
            Metric::ratio("cpu us per tap", |s| s.cpu_us_per_tap, Target::None),
            Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
        ],
        &without,
        &plugins,
    );
    if decides {
        let extra = requests_take(&with, one_by_one, p50)?;
        let mut asking = plugins;
        for us in asking.iter_mut().flat_map(|sample| &mut sample.latency_us) {
            *us -= extra;
        }
        report.section_of(
            &format!("plugins: the same without the {extra:.0} us of the requests that they ask for"),
            names,
            &[Metric::ratio("p50 us", p50, Target::None)],
            &without,
            &asking,
        );
    }
    let (without, plugins) = rounds(&with, burst, 0)?;
    report.section_of(
        &format!("plugins: {many} taps at once, three {what}"),
        names,
        &[
            Metric::ratio("all attached ms", |s| s.burst_ms, target),
            Metric::ratio("peak rss KiB", |s| s.peak_rss_kib as f64, Target::None),
            Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
        ],
        &without,
        &plugins,
    );
    if decides {
        let extra = requests_take(&with, burst, |s| s.burst_ms)?;
        let mut asking = plugins;
        asking.iter_mut().for_each(|sample| sample.burst_ms -= extra);
        report.section_of(
            &format!("plugins: the same without the {extra:.0} ms of the requests that they ask for"),
            names,
            &[Metric::ratio("all attached ms", |s| s.burst_ms, Target::None)],
            &without,
            &asking,
        );
    }
    Ok(())
}

/// What the requests take that [`DECIDE`] asks for: with them, less without them.
fn requests_take(options: &Options, measure: Measure, of: fn(&Sample) -> f64) -> Result<f64> {
    let alone = Options {
        baseline: Attacher::Deciding { decides: false },
        subject: Attacher::Deciding { decides: true },
        sections: Vec::new(),
        ..*options
    };
    let (without, with) = rounds(&alone, measure, 0)?;
    let each: Vec<f64> = without.iter().zip(&with).map(|(a, b)| of(b) - of(a)).collect();
    Ok(quantile(&each, 0.5))
}

/// Attaches taps with the daemon's own requests on bridges that stand: no mirror, no mapping, no log. Says `ready` when
/// subscribed; runs until killed.
pub fn requests(decides: bool) -> Result<()> {
    let mut monitor = super::netlink::Monitor::open().context("monitor socket")?;
    let mut executor = Executor::open()?;
    let mut bridges = Vec::new();
    while let Ok(name) = LinkName::new(&bridge_name(bridges.len()))
        && let Ok(link) = executor.link(LinkKey::Name(name))
    {
        bridges.push(LinkRef {
            name,
            index: Some(link.index),
        });
    }
    let mut known = HashSet::new();
    println!("ready");
    std::io::stdout().flush()?;
    loop {
        monitor.receive(|link| {
            let found = std::str::from_utf8(link.name).ok().and_then(|name| {
                let bridge: usize = name.strip_prefix("tap")?.split('-').next()?.parse().ok()?;
                Some((LinkName::new(name).ok()?, *bridges.get(bridge)?))
            });
            let Some((name, bridge)) = found.filter(|_| link.tun && known.insert(link.index)) else {
                return;
            };
            let tap = LinkRef {
                name,
                index: Ifindex::new(link.index),
            };
            let plan = plan(tap, bridge, decides);
            executor.run(&plan, |at, outcome| {
                if !matches!(outcome.verdict, Verdict::Done) {
                    eprintln!("requests: {name}: {}: {:?}", plan[at], outcome.verdict);
                }
            });
        })?;
    }
}

/// What the daemon does for a new tap, and with `decides` for one about which [`DECIDE`] was asked.
fn plan(tap: LinkRef, bridge: LinkRef, decides: bool) -> Vec<Op> {
    let set = |change| Op::SetLink { link: tap, change };
    let mut plan = vec![
        Op::DisableIpv6 {
            link: tap,
            disable: true,
        },
        set(LinkChange {
            mtu: decides.then(|| Mtu::new(1400).unwrap()),
            master: Some(Master::Set(bridge)),
            ..LinkChange::default()
        }),
    ];
    if decides {
        plan.push(Op::SetPort {
            link: tap,
            flags: PortFlags {
                learning: Some(false),
                ..PortFlags::default()
            },
        });
        plan.push(Op::Fdb {
            action: ListAction::Replace,
            link: tap,
            entry: FdbEntry {
                mac: "52:54:00:00:00:07".parse().unwrap(),
                dst: None,
            },
            vni: None,
        });
    }
    plan.push(set(LinkChange {
        up: Some(true),
        ..LinkChange::default()
    }));
    plan
}
