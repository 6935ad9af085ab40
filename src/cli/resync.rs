//! `tapwire resync`.

use super::context::Context;
use super::failure::Failure;
use super::output::micros;
use crate::control::api::ResyncReport;

/// Read the kernel again and repair every difference now
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(context: &mut Context, _: Args) -> Result<(), Failure> {
    let client = context.client()?;
    let report: ResyncReport = context.block_on(async {
        let nothing = serde_json::Map::new();
        Ok(client.post("/v1/resync", &nothing).await?)
    })?;
    context.print(&report, |out, r| {
        out.line(&format!(
            "{} links read, {} operations, {} failed, {}",
            r.links,
            r.ops,
            r.op_errors,
            micros(r.elapsed_us)
        ))
    })
}
