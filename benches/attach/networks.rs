//! Ten networks or a thousand on the VLAN-aware bridge: does a tap wait longer for its port where there are more?
//!
//! VXLAN networks that stand, and taps of two kinds, as many of each beside ten networks as beside a thousand: taps of ten
//! networks that stand already, and first taps, each of a network that nothing stands for yet (its VLAN, VNI and forwarding
//! entry come with the tap). VNIs are VLAN ids with gaps: the kernel cannot tell them as ranges. What the kernel itself
//! takes longer for is measured too, by a program that sends the same requests and nothing else (`requests`).
//!
//! Where a kernel does not filter by VLAN it is said and left out. Under user-mode Linux:
//! `tests/rigs/vmrun -k uml -m 1500 -- target/release/deps/attach-* --section networks`.

use super::attacher::Attacher;
use super::report::{Metric, Report, Target};
use super::rounds::rounds;
use super::world::Measure;
use super::{Options, daemon, p50, p99};
use anyhow::{Context as _, Result, ensure};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use tapwire::kernel::executor::Verdict;
use tapwire::kernel::{Executor, LinkKey};
use tapwire::model::{FdbEntry, Ifindex, LinkName, Mac, Mtu, Vid, VlanRow, Vni, VniRow};
use tapwire::plan::op::{LinkChange, LinkRef, ListAction, Master, Op};

/// Standing networks that get taps, whatever their number.
const SERVED: usize = 10;
const PEER: &str = "127.0.0.2";
const MTU: i64 = 1450;

pub fn networks(options: &Options, report: &mut Report) -> Result<()> {
    if !kernel_filters_by_vlan()? {
        let asked = options.sections.iter().any(|section| section == "networks");
        ensure!(!asked, "this kernel does not filter by VLAN");
        eprintln!("networks: left out, this kernel does not filter by VLAN");
        return Ok(());
    }
    let taps = if options.quick { 50 } else { 200 };
    for (first, what) in [
        (false, "taps of networks that stand"),
        (true, "first taps of their networks"),
    ] {
        for alone in [true, false] {
            let with = |standing| {
                let extra = configuration(standing, taps, first);
                match alone {
                    true => Attacher::Requests {
                        extra,
                        standing,
                        first,
                    },
                    false => daemon(extra),
                }
            };
            let many = Options {
                baseline: with(10),
                subject: with(1000),
                sections: Vec::new(),
                ..*options
            };
            let (few, many) = rounds(&many, Measure::Shared { taps }, 0)?;
            let (who, target) = match alone {
                true => ("the requests alone", Target::None),
                false => ("the daemon", Target::Ratio(1.3)),
            };
            report.section_of(
                &format!("networks: {taps} {what}, {who}"),
                ["10", "1000"],
                &[
                    Metric::ratio("p50 us", p50, target),
                    Metric::ratio("p99 us", p99, Target::None),
                    Metric::ratio("cpu us per tap", |s| s.cpu_us_per_tap, Target::None),
                    Metric::value("peak rss KiB", |s| s.peak_rss_kib as f64, Target::None),
                    Metric::value("missed", |s| s.missed as f64, Target::AtMost(0.0)),
                ],
                &few,
                &many,
            );
        }
    }
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

/// Every fourth VNI stands, the ones behind them are those of new networks.
fn standing_vni(number: usize) -> usize {
    2 + 4 * number
}

fn vni_of_tap(tap: usize, standing: usize, first: bool) -> usize {
    if first {
        standing_vni(tap) + 1
    } else {
        standing_vni(tap % SERVED * (standing / SERVED))
    }
}

fn configuration(standing: usize, taps: usize, first: bool) -> String {
    let mut text = String::from(
        "[bridge]\nmode = \"vlan-aware\"\n[vxlan]\nlocal_ip = \"127.0.0.1\"\nl2_population = true\n",
    );
    let mut network = |vni: usize, prewarm: bool| {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[network]]\nid = \"n{vni}\"\nnetwork_type = \"vxlan\"\nsegmentation_id = {vni}\nmtu = {MTU}\n\
             prewarm = {prewarm}\n[[network.peer]]\nvtep = \"{PEER}\"\n"
        );
    };
    for number in 0..standing {
        network(standing_vni(number), true);
    }
    if first {
        for number in 0..taps {
            network(standing_vni(number) + 1, false);
        }
    }
    for tap in 0..taps {
        let vni = vni_of_tap(tap, standing, first);
        let _ = write!(text, "[[port]]\ntap = \"tap0-{tap}\"\nnetwork = \"n{vni}\"\n");
    }
    text
}

/// Attaches taps with the daemon's own requests, in a world that a daemon made and left: no mirror, no mapping, no log.
/// Says `ready` when subscribed; runs until killed.
pub fn requests(standing: usize, first: bool) -> Result<()> {
    let mut monitor = super::netlink::Monitor::open().context("monitor socket")?;
    let mut executor = Executor::open()?;
    let mut by_name = |name: &str| -> Result<LinkRef> {
        let name = LinkName::new(name)?;
        let index = executor.link(LinkKey::Name(name))?.index;
        Ok(LinkRef {
            name,
            index: Some(index),
        })
    };
    let (bridge, vxlan) = (by_name("brvlan")?, by_name("vxlan-shared")?);
    let mut known = HashSet::new();
    println!("ready");
    std::io::stdout().flush()?;
    loop {
        monitor.receive(|link| {
            let Some(tap) = std::str::from_utf8(link.name).ok().and_then(|name| {
                let number = name.strip_prefix("tap0-")?.parse().ok()?;
                Some((LinkName::new(name).ok()?, number))
            }) else {
                return;
            };
            if !link.tun || !known.insert(link.index) {
                return;
            }
            let (name, number): (LinkName, usize) = tap;
            let tap = LinkRef {
                name,
                index: Ifindex::new(link.index),
            };
            let plans = match plans(tap, bridge, vxlan, vni_of_tap(number, standing, first), first) {
                Ok(plans) => plans,
                Err(error) => {
                    eprintln!("requests: {name}: {error:#}");
                    return;
                }
            };
            for plan in plans {
                executor.run(&plan, |at, outcome| {
                    if !matches!(outcome.verdict, Verdict::Done) {
                        eprintln!("requests: {name}: {}: {:?}", plan[at], outcome.verdict);
                    }
                });
            }
        })?;
    }
}

/// Sent together where the daemon sends them together.
fn plans(tap: LinkRef, bridge: LinkRef, vxlan: LinkRef, vni: usize, first: bool) -> Result<Vec<Vec<Op>>> {
    let (vid, vni) = (Vid::new(i64::try_from(vni)?)?, Vni::new(i64::try_from(vni)?)?);
    let mut plans = Vec::new();
    if first {
        plans.push(vec![
            Op::Vni {
                action: ListAction::Add,
                link: vxlan,
                row: VniRow { vni, group: None },
            },
            Op::Vlan {
                action: ListAction::Add,
                link: vxlan,
                row: VlanRow::tunnel(vid, vni),
            },
        ]);
        plans.push(vec![Op::Fdb {
            action: ListAction::Append,
            link: vxlan,
            entry: FdbEntry {
                mac: Mac::ZERO,
                dst: Some(PEER.parse()?),
            },
            vni: Some(vni),
        }]);
    }
    plans.push(vec![
        Op::DisableIpv6 {
            link: tap,
            disable: true,
        },
        Op::SetLink {
            link: tap,
            change: LinkChange {
                mtu: Some(Mtu::new(MTU)?),
                master: Some(Master::Set(bridge)),
                ..LinkChange::default()
            },
        },
        Op::Vlan {
            action: ListAction::Add,
            link: tap,
            row: VlanRow::access(vid),
        },
        Op::SetLink {
            link: tap,
            change: LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        },
    ]);
    Ok(plans)
}
