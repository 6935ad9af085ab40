//! `ctx`: what a hook is given.
//!
//! A part becomes a table when the script names it (`ctx.link`): most hooks look at one or two of them, and making all
//! would cost more than the script. What a plugin that declares `reads` named is noted: what was not handed over can't
//! have influenced the answer, so the answer holds for every question with the same parts. Other plugins may also list
//! all parts (`pairs(ctx)`, or `in ctx`). A name that no part or field has is an error and not nil.
//!
//! `given.luau` holds `ctx` and calls the hook, `desk` makes the tables of the parts that it does not make itself.

use super::desk::{Desk, Question, lock};
use super::parts::hint;
use super::runtime::Limit;
use crate::policy::api::context::{Context, Part};
use crate::policy::api::{API, Hook};
use mlua::chunk::{ChunkMode, Compiler};
use mlua::{Error, Function, Lua, Result, Table, Value, ffi};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Bits of a part in the order in which parts were looked at.
const PLACE_BITS: u32 = 5;
/// Above it a Lua number is not exact: more than ten parts.
const MAX_ORDER: f64 = 9_007_199_254_740_992.0;

/// Calls hooks with what they are to see.
pub struct Giver {
    /// What `reads` lists; `None` without it.
    declared: Option<Vec<Part>>,
    desk: Arc<Mutex<Desk>>,
    begin: Function,
    run: Function,
    forget: Function,
    /// The last call did. Who does not is not told what the link is.
    looks_at_link: bool,
}

/// What `given.luau` returns.
type Made = (Function, Function, Function, Function, Function, Function, Table);

impl Giver {
    pub fn new(lua: &Lua, declared: Option<Vec<Part>>) -> Result<Self> {
        let desk = Arc::new(Mutex::new(Desk::default()));
        let may_see = |part: Part| declared.as_ref().is_none_or(|parts| parts.contains(&part));
        let (shared, known) = (Arc::clone(&desk), declared.clone());
        let hand_over = lua.create_function(move |lua, (key, current): (Value, bool)| {
            let part = named(&key)?;
            if known.as_ref().is_some_and(|parts| !parts.contains(&part)) {
                return Err(not_declared(part));
            }
            if !current {
                return Err(Error::runtime(format!(
                    "ctx.{}: this ctx is of an earlier call; don't keep it",
                    part.word()
                )));
            }
            let _lifted = Limit::lift(lua)?;
            lock(&shared).value(lua, part)
        })?;
        let places = lua.create_table()?;
        for part in Part::ALL {
            places.raw_set(part.word(), place(*part))?;
        }
        let hooks = lua.create_sequence_from(Hook::ALL.iter().map(|hook| hook.word()))?;
        let second = |hook: &Hook| {
            second(*hook)
                .filter(|part| may_see(*part))
                .map_or(Value::Boolean(false), |part| {
                    lua.create_string(part.word())
                        .map_or(Value::Boolean(false), Value::String)
                })
        };
        let seconds = lua.create_sequence_from(Hook::ALL.iter().map(second))?;
        let link_meta = lock(&desk).strict_meta(lua, Part::Link)?;
        // Without lines: an error that a hook blames on its caller is the hook's all the same.
        let compiler = Compiler::new().set_optimization_level(2).set_debug_level(0);
        let chunk = lua
            .load(include_str!("given.luau"))
            .set_name("=ctx")
            .set_mode(ChunkMode::Text)
            .set_compiler(compiler);
        // SAFETY: a C function as Luau calls it: it uses no more than its argument, which is on the stack.
        let freeze = unsafe { lua.create_c_function(freeze_argument)? };
        let made: Made = chunk.call((hand_over, freeze, link_meta, places, hooks, seconds, API))?;
        let (begin, run, forget, index, named, is_current, meta) = made;
        // `for part, value in ctx do`, which asks neither `pairs` nor `next`.
        let next: Function = lua.globals().get("next")?;
        let walk = move |lua: &Lua, ctx: Table| {
            complete(lua, &ctx)?;
            Ok((next.clone(), ctx))
        };
        meta.raw_set("__iter", lua.create_function(walk)?)?;
        meta.set_readonly(true);
        lua.set_app_data(Listing {
            find: if declared.is_none() { index } else { named },
            is_current,
        });
        Ok(Self {
            looks_at_link: true,
            declared,
            desk,
            begin,
            run,
            forget,
        })
    }

    /// Gets everything ready for a call of `run` for the same hook. `tags` are those of earlier plugins.
    pub fn begin(
        &self,
        lua: &Lua,
        hook: Hook,
        context: &Arc<Context>,
        tags: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut desk = lock(&self.desk);
        let network = match &context.network {
            Some(network) if self.may_see(Part::Network) => Some(desk.network(lua, network)?),
            _ => None,
        };
        desk.question = Some(Question {
            context: Arc::clone(context),
            tags: tags.clone(),
        });
        drop(desk);
        let link = context.link.as_ref();
        match link.filter(|_| self.looks_at_link && self.may_see(Part::Link)) {
            Some(link) => self.begin.call((
                number(hook),
                network,
                link.name.as_str(),
                link.mac.as_deref(),
                link.kind.as_str(),
                link.alias.as_deref(),
                link.operstate.as_deref(),
                link.master.as_deref(),
                link.ifindex,
                link.mtu,
                link.up,
            )),
            None => self.begin.call((number(hook), network)),
        }
    }

    /// Calls a hook. Besides what it returned: the parts it looked at, in the order in which it first did; `None` without
    /// `reads`, or when there are too many.
    pub fn run(&mut self, hook: Hook, function: &Function) -> Result<(Value, Option<Vec<Part>>)> {
        let (returned, order): (Value, f64) = self.run.call((function, number(hook)))?;
        let read = looked_at(order);
        self.looks_at_link = read.as_ref().is_none_or(|parts| parts.contains(&Part::Link));
        Ok((returned, read.filter(|_| self.declared.is_some())))
    }

    fn may_see(&self, part: Part) -> bool {
        self.declared.as_ref().is_none_or(|parts| parts.contains(&part))
    }

    /// The call is over.
    pub fn end(&self) {
        lock(&self.desk).question = None;
    }

    /// Lets go of what the last call was given, so that it can be collected.
    pub fn forget_call(&self) {
        if let Err(error) = self.forget.call::<()>(()) {
            tracing::error!(%error, "the last call's ctx is not forgotten");
        }
    }

    /// Lets go of all tables: the state is short of memory.
    pub fn forget(&self) {
        self.forget_call();
        lock(&self.desk).forget();
    }
}

/// A hook as an index of a Lua list.
fn number(hook: Hook) -> usize {
    hook as usize + 1
}

/// A part as a digit of the order; 0 is none.
fn place(part: Part) -> u64 {
    part as u64 + 1
}

fn looked_at(order: f64) -> Option<Vec<Part>> {
    if !(0.0..MAX_ORDER).contains(&order) {
        return None;
    }
    let mut rest = order as u64;
    let mut parts = Vec::new();
    while rest > 0 {
        let digit = rest & ((1 << PLACE_BITS) - 1);
        parts.extend(Part::ALL.iter().find(|part| place(**part) == digit));
        rest >>= PLACE_BITS;
    }
    parts.reverse();
    Some(parts)
}

/// What hooks get as their second argument too.
fn second(hook: Hook) -> Option<Part> {
    match hook {
        Hook::Admit => Some(Part::Plan),
        Hook::Attached => Some(Part::Result),
        Hook::Drift => Some(Part::Diff),
        _ => None,
    }
}

/// `table.freeze` for what shows its metatable as `false`, which that one refuses.
unsafe extern "C-unwind" fn freeze_argument(state: *mut ffi::lua_State) -> std::ffi::c_int {
    // SAFETY: called by `given.luau` alone, with one table.
    unsafe { ffi::lua_setreadonly(state, 1, 1) };
    1
}

/// How the state's `pairs` asks about `ctx`.
struct Listing {
    /// A part of it: of a plugin with `reads` one that was named, else any.
    find: Function,
    is_current: Function,
}

/// Puts the parts into `table` that a walk over it shows, if it is the `ctx` of this call.
pub fn complete(lua: &Lua, table: &Table) -> Result<()> {
    let Some(listing) = lua.app_data_ref::<Listing>() else {
        return Ok(());
    };
    let _lifted = Limit::lift(lua)?;
    if !listing.is_current.call::<bool>(table)? {
        return Ok(());
    }
    for part in Part::ALL {
        if !table.raw_get::<Value>(part.word())?.is_nil() {
            continue;
        }
        let value: Value = listing.find.call((table, part.word()))?;
        if !value.is_nil() {
            table.set_readonly(false);
            let stored = table.raw_set(part.word(), value);
            table.set_readonly(true);
            stored?;
        }
    }
    Ok(())
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
