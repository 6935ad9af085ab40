//! The values inside records: plain types, bounded numbers, addresses, lists.

use super::{Decode, Misshapen, Shape, Shaped, into_object, show, wrong};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

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
            let list = match value {
                Json::Object(_) => "a list (one entry is written { { ... } })",
                _ => "a list",
            };
            return Err(wrong(list, &value));
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
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
