//! `tapwire man`.

use super::context::Context;
use super::failure::Failure;
use clap::Command;
use clap_mangen::Man;
use std::io;
use std::path::PathBuf;

/// Print the manual page, or write one per command
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write tapwire.1, tapwire-run.1 ... into this directory, which is made if missing
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let mut tree = super::tree();
    tree.build();
    match args.directory {
        None => {
            let page = render(&tree)?;
            context.out.raw(&page)?;
            Ok(context.out.flush()?)
        }
        Some(directory) => {
            let fail =
                |e: io::Error| Failure::failed(format!("cannot write to {}: {e}", directory.display()));
            std::fs::create_dir_all(&directory).map_err(fail)?;
            let mut pages = Vec::new();
            collect(&tree, "tapwire", &mut pages)?;
            for (name, page) in pages {
                std::fs::write(directory.join(format!("{name}.1")), page).map_err(fail)?;
            }
            Ok(())
        }
    }
}

fn collect(command: &Command, name: &str, pages: &mut Vec<(String, String)>) -> Result<(), Failure> {
    // The page's title is the display name, which `build` has set to the same "tapwire-run".
    pages.push((name.to_owned(), render(command)?));
    for inner in command
        .get_subcommands()
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
    {
        collect(inner, &format!("{name}-{}", inner.get_name()), pages)?;
    }
    Ok(())
}

fn render(command: &Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
