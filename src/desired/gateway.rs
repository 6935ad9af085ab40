//! What all gateways of the host ask of its devices: addresses and kernel settings.
//!
//! Host-wide, because the host has one set of tables and one switch for forwarding. Addresses are told by network, so that
//! one that cannot be had is that network's trouble only.

use super::Desired;
use super::port::is_managed;
use super::ruleset::{Ruleset, is_expressible};
use super::segment::vlan_parent;
use crate::model::gateway::{Forward, Gateway};
use crate::model::{Cidr, Ifindex, LinkKind, LinkName, Network, PortMapping, Segment, TapSelector, owned};
use crate::observed::Observed;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One setting of `/proc/sys/net`, with the device it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Sysctl {
    /// As `sysctl` writes it: `net.ipv4.ip_forward`. A device's name is its own element, whatever dots it has.
    pub setting: Setting,
    pub value: u8,
    /// Only if it is this now.
    pub instead_of: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Setting {
    /// `net.ipv4.ip_forward`
    Forward4,
    /// `net.ipv6.conf.all.forwarding`: the kernel has no switch for one device before 6.17.
    Forward6,
    /// `net.ipv4.conf.NAME.forwarding`
    DeviceForward4(LinkName, Ifindex),
    /// `net.ipv6.conf.NAME.accept_ra`
    AcceptRa(LinkName, Ifindex),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Forward4 => f.write_str("net.ipv4.ip_forward"),
            Setting::Forward6 => f.write_str("net.ipv6.conf.all.forwarding"),
            Setting::DeviceForward4(name, _) => write!(f, "net.ipv4.conf.{name}.forwarding"),
            Setting::AcceptRa(name, _) => write!(f, "net.ipv6.conf.{name}.accept_ra"),
        }
    }
}

/// The host-wide part: what must be in force before a network's addresses are.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct HostWant {
    pub ruleset: Arc<Ruleset>,
    /// Sorted.
    pub sysctls: Vec<Sysctl>,
}

pub fn derive_host(desired: &Desired, observed: &Observed, ruleset: Arc<Ruleset>) -> HostWant {
    let mut sysctls = BTreeSet::new();
    for network in desired.networks() {
        if let Some(gateway) = network.gateway.as_deref() {
            network_sysctls(desired, observed, network, gateway, &mut sysctls);
        }
    }
    HostWant {
        ruleset,
        sysctls: sysctls.into_iter().collect(),
    }
}

fn network_sysctls(
    desired: &Desired,
    observed: &Observed,
    network: &Network,
    gateway: &Gateway,
    sysctls: &mut BTreeSet<Sysctl>,
) {
    let mut set = |setting, value| {
        sysctls.insert(Sysctl {
            setting,
            value,
            instead_of: None,
        })
    };
    let bridge = desired
        .bridge_name(network)
        .and_then(|name| observed.by_name(&name));
    let floating = gateway.floating_ips.iter().map(|f| f.interface);
    match &gateway.forward {
        Forward::All if gateway.routes(true) => {
            set(Setting::Forward4, 1);
        }
        Forward::All => {}
        Forward::Only(names) => {
            let snat = gateway.snat.as_ref().and_then(|s| s.interface);
            let outside: BTreeSet<LinkName> = names
                .iter()
                .copied()
                .chain(floating.clone())
                .chain(snat)
                .collect();
            let links = outside.iter().filter_map(|name| observed.by_name(name));
            // A network that may pass nothing needs no forwarding. The other side of a forwarded port, or of metadata, is not
            // known by name.
            let here = |server: SocketAddr| {
                server.ip().is_loopback() || observed.link_with_address(server.ip()).is_some()
            };
            let unnamed =
                !gateway.port_forwards.is_empty() || gateway.metadata.is_some_and(|server| !here(server));
            if gateway.routes(true) && unnamed {
                set(Setting::Forward4, 1);
            } else if gateway.routes(true) && !outside.is_empty() {
                for link in links.chain(bridge) {
                    set(Setting::DeviceForward4(link.name, link.index), 1);
                }
            }
        }
    }
    if !gateway.routes(false) {
        return;
    }
    let passes = match &gateway.forward {
        Forward::All => true,
        Forward::Only(names) => !names.is_empty() || !gateway.floating_ips.is_empty(),
    };
    if passes {
        set(Setting::Forward6, 1);
        // A host that forwards takes no router advertisements, and loses the routes it had from them, unless it is told
        // to (2); that would be the end of its own default route.
        let outward = observed
            .links()
            .filter(|link| !link.is_bridge() || Some(link.index) != bridge.map(|b| b.index))
            .filter(|link| link.master.is_none() && link.up)
            .filter(|link| {
                observed
                    .addresses_of(link.index)
                    .any(|a| a.is_ipv6() && !a.is_loopback())
            });
        for link in outward {
            sysctls.insert(Sysctl {
                setting: Setting::AcceptRa(link.name, link.index),
                value: 2,
                instead_of: Some(1),
            });
        }
    }
    if let Some(bridge) = bridge {
        // What machines advertise is nothing to the host.
        let setting = Setting::AcceptRa(bridge.name, bridge.index);
        sysctls.retain(|sysctl| sysctl.setting != setting);
        sysctls.insert(Sysctl {
            setting,
            value: 0,
            instead_of: None,
        });
    }
}

/// An address that a network asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct AddressWant {
    pub device: LinkName,
    pub address: Cidr,
    pub role: Role,
    /// Of the route to its subnet. On a segment that the host is itself in, the host's own route is the better one.
    pub metric: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Role {
    /// The host's own in the network.
    Gateway {
        /// Others in the segment may have an old neighbour entry.
        announce: bool,
    },
    /// Stands for this machine.
    Floating { fixed: IpAddr },
}

/// In the order in which they are to be told: the bridge's first one first.
pub fn derive_addresses(desired: &Desired, network: &Network, gateway: &Gateway) -> Vec<AddressWant> {
    let bridge = desired.bridge_name(network);
    let own = gateway.addresses.iter().filter_map(|address| {
        Some(AddressWant {
            device: bridge?,
            address: *address,
            role: Role::Gateway {
                announce: !gateway.share_dhcp_address,
            },
            metric: u32::from(address.is_ipv4() && matches!(network.segment, Segment::Flat { .. })),
        })
    });
    let floating = gateway.floating_ips.iter().map(|f| AddressWant {
        device: f.interface,
        address: Cidr::host(f.address),
        role: Role::Floating {
            fixed: f.fixed_address,
        },
        metric: 0,
    });
    own.chain(floating).collect()
}

/// The link that carries the network's segment off the host, by configuration.
pub fn uplink_name(desired: &Desired, network: &Network) -> Option<LinkName> {
    let physical = network
        .segment
        .physical()
        .and_then(|name| desired.physical.get(name));
    match &network.segment {
        Segment::Local => None,
        Segment::Flat { .. } => physical.filter(|p| p.bridge.is_none()).and_then(|p| p.interface),
        Segment::Vlan { vid, .. } => owned::vlan_name(&physical.and_then(vlan_parent)?, *vid).ok(),
        Segment::Vxlan { vni } => owned::vxlan_name(*vni).ok(),
    }
}

/// Where a shared address is to stay on this side of a bridge of the operator's: the bridge, and each port of it that is no
/// machine's. What leads off the host there is known by looking only.
pub fn strange_uplinks(desired: &Desired, observed: &Observed) -> Vec<(LinkName, LinkName)> {
    let shares = |network: &Network| network.gateway.as_deref().is_some_and(|g| g.share_dhcp_address);
    let mut found = Vec::new();
    for network in desired.networks().filter(|network| shares(network)) {
        let Segment::Flat { physical } = &network.segment else {
            continue;
        };
        let bridge = desired.physical.get(physical).and_then(|p| p.bridge);
        let Some(link) = bridge.and_then(|name| observed.by_name(&name)) else {
            continue;
        };
        let ports = observed.ports_of(link.index);
        let outward = ports.filter(|port| port.kind != LinkKind::Tap && !is_managed(desired, port));
        found.extend(outward.map(|port| (link.name, port.name)));
    }
    found.sort_unstable();
    found
}

/// A name that the rules cannot speak of.
pub fn inexpressible(desired: &Desired, network: &Network, gateway: &Gateway) -> Option<LinkName> {
    let snat = gateway.snat.as_ref().and_then(|s| s.interface);
    let listed = match &gateway.forward {
        Forward::All => &[][..],
        Forward::Only(names) => names,
    };
    desired
        .bridge_name(network)
        .into_iter()
        .chain(snat)
        .chain(listed.iter().copied())
        .chain(gateway.floating_ips.iter().map(|f| f.interface))
        .find(|name| !is_expressible(*name))
}

/// The port needs hairpin mode: its machine reaches itself by an address of the outside.
///
/// Where iptables sees bridged packets (`br_netfilter`), such a packet is translated while it is bridged, and then it would
/// have to leave by the port it came from. Only known where the mapping says the machine's addresses.
pub fn is_reflected(network: &Network, mapping: &PortMapping) -> bool {
    let (Some(gateway), TapSelector::Exact(tap)) = (network.gateway.as_deref(), &mapping.tap) else {
        return false;
    };
    let floating = gateway.floating_ips.iter().map(|f| f.fixed_address);
    let forwards = gateway.port_forwards.iter().map(|f| f.fixed_address);
    let mut fixed = floating.chain(forwards);
    fixed.any(|fixed| mapping.addresses.contains(&fixed)) && is_expressible(*tap)
}

/// Taps whose ports need hairpin mode.
pub fn reflected(desired: &Desired) -> impl Iterator<Item = LinkName> + '_ {
    let taps = desired.exact_mappings();
    let network = |mapping: &PortMapping| desired.network(&mapping.network);
    taps.filter(move |(_, mapping)| network(mapping).is_some_and(|n| is_reflected(n, mapping)))
        .map(|(tap, _)| *tap)
}
