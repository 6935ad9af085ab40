//! A loaded plugin that can be asked. Used by one thread at a time, whichever it is.

use super::fault::Fault;
use super::hostlib::{self, Effects, SharedEffects, freeze, lua_options};
use super::load::Plugin;
use super::sandbox::KillSwitch;
use super::store::Kept;
use crate::policy::api::context::{Context, HostFacts, Network, Part, Uplink};
use crate::policy::api::decision::Verdict;
use crate::policy::api::{Hook, Outcome};
use crate::policy::lift::{Bounds, lift};
use crate::policy::memory::give_memory_back;
use crate::policy::settings::Limits;
use crate::policy::tools::coverage::Lines;
use mlua::serde::LuaSerdeExt;
use mlua::{Function, Lua, Table, Value};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Arms the memory limit while it lives. Only around script code: with a limit set mlua protects every single table
/// access of the host, which costs three times as much.
pub struct Limit<'a> {
    lua: &'a Lua,
}

impl<'a> Limit<'a> {
    pub fn arm(lua: &'a Lua, bytes: usize) -> mlua::Result<Self> {
        lua.set_memory_limit(bytes)?;
        Ok(Self { lua })
    }
}

impl Drop for Limit<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.lua.set_memory_limit(0) {
            tracing::error!(%error, "memory limit can't be lifted");
        }
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Called {
    pub answer: Result<Option<Verdict>, Fault>,
    /// What it said besides; empty after a failure, except for log lines.
    pub effects: Effects,
    pub elapsed: Duration,
}

/// A state that ran out of memory twice in this time is replaced.
const OUT_OF_MEMORY_PAUSE: Duration = Duration::from_secs(60);
/// Garbage that is not worth any collection while others wait for the processor.
const LITTLE_GARBAGE: usize = 256 << 10;
/// Garbage that is not worth a thorough collection.
const KEPT_GARBAGE: usize = 2 << 20;
/// Tables kept for networks and uplinks that many taps share.
const MAX_SHARED: usize = 128;

pub struct Runtime {
    lua: Lua,
    hooks: [Option<Function>; Hook::ALL.len()],
    migrate: Option<Function>,
    effects: SharedEffects,
    kill: Arc<KillSwitch>,
    limits: Limits,
    shown: Arc<str>,
    parts: Vec<Part>,
    networks: HashMap<String, (Arc<Network>, Table)>,
    uplinks: HashMap<String, (Arc<Uplink>, Table)>,
    host: Option<(Arc<HostFacts>, Table)>,
    /// The file as a function, where lines are counted.
    main: Option<Function>,
    /// Bytes after loading.
    loaded_memory: usize,
    out_of_memory: Option<Instant>,
    exhausted: bool,
}

impl Runtime {
    pub fn new(
        lua: Lua,
        hooks: [Option<Function>; Hook::ALL.len()],
        migrate: Option<Function>,
        effects: SharedEffects,
        kill: Arc<KillSwitch>,
        limits: Limits,
        plugin: &Plugin,
    ) -> mlua::Result<Self> {
        // What loading left behind, so that it does not count against the first call.
        lua.gc_collect()?;
        Ok(Self {
            loaded_memory: lua.used_memory(),
            lua,
            hooks,
            migrate,
            effects,
            kill,
            limits,
            shown: Arc::clone(&plugin.source.shown),
            parts: plugin
                .manifest
                .reads
                .clone()
                .unwrap_or_else(|| Part::ALL.to_vec()),
            networks: HashMap::new(),
            uplinks: HashMap::new(),
            host: None,
            main: None,
            out_of_memory: None,
            exhausted: false,
        })
    }

    /// Counts lines of this file, given as the function it was compiled to.
    pub fn count_lines(&mut self, main: Function) {
        self.main = Some(main);
    }
    pub fn limits(&self) -> Limits {
        self.limits
    }
    pub fn kill_switch(&self) -> Arc<KillSwitch> {
        Arc::clone(&self.kill)
    }
    /// Bytes.
    pub fn used_memory(&self) -> usize {
        self.lua.used_memory()
    }
    /// The state can't be trusted to have memory left: replace it.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted
    }
    /// For when there is nothing else to do: a little garbage collection, or a thorough one after a call that left much
    /// behind. Then the pages go back to the system, which the allocator would otherwise keep for this thread.
    pub fn rest(&self) {
        let before = self.used_memory();
        if before < self.loaded_memory + LITTLE_GARBAGE {
            return;
        }
        let much = before > self.loaded_memory + KEPT_GARBAGE;
        let collected = if much {
            self.lua.gc_collect()
        } else {
            self.lua.gc_step().map(|_| ())
        };
        if let Err(error) = collected {
            tracing::warn!(%error, plugin_file = %self.shown, "garbage collection failed");
        }
        if before.saturating_sub(self.used_memory()) > KEPT_GARBAGE {
            give_memory_back();
        }
    }

    /// Adds the lines run so far; nothing unless it was loaded with `Coverage::Lines`.
    pub fn coverage(&self, lines: &mut Lines) {
        if let Some(main) = &self.main {
            main.coverage(|info| lines.add(&self.shown, &info.hits));
        }
    }

    /// Asks one hook. `tags` are those of earlier plugins; `state` is what `host.state` holds. The caller watches over
    /// the deadline of call number `call`.
    pub fn ask(
        &mut self,
        hook: Hook,
        context: &Context,
        tags: &BTreeMap<String, String>,
        state: &Map<String, Json>,
        call: u64,
    ) -> Called {
        let started = Instant::now();
        self.kill.begin(call);
        *hostlib::lock(&self.effects) = Effects {
            state: state.clone(),
            ..Effects::default()
        };
        let answer = self.run(hook, context, tags);
        let mut effects = std::mem::take(&mut *hostlib::lock(&self.effects));
        if let Err(fault) = &answer {
            effects.writes.clear();
            effects.metrics.clear();
            if fault.outcome == Outcome::Memory {
                self.recover();
            }
        }
        Called {
            answer,
            effects,
            elapsed: started.elapsed(),
        }
    }

    fn run(
        &mut self,
        hook: Hook,
        context: &Context,
        tags: &BTreeMap<String, String>,
    ) -> Result<Option<Verdict>, Fault> {
        let Some(function) = self.hooks.get(hook as usize).cloned().flatten() else {
            return Ok(None);
        };
        let (ctx, second) = self.arguments(context, tags).map_err(|e| self.fault(&e))?;
        let returned = {
            let _armed = Limit::arm(&self.lua, self.limits.memory).map_err(|e| self.fault(&e))?;
            function
                .call::<Value>((ctx, second))
                .map_err(|e| self.fault(&e))?
        };
        if returned.is_nil() {
            return Ok(None);
        }
        let invalid = |e: crate::policy::shape::Misshapen| {
            let line = function.info().line_defined.unwrap_or(1);
            Fault::new(
                Outcome::Invalid,
                Some(format!("{}:{line}", self.shown)),
                e.to_string(),
            )
        };
        let value = lift(&returned, Bounds::RESULT).map_err(invalid)?;
        Verdict::decode(hook, value).map(Some).map_err(invalid)
    }

    fn fault(&self, error: &mlua::Error) -> Fault {
        let fault = Fault::from_lua(error);
        if self.kill.is_killed() {
            let budget = self.limits.deadline.as_millis();
            return Fault::new(
                Outcome::Deadline,
                fault.place,
                format!("stopped after {budget} ms of CPU time"),
            );
        }
        match fault.outcome {
            Outcome::Memory => {
                let budget = self.limits.memory >> 20;
                Fault::new(
                    Outcome::Memory,
                    fault.place,
                    format!("out of memory, the limit is {budget} MiB"),
                )
            }
            _ => fault,
        }
    }

    /// After running out of memory every allocation of a Luau state fails until it was collected from outside.
    fn recover(&mut self) {
        let now = Instant::now();
        let again = self
            .out_of_memory
            .is_some_and(|then| now.duration_since(then) < OUT_OF_MEMORY_PAUSE);
        self.out_of_memory = Some(now);
        self.networks.clear();
        self.uplinks.clear();
        self.host = None;
        // Twice: the first finishes a cycle under way, the second collects what it had already marked.
        let collected = self.lua.gc_collect().and_then(|()| self.lua.gc_collect());
        give_memory_back();
        self.exhausted = again || collected.is_err() || self.lua.used_memory() > self.limits.memory / 2;
    }

    /// `ctx` and the second argument.
    fn arguments(
        &mut self,
        context: &Context,
        tags: &BTreeMap<String, String>,
    ) -> mlua::Result<(Table, Value)> {
        let lua = self.lua.clone();
        let ctx = lua.create_table_with_capacity(0, 16)?;
        ctx.raw_set("api", context.api)?;
        ctx.raw_set("hook", context.hook.word())?;
        let mut second = Value::Nil;
        for part in &self.parts {
            let name = part.word();
            match part {
                Part::Link => set(&lua, &ctx, name, &context.link)?,
                Part::Port => set(&lua, &ctx, name, &context.port)?,
                Part::Vm => set(&lua, &ctx, name, &context.vm)?,
                Part::Bridge => set(&lua, &ctx, name, &context.bridge)?,
                Part::Current => set(&lua, &ctx, name, &context.current)?,
                Part::Tags => ctx.raw_set(name, value(&lua, tags)?)?,
                Part::Now => ctx.raw_set(name, context.now)?,
                Part::Seq => ctx.raw_set(name, context.seq)?,
                Part::Gen => ctx.raw_set(name, context.r#gen)?,
                Part::Reason => ctx.raw_set(name, context.reason.word())?,
                Part::Network => {
                    if let Some(network) = &context.network {
                        ctx.raw_set(name, shared(&lua, &mut self.networks, &network.id, network)?)?;
                    }
                }
                Part::Uplink => {
                    if let Some(uplink) = &context.uplink {
                        ctx.raw_set(name, shared(&lua, &mut self.uplinks, &uplink.name, uplink)?)?;
                    }
                }
                Part::Host => {
                    let table = match &self.host {
                        Some((facts, table)) if same(facts, &context.host) => table.clone(),
                        _ => {
                            let table = frozen(&lua, context.host.as_ref())?;
                            self.host = Some((Arc::clone(&context.host), table.clone()));
                            table
                        }
                    };
                    ctx.raw_set(name, table)?;
                }
                Part::Plan if context.plan.is_some() => {
                    second = value(&lua, &context.plan)?;
                    ctx.raw_set(name, &second)?;
                }
                Part::Result if context.result.is_some() => {
                    second = value(&lua, &context.result)?;
                    ctx.raw_set(name, &second)?;
                }
                Part::Lease if context.lease.is_some() => ctx.raw_set(name, value(&lua, &context.lease)?)?,
                Part::Diff if context.hook == Hook::Drift => {
                    second = value(&lua, &context.diff)?;
                    ctx.raw_set(name, &second)?;
                }
                Part::Plan | Part::Result | Part::Lease | Part::Diff => {}
            }
        }
        ctx.set_readonly(true);
        Ok((ctx, second))
    }

    /// Lets the plugin carry its state over from another `state_version`. Without `migrate` it starts empty.
    pub fn migrate(&mut self, old: &Kept, to: u32, call: u64) -> Result<Kept, Fault> {
        self.kill.begin(call);
        let mut next = Kept {
            version: to,
            values: Map::new(),
        };
        let Some(migrate) = &self.migrate else {
            return Ok(next);
        };
        let fault = |e: &mlua::Error| self.fault(e);
        let table = value(&self.lua, &old.values).map_err(|e| fault(&e))?;
        let _armed = Limit::arm(&self.lua, self.limits.memory).map_err(|e| fault(&e))?;
        let returned: Value = migrate.call((table, old.version)).map_err(|e| fault(&e))?;
        let invalid = |text: String| Fault::new(Outcome::Invalid, Some(self.shown.to_string()), text);
        match lift(&returned, Bounds::RESULT) {
            Ok(Json::Object(values)) => next.values = values,
            Ok(Json::Array(list)) if list.is_empty() => {}
            Ok(_) => return Err(invalid("migrate must return a table with keys".into())),
            Err(e) => return Err(invalid(format!("migrate: {e}"))),
        }
        Ok(next)
    }
}

fn same<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

fn value<T: Serialize>(lua: &Lua, part: &T) -> mlua::Result<Value> {
    lua.to_value_with(part, lua_options())
}

fn frozen<T: Serialize>(lua: &Lua, part: &T) -> mlua::Result<Table> {
    let Value::Table(table) = value(lua, part)? else {
        return Err(mlua::Error::runtime("a part of ctx that is no table"));
    };
    freeze(&table)?;
    Ok(table)
}

/// A part of this call only: what lies deeper may be changed, nobody else will see it.
fn set<T: Serialize>(lua: &Lua, ctx: &Table, name: &str, part: &Option<T>) -> mlua::Result<()> {
    let Some(part) = part else { return Ok(()) };
    let table = value(lua, part)?;
    if let Value::Table(table) = &table {
        table.set_readonly(true);
    }
    ctx.raw_set(name, table)
}

/// The table of a part that many taps share: built once while it does not change.
fn shared<T: Serialize + PartialEq>(
    lua: &Lua,
    known: &mut HashMap<String, (Arc<T>, Table)>,
    key: &str,
    part: &Arc<T>,
) -> mlua::Result<Table> {
    if let Some((old, table)) = known.get(key)
        && same(old, part)
    {
        return Ok(table.clone());
    }
    let table = frozen(lua, part.as_ref())?;
    if known.len() >= MAX_SHARED {
        known.clear();
    }
    known.insert(key.to_owned(), (Arc::clone(part), table.clone()));
    Ok(table)
}
