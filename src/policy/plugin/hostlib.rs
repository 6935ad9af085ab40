//! `host`: what a plugin can see and say besides its arguments and its answer.
//!
//! Nothing here acts: log lines, metrics and state writes are collected in `Effects` and leave with the answer, and are
//! dropped when the call fails.

use super::hostcall;
use crate::policy::api::{API, API_MIN};
use crate::policy::lift::{Bounds, lift};
use crate::policy::shape::Decode;
use mlua::serde::{LuaSerdeExt, SerializeOptions};
use mlua::{Error, Lua, Result, Table, Value};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::Level;

/// Log lines of one call; more are counted and dropped.
pub const MAX_LINES: usize = 20;
const MAX_LINE: usize = 1024;
/// Labels of one metric: a few words.
const LABELS: Bounds = Bounds {
    depth: 2,
    items: 16,
    bytes: 512,
};
/// Metric statements of one call.
const MAX_METRICS: usize = 64;

/// What a call said besides its answer.
#[derive(Debug, Default)]
pub struct Effects {
    pub lines: Vec<Line>,
    pub lines_dropped: usize,
    pub metrics: Vec<Metric>,
    /// State as this call sees it: what was kept, with its own writes.
    pub state: Map<String, Json>,
    pub writes: Vec<(String, Option<Json>)>,
    /// Bytes of keys and values in `writes`, the same key counted again.
    pub written: usize,
    /// The answer depends on state, so it can't be remembered by input alone.
    pub state_used: bool,
}

impl Effects {
    /// The call said and kept nothing but its answer.
    pub fn is_answer_alone(&self) -> bool {
        self.lines.is_empty() && self.lines_dropped == 0 && self.metrics.is_empty() && !self.state_used
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub level: Level,
    /// "plugins/mtu.lua:14"; empty if the caller is no script.
    pub place: String,
    pub message: String,
    /// JSON, empty without fields.
    pub fields: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    Inc,
    Set,
    Observe,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub kind: MetricKind,
    pub name: String,
    pub value: f64,
    pub labels: BTreeMap<String, String>,
}

/// Shared by the functions of one state and the thread that runs it.
pub type SharedEffects = Arc<Mutex<Effects>>;

/// A poisoned lock only means that a callback panicked half-way; the effects are still whole values.
pub fn lock(effects: &SharedEffects) -> MutexGuard<'_, Effects> {
    effects.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plain serialisation: absent options are nil, lists carry no metatable.
pub fn lua_options() -> SerializeOptions {
    SerializeOptions::new()
        .serialize_none_to_null(false)
        .serialize_unit_to_null(false)
        .set_array_metatable(false)
}

/// A table and everything in it becomes read-only.
pub fn freeze(table: &Table) -> Result<()> {
    for pair in table.pairs::<Value, Value>() {
        if let (_, Value::Table(inner)) = pair? {
            freeze(&inner)?;
        }
    }
    table.set_readonly(true);
    Ok(())
}

/// Names that `host.features` has, for scripts that run on more than one release.
pub const FEATURES: &[&str] = &[
    "fdb.kind", "neigh", "reads", "tags", "tick", "state", "map", "metric", "lease", "vlans",
];

/// Builds `host`. `config` is filled later, when the file's own `schema` is known.
pub fn build(lua: &Lua, effects: &SharedEffects, maps: &BTreeMap<String, Arc<Json>>) -> Result<Table> {
    let host = lua.create_table()?;
    host.raw_set("api", API)?;
    host.raw_set("api_min", API_MIN)?;
    let features = lua.create_table()?;
    for feature in FEATURES {
        features.raw_set(*feature, true)?;
    }
    host.raw_set("features", features)?;
    host.raw_set("unset", lua.null())?;
    host.raw_set("log", log(lua, effects)?)?;
    host.raw_set("metric", metric(lua, effects)?)?;
    host.raw_set("state", state(lua, effects)?)?;
    host.raw_set("net", net(lua)?)?;
    map(lua, &host, maps)?;
    hostcall::add(lua, &host, "host", "hash", |_, text: mlua::LuaString| {
        // FNV-1a, 32 bits: the same on every host and release, exact as a Lua number.
        Ok(text.as_bytes().iter().fold(0x811c_9dc5_u32, |h, b| {
            (h ^ u32::from(*b)).wrapping_mul(0x0100_0193)
        }))
    })?;
    Ok(host)
}

fn log(lua: &Lua, effects: &SharedEffects) -> Result<Table> {
    let log = lua.create_table()?;
    for (name, level) in [
        ("trace", Level::TRACE),
        ("debug", Level::DEBUG),
        ("info", Level::INFO),
        ("warn", Level::WARN),
        ("error", Level::ERROR),
    ] {
        let effects = Arc::clone(effects);
        let write = move |lua: &Lua, (message, fields): (Value, Option<Table>)| {
            let fields = match fields {
                Some(fields) => lift(&Value::Table(fields), Bounds::RESULT)
                    .map_err(|e| Error::runtime(format!("log fields: {e}")))?
                    .to_string(),
                None => String::new(),
            };
            say(lua, &effects, level, plain_text(lua, &message), fields);
            Ok(())
        };
        hostcall::add(lua, &log, "host.log", name, write)?;
    }
    hostcall::close(lua, &log, "host.log")?;
    Ok(log)
}

/// `print`, for people who are used to it.
pub fn print(lua: &Lua, effects: &SharedEffects) -> Result<mlua::Function> {
    let effects = Arc::clone(effects);
    lua.create_function(move |lua, values: mlua::Variadic<Value>| {
        let words: Vec<_> = values
            .iter()
            .take(16)
            .map(|value| plain_text(lua, value))
            .collect();
        say(lua, &effects, Level::INFO, words.join(" "), String::new());
        Ok(())
    })
}

fn say(lua: &Lua, effects: &SharedEffects, level: Level, mut message: String, fields: String) {
    let mut effects = lock(effects);
    if effects.lines.len() >= MAX_LINES {
        effects.lines_dropped += 1;
        return;
    }
    if let Some((cut, _)) = message.char_indices().nth(MAX_LINE) {
        message.truncate(cut);
    }
    // The function of the host is level 0, its caller level 1.
    let place = lua.inspect_stack(1, |caller| {
        let file = caller.source().source.unwrap_or_default().into_owned();
        Some(format!("{}:{}", file.strip_prefix('@')?, caller.current_line()?))
    });
    effects.lines.push(Line {
        level,
        place: place.flatten().unwrap_or_default(),
        message,
        fields,
    });
}

/// A value as text without running its `__tostring`.
fn plain_text(lua: &Lua, value: &Value) -> String {
    match value {
        Value::String(s) => s.to_string_lossy(),
        Value::Nil => "nil".to_owned(),
        Value::Boolean(b) => b.to_string(),
        Value::Integer(i) => i.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Table(table) => {
            // Of `ctx` what a walk over it shows.
            if let Err(error) = super::given::complete(lua, table) {
                return format!("table ({error})");
            }
            lift(value, Bounds::RESULT).map_or_else(|e| format!("table ({e})"), |json| json.to_string())
        }
        other => other.type_name().to_owned(),
    }
}

fn metric(lua: &Lua, effects: &SharedEffects) -> Result<Table> {
    let metric = lua.create_table()?;
    for (function, kind) in [
        ("inc", MetricKind::Inc),
        ("set", MetricKind::Set),
        ("observe", MetricKind::Observe),
    ] {
        let effects = Arc::clone(effects);
        let record = move |_: &Lua, (name, value, labels): (String, Option<f64>, Option<Table>)| {
            check_metric_name(&name)?;
            let value = match (value, kind) {
                (Some(value), MetricKind::Inc) if value < 0.0 => {
                    return Err(Error::runtime(
                        "a counter only grows; host.metric.set takes any number",
                    ));
                }
                (Some(value), _) if value.is_finite() => value,
                (None, MetricKind::Inc) => 1.0,
                _ => return Err(Error::runtime("a metric needs a finite number")),
            };
            let labels = match labels {
                Some(table) => lift(&Value::Table(table), LABELS)
                    .and_then(BTreeMap::<String, String>::decode)
                    .map_err(|e| Error::runtime(format!("metric labels: {e}")))?,
                None => BTreeMap::new(),
            };
            labels.keys().try_for_each(|label| check_label_name(label))?;
            let mut effects = lock(&effects);
            if effects.metrics.len() < MAX_METRICS {
                effects.metrics.push(Metric {
                    kind,
                    name,
                    value,
                    labels,
                });
            }
            Ok(())
        };
        hostcall::add(lua, &metric, "host.metric", function, record)?;
    }
    hostcall::close(lua, &metric, "host.metric")?;
    Ok(metric)
}

/// As Prometheus and its linter want it; the page adds `tapwire_policy_user_` before and `_total` behind a counter.
fn check_metric_name(name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
        return Err(Error::runtime(
            "a metric's name is 1 to 64 characters of a-z 0-9 _",
        ));
    }
    for taken in ["_total", "_sum", "_count", "_bucket"] {
        if name.ends_with(taken) {
            return Err(Error::runtime(format!(
                "metric {name}: leave out `{taken}`; it is added where it belongs"
            )));
        }
    }
    Ok(())
}

fn check_label_name(name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !starts || name.len() > 64 || !name.chars().all(legal) {
        return Err(Error::runtime(format!(
            "metric label {name:?} is not a-z 0-9 _ with a letter first"
        )));
    }
    if matches!(name, "plugin" | "le" | "quantile") {
        return Err(Error::runtime(format!("metric label `{name}` is taken")));
    }
    Ok(())
}

fn state(lua: &Lua, effects: &SharedEffects) -> Result<Table> {
    let state = lua.create_table()?;
    let shared = Arc::clone(effects);
    let get = move |lua: &Lua, key: String| {
        let mut effects = lock(&shared);
        effects.state_used = true;
        let value = effects.state.get(&key).cloned();
        drop(effects);
        value.map_or(Ok(Value::Nil), |value| lua.to_value_with(&value, lua_options()))
    };
    hostcall::add(lua, &state, "host.state", "get", get)?;
    let shared = Arc::clone(effects);
    let set = move |_: &Lua, (key, value): (String, Value)| {
        let value = match value {
            Value::Nil => None,
            value => {
                Some(lift(&value, Bounds::RESULT).map_err(|e| Error::runtime(format!("host.state: {e}")))?)
            }
        };
        let mut effects = lock(&shared);
        effects.state_used = true;
        // Kept outside of the script's own memory limit, so bounded here.
        effects.written += key.len() + value.as_ref().map_or(0, |value| value.to_string().len());
        if effects.written > 2 * super::store::MAX_BYTES
            || effects.writes.len() >= crate::policy::shape::MAX_ITEMS
        {
            return Err(Error::runtime(
                "host.state: more than 128 KiB or 1024 writes in one call",
            ));
        }
        match &value {
            Some(value) => effects.state.insert(key.clone(), value.clone()),
            None => effects.state.remove(&key),
        };
        effects.writes.push((key, value));
        Ok(())
    };
    hostcall::add(lua, &state, "host.state", "set", set)?;
    hostcall::close(lua, &state, "host.state")?;
    Ok(state)
}

fn net(lua: &Lua) -> Result<Table> {
    let net = lua.create_table()?;
    let contains = |_: &Lua, (cidr, ip): (String, String)| {
        let bad = || Error::runtime(format!("{cidr:?} is not an address with prefix length"));
        let (base, length) = cidr.split_once('/').ok_or_else(bad)?;
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let length: u32 = length.parse().map_err(|_| bad())?;
        let ip: IpAddr = ip
            .parse()
            .map_err(|_| Error::runtime(format!("{ip:?} is not an ip address")))?;
        let (base, ip, width) = match (base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                (u128::from(u32::from(base)), u128::from(u32::from(ip)), 32)
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => (u128::from(base), u128::from(ip), 128),
            _ => return Ok(false),
        };
        if length > width {
            return Err(bad());
        }
        // A shift by the full width (prefix length 0) leaves nothing to compare.
        Ok((base ^ ip).checked_shr(width - length).unwrap_or(0) == 0)
    };
    hostcall::add(lua, &net, "host.net", "cidr_contains", contains)?;
    hostcall::add(lua, &net, "host.net", "mac_parse", |_, text: String| {
        Ok(text.parse::<crate::model::Mac>().ok().map(|mac| mac.to_string()))
    })?;
    let ip_parse = |lua: &Lua, text: String| match text.parse::<IpAddr>() {
        Ok(ip) => {
            let table = lua.create_table()?;
            table.raw_set("family", if ip.is_ipv4() { 4 } else { 6 })?;
            table.raw_set("text", ip.to_string())?;
            Ok(Some(table))
        }
        Err(_) => Ok(None),
    };
    hostcall::add(lua, &net, "host.net", "ip_parse", ip_parse)?;
    hostcall::close(lua, &net, "host.net")?;
    Ok(net)
}

fn map(lua: &Lua, host: &Table, maps: &BTreeMap<String, Arc<Json>>) -> Result<()> {
    let tables = lua.create_table()?;
    let mut names = Vec::new();
    for (name, contents) in maps {
        let table = lua.to_value_with(contents.as_ref(), lua_options())?;
        if let Value::Table(table) = &table {
            freeze(table)?;
        }
        tables.raw_set(name.as_str(), table)?;
        names.push(name.clone());
    }
    let find = move |_: &Lua, name: String| match tables.raw_get::<Value>(name.as_str())? {
        Value::Nil => {
            let hint = crate::policy::shape::did_you_mean(&name, names.iter().map(String::as_str));
            Err(Error::runtime(format!("no map `{name}` in [policy.maps]{hint}")))
        }
        table => Ok(table),
    };
    hostcall::add(lua, host, "host", "map", find)
}
