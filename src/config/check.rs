//! Checks across tables and files: everything that is defined once, every reference, every device name.
//!
//! Each check is one pass with hash maps, so that a hundred thousand networks cost what one costs, a hundred
//! thousand times.

use super::aware::BridgeSettings;
use super::devices::Devices;
use super::network::NetworkDraft;
use super::physical::{Physical, PhysicalNetworks};
use super::place::{At, Place};
use super::port::{PortDraft, PortNetworks, SubPortDraft};
use super::report::Findings;
use super::suggest;
use super::vxlan::Vxlan;
use crate::model::{LinkName, NetworkId, PortId, Segment, SubPort, TapSelector, Vid, Vni};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

pub(super) fn networks(
    networks: &[NetworkDraft],
    physical: &PhysicalNetworks,
    vxlan: &Vxlan,
    bridge: &BridgeSettings,
    complete: bool,
    findings: &mut Findings,
) {
    unique_ids(networks, findings);
    if complete {
        known_physical_networks(networks, physical, findings);
    }
    let mut devices = Devices::mapped(physical, networks, findings);
    let shared = bridge.mode.shared();
    if let (Some(shared), Some(place)) = (shared, bridge.place) {
        devices.shared(shared.name, place, findings);
    }
    let mut segments = Segments::default();
    let mut underlay_reported = false;
    for (index, draft) in networks.iter().enumerate() {
        let Some(network) = &draft.network else {
            continue;
        };
        let mapping = network
            .segment
            .physical()
            .and_then(|name| physical.known.get(name));
        let mut own_bridge = shared.is_none();
        // The device names of a segment used twice collide too: once said is enough.
        let mut unique = true;
        match &network.segment {
            Segment::Local => {}
            Segment::Flat { .. } => {
                let mapped = mapping.and_then(|m| m.value.bridge);
                own_bridge = mapped.is_none();
                if let (Some(mapping), Some(mapped)) = (mapping, mapped) {
                    no_bridge_besides(draft, mapping, mapped, findings);
                }
                if let Some(device) = mapped.or(mapping.and_then(|m| m.value.interface)) {
                    unique = segments.flat(index, device, networks, findings);
                }
            }
            Segment::Vlan { vid, .. } => {
                if let Some(parent) = mapping.and_then(Physical::parent) {
                    unique = segments.vlan(index, parent, *vid, networks, findings);
                    let trunk = shared.is_some() && mapping.is_some_and(|m| m.value.trunk);
                    if unique && !trunk {
                        devices.vlan(index, parent, *vid, draft.segmentation_place(), findings);
                    }
                }
            }
            Segment::Vxlan { vni } => {
                unique = segments.vxlan(index, *vni, networks, findings);
                if unique && shared.is_none() {
                    devices.vxlan(index, *vni, draft.segmentation_place(), findings);
                }
                underlay(draft, *vni, vxlan, &mut underlay_reported, findings);
            }
        }
        if own_bridge && (unique || draft.bridge.is_some()) {
            devices.bridge(index, draft, findings);
        }
    }
}

/// Who uses which segment: index of the first network for each.
#[derive(Default)]
struct Segments {
    flat: HashMap<LinkName, usize>,
    vlan: HashMap<(LinkName, Vid), usize>,
    vxlan: HashMap<Vni, usize>,
}

impl Segments {
    /// Each of these reports a second user and tells whether this is the first.
    fn flat(
        &mut self,
        index: usize,
        device: LinkName,
        networks: &[NetworkDraft],
        findings: &mut Findings,
    ) -> bool {
        let first = *self.flat.entry(device).or_insert(index);
        let pair = (networks.get(first), networks.get(index));
        if let (Some(one), Some(two)) = pair
            && first != index
        {
            findings
                .error(
                    two.physical_place(),
                    format!(
                        "networks `{}` and `{}` are both flat on {device}",
                        one.label(),
                        two.label()
                    ),
                )
                .hint("untagged frames can belong to one network only; give one of them a vlan")
                .related(one.physical_place(), "the first flat network");
        }
        first == index
    }

    fn vlan(
        &mut self,
        index: usize,
        parent: LinkName,
        vid: Vid,
        networks: &[NetworkDraft],
        findings: &mut Findings,
    ) -> bool {
        let first = *self.vlan.entry((parent, vid)).or_insert(index);
        let what = format_args!("vlan {vid} on {parent}");
        let hint =
            "a vlan id belongs to one network on an interface; two ids of one network are one [[network]]";
        used_once(networks, first, index, what, hint, findings)
    }

    fn vxlan(&mut self, index: usize, vni: Vni, networks: &[NetworkDraft], findings: &mut Findings) -> bool {
        let first = *self.vxlan.entry(vni).or_insert(index);
        used_once(
            networks,
            first,
            index,
            format_args!("VNI {vni}"),
            "a VNI belongs to one network",
            findings,
        )
    }
}

fn used_once(
    networks: &[NetworkDraft],
    first: usize,
    index: usize,
    what: std::fmt::Arguments<'_>,
    hint: &str,
    findings: &mut Findings,
) -> bool {
    if let (Some(one), Some(two)) = (networks.get(first), networks.get(index))
        && first != index
    {
        findings
            .error(
                two.segmentation_place(),
                format!("networks `{}` and `{}` both use {what}", one.label(), two.label()),
            )
            .hint(hint)
            .related(one.segmentation_place(), "it is first used here");
    }
    first == index
}

/// A flat network on a physical network with a bridge uses that bridge.
fn no_bridge_besides(draft: &NetworkDraft, mapping: &Physical, mapped: LinkName, findings: &mut Findings) {
    if let Some(bridge) = draft.bridge.filter(|bridge| bridge.value != mapped) {
        let (label, name) = (draft.label(), &mapping.value.name);
        findings
            .error(
                bridge.place,
                format!("network `{label}` can't have a bridge of its own: physical network `{name}` brings {mapped}"),
            )
            .hint(format!("leave `bridge` out: its taps go to {mapped}"))
            .related(mapping.bridge.unwrap_or(mapping.place), "the bridge is mapped here");
    }
}

fn known_physical_networks(networks: &[NetworkDraft], physical: &PhysicalNetworks, findings: &mut Findings) {
    for draft in networks {
        let Some(name) = draft.network.as_ref().and_then(|n| n.segment.physical()) else {
            continue;
        };
        if !physical.known.contains_key(name) && !physical.refused.contains(name.as_str()) {
            let hint = physical.hint(name.as_str(), findings);
            findings
                .error(
                    draft.physical_place(),
                    format!("unknown physical_network \"{name}\""),
                )
                .hint(hint);
        }
    }
}

fn unique_ids(networks: &[NetworkDraft], findings: &mut Findings) {
    let mut ids: HashMap<&NetworkId, Place> = HashMap::with_capacity(networks.len());
    for id in networks.iter().filter_map(|n| n.id.as_ref()) {
        match ids.entry(&id.value) {
            Entry::Vacant(entry) => {
                entry.insert(id.place);
            }
            Entry::Occupied(first) => {
                findings
                    .error(id.place, format!("network `{}` is defined twice", id.value))
                    .hint("remove one of them, or give it its own id")
                    .related(*first.get(), "it is first defined here");
            }
        }
    }
}

/// A VXLAN network needs a source address and some way to reach the others.
fn underlay(draft: &NetworkDraft, vni: Vni, vxlan: &Vxlan, reported: &mut bool, findings: &mut Findings) {
    if vxlan.refused {
        return;
    }
    let settings = &vxlan.settings;
    let Some(local) = settings.local_ip else {
        // Every VXLAN network has the same cause: once is enough.
        if !std::mem::replace(reported, true) {
            let error = findings.error(
                draft.place,
                format!("vxlan network `{}` needs `local_ip` in [vxlan]", draft.label()),
            );
            error.hint("add [vxlan] with local_ip = \"192.0.2.11\", the address VXLAN packets leave from");
            if let Some(header) = vxlan.header {
                error.related(header, "it has no `local_ip`");
            }
        }
        return;
    };
    for peer in &draft.peers {
        if peer.value.vtep.is_ipv4() != local.is_ipv4() {
            let error = findings.error(
                peer.place,
                format!(
                    "vtep {} is of another family than local_ip {local}",
                    peer.value.vtep
                ),
            );
            error.hint("all VXLAN packets of a host leave from its local_ip");
            if let Some(place) = vxlan.local_ip {
                error.related(place, "local_ip is set here");
            }
        }
    }
    if !settings.l2_population && settings.group_for(vni).is_none() && draft.peers.is_empty() {
        findings
            .error(draft.segmentation_place(), format!("vxlan network `{}` has no way to reach other hosts", draft.label()))
            .hint(format!("set vxlan_group in [vxlan], a multicast_ranges term that holds {vni}, or l2_population = true; or give it a [[network.peer]]"));
    }
}

/// Checks the ports; `complete` is false when some file could not be read, so that a network that is not known may be
/// in there. The result has the network of each port, in order, where it is known.
pub(super) fn ports(
    ports: &[PortDraft],
    networks: &[NetworkDraft],
    complete: bool,
    findings: &mut Findings,
) -> Vec<Option<PortNetworks>> {
    unique_ports(ports, findings);
    unique_taps(ports, networks, findings);
    let known: HashMap<&str, &NetworkId> = networks
        .iter()
        .filter_map(|n| n.id.as_ref())
        .map(|id| (id.value.as_str(), &id.value))
        .collect();
    let mut by_name: Option<HashMap<&str, &NetworkId>> = None;
    let mut look_up = |network: &At<Box<str>>, findings: &mut Findings| {
        let found = known.get(&*network.value).map(|id| (*id).clone());
        if found.is_none() && complete {
            // Only built for a file that is refused anyway.
            let by_name = by_name.get_or_insert_with(|| {
                let named = networks.iter().filter_map(|n| n.network.as_ref());
                named.filter_map(|n| Some((n.name.as_deref()?, &n.id))).collect()
            });
            let hint = if let Some(id) = by_name.get(&*network.value) {
                format!("that is a name, for people; write its id: network = \"{id}\"")
            } else if let Some(near) = suggest::nearest(
                findings,
                &network.value,
                networks
                    .iter()
                    .filter_map(|n| n.id.as_ref())
                    .map(|id| id.value.as_str()),
            ) {
                format!("did you mean \"{near}\"?")
            } else {
                "declare it: a [[network]] with this id, in this file or an included one".to_owned()
            };
            findings
                .error(network.place, format!("unknown network {:?}", network.value))
                .hint(hint);
        }
        found
    };
    let mut resolved = Vec::with_capacity(ports.len());
    for port in ports {
        port.check_sub_ports(findings);
        let own = port
            .network
            .as_ref()
            .and_then(|network| look_up(network, findings));
        let sub_port = |sub: &SubPortDraft| {
            let (vid, network) = (sub.vid, look_up(&sub.network, findings)?);
            Some(SubPort { vid, network })
        };
        let mut sub_ports: Vec<SubPort> = port.sub_ports.iter().filter_map(sub_port).collect();
        sub_ports.sort();
        resolved.push(own.map(|own| PortNetworks { own, sub_ports }));
    }
    resolved
}

fn unique_ports(ports: &[PortDraft], findings: &mut Findings) {
    let mut ids: HashMap<&PortId, Place> = HashMap::with_capacity(ports.len());
    for id in ports.iter().filter_map(|p| p.id.as_ref()) {
        match ids.entry(&id.value) {
            Entry::Vacant(entry) => {
                entry.insert(id.place);
            }
            Entry::Occupied(first) => {
                findings
                    .error(id.place, format!("port `{}` is defined twice", id.value))
                    .hint("remove one of them, or give it its own id")
                    .related(*first.get(), "it is first defined here");
            }
        }
    }
}

/// A tap, or a pattern, belongs to one port.
fn unique_taps(ports: &[PortDraft], networks: &[NetworkDraft], findings: &mut Findings) {
    let explicit: HashMap<LinkName, &NetworkDraft> = networks
        .iter()
        .filter_map(|n| Some((n.bridge.as_ref()?.value, n)))
        .collect();
    let mut taps: HashMap<&[u8], (&PortDraft, Place)> = HashMap::with_capacity(ports.len());
    for port in ports {
        let Some(At { value, place }) = &port.tap else {
            continue;
        };
        let (bytes, word) = match value {
            TapSelector::Exact(name) => {
                if let Some(network) = explicit.get(name) {
                    findings
                        .error(
                            *place,
                            format!(
                                "{name} can't be a tap: it is the bridge of network `{}`",
                                network.label()
                            ),
                        )
                        .hint("name the machine's own tap device")
                        .related(
                            network.bridge.as_ref().map_or(network.place, |b| b.place),
                            "the bridge is named here",
                        );
                }
                (name.as_bytes(), name.to_string())
            }
            TapSelector::Pattern(pattern) => (pattern.as_str().as_bytes(), pattern.as_str().to_owned()),
        };
        match taps.entry(bytes) {
            Entry::Vacant(entry) => {
                entry.insert((port, *place));
            }
            Entry::Occupied(entry) => {
                let (first, first_place) = entry.get();
                let same_id = match (&first.id, &port.id) {
                    (Some(a), Some(b)) => a.value == b.value,
                    _ => false,
                };
                // A port defined twice is reported as such.
                if same_id && first.derived && port.derived {
                    continue;
                }
                let hint = if first.derived && port.derived {
                    "a tap is named tap + the first 11 characters of the port's id, and these are the same: give one of them `tap = \"...\"`"
                } else {
                    "a tap belongs to one port"
                };
                findings
                    .error(*place, format!("tap {word} is given to two ports"))
                    .hint(hint)
                    .related(*first_place, "it is first given here");
            }
        }
    }
}
