//! What a VLAN-aware bridge asks of the configuration: what is one for all networks cannot be told for one.

use super::network::NetworkDraft;
use super::physical::PhysicalNetworks;
use super::place::Place;
use super::report::Findings;
use super::vxlan::Vxlan;
use crate::model::{BridgeAttributes, BridgeMode, Segment, SharedBridge, Vid};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// `[bridge]`, as read.
#[derive(Debug, Default)]
pub(super) struct BridgeSettings {
    /// Defaults for the networks' own bridges.
    pub attributes: BridgeAttributes,
    pub mode: BridgeMode,
    /// Of `name`, else of `mode`.
    pub place: Option<Place>,
}

pub(super) fn check(
    networks: &[NetworkDraft],
    physical: &PhysicalNetworks,
    vxlan: &Vxlan,
    bridge: &BridgeSettings,
    findings: &mut Findings,
) {
    let Some(shared) = bridge.mode.shared() else {
        return;
    };
    let mut tags: HashMap<Vid, &NetworkDraft> = HashMap::new();
    let mut responder_reported = false;
    for draft in networks {
        let Some(network) = &draft.network else {
            continue;
        };
        let mapping = network
            .segment
            .physical()
            .and_then(|name| physical.known.get(name));
        let trunk = mapping.filter(|mapping| mapping.value.trunk);
        match &network.segment {
            Segment::Flat { .. } => {
                if let Some(trunk) = trunk.filter(|trunk| trunk.value.bridge.is_none()) {
                    findings
                        .error(
                            draft.physical_place(),
                            format!("network `{}` can't be flat on a trunk", draft.label()),
                        )
                        .hint("an interface is a port of one bridge: take `trunk` away (VLAN networks then have sub-interfaces), or use another interface")
                        .related(trunk.place, "it is made a trunk here");
                }
                continue;
            }
            Segment::Vlan { vid, .. } if trunk.is_some() => one_tag(draft, *vid, &mut tags, findings),
            Segment::Vxlan { .. } if vxlan.settings.arp_responder => {
                if !std::mem::replace(&mut responder_reported, true) {
                    findings
                        .error(
                            draft.place,
                            "`arp_responder` needs a VXLAN device for each network",
                        )
                        .hint("set arp_responder = false, or mode = \"per-network\" in [bridge]");
                }
            }
            Segment::Local | Segment::Vlan { .. } | Segment::Vxlan { .. } => {}
        }
        own_options(draft, shared, findings);
    }
}

/// A tag on a trunk is the VLAN of the bridge, whatever the interface.
fn one_tag<'a>(
    draft: &'a NetworkDraft,
    vid: Vid,
    tags: &mut HashMap<Vid, &'a NetworkDraft>,
    findings: &mut Findings,
) {
    match tags.entry(vid) {
        Entry::Vacant(entry) => {
            entry.insert(draft);
        }
        Entry::Occupied(first) => {
            let first = first.get();
            let same = |d: &NetworkDraft| d.network.as_ref().and_then(|n| n.segment.physical().cloned());
            if same(first) == same(draft) {
                // Said already: one segment, two networks.
                return;
            }
            findings
                .error(
                    draft.segmentation_place(),
                    format!(
                        "networks `{}` and `{}` both have VLAN {vid} on a trunk",
                        first.label(),
                        draft.label()
                    ),
                )
                .hint("trunks share the bridge's VLANs: take `trunk` away from one of the physical networks")
                .related(first.segmentation_place(), "it is first used here");
        }
    }
}

fn own_options(draft: &NetworkDraft, shared: &SharedBridge, findings: &mut Findings) {
    if let Some(bridge) = &draft.bridge {
        findings
            .error(
                bridge.place,
                format!(
                    "network `{}` can't have a bridge of its own: all are on {}",
                    draft.label(),
                    shared.name
                ),
            )
            .hint("leave `bridge` out, or set mode = \"per-network\" in [bridge]");
    }
    let snooping = draft
        .network
        .as_ref()
        .and_then(|n| n.bridge_options.multicast_snooping);
    if snooping.is_some() {
        findings
            .error(
                draft.place,
                format!(
                    "network `{}` can't have `mcast_snooping` of its own: all are on {}",
                    draft.label(),
                    shared.name
                ),
            )
            .hint("set it in [bridge]");
    }
}
