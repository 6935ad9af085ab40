//! What one tap should be.

use super::Desired;
use super::gateway::is_reflected;
use super::guard::{Entry, derive_guard};
use super::verdict::PortVerdict;
use super::vid;
use crate::model::{Link, Mac, Mtu, Network, NetworkId, PortFlags, PortMapping, SubPort, TapSelector};
use crate::observed::is_tap_kind;
use std::sync::Arc;

/// A tap's place, before looking at how the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum PortIntent {
    /// Its name or kind is none of ours.
    Unmanaged,
    /// Ours to look at, but nobody says where it belongs.
    Unmapped,
    /// Mapped to a network nobody has told of.
    UnknownNetwork(NetworkId),
    Denied {
        plugin: Box<str>,
        reason: Box<str>,
    },
    /// Shared with what it was when all was last right: of many taps it is most of what is kept.
    Attach(Arc<PortWant>),
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortWant {
    pub network: NetworkId,
    /// Policy's MTU, else the network's; `None` takes the segment's.
    pub mtu: Option<Mtu>,
    pub flags: PortFlags,
    pub tx_queue_len: Option<u32>,
    pub alias: Option<Box<str>>,
    pub admin_state_up: bool,
    /// Static entries on the port.
    pub fdb: Vec<Mac>,
    /// What it may send; none if it may send anything.
    pub guard: Option<Arc<[Entry]>>,
    /// Further networks of a trunk port that are known.
    pub sub_ports: Vec<SubPort>,
}

impl PortIntent {
    pub fn network(&self) -> Option<&NetworkId> {
        match self {
            PortIntent::Attach(want) => Some(&want.network),
            PortIntent::UnknownNetwork(id) => Some(id),
            PortIntent::Unmanaged | PortIntent::Unmapped | PortIntent::Denied { .. } => None,
        }
    }
}

/// Is this link one that `[taps]` names?
pub fn is_managed(desired: &Desired, link: &Link) -> bool {
    is_tap_kind(&link.kind, &desired.taps.other_kinds)
        && desired.taps.patterns.iter().any(|p| p.matches(&link.name))
}

pub fn derive_port(desired: &Desired, link: &Link, verdict: Option<&PortVerdict>) -> PortIntent {
    if !is_managed(desired, link) || verdict.is_some_and(|v| v.ignore) {
        return PortIntent::Unmanaged;
    }
    let mapping = desired.mapping_for(&link.name);
    let network = mapping
        .map(|m| &m.network)
        .or_else(|| verdict.and_then(|v| v.network.as_ref()));
    let Some(id) = network else {
        return match verdict.and_then(|v| v.deny.as_ref()) {
            Some(d) => PortIntent::Denied {
                plugin: d.plugin.clone(),
                reason: d.reason.clone(),
            },
            None => PortIntent::Unmapped,
        };
    };
    let Some(network) = desired.network(id) else {
        return PortIntent::UnknownNetwork(id.clone());
    };
    if let Some(denial) = verdict.and_then(|v| v.deny.as_ref()) {
        return PortIntent::Denied {
            plugin: denial.plugin.clone(),
            reason: denial.reason.clone(),
        };
    }
    PortIntent::Attach(Arc::new(PortWant {
        network: id.clone(),
        mtu: verdict.and_then(|v| v.mtu).or(network.mtu),
        flags: port_flags(network, mapping, verdict),
        tx_queue_len: verdict.and_then(|v| v.tx_queue_len),
        alias: verdict.and_then(|v| v.alias.clone()),
        admin_state_up: mapping.is_none_or(|m| m.admin_state_up),
        guard: mapping
            .map(|mapping| derive_guard(mapping, network, desired.mode.shared().is_some()))
            .filter(|entries| !entries.is_empty())
            .map(Arc::from),
        fdb: verdict.map_or_else(Vec::new, |v| {
            v.fdb.iter().filter(|e| e.dst.is_none()).map(|e| e.mac).collect()
        }),
        sub_ports: sub_ports(desired, id, mapping, verdict),
    }))
}

/// The mapping's, as far as their networks are known, and on the VLAN-aware bridge policy's: there a tag that is a network's
/// VLAN is that network.
fn sub_ports(
    desired: &Desired,
    own: &NetworkId,
    mapping: Option<&PortMapping>,
    verdict: Option<&PortVerdict>,
) -> Vec<SubPort> {
    let told = mapping.into_iter().flat_map(|m| &m.sub_ports);
    let known = told.filter(|sub| desired.network(&sub.network).is_some());
    let mut all: Vec<SubPort> = known.cloned().collect();
    let vlans = verdict.map_or(&[][..], |v| &v.vlans);
    for vid in vlans.iter().filter(|_| desired.mode.shared().is_some()) {
        if let Some(network) = vid::owner(desired, *vid)
            && network != *own
            && !all.iter().any(|sub| sub.vid == *vid || sub.network == network)
        {
            all.push(SubPort { vid: *vid, network });
        }
    }
    all
}

/// What policy says, and what the network's gateway needs where policy says nothing.
fn port_flags(network: &Network, mapping: Option<&PortMapping>, verdict: Option<&PortVerdict>) -> PortFlags {
    let mut flags = verdict.map(|v| v.flags).unwrap_or_default();
    if flags.hairpin.is_none() && mapping.is_some_and(|mapping| is_reflected(network, mapping)) {
        flags.hairpin = Some(true);
    }
    flags
}

/// For messages: how the mapping of a tap is written.
pub fn selector_text(selector: &TapSelector) -> String {
    match selector {
        TapSelector::Exact(name) => name.to_string(),
        TapSelector::Pattern(pattern) => pattern.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BridgeMode, Segment, TapMatch, Vid};

    fn vlans(mode: BridgeMode, asked: &[i64]) -> Vec<(String, u16)> {
        let taps = TapMatch {
            patterns: Vec::new(),
            other_kinds: Vec::new(),
            adopt: false,
        };
        let mut desired = Desired::new(taps, "host");
        desired.mode = mode;
        let id = |text: &str| NetworkId::new(text).unwrap();
        for (name, vid) in [("blue", 10), ("red", 20)] {
            desired.set_network(crate::model::Network::new(id(name), Segment::Local));
            desired.vids.assign(&id(name), Vid::new(vid).unwrap());
        }
        let verdict = PortVerdict {
            vlans: asked.iter().map(|vid| Vid::new(*vid).unwrap()).collect(),
            ..PortVerdict::default()
        };
        sub_ports(&desired, &id("blue"), None, Some(&verdict))
            .into_iter()
            .map(|sub| (sub.network.to_string(), sub.vid.get()))
            .collect()
    }

    #[test]
    fn a_vlan_that_policy_asks_for_is_the_network_that_has_it_on_the_shared_bridge() {
        let shared = || {
            BridgeMode::VlanAware(crate::model::SharedBridge {
                name: crate::model::LinkName::new("brvlan").unwrap(),
                attributes: crate::model::BridgeAttributes::default(),
            })
        };
        assert_eq!(vlans(shared(), &[20]), [("red".to_owned(), 20)]);
        // Its own, nobody's, and the same twice.
        assert_eq!(vlans(shared(), &[10, 30, 20, 20]), [("red".to_owned(), 20)]);
        assert_eq!(vlans(BridgeMode::default(), &[20]), []);
    }
}
