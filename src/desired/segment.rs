//! What a network's bridge and uplink should be.
//!
//! Length: one derivation for all types of networks, and the shapes that it fills.

use super::Desired;
use super::aware;
use super::verdict::NetworkVerdict;
use crate::model::{
    BridgeAttributes, Ifindex, LinkName, Mac, Mtu, Network, PhysicalNetwork, Segment, Vid, Vni,
    VxlanAttributes, VxlanSettings, owned,
};
use crate::observed::Observed;
use std::net::IpAddr;

/// VXLAN's cost per frame in bytes: outer Ethernet (inner header counted in the MTU) + IP + UDP + VXLAN headers.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SegmentWant {
    pub bridge: BridgeWant,
    pub uplink: UplinkWant,
    /// What the segment's ports should have when nobody says otherwise; `None`: as they come.
    pub mtu: Option<Mtu>,
    /// The MTU that the network's interface must have because somebody said so; `None`: the network follows the interface.
    pub asked_of_nic: Option<Mtu>,
    /// Text of `ifalias` on what we make.
    pub made: Box<str>,
    /// Text of `ifalias` on what we find and take over.
    pub adopted: Box<str>,
    /// On the VLAN-aware bridge that it shares with others.
    pub shared: Option<SharedWant>,
}

/// A network's place on a shared bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SharedWant {
    pub vid: Vid,
}

impl SegmentWant {
    /// The interface below, where the network has a say about its MTU.
    pub fn nic(&self) -> Option<Ifindex> {
        match self.uplink {
            UplinkWant::Flat { index, .. } => Some(index),
            UplinkWant::Vlan { parent_index, .. } => Some(parent_index),
            _ => None,
        }
    }
    /// The marks of its bridge: a shared one is nobody's own.
    pub fn bridge_marks(&self) -> Marks {
        match self.shared {
            Some(_) => Marks::shared(),
            None => self.marks(),
        }
    }
    /// The marks of its own devices.
    pub fn marks(&self) -> Marks {
        Marks {
            made: self.made.clone(),
            adopted: self.adopted.clone(),
        }
    }
}

/// Texts of `ifalias` on a device that we make, or find and take over.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Marks {
    pub made: Box<str>,
    pub adopted: Box<str>,
}

impl Marks {
    pub fn shared() -> Self {
        Self {
            made: owned::alias_shared(),
            adopted: owned::alias_shared_adopted(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BridgeWant {
    pub name: LinkName,
    /// False: an existing bridge of the operator's (`physical_networks.X.bridge`), only kept up.
    pub make: bool,
    /// Address at creation.
    pub mac: Mac,
    pub mtu: Option<Mtu>,
    pub attributes: BridgeAttributes,
    /// Whether the bridge is to carry host addresses: then IPv6 is not touched.
    pub carries_addresses: bool,
    /// The network has an IPv6 gateway address: IPv6 is switched on with that, and not off before it.
    pub gateway6: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum UplinkWant {
    None,
    /// The interface itself; its addresses move to the bridge.
    Flat {
        name: LinkName,
        index: Ifindex,
        adopt: bool,
    },
    Vlan {
        name: LinkName,
        parent: LinkName,
        parent_index: Ifindex,
        vid: Vid,
        mtu: Option<Mtu>,
    },
    Vxlan {
        name: LinkName,
        attributes: VxlanAttributes,
        mtu: Option<Mtu>,
    },
    /// The interface itself, port of the VLAN-aware bridge, for all VLAN networks on it.
    Trunk {
        name: LinkName,
        index: Ifindex,
        adopt: bool,
    },
    /// The VXLAN device of all networks; `vni` and `group` are this one's.
    SharedVxlan {
        name: LinkName,
        vni: Vni,
        group: Option<IpAddr>,
        attributes: VxlanAttributes,
        mtu: Option<Mtu>,
    },
}

impl UplinkWant {
    pub fn name(&self) -> Option<LinkName> {
        match self {
            UplinkWant::None => None,
            UplinkWant::Flat { name, .. }
            | UplinkWant::Vlan { name, .. }
            | UplinkWant::Vxlan { name, .. }
            | UplinkWant::Trunk { name, .. }
            | UplinkWant::SharedVxlan { name, .. } => Some(*name),
        }
    }
}

/// Why a segment cannot be yet: it waits for something outside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Waiting {
    #[error("waits for interface {interface} of physical network {physical}")]
    Interface { physical: String, interface: LinkName },
    #[error("waits for bridge {bridge} of physical network {physical}")]
    Bridge { physical: String, bridge: LinkName },
    #[error("physical network {0} is not configured")]
    UnknownPhysical(String),
    #[error("waits for local_ip {0} to be on a link")]
    LocalAddress(IpAddr),
    #[error("no local_ip is configured in [vxlan]")]
    NoLocalAddress,
    #[error("no VLAN id is free on {0}")]
    NoVid(LinkName),
    #[error("{0}")]
    BadName(String),
    #[error("waits for plugin {plugin}: {reason}")]
    Policy { plugin: Box<str>, reason: Box<str> },
}

/// Names of the links that a network leans on, for finding out whom an event concerns.
pub fn link_names(desired: &Desired, network: &Network) -> Vec<LinkName> {
    if let Some(shared) = aware::shared_bridge(desired, network) {
        return aware::link_names(desired, network, shared);
    }
    let mut names: Vec<LinkName> = desired.bridge_name(network).into_iter().collect();
    let physical = network
        .segment
        .physical()
        .and_then(|name| desired.physical.get(name));
    match &network.segment {
        Segment::Local => {}
        Segment::Flat { .. } => names.extend(physical.and_then(|p| p.interface)),
        Segment::Vlan { vid, .. } => {
            if let Some(parent) = physical.and_then(vlan_parent) {
                names.push(parent);
                names.extend(owned::vlan_name(&parent, *vid));
            }
        }
        Segment::Vxlan { vni } => names.extend(owned::vxlan_name(*vni)),
    }
    names
}

/// The device that a physical network's VLAN sub-interfaces ride on: its interface, else its bridge.
pub(super) fn vlan_parent(physical: &PhysicalNetwork) -> Option<LinkName> {
    physical.interface.or(physical.bridge)
}

pub fn derive_segment(
    desired: &Desired,
    observed: &Observed,
    network: &Network,
    verdict: Option<&NetworkVerdict>,
) -> Result<SegmentWant, Waiting> {
    if let Some(denial) = verdict.and_then(|v| v.deny.as_ref()) {
        return Err(Waiting::Policy {
            plugin: denial.plugin.clone(),
            reason: denial.reason.clone(),
        });
    }
    if let Some(shared) = aware::shared_bridge(desired, network) {
        return aware::derive(desired, observed, network, shared, verdict);
    }
    let name = desired
        .bridge_name(network)
        .ok_or_else(|| Waiting::BadName(format!("no bridge name for {}", network.id)))?;
    let physical = match network.segment.physical() {
        Some(physical) => Some(
            desired
                .physical
                .get(physical)
                .ok_or_else(|| Waiting::UnknownPhysical(physical.to_string()))?,
        ),
        None => None,
    };
    let asked = verdict.and_then(|v| v.mtu).or(network.mtu);
    let own_mac = |seed: &str| Mac::derived_from(&format!("{}/{name}/{seed}", desired.host));
    let mut make = true;
    let mut carries_addresses = false;
    let (uplink, mtu, mac) = match (&network.segment, physical) {
        (Segment::Flat { .. }, Some(p)) => match (p.interface, p.bridge) {
            (_, Some(bridge)) => {
                make = false;
                carries_addresses = true;
                let link = observed.by_name(&bridge).ok_or_else(|| missing(p, bridge))?;
                (
                    UplinkWant::None,
                    asked.or(Mtu::new(i64::from(link.mtu)).ok()),
                    link.mac.unwrap_or_else(|| own_mac("")),
                )
            }
            (Some(interface), None) => {
                let link = observed
                    .by_name(&interface)
                    .ok_or_else(|| missing(p, interface))?;
                // A bridge of ours that already has the interface may already have its addresses, and so may the one
                // of another network that had it until now.
                let holder = link.master.and_then(|master| observed.link(master));
                let held = holder.is_some_and(|holder| {
                    let owner = owned::Mark::read(holder.alias.as_deref()).owner();
                    owner
                        .and_then(|o| o.uplink)
                        .is_some_and(|u| u.as_bytes() == interface.as_bytes())
                        && observed.has_address(holder.index)
                });
                carries_addresses = held
                    || observed.has_address(link.index)
                    || observed
                        .by_name(&name)
                        .is_some_and(|bridge| observed.has_address(bridge.index));
                (
                    UplinkWant::Flat {
                        name: interface,
                        index: link.index,
                        adopt: p.adopt,
                    },
                    asked.or(Mtu::new(i64::from(link.mtu)).ok()),
                    link.mac.unwrap_or_else(|| own_mac("")),
                )
            }
            (None, None) => return Err(Waiting::UnknownPhysical(p.name.to_string())),
        },
        (Segment::Vlan { vid, .. }, Some(p)) => {
            let parent = vlan_parent(p).ok_or_else(|| Waiting::UnknownPhysical(p.name.to_string()))?;
            let link = observed.by_name(&parent).ok_or_else(|| missing(p, parent))?;
            let mtu = asked.or(Mtu::new(i64::from(link.mtu)).ok());
            let uplink_mtu = verdict.and_then(|v| v.uplink_mtu).or(mtu);
            let vlan = owned::vlan_name(&parent, *vid).map_err(|e| Waiting::BadName(e.to_string()))?;
            (
                UplinkWant::Vlan {
                    name: vlan,
                    parent,
                    parent_index: link.index,
                    vid: *vid,
                    mtu: uplink_mtu,
                },
                mtu,
                link.mac.unwrap_or_else(|| own_mac("")),
            )
        }
        (Segment::Vxlan { vni }, _) => {
            let name = owned::vxlan_name(*vni).map_err(|e| Waiting::BadName(e.to_string()))?;
            let (attributes, underlay_mtu) = derive_vxlan(&desired.vxlan, observed, name, *vni, verdict)?;
            let mtu = asked.or(underlay_mtu);
            let seed = desired
                .vxlan
                .local_ip
                .map_or_else(String::new, |ip| ip.to_string());
            let uplink = UplinkWant::Vxlan {
                name,
                attributes,
                mtu: verdict.and_then(|v| v.uplink_mtu).or(mtu),
            };
            (uplink, mtu, own_mac(&seed))
        }
        (Segment::Local | Segment::Flat { .. } | Segment::Vlan { .. }, _) => {
            (UplinkWant::None, asked, own_mac(""))
        }
    };
    let asked_of_nic = match &uplink {
        UplinkWant::Flat { .. } => asked,
        UplinkWant::Vlan { .. } => verdict.and_then(|v| v.uplink_mtu).or(asked),
        _ => None,
    };
    let moved_from = match &uplink {
        UplinkWant::Flat { name, .. } => Some(*name),
        _ => None,
    };
    Ok(SegmentWant {
        bridge: BridgeWant {
            name,
            make,
            mac,
            mtu,
            attributes: bridge_attributes(network, desired.guards(&network.id), verdict),
            carries_addresses,
            gateway6: network.gateway.as_deref().is_some_and(|g| g.routes(false)),
        },
        uplink,
        mtu,
        asked_of_nic,
        made: owned::alias_made(&network.id, moved_from.as_ref()),
        adopted: owned::alias_adopted(&network.id, moved_from.as_ref()),
        shared: None,
    })
}

pub(super) fn missing(physical: &PhysicalNetwork, link: LinkName) -> Waiting {
    let name = physical.name.to_string();
    match physical.bridge {
        Some(bridge) if bridge == link => Waiting::Bridge {
            physical: name,
            bridge,
        },
        _ => Waiting::Interface {
            physical: name,
            interface: link,
        },
    }
}

/// Forward delay 0 and STP off (a tap forwards at once), then the network's own options, then policy's.
fn bridge_attributes(network: &Network, guarded: bool, verdict: Option<&NetworkVerdict>) -> BridgeAttributes {
    let asked = network.bridge_options;
    let policy = verdict.map(|v| v.bridge).unwrap_or_default();
    let stp = policy.stp.or(asked.stp).unwrap_or(false);
    BridgeAttributes {
        stp: Some(stp),
        // With STP on the kernel refuses a delay under 2 s.
        forward_delay: policy
            .forward_delay
            .or(asked.forward_delay)
            .or(if stp { None } else { Some(0) }),
        ageing_time: policy.ageing_time.or(asked.ageing_time),
        multicast_snooping: policy.multicast_snooping.or(asked.multicast_snooping),
        vlan_filtering: policy.vlan_filtering.or(asked.vlan_filtering),
        vlan_default_pvid: None,
        // Such frames pass no filter of the bridge family, and a spoofed source would be learned (`br_handle_frame`).
        link_local_learning: guarded.then_some(false),
    }
}

/// What a VXLAN device called `name` should be, and the MTU that its underlay leaves.
pub(super) fn derive_vxlan(
    settings: &VxlanSettings,
    observed: &Observed,
    name: LinkName,
    vni: Vni,
    verdict: Option<&NetworkVerdict>,
) -> Result<(VxlanAttributes, Option<Mtu>), Waiting> {
    let local = settings.local_ip.ok_or(Waiting::NoLocalAddress)?;
    let standing = observed.by_name(&name);
    let underlay = observed.link_with_address(local);
    if underlay.is_none() && standing.is_none() {
        return Err(Waiting::LocalAddress(local));
    }
    // While the address is away (DHCP renewal), what stands keeps its underlay.
    let link = underlay.map(|l| l.index).or(standing.and_then(|l| match &l.kind {
        crate::model::LinkKind::Vxlan(v) => v.link,
        _ => None,
    }));
    let overhead = if local.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    // What stands keeps its MTU, too, while the address is away.
    let kept = standing.filter(|_| underlay.is_none()).map(|l| l.mtu);
    let mtu = underlay
        // Loopback's 65536 says nothing about a path.
        .filter(|l| l.mtu <= Mtu::MAX)
        .map(|l| l.mtu.saturating_sub(overhead))
        .or(kept)
        .and_then(|mtu| Mtu::new(i64::from(mtu)).ok());
    let attributes = VxlanAttributes {
        vni: vni.get(),
        local: Some(local),
        group: settings.group_for(vni),
        link,
        dstport: settings.dstport(),
        ttl: verdict.and_then(|v| v.vxlan_ttl).or(settings.ttl).unwrap_or(0),
        tos: verdict
            .and_then(|v| v.vxlan_tos)
            .unwrap_or_else(|| settings.effective_tos()),
        learning: verdict
            .and_then(|v| v.vxlan_learning)
            .unwrap_or(!settings.l2_population),
        proxy: settings.arp_responder,
        srcport: settings.srcport.unwrap_or((0, 0)),
        external: false,
        vnifilter: false,
    };
    Ok((attributes, mtu))
}
