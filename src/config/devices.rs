//! Device names: each belongs to one use, and a collision names both.
//!
//! Names are made by `model::owned` only; here they are compared, over all networks and with the devices that
//! `[physical_networks]` maps.

use super::network::NetworkDraft;
use super::physical::PhysicalNetworks;
use super::place::Place;
use super::report::Findings;
use crate::model::{LinkName, Vid, Vni, owned};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What a device name is used for.
#[derive(Clone, Copy)]
enum Use<'a> {
    Interface(&'a str),
    MappedBridge(&'a str),
    SharedBridge,
    SharedVxlan,
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
            Use::SharedBridge => "the bridge of all networks".to_owned(),
            Use::SharedVxlan => "the VXLAN device of all networks".to_owned(),
            Use::Bridge { network, .. } => format!("the bridge of network `{}`", label(network)),
            Use::VlanDevice { network } => format!("the VLAN device of network `{}`", label(network)),
            Use::VxlanDevice { network } => format!("the VXLAN device of network `{}`", label(network)),
        }
    }
}

/// Every device name in use, with the place that gave it.
pub(super) struct Devices<'a> {
    names: HashMap<LinkName, (Use<'a>, Place)>,
    networks: &'a [NetworkDraft],
}

impl<'a> Devices<'a> {
    /// The mapped devices. Two physical networks may share one; one's interface can't be another's bridge.
    pub fn mapped(
        physical: &'a PhysicalNetworks,
        networks: &'a [NetworkDraft],
        findings: &mut Findings,
    ) -> Self {
        let mut names = HashMap::with_capacity(networks.len() * 2 + physical.known.len());
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
                match names.entry(device) {
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
        Self { names, networks }
    }

    /// What networks share on a VLAN-aware bridge.
    pub fn shared(&mut self, bridge: LinkName, place: Place, findings: &mut Findings) {
        self.claim(bridge, Use::SharedBridge, place, findings);
        if let Ok(vxlan) = owned::shared_vxlan_name() {
            self.claim(vxlan, Use::SharedVxlan, place, findings);
        }
    }

    /// The sub-interface of the network with this index.
    pub fn vlan(
        &mut self,
        network: usize,
        parent: LinkName,
        vid: Vid,
        place: Place,
        findings: &mut Findings,
    ) {
        match owned::vlan_name(&parent, vid) {
            Ok(name) => self.claim(name, Use::VlanDevice { network }, place, findings),
            Err(error) => {
                findings
                    .error(place, error.to_string())
                    .hint("use an interface with a shorter, plainer name");
            }
        }
    }

    pub fn vxlan(&mut self, network: usize, vni: Vni, place: Place, findings: &mut Findings) {
        match owned::vxlan_name(vni) {
            Ok(name) => self.claim(name, Use::VxlanDevice { network }, place, findings),
            Err(error) => {
                findings.error(place, error.to_string()).hint("use another VNI");
            }
        }
    }

    /// The bridge that a network makes for itself.
    pub fn bridge(&mut self, network: usize, draft: &NetworkDraft, findings: &mut Findings) {
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
        // A network defined twice is reported as such; that its bridges have one name adds nothing.
        let first = match self.names.get(&name) {
            Some((
                Use::Bridge {
                    network,
                    explicit: false,
                },
                _,
            )) if !explicit => self.networks.get(*network),
            _ => None,
        };
        let same_id = |first: &NetworkDraft| match (&first.id, &draft.id) {
            (Some(first), Some(id)) => first.value == id.value,
            _ => false,
        };
        if !first.is_some_and(same_id) {
            self.claim(name, Use::Bridge { network, explicit }, place, findings);
        }
    }

    /// Takes a name for one use, or reports who has it.
    fn claim(&mut self, name: LinkName, purpose: Use<'a>, place: Place, findings: &mut Findings) {
        let entry = match self.names.entry(name) {
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
        let (before, purpose) = (before.describe(self.networks), purpose.describe(self.networks));
        findings
            .error(place, format!("{name} would be {before} and {purpose}"))
            .hint(hint)
            .related(*first, "the first use");
    }
}
