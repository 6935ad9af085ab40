//! `*_test.lua`: runs a test file in the plugins' own sandbox and collects its cases.

use crate::policy::guard;
use crate::policy::lift::{Bounds, lift};
use crate::policy::plugin::fault::Fault;
use crate::policy::plugin::hostcall;
use crate::policy::plugin::runtime::Limit;
use crate::policy::plugin::sandbox::{Coverage, KillSwitch, Sandbox, compile};
use crate::policy::plugin::source::Source;
use crate::policy::shape::{Decode, decoded_record};
use mlua::serde::LuaSerdeExt;
use mlua::{Table, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

decoded_record! {
    /// What `t.case{...}` says.
    pub struct CaseSpec {
        /// For people.
        pub name: Option<String>,
        /// The plugin asked; its file is beside the test.
        pub plugin: Option<String>,
        /// The hook of that plugin.
        pub hook: Option<String>,
        /// In place of `plugin` and `hook`: this hook of all plugins beside the test, merged.
        pub chain: Option<String>,
        /// `[policy.plugin.NAME]`.
        pub config: Option<serde_json::Value>,
        /// `[policy.maps]`, by name.
        pub maps: BTreeMap<String, serde_json::Value>,
        /// The context, made with `t.tap`.
        pub ctx: Option<serde_json::Value>,
        /// The answer: a table, `t.none`; `t.match(text)` in place of a text.
        pub want: Option<serde_json::Value>,
        /// In place of `want`: the hook fails, and the message contains this.
        pub want_error: Option<String>,
    }
}

/// One case with its place.
#[derive(Debug, Clone)]
pub struct Case {
    /// "plugins/mtu_test.lua:3".
    pub place: String,
    pub spec: CaseSpec,
}

const LIBRARY: &str = include_str!("test_library.lua");
const CASE: Bounds = Bounds {
    depth: 12,
    items: 64 * 1024,
    bytes: 1 << 20,
};
const CPU: Duration = Duration::from_secs(2);
const MEMORY: usize = 64 << 20;

/// Runs a test file; returns its cases or what is wrong with it.
pub fn collect(source: &Source) -> Result<Vec<Case>, String> {
    let kill = Arc::new(KillSwitch::default());
    let (source, switch) = (source.clone(), Arc::clone(&kill));
    let shown = source.shown.to_string();
    guard::run(&kill, CPU, move || run(&source, &switch)).unwrap_or_else(|e| Err(format!("{shown}: {e}")))
}

fn run(source: &Source, kill: &Arc<KillSwitch>) -> Result<Vec<Case>, String> {
    kill.begin(guard::LOAD_CALL);
    let cases = Arc::new(Mutex::new(Vec::new()));
    execute(source, kill, &cases).map_err(|error| {
        let fault = Fault::from_lua(&error);
        match fault.place {
            Some(_) => fault.to_string(),
            None => format!("{}: {fault}", source.shown),
        }
    })?;
    let cases = std::mem::take(&mut *cases.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(cases)
}

fn execute(source: &Source, kill: &Arc<KillSwitch>, cases: &Arc<Mutex<Vec<Case>>>) -> mlua::Result<()> {
    let sandbox = Sandbox::new(Arc::clone(kill))?;
    let lua = sandbox.lua.clone();
    let host = lua.create_table()?;
    host.raw_set("unset", lua.null())?;
    sandbox.define("host", host)?;
    let (lua, environment) = sandbox.close()?;
    let library: Table = compile(&lua, "policy.test", LIBRARY, &environment, Coverage::Off)?.call(())?;
    library.raw_set("unset", lua.null())?;
    let (cases, shown) = (Arc::clone(cases), source.shown.to_string());
    library.raw_set(
        "case",
        lua.create_function(move |lua, case: Value| {
            // The outermost frame is the test file itself: the line of the case, not of a helper around `t.case`.
            let frames = (0..).map_while(|level| lua.inspect_stack(level, |frame| frame.current_line()));
            let line = frames.flatten().last().unwrap_or(0);
            let spec = lift(&case, CASE)
                .and_then(CaseSpec::decode)
                .map_err(|e| mlua::Error::runtime(format!("t.case: {e}")))?;
            cases.lock().unwrap_or_else(PoisonError::into_inner).push(Case {
                place: format!("{shown}:{line}"),
                spec,
            });
            Ok(())
        })?,
    )?;
    hostcall::close(&lua, &library, "t")?;
    environment.raw_set(
        "require",
        lua.create_function(move |_, name: String| match name.as_str() {
            "policy.test" => Ok(library.clone()),
            _ => Err(mlua::Error::runtime(format!(
                "no module `{name}`; tests have \"policy.test\""
            ))),
        })?,
    )?;
    let _armed = Limit::arm(&lua, MEMORY)?;
    compile(&lua, &source.shown, &source.text, &environment, Coverage::Off)?.call::<()>(())
}

/// Lua's empty tables are lifted as empty lists; in a context every field has a default, so they are left out.
pub fn without_empty(value: Json) -> Json {
    match value {
        Json::Object(map) => Json::Object(
            map.into_iter()
                .filter(|(_, v)| !v.as_array().is_some_and(Vec::is_empty))
                .map(|(k, v)| (k, without_empty(v)))
                .collect(),
        ),
        Json::Array(list) => Json::Array(list.into_iter().map(without_empty).collect()),
        other => other,
    }
}
