//! Checks across tables and files: everything that is defined once, every reference, every device name.
//!
//! Each check is one pass with hash maps, so that a hundred thousand networks cost what one costs, a hundred
//! thousand times.

use super::network::NetworkDraft;
use super::physical::{Physical, PhysicalNetworks};
use super::place::{At, Place};
use super::port::PortDraft;
use super::report::Findings;
use super::suggest;
use super::vxlan::Vxlan;
use crate::model::{LinkName, NetworkId, PortId, Segment, TapSelector, Vid, Vni, owned};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What a device name is used for.
#[derive(Clone, Copy)]
enum Use<'a> {
    Interface(&'a str),
    MappedBridge(&'a str),
    /// Index into the networks; the bridge's name is explicit or derived.
    Bridge {
        network: usize,
        explicit: bool,
    },
    VlanDevice {
        network: usize,
    },
    VxlanDevice {
        network: usize,
    },
}

impl Use<'_> {
    fn describe(&self, networks: &[NetworkDraft]) -> String {
        let label = |index: usize| networks.get(index).map_or("", |n| n.label());
        match *self {
            Use::Interface(name) => format!("the interface of physical network `{name}`"),
            Use::MappedBridge(name) => format!("the bridge of physical network `{name}`"),
            Use::Bridge { network, .. } => format!("the bridge of network `{}`", label(network)),
            Use::VlanDevice { network } => format!("the VLAN device of network `{}`", label(network)),
            Use::VxlanDevice { network } => format!("the VXLAN device of network `{}`", label(network)),
        }
    }
}

/// Device name -> its use and the place that gave it.
type Devices<'a> = HashMap<LinkName, (Use<'a>, Place)>;

pub(super) fn networks(
    networks: &[NetworkDraft],
    physical: &PhysicalNetworks,
    vxlan: &Vxlan,
    complete: bool,
    findings: &mut Findings,
) {
    unique_ids(networks, findings);
    if complete {
        known_physical_networks(networks, physical, findings);
    }
    let mut devices = Devices::with_capacity(networks.len() * 2 + physical.known.len());
    mapped_devices(physical, &mut devices, findings);
    let mut vids: HashMap<(LinkName, Vid), usize> = HashMap::new();
    let mut vnis: HashMap<Vni, usize> = HashMap::new();
    let mut flats: HashMap<LinkName, usize> = HashMap::new();
    let mut underlay_reported = false;

    for (index, draft) in networks.iter().enumerate() {
        let Some(network) = &draft.network else {
            continue;
        };
        let label = draft.label();
        // The names of a duplicate's devices collide too: once said is enough.
        let mut duplicate = false;
        let mut own_bridge = true;
        let other = |first: usize| {
            networks
                .get(first)
                .map(|n| (n.label(), n.segmentation_place(), n.physical_place()))
        };
        match &network.segment {
            Segment::Local => {}
            Segment::Flat { physical: name } => {
                let mapping = physical.known.get(name);
                let mapped_bridge = mapping.and_then(|p| p.value.bridge);
                own_bridge = mapped_bridge.is_none();
                if let (Some(mapped), Some(bridge)) = (
                    mapped_bridge,
                    draft.bridge.filter(|b| Some(b.value) != mapped_bridge),
                ) {
                    findings
                        .error(bridge.place, format!("network `{label}` can't have a bridge of its own: physical network `{name}` brings {mapped}"))
                        .hint(format!("leave `bridge` out: its taps go to {mapped}"))
                        .related(mapping.and_then(|p| p.bridge).unwrap_or(bridge.place), "the bridge is mapped here");
                }
                if let Some(device) = mapped_bridge.or(mapping.and_then(|p| p.value.interface)) {
                    let first = *flats.entry(device).or_insert(index);
                    if let Some((first, _, place)) = other(first).filter(|_| first != index) {
                        duplicate = true;
                        findings
                            .error(
                                draft.physical_place(),
                                format!("networks `{first}` and `{label}` are both flat on {device}"),
                            )
                            .hint("untagged frames can belong to one network only; give one of them a vlan")
                            .related(place, "the first flat network");
                    }
                }
            }
            Segment::Vlan { physical: name, vid } => {
                if let Some(parent) = physical.known.get(name).and_then(Physical::parent) {
                    let first = *vids.entry((parent, *vid)).or_insert(index);
                    if let Some((first, place, _)) = other(first).filter(|_| first != index) {
                        duplicate = true;
                        findings
                            .error(draft.segmentation_place(), format!("networks `{first}` and `{label}` both use vlan {vid} on {parent}"))
                            .hint("a vlan id belongs to one network on an interface; two ids of one network are one [[network]]")
                            .related(place, "it is first used here");
                    } else if let Ok(device) = owned::vlan_name(&parent, *vid) {
                        let place = draft.segmentation_place();
                        claim(
                            &mut devices,
                            device,
                            Use::VlanDevice { network: index },
                            place,
                            networks,
                            findings,
                        );
                    }
                }
            }
            Segment::Vxlan { vni } => {
                let first = *vnis.entry(*vni).or_insert(index);
                if let Some((first, place, _)) = other(first).filter(|_| first != index) {
                    duplicate = true;
                    findings
                        .error(
                            draft.segmentation_place(),
                            format!("networks `{first}` and `{label}` both use VNI {vni}"),
                        )
                        .hint("a VNI belongs to one network")
                        .related(place, "it is first used here");
                } else if let Ok(device) = owned::vxlan_name(*vni) {
                    let place = draft.segmentation_place();
                    claim(
                        &mut devices,
                        device,
                        Use::VxlanDevice { network: index },
                        place,
                        networks,
                        findings,
                    );
                }
                underlay(draft, *vni, vxlan, &mut underlay_reported, findings);
            }
        }
        if own_bridge && !(duplicate && draft.bridge.is_none()) {
            bridge(index, draft, &mut devices, networks, findings);
        }
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

/// Two physical networks may share a device; one's interface can't be another's bridge.
fn mapped_devices<'a>(physical: &'a PhysicalNetworks, devices: &mut Devices<'a>, findings: &mut Findings) {
    for (name, mapping) in &physical.known {
        let interface = mapping
            .value
            .interface
            .map(|i| (i, Use::Interface(name.as_str()), mapping.interface));
        let bridge = mapping
            .value
            .bridge
            .map(|b| (b, Use::MappedBridge(name.as_str()), mapping.bridge));
        for (device, purpose, place) in interface.into_iter().chain(bridge) {
            let place = place.unwrap_or(mapping.place);
            match devices.entry(device) {
                Entry::Vacant(entry) => {
                    entry.insert((purpose, place));
                }
                Entry::Occupied(first) => {
                    let (before, first) = first.get();
                    if std::mem::discriminant(before) != std::mem::discriminant(&purpose) {
                        findings
                            .error(place, format!("{device} can't be {} and {}", before.describe(&[]), purpose.describe(&[])))
                            .hint("a bridge can't be a port of a bridge: name the NIC as `interface`, or the bridge as `bridge`")
                            .related(*first, "it is first used here");
                    }
                }
            }
        }
    }
}

/// The bridge that a network makes for itself.
fn bridge<'a>(
    index: usize,
    draft: &NetworkDraft,
    devices: &mut Devices<'a>,
    networks: &[NetworkDraft],
    findings: &mut Findings,
) {
    let (name, place, explicit) = match (&draft.bridge, &draft.id) {
        (Some(bridge), _) => (bridge.value, bridge.place, true),
        (None, Some(id)) => match owned::bridge_name(&id.value) {
            Ok(name) => (name, id.place, false),
            Err(error) => {
                findings
                    .error(id.place, error.to_string())
                    .hint("name its bridge: bridge = \"br100\"");
                return;
            }
        },
        (None, None) => return,
    };
    // A network defined twice is reported as such; its bridge's name adds nothing.
    if let (
        Some(id),
        Some((
            Use::Bridge {
                network,
                explicit: false,
            },
            _,
        )),
        false,
    ) = (&draft.id, devices.get(&name), explicit)
    {
        let first = networks.get(*network).and_then(|n| n.id.as_ref());
        if first.is_some_and(|first| first.value == id.value) {
            return;
        }
    }
    claim(
        devices,
        name,
        Use::Bridge {
            network: index,
            explicit,
        },
        place,
        networks,
        findings,
    );
}

/// Takes a device name for one use, or reports who has it.
fn claim<'a>(
    devices: &mut Devices<'a>,
    name: LinkName,
    purpose: Use<'a>,
    place: Place,
    networks: &[NetworkDraft],
    findings: &mut Findings,
) {
    let entry = match devices.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert((purpose, place));
            return;
        }
        Entry::Occupied(entry) => entry,
    };
    let (before, first) = entry.get();
    let hint = match (before, &purpose) {
        (Use::Bridge { explicit: false, .. }, Use::Bridge { explicit: false, .. }) => {
            "a bridge is named brq + the first 11 characters of the id, and these are the same: give one of them `bridge = \"...\"`"
        }
        (_, Use::Bridge { explicit: true, .. }) => {
            "choose another name: `bridge` is the network's own device"
        }
        (Use::Bridge { explicit: true, .. }, _) => {
            "give the network that names it explicitly another `bridge`"
        }
        (Use::VlanDevice { .. }, Use::VlanDevice { .. }) => {
            "long interface names are shortened to four characters and six of their hash; rename one of the interfaces"
        }
        _ => "one of the two must get another name",
    };
    findings
        .error(
            place,
            format!(
                "{name} would be {} and {}",
                before.describe(networks),
                purpose.describe(networks)
            ),
        )
        .hint(hint)
        .related(*first, "the first use");
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
) -> Vec<Option<NetworkId>> {
    unique_ports(ports, findings);
    unique_taps(ports, networks, findings);
    let known: HashMap<&str, &NetworkId> = networks
        .iter()
        .filter_map(|n| n.id.as_ref())
        .map(|id| (id.value.as_str(), &id.value))
        .collect();
    let mut by_name: Option<HashMap<&str, &NetworkId>> = None;
    let mut resolved = Vec::with_capacity(ports.len());
    for port in ports {
        let Some(network) = &port.network else {
            resolved.push(None);
            continue;
        };
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
        resolved.push(found);
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
