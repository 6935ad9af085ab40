//! The closed set of kernel operations. One op is one kernel request (or one /proc/sys write); it carries everything
//! it needs, so that the executor decides nothing.

use super::guard::GuardedPort;
use crate::desired::gateway::Sysctl;
use crate::desired::guard::Entry;
use crate::desired::ruleset::Ruleset;
use crate::model::record::{AddressRecord, RouteRecord};
use crate::model::{
    BridgeAttributes, FdbEntry, Ifindex, LinkName, Mac, Mtu, NeighbourEntry, PortFlags, Vid, VlanRow, Vni,
    VniRow, VxlanAttributes,
};
use std::net::IpAddr;
use std::sync::Arc;

/// A device an op works on. The index is what counts; the name is for people and for devices that an earlier op of
/// the same plan creates (`index` absent until then: the executor fills it from that op's answer).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinkRef {
    pub name: LinkName,
    pub index: Option<Ifindex>,
}

/// What to set on a link in one RTM_NEWLINK/SETLINK request; unset fields are not sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct LinkChange {
    pub mtu: Option<Mtu>,
    pub mac: Option<Mac>,
    pub alias: Option<Box<str>>,
    pub tx_queue_len: Option<u32>,
    pub master: Option<Master>,
    pub up: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Master {
    Set(LinkRef),
    /// `nomaster`.
    Clear,
}

/// Which of a list operation's three forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum ListAction {
    /// NLM_F_CREATE | NLM_F_REPLACE: there afterwards, whatever was there before; never a moment without.
    Replace,
    /// NLM_F_CREATE | NLM_F_APPEND: one more destination of the same (flood) entry.
    Append,
    /// NLM_F_CREATE | NLM_F_EXCL.
    Add,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Op {
    /// `ip link add NAME address MAC mtu MTU type bridge ...`; created down. Alias and addrgenmode are refused or
    /// ignored at creation (6.18), so a `SetLink` follows.
    CreateBridge {
        name: LinkName,
        mac: Mac,
        mtu: Option<Mtu>,
        attributes: BridgeAttributes,
    },
    /// `ip link add link PARENT name NAME type vlan id VID`; created down.
    CreateVlan {
        name: LinkName,
        parent: LinkRef,
        vid: Vid,
        mtu: Option<Mtu>,
    },
    /// `ip link add NAME type vxlan id VNI ...`; created down.
    CreateVxlan {
        name: LinkName,
        mtu: Option<Mtu>,
        attributes: VxlanAttributes,
    },
    /// `ip link set dev LINK ...`.
    SetLink { link: LinkRef, change: LinkChange },
    /// `ip link set dev LINK type bridge ...`.
    SetBridge {
        link: LinkRef,
        attributes: BridgeAttributes,
    },
    /// `ip link set dev LINK type vxlan ...`; only what the kernel lets change: underlay, group, ttl, tos,
    /// learning.
    SetVxlan {
        link: LinkRef,
        attributes: VxlanAttributes,
    },
    /// `bridge link set dev LINK learning off ...`.
    SetPort { link: LinkRef, flags: PortFlags },
    /// `sysctl net.ipv6.conf.LINK.disable_ipv6=1|0`. Before `up`: with IPv6 on, `up` costs milliseconds on a host with
    /// thousands of links, and a host address appears in the tenant's network.
    DisableIpv6 { link: LinkRef, disable: bool },
    /// `ip link del dev LINK`.
    DeleteLink { link: LinkRef },
    /// `bridge fdb replace|append|del MAC dev LINK dst IP self` on a VXLAN device, or `master static` on a bridge port
    /// (`dst` absent).
    Fdb {
        action: ListAction,
        link: LinkRef,
        entry: FdbEntry,
        /// On a VXLAN device of many networks: which one's.
        vni: Option<Vni>,
    },
    /// `bridge vlan add|del dev LINK vid VID [pvid] [untagged] [tunnel_info id VNI]` on a bridge port.
    Vlan {
        action: ListAction,
        link: LinkRef,
        row: VlanRow,
    },
    /// `bridge vni add|delete dev LINK vni VNI [group GROUP]` on a VXLAN device with `vnifilter`.
    Vni {
        action: ListAction,
        link: LinkRef,
        row: VniRow,
    },
    /// `ip neigh replace|del IP lladdr MAC dev LINK nud permanent`.
    Neighbour {
        action: ListAction,
        link: LinkRef,
        entry: NeighbourEntry,
    },
    /// `ip address add|replace|del`; the record carries its link in `ifindex` unless `link` names one made in this plan.
    Address {
        action: ListAction,
        link: LinkRef,
        record: Box<AddressRecord>,
    },
    /// Addresses and routes of one device, told in one message: nothing comes in between, and a failure of one does not keep
    /// the others from being told.
    Readdress { link: LinkRef, steps: Box<[Op]> },
    /// `ip route add|del`; the record's output interfaces are already the right ones.
    Route {
        action: ListAction,
        record: Box<RouteRecord>,
    },
    /// `nft delete element bridge tapwire ...; nft add element bridge tapwire ...`: what one port may send, in one
    /// transaction.
    Guard {
        link: LinkRef,
        gone: Box<[Entry]>,
        new: Box<[Entry]>,
    },
    /// The spoof guard of the whole host.
    GuardTable(GuardTable),
    /// `nft -f -`: the tables `inet tapwire` and `bridge tapwire_uplink`, in one transaction; then `conntrack -D` of what is
    /// not translated any more.
    Ruleset(Arc<Ruleset>),
    /// `sysctl ...`: these, and whatever else was set for gateways as it was before.
    Sysctls(Arc<[Sysctl]>),
    /// `arping -U ADDRESS` or an unsolicited neighbour advertisement, several times. Queued: nobody waits for it.
    Announce { link: LinkRef, address: IpAddr },
}

/// A kind of rtnetlink notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    NewLink,
    /// An attribute or flag of a link.
    Link,
    /// A flag or VLAN of a link as a bridge's port.
    Port,
    Enslaved,
    Released,
    LinkGone,
    Fdb,
    Neighbour,
    Address,
    Route,
    /// Nothing that `trace` listens to.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum GuardTable {
    /// The table `bridge tapwire` with these elements, in place of what was there: one transaction.
    Make(Box<[GuardedPort]>),
    Remove,
    /// Elements of ports that are not guarded any more, or not there.
    Sweep(Box<[GuardedPort]>),
}

impl Op {
    /// The device it works on; a route has none of its own.
    pub fn device(&self) -> Option<LinkName> {
        match self {
            Op::CreateBridge { name, .. } | Op::CreateVlan { name, .. } | Op::CreateVxlan { name, .. } => {
                Some(*name)
            }
            _ => self.target().map(|link| link.name),
        }
    }
    /// Its index, where the plan knew it.
    pub fn device_index(&self) -> Option<Ifindex> {
        self.target().and_then(|link| link.index)
    }
    fn target(&self) -> Option<&LinkRef> {
        match self {
            Op::SetLink { link, .. }
            | Op::SetBridge { link, .. }
            | Op::SetVxlan { link, .. }
            | Op::SetPort { link, .. }
            | Op::DisableIpv6 { link, .. }
            | Op::DeleteLink { link }
            | Op::Fdb { link, .. }
            | Op::Vlan { link, .. }
            | Op::Vni { link, .. }
            | Op::Neighbour { link, .. }
            | Op::Address { link, .. }
            | Op::Readdress { link, .. }
            | Op::Guard { link, .. }
            | Op::Announce { link, .. } => Some(link),
            Op::CreateBridge { .. }
            | Op::CreateVlan { .. }
            | Op::CreateVxlan { .. }
            | Op::Route { .. }
            | Op::GuardTable(_)
            | Op::Ruleset(_)
            | Op::Sysctls(_) => None,
        }
    }

    /// What the kernel tells everybody when it was carried out.
    pub const fn echo(&self) -> Echo {
        match self {
            Op::CreateBridge { .. } | Op::CreateVlan { .. } | Op::CreateVxlan { .. } => Echo::NewLink,
            Op::SetLink { change, .. } => match &change.master {
                Some(Master::Set(_)) => Echo::Enslaved,
                Some(Master::Clear) => Echo::Released,
                None => Echo::Link,
            },
            Op::SetBridge { .. } | Op::SetVxlan { .. } => Echo::Link,
            Op::SetPort { .. } | Op::Vlan { .. } => Echo::Port,
            Op::DeleteLink { .. } => Echo::LinkGone,
            Op::Fdb { .. } => Echo::Fdb,
            Op::Neighbour { .. } => Echo::Neighbour,
            Op::Address { .. } | Op::Readdress { .. } => Echo::Address,
            Op::Route { .. } => Echo::Route,
            Op::DisableIpv6 { .. }
            | Op::Vni { .. }
            | Op::Guard { .. }
            | Op::GuardTable(_)
            | Op::Ruleset(_)
            | Op::Sysctls(_)
            | Op::Announce { .. } => Echo::None,
        }
    }

    /// Stable word for metrics, `plan --json` and spans.
    pub const fn name(&self) -> &'static str {
        match self {
            Op::CreateBridge { .. } => "create_bridge",
            Op::CreateVlan { .. } => "create_vlan",
            Op::CreateVxlan { .. } => "create_vxlan",
            Op::SetLink { change, .. } => match (&change.master, change.up) {
                (Some(Master::Set(_)), _) => "attach",
                (Some(Master::Clear), _) => "detach",
                (None, Some(true)) => "up",
                (None, Some(false)) => "down",
                (None, None) => "set_link",
            },
            Op::SetBridge { .. } => "set_bridge",
            Op::SetVxlan { .. } => "set_vxlan",
            Op::SetPort { .. } => "set_port",
            Op::DisableIpv6 { .. } => "disable_ipv6",
            Op::DeleteLink { .. } => "delete_link",
            Op::Fdb { .. } => "fdb",
            Op::Vlan { .. } => "vlan",
            Op::Vni { .. } => "vni",
            Op::Neighbour { .. } => "neighbour",
            Op::Address { .. } => "address",
            Op::Readdress { .. } => "readdress",
            Op::Route { .. } => "route",
            Op::Guard { .. } => "guard",
            Op::GuardTable(_) => "guard_table",
            Op::Ruleset(_) => "ruleset",
            Op::Sysctls(_) => "sysctls",
            Op::Announce { .. } => "announce",
        }
    }
}

#[cfg(test)]
pub mod examples;
