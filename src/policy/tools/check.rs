//! `tapwire policy check`: loads everything as the daemon would and says what it would run.

use super::{Report, globals, typegen};
use crate::config::PolicySettings;
use crate::model::name::matches_bytes;
use crate::policy::generation::load;
use crate::policy::plugin::load::Plugin;
use crate::policy::plugin::sandbox::Sandbox;
use crate::policy::shape::did_you_mean;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A plugin that can be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub name: String,
    /// As messages show it.
    pub file: String,
    pub hooks: Vec<&'static str>,
    /// The parts of `ctx` by which its answers are remembered; `None`: they are not.
    pub reads: Option<Vec<&'static str>>,
    /// What is most likely a mistake, with its place where it has one.
    pub warnings: Vec<String>,
    /// The test file that is missed beside it.
    pub missing_test: Option<String>,
}

/// Checks the plugins of `config`, or `paths` in their place. `networks`: ids and names of the configured ones.
pub fn check(paths: &[PathBuf], config: &PolicySettings, networks: &[String]) -> Report {
    let config = with_paths(paths, config);
    let loaded = match load(&config, &BTreeMap::new()) {
        Ok(loaded) => loaded,
        Err(report) => {
            return Report {
                problems: report.problems.clone(),
                ..Report::wrong(report)
            };
        }
    };
    let mut known = match Sandbox::known() {
        Ok(known) => known,
        Err(error) => return Report::wrong(error),
    };
    known.extend(typegen::type_names());
    let plugins = loaded
        .members
        .iter()
        .map(|member| look_at(&member.plugin, networks, &known));
    let mut report = Report {
        plugins: plugins.collect(),
        problems: loaded.left_out,
        ..Report::default()
    };
    let plugins = (1..)
        .zip(&report.plugins)
        .flat_map(|(number, plugin)| plugin.lines(number));
    report.lines = plugins.collect();
    for problem in &report.problems {
        report
            .lines
            .push(format!("left out (required = false): {problem}"));
    }
    let count = report.plugins.len();
    report.line(format!("{count} plugin{} ok", if count == 1 { "" } else { "s" }));
    report
}

fn look_at(plugin: &Plugin, networks: &[String], known: &[String]) -> Checked {
    let mut warnings = Vec::new();
    if plugin.hooks.is_empty() {
        warnings.push(format!("{} has no hook, it will never be asked", plugin.name));
    }
    for hook in plugin.hooks.iter().filter(|hook| hook.decides()) {
        if !plugin.origins.returns(*hook) {
            let place = plugin.origins.hook(*hook);
            warnings.push(format!(
                "{place}: hook {hook} has no `return`, so it never decides anything"
            ));
        }
    }
    for pattern in plugin.manifest.when.iter().flat_map(|when| &when.network.0) {
        let is_meant = |name: &String| matches_bytes(pattern.as_bytes(), name.as_bytes());
        if !networks.is_empty() && !networks.iter().any(is_meant) {
            let hint = did_you_mean(pattern, networks.iter().map(String::as_str));
            warnings.push(format!(
                "when.network: no network `{pattern}` is configured{hint}"
            ));
        }
    }
    let source = &plugin.source;
    let modules = source.library.values().map(|m| (&*m.shown, &*m.text));
    for (shown, text) in [(&*source.shown, &*source.text)].into_iter().chain(modules) {
        let strays = globals::strays(text, known).into_iter();
        warnings.extend(strays.map(|stray| format!("{shown}:{stray}")));
    }
    let stem = source.path.file_stem().unwrap_or_default().to_string_lossy();
    let test = format!("{stem}_test.lua");
    Checked {
        name: plugin.name.clone(),
        file: source.shown.to_string(),
        hooks: plugin.hooks.iter().map(|hook| hook.word()).collect(),
        reads: plugin
            .manifest
            .reads
            .as_ref()
            .map(|reads| reads.iter().map(|part| part.word()).collect()),
        warnings,
        missing_test: Some(test.clone()).filter(|_| !source.path.with_file_name(&test).exists()),
    }
}

impl Checked {
    /// For people. `number`: its place in the chain.
    fn lines(&self, number: usize) -> Vec<String> {
        let mut lines = vec![format!(
            "{number}. {} ({}): {}",
            self.name,
            self.file,
            self.hooks.join(", ")
        )];
        lines.extend(
            self.warnings
                .iter()
                .map(|warning| format!("   warning: {warning}")),
        );
        if let Some(reads) = &self.reads {
            let parts = reads.join(", ");
            lines.push(format!("   reads {parts}: equal input is answered from memory"));
        }
        if let Some(test) = &self.missing_test {
            lines.push(format!("   note: no {test} beside it, so no hook was tried"));
        }
        lines
    }
}

/// The configuration with other plugin files. Options of plugins that are not among them are left aside.
pub fn with_paths(paths: &[PathBuf], config: &PolicySettings) -> PolicySettings {
    let mut config = config.clone();
    // A tool must not touch the daemon's state.
    config.settings.remove("state");
    if paths.is_empty() {
        return config;
    }
    config.plugins = paths.to_vec();
    let names: Vec<String> = crate::policy::plugin::source::expand(&config.plugins)
        .unwrap_or_default()
        .iter()
        .map(|file| {
            file.file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        })
        .map(|stem| crate::policy::plugin::manifest::name_from_stem(&stem).to_owned())
        .collect();
    config.plugin.retain(|name, _| names.contains(name));
    if let Some(serde_json::Value::Object(limits)) = config.settings.get_mut("limits") {
        limits.retain(|name, _| names.contains(name));
    }
    config
}
