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

/// Would [`lift`] make `known` of this value? Without making anything; false also for what it would refuse.
pub fn lifts_to(value: &Value, known: &Json) -> bool {
    match (value, known) {
        (Value::Boolean(value), Json::Bool(known)) => value == known,
        (Value::Integer(value), Json::Number(known)) => known.as_i64() == Some(*value),
        (Value::Number(value), Json::Number(known)) => match known.as_i64() {
            Some(known) => known as f64 == *value,
            None => known.as_f64() == Some(*value),
        },
        (Value::String(value), Json::String(known)) => *value.as_bytes() == *known.as_bytes(),
        (Value::Table(table), Json::Object(known)) => {
            let same = |key: &Value, value: &Value| {
                let Value::String(key) = key else { return false };
                let known = key.to_str().ok().and_then(|key| known.get(&*key));
                known.is_some_and(|known| lifts_to(value, known))
            };
            has_only(table, known.len(), same)
        }
        (Value::Table(table), Json::Array(known)) => {
            let same = |key: &Value, value: &Value| {
                let place = match key {
                    Value::Integer(i) => usize::try_from(*i).ok(),
                    Value::Number(n) if n.fract() == 0.0 && (1.0..9e15).contains(n) => Some(*n as usize),
                    _ => None,
                };
                let known = place.and_then(|place| known.get(place.checked_sub(1)?));
                known.is_some_and(|known| lifts_to(value, known))
            };
            has_only(table, known.len(), same)
        }
        (unset, Json::Null) => unset.is_null(),
        _ => false,
    }
}

/// Exactly `count` pairs, all of them accepted.
fn has_only(table: &Table, count: usize, accepts: impl Fn(&Value, &Value) -> bool) -> bool {
    let mut left = count;
    let walked = table.for_each(|key: Value, value: Value| {
        if left == 0 || !accepts(&key, &value) {
            // Whichever: an error ends the walk.
            return Err(mlua::Error::StackError);
        }
        left -= 1;
        Ok(())
    });
    walked.is_ok() && left == 0
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

#[cfg(test)]
mod tests {
    use super::*;
    use mlua::Lua;
    use mlua::serde::LuaSerdeExt;
    use proptest::prelude::*;

    /// Few leaves, so that two of them are often the same.
    fn data() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            prop_oneof![
                Just(0.0),
                Just(1.0),
                Just(-1.0),
                Just(0.5),
                Just(1e9),
                Just(9.5e15),
                Just(-0.0)
            ]
            .prop_map(|n: f64| Json::from(n)),
            prop_oneof![Just(""), Just("a"), Just("1"), Just("ä")].prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Json::from),
                proptest::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_lifts_to_what_it_is_lifted_to_and_to_nothing_else(a in data(), b in data()) {
            let lua = Lua::new();
            let value = lua.to_value(&a).unwrap();
            let (own, other) = (lift(&value, Bounds::RESULT).unwrap(), lift(&lua.to_value(&b).unwrap(), Bounds::RESULT).unwrap());
            prop_assert!(lifts_to(&value, &own), "{own}");
            prop_assert_eq!(lifts_to(&value, &other), own == other, "{} {}", own, other);
        }
    }

    #[test]
    fn what_is_refused_is_not_known_either() {
        let lua = Lua::new();
        let lifts_to = |code: &str, known: Json| lifts_to(&lua.load(code).eval::<Value>().unwrap(), &known);
        assert!(lifts_to("{ 1, 2 }", serde_json::json!([1, 2])));
        assert!(lifts_to("{ a = { 1 } }", serde_json::json!({ "a": [1] })));
        for code in [
            "{ 1, 2, a = 1 }",
            "{ 1, [3] = 2 }",
            "{ 1, [2.5] = 2 }",
            "{ 1, 2, 3 }",
            "{ 1 }",
            "{ 1, print }",
            "0/0",
        ] {
            assert!(!lifts_to(code, serde_json::json!([1, 2])), "{code}");
        }
        let itself = "local t = {}; t.a = t; return t";
        assert!(!lifts_to(itself, serde_json::json!({ "a": { "a": {} } })));
        assert!(!lifts_to("0/0", serde_json::json!(0)));
        assert!(!lifts_to("{ a = '\\255' }", serde_json::json!({ "a": "" })));
    }
}
