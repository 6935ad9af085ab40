//! `--filter`: a name pattern, or `key=pattern` terms joined by commas, all of which must match.

use super::event::{Line, Object, TraceEvent, Value, Word};
use crate::model::name::matches_bytes;

/// A filter that makes no sense, with what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("unknown filter key {key:?}{}; known: {}", hint(*near), KEYS.map(|(name, _)| name).join(" "))]
    UnknownKey { key: String, near: Option<&'static str> },
    #[error("no {key} is called {pattern:?}; known: {known}")]
    NeverMatches {
        key: &'static str,
        pattern: String,
        known: String,
    },
    #[error("an empty term in the filter {0:?}")]
    Empty(String),
}

fn hint(near: Option<&'static str>) -> String {
    near.map(|near| format!(" (did you mean {near:?}?)"))
        .unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Kind,
    Event,
    Object,
    Family,
    Master,
    Network,
    Field,
    Cause,
    /// The object's own name: an address, a prefix, a MAC address.
    Which,
}

const KEYS: [(&str, Key); 11] = [
    ("ifname", Key::Name),
    ("name", Key::Name),
    ("kind", Key::Kind),
    ("event", Key::Event),
    ("object", Key::Object),
    ("family", Key::Family),
    ("master", Key::Master),
    ("network", Key::Network),
    ("field", Key::Field),
    ("cause", Key::Cause),
    ("key", Key::Which),
];

/// A parsed filter; the default one passes everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    terms: Vec<(Key, Box<str>)>,
}

impl Filter {
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut terms = Vec::new();
        for term in text.split(',').map(str::trim) {
            let (key, pattern) = match term.split_once('=') {
                Some((key, pattern)) => (Self::key(key.trim())?, pattern.trim()),
                None => (Key::Name, term),
            };
            if pattern.is_empty() && key != Key::Kind {
                return Err(FilterError::Empty(text.to_owned()));
            }
            let words: Option<(&'static str, Vec<&str>)> = match key {
                Key::Event => Some(("event", Word::ALL.map(Word::as_str).to_vec())),
                Key::Object => Some(("object", Object::ALL.map(Object::as_str).to_vec())),
                Key::Family => Some(("family", vec!["unspec", "bridge", "inet", "inet6"])),
                Key::Cause => Some(("cause", vec!["own", "foreign"])),
                _ => None,
            };
            if let Some((key, words)) = words
                && !words.iter().any(|word| matches(pattern, word))
            {
                return Err(FilterError::NeverMatches {
                    key,
                    pattern: pattern.to_owned(),
                    known: words.join(" "),
                });
            }
            terms.push((key, pattern.into()));
        }
        Ok(Self { terms })
    }

    fn key(name: &str) -> Result<Key, FilterError> {
        KEYS.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, key)| *key)
            .ok_or_else(|| {
                let near = KEYS
                    .iter()
                    .map(|(known, _)| (strsim::damerau_levenshtein(known, name), *known))
                    .filter(|(distance, _)| *distance <= 2)
                    .min()
                    .map(|(_, known)| known);
                FilterError::UnknownKey {
                    key: name.to_owned(),
                    near,
                }
            })
    }

    /// Loss markers always pass: without them the rest would seem whole.
    pub fn passes(&self, line: &Line) -> bool {
        match line {
            Line::Loss(_) => true,
            Line::Event(event) => self.terms.iter().all(|(key, pattern)| term(*key, pattern, event)),
            Line::Decision(decision) => self.terms.iter().all(|(key, pattern)| match key {
                Key::Name => matches(pattern, &decision.ifname),
                Key::Network => decision.network.as_deref().is_some_and(|n| matches(pattern, n)),
                Key::Cause => matches(pattern, "own"),
                _ => false,
            }),
        }
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    matches_bytes(pattern.as_bytes(), text.as_bytes())
}

fn term(key: Key, pattern: &str, event: &TraceEvent) -> bool {
    // A device that is renamed, and a port that changes its bridge, is found under both names.
    let before_or_after = |field| {
        event
            .diff
            .iter()
            .filter(|change| change.field == field)
            .any(|change| {
                [&change.old, &change.new].into_iter().any(|value| match value {
                    Value::Text(text) => matches(pattern, text),
                    _ => false,
                })
            })
    };
    match key {
        Key::Name => matches(pattern, &event.ifname) || before_or_after("name"),
        Key::Kind => matches(pattern, &event.kind),
        Key::Event => matches(pattern, event.word.as_str()),
        Key::Object => matches(pattern, event.object.as_str()),
        Key::Family => matches(pattern, event.family),
        Key::Master => {
            event.master.as_deref().is_some_and(|m| matches(pattern, m)) || before_or_after("master")
        }
        Key::Network => event.network.as_deref().is_some_and(|n| matches(pattern, n)),
        Key::Field => event.diff.iter().any(|change| matches(pattern, change.field)),
        Key::Cause => matches(pattern, if event.cause.own { "own" } else { "foreign" }),
        Key::Which => event.key.as_deref().is_some_and(|k| matches(pattern, k)),
    }
}
