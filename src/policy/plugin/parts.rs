//! How parts of `ctx` become tables, and what they say to a name that they do not have.

use super::hostlib::lua_options;
use crate::policy::api::context::{
    AttachResult, Bridge, Current, HostFacts, Lease, Link, Network, Part, Plan, Port, Uplink,
};
use crate::policy::shape::{Shape, Shaped, did_you_mean};
use mlua::serde::LuaSerdeExt;
use mlua::{Error, Lua, Result, Table, Value};
use serde::Serialize;

/// "did you mean", or what there is.
pub(super) fn hint<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let close = did_you_mean(word, names.clone());
    if close.is_empty() {
        format!(", known are: {}", names.collect::<Vec<_>>().join(", "))
    } else {
        close
    }
}

/// Names of the fields of a part, where it is a record.
pub(super) fn fields(part: Part) -> Option<Vec<&'static str>> {
    let shape = match part {
        Part::Link => Link::shape(),
        Part::Port => Port::shape(),
        Part::Network => Network::shape(),
        Part::Uplink => Uplink::shape(),
        Part::Bridge => Bridge::shape(),
        Part::Current => Current::shape(),
        Part::Host => HostFacts::shape(),
        Part::Plan => Plan::shape(),
        Part::Result => AttachResult::shape(),
        Part::Lease => Lease::shape(),
        Part::Tags | Part::Diff | Part::Now | Part::Seq | Part::Gen | Part::Reason => return None,
    };
    match shape {
        Shape::Record(_, fields) => Some(fields.into_iter().map(|field| field.name).collect()),
        _ => None,
    }
}

/// A field that is absent reads as nil, one that does not exist is a mistake.
pub(super) fn strict_meta(lua: &Lua, part: Part, names: Vec<&'static str>) -> Result<Table> {
    let meta = lua.create_table()?;
    meta.raw_set(
        "__index",
        lua.create_function(move |_, (_, key): (Value, Value)| {
            let text = match &key {
                Value::String(text) => text.to_string_lossy(),
                other => other.type_name().to_owned(),
            };
            if names.contains(&text.as_str()) {
                return Ok(Value::Nil);
            }
            Err(Error::runtime(format!(
                "ctx.{}.{text}: there is no such field{}",
                part.word(),
                hint(&text, names.iter().copied())
            )))
        })?,
    )?;
    meta.raw_set("__metatable", false)?;
    meta.set_readonly(true);
    Ok(meta)
}

/// As [`plain`] would make it, in fewer steps: nearly every hook looks at the link.
pub(super) fn link_table(lua: &Lua, link: &Link) -> Result<Table> {
    let Link {
        ifindex,
        name,
        mac,
        mtu,
        kind,
        alias,
        operstate,
        up,
        master,
    } = link;
    let table = lua.create_table_from([
        ("name", Some(name.as_str())),
        ("mac", mac.as_deref()),
        ("kind", Some(kind.as_str())),
        ("alias", alias.as_deref()),
        ("operstate", operstate.as_deref()),
        ("master", master.as_deref()),
        // Room for those that are no text.
        ("ifindex", None),
        ("mtu", None),
        ("up", None),
    ])?;
    table.raw_set("ifindex", *ifindex)?;
    table.raw_set("mtu", *mtu)?;
    table.raw_set("up", *up)?;
    Ok(table)
}

pub(super) fn plain<T: Serialize>(lua: &Lua, part: &T) -> Result<Value> {
    lua.to_value_with(part, lua_options())
}
