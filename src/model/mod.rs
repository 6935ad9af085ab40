//! The nouns: values that cannot be invalid once they exist.
//!
//! Everything to the right (`observed`, `desired`, `plan`, `engine`) speaks only in these types; everything at the
//! edge (configuration, control messages, netlink, Lua tables) converts into them and reports what does not fit.
//! Nothing here knows a socket, a file, a clock or a random source.

pub mod cidr;
pub mod dns;
pub mod fdb;
pub mod gateway;
pub mod ids;
pub mod link;
pub mod mac;
pub mod name;
pub mod network;
pub mod owned;
pub mod port;
pub mod record;
pub mod stored;
pub mod time;
pub mod vlan;

pub use cidr::Cidr;
pub use dns::{Domain, Hostname};
pub use fdb::{FdbEntry, FdbRow, NeighbourEntry};
pub use gateway::Gateway;
pub use ids::{Ifindex, InvalidValue, Mtu, NetworkId, PhysicalName, PortId, Vid, Vni};
pub use link::{BridgeAttributes, Link, LinkKind, OperState, PortFlags, VlanAttributes, VxlanAttributes};
pub use mac::Mac;
pub use name::{LinkName, NamePattern};
pub use network::{
    BridgeMode, MulticastRange, Network, Peer, PhysicalNetwork, Segment, SharedBridge, VxlanGroup,
    VxlanSettings,
};
pub use port::{AddressPair, PortMapping, SubPort, TapMatch, TapSelector};
pub use time::Time;
pub use vlan::{PortVlans, VlanRow, VniRow};
