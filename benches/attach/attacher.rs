//! What is measured: the reference attacher or the daemon, as a child process in the world's namespace.

use super::world::{bridge_name, old_bridge_name};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(60);

/// Which attacher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attacher {
    Reference,
    /// The release binary, with further keys of `[daemon]` and text appended to its configuration (plugins, networks ...).
    Daemon {
        keys: String,
        extra: String,
    },
    /// Its requests alone on bridges that stand: with those that deciding plugins ask for, or without (`plugins::requests`).
    Deciding {
        decides: bool,
    },
    /// In a world that such a daemon made before it was killed: its requests alone (`networks::requests`).
    Requests {
        extra: String,
        standing: usize,
        first: bool,
    },
}

/// The bridges of a world: those that get taps, and those whose taps are there from the start.
#[derive(Debug, Clone, Copy)]
pub struct Bridges {
    pub new: usize,
    pub old: usize,
}

/// A running attacher; killed when dropped.
#[derive(Debug)]
pub struct Running(Child);

/// What the kernel counted for it.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU time of all threads, nanoseconds.
    pub cpu_ns: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// `VmHWM`, KiB.
    pub peak_rss_kib: u64,
}

impl Attacher {
    /// Starts it and waits until it serves new taps: the reference's `ready`, the daemon's `READY=1` (in sync).
    pub fn start(&self, bridges: Bridges, folder: &Path) -> Result<Running> {
        match self {
            Attacher::Reference => start_reference(&["--reference", &bridges.new.to_string()]),
            Attacher::Deciding { decides } => start_reference(&["--deciding", &decides.to_string()]),
            Attacher::Requests {
                extra,
                standing,
                first,
            } => {
                drop(start_daemon(bridges, "", extra, folder)?);
                start_reference(&["--requests", &standing.to_string(), &first.to_string()])
            }
            Attacher::Daemon { keys, extra } => start_daemon(bridges, keys, extra, folder),
        }
    }

    /// Somebody must make the bridges; the daemon makes its own.
    pub fn makes_bridges(&self) -> bool {
        !matches!(self, Attacher::Reference | Attacher::Deciding { .. })
    }
}

impl Running {
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage {
            cpu_ns: 0,
            sleeps: 0,
            peak_rss_kib: 0,
        };
        for task in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let task = task?.path();
            let times = fs::read_to_string(task.join("schedstat")).context("the kernel has no schedstat")?;
            let on_cpu = times.split_whitespace().next().unwrap_or_default();
            usage.cpu_ns += on_cpu.parse::<u64>().context("schedstat")?;
            let status = fs::read_to_string(task.join("status"))?;
            usage.sleeps += field(&status, "voluntary_ctxt_switches:")?;
            usage.peak_rss_kib = field(&status, "VmHWM:")?;
        }
        Ok(usage)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn field(status: &str, name: &str) -> Result<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .with_context(|| format!("no {name} in /proc"))?;
    let number = line.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("{name} {line}"))
}

fn start_reference(arguments: &[&str]) -> Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    die_with_parent(&mut command);
    let mut child = command.spawn().context("start the reference")?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let running = Running(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line != "ready\n" {
        bail!("the reference did not start");
    }
    Ok(running)
}

fn start_daemon(bridges: Bridges, keys: &str, extra: &str, folder: &Path) -> Result<Running> {
    let configuration = folder.join("tapwire.toml");
    fs::write(&configuration, configuration_text(bridges, keys, extra, folder))?;
    let notify = NotifySocket::bind(folder)?;
    let log = fs::File::create(folder.join("log"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapwire"));
    command
        .args(["run", "--config"])
        .arg(&configuration)
        .env("NOTIFY_SOCKET", &notify.path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    die_with_parent(&mut command);
    let running = Running(command.spawn().context("start tapwire")?);
    notify.wait_ready().with_context(|| {
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        format!("tapwire is not in sync; its log:\n{log}")
    })?;
    Ok(running)
}

fn configuration_text(bridges: Bridges, keys: &str, extra: &str, folder: &Path) -> String {
    let folder = folder.display();
    let mut text = format!(
        "[daemon]\nsocket = \"{folder}/socket\"\nstate_directory = \"{folder}/state\"\n{keys}\
         [taps]\nmatch = [\"tap*\", \"old*\"]\n"
    );
    let mut network = |id: String, bridge: String, taps: String| {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[network]]\nid = \"{id}\"\nnetwork_type = \"local\"\nbridge = \"{bridge}\"\nprewarm = true\n\
             [[port]]\ntap = \"{taps}\"\nnetwork = \"{id}\"\n"
        );
    };
    for n in 0..bridges.new {
        network(format!("bench{n}"), bridge_name(n), format!("tap{n}-*"));
    }
    for n in 0..bridges.old {
        network(format!("old{n}"), old_bridge_name(n), format!("old{n}-*"));
    }
    text + extra
}

/// The other end of systemd's `Type=notify`.
struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    fn bind(folder: &Path) -> Result<Self> {
        let path = folder.join("notify");
        // Left from an earlier start in the same folder.
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).context("notify socket")?;
        socket.set_read_timeout(Some(READY_LIMIT))?;
        Ok(Self { socket, path })
    }

    fn wait_ready(&self) -> Result<()> {
        let mut message = [0; 4096];
        loop {
            let length = self.socket.recv(&mut message).context("no READY=1")?;
            if message[..length].split(|b| *b == b'\n').any(|l| l == b"READY=1") {
                return Ok(());
            }
        }
    }
}

fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only the prctl system call.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}
