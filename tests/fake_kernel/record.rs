//! Addresses and routes as netlink records, made from text and read back.

use std::net::IpAddr;
use tapwire::model::Ifindex;
use tapwire::model::record::{AddressRecord, Attribute, RouteRecord};

pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;
/// `uapi/linux/if_addr.h`: IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// `uapi/linux/rtnetlink.h`.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const MAIN: u8 = 254;
const BOOT: u8 = 3;

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn attribute(kind: u16, value: impl Into<Vec<u8>>) -> Attribute {
    Attribute {
        kind,
        value: value.into(),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// `192.0.2.1/24` on a device, with the flags of `ip address add`.
pub fn address(text: &str, index: Ifindex) -> AddressRecord {
    address_with(text, index, 0x80)
}

/// With other IFA_FLAGS (0x01: temporary, 0x80: permanent).
pub fn address_with(text: &str, index: Ifindex, flags: u32) -> AddressRecord {
    let (ip, length) = text.split_once('/').expect("address/length");
    let ip: IpAddr = ip.parse().expect("an address");
    let mut attributes = vec![attribute(IFA_ADDRESS, bytes(ip))];
    if ip.is_ipv4() {
        attributes.push(attribute(IFA_LOCAL, bytes(ip)));
    }
    attributes.push(attribute(IFA_FLAGS, flags.to_ne_bytes()));
    AddressRecord {
        family: family(ip),
        prefix_len: length.parse().expect("a prefix length"),
        flags: flags as u8,
        scope: if tapwire::observed::is_link_local(ip) && ip.is_ipv6() {
            253
        } else {
            0
        },
        ifindex: index.get(),
        attributes,
    }
}

/// `ip route add TO via GATEWAY dev INDEX metric N`; `TO` "default" takes the gateway's family.
pub fn route(to: &str, via: Option<&str>, index: Ifindex, metric: u32) -> RouteRecord {
    let via: Option<IpAddr> = via.map(|text| text.parse().expect("a gateway"));
    let mut attributes = Vec::new();
    let (dst_len, destination) = match to.split_once('/') {
        Some((ip, length)) => (
            length.parse().expect("a prefix length"),
            Some(ip.parse::<IpAddr>().expect("a destination")),
        ),
        None => (0, None),
    };
    if let Some(ip) = destination {
        attributes.push(attribute(RTA_DST, bytes(ip)));
    }
    attributes.push(attribute(RTA_TABLE, u32::from(MAIN).to_ne_bytes()));
    if metric != 0 {
        attributes.push(attribute(RTA_PRIORITY, metric.to_ne_bytes()));
    }
    if let Some(ip) = via {
        attributes.push(attribute(RTA_GATEWAY, bytes(ip)));
    }
    attributes.push(attribute(RTA_OIF, index.get().to_ne_bytes()));
    RouteRecord {
        family: destination.or(via).map_or(AF_INET, family),
        dst_len,
        src_len: 0,
        tos: 0,
        table: MAIN,
        protocol: BOOT,
        scope: 0,
        kind: 1,
        flags: 0,
        attributes,
    }
}

fn get(record: &RouteRecord, kind: u16) -> Option<&[u8]> {
    let found = record.attributes.iter().find(|a| a.kind == kind)?;
    Some(&found.value)
}

/// The device a route leads out of.
pub fn out_of(route: &RouteRecord) -> Option<Ifindex> {
    let raw = <[u8; 4]>::try_from(get(route, RTA_OIF)?).ok()?;
    Ifindex::new(u32::from_ne_bytes(raw))
}

pub fn gateway(route: &RouteRecord) -> Option<IpAddr> {
    let raw = get(route, RTA_GATEWAY)?;
    match <[u8; 4]>::try_from(raw) {
        Ok(four) => Some(IpAddr::from(four)),
        Err(_) => <[u8; 16]>::try_from(raw).ok().map(IpAddr::from),
    }
}

/// Destination, metric and table: what one IPv6 route has for itself.
pub fn same_place(a: &RouteRecord, b: &RouteRecord) -> bool {
    let key = |r: &RouteRecord| {
        let part = |kind| get(r, kind).map(<[u8]>::to_vec);
        (
            r.family,
            r.dst_len,
            part(RTA_DST),
            part(RTA_PRIORITY),
            part(RTA_TABLE),
        )
    };
    key(a) == key(b)
}

/// IFA_F_SECONDARY, in the header and in IFA_FLAGS.
pub fn make_secondary(record: &mut AddressRecord) {
    record.flags |= 1;
    for attribute in record.attributes.iter_mut().filter(|a| a.kind == 8) {
        if let Some(low) = attribute.value.first_mut() {
            *low |= 1;
        }
    }
}
