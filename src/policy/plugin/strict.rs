//! A name that `ctx` or a part of it does not have is a mistake, and says so.

use crate::policy::api::context::{
    AttachResult, Bridge, Current, HostFacts, Lease, Link, Network, Part, Plan, Port, Uplink,
};
use crate::policy::shape::{Shape, Shaped, did_you_mean};
use mlua::{Error, Lua, Result, Table, Value};

/// The part that `ctx[key]` means.
pub fn named(key: &Value) -> Result<Part> {
    let text = match key {
        Value::String(text) => text.to_string_lossy(),
        other => other.type_name().to_owned(),
    };
    Part::from_word(&text).ok_or_else(|| {
        let names = Part::ALL.iter().map(|part| part.word());
        Error::runtime(format!(
            "ctx.{text}: there is no such field{}",
            hint(&text, names)
        ))
    })
}

pub fn not_declared(part: Part) -> Error {
    let word = part.word();
    Error::runtime(format!(
        "ctx.{word}: `reads` does not list it; write `reads = {{ ..., \"{word}\" }}`"
    ))
}

/// "did you mean", or what there is.
fn hint<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let close = did_you_mean(word, names.clone());
    if close.is_empty() {
        format!(", known are: {}", names.collect::<Vec<_>>().join(", "))
    } else {
        close
    }
}

/// Names of the fields of a part, where it is a record.
pub fn fields(part: Part) -> Option<Vec<&'static str>> {
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
pub fn strict_meta(lua: &Lua, part: Part, names: Vec<&'static str>) -> Result<Table> {
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
