//! A loaded plugin that can be asked. Used by one thread at a time, whichever it is.

use super::fault::Fault;
use super::given::Giver;
use super::hint;
use super::hostlib::{self, Effects, SharedEffects, lua_options};
use super::load::Plugin;
use super::origin::Origins;
use super::said::Said;
use super::sandbox::KillSwitch;
use super::source::Source;
use super::store::Kept;
use crate::policy::api::context::{Context, Part};
use crate::policy::api::decision::Verdict;
use crate::policy::api::{Hook, Outcome};
use crate::policy::lift::{Bounds, lift};
use crate::policy::memory::give_memory_back;
use crate::policy::settings::Limits;
use crate::policy::shape::Misshapen;
use crate::policy::tools::coverage::Lines;
use mlua::serde::LuaSerdeExt;
use mlua::{Function, Lua, Value};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Arms the memory limit while it lives. Only around script code: with a limit set mlua protects every single table
/// access of the host, which costs three times as much.
pub struct Limit<'a> {
    lua: &'a Lua,
    /// Bytes; 0 is none.
    before: usize,
}

impl<'a> Limit<'a> {
    pub fn arm(lua: &'a Lua, bytes: usize) -> mlua::Result<Self> {
        let before = lua.set_memory_limit(bytes)?;
        Ok(Self { lua, before })
    }

    /// No limit while it lives: for what a function of the host makes in the middle of a script's call. It counts all
    /// the same when the limit is back.
    pub fn lift(lua: &'a Lua) -> mlua::Result<Self> {
        Self::arm(lua, 0)
    }
}

impl Drop for Limit<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.lua.set_memory_limit(self.before) {
            tracing::error!(%error, "memory limit can't be set");
        }
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Called {
    pub answer: Result<Option<Arc<Verdict>>, Fault>,
    /// What it said besides; empty after a failure, except for log lines.
    pub effects: Effects,
    pub elapsed: Duration,
    /// The parts of `ctx` that the answer depends on, in the order in which they were first looked at. `None`: it may
    /// depend on anything.
    pub read: Option<Vec<Part>>,
}

/// A state that ran out of memory twice in this time is replaced.
const OUT_OF_MEMORY_PAUSE: Duration = Duration::from_secs(60);
/// Garbage that is not worth any collection while others wait for the processor.
const LITTLE_GARBAGE: usize = 256 << 10;
/// Garbage that is not worth a thorough collection.
const KEPT_GARBAGE: usize = 2 << 20;

pub struct Runtime {
    lua: Lua,
    hooks: [Option<Function>; Hook::ALL.len()],
    migrate: Option<Function>,
    effects: SharedEffects,
    kill: Arc<KillSwitch>,
    limits: Limits,
    source: Source,
    origins: Arc<Origins>,
    giver: Giver,
    said: Said,
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
        let giver = Giver::new(&lua, plugin.manifest.reads.clone())?;
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
            source: plugin.source.clone(),
            origins: Arc::clone(&plugin.origins),
            giver,
            said: Said::default(),
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
            self.giver.forget_call();
            self.lua.gc_collect()
        } else {
            self.lua.gc_step().map(|_| ())
        };
        if let Err(error) = collected {
            tracing::warn!(%error, plugin_file = %self.source.shown, "garbage collection failed");
        }
        if before.saturating_sub(self.used_memory()) > KEPT_GARBAGE {
            give_memory_back();
        }
    }

    /// Adds the lines run so far; nothing unless it was loaded with `Coverage::Lines`.
    pub fn coverage(&self, lines: &mut Lines) {
        if let Some(main) = &self.main {
            main.coverage(|info| lines.add(&self.source.shown, &info.hits));
        }
    }

    /// Asks one hook. `tags` are those of earlier plugins; `state` is what `host.state` holds. The caller watches over
    /// the deadline of call number `call`.
    pub fn ask(
        &mut self,
        hook: Hook,
        context: &Arc<Context>,
        tags: &BTreeMap<String, String>,
        state: Map<String, Json>,
        call: u64,
    ) -> Called {
        let started = Instant::now();
        self.kill.begin(call);
        *hostlib::lock(&self.effects) = Effects {
            state,
            ..Effects::default()
        };
        let mut read = None;
        let answer = self.run(hook, context, tags, &mut read);
        self.giver.end();
        self.kill.end();
        let mut effects = std::mem::take(&mut *hostlib::lock(&self.effects));
        if answer.is_err() {
            effects.writes.clear();
            effects.metrics.clear();
        }
        match &answer {
            Err(fault) if fault.outcome == Outcome::Memory => self.recover(),
            _ => self.make_room(),
        }
        // What was said or kept besides must be said again, and what was kept before may have made the answer.
        let alone = effects.is_answer_alone() && answer.is_ok();
        Called {
            answer,
            effects,
            elapsed: started.elapsed(),
            read: read.filter(|parts| alone && !parts.iter().any(|part| part.is_volatile())),
        }
    }

    fn run(
        &mut self,
        hook: Hook,
        context: &Arc<Context>,
        tags: &BTreeMap<String, String>,
        read: &mut Option<Vec<Part>>,
    ) -> Result<Option<Arc<Verdict>>, Fault> {
        let Some(Some(function)) = self.hooks.get(hook as usize) else {
            return Ok(None);
        };
        let given = self.giver.begin(&self.lua, hook, context, tags);
        given.map_err(|e| self.fault(&e))?;
        let called = {
            let armed = Limit::arm(&self.lua, self.limits.memory);
            let called = armed.and_then(|_armed| self.giver.run(hook, function));
            called.map_err(|e| self.fault(&e))?
        };
        let returned = called.0;
        *read = called.1;
        if returned.is_nil() {
            return Ok(None);
        }
        let invalid = |e: Misshapen| {
            // Where the field is written, as far as that can be told; else where the hook starts.
            let place = self.origins.place(hook, e.field());
            Fault::new(Outcome::Invalid, Some(place), e.to_string())
        };
        if !returned.is_table() {
            let kind = match returned.type_name() {
                "integer" => "number",
                other => other,
            };
            let problem =
                format!("the hook returned a {kind}; it must return a table of what it wants, or nil");
            return Err(invalid(Misshapen::new(problem)));
        }
        if let Some(verdict) = self.said.again(hook, &returned) {
            return Ok(Some(verdict));
        }
        let value = lift(&returned, Bounds::RESULT).map_err(invalid)?;
        let kept = Said::is_worth_keeping(&value).then(|| value.clone());
        let verdict = Arc::new(Verdict::decode(hook, value).map_err(invalid)?);
        if let Some(value) = kept {
            self.said.keep(hook, value, &verdict);
        }
        Ok(Some(verdict))
    }

    /// A script that caught its own lack of memory left a state that is full of garbage, and Luau collects none when it has
    /// no room: the next call would fail for it, or for the time that collecting takes.
    fn make_room(&self) {
        let limit = self.limits.memory;
        if self.used_memory() < limit - limit / 8 {
            return;
        }
        self.giver.forget_call();
        if let Err(error) = self.collect() {
            // The next call will tell.
            tracing::warn!(%error, plugin_file = %self.source.shown, "garbage collection failed");
        }
    }

    /// Twice: the first finishes a cycle under way, the second collects what it had already marked.
    fn collect(&self) -> mlua::Result<()> {
        self.lua.gc_collect().and_then(|()| self.lua.gc_collect())
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
            _ => {
                let line = fault.place.as_deref().and_then(|place| self.source.line(place));
                let message = hint::explained(&fault.message, line);
                Fault { message, ..fault }
            }
        }
    }

    /// After running out of memory every allocation of a Luau state fails until it was collected from outside.
    fn recover(&mut self) {
        let now = Instant::now();
        let again = self
            .out_of_memory
            .is_some_and(|then| now.duration_since(then) < OUT_OF_MEMORY_PAUSE);
        self.out_of_memory = Some(now);
        self.giver.forget();
        let collected = self.collect();
        give_memory_back();
        self.exhausted = again || collected.is_err() || self.lua.used_memory() > self.limits.memory / 2;
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
        let table = self.lua.to_value_with(&old.values, lua_options());
        let table = table.map_err(|e| fault(&e))?;
        let _armed = Limit::arm(&self.lua, self.limits.memory).map_err(|e| fault(&e))?;
        let returned: Value = migrate.call((table, old.version)).map_err(|e| fault(&e))?;
        let invalid = |text: String| Fault::new(Outcome::Invalid, Some(self.source.shown.to_string()), text);
        match lift(&returned, Bounds::RESULT) {
            Ok(Json::Object(values)) => next.values = values,
            Ok(Json::Array(list)) if list.is_empty() => {}
            Ok(_) => return Err(invalid("migrate must return a table with keys".into())),
            Err(e) => return Err(invalid(format!("migrate: {e}"))),
        }
        Ok(next)
    }
}
