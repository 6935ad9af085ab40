//! What one port may send: the spoof guard.
//!
//! A guarded port's frames are compared with what its mapping says of the machine behind it, before the bridge learns
//! from them or forwards them. `table` is the comparison, the same for every port: the nftables table `bridge tapwire`.
//! Here is the part that differs from port to port, as elements of that table's sets.
//!
//! What a mapping does not say is not compared: a port whose addresses are not told may use any, but its MAC is held.
//! No guarded port may be a DHCP server or a router, or send anything but IPv4, IPv6, ARP and RARP (which QEMU sends
//! after a migration); so no VLAN tag either, not even one with VID 0, which receivers take off. Sub-ports of a
//! trunk port are not guarded: what they may use is not told. Where they have no device of their own (the guest's tag is
//! the bridge's VLAN), their frames are held to the trunk's MAC addresses.

mod rules;
pub mod table;

use crate::model::{Cidr, Mac, Network, PortMapping};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

/// One element of a set of the guard's table, without the port it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Entry {
    /// The port is guarded. Every guarded port has this one.
    Port,
    /// Its MAC is not told: any will do.
    FreeMac,
    /// Likewise its addresses.
    FreeAddresses,
    /// Its guest's tags are VLANs of the bridge, which lets through those of its sub-ports.
    Trunk,
    Mac(Mac),
    Address(Mac, IpAddr),
    /// `None`: with any MAC.
    Range(Option<Mac>, Cidr),
}

/// As the value of an `nft` element, behind the port's own part of the key.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Port | Entry::FreeMac | Entry::FreeAddresses | Entry::Trunk => Ok(()),
            Entry::Mac(mac) => write!(f, " . {mac}"),
            Entry::Address(mac, ip) => write!(f, " . {mac} . {ip}"),
            Entry::Range(Some(mac), range) => write!(f, " . {mac} . {range}"),
            Entry::Range(None, range) => write!(f, " . any . {range}"),
        }
    }
}

/// The entries of a mapping's ports, in order and without doubles; none if its ports are not guarded.
///
/// Where its network advertises prefixes for machines to make addresses in, each may use the one of its MAC: nobody else
/// could know that it has to be told.
///
/// `shared_bridge`: one VLAN-aware bridge for all networks. On bridges of their own a trunk's tagged frames are taken by
/// its sub-ports' devices before they come to a bridge.
pub fn derive_guard(mapping: &PortMapping, network: &Network, shared_bridge: bool) -> Vec<Entry> {
    if !mapping.is_guarded() {
        return Vec::new();
    }
    let pairs = &mapping.allowed_address_pairs;
    let mut entries = Vec::new();
    let macs = pairs.iter().filter_map(|pair| pair.mac).chain(mapping.mac);
    let mut ranges = Vec::new();
    let addresses_told = !mapping.addresses.is_empty() || !pairs.is_empty();
    if mapping.mac.is_some() {
        entries.extend(macs.clone().map(Entry::Mac));
    }
    if addresses_told {
        let own = mapping.addresses.iter().map(|ip| (mapping.mac, Cidr::host(*ip)));
        let paired = pairs
            .iter()
            .map(|pair| (pair.mac.or(mapping.mac), pair.ip.network()));
        for (mac, range) in own.chain(paired) {
            match mac {
                Some(mac) if range.is_host() => entries.push(Entry::Address(mac, range.address())),
                _ => ranges.push((mac, range)),
            }
        }
        // Every IPv6 machine has one; without it there is no neighbour discovery.
        entries.extend(macs.map(|mac| Entry::Address(mac, made_of(LINK_LOCAL, mac).into())));
        if let (Some(mac), Some(gateway)) = (mapping.mac, network.gateway.as_deref()) {
            let prefixes = gateway
                .slaac_prefixes()
                .filter_map(|prefix| match prefix.address() {
                    IpAddr::V6(prefix) => Some(prefix),
                    IpAddr::V4(_) => None,
                });
            entries.extend(prefixes.map(|prefix| Entry::Address(mac, made_of(prefix, mac).into())));
        }
        let speaks_ipv6 =
            mapping.addresses.iter().any(IpAddr::is_ipv6) || pairs.iter().any(|p| !p.ip.is_ipv4());
        if mapping.mac.is_none() && speaks_ipv6 {
            ranges.extend(Cidr::new(LINK_LOCAL.into(), 10).map(|all| (None, all)));
        }
    }
    entries.extend(
        disjoint(&ranges)
            .into_iter()
            .map(|(mac, range)| Entry::Range(mac, range)),
    );
    entries.push(Entry::Port);
    if mapping.mac.is_none() {
        entries.push(Entry::FreeMac);
    }
    if shared_bridge && !mapping.sub_ports.is_empty() {
        entries.push(Entry::Trunk);
    }
    if !addresses_told {
        entries.push(Entry::FreeAddresses);
    }
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// What must go and what must come, in order, so that `have` becomes `want`. Both are sorted.
pub fn difference(have: &[Entry], want: &[Entry]) -> (Vec<Entry>, Vec<Entry>) {
    let without = |from: &[Entry], other: &[Entry]| {
        let left = from.iter().filter(|entry| other.binary_search(entry).is_err());
        left.copied().collect()
    };
    (without(have, want), without(want, have))
}

/// RFC 4291, appendix A: the first 64 bits of `prefix`, and the modified EUI-64 of the MAC.
fn made_of(prefix: Ipv6Addr, mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.bytes();
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from(u128::from(prefix) >> 64 << 64 | u128::from(interface))
}

/// The kernel takes no two elements of an interval set that share a value: what lies inside another range is left out,
/// and what lies around one that holds for any MAC is cut up.
fn disjoint(ranges: &[(Option<Mac>, Cidr)]) -> Vec<(Option<Mac>, Cidr)> {
    let mut any: Vec<Cidr> = ranges
        .iter()
        .filter(|(mac, _)| mac.is_none())
        .map(|r| r.1)
        .collect();
    keep_widest(&mut any);
    let mut macs: Vec<Mac> = ranges.iter().filter_map(|(mac, _)| *mac).collect();
    macs.sort_unstable();
    macs.dedup();
    let mut all: Vec<(Option<Mac>, Cidr)> = any.iter().map(|range| (None, *range)).collect();
    for mac in macs {
        let mut of_mac: Vec<Cidr> = ranges.iter().filter(|r| r.0 == Some(mac)).map(|r| r.1).collect();
        keep_widest(&mut of_mac);
        for range in of_mac {
            let mut parts = Vec::new();
            cut(range, &any, &mut parts);
            all.extend(parts.into_iter().map(|part| (Some(mac), part)));
        }
    }
    all
}

fn keep_widest(ranges: &mut Vec<Cidr>) {
    ranges.sort_unstable_by_key(|range| (range.length(), *range));
    ranges.dedup();
    let mut kept: Vec<Cidr> = Vec::with_capacity(ranges.len());
    for range in ranges.drain(..) {
        if !kept.iter().any(|wider| wider.contains(range.address())) {
            kept.push(range);
        }
    }
    *ranges = kept;
}

/// The parts of `range` outside `holes`.
fn cut(range: Cidr, holes: &[Cidr], parts: &mut Vec<Cidr>) {
    let inside = |hole: &Cidr| hole.length() <= range.length() && hole.contains(range.address());
    if holes.iter().any(inside) {
        return;
    }
    if !holes.iter().any(|hole| range.contains(hole.address())) {
        parts.push(range);
        return;
    }
    let length = range.length() + 1;
    let upper = match range.address() {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) | (1 << (32 - u32::from(length)))).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) | (1 << (128 - u32::from(length)))).into()),
    };
    for half in [range.address(), upper]
        .into_iter()
        .flat_map(|address| Cidr::new(address, length))
    {
        cut(half, holes, parts);
    }
}

#[cfg(test)]
mod tests;
