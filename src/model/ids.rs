//! Numbers and identifiers with a range: VLAN id, VNI, MTU, interface index, network and port ids.

use std::fmt;
use std::num::NonZeroU32;

/// A value outside its range, with the text an operator sees ("vlan id 4095 is outside 1..4094").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value} is {problem}")]
pub struct InvalidValue {
    pub what: &'static str,
    pub value: String,
    pub problem: &'static str,
}

impl InvalidValue {
    pub fn new(what: &'static str, value: impl fmt::Display, problem: &'static str) -> Self {
        Self {
            what,
            value: value.to_string(),
            problem,
        }
    }
}

/// Kernel interface index (`ifi_index`), never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Ifindex(NonZeroU32);

impl Ifindex {
    pub fn new(raw: u32) -> Option<Self> {
        NonZeroU32::new(raw).map(Self)
    }
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Ifindex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident($repr:ty), $what:literal, $min:literal..=$max:literal, $problem:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($repr);

        impl $name {
            pub const MIN: $repr = $min;
            pub const MAX: $repr = $max;

            /// Accepts any integer, so that the error can show what was written.
            pub fn new(raw: i64) -> Result<Self, InvalidValue> {
                match <$repr>::try_from(raw) {
                    Ok(v) if (Self::MIN..=Self::MAX).contains(&v) => Ok(Self(v)),
                    _ => Err(InvalidValue::new($what, raw, $problem)),
                }
            }
            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

ranged! {
    /// IEEE 802.1Q VLAN id; 0 (priority tag) and 4095 (reserved) are not networks.
    Vid(u16), "vlan id", 1..=4094, "outside 1..4094"
}
ranged! {
    /// VXLAN network identifier (RFC 7348, 24 bits); 0 is refused because Neutron and the contract start at 1.
    Vni(u32), "vni", 1..=16777215, "outside 1..16777215"
}
ranged! {
    /// Link MTU in bytes. 68 is IPv4's minimum (RFC 791), 65535 the largest an Ethernet-like link takes.
    Mtu(u32), "mtu", 68..=65535, "outside 68..65535"
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// 1 to 64 characters out of `A-Z a-z 0-9 . _ -`; a UUID fits.
            pub fn new(raw: &str) -> Result<Self, InvalidValue> {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
                if raw.is_empty() {
                    return Err(InvalidValue::new($what, "\"\"", "empty"));
                }
                if raw.len() > 64 {
                    return Err(InvalidValue::new($what, raw, "longer than 64 characters"));
                }
                if !raw.chars().all(legal) {
                    return Err(InvalidValue::new($what, format_args!("{raw:?}"), "not made of A-Z a-z 0-9 . _ - only"));
                }
                Ok(Self(raw.into()))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
            /// The part that goes into a device name: the first 11 characters (Neutron's rule, PEERS 1.1).
            pub fn short(&self) -> &str {
                &self.0[..self.0.len().min(11)]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier! {
    /// A network's id, usually Neutron's UUID.
    NetworkId, "network id"
}
identifier! {
    /// A port's id, usually Neutron's UUID.
    PortId, "port id"
}
identifier! {
    /// A physical network's name, the key of `[physical_networks]`.
    PhysicalName, "physical network name"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_id_outside_its_range_is_refused_with_the_number_written() {
        assert_eq!(
            Vid::new(4095).unwrap_err().to_string(),
            "vlan id 4095 is outside 1..4094"
        );
        assert_eq!(
            Vid::new(-1).unwrap_err().to_string(),
            "vlan id -1 is outside 1..4094"
        );
        assert_eq!(Vid::new(4094).unwrap().get(), 4094);
    }

    #[test]
    fn a_vni_takes_24_bits_and_no_more() {
        assert!(Vni::new(16_777_215).is_ok());
        assert!(Vni::new(16_777_216).is_err());
        assert!(Vni::new(0).is_err());
    }

    #[test]
    fn an_id_shortens_to_eleven_characters() {
        let id = NetworkId::new("6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11").unwrap();
        assert_eq!(id.short(), "6f0c2f5e-7d");
        assert_eq!(NetworkId::new("blue").unwrap().short(), "blue");
        assert!(NetworkId::new("a b").is_err());
    }
}
