//! `tapwire check`.

use super::context::Context;
use super::failure::{Exit, Failure};
use super::output::{Style, colour, count, plain};
use crate::config::{self, Config, Report};
use crate::policy::LoadReport;
use crate::policy::generation::load;
use crate::policy::plugin::load::Problem;
use crate::policy::tools::check::with_paths;
use std::collections::BTreeMap;
use std::io::Write;

/// Validate the configuration and its plugins
///
/// Shows every error with file, line and column, not only the first one. Nothing is changed and no daemon is asked.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(context: &mut Context, _: Args) -> Result<(), Failure> {
    let path = context.config_path();
    let config = load_config(context)?;
    let plugins = match check_plugins(&config) {
        Ok(plugins) => plugins,
        Err(report) => return Err(refused_plugins(context, &report)),
    };
    let (files, networks, ports) = (config.files.len(), config.networks.len(), config.ports.len());
    let warnings = config
        .warnings
        .diagnostics()
        .iter()
        .map(|warning| serde_json::json!(warning));
    let left_out = plugins.left_out.iter().map(as_json);
    let summary = serde_json::json!({
        "ok": true, "config": path, "files": config.files, "networks": networks, "ports": ports,
        "plugins": plugins.names, "warnings": warnings.chain(left_out).collect::<Vec<_>>(),
    });
    context.print(&summary, |out, _| {
        if !config.warnings.is_empty() {
            out.line(config.warnings.render(out.has_colour()).trim_end())?;
        }
        for problem in &plugins.left_out {
            let tag = out.paint(Style::Attention, "warning:");
            out.line(&format!(
                "{tag} left out (required = false): {}",
                plain(&problem.to_string())
            ))?;
        }
        let mut parts = vec![
            count(files, "file"),
            count(networks, "network"),
            count(ports, "port"),
        ];
        if !plugins.names.is_empty() {
            parts.push(count(plugins.names.len(), "plugin"));
        }
        out.line(&format!("{}: ok ({})", path.display(), parts.join(", ")))
    })
}

/// The configuration in force for this command line; every mistake in it is printed.
pub fn load_config(context: &mut Context) -> Result<Config, Failure> {
    config::load(&context.config_path()).map_err(|report| refused(context, &report))
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

struct Plugins {
    /// In the order they run.
    names: Vec<String>,
    /// Those with `required = false` that cannot be used: the daemon starts without them.
    left_out: Vec<Problem>,
}

/// Loads every plugin of the configuration, without running a hook and without touching the daemon's state.
fn check_plugins(config: &Config) -> Result<Plugins, LoadReport> {
    let settings = with_paths(&[], &config.policy);
    let loaded = load(&settings, &BTreeMap::new())?;
    Ok(Plugins {
        names: loaded.members.into_iter().map(|m| m.plugin.name).collect(),
        left_out: loaded.left_out,
    })
}

fn as_json(problem: &Problem) -> serde_json::Value {
    serde_json::json!({ "plugin": problem.plugin, "place": problem.place, "message": problem.message })
}

/// As [`refused`]; a plugin's mistake has the plugin's name and place in its own file.
fn refused_plugins(context: &mut Context, report: &LoadReport) -> Failure {
    if context.global.json {
        let errors: Vec<_> = report.problems.iter().map(as_json).collect();
        let summary = serde_json::json!({ "ok": false, "errors": errors });
        return match context.print(&summary, |_, _| Ok(())) {
            Ok(()) => Failure::told(Exit::Usage),
            Err(failure) => failure,
        };
    }
    let mut stderr = std::io::stderr().lock();
    let (red, off) = if colour(&stderr) {
        ("\x1b[1;31m", "\x1b[0m")
    } else {
        ("", "")
    };
    for problem in &report.problems {
        // Nobody is left to tell when stderr itself fails.
        let _ = writeln!(stderr, "{red}error:{off} {}", plain(&problem.to_string()));
    }
    Failure::told(Exit::Usage)
}
