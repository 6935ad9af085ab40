//! From a source file to a running state: compile, run the file once, read its manifest, check its options.

use super::fault::Fault;
use super::hint;
use super::hostcall;
use super::hostlib::{self, Effects, SharedEffects};
use super::manifest::{Manifest, check_name};
use super::options;
use super::origin::Origins;
use super::runtime::{Limit, Runtime};
use super::sandbox::{self, Coverage, KillSwitch, Sandbox};
use super::source::Source;
use crate::policy::api::Hook;
use crate::policy::lift::{Bounds, lift};
use crate::policy::settings::Settings;
use crate::policy::shape::Misshapen;
use mlua::serde::LuaSerdeExt;
use mlua::{Function, Lua, Table, Value};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What a plugin file turned out to be.
#[derive(Debug, Clone)]
pub struct Plugin {
    pub name: String,
    pub source: Source,
    pub manifest: Arc<Manifest>,
    /// Hooks it has, by `Hook as usize`.
    pub hooks: Vec<Hook>,
    pub origins: Arc<Origins>,
    /// The configured options with defaults.
    pub options: Arc<Map<String, Json>>,
    /// FNV-1a of source and options: part of the generation's hash.
    pub hash: u64,
}

/// A file that can't be used as a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Problem {
    /// The plugin's name as far as known.
    pub plugin: String,
    /// "plugins/mtu.lua:14" or the path alone.
    pub place: String,
    pub message: String,
}

/// What a load needs besides the source.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    pub settings: Arc<Settings>,
    /// Contents of `[policy.maps]`.
    pub maps: Arc<BTreeMap<String, Arc<Json>>>,
    pub coverage: Coverage,
    /// Options that replace the configured ones (`policy test`).
    pub options: Option<Json>,
}

/// Larger than for an answer: a manifest with a schema and a table or two.
const MANIFEST: Bounds = Bounds {
    depth: 12,
    items: 8 * 1024,
    bytes: 256 * 1024,
};

/// Loads a plugin on the current thread. The caller watches over the deadline with `kill` (call number `call`).
pub fn load(
    source: &Source,
    around: &Surroundings,
    kill: &Arc<KillSwitch>,
    call: u64,
) -> Result<(Plugin, Runtime), Problem> {
    kill.begin(call);
    let problem = |place: Option<String>, message: String| Problem {
        plugin: source.stem.clone(),
        place: place.unwrap_or_else(|| source.shown.to_string()),
        message,
    };
    let raised = |error: mlua::Error| {
        if kill.is_killed() {
            let place = Fault::from_lua(&error).place;
            return problem(place, "stopped while loading: its CPU time is used up".into());
        }
        let fault = Fault::from_lua(&error);
        let line = fault.place.as_deref().and_then(|place| source.line(place));
        problem(fault.place.clone(), hint::explained(&fault.message, line))
    };
    let effects: SharedEffects = Arc::new(Mutex::new(Effects::default()));
    let (lua, environment, config) = prepare(source, around, kill, &effects).map_err(raised)?;
    let memory = around.settings.limits(&source.stem).memory;
    let (main, returned) = {
        let _armed = Limit::arm(&lua, memory).map_err(raised)?;
        let main = sandbox::compile(&lua, &source.shown, &source.text, &environment, around.coverage)
            .map_err(raised)?;
        let returned = main.call::<Value>(()).map_err(raised)?;
        (main, returned)
    };
    let Value::Table(table) = returned else {
        let found = match returned.type_name() {
            "integer" => "number",
            other => other,
        };
        return Err(problem(
            None,
            format!(
                "the file must return a table, it returned {found}; does it end with `return {{ api = 1, ... }}`?"
            ),
        ));
    };
    let (functions, data) = split(&table).map_err(|m| problem(None, m))?;
    let mut hooks = Vec::new();
    let mut called: [Option<Function>; Hook::ALL.len()] = Default::default();
    let mut migrate = None;
    if let Some(name) = data
        .as_object()
        .and_then(|d| d.keys().find(|k| Hook::from_word(k).is_some()))
    {
        let message = format!("`{name}` is a hook, so a function: {name} = function(ctx) return ... end");
        return Err(problem(place_of(source, name), message));
    }
    for (name, function) in functions {
        let line = function.info().line_defined.unwrap_or(1);
        if name == "migrate" {
            migrate = Some(function);
            continue;
        }
        let Some(hook) = Hook::from_word(&name) else {
            let hint = crate::policy::shape::did_you_mean(&name, Hook::WORDS.iter().copied());
            return Err(problem(
                Some(format!("{}:{line}", source.shown)),
                format!("there is no hook `{name}`{hint}"),
            ));
        };
        hooks.push((hook, line));
        if let Some(slot) = called.get_mut(hook as usize) {
            *slot = Some(function);
        }
    }
    let words: Vec<Hook> = hooks.iter().map(|(hook, _)| *hook).collect();
    let manifest =
        Manifest::read(data, &words).map_err(|e| problem(place_of(source, e.origin()), e.to_string()))?;
    let name = manifest.name.clone().unwrap_or_else(|| source.stem.clone());
    check_name(&name).map_err(|e| problem(None, format!("name of the file: {e}")))?;
    let configured = around
        .options
        .as_ref()
        .or_else(|| around.settings.options.get(&name));
    let options = options::configure(&manifest.schema, configured).map_err(|problems| {
        let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let key = |mistake: &Misshapen| format!("plugin.{name}.{}", mistake.origin());
        // Of options that the configuration says; a default that does not fit stands in the plugin's file.
        let told = problems
            .iter()
            .filter(|_| configured.is_some() && around.options.is_none());
        let place = told.filter_map(|p| around.settings.places.of(&key(p))).next();
        problem(
            place.map(str::to_owned),
            format!("[policy.plugin.{name}] {}", text.join("; ")),
        )
    })?;
    fill_config(&lua, &config, &options, &manifest).map_err(raised)?;
    let limits = around.settings.limits(&name);
    let origins = Arc::new(Origins::new(
        &name,
        Arc::clone(&source.shown),
        Arc::clone(&source.text),
        hooks,
    ));
    let plugin = Plugin {
        hash: hash(source, &options),
        name,
        source: source.clone(),
        manifest: Arc::new(manifest),
        hooks: words,
        origins,
        options: Arc::new(options),
    };
    let mut runtime =
        Runtime::new(lua, called, migrate, effects, Arc::clone(kill), limits, &plugin).map_err(raised)?;
    if around.coverage == Coverage::Lines {
        runtime.count_lines(main);
    }
    Ok((plugin, runtime))
}

fn prepare(
    source: &Source,
    around: &Surroundings,
    kill: &Arc<KillSwitch>,
    effects: &SharedEffects,
) -> mlua::Result<(Lua, Table, Table)> {
    let sandbox = Sandbox::new(Arc::clone(kill))?;
    let lua = sandbox.lua.clone();
    let host = hostlib::build(&lua, effects, &around.maps)?;
    let config = lua.create_table()?;
    let early = lua.create_table()?;
    early.raw_set(
        "__index",
        lua.create_function(|_, _: (Value, Value)| {
            let text = "host.config is not filled yet while the file loads; read it inside a hook";
            Err::<(), _>(mlua::Error::runtime(text))
        })?,
    )?;
    config.set_metatable(Some(early))?;
    host.raw_set("config", &config)?;
    host.raw_get::<Table>("features")?.set_readonly(true);
    hostcall::close(&lua, &host, "host")?;
    sandbox.define("host", host)?;
    sandbox.define("print", hostlib::print(&lua, effects)?)?;
    // `require` needs the environment, which exists only once the globals are closed: it is set there.
    let (lua, environment) = sandbox.close()?;
    let require = sandbox::require_function(&lua, source, &environment, around.coverage)?;
    environment.raw_set("require", require)?;
    Ok((lua, environment, config))
}

/// The functions and the data of the returned table.
fn split(table: &Table) -> Result<(Vec<(String, Function)>, Json), String> {
    let mut functions = Vec::new();
    let mut data = Map::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let Value::String(key) = key else {
            return Err(format!("the returned table has a {} as key", key.type_name()));
        };
        let key = key.to_string_lossy();
        match value {
            Value::Function(function) => functions.push((key, function)),
            value => {
                let value = lift(&value, MANIFEST).map_err(|e| e.inside(&key).to_string())?;
                data.insert(key, value);
            }
        }
    }
    functions.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((functions, Json::Object(data)))
}

/// The line where the first word of a manifest path is set, for messages.
fn place_of(source: &Source, path: &str) -> Option<String> {
    let word = path.split(['.', '[']).next().filter(|w| !w.is_empty())?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let sets = |line: &str| {
        line.match_indices(word).any(|(at, _)| {
            let (before, after) = (line.get(..at), line.get(at + word.len()..));
            !before.is_some_and(|text| text.ends_with(|c: char| is_word(c) || c == '.'))
                && after.is_some_and(|text| text.trim_start().starts_with('='))
        })
    };
    let line = source.text.lines().position(sets)?;
    Some(format!("{}:{}", source.shown, line + 1))
}

fn fill_config(
    lua: &Lua,
    config: &Table,
    options: &Map<String, Json>,
    manifest: &Manifest,
) -> mlua::Result<()> {
    for (key, value) in options {
        let value = lua.to_value_with(value, hostlib::lua_options())?;
        if let Value::Table(table) = &value {
            hostlib::freeze(table)?;
        }
        config.raw_set(key.as_str(), value)?;
    }
    let known: Vec<String> = manifest.schema.keys().cloned().collect();
    let strict = lua.create_table()?;
    strict.raw_set(
        "__index",
        lua.create_function(move |_, (_, key): (Value, String)| {
            if known.contains(&key) {
                return Ok(Value::Nil);
            }
            let hint = crate::policy::shape::did_you_mean(&key, known.iter().map(String::as_str));
            Err(mlua::Error::runtime(format!(
                "host.config.{key}: the schema has no such option{hint}"
            )))
        })?,
    )?;
    strict.raw_set("__metatable", false)?;
    config.set_metatable(Some(strict))?;
    config.set_readonly(true);
    Ok(())
}

fn hash(source: &Source, options: &Map<String, Json>) -> u64 {
    let modules = source
        .library
        .iter()
        .flat_map(|(name, module)| name.bytes().chain(module.text.bytes()));
    let options = serde_json::to_string(options).unwrap_or_default();
    source
        .text
        .bytes()
        .chain(modules)
        .chain(options.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

impl Problem {
    /// A problem found by somebody else than the script.
    pub fn of(source: &Source, message: impl Into<String>) -> Self {
        Self {
            plugin: source.stem.clone(),
            place: source.shown.to_string(),
            message: message.into(),
        }
    }
}
