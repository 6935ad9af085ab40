//! Everything that tells mappings, put together into one `Desired`: the configuration files, and what was told over
//! the control socket.
//!
//! The files win: a network or tap that a file names cannot be told otherwise by a command (the error names the
//! file). What commands told is kept by `source::store`.

use crate::config::{self, Changes, Config, Sourced};
use crate::desired::Desired;
use crate::desired::aware::shared_bridge;
use crate::desired::port::selector_text;
use crate::model::{Network, NetworkId, PortMapping, TapSelector};
use crate::source::{self, store::Store};
use std::collections::BTreeMap;
use std::path::Path;

/// What was told over the control socket.
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub networks: BTreeMap<NetworkId, Network>,
    pub mappings: Vec<PortMapping>,
}

/// Makes the state directory if it is missing.
pub fn open_store(directory: &Path) -> Result<Store, source::Error> {
    std::fs::create_dir_all(directory).map_err(|cause| source::Error::Directory {
        path: directory.to_owned(),
        cause,
    })?;
    let opened = Store::open(directory)?;
    if let Some(damaged) = opened.damaged {
        tracing::error!(target: "source", error = %damaged, "bindings told over the control socket are lost");
    }
    Ok(opened.store)
}

/// What earlier runs were told. A store that cannot be read costs its bindings, not the daemon.
pub fn read_store(directory: &Path) -> (Option<Store>, Told) {
    let mut told = Told::default();
    if !directory.join(crate::source::store::FILE).exists() {
        return (None, told);
    }
    let listed = open_store(directory).and_then(|store| Ok((store.list()?, store)));
    let (contents, store) = match listed {
        Ok(listed) => listed,
        Err(error) => {
            tracing::error!(target: "source", error = %super::convert::chain(&error), "stored bindings cannot be read");
            return (None, told);
        }
    };
    for unusable in &contents.unusable {
        tracing::error!(target: "source", error = %super::convert::chain(unusable), "stored record ignored");
    }
    for record in &contents.networks {
        match Network::try_from(record) {
            Ok(network) => {
                told.networks.insert(network.id.clone(), network);
            }
            Err(error) => {
                tracing::error!(target: "source", network = %record.id, error = %super::convert::chain(&error), "stored network ignored");
            }
        }
    }
    for record in &contents.bindings {
        match PortMapping::try_from(record) {
            Ok(mapping) => told.mappings.push(mapping),
            Err(error) => {
                tracing::error!(target: "source", error = %super::convert::chain(&error), "stored binding ignored");
            }
        }
    }
    (Some(store), told)
}

/// Distinguishes this host in derived addresses: the machine id, else the host name.
pub fn host_identity() -> String {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    read("/etc/machine-id")
        .filter(|id| !id.is_empty())
        .or_else(|| read("/proc/sys/kernel/hostname"))
        .unwrap_or_default()
}

pub fn desired(config: &Config, told: &Told, host: &str) -> Desired {
    let mut desired = Desired::new(config.taps.clone(), host);
    desired.physical = config.physical_networks.clone();
    desired.vxlan = config.vxlan.clone();
    desired.mode = config.bridge.clone();
    for network in told
        .networks
        .values()
        .chain(config.networks.iter().map(|n| &n.value))
    {
        let mut network = network.clone();
        // Told by command before the mode became another one: files and commands are refused.
        if network.gateway.is_some() && shared_bridge(&desired, &network).is_some() {
            tracing::warn!(target: "source", network = %network.id, "all networks share a bridge: its gateway is left out");
            network.gateway = None;
        }
        desired.set_network(network);
    }
    for mapping in told.mappings.iter().chain(config.ports.iter().map(|p| &p.value)) {
        desired.set_mapping(mapping.clone());
    }
    desired
}

/// The file and line that names this network.
pub fn network_origin<'a>(config: &'a Config, id: &NetworkId) -> Option<&'a str> {
    config
        .networks
        .iter()
        .find(|n| n.value.id == *id)
        .map(|n| n.origin.as_str())
}

/// The file and line that maps this tap.
pub fn mapping_origin<'a>(config: &'a Config, tap: &TapSelector) -> Option<&'a str> {
    config
        .ports
        .iter()
        .find(|p: &&Sourced<PortMapping>| p.value.tap == *tap)
        .map(|p| p.origin.as_str())
}

/// One line for each difference between two configurations.
pub fn changes(before: &Config, after: &Config) -> Vec<String> {
    fn lines<T>(what: &str, changes: &Changes<'_, T>, key: impl Fn(&T) -> String, lines: &mut Vec<String>) {
        let line =
            |item: &Sourced<T>, verb: &str| format!("{what} {} {verb} ({})", key(&item.value), item.origin);
        lines.extend(changes.added.iter().map(|item| line(item, "added")));
        lines.extend(changes.changed.iter().map(|(_, item)| line(item, "changed")));
        lines.extend(changes.removed.iter().map(|item| line(item, "removed")));
    }
    let difference = config::difference(before, after);
    let mut all = Vec::new();
    lines("network", &difference.networks, |n| n.id.to_string(), &mut all);
    lines("port", &difference.ports, |p| selector_text(&p.tap), &mut all);
    for (table, different) in [
        ("[taps]", difference.taps),
        ("[bridge]", difference.bridge),
        ("[vxlan]", difference.vxlan),
        ("[physical_networks]", difference.physical_networks),
        ("[policy]", difference.policy),
        ("[daemon] limits", difference.limits),
    ] {
        if different {
            all.push(format!("{table} changed"));
        }
    }
    all.extend(
        difference
            .needs_restart
            .iter()
            .map(|key| format!("[daemon] {key} changed: in force with the next start")),
    );
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cidr, Gateway, Segment};

    #[test]
    fn a_gateway_told_before_all_networks_shared_a_bridge_is_left_out() {
        let mut network = Network::new(NetworkId::new("told").unwrap(), Segment::Local);
        let addresses: Vec<Cidr> = vec!["10.0.0.1/24".parse().unwrap()];
        network.gateway = Some(Box::new(Gateway {
            addresses,
            ..Gateway::default()
        }));
        let told = Told {
            networks: [(network.id.clone(), network.clone())].into(),
            mappings: Vec::new(),
        };
        for (mode, kept) in [("per-network", true), ("vlan-aware", false)] {
            let text = format!("[bridge]\nmode = \"{mode}\"\n");
            let config = config::load_str(&text, Path::new("a.toml")).unwrap();
            let desired = desired(&config, &told, "host");
            assert_eq!(desired.has_gateways(), kept, "{mode}");
            assert!(desired.network(&network.id).is_some());
        }
    }
}
