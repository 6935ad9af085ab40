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

/// The same for what the mapping says of the port.
pub(super) fn port_table(lua: &Lua, port: &Port) -> Result<Table> {
    let Port {
        id,
        mac,
        addresses,
        admin_state_up,
    } = port;
    let table = lua.create_table_from([
        ("id", id.as_deref()),
        ("mac", mac.as_deref()),
        // Room for those that are no text.
        ("addresses", None),
        ("admin_state_up", None),
    ])?;
    let addresses = lua.create_sequence_from(addresses.iter().map(String::as_str))?;
    table.raw_set("addresses", addresses)?;
    table.raw_set("admin_state_up", *admin_state_up)?;
    Ok(table)
}

pub(super) fn plain<T: Serialize>(lua: &Lua, part: &T) -> Result<Value> {
    lua.to_value_with(part, lua_options())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::lift::{Bounds, lift};

    fn same(lua: &Lua, table: Table, part: &impl Serialize) {
        let json = |value: &Value| lift(value, Bounds::RESULT).unwrap();
        assert_eq!(json(&Value::Table(table)), json(&plain(lua, part).unwrap()));
    }

    #[test]
    fn tables_made_by_hand_are_those_that_serde_makes() {
        let lua = Lua::new();
        let link = Link {
            ifindex: 7,
            name: "tap1".into(),
            mac: Some("fa:16:3e:00:00:05".into()),
            mtu: 1500,
            kind: "tap".into(),
            alias: Some("vm".into()),
            operstate: Some("up".into()),
            up: true,
            master: Some("br1".into()),
        };
        let port = Port {
            id: Some("p".into()),
            mac: Some("fa:16:3e:00:00:05".into()),
            addresses: vec!["192.0.2.1".into(), "2001:db8::1".into()],
            admin_state_up: true,
        };
        for link in [link, Link::default()] {
            same(&lua, link_table(&lua, &link).unwrap(), &link);
        }
        for port in [port, Port::default()] {
            same(&lua, port_table(&lua, &port).unwrap(), &port);
        }
    }
}
