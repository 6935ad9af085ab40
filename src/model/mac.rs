//! Ethernet addresses.

use super::ids::InvalidValue;
use std::fmt;
use std::str::FromStr;

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address of flood entries on a VXLAN device.
    pub const ZERO: Mac = Mac([0; 6]);

    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
    /// Group bit (IEEE 802): multicast or broadcast, never a station's own address.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// A stable locally administered address of ours, derived from a name (FNV-1a, 40 bits of it).
    ///
    /// A bridge without an explicit address takes the lowest of its ports' (`br_stp_recalculate_bridge_id`), that is
    /// a random tap's, and changes it when the tap goes; so every bridge of ours gets one that only depends on its name.
    pub fn derived_from(name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let b = hash.to_be_bytes();
        // 0x02: locally administered, unicast.
        Self([0x02, b[3], b[4], b[5], b[6], b[7]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand: each question about a tap and each traced line has some, and six formatted bytes are six calls.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b':'; 17];
        for (pair, byte) in text.chunks_mut(3).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || {
            InvalidValue::new(
                "mac address",
                format_args!("{text:?}"),
                "not six hexadecimal pairs aa:bb:cc:dd:ee:ff",
            )
        };
        let mut bytes = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            Err(bad())
        } else {
            Ok(Self(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_back_as_written() {
        assert_eq!(
            "FA:16:3e:00:00:05".parse::<Mac>().unwrap().to_string(),
            "fa:16:3e:00:00:05"
        );
        for bad in [
            "",
            "fa:16:3e:00:00",
            "fa:16:3e:00:00:05:06",
            "fa:16:3e:00:00:0g",
            "fa163e000005",
            "+1:16:3e:00:00:05",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_derived_mac_is_stable_unicast_and_local() {
        let mac = Mac::derived_from("brq6f0c2f5e-7d");
        assert_eq!(mac, Mac::derived_from("brq6f0c2f5e-7d"));
        assert_ne!(mac, Mac::derived_from("brq6f0c2f5e-7e"));
        assert_eq!(mac.bytes()[0], 0x02);
    }
}
