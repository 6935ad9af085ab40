//! A network device as the kernel describes it in RTM_NEWLINK.

use super::ids::{Ifindex, Mtu, Vid};
use super::mac::Mac;
use super::name::LinkName;
use std::net::IpAddr;

/// One link, as last told by the kernel. Only attributes that some decision reads.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Link {
    pub index: Ifindex,
    pub name: LinkName,
    pub kind: LinkKind,
    pub mac: Option<Mac>,
    /// Bytes; as the kernel says it, also outside our own `Mtu` range (loopback has 65536).
    pub mtu: u32,
    /// `IFF_UP`: administratively up.
    pub up: bool,
    /// `IFF_LOWER_UP`: carrier. Of a bridge only when its `operstate` says so too: before that it sends nothing.
    pub carrier: bool,
    /// `IFLA_OPERSTATE`: shown, and nothing is decided by it.
    pub operstate: OperState,
    /// `IFLA_MASTER`: the bridge (or bond, VRF ...) it is a port of.
    pub master: Option<Ifindex>,
    /// `IFLA_LINK`: the device below (VLAN parent, VXLAN underlay, veth peer).
    pub parent: Option<Ifindex>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<Box<str>>,
    /// `net.ipv6.conf.NAME.disable_ipv6` as carried in `IFLA_AF_SPEC`; absent when the kernel has no IPv6 for it.
    pub ipv6_disabled: Option<bool>,
    /// `IFLA_TXQLEN`.
    pub tx_queue_len: u32,
    /// Bridge-port state, from `IFLA_INFO_SLAVE_DATA`; absent when not a bridge port.
    pub port: Option<PortFlags>,
}

/// RFC 2863's operational state, by the kernel's number (`linux/if.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum OperState {
    /// The driver does not say.
    #[default]
    Unknown,
    NotPresent,
    Down,
    LowerLayerDown,
    Testing,
    Dormant,
    Up,
}

impl OperState {
    /// A number that is none is what the driver does not say.
    pub fn from_raw(number: u8) -> Self {
        match number {
            1 => Self::NotPresent,
            2 => Self::Down,
            3 => Self::LowerLayerDown,
            4 => Self::Testing,
            5 => Self::Dormant,
            6 => Self::Up,
            _ => Self::Unknown,
        }
    }

    /// As `ip link` spells it, in lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotPresent => "notpresent",
            Self::Down => "down",
            Self::LowerLayerDown => "lowerlayerdown",
            Self::Testing => "testing",
            Self::Dormant => "dormant",
            Self::Up => "up",
        }
    }
}

/// What a link is (`IFLA_INFO_KIND`), with the attributes that decisions compare.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LinkKind {
    /// `tun` with `IFLA_TUN_TYPE` 2.
    Tap,
    /// `tun` with `IFLA_TUN_TYPE` 1: layer 3, never a port.
    Tun,
    Bridge(BridgeAttributes),
    Vlan(VlanAttributes),
    Vxlan(Box<VxlanAttributes>),
    /// Any other kind, by name.
    Other(Box<str>),
    /// No `IFLA_LINKINFO`: a physical device, loopback.
    Physical,
}

impl LinkKind {
    /// `IFLA_INFO_KIND`, or "" for a device without one; `tap` and `tun` are told apart.
    pub fn name(&self) -> &str {
        match self {
            LinkKind::Tap => "tap",
            LinkKind::Tun => "tun",
            LinkKind::Bridge(_) => "bridge",
            LinkKind::Vlan(_) => "vlan",
            LinkKind::Vxlan(_) => "vxlan",
            LinkKind::Other(kind) => kind,
            LinkKind::Physical => "",
        }
    }
}

/// Bridge attributes. As desired: unset means "whatever it is". As observed: what the kernel said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct BridgeAttributes {
    pub stp: Option<bool>,
    /// Hundredths of a second (`USER_HZ`), `IFLA_BR_FORWARD_DELAY`.
    pub forward_delay: Option<u32>,
    /// Hundredths of a second, `IFLA_BR_AGEING_TIME`.
    pub ageing_time: Option<u32>,
    pub multicast_snooping: Option<bool>,
    pub vlan_filtering: Option<bool>,
    /// The VLAN that a new port is in; 0: none (`IFLA_BR_VLAN_DEFAULT_PVID`).
    pub vlan_default_pvid: Option<u16>,
    /// Whether frames to 01:80:c2:00:00:0X teach where their source is (`BR_BOOLOPT_NO_LL_LEARN`, since 4.20).
    pub link_local_learning: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VlanAttributes {
    /// Absent for a VID outside 1..4094, which no network of ours uses.
    pub vid: Option<Vid>,
    /// Host byte order: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub protocol: u16,
}

/// VXLAN attributes (`IFLA_VXLAN_*`).
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct VxlanAttributes {
    pub vni: u32,
    pub local: Option<IpAddr>,
    /// `IFLA_VXLAN_GROUP`/`GROUP6`: multicast group (or a single remote).
    pub group: Option<IpAddr>,
    /// `IFLA_VXLAN_LINK`: underlay device.
    pub link: Option<Ifindex>,
    pub dstport: u16,
    /// 0 = kernel's default.
    pub ttl: u8,
    pub tos: u8,
    pub learning: bool,
    /// ARP responder.
    pub proxy: bool,
    /// Low, high; (0, 0) = kernel's range.
    pub srcport: (u16, u16),
    /// `collect metadata`: one device for many VNIs.
    pub external: bool,
    /// Takes only the VNIs it was told (`bridge vni`); goes with `external`.
    pub vnifilter: bool,
}

/// Bridge-port flags. As desired: unset means "not our business". As observed: what the kernel said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct PortFlags {
    pub learning: Option<bool>,
    pub isolated: Option<bool>,
    pub hairpin: Option<bool>,
    /// BPDU guard.
    pub guard: Option<bool>,
    pub neigh_suppress: Option<bool>,
    /// Unknown unicast.
    pub flood: Option<bool>,
    pub mcast_flood: Option<bool>,
    pub bcast_flood: Option<bool>,
    /// VLANs stand for VNIs on this port (a VXLAN device that serves many networks). Never policy's.
    pub vlan_tunnel: Option<bool>,
}

impl PortFlags {
    /// What the kernel gives every new bridge port (`new_nbp` in net/bridge/br_if.c), also one that comes from another
    /// bridge.
    pub const NEW_PORT: PortFlags = PortFlags {
        learning: Some(true),
        isolated: Some(false),
        hairpin: Some(false),
        guard: Some(false),
        neigh_suppress: Some(false),
        flood: Some(true),
        mcast_flood: Some(true),
        bcast_flood: Some(true),
        vlan_tunnel: Some(false),
    };

    /// Those fields of `self` that are set and that `current` does not already have.
    #[must_use]
    pub fn missing_in(&self, current: &PortFlags) -> PortFlags {
        let pick = |want: Option<bool>, have: Option<bool>| if want == have { None } else { want };
        PortFlags {
            learning: pick(self.learning, current.learning),
            isolated: pick(self.isolated, current.isolated),
            hairpin: pick(self.hairpin, current.hairpin),
            guard: pick(self.guard, current.guard),
            neigh_suppress: pick(self.neigh_suppress, current.neigh_suppress),
            flood: pick(self.flood, current.flood),
            mcast_flood: pick(self.mcast_flood, current.mcast_flood),
            bcast_flood: pick(self.bcast_flood, current.bcast_flood),
            vlan_tunnel: pick(self.vlan_tunnel, current.vlan_tunnel),
        }
    }
    /// `self` with every field that `other` sets replaced.
    #[must_use]
    pub fn overlaid_with(&self, other: &PortFlags) -> PortFlags {
        PortFlags {
            learning: other.learning.or(self.learning),
            isolated: other.isolated.or(self.isolated),
            hairpin: other.hairpin.or(self.hairpin),
            guard: other.guard.or(self.guard),
            neigh_suppress: other.neigh_suppress.or(self.neigh_suppress),
            flood: other.flood.or(self.flood),
            mcast_flood: other.mcast_flood.or(self.mcast_flood),
            bcast_flood: other.bcast_flood.or(self.bcast_flood),
            vlan_tunnel: other.vlan_tunnel.or(self.vlan_tunnel),
        }
    }
    pub fn is_empty(&self) -> bool {
        *self == PortFlags::default()
    }
    /// Flags as iproute2 spells them, for plans and traces.
    pub fn words(&self) -> impl Iterator<Item = (&'static str, bool)> {
        [
            ("learning", self.learning),
            ("isolated", self.isolated),
            ("hairpin", self.hairpin),
            ("guard", self.guard),
            ("neigh_suppress", self.neigh_suppress),
            ("flood", self.flood),
            ("mcast_flood", self.mcast_flood),
            ("bcast_flood", self.bcast_flood),
            ("vlan_tunnel", self.vlan_tunnel),
        ]
        .into_iter()
        .filter_map(|(word, value)| value.map(|v| (word, v)))
    }
}

impl Link {
    pub fn is_bridge(&self) -> bool {
        matches!(self.kind, LinkKind::Bridge(_))
    }
    pub fn mtu_is(&self, mtu: Mtu) -> bool {
        self.mtu == mtu.get()
    }
}
