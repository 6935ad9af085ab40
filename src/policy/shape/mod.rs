//! Shapes: what a table that crosses between Rust and Lua may contain, described once.
//!
//! `record!` declares a struct together with its description, so that the strict decoder, the "did you mean" of its
//! errors, the editor type files (`typegen`) and the documentation can't drift apart.

mod values;

pub use values::{IpText, MAX_ITEMS, MacText, OneOrMany, Setting, UnsetWord, Whole};

use serde_json::Value as Json;
use std::fmt;

/// What a value looks like from Lua.
#[derive(Debug, Clone)]
pub enum Shape {
    Boolean,
    /// Whole number, bounds included.
    Integer(i64, i64),
    Number,
    /// Text; the word says which ("mac address").
    Text(&'static str),
    /// One of these words.
    Word(&'static [&'static str]),
    List(Box<Shape>),
    Map(Box<Shape>),
    /// The value, or `host.unset`.
    Setting(Box<Shape>),
    /// One value or a list of it.
    OneOrMany(Box<Shape>),
    Record(&'static str, Vec<Field>),
    /// Any JSON-like value.
    Any,
}

/// One field of a record.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: &'static str,
    /// The documentation comment, lines joined.
    pub doc: String,
    pub shape: Shape,
    pub optional: bool,
}

/// A type with a shape.
pub trait Shaped {
    fn shape() -> Shape;
    fn optional() -> bool {
        false
    }
}

/// A problem in a value that Lua returned, with the path to it (`fdb[2].mac`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    pub path: String,
    pub problem: String,
}

impl Misshapen {
    pub fn new(problem: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            problem: problem.into(),
        }
    }
    /// The field in question: the last one of the path, or an unknown one that the problem names.
    pub fn field(&self) -> &str {
        let unknown = self.problem.strip_prefix("unknown field `");
        match unknown.and_then(|rest| rest.split('`').next()) {
            Some(name) => name,
            None => &self.path,
        }
    }

    /// Where in the source to look: the path, or the unknown field at the top.
    pub fn origin(&self) -> &str {
        if self.path.is_empty() {
            self.field()
        } else {
            &self.path
        }
    }

    /// The same problem, seen from one level further out.
    #[must_use]
    pub fn inside(mut self, key: impl fmt::Display) -> Self {
        let key = key.to_string();
        let joint = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{key}{joint}{}", self.path);
        self
    }
}

impl fmt::Display for Misshapen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "{}: {}", self.path, self.problem)
        }
    }
}

/// A type that is decoded strictly from what Lua returned.
pub trait Decode: Shaped + Sized {
    fn decode(value: Json) -> Result<Self, Misshapen>;
    /// What an absent field means; an error unless the type has an idea of nothing.
    fn absent() -> Result<Self, Misshapen> {
        Err(Misshapen::new("missing"))
    }
}

/// The word for a value's type in messages, as Lua says it.
pub fn type_word(value: &Json) -> &'static str {
    match value {
        Json::Null => "host.unset",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(list) if list.is_empty() => "empty table",
        Json::Array(_) => "list",
        Json::Object(_) => "table with keys",
    }
}

/// A short rendering of a value for messages.
pub fn show(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

fn wrong(expected: &str, value: &Json) -> Misshapen {
    Misshapen::new(format!(
        "expected {expected}, found {} {}",
        type_word(value),
        show(value)
    ))
}

/// ", did you mean `x`?" when one of `names` is close to `word`.
pub fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    // The comparison takes the product of both lengths in time and memory, and scripts choose the word.
    if word.len() > 64 {
        return String::new();
    }
    let best = names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .min();
    match best {
        Some((distance, name)) if distance <= 1 + word.chars().count() / 4 => {
            format!(", did you mean `{name}`?")
        }
        _ => String::new(),
    }
}

/// The error for a key that no field has.
pub fn unknown_field(key: &str, names: &[&str]) -> Misshapen {
    let hint = did_you_mean(key, names.iter().copied());
    let key: String = key.chars().take(64).collect();
    let hint = if hint.is_empty() {
        format!(", known are: {}", names.join(", "))
    } else {
        hint
    };
    Misshapen::new(format!("unknown field `{key}`{hint}"))
}

/// Takes a table apart for `record!`; an empty Lua table is both an empty list and an empty record.
pub fn into_object(value: Json) -> Result<serde_json::Map<String, Json>, Misshapen> {
    match value {
        Json::Object(map) => Ok(map),
        Json::Array(list) if list.is_empty() => Ok(serde_json::Map::new()),
        other => Err(wrong("a table with keys", &other)),
    }
}

/// Declares a struct that crosses the border to Lua, with its shape. Missing fields take the field type's idea of
/// nothing; unknown ones are refused.
macro_rules! record {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $( $(#[doc = $fdoc:literal])* pub $field:ident : $ty:ty, )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Hash, Default, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $fdoc])* pub $field: $ty, )*
        }

        impl $name {
            /// The fields' names, for error messages.
            pub const FIELDS: &'static [&'static str] = &[$( $crate::policy::shape::plain(stringify!($field)) ),*];
        }

        impl $crate::policy::shape::Shaped for $name {
            fn shape() -> $crate::policy::shape::Shape {
                $crate::policy::shape::Shape::Record(stringify!($name), vec![
                    $( $crate::policy::shape::Field {
                        name: $crate::policy::shape::plain(stringify!($field)),
                        doc: concat!($($fdoc),*).trim().to_owned(),
                        shape: <$ty as $crate::policy::shape::Shaped>::shape(),
                        optional: <$ty as $crate::policy::shape::Shaped>::optional(),
                    }, )*
                ])
            }
        }
    };
}

/// `record!` for what Lua returns: adds the strict decoder.
macro_rules! decoded_record {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $( $(#[doc = $fdoc:literal])* pub $field:ident : $ty:ty, )*
        }
    ) => {
        $crate::policy::shape::record! {
            $(#[doc = $doc])*
            pub struct $name { $( $(#[doc = $fdoc])* pub $field: $ty, )* }
        }

        impl $crate::policy::shape::Decode for $name {
            fn decode(value: serde_json::Value) -> Result<Self, $crate::policy::shape::Misshapen> {
                let mut map = $crate::policy::shape::into_object(value)?;
                let decoded = Self {
                    $( $field: match map.remove($crate::policy::shape::plain(stringify!($field))) {
                        Some(value) => <$ty as $crate::policy::shape::Decode>::decode(value),
                        None => <$ty as $crate::policy::shape::Decode>::absent(),
                    }.map_err(|e| e.inside($crate::policy::shape::plain(stringify!($field))))?, )*
                };
                match map.keys().next() {
                    Some(key) => Err($crate::policy::shape::unknown_field(key, Self::FIELDS)),
                    None => Ok(decoded),
                }
            }
        }
    };
}

/// `decoded_record!` for what several plugins may say at once: adds the merge.
macro_rules! verdict_record {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $( $(#[doc = $fdoc:literal])* pub $field:ident : $ty:ty, )*
        }
    ) => {
        $crate::policy::shape::decoded_record! {
            $(#[doc = $doc])*
            pub struct $name { $( $(#[doc = $fdoc])* pub $field: $ty, )* }
        }

        impl $crate::policy::merge::Merge for $name {
            fn claim(&self, path: &$crate::policy::merge::Path<'_>, merging: &mut $crate::policy::merge::Merging<'_>) {
                $( self.$field.claim(&$crate::policy::merge::Path::Field(path, $crate::policy::shape::plain(stringify!($field))), merging); )*
            }
            fn absorb(&mut self, other: &Self, path: &$crate::policy::merge::Path<'_>, merging: &mut $crate::policy::merge::Merging<'_>) {
                $( self.$field.absorb(&other.$field, &$crate::policy::merge::Path::Field(path, $crate::policy::shape::plain(stringify!($field))), merging); )*
            }
        }
    };
}

pub(crate) use {decoded_record, record, verdict_record};

/// A field's name without the mark of a raw identifier (`r#type` is `type` in Lua).
pub const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// Declares an enum of words, with shape and decoder.
macro_rules! words {
    ($(#[doc = $doc:literal])* pub enum $name:ident { $( $(#[doc = $vdoc:literal])* $variant:ident = $word:literal, )* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $( $(#[doc = $vdoc])* #[serde(rename = $word)] $variant, )* }
        /// The first word, for records built field by field.
        impl Default for $name {
            fn default() -> Self {
                [$( Self::$variant ),*][0]
            }
        }
        impl $name {
            pub const WORDS: &'static [&'static str] = &[$( $word ),*];
            pub const ALL: &'static [$name] = &[$( $name::$variant ),*];
            pub const fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $( $word => Some(Self::$variant), )* _ => None }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.word())
            }
        }
        impl $crate::policy::shape::Shaped for $name {
            fn shape() -> $crate::policy::shape::Shape {
                $crate::policy::shape::Shape::Word(Self::WORDS)
            }
        }
        impl $crate::policy::shape::Decode for $name {
            fn decode(value: serde_json::Value) -> Result<Self, $crate::policy::shape::Misshapen> {
                let word = <String as $crate::policy::shape::Decode>::decode(value)?;
                Self::from_word(&word).ok_or_else(|| {
                    let hint = $crate::policy::shape::did_you_mean(&word, Self::WORDS.iter().copied());
                    $crate::policy::shape::Misshapen::new(
                        format!("`{word}` is not one of {}{hint}", Self::WORDS.join(", ")))
                })
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    decoded_record! {
        /// A record for these tests.
        pub struct Sample {
            /// Bytes.
            pub mtu: Option<Setting<Whole<68, 65535>>>,
            /// Addresses.
            pub macs: Vec<MacText>,
        }
    }

    fn fails(value: Json) -> String {
        Sample::decode(value).unwrap_err().to_string()
    }

    #[test]
    fn a_misspelt_field_is_refused_with_the_name_that_was_meant() {
        assert_eq!(
            fails(json!({"mut": 1})),
            "unknown field `mut`, did you mean `mtu`?"
        );
        assert_eq!(
            fails(json!({"zzzzzz": 1})),
            "unknown field `zzzzzz`, known are: mtu, macs"
        );
    }

    #[test]
    fn an_error_names_the_path_to_the_value() {
        assert_eq!(
            fails(json!({"macs": ["fa:16:3e:00:00:05", 7]})),
            "macs[2]: expected a mac address as a string, found number 7"
        );
        assert_eq!(
            fails(json!({"mtu": 1e9})),
            "mtu: 1000000000.0 is outside 68..65535"
        );
        assert_eq!(fails(json!({"mtu": 1450.5})), "mtu: 1450.5 is not a whole number");
        assert_eq!(
            fails(json!({"macs": {"mac": "a"}})),
            "macs: expected a list (one entry is written { { ... } }), found table with keys {\"mac\":\"a\"}"
        );
    }

    #[test]
    fn a_whole_number_that_came_from_a_division_is_taken_and_null_is_unset() {
        let sample = Sample::decode(json!({"mtu": 1450.0})).unwrap();
        assert_eq!(serde_json::to_value(&sample).unwrap()["mtu"], 1450);
        let unset = Sample::decode(json!({"mtu": null})).unwrap();
        assert_eq!(serde_json::to_value(&unset).unwrap()["mtu"], "unset");
    }
}
