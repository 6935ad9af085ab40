//! What one rtnetlink message says, as plain data: no netlink crate's type leaves this folder.
//!
//! Only what a line of `tapwire trace` shows. Absent attributes stay absent, so that a difference never invents one.

use crate::model::{LinkName, Mac, PortVlans};
use std::net::IpAddr;

/// The fixed netlink header (`struct nlmsghdr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// `RTM_*`, `NLMSG_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The causing request's sequence number where the kernel passes it on, else 0.
    pub seq: u32,
    /// The causing request's port id where the kernel passes it on, else 0: usually the process id.
    pub portid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub head: Head,
    pub body: Body,
}

/// `RTM_NEW*` says what is there now, whether or not it was before; `RTM_DEL*` that it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Present,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// `ifi_family` AF_UNSPEC: the life of a device.
    Link(Verb, Box<LinkFacts>),
    /// `ifi_family` AF_BRIDGE: a device as a bridge's port. `Removed` means it left the bridge, not that it is gone.
    Port(Verb, Box<PortFacts>),
    Address(Verb, AddressFacts),
    Route(Verb, Box<RouteFacts>),
    /// A neighbour, or with `family` AF_BRIDGE a forwarding entry.
    Neighbour(Verb, NeighbourFacts),
    /// A message type, or a link message's family, that is none of the above.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkFacts {
    pub index: u32,
    pub name: Option<LinkName>,
    /// `IFLA_INFO_KIND`; "tap" and "tun" told apart. Absent for physical devices and loopback.
    pub kind: Option<Box<str>>,
    /// `IFF_*`.
    pub flags: u32,
    /// `ifi_change`; all ones when the device was just registered.
    pub change: u32,
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// RFC 2863 operational state, `IF_OPER_*`.
    pub operstate: Option<u8>,
    pub master: Option<u32>,
    /// `IFLA_LINK`: VLAN parent, VXLAN underlay, veth peer.
    pub parent: Option<u32>,
    pub alias: Option<Box<str>>,
    pub alternative_names: Vec<Box<str>>,
    /// VLAN id or VNI, for those kinds.
    pub segment: Option<u32>,
    /// `IFLA_NEW_NETNSID` in the removal of a device that moved to another network namespace; -1: that namespace has
    /// no id here.
    pub new_netnsid: Option<i32>,
    pub new_index: Option<u32>,
}

/// `IFLA_PROTINFO` of an AF_BRIDGE link message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortFacts {
    pub index: u32,
    pub name: Option<LinkName>,
    pub master: Option<u32>,
    /// `BR_STATE_*`.
    pub state: Option<u8>,
    pub learning: Option<bool>,
    pub isolated: Option<bool>,
    pub hairpin: Option<bool>,
    pub guard: Option<bool>,
    pub neigh_suppress: Option<bool>,
    pub flood: Option<bool>,
    pub mcast_flood: Option<bool>,
    pub bcast_flood: Option<bool>,
    /// None: in no VLAN, or a kernel without VLAN filtering.
    pub vlans: Option<PortVlans>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressFacts {
    pub family: u8,
    pub index: u32,
    /// `IFA_LOCAL` where there is one (IPv4), else `IFA_ADDRESS`.
    pub address: IpAddr,
    pub prefix_len: u8,
    /// `IFA_ADDRESS` where it differs from the local address: the other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    pub scope: u8,
    /// `IFA_F_*`, all 32 bits.
    pub flags: u32,
    pub label: Option<Box<str>>,
    /// Seconds; absent is "for ever".
    pub valid_seconds: Option<u32>,
    pub preferred_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFacts {
    pub family: u8,
    pub table: u32,
    /// Absent: the default route.
    pub destination: Option<IpAddr>,
    pub prefix_len: u8,
    pub tos: u8,
    pub priority: u32,
    /// `RTN_*`.
    pub kind: u8,
    /// `RTPROT_*`.
    pub protocol: u8,
    pub scope: u8,
    pub source: Option<IpAddr>,
    /// One for a plain route, several for multipath, none for blackholes and routes by nexthop object.
    pub hops: Vec<NextHop>,
    /// `RTA_NH_ID`.
    pub nexthop_id: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NextHop {
    pub index: Option<u32>,
    pub gateway: Option<IpAddr>,
    /// As `ip route` shows it: 1 to 256.
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourFacts {
    pub family: u8,
    pub index: u32,
    /// A neighbour's address, or a forwarding entry's remote VTEP.
    pub address: Option<IpAddr>,
    pub mac: Option<Mac>,
    /// `NUD_*`.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
    /// `NDA_MASTER`: the bridge whose table the forwarding entry is in; absent for a device's own (VXLAN) table.
    pub master: Option<u32>,
    pub vlan: Option<u16>,
    /// `NDA_VNI`, or `NDA_SRC_VNI` on a collect-metadata device.
    pub vni: Option<u32>,
    /// `NDA_PROTOCOL`: who made the entry, as in `RTPROT_*`.
    pub protocol: Option<u8>,
}
