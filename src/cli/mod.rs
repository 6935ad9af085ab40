//! The command line: one file per subcommand, each with its arguments and its text output.
//!
//! Nothing here decides anything about networks. Commands that talk to a daemon go through `control::client`; the
//! others call one function of the part that does the work. Exit codes: 0 done, 1 failed, 2 bad usage, configuration
//! or plugin, 3 daemon not reachable, 4 timed out.

mod check;
mod completions;
mod context;
mod demo;
mod explain;
mod failure;
mod man;
mod metrics;
mod network;
mod output;
mod plan;
mod policy;
mod port;
mod reload;
mod replay;
mod resync;
mod run;
mod status;
mod trace;
mod wait;

use crate::service::report as lease;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use context::Context;
use failure::{Exit, Failure};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Attach virtual machines' taps to their networks the moment the kernel announces them
///
/// One daemon per hypervisor (`tapwire run`) listens to the kernel, attaches every tap that appears to the bridge of
/// its network, builds what the network needs (bridge, VLAN or VXLAN device, forwarding entries) and repairs what
/// breaks. The other commands ask it, or work without it.
///
/// New here? `tapwire demo` shows it all in a private namespace, without root and without touching this host.
#[derive(Debug, Parser)]
#[command(
    name = "tapwire",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 bad usage, configuration or plugin, 3 daemon not reachable, \
                        4 timed out."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print JSON, one value (or one object per line for streams), instead of text
    #[arg(long, global = true)]
    pub json: bool,

    /// The daemon's control socket [default: daemon.socket of a named --config, else /run/tapwire/tapwire.sock]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "TAPWIRE_SOCKET",
        hide_env_values = true
    )]
    pub socket: Option<PathBuf>,

    /// The configuration file [default: /etc/tapwire/tapwire.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TAPWIRE_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,

    /// How the daemon's log on stderr is written
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One object per line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Demo(demo::Args),
    Status(status::Args),
    Port(port::Args),
    Network(network::Args),
    Plan(plan::Args),
    Resync(resync::Args),
    Reload(reload::Args),
    Wait(wait::Args),
    Explain(explain::Args),
    Replay(replay::Args),
    Trace(trace::Args),
    Policy(policy::Args),
    Metrics(metrics::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the command that `argv` asks for; everything is printed when it returns.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut argv = argv.into_iter().peekable();
    // Not a command of people's: dnsmasq calls this program by another name for each lease event.
    if argv.next_if(|program| lease::is_called_as(program)).is_some() {
        return lease::main(argv);
    }
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, usage errors to stderr; a reader that has gone is no reason to complain.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    let json = cli.global.json;
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, json);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let mut context = Context::new(cli.global);
    match cli.command {
        Command::Run(args) => run::run(&context, args),
        Command::Check(args) => check::run(&mut context, args),
        Command::Demo(args) => demo::run(&mut context, args),
        Command::Status(args) => status::run(&mut context, args),
        Command::Port(args) => port::run(&mut context, args),
        Command::Network(args) => network::run(&mut context, args),
        Command::Plan(args) => plan::run(&mut context, args),
        Command::Resync(args) => resync::run(&mut context, args),
        Command::Reload(args) => reload::run(&mut context, args),
        Command::Wait(args) => wait::run(&mut context, args),
        Command::Explain(args) => explain::run(&mut context, args),
        Command::Replay(args) => replay::run(&mut context, args),
        Command::Trace(args) => trace::run(&mut context, args),
        Command::Policy(args) => policy::run(&mut context, args),
        Command::Metrics(args) => metrics::run(&mut context, args),
        Command::Completions(args) => completions::run(&mut context, args),
        Command::Man(args) => man::run(&mut context, args),
    }
}

/// On stderr: text, or one JSON object with `--json`.
fn report(failure: &Failure, json: bool) {
    if failure.message.is_empty() {
        return;
    }
    let mut stderr = std::io::stderr().lock();
    // Nobody is left to tell when stderr itself fails.
    let _ = if json {
        let value = serde_json::json!({
            "error": failure.message,
            "hint": failure.hint,
            "exit_code": failure.exit as u8,
        });
        writeln!(stderr, "{value}")
    } else {
        let colour = output::colour(&stderr);
        let (red, dim, off) = if colour {
            ("\x1b[1;31m", "\x1b[2m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let hint = failure
            .hint
            .as_ref()
            .map(|h| format!("\n{dim}hint:{off} {h}"))
            .unwrap_or_default();
        // A report of the daemon's files begins so by itself.
        let message = failure
            .message
            .strip_prefix("error: ")
            .unwrap_or(&failure.message);
        writeln!(stderr, "{red}error:{off} {message}{hint}")
    };
}

/// The whole tree, for completions and manual pages.
fn tree() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_tree_is_sound() {
        super::tree().debug_assert();
    }
}
