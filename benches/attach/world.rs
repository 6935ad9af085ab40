//! One measurement, in a process and a namespace of its own. The process is the hypervisor that makes the taps, and the
//! observer that sees them attached: the same for both attachers.
//!
//! Time runs from just before `TUNSETIFF` to the reading of the first RTM_NEWLINK that shows the tap with a master and
//! up. Taps are made persistent after the measurement, so that they go with the namespace, all at once.

use super::attacher::{Attacher, Bridges, Running};
use super::netlink::Monitor;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tapwire::kernel::tuntap::{Tap, TapSource};
use tapwire::model::LinkName;

/// Taps per bridge that stands from the start: well under the kernel's 1,023, where enslaving grows expensive.
pub const OLD_PER_BRIDGE: usize = 500;
/// A tap that is not attached by then is missed.
const ATTACH_LIMIT: Duration = Duration::from_secs(5);
const BURST_LIMIT: Duration = Duration::from_secs(60);
/// The bridge tells of its carrier 200-250 ms after the last port came up.
const SILENCE: Duration = Duration::from_millis(400);
const IDLE_WINDOWS: usize = 5;
/// Taps of one turn that are measured, after one that warms the caches up again.
const TURN: usize = 20;

/// What to measure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    pub attacher: Attacher,
    pub measure: Measure,
    /// Taps that are up and attached before the attacher starts.
    pub existing: usize,
    /// For the attacher's configuration, state and log.
    pub folder: PathBuf,
    /// The name of a link to the driver, at both ends: the driver sees it vanish when the namespace is really gone.
    pub tether: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Measure {
    /// Taps made one after the other, each when the one before is attached; [`TURN`] at a time.
    Sequential { taps: usize },
    /// The same on a bridge that many networks share, which the attacher's own configuration names.
    Shared { taps: usize },
    /// Taps made without waiting, over several bridges.
    Burst { taps: usize, bridges: usize },
    /// Sleeps while nothing happens.
    Idle { taps: usize, seconds: u64 },
    /// A second start with everything in place, until in sync.
    Start,
}

impl Measure {
    /// How often it is made in one round. Two bursts a second apart differ by a tenth and more, as they cannot take turns.
    pub fn repeats(self) -> usize {
        match self {
            Self::Burst { .. } => 3,
            _ => 1,
        }
    }

    /// Two worlds can take turns at it.
    pub fn has_turns(self) -> bool {
        matches!(self, Self::Sequential { .. } | Self::Shared { .. })
    }
}

/// What came out. Fields that a measurement does not have are empty or zero.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// One per tap, microseconds.
    pub latency_us: Vec<f64>,
    /// All taps of a burst, milliseconds.
    pub burst_ms: f64,
    pub cpu_us_per_tap: f64,
    pub peak_rss_kib: u64,
    pub missed: usize,
    pub wakeups: u64,
    pub start_ms: f64,
}

/// `br2`, where `tap2-*` belong.
pub fn bridge_name(number: usize) -> String {
    format!("br{number}")
}

/// `oldbr2`, where `old2-*` are.
pub fn old_bridge_name(number: usize) -> String {
    format!("oldbr{number}")
}

/// Measures, in the namespace that the process was started in. `turn` waits until it is this world's turn (again).
pub fn run(task: &Task, turn: &mut dyn FnMut() -> Result<()>) -> Result<Sample> {
    let bridges = Bridges {
        new: match task.measure {
            Measure::Burst { bridges, .. } => bridges,
            Measure::Idle { .. } => 2,
            Measure::Shared { .. } => 0,
            Measure::Sequential { .. } | Measure::Start => 1,
        },
        old: task.existing.div_ceil(OLD_PER_BRIDGE),
    };
    make_existing(task.existing)?;
    if !task.attacher.makes_bridges() {
        for number in 0..bridges.new {
            make_bridge(&bridge_name(number))?;
        }
    }
    let mut observer = Observer {
        monitor: Monitor::open().context("observer")?,
        attached: HashSet::new(),
    };
    let attacher = task.attacher.start(bridges, &task.folder)?;
    observer.monitor.wait_for_silence(SILENCE)?;
    turn()?;
    match task.measure {
        Measure::Sequential { taps } | Measure::Shared { taps } => {
            sequential(&mut observer, &attacher, taps, turn)
        }
        Measure::Burst { taps, bridges } => burst(&mut observer, &attacher, taps, bridges),
        Measure::Idle { taps, seconds } => idle(&mut observer, &attacher, taps, seconds),
        Measure::Start => restart(task, attacher, bridges),
    }
}

fn sequential(
    observer: &mut Observer,
    attacher: &Running,
    count: usize,
    turn: &mut dyn FnMut() -> Result<()>,
) -> Result<Sample> {
    let mut sample = Sample::default();
    let mut taps = Vec::with_capacity(count);
    let before = attacher.usage()?;
    for number in 0..count {
        let is_first = number % (TURN + 1) == 0;
        if is_first && number > 0 {
            turn()?;
        }
        let source = TapSource::open()?;
        let name = tap_name("tap", 0, number)?;
        let begin = Instant::now();
        let tap = source.create(Some(&name))?;
        if observer.wait_attached(tap.index().get(), begin + ATTACH_LIMIT)? {
            let elapsed = begin.elapsed();
            if !is_first {
                sample.latency_us.push(elapsed.as_secs_f64() * 1e6);
            }
        } else {
            sample.missed += 1;
        }
        taps.push(tap);
    }
    finish(&mut sample, attacher, before.cpu_ns, &taps)?;
    Ok(sample)
}

fn burst(observer: &mut Observer, attacher: &Running, count: usize, bridges: usize) -> Result<Sample> {
    let names = (0..count)
        .map(|n| tap_name("tap", n % bridges, n / bridges))
        .collect::<Result<Vec<_>>>()?;
    let mut sample = Sample::default();
    let before = attacher.usage()?;
    let begin = Instant::now();
    let taps = names
        .iter()
        .map(|name| Tap::create(Some(name)))
        .collect::<Result<Vec<_>, _>>()?;
    for tap in &taps {
        if !observer.wait_attached(tap.index().get(), begin + BURST_LIMIT)? {
            sample.missed += 1;
        }
    }
    sample.burst_ms = begin.elapsed().as_secs_f64() * 1e3;
    finish(&mut sample, attacher, before.cpu_ns, &taps)?;
    Ok(sample)
}

/// A link event is a reason to wake up: a window in which one came (a loaded kernel tells of carriers seconds late) says
/// nothing and is repeated.
fn idle(observer: &mut Observer, attacher: &Running, count: usize, seconds: u64) -> Result<Sample> {
    let mut sample = burst(observer, attacher, count, 2)?;
    for _ in 0..IDLE_WINDOWS {
        observer.monitor.wait_for_silence(SILENCE * 4)?;
        let before = attacher.usage()?;
        let end = Instant::now() + Duration::from_secs(seconds);
        let disturbed = observer.monitor.receive_until(end, |_| ())?;
        if !disturbed {
            sample.wakeups = attacher.usage()?.sleeps - before.sleeps;
            return Ok(sample);
        }
    }
    bail!("the kernel does not come to rest");
}

fn restart(task: &Task, first: Running, bridges: Bridges) -> Result<Sample> {
    drop(first);
    let begin = Instant::now();
    let _again = task.attacher.start(bridges, &task.folder)?;
    Ok(Sample {
        start_ms: begin.elapsed().as_secs_f64() * 1e3,
        ..Sample::default()
    })
}

fn finish(sample: &mut Sample, attacher: &Running, cpu_before: u64, taps: &[Tap]) -> Result<()> {
    let usage = attacher.usage()?;
    sample.cpu_us_per_tap = (usage.cpu_ns - cpu_before) as f64 / 1e3 / taps.len().max(1) as f64;
    sample.peak_rss_kib = usage.peak_rss_kib;
    for tap in taps {
        tap.set_persistent(true)?;
    }
    Ok(())
}

/// Sees taps become attached.
struct Observer {
    monitor: Monitor,
    attached: HashSet<u32>,
}

impl Observer {
    fn wait_attached(&mut self, index: u32, deadline: Instant) -> Result<bool> {
        while !self.attached.contains(&index) {
            let attached = &mut self.attached;
            let in_time = self.monitor.receive_until(deadline, |link| {
                if link.describes_link && link.up && link.master != 0 {
                    attached.insert(link.index);
                }
            })?;
            if !in_time {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn make_existing(count: usize) -> Result<()> {
    let mut script = String::new();
    for number in 0..count.div_ceil(OLD_PER_BRIDGE) {
        make_bridge(&old_bridge_name(number))?;
    }
    for number in 0..count {
        let (bridge, port) = (number / OLD_PER_BRIDGE, number % OLD_PER_BRIDGE);
        let name = tap_name("old", bridge, port)?;
        // Closed again: thousands of open files are not given to everybody.
        Tap::create(Some(&name))?.set_persistent(true)?;
        disable_ipv6(&name.to_string())?;
        script += &format!("link set {name} master {} up\n", old_bridge_name(bridge));
    }
    ip_batch(&script)
}

/// With the end state that the daemon gives a bridge (CONTRACT: forward delay 0, explicit MAC and MTU, no IPv6, up).
fn make_bridge(name: &str) -> Result<()> {
    let number = name.bytes().fold(0_u16, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u16::from(byte))
    });
    let [high, low] = number.to_be_bytes();
    ip_batch(&format!(
        "link add {name} address 02:00:00:00:{high:02x}:{low:02x} mtu 1500 type bridge forward_delay 0 stp_state 0\n"
    ))?;
    disable_ipv6(name)?;
    ip_batch(&format!("link set {name} up\n"))
}

fn disable_ipv6(name: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if Path::new(&path).exists() {
        std::fs::write(&path, "1").with_context(|| path)?;
    }
    Ok(())
}

fn ip_batch(script: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("run ip")?;
    child
        .stdin
        .take()
        .context("stdin is piped")?
        .write_all(script.as_bytes())?;
    if !child.wait()?.success() {
        bail!("ip refused: {script}");
    }
    Ok(())
}

fn tap_name(prefix: &str, bridge: usize, number: usize) -> Result<LinkName> {
    Ok(LinkName::new(&format!("{prefix}{bridge}-{number}"))?)
}
