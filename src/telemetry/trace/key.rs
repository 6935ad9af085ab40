//! How an object that is no link is recognised from one message to the next, and what it is called in a line.

use super::event::Object;
use crate::model::Mac;
use std::fmt;
use std::net::IpAddr;

/// An object that belongs to a device: `owner` is its index, or the bridge's for an entry of a bridge's table, or 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub owner: u32,
    pub name: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Address(IpAddr, u8),
    Route {
        family: u8,
        table: u32,
        destination: Option<IpAddr>,
        prefix_len: u8,
        tos: u8,
        priority: u32,
    },
    Neighbour(IpAddr),
    Fdb {
        mac: Mac,
        vlan: Option<u16>,
        vni: Option<u32>,
        /// Only for MAC addresses that have several destinations at once: flood entries and multicast.
        remote: Option<IpAddr>,
    },
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Address(address, prefix_len) => write!(f, "{address}/{prefix_len}"),
            Name::Route {
                table,
                destination,
                prefix_len,
                tos,
                priority,
                ..
            } => {
                match destination {
                    Some(destination) => write!(f, "{destination}/{prefix_len}")?,
                    None => f.write_str("default")?,
                }
                match table {
                    254 => {}
                    255 => f.write_str(" table local")?,
                    table => write!(f, " table {table}")?,
                }
                if *tos != 0 {
                    write!(f, " tos {tos}")?;
                }
                if *priority != 0 {
                    write!(f, " metric {priority}")?;
                }
                Ok(())
            }
            Name::Neighbour(address) => address.fmt(f),
            Name::Fdb {
                mac,
                vlan,
                vni,
                remote,
            } => {
                mac.fmt(f)?;
                if let Some(vlan) = vlan {
                    write!(f, " vlan {vlan}")?;
                }
                if let Some(vni) = vni {
                    write!(f, " vni {vni}")?;
                }
                if let Some(remote) = remote {
                    write!(f, " dst {remote}")?;
                }
                Ok(())
            }
        }
    }
}

/// What kind of object a name is of, and its family's word.
pub(super) fn kind_of(name: &Name) -> (Object, &'static str) {
    let of = |address: &IpAddr| if address.is_ipv4() { "inet" } else { "inet6" };
    match name {
        Name::Address(address, _) => (Object::Address, of(address)),
        Name::Route { family, .. } if i32::from(*family) == libc::AF_INET => (Object::Route, "inet"),
        Name::Route { .. } => (Object::Route, "inet6"),
        Name::Neighbour(address) => (Object::Neighbour, of(address)),
        Name::Fdb { .. } => (Object::Fdb, "bridge"),
    }
}
