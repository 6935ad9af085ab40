//! Names in a plugin's text that are neither local nor a library: a misspelt name, or a `local` left out.
//!
//! Read from the words of the file, without running it. A name that is declared anywhere in the file counts as known
//! everywhere in it, and a file whose blocks do not add up is left to the compiler: rather nothing is said than something
//! wrong. At run time every such name is an error with its line.

use crate::policy::plugin::sandbox::advice;
use crate::policy::shape::did_you_mean;
use std::collections::{BTreeMap, BTreeSet};

const KEYWORDS: &[&str] = &[
    "and", "break", "continue", "do", "else", "elseif", "end", "export", "false", "for", "function", "if",
    "in", "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
];

/// Luau's own that are no library.
const TYPES: &[&str] = &["any", "boolean", "never", "number", "thread", "unknown"];

#[derive(Debug, Clone, Copy, PartialEq)]
struct Token<'t> {
    text: &'t str,
    is_name: bool,
    line: usize,
}

/// "4: assignment to global `x`; write `local x = ...`", by line; each name once.
pub fn strays(text: &str, known: &[String]) -> Vec<String> {
    let tokens = tokens(text);
    let declared = declared(&tokens);
    let mut found: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    // Open brackets of tables (true) and blocks (false).
    let mut open: Vec<bool> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let before = at
            .checked_sub(1)
            .and_then(|at| tokens.get(at))
            .map_or("", |t| t.text);
        let after = tokens.get(at + 1).map_or("", |t| t.text);
        match token.text {
            "{" => open.push(true),
            "}" if open.pop() != Some(true) => return Vec::new(),
            "function" | "do" | "repeat" => open.push(false),
            // An `if` in an expression has no `end`.
            "if" if !continues(before) => open.push(false),
            "end" | "until" if open.pop() != Some(false) => return Vec::new(),
            _ => {}
        }
        // Of a table, or one of several types; Luau has no such operators.
        let is_field = matches!(before, "." | ":" | "::" | "->" | "|" | "&");
        // A key of a table, or a field of a table's type.
        let is_key =
            matches!(after, "=" | ":") && open.last() == Some(&true) && matches!(before, "{" | "," | ";");
        let name = token.text;
        if !token.is_name
            || is_field
            || is_key
            || KEYWORDS.contains(&name)
            || TYPES.contains(&name)
            || declared.contains(name)
            || known.iter().any(|k| k == name)
        {
            continue;
        }
        let problem = if after == "=" {
            format!("assignment to global `{name}`; write `local {name} = ...`")
        } else {
            let hint = match advice(name) {
                "" => did_you_mean(name, known.iter().map(String::as_str)),
                advice => advice.to_owned(),
            };
            format!("unknown global `{name}`{hint}")
        };
        found.entry(name).or_insert((token.line, problem));
    }
    if !open.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<_> = found.into_values().collect();
    found.sort();
    found
        .into_iter()
        .map(|(line, problem)| format!("{line}: {problem}"))
        .collect()
}

/// Does an expression go on after this word?
fn continues(word: &str) -> bool {
    matches!(
        word,
        "return" | "and" | "or" | "not" | "(" | "[" | "{" | "," | ".."
    ) || (!word.is_empty() && word.chars().all(|c| "=+-*/%^#<>~".contains(c)))
}

/// Names of locals, parameters, loop variables and types.
fn declared<'t>(tokens: &[Token<'t>]) -> BTreeSet<&'t str> {
    let mut names = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        let rest = tokens.get(at + 1..).unwrap_or_default();
        match token.text {
            "local" if rest.first().is_some_and(|t| t.text == "function") => {
                names.extend(rest.get(1).map(|t| t.text));
            }
            "local" | "for" => names.extend(listed(rest)),
            "function" => {
                let open = rest.iter().position(|t| t.text == "(").unwrap_or(rest.len());
                let (head, parameters) = rest.split_at(open);
                let generics = head.iter().skip_while(|t| t.text != "<");
                names.extend(generics.filter(|t| t.is_name).map(|t| t.text));
                names.extend(listed(parameters.get(1..).unwrap_or_default()));
            }
            "type" => {
                names.extend(rest.first().filter(|t| t.is_name).map(|t| t.text));
                let generics = rest.iter().skip(1).take_while(|t| t.text != "=");
                names.extend(generics.filter(|t| t.is_name).map(|t| t.text));
            }
            _ => {}
        }
    }
    names
}

/// The names at the beginning, `a, b: type, c`, up to what cannot be of such a list.
fn listed<'t>(tokens: &[Token<'t>]) -> Vec<&'t str> {
    let (mut names, mut depth, mut before) = (Vec::new(), 0, ",");
    let mut line = tokens.first().map_or(0, |t| t.line);
    for token in tokens {
        let goes_on = matches!(before, "," | ":" | "|" | "&" | "->");
        match token.text {
            "(" | "{" | "[" | "<" => depth += 1,
            ")" | "}" | "]" | ">" if depth > 0 => depth -= 1,
            ")" | "=" | "in" if depth == 0 => break,
            // Without values the next statement follows.
            _ if depth == 0
                && token.line != line
                && !goes_on
                && !matches!(token.text, "," | ":" | "|" | "&") =>
            {
                break;
            }
            name if depth == 0 && before == "," && token.is_name => names.push(name),
            _ => {}
        }
        (before, line) = (token.text, token.line);
    }
    names
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut out) = (0, 1, Vec::new());
    let is_word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
    while let Some(&c) = bytes.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        let length = if rest.starts_with("--") {
            let after = rest.get(2..).unwrap_or_default();
            2 + long_bracket(after).unwrap_or_else(|| after.find('\n').unwrap_or(after.len()))
        } else if let Some(length) = long_bracket(rest) {
            length
        } else if matches!(c, b'"' | b'\'' | b'`') {
            quoted(bytes, at) - at
        } else if c.is_ascii_digit() {
            let more = |c: &u8| is_word(c) || *c == b'.';
            bytes
                .get(at..)
                .unwrap_or_default()
                .iter()
                .take_while(|c| more(c))
                .count()
        } else if is_word(&c) {
            let length = bytes
                .get(at..)
                .unwrap_or_default()
                .iter()
                .take_while(|c| is_word(c))
                .count();
            out.push(Token {
                text: rest.get(..length).unwrap_or_default(),
                is_name: true,
                line,
            });
            length
        } else if c.is_ascii() && !c.is_ascii_whitespace() {
            let pairs = ["==", "~=", "<=", ">=", "..", "::", "->", "+=", "-=", "*=", "/="];
            let length = pairs
                .iter()
                .find(|pair| rest.starts_with(**pair))
                .map_or(1, |pair| pair.len());
            out.push(Token {
                text: rest.get(..length).unwrap_or_default(),
                is_name: false,
                line,
            });
            length
        } else {
            1
        };
        let passed = bytes.get(at..at + length).unwrap_or_default();
        line += passed.iter().filter(|c| **c == b'\n').count();
        // A text leaves a mark: what stands before it is not what stands before the next word.
        if matches!(c, b'"' | b'\'' | b'`') || c.is_ascii_digit() {
            out.push(Token {
                text: "\"",
                is_name: false,
                line,
            });
        }
        at += length.max(1);
    }
    out
}

/// Length of `[[...]]` or `[==[...]==]` at the beginning.
fn long_bracket(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('[')?;
    let level = inner.len() - inner.trim_start_matches('=').len();
    inner.get(level..)?.strip_prefix('[')?;
    let close = format!("]{}]", "=".repeat(level));
    let end = text.find(&close).map_or(text.len(), |end| end + close.len());
    Some(end)
}

/// Where the text that begins at `at` ends.
fn quoted(bytes: &[u8], at: usize) -> usize {
    let quote = bytes.get(at).copied().unwrap_or_default();
    let mut end = at + 1;
    while let Some(&c) = bytes.get(end) {
        match c {
            b'\\' => end += 2,
            c if c == quote => return end + 1,
            _ => end += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::strays;

    fn found(text: &str) -> Vec<String> {
        let known = ["host", "pairs", "string", "type", "error"].map(str::to_owned);
        strays(text, &known)
    }

    #[test]
    fn a_missing_local_and_a_misspelt_name_are_found() {
        let text = "local seen = {}\nreturn {\n  api = 1,\n  port = function(ctx)\n    mtu = 1400\n\
                    \n    if ctx.link then other = strng.upper(ctx.link.name) end\n    return { mtu = mtu, alias = os.time() }\n  end,\n}";
        assert_eq!(
            found(text),
            [
                "5: assignment to global `mtu`; write `local mtu = ...`",
                "7: assignment to global `other`; write `local other = ...`",
                "7: unknown global `strng`, did you mean `string`?",
                "8: unknown global `os`; a hook takes the time from ctx.now",
            ]
        );
    }

    #[test]
    fn what_is_known_is_left_alone() {
        let text = "--!strict\n--[[ x = y ]]\nlocal a, b = 1, [==[ c = d ]==]\nlocal function f(n: number, ...): any\n\
                    \n  for i = 1, n do a = i end\n  for key, value in pairs({}) do b = key .. value end\n\
                    \n  local c = if n > 1 then a else b\n  local text = \"x = \\\" y\" .. 'z' .. `{w}`\n  repeat c = c until c\n\
                    \n  a += 1\n  while true do break end\n  return { a = 1, b = f, [c] = a; d = { e = n }, text }, ...\nend\n\
                    type T = { x: any }\nreturn { api = 1, port = function(ctx) return { mtu = f(1), port = { guard = true } } end,\n\
                    \n  resolve = function(ctx): T? host.log.info(ctx.link:name()) if ctx then error(\"x\") elseif a then return nil end end }";
        assert_eq!(found(text), [""; 0]);
    }

    #[test]
    fn lists_over_several_lines_and_types_are_understood() {
        let text = "local a,\n  b = 1, 2\ntype Row<V> = { name: string?, vlan: number | nil, list: {number}, more: {V} }\n\
                    type Wanted = Row | nil\nlocal none: Row\nlocal late\n\
                    local function each<T, U>(rows: { T }, f: (T, number) -> U, last): { U }\n\
                    \n  local out: { U } = {}\n  for _, row in pairs(rows) do out[_] = f(row, last) end\n  return out\nend\n\
                    return { api = 1, port = function(ctx: { [string]: any }, other)\n\
                    \n  local ok: boolean | string, no = a > b, other\n  late = none\n  stray = ok\n\
                    \n  return each({ 1 }, function(n, m) return n + m end, 5)\nend }";
        assert_eq!(
            found(text),
            ["17: assignment to global `stray`; write `local stray = ...`"]
        );
    }

    #[test]
    fn what_does_not_add_up_is_left_to_the_compiler() {
        for text in ["return { x = ", "end", "}", "function f() x = 1", "if a then"] {
            assert_eq!(found(text), [""; 0], "{text}");
        }
    }
}
