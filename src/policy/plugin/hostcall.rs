//! Functions and tables of `host`, with errors that say how the thing is called.

use crate::policy::shape::did_you_mean;
use mlua::{Error, FromLuaMulti, IntoLuaMulti, Lua, MultiValue, Result, Table, Value};

/// Adds a function to `library`, which scripts know as `path` (`host.log`).
pub fn add<A: FromLuaMulti, R: IntoLuaMulti>(
    lua: &Lua,
    library: &Table,
    path: &'static str,
    name: &str,
    function: impl Fn(&Lua, A) -> Result<R> + Send + 'static,
) -> Result<()> {
    let own = library.clone();
    let called = format!("{path}.{name}");
    let colon = format!("write {path}.{name}(...) with a dot, not {path}:{name}(...)");
    let checked = move |lua: &Lua, arguments: MultiValue| {
        if matches!(arguments.front(), Some(Value::Table(first)) if *first == own) {
            return Err(Error::runtime(&colon));
        }
        let arguments = A::from_lua_args(arguments, 1, None, lua).map_err(|e| told(&called, e))?;
        function(lua, arguments)
    };
    library.raw_set(name, lua.create_function(checked)?)
}

/// A wrong argument in the words of a script's author.
fn told(called: &str, error: Error) -> Error {
    let Error::BadArgument { pos, cause, .. } = &error else {
        return error;
    };
    let Error::FromLuaConversionError { from, to, .. } = cause.as_ref() else {
        return error;
    };
    let to = match to.as_str() {
        "String" | "&str" => "string",
        "f64" => "number",
        other => other,
    };
    Error::runtime(format!("{called}: argument {pos} must be a {to}, it is {from}"))
}

/// From here on a name that the table does not have is an error with a hint; closes the table.
pub fn close(lua: &Lua, table: &Table, path: &'static str) -> Result<()> {
    let mut names = Vec::new();
    for pair in table.pairs::<String, Value>() {
        names.push(pair?.0);
    }
    names.sort();
    let meta = lua.create_table()?;
    let unknown = move |_: &Lua, (_, key): (Value, Value)| {
        let key = match &key {
            Value::String(text) => text.to_string_lossy(),
            other => other.type_name().to_owned(),
        };
        let mut hint = did_you_mean(&key, names.iter().map(String::as_str));
        if hint.is_empty() {
            hint = format!(", known are: {}", names.join(", "));
        }
        Err::<(), _>(Error::runtime(format!(
            "{path}.{key}: there is no such thing{hint}"
        )))
    };
    meta.raw_set("__index", lua.create_function(unknown)?)?;
    meta.raw_set("__metatable", false)?;
    meta.set_readonly(true);
    table.set_metatable(Some(meta))?;
    table.set_readonly(true);
    Ok(())
}
