//! Shapes: what a table that crosses between Rust and Lua may contain, described once.
//!
//! `record!` declares a struct together with its description, so that the strict decoder, the "did you mean" of its
//! errors, the editor type files (`typegen`) and the documentation can't drift apart.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

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

/// A problem in a value that Lua returned, with the path to it ("fdb[2].mac").
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
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $fdoc])* pub $field: $ty, )*
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

        impl $name {
            /// The fields' names, for error messages.
            pub const FIELDS: &'static [&'static str] = &[$( $crate::policy::shape::plain(stringify!($field)) ),*];
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
            fn claim(&self, path: &str, merging: &mut $crate::policy::merge::Merging<'_>) {
                $( self.$field.claim(&$crate::policy::merge::join(path, $crate::policy::shape::plain(stringify!($field))), merging); )*
            }
            fn absorb(&mut self, other: &Self, path: &str, merging: &mut $crate::policy::merge::Merging<'_>) {
                $( self.$field.absorb(&other.$field, &$crate::policy::merge::join(path, $crate::policy::shape::plain(stringify!($field))), merging); )*
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

impl Shaped for bool {
    fn shape() -> Shape {
        Shape::Boolean
    }
}
impl Decode for bool {
    fn decode(value: Json) -> Result<Self, Misshapen> {
        value.as_bool().ok_or_else(|| wrong("true or false", &value))
    }
}

impl Shaped for String {
    fn shape() -> Shape {
        Shape::Text("")
    }
}
impl Decode for String {
    fn decode(value: Json) -> Result<Self, Misshapen> {
        match value {
            Json::String(text) => Ok(text),
            other => Err(wrong("a string", &other)),
        }
    }
}

macro_rules! integer_shape {
    ($($ty:ty),*) => { $( impl Shaped for $ty {
        fn shape() -> Shape {
            // 2^53: beyond it a Lua number is no longer exact.
            Shape::Integer(0, i64::try_from(<$ty>::MAX).unwrap_or(i64::MAX).min(1 << 53))
        }
    } )* };
}
integer_shape!(u8, u16, u32, u64);

impl Shaped for f64 {
    fn shape() -> Shape {
        Shape::Number
    }
}
impl Shaped for Json {
    fn shape() -> Shape {
        Shape::Any
    }
}
impl Decode for Json {
    fn decode(value: Json) -> Result<Self, Misshapen> {
        Ok(value)
    }
}

impl<T: Shaped> Shaped for Option<T> {
    fn shape() -> Shape {
        T::shape()
    }
    fn optional() -> bool {
        true
    }
}
impl<T: Decode> Decode for Option<T> {
    fn decode(value: Json) -> Result<Self, Misshapen> {
        T::decode(value).map(Some)
    }
    fn absent() -> Result<Self, Misshapen> {
        Ok(None)
    }
}

impl<T: Shaped> Shaped for std::sync::Arc<T> {
    fn shape() -> Shape {
        T::shape()
    }
}

/// At most this many entries in any list a decision carries.
pub const MAX_ITEMS: usize = 1024;

impl<T: Shaped> Shaped for Vec<T> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }
    fn optional() -> bool {
        true
    }
}
impl<T: Decode> Decode for Vec<T> {
    fn decode(value: Json) -> Result<Self, Misshapen> {
        let Json::Array(list) = value else {
            return Err(wrong("a list", &value));
        };
        if list.len() > MAX_ITEMS {
            return Err(Misshapen::new(format!(
                "{} entries, at most {MAX_ITEMS} are taken",
                list.len()
            )));
        }
        list.into_iter()
            .enumerate()
            .map(|(i, item)| T::decode(item).map_err(|e| e.inside(format_args!("[{}]", i + 1))))
            .collect()
    }
    fn absent() -> Result<Self, Misshapen> {
        Ok(Vec::new())
    }
}

impl<T: Shaped> Shaped for BTreeMap<String, T> {
    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }
    fn optional() -> bool {
        true
    }
}
impl<T: Decode> Decode for BTreeMap<String, T> {
    fn decode(value: Json) -> Result<Self, Misshapen> {
        let map = into_object(value)?;
        if map.len() > MAX_ITEMS {
            return Err(Misshapen::new(format!(
                "{} entries, at most {MAX_ITEMS} are taken",
                map.len()
            )));
        }
        map.into_iter()
            .map(|(key, item)| match T::decode(item) {
                Ok(item) => Ok((key, item)),
                Err(e) => Err(e.inside(key)),
            })
            .collect()
    }
    fn absent() -> Result<Self, Misshapen> {
        Ok(BTreeMap::new())
    }
}

/// A whole number with bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Whole<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Whole<MIN, MAX> {
    pub const fn get(self) -> i64 {
        self.0
    }
    /// The value as an unsigned number; every `Whole` used here has `0 <= MIN` and `MAX <= u32::MAX`.
    pub fn get_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}
impl<const MIN: i64, const MAX: i64> fmt::Display for Whole<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl<const MIN: i64, const MAX: i64> Shaped for Whole<MIN, MAX> {
    fn shape() -> Shape {
        Shape::Integer(MIN, MAX)
    }
}
impl<const MIN: i64, const MAX: i64> Decode for Whole<MIN, MAX> {
    fn decode(value: Json) -> Result<Self, Misshapen> {
        let number = match &value {
            Json::Number(n) => n
                .as_i64()
                .or_else(|| n.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as i64)),
            _ => return Err(wrong(&format!("a whole number {MIN}..{MAX}"), &value)),
        };
        match number {
            Some(n) if (MIN..=MAX).contains(&n) => Ok(Self(n)),
            Some(_) => Err(Misshapen::new(format!(
                "{} is outside {MIN}..{MAX}",
                show(&value)
            ))),
            None => Err(Misshapen::new(format!("{} is not a whole number", show(&value)))),
        }
    }
}

/// A value, or the explicit wish for the kernel's default (`host.unset` in Lua).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
pub enum Setting<T> {
    Value(T),
    Unset(UnsetWord),
}
/// How `host.unset` is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnsetWord {
    #[serde(rename = "unset")]
    Unset,
}
impl<T: Copy> Setting<T> {
    /// The value, or `default` where the kernel's default is asked for.
    pub fn value_or(self, default: T) -> T {
        match self {
            Setting::Value(value) => value,
            Setting::Unset(_) => default,
        }
    }
}
impl<T: Shaped> Shaped for Setting<T> {
    fn shape() -> Shape {
        Shape::Setting(Box::new(T::shape()))
    }
}
impl<T: Decode> Decode for Setting<T> {
    fn decode(value: Json) -> Result<Self, Misshapen> {
        match value {
            Json::Null => Ok(Setting::Unset(UnsetWord::Unset)),
            value => T::decode(value).map(Setting::Value),
        }
    }
}

/// One value, or a list of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OneOrMany<T>(pub Vec<T>);
impl<T: Shaped> Shaped for OneOrMany<T> {
    fn shape() -> Shape {
        Shape::OneOrMany(Box::new(T::shape()))
    }
    fn optional() -> bool {
        true
    }
}
impl<T: Decode> Decode for OneOrMany<T> {
    fn decode(value: Json) -> Result<Self, Misshapen> {
        match value {
            list @ Json::Array(_) => Vec::decode(list).map(Self),
            one => T::decode(one).map(|one| Self(vec![one])),
        }
    }
    fn absent() -> Result<Self, Misshapen> {
        Ok(Self(Vec::new()))
    }
}

macro_rules! parsed_text {
    ($(#[$doc:meta])* $name:ident($inner:ty), $what:literal, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(&text).map(Self).map_err(serde::de::Error::custom)
            }
        }
        impl Shaped for $name {
            fn shape() -> Shape {
                Shape::Text($what)
            }
        }
        impl Decode for $name {
            fn decode(value: Json) -> Result<Self, Misshapen> {
                match &value {
                    Json::String(text) => $parse(text).map(Self).map_err(Misshapen::new),
                    other => Err(wrong(concat!("a ", $what, " as a string"), other)),
                }
            }
        }
    };
}
parsed_text! {
    /// An Ethernet address, "fa:16:3e:00:00:05" in Lua and JSON.
    MacText(crate::model::Mac), "mac address", |text: &str| text.parse::<crate::model::Mac>().map_err(|e| e.to_string())
}
parsed_text! {
    /// An IPv4 or IPv6 address, as text in Lua and JSON.
    IpText(IpAddr), "ip address", |text: &str| text.parse::<IpAddr>().map_err(|_| format!("{text:?} is not an ip address"))
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
            "macs: expected a list, found table with keys {\"mac\":\"a\"}"
        );
    }

    #[test]
    fn a_whole_number_that_came_from_a_division_is_taken_and_null_is_unset() {
        let sample = Sample::decode(json!({"mtu": 1450.0})).unwrap();
        assert_eq!(sample.mtu.map(|m| m.value_or(Whole(0)).get()), Some(1450));
        let unset = Sample::decode(json!({"mtu": null})).unwrap();
        assert_eq!(serde_json::to_value(&unset).unwrap()["mtu"], "unset");
    }
}
