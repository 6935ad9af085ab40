//! The real daemon as a child process, as an operator would start it.

use super::world::World;
use crate::cli::failure::Failure;
use crate::control::client::Client;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to be in sync, and to stop.
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Lines of its log that are shown when it disappoints.
const TAIL: usize = 15;

/// Stopped when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: std::path::PathBuf,
}

impl Daemon {
    /// The same program, `run` with the demo's configuration, log into a file.
    pub fn start(world: &World) -> Result<Self, Failure> {
        let fail = |e: std::io::Error| Failure::failed(format!("cannot start the daemon: {e}"));
        let log = File::create(&world.log).map_err(fail)?;
        let mut command = Command::new(std::env::current_exe().map_err(fail)?);
        command
            .arg("run")
            .arg("--config")
            .arg(&world.config)
            .env_remove("TAPWIRE_SOCKET")
            .env_remove("TAPWIRE_CONFIG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // SAFETY: between fork and exec only one system call that takes no pointers.
        unsafe {
            command.pre_exec(|| {
                // When the demo dies, by whatever way, the daemon must not be left behind in a namespace of its own.
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        Ok(Self {
            child: command.spawn().map_err(fail)?,
            log: world.log.clone(),
        })
    }

    /// Until the first full pass is done.
    pub async fn wait_in_sync(&mut self, client: &Client) -> Result<(), Failure> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match client
                .get::<serde_json::Value>("/v1/wait?in_sync=true&timeout=5")
                .await
            {
                Ok(_) => return Ok(()),
                Err(error) => {
                    if let Ok(Some(status)) = self.child.try_wait() {
                        return Err(self.disappointed(&format!("the daemon ended ({status})")));
                    }
                    if Instant::now() > deadline {
                        return Err(self.disappointed(&format!("the daemon is not in sync: {error}")));
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A failure with the end of the daemon's log.
    pub fn disappointed(&self, message: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
        let mut text = message.to_owned();
        if !tail.is_empty() {
            text.push_str("\nthe daemon's last words:\n  ");
            text.push_str(&tail.join("\n  "));
        }
        Failure::failed(text)
    }

    /// SIGTERM, as systemd would.
    pub fn stop(&mut self) -> Result<ExitStatus, Failure> {
        let fail = |e: std::io::Error| Failure::failed(format!("cannot stop the daemon: {e}"));
        let pid = libc::pid_t::try_from(self.child.id()).unwrap_or(0);
        if let Some(status) = self.child.try_wait().map_err(fail)? {
            return Ok(status);
        }
        if pid > 0 {
            // SAFETY: takes no pointers; the child has not been waited for, so the number is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().map_err(fail)? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(self.disappointed("the daemon does not stop"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only after a failure is it still there; then nothing of it is of interest any more.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
