//! `tapwire policy check`: loads everything as the daemon would and says what it would run.

use super::{Report, globals, typegen};
use crate::config::PolicySettings;
use crate::model::name::matches_bytes;
use crate::policy::generation::load;
use crate::policy::plugin::sandbox::Sandbox;
use crate::policy::shape::did_you_mean;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Checks the plugins of `config`, or `paths` in their place. `networks`: ids and names of the configured ones.
pub fn check(paths: &[PathBuf], config: &PolicySettings, networks: &[String]) -> Report {
    let config = with_paths(paths, config);
    let loaded = match load(&config, &BTreeMap::new()) {
        Ok(loaded) => loaded,
        Err(report) => return Report::wrong(report),
    };
    let mut known = match Sandbox::known() {
        Ok(known) => known,
        Err(error) => return Report::wrong(error),
    };
    known.extend(typegen::type_names());
    let mut report = Report::default();
    for (number, member) in (1..).zip(&loaded.members) {
        let plugin = &member.plugin;
        let hooks: Vec<_> = plugin.hooks.iter().map(|hook| hook.word()).collect();
        report.line(format!(
            "{number}. {} ({}): {}",
            plugin.name,
            plugin.source.shown,
            hooks.join(", ")
        ));
        if plugin.hooks.is_empty() {
            report.line(format!(
                "   warning: {} has no hook, it will never be asked",
                plugin.name
            ));
        }
        for hook in plugin.hooks.iter().filter(|hook| hook.decides()) {
            if !plugin.origins.returns(*hook) {
                report.line(format!(
                    "   warning: {}: hook {hook} has no `return`, so it never decides anything",
                    plugin.origins.hook(*hook)
                ));
            }
        }
        for pattern in plugin.manifest.when.iter().flat_map(|when| &when.network.0) {
            let known = |name: &String| matches_bytes(pattern.as_bytes(), name.as_bytes());
            if !networks.is_empty() && !networks.iter().any(known) {
                let hint = did_you_mean(pattern, networks.iter().map(String::as_str));
                report.line(format!(
                    "   warning: when.network: no network `{pattern}` is configured{hint}"
                ));
            }
        }
        let modules = plugin.source.library.values().map(|m| (&*m.shown, &*m.text));
        for (shown, text) in [(&*plugin.source.shown, &*plugin.source.text)]
            .into_iter()
            .chain(modules)
        {
            for stray in globals::strays(text, &known) {
                report.line(format!("   warning: {shown}:{stray}"));
            }
        }
        if let Some(reads) = &plugin.manifest.reads {
            let parts: Vec<_> = reads.iter().map(|part| part.word()).collect();
            report.line(format!(
                "   reads {}: equal input is answered from memory",
                parts.join(", ")
            ));
        }
        let test = plugin.source.path.with_file_name(format!(
            "{}_test.lua",
            plugin
                .source
                .path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
        ));
        if !test.exists() {
            report.line(format!(
                "   note: no {} beside it, so no hook was tried",
                test.file_name().unwrap_or_default().to_string_lossy()
            ));
        }
    }
    for problem in &loaded.left_out {
        report.line(format!("left out (required = false): {problem}"));
    }
    let count = loaded.members.len();
    report.line(format!("{count} plugin{} ok", if count == 1 { "" } else { "s" }));
    report
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
