//! `tapwire plan`.

use super::context::Context;
use super::failure::Failure;
use super::output::{Output, Style, plain};
use crate::control::api::PlanRow;
use std::io;

/// Show what a resync would do now; nothing is done
///
/// One line per kernel operation, in the order they would run. No output: the kernel is as it should be.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(context: &mut Context, _: Args) -> Result<(), Failure> {
    let client = context.client()?;
    let rows: Vec<PlanRow> = context.block_on(async { Ok(client.get("/v1/plan").await?) })?;
    context.print(&rows, |out, rows| text(out, rows))
}

/// Also what `replay` shows.
pub fn text(out: &mut Output, rows: &[PlanRow]) -> io::Result<()> {
    for row in rows {
        let cause = out.paint(Style::Dim, &format!("  # {}", row.cause));
        out.line(&format!("{}{cause}", plain(&row.line)))?;
    }
    Ok(())
}
