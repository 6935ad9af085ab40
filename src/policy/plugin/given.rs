//! `ctx`: what a hook is given.
//!
//! A part becomes a table when the script names it (`ctx.link`): most hooks look at one or two of them, and making all
//! would cost more than the script. What a plugin that declares `reads` named is noted: what was not handed over can't
//! have influenced the answer, so the answer holds for every question with the same parts. Other plugins may also list
//! all parts (`pairs(ctx)`, or `in ctx`). A name that no part or field has is an error and not nil.

use super::hostlib::freeze;
use super::parts::{fields, hint, link_table, plain, port_table, strict_meta};
use super::runtime::Limit;
use crate::policy::api::Hook;
use crate::policy::api::context::{Context, HostFacts, Network, Part, Uplink};
use mlua::{Error, Function, Lua, Result, Table, Value};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tables kept for networks and uplinks that many taps share.
const MAX_SHARED: usize = 128;

/// Makes the arguments of hooks.
pub struct Giver {
    /// What `reads` lists; `None` without it.
    declared: Option<Vec<Part>>,
    desk: Arc<Mutex<Desk>>,
    /// Of every `ctx`.
    meta: Table,
}

/// Shared with the metatable of `ctx`.
#[derive(Default)]
struct Desk {
    question: Option<Question>,
    /// Parts handed over during this call.
    read: Vec<Part>,
    networks: HashMap<String, (Arc<Network>, Table)>,
    uplinks: HashMap<String, (Arc<Uplink>, Table)>,
    host: Option<(Arc<HostFacts>, Table)>,
    /// Metatables of the parts, by `Part as usize`.
    strict: [Option<Table>; Part::ALL.len()],
}

struct Question {
    ctx: Table,
    context: Arc<Context>,
    tags: BTreeMap<String, String>,
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    // Whole values only: what a panic left behind is usable.
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Giver {
    pub fn new(lua: &Lua, declared: Option<Vec<Part>>) -> Result<Self> {
        let desk = Arc::new(Mutex::new(Desk::default()));
        let meta = lua.create_table()?;
        let (shared, known) = (Arc::clone(&desk), declared.clone());
        meta.raw_set(
            "__index",
            lua.create_function(move |lua, (ctx, key): (Table, Value)| {
                let part = named(&key)?;
                if known.as_ref().is_some_and(|parts| !parts.contains(&part)) {
                    return Err(not_declared(part));
                }
                let _lifted = Limit::lift(lua)?;
                lock(&shared).hand_over(lua, &ctx, part)
            })?,
        )?;
        // `for part, value in ctx do`, which asks neither `pairs` nor `next`.
        let next: Function = lua.globals().get("next")?;
        let walk = move |lua: &Lua, ctx: Table| {
            complete(lua, &ctx)?;
            Ok((next.clone(), ctx))
        };
        meta.raw_set("__iter", lua.create_function(walk)?)?;
        meta.raw_set("__metatable", false)?;
        meta.set_readonly(true);
        if declared.is_none() {
            lua.set_app_data(Whole(Arc::clone(&desk)));
        }
        Ok(Self { declared, desk, meta })
    }

    /// `ctx` and the second argument. `tags` are those of earlier plugins.
    pub fn give(
        &self,
        lua: &Lua,
        context: &Arc<Context>,
        tags: &BTreeMap<String, String>,
    ) -> Result<(Table, Value)> {
        let ctx = lua.create_table_with_capacity(0, 8)?;
        ctx.raw_set("api", context.api)?;
        ctx.raw_set("hook", context.hook.word())?;
        ctx.set_metatable(Some(self.meta.clone()))?;
        ctx.set_readonly(true);
        let mut desk = lock(&self.desk);
        desk.read.clear();
        desk.question = Some(Question {
            ctx: ctx.clone(),
            context: Arc::clone(context),
            tags: tags.clone(),
        });
        let second = match context.hook {
            Hook::Admit => Some(Part::Plan),
            Hook::Attached => Some(Part::Result),
            Hook::Drift => Some(Part::Diff),
            _ => None,
        };
        let allowed = |part: &Part| self.declared.as_ref().is_none_or(|parts| parts.contains(part));
        let second = match second.filter(allowed) {
            Some(part) => desk.hand_over(lua, &ctx, part)?,
            None => Value::Nil,
        };
        Ok((ctx, second))
    }

    /// The call is over. Parts it looked at, in the order in which it first did; `None` without `reads`.
    pub fn taken(&self) -> Option<Vec<Part>> {
        let mut desk = lock(&self.desk);
        desk.question = None;
        let read = std::mem::take(&mut desk.read);
        self.declared.is_some().then_some(read)
    }

    /// Lets go of all tables: the state is short of memory.
    pub fn forget(&self) {
        let mut desk = lock(&self.desk);
        desk.question = None;
        desk.networks.clear();
        desk.uplinks.clear();
        desk.host = None;
    }
}

/// The desk of a plugin that may see everything, as the state's `pairs` finds it.
struct Whole(Arc<Mutex<Desk>>);

/// Hands over all parts, if `table` is the `ctx` of this call and its plugin may see them.
pub fn complete(lua: &Lua, table: &Table) -> Result<()> {
    let Some(whole) = lua.app_data_ref::<Whole>() else {
        return Ok(());
    };
    let mut desk = lock(&whole.0);
    if desk
        .question
        .as_ref()
        .is_some_and(|question| question.ctx == *table)
    {
        let _lifted = Limit::lift(lua)?;
        for part in Part::ALL {
            if table.raw_get::<Value>(part.word())?.is_nil() {
                desk.hand_over(lua, table, *part)?;
            }
        }
    }
    Ok(())
}

impl Desk {
    fn hand_over(&mut self, lua: &Lua, ctx: &Table, part: Part) -> Result<Value> {
        let Some(question) = self.question.as_ref().filter(|question| question.ctx == *ctx) else {
            return Err(Error::runtime(format!(
                "ctx.{}: this ctx is of an earlier call; don't keep it",
                part.word()
            )));
        };
        let context = Arc::clone(&question.context);
        if !self.read.contains(&part) {
            self.read.push(part);
        }
        let value = self.value(lua, part, &context)?;
        if !value.is_nil() {
            ctx.set_readonly(false);
            let stored = ctx.raw_set(part.word(), &value);
            ctx.set_readonly(true);
            stored?;
        }
        Ok(value)
    }

    fn value(&mut self, lua: &Lua, part: Part, context: &Context) -> Result<Value> {
        match part {
            Part::Link => self.made(lua, part, context.link.as_ref(), link_table),
            Part::Port => self.made(lua, part, context.port.as_ref(), port_table),
            Part::Bridge => self.record(lua, part, context.bridge.as_ref()),
            Part::Current => self.record(lua, part, context.current.as_ref()),
            Part::Plan => self.record(lua, part, context.plan.as_ref()),
            Part::Result => self.record(lua, part, context.result.as_ref()),
            Part::Lease => self.record(lua, part, context.lease.as_ref()),
            Part::Network => self.network(lua, context.network.as_ref()),
            Part::Uplink => self.uplink(lua, context.uplink.as_ref()),
            Part::Host => self.host(lua, &context.host),
            Part::Diff if context.hook == Hook::Drift => plain(lua, &context.diff),
            Part::Diff => Ok(Value::Nil),
            Part::Tags => match &self.question {
                Some(question) => plain(lua, &question.tags),
                None => Ok(Value::Nil),
            },
            Part::Now => Ok(Value::Number(context.now)),
            Part::Seq => Ok(Value::Number(context.seq as f64)),
            Part::Gen => Ok(Value::Number(context.r#gen as f64)),
            Part::Reason => Ok(Value::String(lua.create_string(context.reason.word())?)),
        }
    }

    /// A part of this call only: what lies deeper may be changed, nobody else will see it.
    fn record<T: Serialize>(&mut self, lua: &Lua, part: Part, value: Option<&T>) -> Result<Value> {
        let Some(value) = value else {
            return Ok(Value::Nil);
        };
        let table = self.strict_table(lua, part, value)?;
        table.set_readonly(true);
        Ok(Value::Table(table))
    }

    fn strict_table<T: Serialize>(&mut self, lua: &Lua, part: Part, value: &T) -> Result<Table> {
        let Value::Table(table) = plain(lua, value)? else {
            return Err(Error::runtime("a part of ctx that is no table"));
        };
        self.strict(lua, part, table)
    }

    /// As `record`, by a function of its own.
    fn made<T>(
        &mut self,
        lua: &Lua,
        part: Part,
        value: Option<&T>,
        make: fn(&Lua, &T) -> Result<Table>,
    ) -> Result<Value> {
        let Some(value) = value else {
            return Ok(Value::Nil);
        };
        let table = self.strict(lua, part, make(lua, value)?)?;
        table.set_readonly(true);
        Ok(Value::Table(table))
    }

    fn strict(&mut self, lua: &Lua, part: Part, table: Table) -> Result<Table> {
        let slot = self.strict.get_mut(part as usize);
        let meta = match slot {
            Some(Some(meta)) => Some(meta.clone()),
            Some(slot) => {
                let meta = fields(part)
                    .map(|names| strict_meta(lua, part, names))
                    .transpose()?;
                slot.clone_from(&meta);
                meta
            }
            None => None,
        };
        table.set_metatable(meta)?;
        Ok(table)
    }

    fn frozen<T: Serialize>(&mut self, lua: &Lua, part: Part, value: &T) -> Result<Table> {
        let table = self.strict_table(lua, part, value)?;
        freeze(&table)?;
        Ok(table)
    }

    fn network(&mut self, lua: &Lua, network: Option<&Arc<Network>>) -> Result<Value> {
        let Some(network) = network else {
            return Ok(Value::Nil);
        };
        if let Some(table) = known(&self.networks, &network.id, network) {
            return Ok(Value::Table(table));
        }
        let table = self.frozen(lua, Part::Network, network.as_ref())?;
        keep(&mut self.networks, &network.id, network, &table);
        Ok(Value::Table(table))
    }

    fn uplink(&mut self, lua: &Lua, uplink: Option<&Arc<Uplink>>) -> Result<Value> {
        let Some(uplink) = uplink else {
            return Ok(Value::Nil);
        };
        if let Some(table) = known(&self.uplinks, &uplink.name, uplink) {
            return Ok(Value::Table(table));
        }
        let table = self.frozen(lua, Part::Uplink, uplink.as_ref())?;
        keep(&mut self.uplinks, &uplink.name, uplink, &table);
        Ok(Value::Table(table))
    }

    fn host(&mut self, lua: &Lua, facts: &Arc<HostFacts>) -> Result<Value> {
        let table = match &self.host {
            Some((known, table)) if same(known, facts) => table.clone(),
            _ => {
                let table = self.frozen(lua, Part::Host, facts.as_ref())?;
                self.host = Some((Arc::clone(facts), table.clone()));
                table
            }
        };
        Ok(Value::Table(table))
    }
}

/// The part that `ctx[key]` means.
fn named(key: &Value) -> Result<Part> {
    let text = match key {
        Value::String(text) => text.to_string_lossy(),
        other => other.type_name().to_owned(),
    };
    Part::from_word(&text).ok_or_else(|| {
        let names = ["api", "hook"]
            .into_iter()
            .chain(Part::ALL.iter().map(|part| part.word()));
        Error::runtime(format!(
            "ctx.{text}: there is no such field{}",
            hint(&text, names)
        ))
    })
}

fn not_declared(part: Part) -> Error {
    let word = part.word();
    Error::runtime(format!(
        "ctx.{word}: `reads` does not list it; write `reads = {{ ..., \"{word}\" }}`"
    ))
}

fn same<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// The table of a part that many taps share, built once while it does not change.
fn known<T: PartialEq>(tables: &HashMap<String, (Arc<T>, Table)>, key: &str, part: &Arc<T>) -> Option<Table> {
    let (old, table) = tables.get(key)?;
    same(old, part).then(|| table.clone())
}

fn keep<T>(tables: &mut HashMap<String, (Arc<T>, Table)>, key: &str, part: &Arc<T>, table: &Table) {
    if tables.len() >= MAX_SHARED {
        tables.clear();
    }
    tables.insert(key.to_owned(), (Arc::clone(part), table.clone()));
}
