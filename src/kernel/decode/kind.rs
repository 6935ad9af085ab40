//! IFLA_LINKINFO: what kind of device, and what kind of port.

use super::super::wire::{Attributes, Malformed, be16_value, string_value, u8_value, u16_value, u32_value};
use super::link::bridge_port_flags;
use crate::model::{BridgeAttributes, Ifindex, LinkKind, PortFlags, Vid, VlanAttributes, VxlanAttributes};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The parts of IFLA_LINKINFO, found first and read afterwards: their order is the kernel's business.
#[derive(Debug, Default)]
pub struct Info<'a> {
    kind: Option<&'a [u8]>,
    data: &'a [u8],
    port_kind: &'a [u8],
    port_data: &'a [u8],
}

impl<'a> Info<'a> {
    pub fn collect(linkinfo: &'a [u8]) -> Result<Self, Malformed> {
        let mut info = Self::default();
        for attribute in Attributes::new(linkinfo) {
            let (attribute, value) = attribute?;
            match attribute {
                libc::IFLA_INFO_KIND => info.kind = Some(string_value(value)),
                libc::IFLA_INFO_DATA => info.data = value,
                libc::IFLA_INFO_SLAVE_KIND => info.port_kind = string_value(value),
                libc::IFLA_INFO_SLAVE_DATA => info.port_data = value,
                _ => {}
            }
        }
        Ok(info)
    }

    pub fn kind(&self) -> Result<LinkKind, Malformed> {
        Ok(match self.kind {
            None => LinkKind::Physical,
            Some(b"tun") => tun(self.data)?,
            Some(b"bridge") => LinkKind::Bridge(bridge(self.data)?),
            Some(b"vlan") => LinkKind::Vlan(vlan(self.data)?),
            Some(b"vxlan") => LinkKind::Vxlan(Box::new(vxlan(self.data)?)),
            Some(other) => LinkKind::Other(String::from_utf8_lossy(other).into()),
        })
    }

    /// The port's flags when the device is a port of a bridge (and not of a bond, a VRF ...).
    pub fn port(&self) -> Result<Option<PortFlags>, Malformed> {
        if self.port_kind == b"bridge" {
            bridge_port_flags(self.port_data).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// `IFLA_TUN_TYPE` with `IFF_TUN` 1 and `IFF_TAP` 2 (linux/if_tun.h).
fn tun(data: &[u8]) -> Result<LinkKind, Malformed> {
    const TUN_TYPE: u16 = 3;
    for attribute in Attributes::new(data) {
        if let (TUN_TYPE, value) = attribute? {
            return Ok(match i32::from(u8_value(value)?) {
                libc::IFF_TAP => LinkKind::Tap,
                _ => LinkKind::Tun,
            });
        }
    }
    // Kernels before 4.20 do not say; a layer-3 tun must never be taken for a tap.
    Ok(LinkKind::Tun)
}

fn bridge(data: &[u8]) -> Result<BridgeAttributes, Malformed> {
    const FORWARD_DELAY: u16 = 1;
    const AGEING_TIME: u16 = 4;
    const STP_STATE: u16 = 5;
    const VLAN_FILTERING: u16 = 7;
    const MCAST_SNOOPING: u16 = 23;
    const VLAN_DEFAULT_PVID: u16 = 39;
    const MULTI_BOOLOPT: u16 = 46;
    const NO_LINK_LOCAL_LEARN: u32 = 1;
    let mut bridge = BridgeAttributes::default();
    for attribute in Attributes::new(data) {
        let (attribute, value) = attribute?;
        match attribute {
            FORWARD_DELAY => bridge.forward_delay = Some(u32_value(value)?),
            AGEING_TIME => bridge.ageing_time = Some(u32_value(value)?),
            STP_STATE => bridge.stp = Some(u32_value(value)? != 0),
            VLAN_FILTERING => bridge.vlan_filtering = Some(u8_value(value)? != 0),
            VLAN_DEFAULT_PVID => bridge.vlan_default_pvid = Some(u16_value(value)?),
            MULTI_BOOLOPT => {
                bridge.link_local_learning = Some(u32_value(value)? & NO_LINK_LOCAL_LEARN == 0);
            }
            MCAST_SNOOPING => bridge.multicast_snooping = Some(u8_value(value)? != 0),
            _ => {}
        }
    }
    Ok(bridge)
}

fn vlan(data: &[u8]) -> Result<VlanAttributes, Malformed> {
    const ID: u16 = 1;
    const PROTOCOL: u16 = 5;
    let mut vlan = VlanAttributes {
        vid: None,
        protocol: 0x8100,
    };
    for attribute in Attributes::new(data) {
        match attribute? {
            (ID, value) => vlan.vid = Vid::new(i64::from(u16_value(value)?)).ok(),
            (PROTOCOL, value) => vlan.protocol = be16_value(value)?,
            _ => {}
        }
    }
    Ok(vlan)
}

fn vxlan(data: &[u8]) -> Result<VxlanAttributes, Malformed> {
    let mut vxlan = VxlanAttributes::default();
    for attribute in Attributes::new(data) {
        let (attribute, value) = attribute?;
        match attribute {
            1 => vxlan.vni = u32_value(value)?,
            2 | 16 => vxlan.group = specified(value),
            3 => vxlan.link = Ifindex::new(u32_value(value)?),
            4 | 17 => vxlan.local = specified(value),
            5 => vxlan.ttl = u8_value(value)?,
            6 => vxlan.tos = u8_value(value)?,
            7 => vxlan.learning = u8_value(value)? != 0,
            10 => {
                vxlan.srcport = (
                    be16_value(value)?,
                    be16_value(value.get(2..).unwrap_or_default())?,
                )
            }
            11 => vxlan.proxy = u8_value(value)? != 0,
            15 => vxlan.dstport = be16_value(value)?,
            25 => vxlan.external = u8_value(value)? != 0,
            30 => vxlan.vnifilter = u8_value(value)? != 0,
            _ => {}
        }
    }
    Ok(vxlan)
}

/// An address in network byte order; none for one of neither length and for the unspecified one.
fn specified(value: &[u8]) -> Option<IpAddr> {
    ip_address(value).filter(|ip| !ip.is_unspecified())
}

/// Four bytes are IPv4, sixteen are IPv6.
pub fn ip_address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(|v| Ipv4Addr::from(v).into()),
        16 => <[u8; 16]>::try_from(value).ok().map(|v| Ipv6Addr::from(v).into()),
        _ => None,
    }
}
