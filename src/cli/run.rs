//! `tapwire run`.

use super::LogFormat;
use super::context::Context;
use super::failure::{Exit, Failure};
use crate::daemon;
use std::io::Write;

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

fn init_log(format: LogFormat, level: tracing_subscriber::filter::Targets) {
    use tracing_subscriber::prelude::*;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Text => layer
            .with_ansi(super::output::colour(&std::io::stderr()))
            .with_filter(level)
            .boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(level).boxed(),
    };
    tracing_subscriber::registry().with(layer).init();
}

pub fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let level: tracing_subscriber::filter::Targets = args
        .log
        .parse()
        .map_err(|e| Failure::usage(format!("--log: {e}")))?;
    init_log(context.global.log_format, level);
    let start = daemon::Start {
        config: context.config_path(),
        socket: context.global.socket.clone(),
    };
    daemon::run(&start).map_err(|error| match &error {
        daemon::Error::Config(report) => {
            let stderr = std::io::stderr();
            let text = report.render(super::output::colour(&stderr));
            // Nobody is left to tell when stderr itself fails.
            let _ = write!(stderr.lock(), "{text}");
            Failure::told(Exit::Usage)
        }
        daemon::Error::SecondInstance => Failure::failed(error.to_string())
            .hint("`tapwire status` asks the one that runs; each network namespace has at most one"),
        _ => Failure::from_error(Exit::Failed, &error),
    })
}
