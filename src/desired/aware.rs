//! What a network should be on the one VLAN-aware bridge (`[bridge] mode = "vlan-aware"`).
//!
//! A network is a VLAN of the bridge, and nothing else: its taps are ports with that VLAN untagged (`pvid`), a trunk
//! port has further ones. New ports are in no VLAN at all (`vlan_default_pvid 0`), so a port forwards nothing before it
//! was told where it belongs. What takes the VLAN off the host depends on the network's type:
//!
//! | type | uplink |
//! |---|---|
//! | local | none |
//! | vlan, physical network with `trunk = true` | the NIC itself is a port and has the VLAN tagged: one port for all VLANs. The VLAN of the bridge is the segmentation id |
//! | vlan, otherwise | a sub-interface `eth1.200` as in the other mode, a port with the network's VLAN untagged. The NIC stays the host's own: it may have addresses, and the same VID on two NICs is two networks |
//! | vxlan | one VXLAN device for all (`external`, `vnifilter`), a port with `vlan_tunnel`: the network's VLAN stands for its VNI; forwarding entries carry the VNI (`src_vni`) |
//! | flat | not here: a bridge of its own, as in the other mode |
//!
//! Flat networks keep their own bridge because the host's addresses move to it, and a bridge with many networks has no
//! one place for them; there is one flat network for a NIC, so their number is no burden. A NIC cannot be a port of two
//! bridges: a physical network with `trunk` has no flat network (the configuration is refused).
//!
//! Differences that follow from sharing: the bridge's options come from `[bridge]`, not from networks or policy; a
//! network's MTU is that of its taps (and sub-interface), since only ports bound what the bridge forwards; TTL, TOS and
//! learning of VXLAN are the host's.

use super::Desired;
use super::segment::{
    BridgeWant, SegmentWant, SharedWant, UplinkWant, Waiting, derive_vxlan, missing, vlan_parent,
};
use super::verdict::NetworkVerdict;
use crate::model::{
    BridgeAttributes, LinkName, Mac, Mtu, Network, Segment, SharedBridge, VxlanAttributes, owned,
};
use crate::observed::Observed;

/// The bridge that this network shares, if it does.
pub fn shared_bridge<'a>(desired: &'a Desired, network: &Network) -> Option<&'a SharedBridge> {
    let shared = desired.mode.shared()?;
    (!matches!(network.segment, Segment::Flat { .. })).then_some(shared)
}

/// Names of the links that such a network leans on.
pub(super) fn link_names(desired: &Desired, network: &Network, shared: &SharedBridge) -> Vec<LinkName> {
    let mut names = vec![shared.name];
    match &network.segment {
        Segment::Local | Segment::Flat { .. } => {}
        Segment::Vlan { physical, vid } => {
            if let Some(physical) = desired.physical.get(physical)
                && let Some(parent) = vlan_parent(physical)
            {
                names.push(parent);
                if !physical.trunk {
                    names.extend(owned::vlan_name(&parent, *vid));
                }
            }
        }
        Segment::Vxlan { .. } => names.extend(owned::shared_vxlan_name()),
    }
    names
}

pub(super) fn derive(
    desired: &Desired,
    observed: &Observed,
    network: &Network,
    shared: &SharedBridge,
    verdict: Option<&NetworkVerdict>,
) -> Result<SegmentWant, Waiting> {
    let chosen = desired.vids.get(&network.id);
    let vid = chosen
        .or_else(|| super::vid::choose(desired, network, |vid| observed.is_vid_in_use(vid)))
        .ok_or(Waiting::NoVid(shared.name))?;
    let asked = verdict.and_then(|v| v.mtu).or(network.mtu);
    let (uplink, mtu) = match &network.segment {
        Segment::Local | Segment::Flat { .. } => (UplinkWant::None, asked),
        Segment::Vlan { physical, vid: tag } => {
            let unknown = || Waiting::UnknownPhysical(physical.to_string());
            let physical = desired.physical.get(physical).ok_or_else(unknown)?;
            let parent = vlan_parent(physical).ok_or_else(unknown)?;
            let link = observed
                .by_name(&parent)
                .ok_or_else(|| missing(physical, parent))?;
            let mtu = asked.or(Mtu::new(i64::from(link.mtu)).ok());
            let uplink = if physical.trunk {
                UplinkWant::Trunk {
                    name: parent,
                    index: link.index,
                    adopt: physical.adopt,
                }
            } else {
                UplinkWant::Vlan {
                    name: owned::vlan_name(&parent, *tag).map_err(|e| Waiting::BadName(e.to_string()))?,
                    parent,
                    parent_index: link.index,
                    vid: *tag,
                    mtu: verdict.and_then(|v| v.uplink_mtu).or(mtu),
                }
            };
            (uplink, mtu)
        }
        Segment::Vxlan { vni } => {
            let name = owned::shared_vxlan_name().map_err(|e| Waiting::BadName(e.to_string()))?;
            let (attributes, underlay_mtu) = derive_vxlan(&desired.vxlan, observed, name, *vni, None)?;
            let uplink = UplinkWant::SharedVxlan {
                name,
                vni: *vni,
                group: attributes.group,
                attributes: VxlanAttributes {
                    vni: 0,
                    group: None,
                    proxy: false,
                    external: true,
                    vnifilter: true,
                    ..attributes
                },
                mtu: underlay_mtu,
            };
            (uplink, asked.or(underlay_mtu))
        }
    };
    let asked_of_nic = match &uplink {
        UplinkWant::Vlan { .. } => verdict.and_then(|v| v.uplink_mtu).or(asked),
        _ => None,
    };
    Ok(SegmentWant {
        asked_of_nic,
        bridge: BridgeWant {
            name: shared.name,
            make: true,
            mac: Mac::derived_from(&format!("{}/{}", desired.host, shared.name)),
            // It bounds nothing (the bridge itself sends nothing), but an MTU that nobody set follows the smallest port.
            mtu: Mtu::new(1500).ok(),
            attributes: BridgeAttributes {
                stp: Some(false),
                forward_delay: Some(0),
                vlan_filtering: Some(true),
                vlan_default_pvid: Some(0),
                link_local_learning: desired.guards_anything().then_some(false),
                ..shared.attributes
            },
            carries_addresses: false,
            gateway6: false,
        },
        uplink,
        mtu,
        made: owned::alias_made(&network.id, None),
        adopted: owned::alias_adopted(&network.id, None),
        shared: Some(SharedWant { vid }),
    })
}
