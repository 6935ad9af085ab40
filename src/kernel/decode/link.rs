//! RTM_NEWLINK and RTM_DELLINK, of AF_UNSPEC (the device) and of AF_BRIDGE (the port).

use super::super::wire::{Attributes, Malformed, i32_at, string_value, u8_value, u32_at, u32_value};
use super::Change;
use super::kind;
use crate::model::{Ifindex, Link, LinkKind, LinkName, Mac, OperState, PortFlags, PortVlans};

/// `struct ifinfomsg`: family u8, padding, type u16, index i32, flags u32, change u32.
const INFO_LEN: usize = 16;
const INDEX_AT: usize = 4;
const FLAGS_AT: usize = 8;

/// `IFLA_INET6_CONF` and the position of `disable_ipv6` in its array of i32 (`DEVCONF_DISABLE_IPV6`).
const INET6_CONF: u16 = 2;
const DEVCONF_DISABLE_IPV6: usize = 26;
/// `IFLA_NEW_NETNSID`, `IFLA_LINK_NETNSID`: not in libc.
const NEW_NETNSID: u16 = 45;
const LINK_NETNSID: u16 = 37;

pub fn link(payload: &[u8]) -> Result<Link, Malformed> {
    let attributes = Attributes::behind(payload, INFO_LEN)?;
    let flags = u32_at(payload, FLAGS_AT).ok_or(Malformed("link message without flags"))?;
    let mut name = None;
    let (mut mac, mut mtu, mut tx_queue_len) = (None, 0, 0);
    let (mut master, mut parent, mut parent_elsewhere) = (None, None, false);
    let (mut alias, mut ipv6_disabled) = (None, None);
    let mut operstate = OperState::Unknown;
    let mut info = kind::Info::default();
    for attribute in attributes {
        let (attribute, value) = attribute?;
        match attribute {
            libc::IFLA_IFNAME => name = Some(link_name(value)?),
            libc::IFLA_ADDRESS => mac = Mac::from_slice(value),
            libc::IFLA_MTU => mtu = u32_value(value)?,
            libc::IFLA_LINK => parent = Ifindex::new(u32_value(value)?),
            LINK_NETNSID => parent_elsewhere = true,
            libc::IFLA_MASTER => master = Ifindex::new(u32_value(value)?),
            libc::IFLA_TXQLEN => tx_queue_len = u32_value(value)?,
            libc::IFLA_OPERSTATE => operstate = OperState::from_raw(u8_value(value)?),
            libc::IFLA_IFALIAS => alias = text(value),
            libc::IFLA_LINKINFO => info = kind::Info::collect(value)?,
            libc::IFLA_AF_SPEC => ipv6_disabled = disable_ipv6(value)?,
            _ => {}
        }
    }
    // A veth whose peer is elsewhere names an index of *that* namespace: it must not be taken for a link of ours.
    if parent_elsewhere {
        parent = None;
    }
    let kind = info.kind()?;
    // A device gets its queue just then; without one the kernel drops what it sends.
    let operational = operstate == OperState::Up;
    let lower_up = flags & libc::IFF_LOWER_UP as u32 != 0;
    Ok(Link {
        index: index(payload)?,
        name: name.ok_or(Malformed("link message without a name"))?,
        carrier: lower_up && (operational || !matches!(kind, LinkKind::Bridge(_))),
        operstate,
        kind,
        mac,
        mtu,
        up: flags & libc::IFF_UP as u32 != 0,
        master,
        parent,
        alias,
        ipv6_disabled,
        tx_queue_len,
        port: info.port()?,
    })
}

pub fn gone(payload: &[u8]) -> Result<Change, Malformed> {
    let mut name = None;
    let mut moved_to = None;
    for attribute in Attributes::behind(payload, INFO_LEN)? {
        match attribute? {
            (libc::IFLA_IFNAME, value) => name = Some(link_name(value)?),
            (NEW_NETNSID, value) => moved_to = Some(u32_value(value)?),
            _ => {}
        }
    }
    Ok(Change::LinkGone {
        index: index(payload)?,
        name,
        moved_to,
    })
}

pub fn bridge_port(payload: &[u8]) -> Result<Change, Malformed> {
    let index = index(payload)?;
    let mut master = None;
    let mut flags = None;
    let mut vlans = PortVlans::default();
    for attribute in Attributes::behind(payload, INFO_LEN)? {
        match attribute? {
            (libc::IFLA_MASTER, value) => master = Ifindex::new(u32_value(value)?),
            (libc::IFLA_PROTINFO, value) => flags = Some(bridge_port_flags(value)?),
            (libc::IFLA_AF_SPEC, value) => vlans = super::vlan::port_vlans(value)?,
            _ => {}
        }
    }
    Ok(match (master, flags) {
        (Some(master), Some(flags)) => Change::BridgePort {
            index,
            master,
            flags,
            vlans,
        },
        // The bridge speaking of itself (VLAN changes) carries no port state.
        _ => Change::Other,
    })
}

pub fn left_bridge(payload: &[u8]) -> Result<Change, Malformed> {
    let mut master = None;
    for attribute in Attributes::behind(payload, INFO_LEN)? {
        if let (libc::IFLA_MASTER, value) = attribute? {
            master = Ifindex::new(u32_value(value)?);
        }
    }
    Ok(Change::LeftBridge {
        index: index(payload)?,
        master,
    })
}

/// `IFLA_BRPORT_*` of linux/if_link.h.
pub(crate) mod brport {
    pub const MODE: u16 = 4;
    pub const GUARD: u16 = 5;
    pub const LEARNING: u16 = 8;
    pub const UNICAST_FLOOD: u16 = 9;
    pub const MCAST_FLOOD: u16 = 27;
    pub const VLAN_TUNNEL: u16 = 29;
    pub const BCAST_FLOOD: u16 = 30;
    pub const NEIGH_SUPPRESS: u16 = 32;
    pub const ISOLATED: u16 = 33;
}

/// The `IFLA_BRPORT_*` attributes of IFLA_PROTINFO or IFLA_INFO_SLAVE_DATA.
pub fn bridge_port_flags(nested: &[u8]) -> Result<PortFlags, Malformed> {
    let mut flags = PortFlags::default();
    for attribute in Attributes::new(nested) {
        let (attribute, value) = attribute?;
        let field = match attribute {
            brport::MODE => &mut flags.hairpin,
            brport::GUARD => &mut flags.guard,
            brport::LEARNING => &mut flags.learning,
            brport::UNICAST_FLOOD => &mut flags.flood,
            brport::MCAST_FLOOD => &mut flags.mcast_flood,
            brport::BCAST_FLOOD => &mut flags.bcast_flood,
            brport::NEIGH_SUPPRESS => &mut flags.neigh_suppress,
            brport::ISOLATED => &mut flags.isolated,
            brport::VLAN_TUNNEL => &mut flags.vlan_tunnel,
            _ => continue,
        };
        *field = Some(u8_value(value)? != 0);
    }
    Ok(flags)
}

fn index(payload: &[u8]) -> Result<Ifindex, Malformed> {
    u32_at(payload, INDEX_AT)
        .and_then(Ifindex::new)
        .ok_or(Malformed("link message without an index"))
}

fn link_name(value: &[u8]) -> Result<LinkName, Malformed> {
    LinkName::from_bytes(string_value(value)).map_err(|_| Malformed("not an interface name"))
}

/// An alias is for people; the rare one that is not UTF-8 shows replacement characters.
fn text(value: &[u8]) -> Option<Box<str>> {
    let value = string_value(value);
    (!value.is_empty()).then(|| String::from_utf8_lossy(value).into())
}

fn disable_ipv6(af_spec: &[u8]) -> Result<Option<bool>, Malformed> {
    for family in Attributes::new(af_spec) {
        let (family, value) = family?;
        if i32::from(family) != libc::AF_INET6 {
            continue;
        }
        for attribute in Attributes::new(value) {
            if let (INET6_CONF, conf) = attribute? {
                return Ok(i32_at(conf, DEVCONF_DISABLE_IPV6 * 4).map(|v| v != 0));
            }
        }
    }
    Ok(None)
}
