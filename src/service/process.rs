//! One dnsmasq process: started confined, watched by its descriptor (a pid can belong to somebody else tomorrow), its
//! stderr read line by line.

use super::confine::Confinement;
use super::files::Layout;
use super::{Error, render};
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::time::Instant;

const PROGRAM: &str = "dnsmasq";
/// A process of an earlier run that is told to end and does not, in milliseconds.
const PATIENCE_MS: libc::c_int = 2000;
/// For SIGTERM; then SIGKILL.
pub const END_PATIENCE: Duration = Duration::from_secs(2);
/// Lines of its log kept to say why it ended.
const TAIL: usize = 8;

/// Where dnsmasq is.
pub fn program() -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(PROGRAM))
        .find(|candidate| candidate.is_file())
        .ok_or(Error::NoProgram)
}

#[derive(Debug)]
pub enum Happened {
    /// On its stderr, without the program's name.
    Line(String),
    Ended(ExitStatus),
}

#[derive(Debug)]
pub struct Process {
    child: Child,
    handle: AsyncFd<OwnedFd>,
    lines: Option<Lines<BufReader<pipe::Receiver>>>,
    tail: VecDeque<String>,
}

impl Process {
    /// Must be called within a tokio runtime with I/O enabled, on a thread that lives as long as the process shall.
    pub fn start(layout: &Layout, program: &Path, lease_program: &Path) -> Result<Self, Error> {
        let confinement = Confinement::prepare(layout.root(), &[program, lease_program]);
        let mut command = Command::new(program);
        command
            .args(render::arguments(layout))
            .env_clear()
            .env("LANG", "C.UTF-8")
            .env(super::report::SOCKET, layout.socket())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // SAFETY: between fork and exec only system calls: `Confinement::enter` is made for it.
        unsafe {
            command.pre_exec(move || confinement.enter());
        }
        let mut child = command.spawn().map_err(Error::Start)?;
        let opened = Self::watch(&mut child);
        match opened {
            Ok((handle, lines)) => Ok(Self {
                child,
                handle,
                lines: Some(lines),
                tail: VecDeque::new(),
            }),
            Err(error) => {
                // Unwatched it must not go on. It is our child, so the pid is its own.
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::Start(error))
            }
        }
    }

    fn watch(child: &mut Child) -> io::Result<(AsyncFd<OwnedFd>, Lines<BufReader<pipe::Receiver>>)> {
        let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
        // SAFETY: an owned descriptor stays the same and open as long as it lives.
        let handle = unsafe { AsyncFd::register(open(pid)?) }?;
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no stderr"))?;
        let lines = BufReader::new(pipe::Receiver::from_owned_fd(stderr.into())?).lines();
        Ok((handle, lines))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next thing that happens to it; lines before the end. Cancel-safe. Not to be called after `Ended`.
    pub async fn happened(&mut self) -> Happened {
        loop {
            tokio::select! {
                biased;
                line = next_line(&mut self.lines) => match line {
                    Some(line) => if let Some(text) = self.remember(&line) {
                        return Happened::Line(text);
                    },
                    None => self.lines = None,
                },
                status = ended(&self.handle, &mut self.child) => return Happened::Ended(status),
            }
        }
    }

    /// "dnsmasq[123]: text", "dnsmasq-dhcp[123]: text", and before it has a log "dnsmasq: text".
    fn remember(&mut self, line: &str) -> Option<String> {
        let text = line
            .split_once(": ")
            .filter(|(program, _)| program.starts_with(PROGRAM))
            .map_or(line, |(_, text)| text)
            .trim();
        if text.is_empty() {
            return None;
        }
        self.tail.push_back(text.to_owned());
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
        Some(text.to_owned())
    }

    /// Why it ended: the last thing that it said before it gave up, if it gave up itself.
    pub fn reason(&self, status: ExitStatus) -> String {
        let said = self
            .tail
            .iter()
            .rev()
            .find(|line| !line.starts_with("FAILED to start"));
        match (said, status.code()) {
            (Some(line), Some(code)) if code != 0 => format!("dnsmasq: {line}"),
            _ => format!("dnsmasq ended ({status})"),
        }
    }

    /// Ends it and waits for that.
    pub async fn end(mut self) {
        self.signal(libc::SIGTERM);
        let mut kill_at = Instant::now() + END_PATIENCE;
        loop {
            tokio::select! {
                happened = self.happened() => if matches!(happened, Happened::Ended(_)) { return },
                () = tokio::time::sleep_until(kill_at) => {
                    self.signal(libc::SIGKILL);
                    kill_at = Instant::now() + END_PATIENCE;
                }
            }
        }
    }

    pub fn signal(&self, signal: libc::c_int) {
        // It may have ended meanwhile, which `happened` tells.
        let _ = send(self.handle.get_ref(), signal);
    }
}

/// Never ends when there is nothing more to read.
async fn next_line(lines: &mut Option<Lines<BufReader<pipe::Receiver>>>) -> Option<String> {
    match lines {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

async fn ended(handle: &AsyncFd<OwnedFd>, child: &mut Child) -> ExitStatus {
    loop {
        let ready = handle.readable().await;
        match child.try_wait() {
            Ok(Some(status)) => return status,
            Ok(None) => {}
            // Somebody else waited for our child: it is gone, however it ended.
            Err(_) => return ExitStatus::default(),
        }
        match ready {
            Ok(mut guard) => guard.clear_ready(),
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        }
    }
}

fn open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers; the descriptor it returns (close-on-exec) is nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0_u32);
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn send(handle: &OwnedFd, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: a descriptor and numbers; no siginfo.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            handle.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0_u32,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Ends a dnsmasq of this network that an earlier run left, if there is one: the one in the pid file, if its command
/// line says so too.
pub fn end_stale(layout: &Layout) {
    let Some(pid) = fs::read_to_string(layout.pid())
        .ok()
        .and_then(|text| text.trim().parse::<libc::pid_t>().ok())
    else {
        return;
    };
    let Ok(handle) = open(pid) else { return };
    let argument = render::argument(&layout.configuration());
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if !command
        .split(|byte| *byte == 0)
        .any(|word| word == argument.as_bytes())
    {
        return;
    }
    tracing::warn!(target: "service", pid, "ending a dnsmasq of an earlier run");
    if send(&handle, libc::SIGKILL).is_ok() {
        let mut poll = libc::pollfd {
            fd: handle.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, alive through the call.
        unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MS) };
    }
}
