//! Moving a host's addresses and routes from one device to another without losing one of them for a moment.
//!
//! Design rule 11. A flat network's interface becomes a port of the bridge, so what the host had on the interface has
//! to live on the bridge, and must come back exactly when the network goes. The order makes it a transaction:
//!
//! 1. **restore**: every address, then every route, is told to the new device while the old one still has them (the
//!    kernel takes the same address on two devices); each step has an undo;
//! 2. the engine reads both devices again and [`verify`] compares, attribute by attribute;
//! 3. **remove**: only then the old routes and addresses go.
//!
//! A failure before 3 takes everything back in reverse order: the host keeps what it had.
//! Traps (found on 6.18): a deleted IPv4 primary takes its secondaries along, so removal runs backwards; IPv6 starts
//! duplicate detection on a moved address and would not answer for a second, so it is added `nodad` and told its real
//! flags afterwards; an IPv6 route with a gateway, appended, becomes one more next hop of the one that is there, so
//! such routes are replaced in place.

use super::Step;
use super::first_address::{is_connected, subnet_of, subnet_of_route};
use super::op::{LinkRef, ListAction, Op};
use crate::model::record::{AddressRecord, Attribute, RouteRecord};
use crate::model::{Ifindex, LinkName, Mac};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const AF_INET6: u8 = 10;
const SCOPE_LINK: u8 = 253;
/// `uapi/linux/if_addr.h`
mod ifa {
    pub const LOCAL: u16 = 2;
    pub const ADDRESS: u16 = 1;
    pub const LABEL: u16 = 3;
    pub const CACHEINFO: u16 = 6;
    pub const FLAGS: u16 = 8;
    pub const PROTO: u16 = 11;
    pub const F_NODAD: u32 = 0x02;
    pub const F_TEMPORARY: u32 = 0x01;
    /// What `ip address add` may tell: nodad, home, mngtmpaddr, noprefixroute, autojoin. The rest is the kernel's state.
    pub const F_TOLD: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;
    pub const PROTO_KERNEL_LL: u8 = 3;
}
/// `uapi/linux/rtnetlink.h`
mod rta {
    pub const OIF: u16 = 4;
    pub const GATEWAY: u16 = 5;
    pub const MULTIPATH: u16 = 9;
    pub const CACHEINFO: u16 = 12;
    pub const EXPIRES: u16 = 23;
    pub const NH_ID: u16 = 30;
    pub const F_ONLINK: u32 = 4;
    pub const PROTO_KERNEL: u8 = 2;
}
/// Ticks per second of the kernel's `clock_t` interface (USER_HZ).
const USER_HZ: u32 = 100;
/// Attribute type without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const TYPE_MASK: u16 = 0x3fff;

/// One end of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct End {
    pub name: LinkName,
    pub index: Ifindex,
    pub mac: Option<Mac>,
}

impl End {
    fn reference(&self) -> LinkRef {
        LinkRef {
            name: self.name,
            index: Some(self.index),
        }
    }
}

/// What one device carries, as read from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Carried {
    pub addresses: Vec<AddressRecord>,
    /// Routes of every table and both families that lead out of the device.
    pub routes: Vec<RouteRecord>,
}

/// A move worked out: what to tell, what must be there then, what to take away.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct AddressMove {
    pub restore: Vec<Step>,
    /// What the new device has to show before anything is removed.
    pub expected: Carried,
    pub remove: Vec<Op>,
    /// What takes the whole transaction back, in order, once it went through but does not compare. Who puts further
    /// steps around `restore` fills it.
    pub undo: Vec<Op>,
}

/// A route through a nexthop object names no device; it would have to move the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a route on {device} uses nexthop object {id}; replace it by a plain route first")]
pub struct UsesNexthopObject {
    pub device: LinkName,
    pub id: u32,
}

/// `there`: what the new device has already (a move that was cut short). It is told again, because attributes may differ,
/// but never taken back: that would destroy what was there before, and a primary takes its secondaries along.
pub fn plan_move(
    from: End,
    to: End,
    carried: &Carried,
    there: &Carried,
) -> Result<AddressMove, UsesNexthopObject> {
    let mut plan = AddressMove::default();
    for old in carried.addresses.iter().filter(|a| is_to_move(a, from.mac)) {
        let new = moved_address(old, from, to);
        let op = |action, link: LinkRef, record: &AddressRecord| Op::Address {
            action,
            link,
            record: Box::new(record.clone()),
        };
        let known = there
            .addresses
            .iter()
            .any(|a| address_key(a) == address_key(&new));
        let undo = (!known).then(|| op(ListAction::Delete, to.reference(), &new));
        if old.family == AF_INET6 {
            let mut first = new.clone();
            set_flags(&mut first, flags(&new) | ifa::F_NODAD);
            plan.restore.push(Step {
                op: op(ListAction::Replace, to.reference(), &first),
                undo,
            });
            if flags(&first) != flags(&new) {
                plan.restore.push(Step {
                    op: op(ListAction::Replace, to.reference(), &new),
                    undo: None,
                });
            }
        } else {
            plan.restore.push(Step {
                op: op(ListAction::Replace, to.reference(), &new),
                undo,
            });
        }
        plan.remove.push(op(ListAction::Delete, from.reference(), old));
        plan.expected.addresses.push(new);
    }
    // Secondaries before their primary.
    plan.remove.reverse();
    // Behind a gateway's address they become secondaries, for which the kernel makes no route.
    let gateways: Vec<_> = there
        .addresses
        .iter()
        .filter(|a| a.own().is_some())
        .map(subnet_of)
        .collect();
    let told_by_kernel = carried.routes.iter().filter(|route| is_connected(route));
    for old in told_by_kernel.filter(|route| gateways.contains(&subnet_of_route(route))) {
        let new = told_route(old, Some((from.index, to.index)));
        let op = |action| Op::Route {
            action,
            record: Box::new(new.clone()),
        };
        plan.restore.push(Step {
            op: op(ListAction::Append),
            undo: Some(op(ListAction::Delete)),
        });
    }
    let mut old_routes = Vec::new();
    for old in carried.routes.iter().filter(|r| r.protocol != rta::PROTO_KERNEL) {
        if let Some(id) = get(&old.attributes, rta::NH_ID).and_then(|v| <[u8; 4]>::try_from(v).ok()) {
            return Err(UsesNexthopObject {
                device: from.name,
                id: u32::from_ne_bytes(id),
            });
        }
        let new = told_route(old, Some((from.index, to.index)));
        let same = told_route(old, None);
        let op = |action, record: &RouteRecord| Op::Route {
            action,
            record: Box::new(record.clone()),
        };
        let joins_its_like = [rta::GATEWAY, rta::MULTIPATH]
            .iter()
            .any(|kind| get(&old.attributes, *kind).is_some());
        if old.family == AF_INET6 && joins_its_like {
            plan.restore.push(Step {
                op: op(ListAction::Replace, &new),
                undo: Some(op(ListAction::Replace, &same)),
            });
        } else {
            let known = there.routes.iter().any(|route| is_route(route, &new));
            plan.restore.push(Step {
                op: op(ListAction::Append, &new),
                undo: (!known).then(|| op(ListAction::Delete, &new)),
            });
            old_routes.push(op(ListAction::Delete, &same));
        }
        plan.expected.routes.push(new);
    }
    plan.remove.splice(0..0, old_routes);
    Ok(plan)
}

/// Does `have` show everything that was told? The text of the first thing missing otherwise.
pub fn verify(expected: &Carried, have: &Carried) -> Result<(), String> {
    for want in &expected.addresses {
        let ignored = [ifa::CACHEINFO, ifa::FLAGS];
        let told = flags(want) & ifa::F_TOLD;
        let found = have.addresses.iter().any(|r| {
            address_key(r) == address_key(want)
                && flags(r) & ifa::F_TOLD == told
                && contains(&r.attributes, &want.attributes, &ignored)
        });
        if !found {
            return Err(format!(
                "address {}/{} did not arrive",
                address_of(want).map_or_else(String::new, |a| a.to_string()),
                want.prefix_len
            ));
        }
    }
    for want in &expected.routes {
        if !have.routes.iter().any(|route| is_route(route, want)) {
            return Err(format!(
                "a route of table {} (protocol {}) did not arrive",
                want.table, want.protocol
            ));
        }
    }
    Ok(())
}

/// Is this dumped route the one that was told?
fn is_route(have: &RouteRecord, told: &RouteRecord) -> bool {
    let key = |r: &RouteRecord| (r.family, r.dst_len, r.src_len, r.tos, r.protocol, r.kind);
    let ignored = [rta::CACHEINFO, rta::EXPIRES];
    key(have) == key(told) && contains(&have.attributes, &told.attributes, &ignored)
}

/// Is there anything of the host's here (kernel-made link-local addresses do not count)?
pub fn carries_anything(carried: &Carried, mac: Option<Mac>) -> bool {
    carried.addresses.iter().any(|a| is_to_move(a, mac))
        || carried.routes.iter().any(|r| r.protocol != rta::PROTO_KERNEL)
}

/// Everything but the link-local address that the kernel makes of the MAC, and temporary (privacy) addresses, which
/// it derives again from their `mngtmpaddr` parent.
fn is_to_move(record: &AddressRecord, mac: Option<Mac>) -> bool {
    // A gateway's own belongs to its network's bridge.
    if record.own().is_some() {
        return false;
    }
    if record.family != AF_INET6 {
        return true;
    }
    if flags(record) & ifa::F_TEMPORARY != 0 {
        return false;
    }
    if record.scope != SCOPE_LINK {
        return true;
    }
    let kernel_made = get(&record.attributes, ifa::PROTO) == Some(&[ifa::PROTO_KERNEL_LL][..]);
    let eui64 = mac.map(|mac| {
        let [a, b, c, d, e, f] = mac.bytes();
        [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    });
    let interface_id = address_bytes(record).and_then(|a| a.get(8..16));
    !kernel_made && (interface_id.is_none() || interface_id != eui64.as_ref().map(|id| &id[..]))
}

fn moved_address(old: &AddressRecord, from: End, to: End) -> AddressRecord {
    let mut new = old.clone();
    new.ifindex = to.index.get();
    for attribute in &mut new.attributes {
        // The default label is the device's name; any other is the operator's and stays.
        if attribute.kind & TYPE_MASK == ifa::LABEL
            && attribute.value.strip_suffix(&[0]) == Some(from.name.as_bytes())
        {
            attribute.value = [to.name.as_bytes(), &[0]].concat();
        }
    }
    told_address(&new)
}

/// A dumped address in the form in which it can be told: without the kernel's own state.
pub(super) fn told_address(old: &AddressRecord) -> AddressRecord {
    let mut new = old.clone();
    set_flags(&mut new, flags(old) & ifa::F_TOLD);
    new
}

fn address_key(record: &AddressRecord) -> (u8, u8, u8, Option<&[u8]>) {
    (
        record.family,
        record.prefix_len,
        record.scope,
        address_bytes(record),
    )
}

/// The local address of a record.
pub fn address_of(record: &AddressRecord) -> Option<IpAddr> {
    let bytes = address_bytes(record)?;
    match <[u8; 4]>::try_from(bytes) {
        Ok(four) => Some(Ipv4Addr::from(four).into()),
        Err(_) => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|six| Ipv6Addr::from(six).into()),
    }
}

fn address_bytes(record: &AddressRecord) -> Option<&[u8]> {
    get(&record.attributes, ifa::LOCAL).or_else(|| get(&record.attributes, ifa::ADDRESS))
}

pub(super) fn flags(record: &AddressRecord) -> u32 {
    let full = get(&record.attributes, ifa::FLAGS).and_then(|v| <[u8; 4]>::try_from(v).ok());
    full.map_or(u32::from(record.flags), u32::from_ne_bytes)
}

fn set_flags(record: &mut AddressRecord, flags: u32) {
    record.flags = (flags & 0xff) as u8;
    record.attributes.retain(|a| a.kind & TYPE_MASK != ifa::FLAGS);
    record.attributes.push(Attribute {
        kind: ifa::FLAGS,
        value: flags.to_ne_bytes().to_vec(),
    });
}

/// A dumped route in the form in which it can be told: state flags cleared, the remaining lifetime as `RTA_EXPIRES`,
/// and, if it moves, the new interface.
pub(super) fn told_route(old: &RouteRecord, interface: Option<(Ifindex, Ifindex)>) -> RouteRecord {
    let mut new = old.clone();
    new.flags &= rta::F_ONLINK;
    let mut expires = None;
    new.attributes
        .retain_mut(|attribute| match attribute.kind & TYPE_MASK {
            rta::CACHEINFO => {
                // struct rta_cacheinfo: clntref, lastuse, expires (clock ticks), ...
                expires = attribute
                    .value
                    .get(8..12)
                    .and_then(|v| <[u8; 4]>::try_from(v).ok())
                    .map(u32::from_ne_bytes);
                false
            }
            rta::OIF => {
                if let Some((from, to)) = interface
                    && attribute.value == from.get().to_ne_bytes()
                {
                    attribute.value = to.get().to_ne_bytes().to_vec();
                }
                true
            }
            rta::MULTIPATH => {
                told_next_hops(&mut attribute.value, interface);
                true
            }
            _ => true,
        });
    if let Some(ticks) = expires.filter(|ticks| *ticks != 0) {
        let seconds = (ticks / USER_HZ).max(1);
        new.attributes.push(Attribute {
            kind: rta::EXPIRES,
            value: seconds.to_ne_bytes().to_vec(),
        });
    }
    new
}

/// `struct rtnexthop { u16 len; u8 flags; u8 hops; i32 ifindex; }` + attributes, one behind the other, 4-byte aligned.
fn told_next_hops(bytes: &mut [u8], interface: Option<(Ifindex, Ifindex)>) {
    let mut at = 0;
    while let Some(hop) = bytes.get_mut(at..).filter(|rest| rest.len() >= 8) {
        let length = usize::from(u16::from_ne_bytes([hop[0], hop[1]]));
        if length < 8 {
            return;
        }
        hop[2] &= rta::F_ONLINK as u8;
        if let Some((from, to)) = interface
            && hop[4..8] == from.get().to_ne_bytes()
        {
            hop[4..8].copy_from_slice(&to.get().to_ne_bytes());
        }
        at += length.next_multiple_of(4);
    }
}

pub(super) fn get(attributes: &[Attribute], kind: u16) -> Option<&[u8]> {
    attributes
        .iter()
        .find(|a| a.kind & TYPE_MASK == kind)
        .map(|a| a.value.as_slice())
}

fn contains(have: &[Attribute], want: &[Attribute], ignored: &[u16]) -> bool {
    want.iter()
        .filter(|a| !ignored.contains(&(a.kind & TYPE_MASK)))
        .all(|a| {
            let kind = a.kind & TYPE_MASK;
            get(have, kind) == Some(&a.value[..])
        })
}
