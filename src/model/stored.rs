//! How the nouns are written into a recording (`daemon::account`) and read back, with the same checks as anywhere: what
//! is read is as valid as what was made here.

use super::{
    Cidr, Domain, Hostname, LinkName, Mac, Mtu, NamePattern, NetworkId, PhysicalName, PortId, Vid, Vni,
};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt::Write;

macro_rules! as_text {
    ($($name:ty: $read:expr;)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let read: fn(&str) -> Result<Self, super::InvalidValue> = $read;
                read(&String::deserialize(from)?).map_err(D::Error::custom)
            }
        }
    )*};
}

as_text! {
    Mac: str::parse;
    Cidr: str::parse;
    Hostname: Hostname::new;
    Domain: Domain::new;
    NetworkId: NetworkId::new;
    PortId: PortId::new;
    PhysicalName: PhysicalName::new;
}

macro_rules! as_number {
    ($($name:ty,)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                self.get().serialize(to)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::new(i64::deserialize(from)?).map_err(D::Error::custom)
            }
        }
    )*};
}

as_number!(Vid, Vni, Mtu,);

impl Serialize for NamePattern {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.as_str().serialize(to)
    }
}

impl<'de> Deserialize<'de> for NamePattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// In front of the hexadecimal form. No name that begins like this is written as it is.
const HEXADECIMAL: &str = "\\x";

/// A name need not be UTF-8; one that is not is written in hexadecimal.
impl Serialize for LinkName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.as_bytes()) {
            Ok(text) if !text.starts_with(HEXADECIMAL) => to.serialize_str(text),
            _ => {
                let mut text = HEXADECIMAL.to_owned();
                for byte in self.as_bytes() {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{byte:02x}");
                }
                to.serialize_str(&text)
            }
        }
    }
}

impl<'de> Deserialize<'de> for LinkName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let Some(digits) = text.strip_prefix(HEXADECIMAL) else {
            return Self::new(&text).map_err(D::Error::custom);
        };
        let pairs = digits.as_bytes().chunks(2);
        let bytes = pairs.map(|pair| {
            let pair = match pair.len() {
                2 => std::str::from_utf8(pair).map_err(D::Error::custom)?,
                _ => return Err(D::Error::custom("half a byte")),
            };
            u8::from_str_radix(pair, 16).map_err(D::Error::custom)
        });
        Self::from_bytes(&bytes.collect::<Result<Vec<u8>, _>>()?).map_err(D::Error::custom)
    }
}

/// Maps whose keys are more than a text or a number.
pub mod pairs {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::BTreeMap;

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub fn deserialize<'de, K, V, D>(from: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    fn survives<T: Serialize + for<'de> Deserialize<'de> + PartialEq + Debug>(value: T, written: &str) {
        let text = serde_json::to_string(&value).unwrap();
        assert_eq!(text, written);
        assert_eq!(serde_json::from_str::<T>(&text).unwrap(), value);
    }

    #[test]
    fn nouns_are_written_as_people_write_them_and_read_with_all_checks() {
        survives(
            "fa:16:3e:00:00:05".parse::<Mac>().unwrap(),
            r#""fa:16:3e:00:00:05""#,
        );
        survives("10.0.0.1/24".parse::<Cidr>().unwrap(), r#""10.0.0.1/24""#);
        survives(LinkName::new("tap0").unwrap(), r#""tap0""#);
        survives(LinkName::from_bytes(b"tap\xff").unwrap(), r#""\\x746170ff""#);
        survives(LinkName::new("\\x41").unwrap(), r#""\\x5c783431""#);
        survives(NamePattern::new("tap*").unwrap(), r#""tap*""#);
        survives(
            BTreeMap::from([(Vid::new(7).unwrap(), NetworkId::new("blue").unwrap())]),
            r#"{"7":"blue"}"#,
        );
        for bad in ["0", "4095", "-1", "\"7\""] {
            assert!(serde_json::from_str::<Vid>(bad).is_err(), "{bad}");
        }
        for bad in [r#""""#, r#""\\x4""#, r#""\\x2f""#, r#""\\xzz""#, r#""a b""#] {
            assert!(serde_json::from_str::<LinkName>(bad).is_err(), "{bad}");
        }
    }
}
