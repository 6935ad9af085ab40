//! `tapwire run`.

use super::LogFormat;
use super::context::Context;
use super::failure::{Exit, Failure};
use crate::daemon;
use crate::telemetry::log::{self, Form};
use std::io::Write;

/// Run the daemon in the foreground
///
/// Logs to stderr, or to the journal with every field apart when systemd has connected stderr to it. Under systemd it says READY=1 when every source and the kernel have been read and the first pass
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
    let levels = args
        .log
        .parse()
        .map_err(|e| Failure::usage(format!("--log: {e}")).hint("for example info,engine=debug"))?;
    let form = Form::detect(context.global.log_format == LogFormat::Json);
    // Kept until the end: it sends what is left of the spans.
    let _guard = log::init(form, levels).map_err(|error| Failure::from_error(Exit::Usage, &error))?;
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
        daemon::Error::Policy(_) => Failure::from_error(Exit::Usage, &error),
        _ => Failure::from_error(Exit::Failed, &error),
    })
}
