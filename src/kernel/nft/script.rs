//! A ruleset as text, handed to `nft`: one transaction, or nothing is changed.
//!
//! For tables with expressions that are many and rarely change (address translation, connection tracking). It takes a
//! process and 5 to 75 ms, so it runs on a thread that may block, never on the loop.

use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A healthy `nft` takes milliseconds; another program that holds the ruleset makes it try again.
const LIMIT: Duration = Duration::from_secs(20);
/// Of its complaints: the first lines name the mistake, the others follow from it.
const COMPLAINT: u64 = 2048;

#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The package `nftables` is not installed, or not in the daemon's PATH.
    #[error("the program nft is not there: install nftables")]
    Missing(#[source] io::Error),
    #[error("nft cannot be run")]
    Run(#[source] io::Error),
    /// `nft`'s own words, with line and column of the text.
    #[error("nft: {0}")]
    Refused(String),
    #[error("nft did not end within {} s", LIMIT.as_secs())]
    Stuck,
}

/// Runs `nft -f -` with this text. Blocks. `started` is told the process before it reads anything: its number is the port id
/// that notifications of its changes carry.
pub fn apply(text: &str, started: impl FnOnce(u32)) -> Result<(), ScriptError> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .env_clear()
        .env(
            "PATH",
            "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin",
        )
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ScriptError::Missing(error),
            _ => ScriptError::Run(error),
        })?;
    started(nft.id());
    // It reads everything before it says anything; one that ends early says why on stderr.
    let written = nft
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    match wait(&mut nft) {
        Ok(Some((true, _))) => written.map_err(ScriptError::Run),
        Ok(Some((false, complaint))) => Err(ScriptError::Refused(complaint)),
        Ok(None) => Err(ScriptError::Stuck),
        Err(error) => Err(ScriptError::Run(error)),
    }
}

/// Whether it succeeded, and what it said; none if it was killed for not ending.
fn wait(nft: &mut Child) -> io::Result<Option<(bool, String)>> {
    let deadline = Instant::now() + LIMIT;
    let mut said = Vec::new();
    if let Some(stderr) = nft.stderr.take() {
        // Its end closes the pipe: reading is waiting, unless it hangs. Then the watcher below ends it.
        let pid = nft.id();
        let (done, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if ended.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                    == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                {
                    // SAFETY: takes no pointers. The child is not waited for yet, so the number is still its own.
                    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
                }
            });
            let mut bounded = stderr.take(COMPLAINT);
            let read = bounded.read_to_end(&mut said);
            let rest = io::copy(&mut bounded.into_inner(), &mut io::sink());
            drop(done);
            read.and(rest)
        })?;
    }
    let status = nft.wait()?;
    if Instant::now() >= deadline {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let complaint = if lines.is_empty() {
        status.to_string()
    } else {
        lines.join(" | ")
    };
    Ok(Some((status.success(), complaint)))
}
