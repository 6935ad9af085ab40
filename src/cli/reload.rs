//! `tapwire reload`.

use super::context::Context;
use super::failure::Failure;
use super::output::{Style, count, plain};
use crate::control::api::ReloadReport;

/// Read the configuration again and apply the difference
///
/// The same as SIGHUP, but it tells what came of it. A broken file changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also when it would detach more ports than max_detach allows
    #[arg(long)]
    force: bool,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let client = context.client()?;
    let path = format!("/v1/reload?force={}", args.force);
    let report: ReloadReport = context.block_on(async {
        let nothing = serde_json::Map::new();
        Ok(client.post(&path, &nothing).await?)
    })?;
    context.print(&report, |out, r| {
        for change in &r.changes {
            out.line(&plain(change))?;
        }
        for warning in &r.warnings {
            let tag = out.paint(Style::Attention, "warning:");
            out.line(&format!("{tag} {}", plain(warning)))?;
        }
        out.line(&format!(
            "{} read, {}",
            count(usize::try_from(r.files).unwrap_or(usize::MAX), "file"),
            count(r.changes.len(), "change")
        ))
    })
}
