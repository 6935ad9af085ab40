//! A gateway's address becomes the first of its device, and goes again, while the host misses none of its own for a moment.
//!
//! The kernel lists IPv4 addresses in the order in which they came, makes every further one of a subnet a secondary of the
//! first, and takes the secondaries along when the first goes. So the host's own are taken away and told again behind the
//! gateway's, and, where the gateway's takes them along, when it goes. All of it is one message of many requests: the kernel
//! works through it in one system call, and a daemon that dies leaves nothing half-way.
//!
//! Meanwhile (tens of microseconds) a route keeps each address a local one, so that packets to it are still the host's, its
//! sockets go on, and no route that prefers it as source goes; another keeps its subnet in reach; and an address that nobody
//! uses keeps the device from being empty of addresses, which would take every route of it along.
//!
//! In a subnet that the host has an address in, the host's own route stays the preferred one: the gateway's has a greater
//! metric. So the host is the same for everybody as before; a gateway's address that several hosts share must not become the
//! source of what they send.

use super::address_move::{Carried, address_of, flags, get, told_address, told_route};
use super::op::{LinkRef, ListAction, Op};
use crate::model::record::{AddressRecord, Attribute, RouteRecord};
use crate::model::{Ifindex, owned};
use std::net::{IpAddr, Ipv4Addr};

const AF_INET: u8 = 2;
/// `uapi/linux/if_addr.h`
mod ifa {
    pub const ADDRESS: u16 = 1;
    pub const LOCAL: u16 = 2;
    pub const FLAGS: u16 = 8;
    pub const RT_PRIORITY: u16 = 9;
    pub const F_SECONDARY: u32 = 0x01;
    pub const F_NOPREFIXROUTE: u32 = 0x200;
}
/// `uapi/linux/rtnetlink.h`
mod rt {
    pub const DST: u16 = 1;
    pub const OIF: u16 = 4;
    pub const PRIORITY: u16 = 6;
    pub const PREFSRC: u16 = 7;
    pub const TABLE_MAIN: u8 = 254;
    pub const TABLE_LOCAL: u8 = 255;
    pub const PROTO_KERNEL: u8 = 2;
    pub const UNICAST: u8 = 1;
    pub const LOCAL: u8 = 2;
    pub const SCOPE_UNIVERSE: u8 = 0;
    pub const SCOPE_LINK: u8 = 253;
    pub const SCOPE_HOST: u8 = 254;
}
/// Behind every other route.
const LAST_METRIC: u32 = u32::MAX;
/// The dummy address of RFC 7600.
const KEEPS_DEVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// Acknowledgements have to fit the smallest receive buffer.
const MOST: usize = 24;

/// `record` is told as the first address of its device; none if nothing of the host's is in its way.
pub fn plan_first(link: LinkRef, index: Ifindex, record: &AddressRecord, carried: &Carried) -> Option<Op> {
    let in_the_way = |a: &&AddressRecord| {
        a.family == AF_INET
            && a.ifindex == index.get()
            && a.scope == rt::SCOPE_UNIVERSE
            && (a.own().is_none() || flags(a) & ifa::F_SECONDARY != 0)
            && address_of(a) != address_of(record)
    };
    let others: Vec<&AddressRecord> = carried.addresses.iter().filter(in_the_way).collect();
    if others.is_empty() || others.len() > MOST {
        return None;
    }
    let mut record = record.clone();
    let subnet = subnet_of(&record);
    let metrics = carried
        .routes
        .iter()
        .filter(|route| is_connected(route) && subnet_of_route(route) == subnet)
        .map(|route| number(&route.attributes, rt::PRIORITY));
    if let Some(metric) = metrics.max() {
        record.attributes.retain(|a| a.kind != ifa::RT_PRIORITY);
        record
            .attributes
            .push(attribute(ifa::RT_PRIORITY, metric.saturating_add(1)));
    }
    let first = address(link, ListAction::Replace, record);
    Some(around(link, index, &others, &carried.routes, first))
}

/// The address goes, and those of its subnet that the kernel would take along stay; none if there are none.
pub fn plan_last(link: LinkRef, index: Ifindex, removal: Op, carried: &Carried) -> Option<Op> {
    let Op::Address { record, .. } = &removal else {
        return None;
    };
    let subnet = subnet_of(record);
    let taken_along = |a: &&AddressRecord| {
        a.ifindex == index.get()
            && a.family == AF_INET
            && flags(a) & ifa::F_SECONDARY != 0
            && address_of(a) != address_of(record)
            && subnet_of(a) == subnet
    };
    let others: Vec<&AddressRecord> = carried.addresses.iter().filter(taken_along).collect();
    if others.is_empty() || others.len() > MOST {
        return None;
    }
    Some(around(link, index, &others, &carried.routes, removal))
}

/// `change`, while `others` are away.
fn around(
    link: LinkRef,
    index: Ifindex,
    others: &[&AddressRecord],
    routes: &[RouteRecord],
    change: Op,
) -> Op {
    let route = |action, record: &RouteRecord| Op::Route {
        action,
        record: Box::new(record.clone()),
    };
    let mut keeping: Vec<RouteRecord> = others.iter().filter_map(|a| stays_local(a, index)).collect();
    for other in others {
        let Some(reach) = stays_in_reach(other, index) else {
            continue;
        };
        let known = |have: &RouteRecord| subnet_of_route(have) == subnet_of_route(&reach);
        if !keeping.iter().any(known) {
            keeping.push(reach);
        }
    }
    let mut steps = vec![address(link, ListAction::Replace, keeps_device(index))];
    steps.extend(keeping.iter().map(|record| route(ListAction::Append, record)));
    // Secondaries before their primary.
    let away = others.iter().rev();
    steps.extend(away.map(|a| address(link, ListAction::Delete, (*a).clone())));
    steps.push(change);
    steps.extend(
        others
            .iter()
            .map(|a| address(link, ListAction::Replace, told_address(a))),
    );
    // The kernel makes one with a primary, and none with a secondary.
    let sources: Vec<IpAddr> = others.iter().filter_map(|a| address_of(a)).collect();
    let connected = routes.iter().filter(|r| {
        let source = get(&r.attributes, rt::PREFSRC).and_then(four);
        is_connected(r) && source.is_some_and(|source| sources.contains(&source.into()))
    });
    steps.extend(connected.map(|r| route(ListAction::Append, &told_route(r, None))));
    let done = keeping.iter().rev();
    steps.extend(done.map(|record| route(ListAction::Delete, record)));
    steps.push(address(link, ListAction::Delete, keeps_device(index)));
    Op::Readdress {
        link,
        steps: steps.into(),
    }
}

fn address(link: LinkRef, action: ListAction, record: AddressRecord) -> Op {
    Op::Address {
        action,
        link,
        record: Box::new(record),
    }
}

/// Of link scope, so that it never becomes the source of anything.
fn keeps_device(index: Ifindex) -> AddressRecord {
    AddressRecord {
        family: AF_INET,
        prefix_len: 32,
        flags: 0,
        scope: rt::SCOPE_LINK,
        ifindex: index.get(),
        attributes: vec![
            bytes(ifa::LOCAL, KEEPS_DEVICE),
            bytes(ifa::ADDRESS, KEEPS_DEVICE),
            attribute(ifa::FLAGS, ifa::F_NOPREFIXROUTE),
        ],
    }
}

fn stays_local(other: &AddressRecord, index: Ifindex) -> Option<RouteRecord> {
    let own = get(&other.attributes, ifa::LOCAL).and_then(four)?;
    Some(RouteRecord {
        table: rt::TABLE_LOCAL,
        scope: rt::SCOPE_HOST,
        kind: rt::LOCAL,
        ..temporary(own, 32, own, index)
    })
}

fn stays_in_reach(other: &AddressRecord, index: Ifindex) -> Option<RouteRecord> {
    let (subnet, length) = subnet_of(other)?;
    let own = get(&other.attributes, ifa::LOCAL).and_then(four)?;
    (length < 32).then(|| temporary(subnet, length, own, index))
}

fn temporary(to: Ipv4Addr, length: u8, source: Ipv4Addr, index: Ifindex) -> RouteRecord {
    RouteRecord {
        family: AF_INET,
        dst_len: length,
        src_len: 0,
        tos: 0,
        table: rt::TABLE_MAIN,
        protocol: owned::PROTOCOL,
        scope: rt::SCOPE_LINK,
        kind: rt::UNICAST,
        flags: 0,
        attributes: vec![
            bytes(rt::DST, to),
            attribute(rt::OIF, index.get()),
            attribute(rt::PRIORITY, LAST_METRIC),
            bytes(rt::PREFSRC, source),
        ],
    }
}

/// What the kernel makes with an address.
pub(super) fn is_connected(route: &RouteRecord) -> bool {
    route.family == AF_INET
        && route.protocol == rt::PROTO_KERNEL
        && route.kind == rt::UNICAST
        && route.scope == rt::SCOPE_LINK
}

pub(super) fn subnet_of(record: &AddressRecord) -> Option<(Ipv4Addr, u8)> {
    let address = get(&record.attributes, ifa::ADDRESS).and_then(four)?;
    let mask = u32::MAX
        .checked_shl(32_u32.saturating_sub(record.prefix_len.into()))
        .unwrap_or(0);
    Some(((u32::from(address) & mask).into(), record.prefix_len))
}

pub(super) fn subnet_of_route(route: &RouteRecord) -> Option<(Ipv4Addr, u8)> {
    Some((get(&route.attributes, rt::DST).and_then(four)?, route.dst_len))
}

fn four(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}

fn number(attributes: &[Attribute], kind: u16) -> u32 {
    let value = get(attributes, kind).and_then(|value| <[u8; 4]>::try_from(value).ok());
    value.map_or(0, u32::from_ne_bytes)
}

fn attribute(kind: u16, value: u32) -> Attribute {
    Attribute {
        kind,
        value: value.to_ne_bytes().to_vec(),
    }
}

fn bytes(kind: u16, address: Ipv4Addr) -> Attribute {
    Attribute {
        kind,
        value: address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
