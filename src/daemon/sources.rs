//! Everything that tells mappings, put together into one `Desired`: the configuration files, and what was told over
//! the control socket.
//!
//! The files win: a network or tap that a file names cannot be told otherwise by a command (the error names the
//! file). What commands told is kept by `source::store`.

use crate::config::{Config, Sourced};
use crate::desired::Desired;
use crate::desired::port::selector_text;
use crate::desired::segment::link_names;
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
    for network in told
        .networks
        .values()
        .chain(config.networks.iter().map(|n| &n.value))
    {
        desired.set_network(network.clone());
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

/// What keeps a network told over the socket from standing beside those already there.
pub fn clash(desired: &Desired, network: &Network) -> Option<String> {
    if let Some(physical) = network.segment.physical() {
        if !desired.physical.contains_key(physical) {
            return Some(format!(
                "physical network {physical} is not in [physical_networks]"
            ));
        }
    }
    if matches!(network.segment, crate::model::Segment::Vxlan { .. }) && desired.vxlan.local_ip.is_none() {
        return Some("vxlan networks need local_ip in [vxlan]".to_owned());
    }
    let names = link_names(desired, network);
    let same = |other: &&Network| {
        other.id != network.id
            && ((other.segment == network.segment && network.segment != crate::model::Segment::Local)
                || (desired.bridge_name(other) == desired.bridge_name(network)
                    && !shares_bridge(desired, other)))
    };
    let other = desired.networks().find(same)?;
    let what = if other.segment == network.segment {
        "segment"
    } else {
        "bridge name"
    };
    Some(format!(
        "network {} has the same {what} ({})",
        other.id,
        names.first().map_or_else(String::new, ToString::to_string)
    ))
}

/// Networks on a physical network's own bridge have that bridge's name, on purpose.
fn shares_bridge(desired: &Desired, network: &Network) -> bool {
    network
        .segment
        .physical()
        .and_then(|p| desired.physical.get(p))
        .is_some_and(|p| p.bridge.is_some())
}

/// One line for each difference between two configurations.
pub fn changes(before: &Config, after: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let old: BTreeMap<&NetworkId, &Sourced<Network>> =
        before.networks.iter().map(|n| (&n.value.id, n)).collect();
    let new: BTreeMap<&NetworkId, &Sourced<Network>> =
        after.networks.iter().map(|n| (&n.value.id, n)).collect();
    for (id, network) in &new {
        match old.get(id) {
            None => lines.push(format!("network {id} added ({})", network.origin)),
            Some(known) if known.value != network.value => {
                lines.push(format!("network {id} changed ({})", network.origin));
            }
            Some(_) => {}
        }
    }
    lines.extend(
        old.iter()
            .filter(|(id, _)| !new.contains_key(*id))
            .map(|(id, n)| format!("network {id} removed ({})", n.origin)),
    );
    let key = |p: &Sourced<PortMapping>| selector_text(&p.value.tap);
    let old: BTreeMap<String, &Sourced<PortMapping>> = before.ports.iter().map(|p| (key(p), p)).collect();
    let new: BTreeMap<String, &Sourced<PortMapping>> = after.ports.iter().map(|p| (key(p), p)).collect();
    for (tap, port) in &new {
        match old.get(tap) {
            None => lines.push(format!("port {tap} added ({})", port.origin)),
            Some(known) if known.value != port.value => {
                lines.push(format!("port {tap} changed ({})", port.origin))
            }
            Some(_) => {}
        }
    }
    lines.extend(
        old.iter()
            .filter(|(tap, _)| !new.contains_key(*tap))
            .map(|(tap, p)| format!("port {tap} removed ({})", p.origin)),
    );
    for (what, same) in [
        ("[taps]", before.taps == after.taps),
        ("[vxlan]", before.vxlan == after.vxlan),
        (
            "[physical_networks]",
            before.physical_networks == after.physical_networks,
        ),
        ("[policy]", before.policy == after.policy),
    ] {
        if !same {
            lines.push(format!("{what} changed"));
        }
    }
    if before.daemon != after.daemon {
        lines.push("[daemon] changed: comes into force with the next start".to_owned());
    }
    lines
}
