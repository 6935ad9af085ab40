//! `tapwire replay`.

use super::context::Context;
use super::failure::Failure;
use super::plan;
use crate::control::api::PlanRow;
use std::path::{Path, PathBuf};

/// Run a recording through the engine without touching the kernel, and print the plans
///
/// Reads what `tapwire trace --record` wrote. With --config, decides as a daemon with that configuration would.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recording (pcapng, link type NETLINK)
    file: PathBuf,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let rows = replay_recording(&args.file, &context.config_path())?;
    context.print(&rows, |out, rows| plan::text(out, rows))
}

/// Every operation that a daemon with this configuration would have asked for.
fn replay_recording(file: &Path, config: &Path) -> Result<Vec<PlanRow>, Failure> {
    let _ = config;
    Err(Failure::failed(format!(
        "replay is not built yet ({})",
        file.display()
    )))
}
