//! The daemon under test, as an operator has it: a process with a configuration file, signals, commands and a log.

use super::host::Host;
use super::wait::wait_until;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;

const TAPWIRE: &str = env!("CARGO_BIN_EXE_tapwire");
const START_LIMIT: Duration = Duration::from_secs(15);
/// Lines of the log that a failed test shows.
const LOG_TAIL: usize = 200;
/// `linux/capability.h`
const CAP_NET_ADMIN: libc::c_int = 12;
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A daemon that runs, or ran. When dropped it is killed, and its log must hold no ERROR line that was not expected.
#[derive(Debug)]
pub struct Daemon {
    host: Host,
    folder: TempDir,
    process: Option<Child>,
    log: Arc<Mutex<Vec<Line>>>,
    reader: Option<JoinHandle<()>>,
    expected_errors: Vec<String>,
}

/// One line of stderr.
#[derive(Debug, Clone)]
pub enum Line {
    /// As `--log-format json` prints it.
    Json(Value),
    /// Anything else: a panic, an error before logging was set up.
    Text(String),
}

impl Line {
    /// An ERROR record, or a panic.
    fn is_error(&self) -> bool {
        match self {
            Line::Json(record) => record["level"] == "ERROR",
            Line::Text(text) => text.contains("panicked at"),
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Line::Json(record) => record.fmt(f),
            Line::Text(text) => f.write_str(text),
        }
    }
}

impl Daemon {
    /// Starts `tapwire run` without waiting for anything. Socket and state are in the daemon's own folder, unless
    /// the configuration says otherwise; relative paths in it start in that folder too.
    #[track_caller]
    pub fn spawn(host: &Host, configuration: &str) -> Self {
        let folder = TempDir::new().expect("a folder for the daemon");
        let mut daemon = Self {
            host: host.clone(),
            folder,
            process: None,
            log: Arc::default(),
            reader: None,
            expected_errors: Vec::new(),
        };
        daemon.write_configuration(configuration);
        daemon.start();
        daemon
    }

    /// `tapwire run` without CAP_NET_ADMIN; it must end by itself.
    #[track_caller]
    pub fn unprivileged(host: &Host, configuration: &str) -> Output {
        let folder = TempDir::new().expect("a folder for the daemon");
        let file = folder.path().join("tapwire.toml");
        fs::write(&file, with_paths(configuration, folder.path())).expect("write the configuration");
        let mut command = host.command(TAPWIRE);
        command.args(["run", "--config"]).arg(file);
        // SAFETY: between fork and exec only the prctl system call. Root's capabilities after exec are limited by the
        // bounding set.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_CAPBSET_DROP, CAP_NET_ADMIN) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        command.output().expect("run tapwire")
    }

    /// Starts the program again after it ended, with the same folder.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the daemon runs already");
        let mut command = self.host.command(TAPWIRE);
        command
            .args(["--log-format", "json", "run", "--config"])
            .arg(self.path("tapwire.toml"))
            .env("TAPWIRE_SOCKET", self.socket())
            .env_remove("NOTIFY_SOCKET")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // SAFETY: between fork and exec only the prctl system call.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let mut process = command.spawn().expect("start tapwire");
        let stderr = process.stderr.take().expect("stderr is piped");
        let log = Arc::clone(&self.log);
        self.reader = Some(thread::spawn(move || read_log(stderr, &log)));
        self.process = Some(process);
    }

    /// Until it can be asked; panics when it ends before.
    #[track_caller]
    fn wait_reachable(&self) {
        wait_until("the daemon can be asked", START_LIMIT, || {
            assert!(self.is_running(), "the daemon ended:\n{}", self.log_text());
            UnixStream::connect(self.socket()).is_ok()
        });
    }

    /// Until the daemon says that it is in sync; panics when it ends before.
    #[track_caller]
    pub fn wait_in_sync(&self) {
        wait_until("the daemon is in sync", START_LIMIT, || {
            assert!(self.is_running(), "the daemon ended:\n{}", self.log_text());
            // Exit code 3 until the socket is there, then the command itself waits.
            self.command(&["wait", "--in-sync", "--timeout", "5"])
                .output()
                .expect("run tapwire wait")
                .status
                .success()
        });
    }

    /// Where the configuration is, and the place for plugins and included files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("tapwire.sock")
    }

    /// Replaces the configuration file, as an editor does: a new file renamed in. Says nothing to the daemon.
    #[track_caller]
    pub fn write_configuration(&self, configuration: &str) {
        let text = with_paths(configuration, self.folder.path());
        fs::write(self.path("tapwire.toml.new"), text).expect("write the configuration");
        fs::rename(self.path("tapwire.toml.new"), self.path("tapwire.toml"))
            .expect("replace the configuration");
    }

    /// A file in the daemon's folder, e.g. a plugin or a part that the configuration includes.
    #[track_caller]
    pub fn write_file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("make the folder");
        fs::write(path, text).expect("write the file");
    }

    /// A `tapwire` command that talks to this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(TAPWIRE);
        command
            .args(arguments)
            .env("TAPWIRE_SOCKET", self.socket())
            .env("TAPWIRE_CONFIG", self.path("tapwire.toml"));
        command
    }

    /// Runs `tapwire ARGUMENTS` whatever it answers.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run tapwire")
    }

    /// `tapwire --json ARGUMENTS`, which must succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self
            .command(&["--json"])
            .args(arguments)
            .output()
            .expect("run tapwire");
        assert!(
            output.status.success(),
            "tapwire {arguments:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("JSON on stdout")
    }

    /// `tapwire --json status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// One tap of `tapwire --json port list`.
    #[track_caller]
    pub fn port(&self, tap: &str) -> Option<Value> {
        let ports = self.json(&["port", "list"]);
        let ports = ports.as_array().expect("a list of ports");
        ports.iter().find(|port| port["tap"] == tap).cloned()
    }

    /// `tapwire wait --port TAP --state STATE`, which must succeed.
    #[track_caller]
    pub fn wait_port(&self, tap: &str, state: &str) {
        self.wait_reachable();
        let timeout = (10 * super::world::slowness()).to_string();
        let output = self.output(&["wait", "--port", tap, "--state", state, "--timeout", &timeout]);
        assert!(
            output.status.success(),
            "{tap} is not {state}: {}: {}\n{:?}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.port(tap)
        );
    }

    /// One network of `tapwire --json network list`.
    #[track_caller]
    pub fn network(&self, id: &str) -> Value {
        let networks = self.json(&["network", "list"]);
        let networks = networks.as_array().expect("a list of networks");
        let found = networks.iter().find(|network| network["id"] == id);
        found
            .cloned()
            .unwrap_or_else(|| panic!("no network {id} in {networks:?}"))
    }

    /// Until a network is in this state.
    #[track_caller]
    pub fn wait_network(&self, id: &str, state: &str) {
        self.wait_reachable();
        wait_until(
            &format!("network {id} is {state}"),
            Duration::from_secs(10),
            || self.network(id)["state"] == state,
        );
    }

    /// One of the counters of `status`.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().expect("a counter")
    }

    /// `tapwire reload`, which must succeed.
    #[track_caller]
    pub fn reload(&self, configuration: &str) {
        self.write_configuration(configuration);
        self.json(&["reload"]);
    }

    /// `tapwire --json plan` has nothing to do.
    #[track_caller]
    pub fn assert_nothing_planned(&self) {
        assert_eq!(self.json(&["plan"]), Value::Array(Vec::new()), "the plan");
    }

    /// The process id, for `/proc`.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").id()
    }

    #[track_caller]
    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.pid()).expect("a process id");
        // SAFETY: takes no pointers; the pid is our own child's, not yet waited for.
        let outcome = unsafe { libc::kill(pid, signal) };
        assert_eq!(outcome, 0, "signal {signal}: {}", std::io::Error::last_os_error());
    }

    pub fn is_running(&self) -> bool {
        // Not `try_wait`, which needs the process mutably and reaps it: a zombie keeps its pid until `ended`.
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.as_ref()?.id())).ok()?;
            stat.rsplit_once(')')?.1.trim_start().chars().next()
        };
        !matches!(state(), None | Some('Z' | 'X'))
    }

    /// Waits until the process ended by itself or by a signal.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        wait_until("the daemon ends", STOP_LIMIT, || !self.is_running());
        self.reap()
    }

    /// SIGTERM; it must end with success.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        let status = self.ended();
        assert!(
            status.success(),
            "the daemon stopped with {status}:\n{}",
            self.log_text()
        );
    }

    /// SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.ended();
    }

    /// Everything the daemon has logged so far, over restarts.
    pub fn log(&self) -> Vec<Line> {
        self.lines().clone()
    }

    /// The log as text, for messages.
    pub fn log_text(&self) -> String {
        self.lines().iter().map(|line| format!("{line}\n")).collect()
    }

    /// ERROR lines with this text are right in this test.
    pub fn expect_error(&mut self, text: &str) {
        self.expected_errors.push(text.to_owned());
    }

    /// Voluntary context switches of the thread that runs the loop.
    #[track_caller]
    pub fn main_wakeups(&self) -> u64 {
        let pid = self.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status"));
        voluntary_switches(&status.expect("the daemon's status")).expect("voluntary_ctxt_switches")
    }

    /// Voluntary context switches of all threads: how often it went to sleep, hence woke up.
    #[track_caller]
    pub fn wakeups(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the daemon's threads");
        tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
            .filter_map(|status| voluntary_switches(&status))
            .sum()
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn reap(&mut self) -> ExitStatus {
        let status = self
            .process
            .take()
            .expect("the daemon runs")
            .wait()
            .expect("wait for the daemon");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log's reader");
        }
        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.signal(libc::SIGKILL);
            self.reap();
        }
        if thread::panicking() {
            let lines = self.log();
            let shown = lines.len().saturating_sub(LOG_TAIL);
            eprintln!("--- log of the daemon, without its first {shown} lines");
            lines[shown..].iter().for_each(|line| eprintln!("{line}"));
            eprintln!("---");
            return;
        }
        let unexpected: Vec<String> = self
            .log()
            .iter()
            .filter(|line| line.is_error())
            .map(ToString::to_string)
            .filter(|text| {
                !self
                    .expected_errors
                    .iter()
                    .any(|expected| text.contains(expected))
            })
            .collect();
        assert!(
            unexpected.is_empty(),
            "unexpected errors in the daemon's log:\n{}",
            unexpected.join("\n")
        );
    }
}

fn voluntary_switches(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

fn read_log(stderr: ChildStderr, log: &Mutex<Vec<Line>>) {
    for line in BufReader::new(stderr).lines() {
        let Ok(line) = line else { return };
        let line = serde_json::from_str(&line).map_or(Line::Text(line), Line::Json);
        log.lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .push(line);
    }
}

/// Adds `socket` and `state_directory` to the configuration's `[daemon]`. A text that is no TOML stays as it is.
fn with_paths(configuration: &str, folder: &Path) -> String {
    let Ok(mut document) = configuration.parse::<toml::Table>() else {
        return configuration.to_owned();
    };
    let daemon = document
        .entry("daemon")
        .or_insert_with(|| toml::Table::new().into());
    if let Some(daemon) = daemon.as_table_mut() {
        for (key, name) in [("socket", "tapwire.sock"), ("state_directory", "state")] {
            let path = folder.join(name).to_string_lossy().into_owned();
            daemon.entry(key).or_insert_with(|| path.into());
        }
    }
    document.to_string()
}
