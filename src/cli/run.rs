//! `tapwire run`.

use super::LogFormat;
use super::context::Context;
use super::failure::Failure;
use std::path::PathBuf;

/// Run the daemon in the foreground
///
/// Logs to stderr. Under systemd it says READY=1 when every source and the kernel have been read and the first pass
/// is done. SIGHUP reads the configuration again. SIGTERM stops at once and leaves every port attached.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to log: a level (error, warn, info, debug, trace), or target=level terms joined by commas
    #[arg(
        long,
        value_name = "LEVEL",
        env = "TAPWIRE_LOG",
        default_value = "info",
        hide_env_values = true
    )]
    log: String,
}

pub fn run(context: &Context, args: Args) -> Result<(), Failure> {
    run_daemon(&Start {
        config: context.config_path(),
        socket: context.global.socket.clone(),
        log: args.log,
        log_format: context.global.log_format,
    })
}

/// What the command line says about a daemon.
#[derive(Debug)]
struct Start {
    config: PathBuf,
    /// Overrides `daemon.socket`.
    socket: Option<PathBuf>,
    log: String,
    log_format: LogFormat,
}

/// The daemon until it is told to stop.
fn run_daemon(start: &Start) -> Result<(), Failure> {
    let Start {
        config,
        socket,
        log,
        log_format,
    } = start;
    Err(Failure::failed(format!(
        "the daemon is not built yet ({}, {socket:?}, {log}, {log_format:?})",
        config.display()
    )))
}
