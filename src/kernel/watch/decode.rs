//! Bytes of one rtnetlink message -> [`Notice`].
//!
//! A walk over the attributes instead of `netlink-packet-route`'s typed decoding: that one decodes every attribute
//! (30 us a link message, ten times what showing a line costs) and refuses the whole message when one attribute it
//! knows has a length it does not expect. Here an attribute that is not understood is skipped, one whose value is
//! too short for its type counts as absent, and only a message whose framing is broken is [`Undecodable`].
//!
//! Why not the daemon's decoder (`kernel::decode`) for both: that one is the hot path and must be strict. It makes of a
//! message what is decided by, and a value it cannot read means a full pass; here the same value is left out of a line,
//! and the line says much that nothing is decided by (alternative names, change masks, namespaces, next hops, lifetimes).
//! One decoder for both would either make every event of the daemon carry that, or read every message twice. What is
//! intricate is shared: VLANs of ports.
//!
//! Length: one short function per message type, over the same attribute walk.
//! Attribute numbers: `include/uapi/linux/{if_link,if_addr,rtnetlink,neighbour,if_bridge,if_tun}.h`.

use super::super::decode::vlan::port_vlans;
use super::notice::{
    AddressFacts, Body, Head, LinkFacts, NeighbourFacts, NextHop, Notice, PortFacts, RouteFacts, Verb,
};
use crate::model::{LinkName, Mac};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A message whose header or attribute framing does not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("netlink message of type {kind}: {problem} at byte {offset}")]
pub struct Undecodable {
    /// `nlmsg_type`, 0 when not even the header is whole.
    pub kind: u16,
    pub problem: &'static str,
    /// Within the message.
    pub offset: usize,
}

const HEADER: usize = 16;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER are no part of an attribute's type.
const TYPE_MASK: u16 = 0x3fff;

/// Splits a datagram into its messages. A broken length yields one error and ends the datagram: nothing behind it can
/// be found.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Result<&[u8], Undecodable>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let len = u32_at(datagram, 0).and_then(|len| usize::try_from(len).ok());
        match len {
            Some(len) if len >= HEADER && len <= datagram.len() => {
                let (message, _) = datagram.split_at(len);
                datagram = datagram.get(align(len)..).unwrap_or_default();
                Some(Ok(message))
            }
            _ => {
                datagram = &[];
                Some(Err(Undecodable {
                    kind: 0,
                    problem: "a length that does not fit the datagram",
                    offset: 0,
                }))
            }
        }
    })
}

/// The header of a whole message, as [`messages`] yields it.
pub fn head(message: &[u8]) -> Option<Head> {
    Some(Head {
        kind: u16_at(message, 4)?,
        flags: u16_at(message, 6)?,
        seq: u32_at(message, 8)?,
        portid: u32_at(message, 12)?,
    })
}

/// Decodes one whole message, as [`messages`] yields it.
pub fn decode(message: &[u8]) -> Result<Notice, Undecodable> {
    let short = Undecodable {
        kind: 0,
        problem: "shorter than its header",
        offset: 0,
    };
    let head = head(message).ok_or(short)?;
    let verb = match head.kind {
        libc::RTM_NEWLINK | libc::RTM_NEWADDR | libc::RTM_NEWROUTE | libc::RTM_NEWNEIGH => Verb::Present,
        _ => Verb::Removed,
    };
    let m = Message {
        bytes: message,
        kind: head.kind,
    };
    let body = match head.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => match m.u8(0)? {
            FAMILY_UNSPEC => Body::Link(verb, Box::new(link(m)?)),
            FAMILY_BRIDGE => Body::Port(verb, Box::new(port(m)?)),
            // AF_INET6 (per-device IPv6 settings) and whatever comes: no object of ours.
            _ => Body::Other,
        },
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Body::Address(verb, address(m)?),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => match m.u8(0)? {
            FAMILY_INET | FAMILY_INET6 => Body::Route(verb, Box::new(route(m)?)),
            _ => Body::Other,
        },
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => Body::Neighbour(verb, neighbour(m)?),
        _ => Body::Other,
    };
    Ok(Notice { head, body })
}

const FAMILY_UNSPEC: u8 = libc::AF_UNSPEC as u8;
const FAMILY_BRIDGE: u8 = libc::AF_BRIDGE as u8;
const FAMILY_INET: u8 = libc::AF_INET as u8;
const FAMILY_INET6: u8 = libc::AF_INET6 as u8;

/// One whole message; offsets of its fixed part count from behind the netlink header.
#[derive(Clone, Copy)]
struct Message<'a> {
    bytes: &'a [u8],
    kind: u16,
}

impl<'a> Message<'a> {
    fn short(self, offset: usize) -> Undecodable {
        Undecodable {
            kind: self.kind,
            problem: "the fixed part is cut short",
            // A field that is missing altogether is missed where the message ends.
            offset: (HEADER + offset).min(self.bytes.len()),
        }
    }
    fn u8(self, at: usize) -> Result<u8, Undecodable> {
        self.bytes.get(HEADER + at).copied().ok_or(self.short(at))
    }
    fn u16(self, at: usize) -> Result<u16, Undecodable> {
        u16_at(self.bytes, HEADER + at).ok_or(self.short(at))
    }
    fn u32(self, at: usize) -> Result<u32, Undecodable> {
        u32_at(self.bytes, HEADER + at).ok_or(self.short(at))
    }
    /// The attributes behind a fixed part of `fixed` bytes.
    fn attributes(self, fixed: usize) -> impl Iterator<Item = Result<(u16, &'a [u8]), Undecodable>> {
        let start = HEADER + align(fixed);
        let kind = self.kind;
        attributes(self.bytes.get(start..).unwrap_or_default()).map(move |a| {
            a.map_err(|offset| Undecodable {
                kind,
                problem: "an attribute's length does not fit",
                offset: start + offset,
            })
        })
    }
}

/// (type without its flags, payload without padding); an error is the offset of the attribute that does not fit.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..)?;
        if rest.len() < 4 {
            // Up to three bytes are padding.
            return None;
        }
        let len = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        match rest.get(4..len) {
            Some(value) => {
                at += align(len);
                Some(Ok((kind, value)))
            }
            None => {
                let here = at;
                at = bytes.len();
                Some(Err(here))
            }
        }
    })
}

/// A nested attribute list; what does not fit ends it.
fn nested(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(bytes).map_while(Result::ok)
}

fn link(m: Message<'_>) -> Result<LinkFacts, Undecodable> {
    // struct ifinfomsg: family u8, pad, type u16, index i32, flags u32, change u32.
    let mut facts = LinkFacts {
        index: m.u32(4)?,
        flags: m.u32(8)?,
        change: m.u32(12)?,
        ..LinkFacts::default()
    };
    for attribute in m.attributes(16) {
        let (kind, value) = attribute?;
        match kind {
            1 => facts.mac = Mac::from_slice(value),
            3 => facts.name = name(value),
            4 => facts.mtu = u32_at(value, 0),
            5 => facts.parent = u32_at(value, 0),
            10 => facts.master = u32_at(value, 0).filter(|index| *index != 0),
            16 => facts.operstate = value.first().copied(),
            18 => link_info(value, &mut facts),
            20 => facts.alias = text(value).filter(|alias| !alias.is_empty()),
            45 => facts.new_netnsid = u32_at(value, 0).map(u32::cast_signed),
            49 => facts.new_index = u32_at(value, 0),
            // IFLA_PROP_LIST of IFLA_ALT_IFNAME.
            52 => facts.alternative_names.extend(
                nested(value)
                    .filter(|(kind, _)| *kind == 53)
                    .filter_map(|(_, v)| text(v)),
            ),
            _ => {}
        }
    }
    Ok(facts)
}

/// `IFLA_LINKINFO`: IFLA_INFO_KIND 1, IFLA_INFO_DATA 2.
fn link_info(value: &[u8], facts: &mut LinkFacts) {
    let find = |wanted| nested(value).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    let data =
        |wanted| find(2).and_then(|data| nested(data).find(|(kind, _)| *kind == wanted).map(|(_, v)| v));
    let Some(kind) = find(1).and_then(text) else {
        return;
    };
    match &*kind {
        // IFLA_TUN_TYPE 3: 1 is tun (layer 3), 2 is tap.
        "tun" if data(3).and_then(|v| v.first()) == Some(&2) => {
            facts.kind = Some("tap".into());
            return;
        }
        // IFLA_VLAN_ID 1, IFLA_VXLAN_ID 1.
        "vlan" => facts.segment = data(1).and_then(|v| u16_at(v, 0)).map(u32::from),
        "vxlan" => facts.segment = data(1).and_then(|v| u32_at(v, 0)),
        _ => {}
    }
    facts.kind = Some(kind);
}

fn port(m: Message<'_>) -> Result<PortFacts, Undecodable> {
    let mut facts = PortFacts {
        index: m.u32(4)?,
        ..PortFacts::default()
    };
    for attribute in m.attributes(16) {
        let (kind, value) = attribute?;
        match kind {
            3 => facts.name = name(value),
            10 => facts.master = u32_at(value, 0).filter(|index| *index != 0),
            // IFLA_PROTINFO of IFLA_BRPORT_*.
            12 => {
                for (kind, value) in nested(value) {
                    let flag = value.first().map(|v| *v != 0);
                    match kind {
                        1 => facts.state = value.first().copied(),
                        4 => facts.hairpin = flag,
                        5 => facts.guard = flag,
                        8 => facts.learning = flag,
                        9 => facts.flood = flag,
                        27 => facts.mcast_flood = flag,
                        30 => facts.bcast_flood = flag,
                        32 => facts.neigh_suppress = flag,
                        33 => facts.isolated = flag,
                        _ => {}
                    }
                }
            }
            // IFLA_AF_SPEC.
            26 => facts.vlans = port_vlans(value).ok().filter(|vlans| !vlans.is_empty()),
            _ => {}
        }
    }
    Ok(facts)
}

fn address(m: Message<'_>) -> Result<AddressFacts, Undecodable> {
    // struct ifaddrmsg: family u8, prefixlen u8, flags u8, scope u8, index u32.
    let (mut local, mut plain) = (None, None);
    let mut facts = AddressFacts {
        family: m.u8(0)?,
        index: m.u32(4)?,
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        prefix_len: m.u8(1)?,
        peer: None,
        scope: m.u8(3)?,
        flags: u32::from(m.u8(2)?),
        label: None,
        valid_seconds: None,
        preferred_seconds: None,
    };
    for attribute in m.attributes(8) {
        let (kind, value) = attribute?;
        match kind {
            1 => plain = ip(value),
            2 => local = ip(value),
            3 => facts.label = text(value),
            // struct ifa_cacheinfo: preferred, valid, created, updated; all ones is "for ever".
            6 => {
                facts.preferred_seconds = u32_at(value, 0).filter(|s| *s != u32::MAX);
                facts.valid_seconds = u32_at(value, 4).filter(|s| *s != u32::MAX);
            }
            8 => facts.flags = u32_at(value, 0).unwrap_or(facts.flags),
            _ => {}
        }
    }
    facts.address = local.or(plain).ok_or(Undecodable {
        kind: m.kind,
        problem: "an address message without an address",
        offset: HEADER,
    })?;
    facts.peer = plain.filter(|peer| *peer != facts.address);
    Ok(facts)
}

fn route(m: Message<'_>) -> Result<RouteFacts, Undecodable> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type: u8 each; flags u32.
    let family = m.u8(0)?;
    let mut single = NextHop {
        weight: 1,
        ..NextHop::default()
    };
    let mut facts = RouteFacts {
        family,
        table: u32::from(m.u8(4)?),
        destination: None,
        prefix_len: m.u8(1)?,
        tos: m.u8(3)?,
        priority: 0,
        kind: m.u8(7)?,
        protocol: m.u8(5)?,
        scope: m.u8(6)?,
        source: None,
        hops: Vec::new(),
        nexthop_id: None,
    };
    for attribute in m.attributes(12) {
        let (kind, value) = attribute?;
        match kind {
            1 => facts.destination = ip(value),
            4 => single.index = u32_at(value, 0),
            5 => single.gateway = ip(value),
            6 => facts.priority = u32_at(value, 0).unwrap_or_default(),
            7 => facts.source = ip(value),
            9 => facts.hops = multipath(value),
            15 => facts.table = u32_at(value, 0).unwrap_or(facts.table),
            18 => single.gateway = via(value),
            30 => facts.nexthop_id = u32_at(value, 0),
            _ => {}
        }
    }
    if facts.hops.is_empty() && (single.index.is_some() || single.gateway.is_some()) {
        facts.hops.push(single);
    }
    Ok(facts)
}

/// `RTA_MULTIPATH`: a run of struct rtnexthop (len u16, flags u8, hops u8, ifindex i32), each with attributes.
fn multipath(mut bytes: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let (Some(len), Some(weight), Some(index)) =
        (u16_at(bytes, 0).map(usize::from), bytes.get(3), u32_at(bytes, 4))
    {
        let Some(attributes) = bytes.get(8..len) else {
            break;
        };
        let gateway = nested(attributes).find_map(|(kind, value)| match kind {
            5 => ip(value),
            18 => via(value),
            _ => None,
        });
        hops.push(NextHop {
            index: Some(index),
            gateway,
            weight: u32::from(*weight) + 1,
        });
        bytes = bytes.get(align(len)..).unwrap_or_default();
    }
    hops
}

/// `RTA_VIA`: family u16, address: a gateway of the other family.
fn via(value: &[u8]) -> Option<IpAddr> {
    ip(value.get(2..)?)
}

fn neighbour(m: Message<'_>) -> Result<NeighbourFacts, Undecodable> {
    // struct ndmsg: family u8, pad u8, pad u16, ifindex i32, state u16, flags u8, type u8.
    let mut facts = NeighbourFacts {
        family: m.u8(0)?,
        index: m.u32(4)?,
        address: None,
        mac: None,
        state: m.u16(8)?,
        flags: m.u8(10)?,
        master: None,
        vlan: None,
        vni: None,
        protocol: None,
    };
    for attribute in m.attributes(12) {
        let (kind, value) = attribute?;
        match kind {
            libc::NDA_DST => facts.address = ip(value),
            libc::NDA_LLADDR => facts.mac = Mac::from_slice(value),
            libc::NDA_VLAN => facts.vlan = u16_at(value, 0),
            libc::NDA_VNI | libc::NDA_SRC_VNI => facts.vni = u32_at(value, 0),
            libc::NDA_MASTER => facts.master = u32_at(value, 0),
            12 => facts.protocol = value.first().copied().filter(|protocol| *protocol != 0),
            _ => {}
        }
    }
    Ok(facts)
}

const fn align(len: usize) -> usize {
    (len + 3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let raw = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(raw.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let raw = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(raw.try_into().ok()?))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

/// Up to the first zero byte.
fn until_zero(value: &[u8]) -> &[u8] {
    value.split(|b| *b == 0).next().unwrap_or_default()
}

fn text(value: &[u8]) -> Option<Box<str>> {
    Some(String::from_utf8_lossy(until_zero(value)).into())
}

fn name(value: &[u8]) -> Option<LinkName> {
    LinkName::from_bytes(until_zero(value)).ok()
}

#[cfg(test)]
mod tests;
