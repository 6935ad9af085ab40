//! `tapwire completions`.

use super::context::Context;
use super::failure::Failure;
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    shell: Shell,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::tree(), "tapwire", &mut script);
    context.out.raw(&String::from_utf8_lossy(&script))?;
    Ok(context.out.flush()?)
}
