//! Baseline and subject by turns: worlds side by side, one of which is busy.
//!
//! A world says `ready` when it waits for its turn, and instead of the last `ready` its result. A turn with taps one after
//! the other takes some milliseconds: whatever else the machine does then, it does to both.

use super::Options;
use super::attacher::Attacher;
use super::world::{self, Measure, Sample, Task};
use anyhow::{Context as _, Result, bail, ensure};
use std::ffi::CString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tapwire::daemon::namespace::{Entry, explain};

/// Baseline and subject, alternating; who goes first alternates too.
pub fn rounds(options: &Options, measure: Measure, existing: usize) -> Result<(Vec<Sample>, Vec<Sample>)> {
    let (mut baseline, mut subject) = (Vec::new(), Vec::new());
    for round in 0..options.rounds * measure.repeats() {
        let (first, second) = match round % 2 {
            0 => (&options.baseline, &options.subject),
            _ => (&options.subject, &options.baseline),
        };
        let (first, second) = if measure.has_turns() {
            in_turns(first, second, measure, existing)?
        } else {
            let first = measured(first, measure, existing)?;
            (first, measured(second, measure, existing)?)
        };
        let (of_baseline, of_subject) = match round % 2 {
            0 => (first, second),
            _ => (second, first),
        };
        baseline.push(of_baseline);
        subject.push(of_subject);
    }
    Ok((baseline, subject))
}

/// Two worlds side by side, one of which is busy.
fn in_turns(
    first: &Attacher,
    second: &Attacher,
    measure: Measure,
    existing: usize,
) -> Result<(Sample, Sample)> {
    let mut first = World::start(first, measure, existing)?;
    let mut second = World::start(second, measure, existing)?;
    loop {
        match (first.turn()?, second.turn()?) {
            (Some(a), Some(b)) => {
                first.end()?;
                second.end()?;
                return Ok((a, b));
            }
            (None, None) => {}
            _ => bail!("one world is through before the other"),
        }
    }
}

/// One measurement in a world of its own; returns when that world is gone.
pub fn measured(attacher: &Attacher, measure: Measure, existing: usize) -> Result<Sample> {
    let mut world = World::start(attacher, measure, existing)?;
    loop {
        if let Some(sample) = world.turn()? {
            world.end()?;
            return Ok(sample);
        }
    }
}

/// A process in a namespace of its own; see `world`. It does something when it is told that it is its turn.
struct World {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    tether: CString,
    measure: Measure,
    _folder: tempfile::TempDir,
}

impl World {
    /// Returns when everything is prepared.
    fn start(attacher: &Attacher, measure: Measure, existing: usize) -> Result<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let folder = tempfile::tempdir()?;
        let tether = format!("tether{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let task = Task {
            attacher: attacher.clone(),
            measure,
            existing,
            folder: folder.path().to_owned(),
            tether: tether.clone(),
        };
        // In a file: a configuration may be longer than an argument can be.
        let told = folder.path().join("task");
        std::fs::write(&told, serde_json::to_string(&task)?)?;
        let entry = Entry::prepare();
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--world")
            .arg(&told)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: between fork and exec only system calls, which `Entry::enter` is made for.
        unsafe { command.pre_exec(move || entry.enter().map_err(Into::into)) };
        let mut child = command.spawn().map_err(explain)?;
        let stdin = child.stdin.take().context("stdin is piped")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut world = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            tether: CString::new(tether)?,
            measure,
            _folder: folder,
        };
        ensure!(
            world.line()? == "ready",
            "the world says something else than `ready`"
        );
        Ok(world)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "the measurement failed: {:?}", self.measure);
        Ok(line.trim_end().to_owned())
    }

    /// The result, if this was its last turn.
    fn turn(&mut self) -> Result<Option<Sample>> {
        self.stdin.write_all(b"turn\n")?;
        match self.line()?.as_str() {
            "ready" => Ok(None),
            result => Ok(Some(serde_json::from_str(result)?)),
        }
    }

    /// Waits until nothing is left of it. The kernel takes a namespace with thousands of devices apart in the background,
    /// holding the lock that the next measurement needs. Its end of the tether goes in the same step.
    fn end(mut self) -> Result<()> {
        ensure!(
            self.child.wait()?.success(),
            "the measurement failed: {:?}",
            self.measure
        );
        let deadline = Instant::now() + Duration::from_secs(120);
        // SAFETY: the string is terminated and alive through the call.
        while unsafe { libc::if_nametoindex(self.tether.as_ptr()) } != 0 {
            ensure!(Instant::now() < deadline, "the last world does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// The world's side of it.
pub fn be_world(task: &str) -> Result<()> {
    let task: Task = serde_json::from_str(&std::fs::read_to_string(task)?)?;
    // SAFETY: takes nothing, cannot fail.
    let driver = unsafe { libc::getppid() };
    let tether = Command::new("ip")
        .args(["link", "add", &task.tether, "type", "veth"])
        .args(["peer", "name", &task.tether, "netns", &driver.to_string()])
        .status()
        .context("run ip")?;
    ensure!(tether.success(), "no veth pair to the driver");
    let mut turn = || {
        println!("ready");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        ensure!(line == "turn\n", "the driver is gone");
        Ok(())
    };
    let sample = world::run(&task, &mut turn)?;
    println!("{}", serde_json::to_string(&sample)?);
    Ok(())
}
