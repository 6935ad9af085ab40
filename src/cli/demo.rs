//! `tapwire demo`.

use super::context::Context;
use super::failure::Failure;

/// Show it all in a private namespace: no root, and nothing on this host is touched
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_: &mut Context, _: Args) -> Result<(), Failure> {
    Ok(())
}
