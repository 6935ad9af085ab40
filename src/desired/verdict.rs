//! What site policy decided, as plain data. The Lua side converts into this; defaults mean "no opinion".

use crate::model::{BridgeAttributes, FdbEntry, Mtu, NeighbourEntry, NetworkId, PortFlags, Vid};

/// Policy's say about one tap.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct PortVerdict {
    /// Network of a tap that no mapping names (`resolve`).
    pub network: Option<NetworkId>,
    /// Leave the tap alone (`resolve`).
    pub ignore: bool,
    pub deny: Option<Denial>,
    pub mtu: Option<Mtu>,
    pub flags: PortFlags,
    pub tx_queue_len: Option<u32>,
    pub alias: Option<Box<str>>,
    /// Entries on the network's VXLAN device (`dst` given) or static ones on the tap's bridge port (`dst` absent).
    pub fdb: Vec<FdbEntry>,
    pub neighbours: Vec<NeighbourEntry>,
    /// VLANs carried tagged, on the VLAN-aware bridge; each is some network's there.
    pub vlans: Vec<Vid>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Denial {
    pub plugin: Box<str>,
    pub reason: Box<str>,
}

/// Policy's say about one network's bridge and uplink.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct NetworkVerdict {
    /// A plugin that must have a say failed: nothing is made or changed until it answers.
    pub deny: Option<Denial>,
    pub mtu: Option<Mtu>,
    pub uplink_mtu: Option<Mtu>,
    pub bridge: BridgeAttributes,
    pub vxlan_ttl: Option<u8>,
    pub vxlan_tos: Option<u8>,
    pub vxlan_learning: Option<bool>,
    pub flood: Vec<FdbEntry>,
}
