//! The plugin tools that need neither a daemon nor privileges: each is one call into `policy::tools`, whose report is
//! printed and whose code becomes the exit code.

use crate::cli::LogFormat;
use crate::cli::check::load_config;
use crate::cli::context::Context;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Output, Style, plain};
use crate::config::PolicySettings;
use crate::policy::api;
use crate::policy::plugin::sandbox::Coverage;
use crate::policy::tools::{self, Report};
use crate::telemetry::log::{self, Form};
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use tracing_subscriber::filter::Targets;

/// `paths` empty: the plugins of the configuration.
pub fn check(context: &mut Context, paths: &[PathBuf]) -> Result<(), Failure> {
    let mut networks = Vec::new();
    let config = match names_plugins_alone(context, paths) {
        true => PolicySettings::default(),
        false => {
            let config = load_config(context)?;
            for network in &config.networks {
                networks.push(network.value.id.to_string());
                networks.extend(network.value.name.as_deref().map(str::to_owned));
            }
            config.policy
        }
    };
    let report = tools::check(paths, &config, &networks);
    if !context.global.json {
        return finish(context, &report);
    }
    let value = serde_json::json!({
        "ok": report.code == 0,
        "plugins": report.plugins,
        "problems": report.problems,
        "lines": report.lines,
    });
    context.print(&value, |_, _| Ok(()))?;
    ended(&report)
}

/// With paths no configuration is read: a test brings its own options and maps.
pub fn test(context: &mut Context, mut paths: Vec<PathBuf>, coverage: bool) -> Result<(), Failure> {
    if paths.is_empty() {
        paths = configured(context)?.plugins;
    }
    let coverage = if coverage { Coverage::Lines } else { Coverage::Off };
    let report = tools::test(&paths, coverage);
    print(context, &report)?;
    ended(&report)
}

/// The merged decision for one context, with the origin of every field.
pub fn eval(context: &mut Context, tap: Option<&str>, file: &Path) -> Result<(), Failure> {
    let config = load_config(context)?.policy;
    let mut asked = read_context(file)?;
    if let Some(tap) = tap {
        let mut link = asked.link.take().unwrap_or_default();
        tap.clone_into(&mut link.name);
        asked.link = Some(link);
    }
    let _log = show_script_log(context)?;
    let evaluation = tools::eval(&config, asked.hook, asked);
    if context.global.json {
        context.print(&evaluation.json, |_, _| Ok(()))?;
        return ended(&evaluation.report);
    }
    finish(context, &evaluation.report)
}

/// What the daemon says that its plugins decide for a live tap.
pub fn show_decision(context: &mut Context, decision: &Value) -> Result<(), Failure> {
    let report = tools::eval::describe_json(decision);
    if context.global.json {
        context.print(decision, |_, _| Ok(()))?;
        return ended(&report);
    }
    finish(context, &report)
}

/// What the plugins log goes to stderr, all levels: who tries a plugin wants to see it.
fn show_script_log(context: &Context) -> Result<log::Guard, Failure> {
    let json = context.global.log_format == LogFormat::Json;
    let levels = Targets::new().with_target("policy", tracing::Level::TRACE);
    log::init(Form::detect(json), levels).map_err(|error| Failure::from_error(Exit::Failed, &error))
}

/// `paths` empty: the plugins of the configuration.
pub fn replay(context: &mut Context, recording: &Path, paths: &[PathBuf]) -> Result<(), Failure> {
    let config = settings(context, paths)?;
    let file = File::open(recording).map_err(|e| cannot_read(recording, &e))?;
    let report = tools::replay(BufReader::new(file), paths, &config);
    finish(context, &report)
}

pub fn types(context: &mut Context, directory: &Path) -> Result<(), Failure> {
    let written = tools::typegen::write(directory)
        .map_err(|e| Failure::failed(format!("cannot write to {}: {e}", directory.display())))?;
    context.print(&written, |out, files| {
        files
            .iter()
            .try_for_each(|file| out.line(&plain(&file.display().to_string())))
    })
}

/// Plugins named on the command line also work where no configuration is.
fn names_plugins_alone(context: &Context, paths: &[PathBuf]) -> bool {
    !paths.is_empty() && context.global.config.is_none() && !context.config_path().exists()
}

/// `[policy]`.
fn settings(context: &mut Context, paths: &[PathBuf]) -> Result<PolicySettings, Failure> {
    if names_plugins_alone(context, paths) {
        return Ok(PolicySettings::default());
    }
    Ok(load_config(context)?.policy)
}

/// The plugins that the configuration names; there must be some.
fn configured(context: &mut Context) -> Result<PolicySettings, Failure> {
    let settings = load_config(context)?.policy;
    if settings.plugins.is_empty() {
        let path = context.config_path();
        return Err(
            Failure::usage(format!("{} names no plugins", path.display())).hint("name files or directories")
        );
    }
    Ok(settings)
}

fn read_context(file: &Path) -> Result<api::Context, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| cannot_read(file, &e))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| {
        Failure::usage(format!("{}: {e}", file.display()))
            .hint("one JSON object; `tapwire policy replay` takes a whole recording")
    })?;
    // A line that `policy record` wrote, or the context alone.
    let hook = value.get("hook").cloned();
    let context = match value.get("context").cloned() {
        Some(Value::Object(mut context)) => {
            context.extend(hook.map(|hook| ("hook".to_owned(), hook)));
            Value::Object(context)
        }
        _ => value,
    };
    api::Context::read(context, &[]).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))
}

fn cannot_read(file: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", file.display()))
}

/// Prints a report whose code 2 means that nothing could be done: then its lines are what is wrong, on stderr.
fn finish(context: &mut Context, report: &Report) -> Result<(), Failure> {
    if report.code == Exit::Usage as u8 && !context.global.json {
        return Err(Failure::usage(report.lines.join("\n")));
    }
    print(context, report)?;
    ended(report)
}

fn print(context: &mut Context, report: &Report) -> Result<(), Failure> {
    let mut value = serde_json::json!({ "ok": report.code == 0, "lines": report.lines });
    if let Some(map) = value.as_object_mut().filter(|_| !report.cases.is_empty()) {
        map.insert("cases".to_owned(), serde_json::json!(report.cases));
    }
    context.print(&value, |out, _| {
        report.lines.iter().try_for_each(|line| {
            let line = painted(out, line);
            out.line(&line)
        })
    })
}

/// The words that the tools begin their lines with.
fn painted(out: &Output, line: &str) -> String {
    const WORDS: [(&str, Style); 4] = [
        ("ok   ", Style::Good),
        ("FAIL ", Style::Bad),
        ("   warning:", Style::Attention),
        ("left out", Style::Attention),
    ];
    for (word, style) in WORDS {
        if let Some(rest) = line.strip_prefix(word) {
            return format!("{}{}", out.paint(style, word), plain(rest));
        }
    }
    plain(line)
}

fn ended(report: &Report) -> Result<(), Failure> {
    match report.code {
        0 => Ok(()),
        1 => Err(Failure::told(Exit::Failed)),
        _ => Err(Failure::told(Exit::Usage)),
    }
}
