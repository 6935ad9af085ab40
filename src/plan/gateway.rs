//! From the addresses that a network's devices have to those that its gateway asks for.
//!
//! Told only when translation is in force; what is told is announced, and again when its device has another MAC. Removal is the other way round: the address first;
//! flows are cut when the rules are gone that would make them anew.

use super::op::{LinkRef, ListAction, Op};
use super::segment::reference;
use crate::desired::gateway::{AddressWant, Role, Sysctl};
use crate::model::record::{AddressRecord, Attribute};
use crate::model::{Cidr, Ifindex, LinkName, owned};
use crate::observed::{Observed, is_link_local};
use std::net::IpAddr;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `uapi/linux/if_addr.h`
mod ifa {
    pub const ADDRESS: u16 = 1;
    pub const LOCAL: u16 = 2;
    pub const BROADCAST: u16 = 4;
    pub const CACHEINFO: u16 = 6;
    pub const FLAGS: u16 = 8;
    pub const RT_PRIORITY: u16 = 9;
    pub const F_NODAD: u32 = 0x02;
}

/// The gateways' tables as found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RulesetHave {
    Nothing,
    /// The ruleset with this fingerprint, untouched.
    Is(u64),
    /// Another one, or somebody touched it.
    Other,
}

/// What is in force for all gateways, as found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostHave {
    pub ruleset: RulesetHave,
    /// The settings that were asked for last; none if something is not so any more.
    pub sysctls: Option<Vec<Sysctl>>,
}

/// A device that an address is to be on, and is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing(pub LinkName);

/// The operations, and the first device that they have to wait for.
pub fn plan_addresses(wants: &[AddressWant], observed: &Observed) -> (Vec<Op>, Option<Missing>) {
    let mut ops = Vec::new();
    let mut missing = None;
    for want in wants {
        let Some(link) = observed.by_name(&want.device) else {
            missing = missing.or(Some(Missing(want.device)));
            continue;
        };
        let address = want.address.address();
        if observed.carries(link.index, address) {
            continue;
        }
        let link_ref = reference(link);
        if address.is_ipv6() && link.ipv6_disabled == Some(true) {
            ops.push(Op::DisableIpv6 {
                link: link_ref,
                disable: false,
            });
        }
        ops.push(Op::Address {
            action: ListAction::Replace,
            link: link_ref,
            record: Box::new(record(want, link.index)),
        });
        if want.role != (Role::Gateway { announce: false }) {
            ops.push(Op::Announce {
                link: link_ref,
                address,
            });
        }
    }
    (ops, missing)
}

/// What these devices carry of what was asked for. Where a network is `advertised` (RFC 4861), machines have a link-local
/// address of its bridge as their router.
pub fn plan_announcements(
    wants: &[AddressWant],
    devices: &[Ifindex],
    advertised: bool,
    observed: &Observed,
) -> Vec<Op> {
    let mut ops = Vec::new();
    for device in devices {
        let Some(link) = observed.link(*device) else {
            continue;
        };
        let here = |want: &&AddressWant| want.device == link.name;
        let asked = wants.iter().filter(here).map(|want| want.address.address());
        let carried = asked.filter(|address| observed.carries(*device, *address));
        let is_gateway = |want: &AddressWant| matches!(want.role, Role::Gateway { .. });
        let advertises = advertised && wants.iter().filter(here).any(is_gateway);
        let routers = advertises.then(|| observed.addresses_of(*device)).into_iter();
        let routers = routers
            .flatten()
            .filter(|address| address.is_ipv6() && is_link_local(*address));
        ops.extend(carried.chain(routers).map(|address| Op::Announce {
            link: reference(link),
            address,
        }));
    }
    ops
}

/// An address with our mark that nobody asks for any more.
pub fn plan_removal(link: LinkRef, index: Ifindex, address: Cidr) -> Op {
    Op::Address {
        action: ListAction::Delete,
        link,
        record: Box::new(bare(address, index)),
    }
}

fn record(want: &AddressWant, index: Ifindex) -> AddressRecord {
    let mut record = bare(want.address, index);
    record.attributes.push(Attribute {
        kind: AddressRecord::PROTO,
        value: vec![owned::PROTOCOL],
    });
    if let Some(broadcast) = want.address.broadcast() {
        record.attributes.push(Attribute {
            kind: ifa::BROADCAST,
            value: broadcast.octets().to_vec(),
        });
    }
    if want.metric != 0 {
        record.attributes.push(Attribute {
            kind: ifa::RT_PRIORITY,
            value: want.metric.to_ne_bytes().to_vec(),
        });
    }
    if !want.address.is_ipv4() {
        // Nobody else has it by configuration, and waiting for an answer would be a second without it.
        record.flags = ifa::F_NODAD as u8;
        record.attributes.push(Attribute {
            kind: ifa::FLAGS,
            value: ifa::F_NODAD.to_ne_bytes().to_vec(),
        });
        if matches!(want.role, Role::Floating { .. }) {
            // Deprecated (preferred lifetime 0): the host itself sends from it only when it answers.
            let seconds = [0, u32::MAX, 0, 0];
            record.attributes.push(Attribute {
                kind: ifa::CACHEINFO,
                value: seconds.iter().flat_map(|n| n.to_ne_bytes()).collect(),
            });
        }
    }
    record
}

fn bare(address: Cidr, index: Ifindex) -> AddressRecord {
    let (family, bytes) = match address.address() {
        IpAddr::V4(a) => (AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (AF_INET6, a.octets().to_vec()),
    };
    let attribute = |kind| Attribute {
        kind,
        value: bytes.clone(),
    };
    AddressRecord {
        family,
        prefix_len: address.length(),
        flags: 0,
        scope: 0,
        ifindex: index.get(),
        attributes: vec![attribute(ifa::LOCAL), attribute(ifa::ADDRESS)],
    }
}
