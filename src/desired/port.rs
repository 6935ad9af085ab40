//! What one tap should be.

use super::Desired;
use super::guard::{Entry, derive_guard};
use super::verdict::PortVerdict;
use crate::model::{Link, Mac, Mtu, NetworkId, PortFlags, SubPort, TapSelector};
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
        flags: verdict.map(|v| v.flags).unwrap_or_default(),
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
        sub_ports: mapping.map_or_else(Vec::new, |m| {
            let known = m
                .sub_ports
                .iter()
                .filter(|sub| desired.network(&sub.network).is_some());
            known.cloned().collect()
        }),
    }))
}

/// For messages: how the mapping of a tap is written.
pub fn selector_text(selector: &TapSelector) -> String {
    match selector {
        TapSelector::Exact(name) => name.to_string(),
        TapSelector::Pattern(pattern) => pattern.as_str().to_owned(),
    }
}
