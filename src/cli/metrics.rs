//! `tapwire metrics`.

use super::context::Context;
use super::failure::Failure;

/// Print the daemon's metrics in the Prometheus text format
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(context: &mut Context, _: Args) -> Result<(), Failure> {
    let client = context.client()?;
    let text = context.block_on(async { Ok(client.text("/v1/metrics").await?) })?;
    context.out.raw(&text)?;
    Ok(context.out.flush()?)
}
