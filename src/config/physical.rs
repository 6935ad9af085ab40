//! `[physical_networks]`: Neutron's `physical_interface_mappings` and `bridge_mappings`.
//!
//! With both `interface` and `bridge`, flat networks use the bridge and VLAN networks the interface (Neutron's rule);
//! with only `bridge`, VLAN sub-interfaces ride on the bridge device.

use super::place::Place;
use super::reader::{Item, Table};
use super::report::Findings;
use super::{suggest, units};
use crate::model::{LinkName, PhysicalName, PhysicalNetwork};
use std::collections::{BTreeMap, BTreeSet};
use toml::de::DeValue;

/// `[physical_networks]`, with what is needed to judge references to them.
#[derive(Debug, Default)]
pub(super) struct PhysicalNetworks {
    pub known: BTreeMap<PhysicalName, Physical>,
    /// Names whose table was refused: a network that uses one is not at fault.
    pub refused: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct Physical {
    pub value: PhysicalNetwork,
    pub place: Place,
    pub interface: Option<Place>,
    pub bridge: Option<Place>,
}

pub(super) fn read(table: Option<Table<'_>>, findings: &mut Findings) -> PhysicalNetworks {
    let mut networks = PhysicalNetworks::default();
    let Some(mut t) = table else {
        return networks;
    };
    for item in t.take_rest() {
        let key = item.key.to_string();
        match physical_network(item, findings) {
            Some(physical) => {
                networks.known.insert(physical.value.name.clone(), physical);
            }
            None => {
                networks.refused.insert(key);
            }
        }
    }
    networks
}

fn physical_network(item: Item<'_>, findings: &mut Findings) -> Option<Physical> {
    let (key, place) = (item.key.to_string(), item.key_place);
    let name = match PhysicalName::new(&key) {
        Ok(name) => Some(name),
        Err(error) => {
            findings
                .error(place, error.to_string())
                .hint("for example physnet1 = { interface = \"eth1\" }");
            None
        }
    };
    let hint = match &item.value {
        DeValue::String(device) => format!("write {key} = {{ interface = {device:?} }}"),
        _ => format!("write {key} = {{ interface = \"eth1\" }} or {key} = {{ bridge = \"br-ext\" }}"),
    };
    let mut t = item.into_table(format!("physical network `{key}`"), hint, findings)?;
    let (has_interface, has_bridge) = (t.has("interface"), t.has("bridge"));
    let interface = t.parsed("interface", "\"eth1\"", findings, units::link_name);
    let bridge = t.parsed("bridge", "\"br-ext\"", findings, units::link_name);
    let adopt = t.boolean("adopt", findings);
    let trunk = t.boolean("trunk", findings);
    if !has_interface && !has_bridge {
        findings
            .error(
                place,
                format!("physical network `{key}` has neither `interface` nor `bridge`"),
            )
            .hint(format!(
                "write {key} = {{ interface = \"eth1\" }} or {key} = {{ bridge = \"br-ext\" }}"
            ));
    }
    if let Some(adopt) = adopt.filter(|a| a.value && !has_interface) {
        findings
            .error(
                adopt.place,
                "`adopt` takes an interface out of a foreign bridge, and there is no `interface` here",
            )
            .hint("leave it out: a `bridge` is used as it is");
    }
    if let Some(trunk) = trunk.filter(|t| t.value && !has_interface) {
        findings
            .error(
                trunk.place,
                "`trunk` makes an interface a port of the VLAN-aware bridge, and there is no `interface` here",
            )
            .hint("leave it out: the VLAN networks of a `bridge` have sub-interfaces of it");
    }
    t.finish(findings);
    let refused = (has_interface && interface.is_none()) || (has_bridge && bridge.is_none());
    let name = name.filter(|_| !refused && (has_interface || has_bridge))?;
    Some(Physical {
        place,
        interface: interface.map(|i| i.place),
        bridge: bridge.map(|b| b.place),
        value: PhysicalNetwork {
            name,
            interface: interface.map(|i| i.value),
            bridge: bridge.map(|b| b.value),
            adopt: adopt.is_some_and(|a| a.value),
            trunk: trunk.is_some_and(|t| t.value),
        },
    })
}

impl Physical {
    /// The device that VLAN sub-interfaces ride on: the interface, else the bridge device itself.
    pub fn parent(&self) -> Option<LinkName> {
        self.value.interface.or(self.value.bridge)
    }
}

impl PhysicalNetworks {
    /// What to write for a name that is not known.
    pub fn hint(&self, name: &str, findings: &mut Findings) -> String {
        let known = || self.known.keys().map(PhysicalName::as_str);
        match suggest::nearest(findings, name, known()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if self.known.is_empty() => {
                format!(
                    "declare it: [physical_networks] with a line like {name} = {{ interface = \"eth1\" }}"
                )
            }
            None => format!("known here: {}", suggest::list(known())),
        }
    }
}
