//! `tapwire history`.

use super::context::Context;
use super::failure::Failure;
use serde_json::Value;

/// Print the newest records of the daemon's flight recorder, oldest first
///
/// One JSON object per line, the same as `tapwire trace --json`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many records at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let client = context.client()?;
    let path = format!("/v1/history?limit={}", args.limit);
    let records: Vec<Value> = context.block_on(async { Ok(client.get(&path).await?) })?;
    for record in &records {
        context.out.json(record)?;
    }
    Ok(context.out.flush()?)
}
