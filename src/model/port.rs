//! Which tap belongs to which network.

use super::cidr::Cidr;
use super::dns::Hostname;
use super::ids::{NetworkId, PortId, Vid};
use super::mac::Mac;
use super::name::{LinkName, NamePattern};
use std::net::IpAddr;

/// The tap or taps a mapping speaks of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum TapSelector {
    Exact(LinkName),
    Pattern(NamePattern),
}

/// One `[[port]]`, or one binding told over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    pub id: Option<PortId>,
    pub tap: TapSelector,
    pub network: NetworkId,
    /// The machine's own, offered to plugins; they do not change the tap. A network with DHCP makes them a reservation,
    /// the spoof guard what the port may send.
    pub mac: Option<Mac>,
    pub addresses: Vec<IpAddr>,
    /// The machine's name in the network's DNS.
    pub hostname: Option<Hostname>,
    pub admin_state_up: bool,
    /// As told; `is_guarded` is the answer.
    pub port_security: Option<bool>,
    /// What a guarded port may use besides `mac` and `addresses`.
    pub allowed_address_pairs: Box<[AddressPair]>,
    /// Makes it a trunk port: further networks, each in a VLAN of the guest's. By VID.
    pub sub_ports: Vec<SubPort>,
}

impl PortMapping {
    /// A mapping that only says which network the tap belongs to.
    pub fn new(tap: TapSelector, network: NetworkId) -> Self {
        Self {
            id: None,
            tap,
            network,
            mac: None,
            addresses: Vec::new(),
            hostname: None,
            admin_state_up: true,
            port_security: None,
            allowed_address_pairs: Box::default(),
            sub_ports: Vec::new(),
        }
    }

    /// Whether the spoof guard holds: on by default as soon as the mapping says who the machine is.
    pub fn is_guarded(&self) -> bool {
        self.port_security
            .unwrap_or_else(|| self.mac.is_some() || !self.addresses.is_empty())
    }
}

/// Another address that a guarded port may send from (Neutron's `allowed_address_pairs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct AddressPair {
    /// One address or a range.
    pub ip: Cidr,
    /// Absent: the port's own.
    pub mac: Option<Mac>,
}

/// One network that a trunk port's guest sees tagged (Neutron's sub-port; `segmentation_type` is always VLAN).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct SubPort {
    /// `segmentation_id`: the tag between host and guest. What the network has elsewhere does not matter.
    pub vid: Vid,
    pub network: NetworkId,
}

/// `[taps]`: which links are ours to look at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TapMatch {
    pub patterns: Vec<NamePattern>,
    /// Kinds besides `tun` in tap mode, as `IFLA_INFO_KIND` spells them.
    pub other_kinds: Vec<Box<str>>,
    /// Take a tap away from a foreign bridge.
    pub adopt: bool,
}
