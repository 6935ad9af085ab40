//! Lifts a Lua value into plain data, strictly.
//!
//! mlua's own deserialiser takes `{mac = "a"}` for an empty list and cuts a list with a hole short; here both are
//! errors with the path to the place. Only raw reads are used, so that no metamethod of the script runs.

use crate::policy::shape::Misshapen;
use mlua::{Table, Value};
use serde_json::{Map, Number, Value as Json};

/// Bounds for one lifted value. `bytes` counts strings and keys, and 16 for any other value.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub depth: usize,
    pub items: usize,
    pub bytes: usize,
}

impl Bounds {
    /// For what a hook returns.
    pub const RESULT: Bounds = Bounds {
        depth: 8,
        items: 8 * 1024,
        bytes: 64 * 1024,
    };
}

struct Lift {
    depth: usize,
    items: usize,
    bytes: usize,
    limit: Bounds,
}

/// Converts a value. `host.unset` becomes JSON null; nil can't occur inside a table.
pub fn lift(value: &Value, limit: Bounds) -> Result<Json, Misshapen> {
    Lift {
        depth: 0,
        items: 0,
        bytes: 0,
        limit,
    }
    .value(value)
}

impl Lift {
    fn spend(&mut self, bytes: usize) -> Result<(), Misshapen> {
        self.items += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.items > self.limit.items {
            return Err(Misshapen::new(format!("more than {} values", self.limit.items)));
        }
        if self.bytes > self.limit.bytes {
            return Err(Misshapen::new(format!(
                "larger than {} KiB",
                self.limit.bytes / 1024
            )));
        }
        Ok(())
    }

    fn value(&mut self, value: &Value) -> Result<Json, Misshapen> {
        match value {
            Value::Boolean(b) => {
                self.spend(16)?;
                Ok(Json::Bool(*b))
            }
            Value::Integer(i) => {
                self.spend(16)?;
                Ok(Json::from(*i))
            }
            Value::Number(n) => {
                self.spend(16)?;
                number(*n)
            }
            Value::String(s) => {
                self.spend(s.as_bytes().len())?;
                text(s)
            }
            Value::Table(table) => self.table(table),
            unset if unset.is_null() => {
                self.spend(16)?;
                Ok(Json::Null)
            }
            other => Err(Misshapen::new(format!("a {} is no data", other.type_name()))),
        }
    }

    fn table(&mut self, table: &Table) -> Result<Json, Misshapen> {
        if self.depth >= self.limit.depth {
            return Err(Misshapen::new(format!(
                "nested deeper than {} tables (does it contain itself?)",
                self.limit.depth
            )));
        }
        self.depth += 1;
        let mut list: Vec<(i64, Json)> = Vec::new();
        let mut map = Map::new();
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair.map_err(|e| Misshapen::new(e.to_string()))?;
            match &key {
                Value::String(name) => {
                    self.spend(name.as_bytes().len())?;
                    let Json::String(name) = text(name)? else { continue };
                    let value = self.value(&value).map_err(|e| e.inside(&name))?;
                    map.insert(name, value);
                }
                Value::Integer(i) => list.push((
                    *i,
                    self.value(&value).map_err(|e| e.inside(format_args!("[{i}]")))?,
                )),
                Value::Number(n) if n.fract() == 0.0 && n.abs() < 9e15 => {
                    let i = *n as i64;
                    list.push((
                        i,
                        self.value(&value).map_err(|e| e.inside(format_args!("[{i}]")))?,
                    ));
                }
                other => return Err(Misshapen::new(format!("a {} as key", other.type_name()))),
            }
        }
        self.depth -= 1;
        if !map.is_empty() {
            return match list.first() {
                None => Ok(Json::Object(map)),
                Some((i, _)) => Err(Misshapen::new(format!(
                    "both a list ([{i}]) and a table with keys (`{}`)",
                    map.keys().next().map_or("", String::as_str)
                ))),
            };
        }
        list.sort_by_key(|(i, _)| *i);
        if let Some(((found, _), expected)) = list.iter().zip(1..).find(|((i, _), expected)| i != expected) {
            return Err(Misshapen::new(format!(
                "a list without [{expected}] (the next one is [{found}])"
            )));
        }
        Ok(Json::Array(list.into_iter().map(|(_, value)| value).collect()))
    }
}

fn number(n: f64) -> Result<Json, Misshapen> {
    // Lua numbers are doubles: a whole one is shown and compared as an integer.
    if n.fract() == 0.0 && n.abs() < 9.0e15 {
        return Ok(Json::from(n as i64));
    }
    Number::from_f64(n).map(Json::Number).ok_or_else(|| {
        Misshapen::new(if n.is_nan() {
            "not a number (NaN: 0/0?)"
        } else {
            "infinite (a division by zero?)"
        })
    })
}

fn text(s: &mlua::LuaString) -> Result<Json, Misshapen> {
    s.to_str()
        .map(|s| Json::String(s.to_owned()))
        .map_err(|_| Misshapen::new("a string that is not UTF-8"))
}
