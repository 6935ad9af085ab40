//! A Lua state that can't do harm: frozen libraries without files, clocks, bytecode or garbage-collector control, no
//! global variables, and an interrupt that stops it at any instruction.
//!
//! Luau calls the interrupt on every call, every loop iteration and inside the pattern matcher, so that a deadline
//! holds also against retry loops around `pcall`, recursion in error handlers and catastrophic patterns. The only C
//! loop it does not reach is `table.move`, which is range-checked here.

use super::source::Source;
use crate::policy::shape::did_you_mean;
use mlua::chunk::{ChunkMode, Compiler};
use mlua::{Error, Function, Lua, LuaOptions, Result, StdLib, Table, Value, VmState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stops a call from another thread. Calls are numbered, so that a late stop never hits the next call.
#[derive(Debug)]
pub struct KillSwitch {
    current: AtomicU64,
    killed: AtomicU64,
}

impl Default for KillSwitch {
    fn default() -> Self {
        Self {
            current: AtomicU64::new(0),
            killed: AtomicU64::new(u64::MAX),
        }
    }
}

impl KillSwitch {
    pub fn begin(&self, call: u64) {
        self.current.store(call, Ordering::Relaxed);
    }
    /// The call is over: a stop that comes now comes too late.
    pub fn end(&self) {
        self.current.store(0, Ordering::Relaxed);
    }
    /// Stops call number `call`, which is at least 1, at its next instruction.
    pub fn kill(&self, call: u64) {
        self.killed.store(call, Ordering::Relaxed);
    }
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed) == self.current.load(Ordering::Relaxed)
    }
}

/// Raised by the interrupt; shown when a script prints it.
const STOPPED: &str = "stopped: the CPU time of this call is used up";
/// How far up the stack a line of a script is looked for.
const STOPPED_DEPTH: usize = 8;

/// [`STOPPED`] with the line of the script that ran.
fn stopped_at(lua: &Lua) -> String {
    let line = |level| {
        lua.inspect_stack(level, |frame| {
            let source = frame.source();
            let file = source.source.as_deref()?.strip_prefix('@')?.to_owned();
            Some(format!("{file}:{}", frame.current_line()?))
        })
    };
    match (0..STOPPED_DEPTH).map_while(line).flatten().next() {
        Some(place) => format!("{place}: {STOPPED}"),
        None => STOPPED.to_owned(),
    }
}

/// What one `table.move` may copy.
const MAX_MOVE: f64 = 65_536.0;

/// A fresh state with the safe libraries, not yet closed (`Sandbox::close`).
pub struct Sandbox {
    pub lua: Lua,
    globals: Table,
}

impl Sandbox {
    pub fn new(kill: Arc<KillSwitch>) -> Result<Self> {
        let libraries =
            StdLib::COROUTINE | StdLib::TABLE | StdLib::STRING | StdLib::UTF8 | StdLib::BIT | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        lua.set_interrupt(move |lua| {
            if kill.is_killed() {
                Err(Error::runtime(stopped_at(lua)))
            } else {
                Ok(VmState::Continue)
            }
        });
        let globals = lua.globals();
        for name in [
            "loadstring",
            "load",
            "dofile",
            "getfenv",
            "setfenv",
            "newproxy",
            "collectgarbage",
            "gcinfo",
            "require",
        ] {
            globals.raw_set(name, Value::Nil)?;
        }
        let table: Table = globals.raw_get("table")?;
        let plain_move: Function = table.raw_get("move")?;
        let checked_move = lua.create_function(
            move |_, (from, first, last, to, into): (Table, f64, f64, f64, Option<Table>)| {
                if last - first >= MAX_MOVE
                    || [first, last, to].iter().any(|n| !n.is_finite() || n.abs() > 1e9)
                {
                    return Err(Error::runtime(
                        "table.move: more than 65536 entries, or an index out of reach",
                    ));
                }
                plain_move.call::<Table>((from, first, last, to, into))
            },
        )?;
        table.raw_set("move", checked_move)?;
        listing(&lua, &globals)?;
        let math: Table = globals.raw_get("math")?;
        // A hook must answer the same question the same way, or a resync would change ports at random.
        for name in ["random", "randomseed"] {
            let text =
                format!("math.{name}: hooks must be deterministic; derive a number with host.hash(text)");
            math.raw_set(
                name,
                lua.create_function(move |_, ()| Err::<(), _>(Error::runtime(&text)))?,
            )?;
        }
        Ok(Self { lua, globals })
    }

    /// Names of all libraries and functions that scripts have.
    pub fn known() -> Result<Vec<String>> {
        let sandbox = Self::new(Arc::new(KillSwitch::default()))?;
        let mut names = vec!["host".to_owned(), "print".to_owned(), "require".to_owned()];
        for pair in sandbox.globals.pairs::<String, Value>() {
            names.push(pair?.0);
        }
        Ok(names)
    }

    /// Adds a global before the state is closed.
    pub fn define(&self, name: &str, value: impl mlua::IntoLua) -> Result<()> {
        self.globals.raw_set(name, value)
    }

    /// Freezes libraries and globals; returns the environment for chunks, where undeclared names are errors.
    pub fn close(self) -> Result<(Lua, Table)> {
        let Sandbox { lua, globals } = self;
        let strict = lua.create_table()?;
        let mut known = Vec::new();
        for pair in globals.pairs::<String, Value>() {
            known.push(pair?.0);
        }
        strict.raw_set(
            "__index",
            lua.create_function(move |_, (_, name): (Value, Value)| {
                let name = name_of(&name);
                let mut hint = advice(&name).to_owned();
                if hint.is_empty() {
                    hint = did_you_mean(&name, known.iter().map(String::as_str));
                }
                if hint.is_empty() {
                    hint = "; a local is known below its `local` only".to_owned();
                }
                Err::<(), _>(Error::runtime(format!("unknown global `{name}`{hint}")))
            })?,
        )?;
        strict.raw_set("__metatable", false)?;
        strict.set_readonly(true);
        globals.set_metatable(Some(strict))?;
        lua.sandbox(true)?;
        let meta = lua.create_table()?;
        meta.raw_set("__index", &globals)?;
        meta.raw_set("__metatable", false)?;
        meta.raw_set(
            "__newindex",
            lua.create_function(|_, (_, name, _): (Value, Value, Value)| {
                let name = name_of(&name);
                Err::<(), _>(Error::runtime(format!(
                    "assignment to global `{name}`; write `local {name} = ...`"
                )))
            })?,
        )?;
        meta.set_readonly(true);
        let environment = lua.create_table()?;
        environment.set_metatable(Some(meta))?;
        environment.set_safeenv(true);
        Ok((lua, environment))
    }
}

/// `pairs` and `next` that find all of `ctx`, whose parts are made when they are named (`given`). Like all tables that are
/// given to scripts it has a metatable that shows as `false`; any other table costs one comparison. (`for part in next, ctx do`
/// asks neither: Luau walks by itself there.)
fn listing(lua: &Lua, globals: &Table) -> Result<()> {
    let complete = lua.create_function(|lua, table: Table| super::given::complete(lua, &table))?;
    let wrap = "local name, complete, plain, getmetatable, type, error = ...\n\
                return function(t, key)\n\
                if type(t) ~= 'table' then\n\
                error(`invalid argument #1 to '{name}' (table expected, got {type(t)})`, 2)\n\
                end\n\
                if getmetatable(t) == false then complete(t) end\n\
                return plain(t, key)\nend";
    let library = |name: &str| globals.raw_get::<Function>(name);
    for name in ["pairs", "next"] {
        let chunk = lua
            .load(wrap)
            .set_name(format!("={name}"))
            .set_mode(ChunkMode::Text);
        let uses = (library("getmetatable")?, library("type")?, library("error")?);
        let wrapped: Function = chunk.call((name, &complete, library(name)?, uses.0, uses.1, uses.2))?;
        globals.raw_set(name, wrapped)?;
    }
    Ok(())
}

fn name_of(value: &Value) -> String {
    match value {
        Value::String(s) => s.to_string_lossy(),
        other => other.type_name().to_owned(),
    }
}

pub(crate) fn advice(name: &str) -> &'static str {
    match name {
        "os" => "; a hook takes the time from ctx.now",
        "io" => "; tables from files come with host.map(name)",
        "load" | "loadstring" | "dofile" => "; code comes from plugin files only",
        "debug" | "package" | "collectgarbage" | "getfenv" | "setfenv" | "newproxy" => {
            "; not available to plugins"
        }
        _ => "",
    }
}

/// Compiles a chunk, as text only: Luau runs crafted bytecode without checking it.
pub fn compile(
    lua: &Lua,
    name: &str,
    text: &str,
    environment: &Table,
    coverage: Coverage,
) -> Result<Function> {
    let compiler = Compiler::new()
        .set_optimization_level(1)
        .set_debug_level(1)
        .set_coverage_level(match coverage {
            Coverage::Off => 0,
            Coverage::Lines => 1,
        });
    lua.load(text)
        .set_name(format!("@{name}"))
        .set_mode(ChunkMode::Text)
        .set_environment(environment.clone())
        .set_compiler(compiler)
        .into_function()
}

/// Whether executed lines are counted (`policy test --coverage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coverage {
    #[default]
    Off,
    Lines,
}

/// `require(name)`: `lib/NAME.lua` beside the plugin, run once, in the same environment. Nothing is read from disk here.
pub fn require_function(
    lua: &Lua,
    source: &Source,
    environment: &Table,
    coverage: Coverage,
) -> Result<Function> {
    let modules = lua.create_table()?;
    let library = Arc::clone(&source.library);
    let environment = environment.clone();
    lua.create_function(move |lua, name: String| {
        let name = name.strip_prefix("lib/").unwrap_or(&name);
        match modules.raw_get::<Value>(name)? {
            Value::Nil => {}
            Value::Boolean(false) => return Err(Error::runtime(format!("`lib/{name}.lua` requires itself"))),
            loaded => return Ok(loaded),
        }
        let Some(module) = library.get(name) else {
            let known: Vec<_> = library.keys().map(String::as_str).collect();
            let hint = crate::policy::shape::did_you_mean(name, known);
            return Err(Error::runtime(format!(
                "no module `{name}`: there is no lib/{name}.lua beside the plugin{hint}"
            )));
        };
        modules.raw_set(name, false)?;
        let loaded: Value = compile(lua, &module.shown, &module.text, &environment, coverage)?.call(())?;
        let loaded = if loaded.is_nil() {
            Value::Boolean(true)
        } else {
            loaded
        };
        modules.raw_set(name, &loaded)?;
        Ok(loaded)
    })
}
