//! A network namespace as a host: the test's own, or further ones on the same underlay.

use super::daemon::Daemon;
use super::observer::LinkObserver;
use super::wait::wait_until;
use serde_json::Value;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};
use tapwire::kernel::tuntap::Tap;
use tapwire::model::LinkName;

/// A host. Cheap to clone; a further host's namespace ends with the last clone, its taps and its processes.
#[derive(Debug, Clone)]
pub struct Host {
    /// The network namespace; absent for the one the test itself is in.
    namespace: Option<Arc<OwnedFd>>,
}

impl Host {
    /// The namespace the test is in.
    pub fn here() -> Self {
        Self { namespace: None }
    }

    /// A further one, with `lo` up and nothing else.
    #[allow(clippy::new_without_default, reason = "makes a kernel object")]
    pub fn new() -> Self {
        // A thread has its own network namespace; the descriptor keeps it when the thread is gone.
        let namespace = thread::spawn(|| -> io::Result<OwnedFd> {
            // SAFETY: takes no pointers; only this thread changes its namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
        })
        .join()
        .expect("the thread does not panic")
        .expect("a further network namespace");
        let host = Self {
            namespace: Some(Arc::new(namespace)),
        };
        host.ip("link set lo up");
        host
    }

    /// Gives a link another name. Kernels before 6.2 rename only what is down; there it is set down for a moment.
    #[track_caller]
    pub fn rename(&self, link: &str, name: &str) {
        let arguments = ["link", "set", link, "name", name];
        let output = self.command("ip").args(arguments).output().expect("run ip");
        if !output.status.success() {
            self.ip(&format!("link set {link} down"));
            self.ip(&format!("link set {link} name {name}"));
            self.ip(&format!("link set {name} up"));
        }
    }

    /// Moves a link to another host.
    #[track_caller]
    pub fn send(&self, link: &str, to: &Host) {
        self.ip(&format!("link set {link} netns {}", to.path()));
    }

    /// A veth pair between two hosts, both ends up: the underlay.
    pub fn join(&self, name: &str, other: &Host, name_there: &str) {
        self.ip(&format!(
            "link add {name} type veth peer name {name_there} netns {}",
            other.path()
        ));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {name_there} up"));
    }

    /// A file that stands for the namespace, for `ip ... netns`.
    fn path(&self) -> String {
        let process = std::process::id();
        match &self.namespace {
            Some(fd) => format!("/proc/{process}/fd/{}", fd.as_raw_fd()),
            None => format!("/proc/{process}/ns/net"),
        }
    }

    /// Runs `work` on a thread that is in this host's namespace: sockets and taps made there belong there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(namespace) = &self.namespace else {
            return work();
        };
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter(namespace.as_raw_fd()).expect("enter the host's namespace");
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        if let Some(namespace) = self.namespace.clone() {
            // SAFETY: between fork and exec only the setns system call; the descriptor is kept open by the closure.
            unsafe { command.pre_exec(move || enter(namespace.as_raw_fd())) };
        }
        command
    }

    /// Runs a command line (split at white space, no quoting), which must succeed; its stdout.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let output = self
            .command(program)
            .args(words)
            .output()
            .unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
        assert!(
            output.status.success(),
            "`{line}`: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// `ip ARGUMENTS`, which must succeed.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        self.run(&format!("ip {arguments}"))
    }

    /// `ip -batch`: many commands, one process; all must succeed.
    #[track_caller]
    pub fn ip_batch(&self, script: &str) {
        let mut ip = self.command("ip");
        let mut ip = ip
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("run ip");
        let mut stdin = ip.stdin.take().expect("stdin is piped");
        stdin.write_all(script.as_bytes()).expect("write to ip");
        drop(stdin);
        assert!(ip.wait().expect("wait for ip").success(), "ip -batch: {script}");
    }

    /// `ip -d -j ARGUMENTS`.
    #[track_caller]
    pub fn ip_json(&self, arguments: &str) -> Value {
        json(&self.run(&format!("ip -d -j {arguments}")))
    }

    /// `bridge -d -j ARGUMENTS`.
    #[track_caller]
    pub fn bridge_json(&self, arguments: &str) -> Value {
        json(&self.run(&format!("bridge -d -j {arguments}")))
    }

    /// One link as `ip -d -j link show` tells it, if it exists.
    pub fn link(&self, name: &str) -> Option<Value> {
        let output = self
            .command("ip")
            .args(["-d", "-j", "link", "show", "dev", name])
            .output()
            .expect("run ip");
        output
            .status
            .success()
            .then(|| json(&String::from_utf8_lossy(&output.stdout))[0].clone())
    }

    /// The bridge that a link is a port of.
    pub fn master(&self, name: &str) -> Option<String> {
        self.link(name)?["master"].as_str().map(str::to_owned)
    }

    /// Administratively up (`IFF_UP`)?
    pub fn is_up(&self, name: &str) -> bool {
        self.link(name)
            .and_then(|link| Some(link["flags"].as_array()?.iter().any(|flag| flag == "UP")))
            .unwrap_or(false)
    }

    /// Attached: port of this bridge, and up.
    pub fn is_attached(&self, tap: &str, bridge: &str) -> bool {
        self.master(tap).as_deref() == Some(bridge) && self.is_up(tap)
    }

    /// How many links are attached to a bridge: its ports, and up.
    pub fn attached(&self, bridge: &str) -> usize {
        let output = self
            .command("ip")
            .args(["-j", "link", "show", "up", "master", bridge])
            .output()
            .expect("run ip");
        match (
            output.status.success(),
            json(&String::from_utf8_lossy(&output.stdout)),
        ) {
            // iproute2 6.1 prints an empty object for each link that it left out.
            (true, Value::Array(links)) => links.iter().filter(|link| link["ifname"].is_string()).count(),
            _ => 0,
        }
    }

    /// Until a tap is attached to a bridge.
    #[track_caller]
    pub fn wait_attached(&self, tap: &str, bridge: &str) {
        wait_until(
            &format!("{tap} is attached to {bridge}"),
            Duration::from_secs(10),
            || self.is_attached(tap, bridge),
        );
    }

    /// A file below `/proc/sys/net` as this host's namespace has it, without its line end.
    #[track_caller]
    pub fn sysctl(&self, name: &str) -> String {
        let path = format!("/proc/sys/net/{name}");
        let text = self.within(|| std::fs::read_to_string(&path));
        text.unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
    }

    /// A tap on this host, down, without a master. It goes when dropped.
    #[track_caller]
    pub fn tap(&self, name: &str) -> Tap {
        let name = LinkName::new(name).expect("a legal name");
        self.within(|| Tap::create(Some(&name)))
            .unwrap_or_else(|e| panic!("{:#}", anyhow::Error::new(e)))
    }

    /// A tap that nobody holds open, hence without carrier: it stays until the namespace ends.
    #[track_caller]
    pub fn lasting_tap(&self, name: &str) {
        drop(Crowd(vec![self.tap(name)]));
    }

    /// `PREFIX0` to `PREFIX(count - 1)`.
    #[track_caller]
    pub fn taps(&self, prefix: &str, count: usize) -> Vec<Tap> {
        (0..count).map(|i| self.tap(&format!("{prefix}{i}"))).collect()
    }

    /// The daemon on this host, in sync.
    #[track_caller]
    pub fn daemon(&self, configuration: &str) -> Daemon {
        let daemon = Daemon::spawn(self, configuration);
        daemon.wait_in_sync();
        daemon
    }

    /// Watches this host's link events from now on.
    pub fn observer(&self) -> LinkObserver {
        self.within(LinkObserver::open)
    }
}

/// Many taps, held open. Dropped, they are let go of without being deleted: the end of the namespace drops a thousand in
/// one go, closing costs 20 ms each.
#[derive(Debug)]
pub struct Crowd(pub Vec<Tap>);

impl Drop for Crowd {
    fn drop(&mut self) {
        for tap in self.0.drain(..) {
            tap.set_persistent(true).expect("a persistent tap");
        }
    }
}

fn enter(namespace: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; the caller keeps the descriptor open.
    match unsafe { libc::setns(namespace, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// iproute2 prints nothing at all for an empty list.
fn json(text: &str) -> Value {
    if text.trim().is_empty() {
        return Value::Array(Vec::new());
    }
    serde_json::from_str(text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
}
