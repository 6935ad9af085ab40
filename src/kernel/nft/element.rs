//! The elements of the spoof guard's sets: entries of a port as bytes, and back.
//!
//! A key is the port's index and what follows it, each part padded to four bytes. In an interval set every number is
//! big-endian (so `nft` shows it), in the others the index is the host's.

use super::guard::{DATA_VALUE, LIST_ELEM, TABLE};
use super::message::{Attributes, CREATE, Messages};
use crate::desired::guard::Entry;
use crate::desired::guard::table::{self, Set};
use crate::model::{Cidr, Ifindex, Mac};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A list of elements in one message; a nested attribute's length has 16 bits.
const LIST_BYTES: usize = 48 * 1024;

pub const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub const NFTA_SET_ELEM_KEY: u16 = 1;
pub const NFTA_SET_ELEM_KEY_END: u16 = 10;

pub fn elements(
    message: libc::c_int,
    entries: impl Iterator<Item = (Ifindex, Entry)>,
    messages: &mut Messages,
) {
    let mut by_set: BTreeMap<Set, Vec<(Ifindex, Entry)>> = BTreeMap::new();
    for (index, entry) in entries {
        by_set
            .entry(table::set_of(&entry))
            .or_default()
            .push((index, entry));
    }
    let flags = if message == libc::NFT_MSG_NEWSETELEM {
        CREATE
    } else {
        0
    };
    for (set, entries) in by_set {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            messages.change(message, flags, |a| {
                a.text(TABLE, table::NAME);
                a.text(NFTA_SET_ELEM_LIST_SET, set.name());
                let limit = a.len() + LIST_BYTES;
                a.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    while list.len() < limit
                        && let Some((index, entry)) = entries.next()
                    {
                        list.nest(LIST_ELEM, |e| element(index, entry, e));
                    }
                });
            });
        }
    }
}

fn element(index: Ifindex, entry: Entry, e: &mut Attributes<'_>) {
    let mut key = Vec::with_capacity(28);
    match entry {
        Entry::Port | Entry::FreeMac | Entry::FreeAddresses | Entry::Trunk => {
            key.extend_from_slice(&index.get().to_ne_bytes());
            e.nest(NFTA_SET_ELEM_KEY, |data| data.bytes(DATA_VALUE, &key));
        }
        Entry::Mac(mac) => {
            key.extend_from_slice(&index.get().to_ne_bytes());
            push_mac(&mut key, mac.bytes());
            e.nest(NFTA_SET_ELEM_KEY, |data| data.bytes(DATA_VALUE, &key));
        }
        Entry::Address(mac, ip) => {
            key.extend_from_slice(&index.get().to_ne_bytes());
            push_mac(&mut key, mac.bytes());
            push_ip(&mut key, ip);
            e.nest(NFTA_SET_ELEM_KEY, |data| data.bytes(DATA_VALUE, &key));
        }
        Entry::Range(mac, range) => {
            let macs = match mac {
                Some(mac) => [mac.bytes(); 2],
                None => [[0; 6], [0xff; 6]],
            };
            for (kind, mac, ip) in [
                (NFTA_SET_ELEM_KEY, macs[0], range.network().address()),
                (NFTA_SET_ELEM_KEY_END, macs[1], last_of(range)),
            ] {
                key.clear();
                key.extend_from_slice(&index.get().to_be_bytes());
                push_mac(&mut key, mac);
                push_ip(&mut key, ip);
                e.nest(kind, |data| data.bytes(DATA_VALUE, &key));
            }
        }
    }
}

fn push_mac(key: &mut Vec<u8>, mac: [u8; 6]) {
    key.extend_from_slice(&mac);
    key.extend_from_slice(&[0; 2]);
}

fn push_ip(key: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => key.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => key.extend_from_slice(&ip.octets()),
    }
}

fn last_of(range: Cidr) -> IpAddr {
    let length = u32::from(range.length());
    match range.network().address() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) | u32::MAX.checked_shr(length).unwrap_or(0)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) | u128::MAX.checked_shr(length).unwrap_or(0)).into(),
    }
}

/// The entry that an element is, and its port; none for one that we never write.
pub fn entry_of(set: Set, key: &[u8], end: Option<&[u8]>) -> Option<(Ifindex, Entry)> {
    let (index, rest) = key.split_first_chunk::<4>()?;
    let index = if set.is_interval() {
        u32::from_be_bytes(*index)
    } else {
        u32::from_ne_bytes(*index)
    };
    let index = Ifindex::new(index)?;
    let alone = match set {
        Set::Ports => Some(Entry::Port),
        Set::FreeMacs => Some(Entry::FreeMac),
        Set::FreeAddresses => Some(Entry::FreeAddresses),
        Set::Trunks => Some(Entry::Trunk),
        Set::Macs | Set::Ipv4 | Set::Ipv4Ranges | Set::Ipv6 | Set::Ipv6Ranges => None,
    };
    if let Some(entry) = alone {
        return rest.is_empty().then_some((index, entry));
    }
    let (mac, ip) = rest.split_first_chunk::<8>()?;
    let mac = Mac::from_slice(mac.get(..6)?)?;
    if set == Set::Macs {
        return ip.is_empty().then_some((index, Entry::Mac(mac)));
    }
    let ip = ip_of(ip)?;
    if ip.is_ipv4() != matches!(set, Set::Ipv4 | Set::Ipv4Ranges) {
        return None;
    }
    if !set.is_interval() {
        return Some((index, Entry::Address(mac, ip)));
    }
    let (last_mac, last) = end?.get(4..)?.split_first_chunk::<8>()?;
    let last_mac = Mac::from_slice(last_mac.get(..6)?)?;
    let mac = match (mac.bytes(), last_mac.bytes()) {
        (first, last) if first == last => Some(mac),
        ([0, 0, 0, 0, 0, 0], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => None,
        _ => return None,
    };
    let length = match (ip, ip_of(last)?) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => return None,
    };
    let range = Cidr::new(ip, u8::try_from(length).ok()?).ok()?;
    (range.network().address() == ip && last_of(range) == ip_of(last)?)
        .then_some((index, Entry::Range(mac, range)))
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|six| Ipv6Addr::from(six).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::Attributes as Read;

    fn value(element: &[u8], kind: u16) -> Option<Vec<u8>> {
        let data = Read::new(element).flatten().find(|(found, _)| *found == kind)?.1;
        Read::new(data).flatten().next().map(|(_, value)| value.to_vec())
    }

    #[test]
    fn every_entry_is_read_back_as_it_was_written() {
        let index = Ifindex::new(0x0102_0304).unwrap();
        let mac = Mac::new([0xfa, 0x16, 0x3e, 0, 0, 5]);
        for entry in [
            Entry::Port,
            Entry::FreeMac,
            Entry::FreeAddresses,
            Entry::Trunk,
            Entry::Mac(mac),
            Entry::Address(mac, "10.0.0.5".parse().unwrap()),
            Entry::Address(mac, "2001:db8::5".parse().unwrap()),
            Entry::Range(Some(mac), "10.0.0.0/8".parse().unwrap()),
            Entry::Range(None, "0.0.0.0/0".parse().unwrap()),
            Entry::Range(None, "10.0.0.5/32".parse().unwrap()),
            Entry::Range(Some(mac), "::/0".parse().unwrap()),
            Entry::Range(Some(mac), "2001:db8::/61".parse().unwrap()),
        ] {
            let mut bytes = Vec::new();
            element(index, entry, &mut Attributes::new(&mut bytes));
            let key = value(&bytes, NFTA_SET_ELEM_KEY).unwrap();
            let end = value(&bytes, NFTA_SET_ELEM_KEY_END);
            let set = table::set_of(&entry);
            assert_eq!(
                entry_of(set, &key, end.as_deref()),
                Some((index, entry)),
                "{entry:?}"
            );
            // Nothing that is cut off or longer is taken for one.
            for length in 0..key.len() {
                let cut = entry_of(set, &key[..length], end.as_deref());
                assert_eq!(cut, None, "{entry:?} {length}");
            }
        }
    }

    #[test]
    fn ranges_that_we_never_write_are_nobodys() {
        let key = |mac: u8, ip: [u8; 4]| [&[0, 0, 0, 7, 0, 0, 0, 0, 0, mac, 0, 0][..], &ip].concat();
        let (first, odd) = (key(1, [10, 0, 0, 1]), key(1, [10, 0, 0, 3]));
        assert_eq!(entry_of(Set::Ipv4Ranges, &first, Some(&odd)), None, "no prefix");
        let macs = key(5, [10, 0, 0, 1]);
        assert_eq!(
            entry_of(Set::Ipv4Ranges, &first, Some(&macs)),
            None,
            "a range of MACs"
        );
        assert_eq!(entry_of(Set::Ipv4Ranges, &first, None), None, "no end");
        assert_eq!(entry_of(Set::Ports, &[0; 4], None), None, "no port");
    }
}
