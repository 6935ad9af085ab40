//! Neighbours, forwarding entries, addresses and routes.

use super::super::wire::{Attributes, Malformed, u8_value, u16_at, u32_at, u32_value};
use super::kind::ip_address;
use crate::model::record::{AddressRecord, Attribute, RouteRecord};
use crate::model::{FdbEntry, FdbRow, Ifindex, Mac, NeighbourEntry, Vni};
use std::net::IpAddr;

/// One RTM_NEWNEIGH: an IP neighbour or, of AF_BRIDGE, a forwarding entry of a bridge port or VXLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourRow {
    pub family: u8,
    pub index: Ifindex,
    /// `NUD_*`.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
    /// `NDA_DST`: the neighbour's address; of a VXLAN forwarding entry the remote VTEP.
    pub ip: Option<IpAddr>,
    pub mac: Option<Mac>,
    /// `NDA_MASTER`: the bridge that holds the entry; absent for a VXLAN device's own.
    pub master: Option<Ifindex>,
    /// `NDA_PROTOCOL`: who made it. Neighbours keep it, forwarding entries do not (6.18).
    pub protocol: Option<u8>,
    /// `NDA_SRC_VNI`: of which network, on a VXLAN device of many.
    pub vni: Option<u32>,
}

impl NeighbourRow {
    pub const fn is_forwarding(&self) -> bool {
        self.family == libc::AF_BRIDGE as u8
    }
    /// As the model knows it; none for a row without a MAC (a next-hop object, an incomplete one).
    pub fn forwarding(&self) -> Option<FdbRow> {
        Some(FdbRow {
            entry: FdbEntry {
                mac: self.mac?,
                dst: self.ip,
            },
            vni: self.vni.and_then(|vni| Vni::new(i64::from(vni)).ok()),
            ours: super::super::mark::is_ours(self.state, self.flags),
            fixed: self.state & (libc::NUD_PERMANENT | libc::NUD_NOARP) != 0,
        })
    }
    /// As the model knows it; none without a MAC, as in the announcement that one is gone.
    pub fn neighbour(&self) -> Option<NeighbourEntry> {
        Some(NeighbourEntry {
            ip: self.ip?,
            mac: self.mac?,
        })
    }
}

/// `struct ndmsg`: family u8, padding, index i32, state u16, flags u8, type u8.
pub fn neighbour(payload: &[u8]) -> Result<NeighbourRow, Malformed> {
    const HEADER: usize = 12;
    const SRC_VNI: u16 = 11;
    const PROTOCOL: u16 = 12;
    let attributes = Attributes::behind(payload, HEADER)?;
    let short = Malformed("neighbour message shorter than its header");
    let mut row = NeighbourRow {
        family: u8_value(payload)?,
        index: u32_at(payload, 4)
            .and_then(Ifindex::new)
            .ok_or(Malformed("neighbour message without an index"))?,
        state: u16_at(payload, 8).ok_or(short)?,
        flags: payload.get(10).copied().ok_or(short)?,
        ip: None,
        mac: None,
        master: None,
        protocol: None,
        vni: None,
    };
    for attribute in attributes {
        match attribute? {
            (libc::NDA_DST, value) => row.ip = ip_address(value),
            (libc::NDA_LLADDR, value) => row.mac = Mac::from_slice(value),
            (libc::NDA_MASTER, value) => row.master = Ifindex::new(u32_value(value)?),
            (SRC_VNI, value) => row.vni = Some(u32_value(value)?),
            (PROTOCOL, value) => row.protocol = Some(u8_value(value)?),
            _ => {}
        }
    }
    Ok(row)
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope (u8 each), index u32.
pub fn address(payload: &[u8]) -> Result<AddressRecord, Malformed> {
    const HEADER: usize = 8;
    let attributes = Attributes::behind(payload, HEADER)?;
    let &[family, prefix_len, flags, scope, ..] = payload else {
        return Err(Malformed("address message shorter than its header"));
    };
    Ok(AddressRecord {
        family,
        prefix_len,
        flags,
        scope,
        ifindex: u32_at(payload, 4).ok_or(Malformed("address message without an index"))?,
        attributes: owned(attributes)?,
    })
}

/// `struct rtmsg`: eight u8, flags u32.
pub fn route(payload: &[u8]) -> Result<RouteRecord, Malformed> {
    const HEADER: usize = 12;
    let attributes = Attributes::behind(payload, HEADER)?;
    let &[family, dst_len, src_len, tos, table, protocol, scope, kind, ..] = payload else {
        return Err(Malformed("route message shorter than its header"));
    };
    Ok(RouteRecord {
        family,
        dst_len,
        src_len,
        tos,
        table,
        protocol,
        scope,
        kind,
        flags: u32_at(payload, 8).ok_or(Malformed("route message without flags"))?,
        attributes: owned(attributes)?,
    })
}

fn owned(attributes: Attributes<'_>) -> Result<Vec<Attribute>, Malformed> {
    attributes
        .map(|attribute| {
            attribute.map(|(kind, value)| Attribute {
                kind,
                value: value.to_vec(),
            })
        })
        .collect()
}
