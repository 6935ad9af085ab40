//! Addresses with a prefix length.

use super::ids::InvalidValue;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with the length of its prefix: "10.0.0.1/24" (an interface's address) or "10.0.0.0/24" (a range).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    pub fn new(address: IpAddr, length: u8) -> Result<Self, InvalidValue> {
        if length > bits(address) {
            return Err(InvalidValue::new(
                "prefix length",
                format_args!("/{length}"),
                if address.is_ipv4() {
                    "outside 0..32"
                } else {
                    "outside 0..128"
                },
            ));
        }
        Ok(Self { address, length })
    }
    /// The address alone: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            length: bits(address),
        }
    }
    pub const fn address(&self) -> IpAddr {
        self.address
    }
    /// Bits, 0 to 32 or 128.
    pub const fn length(&self) -> u8 {
        self.length
    }
    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
    /// One address and not a range.
    pub fn is_host(&self) -> bool {
        self.length == bits(self.address)
    }
    /// The range it lies in: host bits cleared.
    pub fn network(&self) -> Self {
        Self {
            address: masked(self.address, self.length),
            length: self.length,
        }
    }
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && masked(address, self.length) == masked(self.address, self.length)
    }
    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        let shorter = if self.length <= other.length { self } else { other };
        let longer = if self.length <= other.length { other } else { self };
        shorter.contains(longer.address)
    }
    /// IPv4's directed broadcast address; ranges of one or two addresses have none (RFC 3021).
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(a) if self.length < 31 => {
                let host = u32::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                Some(Ipv4Addr::from(u32::from(a) | host))
            }
            _ => None,
        }
    }
    /// An address that no machine may have: the range's own zero address (IPv6's subnet-router anycast, RFC 4291 2.6.1)
    /// or its broadcast address.
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        let wide = self.length + 1 < bits(self.address);
        wide && (address == self.network().address
            || self.broadcast().is_some_and(|b| IpAddr::V4(b) == address))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// With or without a prefix length; without, it is the one address.
impl FromStr for Cidr {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || {
            InvalidValue::new(
                "prefix",
                format_args!("{text:?}"),
                "not an address with a prefix length",
            )
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        match length {
            None => Ok(Self::host(address)),
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Self::new(address, digits.parse().unwrap_or(u8::MAX))
            }
            Some(_) => Err(bad()),
        }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    let host4 = |length: u8| u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
    let host6 = |length: u8| u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
    match address {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a) & !host4(length))),
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a) & !host6(length))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_knows_its_range_and_what_no_machine_may_have() {
        let four = cidr("10.0.0.1/24");
        assert_eq!(four.network().to_string(), "10.0.0.0/24");
        assert_eq!(four.broadcast().unwrap().to_string(), "10.0.0.255");
        assert!(four.contains("10.0.0.200".parse().unwrap()));
        assert!(!four.contains("10.0.1.0".parse().unwrap()));
        assert!(!four.contains("::ffff:10.0.0.1".parse().unwrap()));
        assert!(four.is_reserved("10.0.0.0".parse().unwrap()));
        assert!(four.is_reserved("10.0.0.255".parse().unwrap()));
        assert!(!four.is_reserved("10.0.0.1".parse().unwrap()));
        let six = cidr("fd00::1/64");
        assert!(six.is_reserved("fd00::".parse().unwrap()) && six.broadcast().is_none());
        let pair = cidr("10.0.0.0/31");
        assert!(!pair.is_reserved("10.0.0.0".parse().unwrap()) && pair.broadcast().is_none());
        assert!(cidr("0.0.0.0/0").contains("255.255.255.255".parse().unwrap()));
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.9.0.0/16")));
        assert!(!cidr("10.0.0.0/24").overlaps(&cidr("10.0.1.0/24")));
        assert!(cidr("10.0.0.7").is_host());
        for bad in [
            "10.0.0.1/33",
            "10.0.0.1/",
            "10.0.0.1/x",
            "10.0.0/24",
            "fd00::/129",
            "/24",
            "10.0.0.1/+2",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
