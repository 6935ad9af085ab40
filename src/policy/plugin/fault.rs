//! What went wrong in a script, with the place, in one line.

use crate::policy::api::Outcome;
use std::fmt;

/// A failure of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub outcome: Outcome,
    /// "plugins/mtu.lua:14".
    pub place: Option<String>,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Messages are cut here: a script may raise a megabyte.
const MAX_MESSAGE: usize = 400;

impl Fault {
    pub fn new(outcome: Outcome, place: Option<String>, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((cut, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(cut);
            message.push_str("...");
        }
        Self {
            outcome,
            place,
            message: message.replace(['\n', '\r'], " "),
        }
    }

    /// Reads place and message out of what Lua raised.
    pub fn from_lua(error: &mlua::Error) -> Self {
        match error {
            mlua::Error::MemoryError(_) => Self::new(Outcome::Memory, None, "out of memory"),
            mlua::Error::CallbackError { traceback, cause } => {
                let inner = Self::from_lua(cause);
                let place = inner.place.or_else(|| {
                    traceback
                        .lines()
                        .find_map(|line| split_place(line.trim()))
                        .map(|p| p.0)
                });
                Self { place, ..inner }
            }
            mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => {
                let first = message.split("\nstack traceback:").next().unwrap_or_default();
                match split_place(first) {
                    Some((place, rest)) => Self::new(Outcome::Error, Some(place), rest),
                    None => {
                        let place = message
                            .lines()
                            .skip(1)
                            .find_map(|line| split_place(line.trim()))
                            .map(|p| p.0);
                        Self::new(Outcome::Error, place, first)
                    }
                }
            }
            other => Self::new(Outcome::Error, None, other.to_string()),
        }
    }
}

/// "plugins/mtu.lua:14: message" -> ("plugins/mtu.lua:14", "message"); traceback lines ("mtu.lua:14 in function f") too.
fn split_place(line: &str) -> Option<(String, &str)> {
    let dot = line.find(".lua:")?;
    let number_at = dot + ".lua:".len();
    let rest = line.get(number_at..)?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    // A file name has no line breaks or quotes; a message that merely mentions a file does not start with it.
    if digits == 0 || line.get(..dot)?.contains(['\n', '"', '\'', '`']) {
        return None;
    }
    let place = line.get(..number_at + digits)?.to_owned();
    Some((place, rest.get(digits..)?.trim_start_matches([':', ' '])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_read_out_of_messages_and_tracebacks() {
        let fault = Fault::from_lua(&mlua::Error::RuntimeError(
            "a/b.lua:14: oops\nstack traceback:\n a/c.lua:1".into(),
        ));
        assert_eq!(fault.to_string(), "a/b.lua:14: oops");
        let fault = Fault::from_lua(&mlua::Error::CallbackError {
            traceback: "stack traceback:\n\t[C] in ?\n\ta/b.lua:7 in function port".into(),
            cause: std::sync::Arc::new(mlua::Error::runtime("no such table")),
        });
        assert_eq!(fault.to_string(), "a/b.lua:7: no such table");
    }

    #[test]
    fn a_huge_message_is_cut_and_stays_one_line() {
        let fault = Fault::new(Outcome::Error, None, "x\n".repeat(1_000_000));
        assert!(fault.message.len() < 500 && !fault.message.contains('\n'));
    }
}
