//! `tapwire check`.

use super::context::Context;
use super::failure::{Exit, Failure};
use super::output::{colour, count};
use crate::config::{self, Report};
use std::io::Write;

/// Validate the configuration and its plugins
///
/// Shows every error with file, line and column, not only the first one. Nothing is changed and no daemon is asked.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(context: &mut Context, _: Args) -> Result<(), Failure> {
    let path = context.config_path();
    let config = match config::load(&path) {
        Ok(config) => config,
        Err(report) => return Err(refused(context, &report)),
    };
    check_plugins(&config)?;
    let (files, networks, ports) = (config.files.len(), config.networks.len(), config.ports.len());
    let summary = serde_json::json!({
        "ok": true, "config": path, "files": config.files, "networks": networks, "ports": ports,
    });
    context.print(&summary, |out, _| {
        out.line(&format!(
            "{}: ok ({}, {}, {})",
            path.display(),
            count(files, "file"),
            count(networks, "network"),
            count(ports, "port")
        ))
    })
}

/// With `--json` the diagnostics go to stdout, where a machine looks for them; for people they go to stderr.
fn refused(context: &mut Context, report: &Report) -> Failure {
    if context.global.json {
        let summary = serde_json::json!({ "ok": false, "errors": report });
        return match context.print(&summary, |_, _| Ok(())) {
            Ok(()) => Failure::told(Exit::Usage),
            Err(failure) => failure,
        };
    }
    let mut stderr = std::io::stderr().lock();
    let text = report.render(colour(&stderr));
    // Nobody is left to tell when stderr itself fails.
    let _ = writeln!(stderr, "{}", text.trim_end());
    Failure::told(Exit::Usage)
}

/// Loads every plugin of the configuration, without running a hook.
fn check_plugins(config: &config::Config) -> Result<(), Failure> {
    if config.policy.plugins.is_empty() {
        return Ok(());
    }
    Err(Failure::failed("policy check is not built yet"))
}
