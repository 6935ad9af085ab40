//! The parts of `ctx`, as tables: those that `given.luau` does not make by itself.
//!
//! Tables of networks, uplinks and the host are kept while what they show does not change, and are frozen all through:
//! many taps share them.

use super::hostlib::freeze;
use super::parts::{fields, link_table, plain, port_table, strict_meta};
use crate::policy::api::Hook;
use crate::policy::api::context::{Context, HostFacts, Network, Part, Uplink};
use mlua::{Error, Lua, Result, Table, Value};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tables kept for networks and uplinks that many taps share.
const MAX_SHARED: usize = 128;

/// What the call under way is about, and the tables that are kept.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) question: Option<Question>,
    networks: HashMap<String, (Arc<Network>, Table)>,
    uplinks: HashMap<String, (Arc<Uplink>, Table)>,
    host: Option<(Arc<HostFacts>, Table)>,
    /// Metatables of the parts, by `Part as usize`.
    strict: [Option<Table>; Part::ALL.len()],
}

pub(super) struct Question {
    pub(super) context: Arc<Context>,
    pub(super) tags: BTreeMap<String, String>,
}

pub(super) fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    // Whole values only: what a panic left behind is usable.
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// Lets go of all tables but the metatables.
    pub(super) fn forget(&mut self) {
        self.question = None;
        self.networks.clear();
        self.uplinks.clear();
        self.host = None;
    }

    pub(super) fn value(&mut self, lua: &Lua, part: Part) -> Result<Value> {
        let Some(question) = &self.question else {
            return Ok(Value::Nil);
        };
        let context = Arc::clone(&question.context);
        match part {
            Part::Link => self.made(lua, part, context.link.as_ref(), link_table),
            Part::Port => self.made(lua, part, context.port.as_ref(), port_table),
            Part::Bridge => self.record(lua, part, context.bridge.as_ref()),
            Part::Current => self.record(lua, part, context.current.as_ref()),
            Part::Plan => self.record(lua, part, context.plan.as_ref()),
            Part::Result => self.record(lua, part, context.result.as_ref()),
            Part::Lease => self.record(lua, part, context.lease.as_ref()),
            Part::Network => match &context.network {
                Some(network) => self.network(lua, network).map(Value::Table),
                None => Ok(Value::Nil),
            },
            Part::Uplink => self.uplink(lua, context.uplink.as_ref()),
            Part::Host => self.host(lua, &context.host),
            Part::Diff if context.hook == Hook::Drift => plain(lua, &context.diff),
            Part::Diff => Ok(Value::Nil),
            Part::Tags => plain(lua, &question.tags),
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
        table.set_metatable(self.strict_meta(lua, part)?)?;
        Ok(table)
    }

    pub(super) fn strict_meta(&mut self, lua: &Lua, part: Part) -> Result<Option<Table>> {
        let Some(slot) = self.strict.get_mut(part as usize) else {
            return Ok(None);
        };
        if slot.is_none() {
            *slot = fields(part)
                .map(|names| strict_meta(lua, part, names))
                .transpose()?;
        }
        Ok(slot.clone())
    }

    fn frozen<T: Serialize>(&mut self, lua: &Lua, part: Part, value: &T) -> Result<Table> {
        let table = self.strict_table(lua, part, value)?;
        freeze(&table)?;
        Ok(table)
    }

    pub(super) fn network(&mut self, lua: &Lua, network: &Arc<Network>) -> Result<Table> {
        if let Some(table) = known(&self.networks, &network.id, network) {
            return Ok(table);
        }
        let table = self.frozen(lua, Part::Network, network.as_ref())?;
        keep(&mut self.networks, &network.id, network, &table);
        Ok(table)
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
