//! What the user names: networks, their segments, the physical networks and the VXLAN underlay.

use super::gateway::Gateway;
use super::ids::{InvalidValue, Mtu, NetworkId, PhysicalName, Vid, Vni};
use super::link::BridgeAttributes;
use super::mac::Mac;
use super::name::LinkName;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How a network's frames leave the host (Neutron's `network_type` with its facts).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Segment {
    /// A bridge without uplink: taps of this host only.
    Local,
    /// The physical network's interface itself is a port of the bridge.
    Flat { physical: PhysicalName },
    /// An 802.1Q sub-interface of the physical network's interface.
    Vlan { physical: PhysicalName, vid: Vid },
    /// A VXLAN device (RFC 7348).
    Vxlan { vni: Vni },
}

impl Segment {
    /// Neutron's word for it.
    pub const fn network_type(&self) -> &'static str {
        match self {
            Segment::Local => "local",
            Segment::Flat { .. } => "flat",
            Segment::Vlan { .. } => "vlan",
            Segment::Vxlan { .. } => "vxlan",
        }
    }
    pub fn segmentation_id(&self) -> Option<u32> {
        match self {
            Segment::Vlan { vid, .. } => Some(u32::from(vid.get())),
            Segment::Vxlan { vni } => Some(vni.get()),
            Segment::Local | Segment::Flat { .. } => None,
        }
    }
    pub const fn physical(&self) -> Option<&PhysicalName> {
        match self {
            Segment::Flat { physical } | Segment::Vlan { physical, .. } => Some(physical),
            Segment::Local | Segment::Vxlan { .. } => None,
        }
    }
}

/// One network with everything told about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Network {
    pub id: NetworkId,
    /// For people.
    pub name: Option<Box<str>>,
    pub segment: Segment,
    pub mtu: Option<Mtu>,
    /// Explicit bridge name; otherwise `owned::bridge_name(id)`.
    pub bridge: Option<LinkName>,
    /// Keep bridge and uplink standing while no tap needs them.
    pub prewarm: bool,
    /// What l2population would tell: remote VTEPs, sorted, without duplicates.
    pub peers: Vec<Peer>,
    /// Bridge options asked for by configuration or policy; unset ones get our defaults.
    pub bridge_options: BridgeAttributes,
    /// Addresses, translation, DHCP ... of this host for the network; most networks ask for nothing.
    pub gateway: Option<Box<Gateway>>,
}

impl Network {
    pub fn new(id: NetworkId, segment: Segment) -> Self {
        Self {
            id,
            name: None,
            segment,
            mtu: None,
            bridge: None,
            prewarm: false,
            peers: Vec::new(),
            bridge_options: BridgeAttributes::default(),
            gateway: None,
        }
    }
    /// Bridge and uplink stand also while no tap needs them: asked for, or the host has an address there.
    pub fn stands(&self) -> bool {
        self.prewarm || self.gateway.is_some()
    }
    /// Name for people, else the id.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(self.id.as_str())
    }
}

/// A remote VTEP of a VXLAN network: a flood entry, and with `mac` a unicast entry, and with `ip` too a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Peer {
    pub vtep: IpAddr,
    pub mac: Option<Mac>,
    pub ip: Option<IpAddr>,
}

/// `[physical_networks]`: Neutron's `physical_interface_mappings` (interface) and `bridge_mappings` (bridge).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PhysicalNetwork {
    pub name: PhysicalName,
    pub interface: Option<LinkName>,
    pub bridge: Option<LinkName>,
    /// Take the interface out of a foreign bridge.
    pub adopt: bool,
    /// With a VLAN-aware bridge: the interface itself becomes its port and carries the VLAN networks tagged. Without it
    /// each of them has a sub-interface, and the interface stays the host's own.
    pub trunk: bool,
}

/// `[bridge] mode`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum BridgeMode {
    /// A bridge for each network.
    #[default]
    PerNetwork,
    /// One bridge that filters by VLAN for all of them, but for flat ones (`desired::aware` tells why).
    VlanAware(SharedBridge),
}

/// The VLAN-aware bridge.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SharedBridge {
    pub name: LinkName,
    /// What `[bridge]` says of multicast snooping and ageing.
    pub attributes: BridgeAttributes,
}

impl BridgeMode {
    pub const fn shared(&self) -> Option<&SharedBridge> {
        match self {
            BridgeMode::PerNetwork => None,
            BridgeMode::VlanAware(shared) => Some(shared),
        }
    }
}

/// A multicast group or a prefix inside which the VNI chooses (Neutron's `vxlan_group`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VxlanGroup {
    address: IpAddr,
    prefix: u8,
}

impl VxlanGroup {
    pub fn new(address: IpAddr, prefix: Option<u8>) -> Result<Self, InvalidValue> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if !address.is_multicast() {
            return Err(InvalidValue::new(
                "vxlan group",
                address,
                "not a multicast address (224.0.0.0/4 or ff00::/8)",
            ));
        }
        let shortest = if address.is_ipv4() { 4 } else { 8 };
        if prefix > bits || prefix < shortest {
            return Err(InvalidValue::new(
                "vxlan group prefix",
                format_args!("/{prefix}"),
                "outside the multicast range",
            ));
        }
        Ok(Self { address, prefix })
    }
    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
    pub const fn address(&self) -> IpAddr {
        self.address
    }
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }
    /// Neutron's rule (`get_vxlan_group`): the network part of the prefix plus `vni & host mask`.
    pub fn for_vni(&self, vni: Vni) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => {
                let host = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from((u32::from(a) & !host) | (vni.get() & host)))
            }
            IpAddr::V6(a) => {
                let host = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(
                    (u128::from(a) & !host) | (u128::from(vni.get()) & host),
                ))
            }
        }
    }
}

/// One `multicast_ranges` term, `address:min:max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MulticastRange {
    pub group: IpAddr,
    pub min: Vni,
    pub max: Vni,
}

/// `[vxlan]`: the underlay, the same for every VXLAN network of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct VxlanSettings {
    /// Source address; the networks stay pending until it is on a link.
    pub local_ip: Option<IpAddr>,
    /// UDP destination port; absent means IANA's 4789 (the kernel's own default is 8472).
    pub udp_dstport: Option<u16>,
    pub l2_population: bool,
    pub group: Option<VxlanGroup>,
    pub multicast_ranges: Vec<MulticastRange>,
    pub arp_responder: bool,
    pub ttl: Option<u8>,
    pub tos: Option<u8>,
    pub dscp: Option<u8>,
    pub dscp_inherit: bool,
    /// Source port range, low and high.
    pub srcport: Option<(u16, u16)>,
}

impl VxlanSettings {
    pub const IANA_PORT: u16 = 4789;

    pub fn dstport(&self) -> u16 {
        self.udp_dstport.unwrap_or(Self::IANA_PORT)
    }
    /// The multicast group of a VNI: `multicast_ranges` first, then `vxlan_group`; none with l2population.
    pub fn group_for(&self, vni: Vni) -> Option<IpAddr> {
        if self.l2_population {
            return None;
        }
        self.multicast_ranges
            .iter()
            .find(|r| (r.min..=r.max).contains(&vni))
            .map(|r| r.group)
            .or_else(|| self.group.map(|g| g.for_vni(vni)))
    }
    /// The kernel's `IFLA_VXLAN_TOS`: `tos` wins over `dscp_inherit` (1 means inherit) over `dscp << 2` (PEERS 1.7).
    pub fn effective_tos(&self) -> u8 {
        match (self.tos, self.dscp_inherit, self.dscp) {
            (Some(tos), _, _) => tos,
            (None, true, _) => 1,
            (None, false, Some(dscp)) => dscp << 2,
            (None, false, None) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vni_chooses_inside_a_group_prefix() {
        let group = VxlanGroup::new("239.1.0.0".parse().unwrap(), Some(16)).unwrap();
        assert_eq!(
            group.for_vni(Vni::new(0x010203).unwrap()).to_string(),
            "239.1.2.3"
        );
        let single = VxlanGroup::new("239.1.1.1".parse().unwrap(), None).unwrap();
        assert_eq!(single.for_vni(Vni::new(99).unwrap()).to_string(), "239.1.1.1");
        let six = VxlanGroup::new("ff05::".parse().unwrap(), Some(120)).unwrap();
        assert_eq!(six.for_vni(Vni::new(0x1234).unwrap()).to_string(), "ff05::34");
    }

    #[test]
    fn a_group_that_is_not_multicast_is_refused() {
        let error = VxlanGroup::new("192.0.2.1".parse().unwrap(), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "vxlan group 192.0.2.1 is not a multicast address (224.0.0.0/4 or ff00::/8)"
        );
    }

    #[test]
    fn a_multicast_range_wins_over_the_group_and_l2population_over_both() {
        let mut vxlan = VxlanSettings {
            group: Some(VxlanGroup::new("239.1.1.1".parse().unwrap(), None).unwrap()),
            multicast_ranges: vec![MulticastRange {
                group: "239.9.9.9".parse().unwrap(),
                min: Vni::new(300).unwrap(),
                max: Vni::new(315).unwrap(),
            }],
            ..VxlanSettings::default()
        };
        assert_eq!(
            vxlan.group_for(Vni::new(315).unwrap()),
            Some("239.9.9.9".parse().unwrap())
        );
        assert_eq!(
            vxlan.group_for(Vni::new(316).unwrap()),
            Some("239.1.1.1".parse().unwrap())
        );
        vxlan.l2_population = true;
        assert_eq!(vxlan.group_for(Vni::new(315).unwrap()), None);
    }
}
