//! What can be said of an error beyond Lua's own words, from the line it happened in.

/// The message with what helps to understand it. `line`: the source at that place.
pub fn explained(message: &str, line: Option<&str>) -> String {
    if let Some(name) = between(message, "attempt to index nil with '", "'")
        && let Some(nil) = line.and_then(|line| indexed(line, name))
    {
        let ctx = match nil.starts_with("ctx.") {
            true => "; parts that do not apply are nil, so test it first",
            false => "",
        };
        return format!("`{nil}` is nil, it has no `{name}`{ctx}");
    }
    if message == "attempt to modify a readonly table" {
        return format!(
            "{message}; ctx, host and the libraries can't be written, a hook says what it wants by what it returns"
        );
    }
    if message.starts_with("invalid argument #1 to 'clone' (table has a protected metatable") {
        return "ctx and its parts can't be cloned; take what you need of them, `local link = ctx.link`"
            .to_owned();
    }
    if let Some(kind) = ["table: 0x", "function: 0x", "userdata: 0x", "thread: 0x"]
        .into_iter()
        .find(|kind| message.starts_with(kind))
    {
        let kind = kind.trim_end_matches(": 0x");
        return format!("it raised a {kind}, which says nothing; raise a text, error(\"...\")");
    }
    if message == "nil" {
        return "it raised nil, which says nothing; raise a text, error(\"...\")".to_owned();
    }
    if message.starts_with("Expected ") && message.contains("got '") && !message.contains("to close") {
        let closers = ["','", "'}'", "')'", "'<eof>'", "'end'", "'return'"];
        if closers.iter().any(|c| message.contains(&format!("got {c}"))) {
            return format!("{message}; is an `end`, `}}` or `)` missing before it?");
        }
    }
    message.to_owned()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = text.get(text.find(start)? + start.len()..)?;
    rest.get(..rest.find(end)?)
}

/// What stands before `.name` in a line, if it is the same wherever `.name` is.
fn indexed<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let code = line.split("--").next().unwrap_or(line);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found: Option<&str> = None;
    for (at, _) in code.match_indices(name) {
        let (before, after) = (code.get(..at)?, code.get(at + name.len()..)?);
        if after.starts_with(is_word) {
            continue;
        }
        let Some(chain) = before.strip_suffix(['.', ':']) else {
            continue;
        };
        let start = chain
            .rfind(|c: char| !is_word(c) && c != '.')
            .map_or(0, |place| place + 1);
        let chain = chain.get(start..).filter(|chain| !chain.is_empty())?;
        if found.is_some_and(|other| other != chain) {
            return None;
        }
        found = Some(chain);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_nil_is_read_from_the_line() {
        let say = |message: &str, line: &str| explained(message, Some(line));
        assert_eq!(
            say(
                "attempt to index nil with 'mtu'",
                "    return { mtu = ctx.uplink.mtu - 50 }"
            ),
            "`ctx.uplink` is nil, it has no `mtu`; parts that do not apply are nil, so test it first"
        );
        assert_eq!(
            say(
                "attempt to index nil with 'id'",
                "local id = row.id -- ctx.port.id"
            ),
            "`row` is nil, it has no `id`"
        );
        // Two of them, a call, an index: nothing is guessed.
        for line in [
            "return a.b.mtu + c.mtu",
            "return rows[1].mtu",
            "return f().mtu",
            "",
            "mtu",
        ] {
            let plain = "attempt to index nil with 'mtu'";
            assert_eq!(say(plain, line), plain, "{line}");
        }
    }
}
