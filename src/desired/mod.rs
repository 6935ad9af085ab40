//! What should be: networks, mappings and policy verdicts as last told, and the functions that derive from them what
//! one port or one segment should look like.
//!
//! One file per feature, each with one `derive_*` that looks at the desired facts and the mirror and returns a value;
//! it never fails: what cannot be is a reason (`Pending`, `Conflict`) that goes into the port's or network's state.

pub mod aware;
pub mod fdb;
pub mod gateway;
pub mod guard;
pub mod port;
pub mod ruleset;
pub mod segment;
pub mod service;
pub mod translation;
pub mod verdict;
pub mod vid;

use crate::model::{
    BridgeMode, LinkName, Network, NetworkId, PhysicalName, PhysicalNetwork, PortId, PortMapping, TapMatch,
    TapSelector, VxlanSettings, owned,
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything the sources have told.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Desired {
    pub taps: TapMatch,
    pub physical: BTreeMap<PhysicalName, PhysicalNetwork>,
    pub vxlan: VxlanSettings,
    pub mode: BridgeMode,
    /// VLAN ids on the VLAN-aware bridge; kept by the engine, told by nobody.
    pub vids: vid::Vids,
    /// Distinguishes this host in derived MAC addresses (two hosts have bridges of the same name).
    pub host: Box<str>,
    networks: BTreeMap<NetworkId, Network>,
    exact: BTreeMap<LinkName, PortMapping>,
    patterns: Vec<PortMapping>,
    /// Mappings with a spoof guard, by network.
    guarded: BTreeMap<NetworkId, usize>,
}

impl Desired {
    pub fn new(taps: TapMatch, host: &str) -> Self {
        Self {
            taps,
            physical: BTreeMap::new(),
            vxlan: VxlanSettings::default(),
            mode: BridgeMode::default(),
            vids: vid::Vids::default(),
            host: host.into(),
            networks: BTreeMap::new(),
            exact: BTreeMap::new(),
            patterns: Vec::new(),
            guarded: BTreeMap::new(),
        }
    }

    pub fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id)
    }
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }
    /// Whether any network asks for a gateway half.
    pub fn has_gateways(&self) -> bool {
        self.networks.values().any(|n| n.gateway.is_some())
    }
    pub fn network_count(&self) -> usize {
        self.networks.len()
    }
    pub fn set_network(&mut self, network: Network) -> Option<Network> {
        self.networks.insert(network.id.clone(), network)
    }
    pub fn remove_network(&mut self, id: &NetworkId) -> Option<Network> {
        self.networks.remove(id)
    }

    pub fn mappings(&self) -> impl Iterator<Item = &PortMapping> {
        self.exact.values().chain(&self.patterns)
    }
    /// A mapping with the same selector is replaced.
    pub fn set_mapping(&mut self, mapping: PortMapping) {
        if mapping.is_guarded() {
            *self.guarded.entry(mapping.network.clone()).or_default() += 1;
        }
        let replaced = match &mapping.tap {
            TapSelector::Exact(name) => self.exact.insert(*name, mapping),
            TapSelector::Pattern(pattern) => {
                match self
                    .patterns
                    .iter_mut()
                    .find(|m| matches!(&m.tap, TapSelector::Pattern(p) if p == pattern))
                {
                    Some(known) => Some(std::mem::replace(known, mapping)),
                    None => {
                        self.patterns.push(mapping);
                        None
                    }
                }
            }
        };
        if let Some(replaced) = replaced {
            self.one_less(&replaced);
        }
    }
    pub fn remove_mapping(&mut self, tap: &TapSelector) -> Option<PortMapping> {
        let removed = match tap {
            TapSelector::Exact(name) => self.exact.remove(name)?,
            TapSelector::Pattern(_) => {
                let at = self.patterns.iter().position(|m| m.tap == *tap)?;
                self.patterns.remove(at)
            }
        };
        self.one_less(&removed);
        Some(removed)
    }
    fn one_less(&mut self, mapping: &PortMapping) {
        if mapping.is_guarded()
            && let Some(count) = self.guarded.get_mut(&mapping.network)
        {
            *count -= 1;
            if *count == 0 {
                self.guarded.remove(&mapping.network);
            }
        }
    }
    /// Whether any mapping asks for the spoof guard.
    pub fn guards_anything(&self) -> bool {
        !self.guarded.is_empty()
    }
    /// Whether a mapping of this network does.
    pub fn guards(&self, network: &NetworkId) -> bool {
        self.guarded.contains_key(network)
    }
    /// The mapping of a tap: its exact name first, then the patterns in the order told.
    pub fn mapping_for(&self, name: &LinkName) -> Option<&PortMapping> {
        self.exact.get(name).or_else(|| {
            self.patterns
                .iter()
                .find(|m| matches!(&m.tap, TapSelector::Pattern(p) if p.matches(name)))
        })
    }
    /// Mappings of one tap each.
    pub fn exact_mappings(&self) -> impl Iterator<Item = (&LinkName, &PortMapping)> {
        self.exact.iter()
    }
    pub fn mapping_by_port(&self, id: &PortId) -> Option<&PortMapping> {
        self.mappings().find(|m| m.id.as_ref() == Some(id))
    }

    /// Name of the bridge that carries a network's ports.
    pub fn bridge_name(&self, network: &Network) -> Option<LinkName> {
        if let Some(shared) = aware::shared_bridge(self, network) {
            return Some(shared.name);
        }
        if let Some(physical) = network
            .segment
            .physical()
            .and_then(|name| self.physical.get(name))
            && let Some(bridge) = physical.bridge
            && matches!(network.segment, crate::model::Segment::Flat { .. })
        {
            return Some(bridge);
        }
        network.bridge.or_else(|| owned::bridge_name(&network.id).ok())
    }

    /// Networks whose settings, or the settings they lean on, differ between the two.
    pub fn changed_networks(&self, other: &Desired) -> BTreeSet<NetworkId> {
        let everything = self.vxlan != other.vxlan
            || self.physical != other.physical
            || self.mode != other.mode
            || self.host != other.host;
        let ids = self.networks.keys().chain(other.networks.keys());
        ids.filter(|id| {
            everything
                || self.networks.get(id) != other.networks.get(id)
                || self.guards(id) != other.guards(id)
        })
        .cloned()
        .collect()
    }
}
