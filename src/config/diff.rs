//! What a reload changes: two configurations compared, key by key. Pure; the daemon turns it into events.

use super::{Config, Sourced};
use crate::model::{Network, NetworkId, PortId, PortMapping, TapSelector};
use std::collections::HashMap;
use std::hash::Hash;

/// The difference of two configurations. Where something was written does not count, only what was written.
#[derive(Debug)]
pub struct Difference<'a> {
    pub networks: Changes<'a, Network>,
    pub ports: Changes<'a, PortMapping>,
    /// `[taps]` differs: every link must be looked at again.
    pub taps: bool,
    /// `[physical_networks]` differs.
    pub physical_networks: bool,
    /// `[bridge]`: one bridge for all or one for each differs.
    pub bridge: bool,
    /// `[vxlan]` differs.
    pub vxlan: bool,
    /// `[policy]` differs: plugins are to be loaded anew. (A plugin's file may change without this.)
    pub policy: bool,
    /// `prune_after` or `max_detach` differs.
    pub limits: bool,
    /// Keys of `[daemon]` that differ and take effect at the next start only.
    pub needs_restart: Vec<&'static str>,
}

/// Added, changed (old and new) and removed items, in the order of the files.
#[derive(Debug)]
pub struct Changes<'a, T> {
    pub added: Vec<&'a Sourced<T>>,
    pub changed: Vec<(&'a Sourced<T>, &'a Sourced<T>)>,
    pub removed: Vec<&'a Sourced<T>>,
}

impl<T> Changes<'_, T> {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Difference<'_> {
    pub fn is_empty(&self) -> bool {
        let same = self.networks.is_empty() && self.ports.is_empty() && self.needs_restart.is_empty();
        same && !(self.taps
            || self.bridge
            || self.physical_networks
            || self.vxlan
            || self.policy
            || self.limits)
    }
}

/// What makes a port the same port: its id, else the tap it names.
#[derive(Debug, PartialEq, Eq, Hash)]
enum PortKey<'a> {
    Id(&'a PortId),
    Tap(&'a [u8]),
}

impl<'a> PortKey<'a> {
    fn of(mapping: &'a PortMapping) -> Self {
        match (&mapping.id, &mapping.tap) {
            (Some(id), _) => PortKey::Id(id),
            (None, TapSelector::Exact(name)) => PortKey::Tap(name.as_bytes()),
            (None, TapSelector::Pattern(pattern)) => PortKey::Tap(pattern.as_str().as_bytes()),
        }
    }
}

/// Compares the configuration in force with the one just loaded.
pub fn difference<'a>(old: &'a Config, new: &'a Config) -> Difference<'a> {
    let (before, after) = (&old.daemon, &new.daemon);
    let fixed = [
        ("socket", before.socket != after.socket),
        ("socket_group", before.socket_group != after.socket_group),
        ("state_directory", before.state_directory != after.state_directory),
        ("receive_buffer", before.receive_buffer != after.receive_buffer),
        ("flight_recorder", before.flight_recorder != after.flight_recorder),
        ("metrics_listen", before.metrics_listen != after.metrics_listen),
    ];
    Difference {
        networks: changes(&old.networks, &new.networks, |n: &Network| -> &NetworkId {
            &n.id
        }),
        ports: changes(&old.ports, &new.ports, PortKey::of),
        taps: old.taps != new.taps,
        physical_networks: old.physical_networks != new.physical_networks,
        bridge: old.bridge != new.bridge,
        vxlan: old.vxlan != new.vxlan,
        policy: old.policy != new.policy,
        limits: before.prune_after != after.prune_after
            || before.max_detach_percent != after.max_detach_percent,
        needs_restart: fixed
            .into_iter()
            .filter_map(|(key, differs)| differs.then_some(key))
            .collect(),
    }
}

fn changes<'a, T: PartialEq, K: Eq + Hash>(
    old: &'a [Sourced<T>],
    new: &'a [Sourced<T>],
    key: impl Fn(&'a T) -> K,
) -> Changes<'a, T> {
    let mut left: HashMap<K, &'a Sourced<T>> = old.iter().map(|item| (key(&item.value), item)).collect();
    let (mut added, mut changed) = (Vec::new(), Vec::new());
    for item in new {
        match left.remove(&key(&item.value)) {
            Some(before) if before.value == item.value => {}
            Some(before) => changed.push((before, item)),
            None => added.push(item),
        }
    }
    let removed = old
        .iter()
        .filter(|item| left.contains_key(&key(&item.value)))
        .collect();
    Changes {
        added,
        changed,
        removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(text: &str) -> Config {
        super::super::load_str(text, Path::new("tapwire.toml")).unwrap_or_else(|report| panic!("{report}"))
    }

    const OLD: &str = r#"
        [daemon]
        prune_after = "5m"
        [physical_networks]
        physnet1 = { interface = "eth1" }
        [[network]]
        id = "blue"
        network_type = "local"
        [[network]]
        id = "green"
        network_type = "local"
        [[port]]
        tap = "vnet1"
        network = "blue"
        [[port]]
        id = "p1"
        network = "blue"
        [[port]]
        tap = "vnet*"
        network = "green"
    "#;

    fn ids(items: &[&Sourced<Network>]) -> Vec<String> {
        items.iter().map(|n| n.value.id.to_string()).collect()
    }

    #[test]
    fn the_same_text_further_down_is_no_difference() {
        let (old, new) = (config(OLD), config(&format!("# a comment\n\n{OLD}")));
        assert!(difference(&old, &new).is_empty());
    }

    #[test]
    fn networks_come_go_and_change() {
        let new = OLD.replace(
            "id = \"green\"\n        network_type = \"local\"",
            "id = \"red\"\n network_type = \"local\"",
        );
        let new = new.replace("network = \"green\"", "network = \"red\"");
        let new = new.replace("id = \"blue\"", "id = \"blue\"\nmtu = 9000");
        let (old, new) = (config(OLD), config(&new));
        let difference = difference(&old, &new);
        assert_eq!(ids(&difference.networks.added), ["red"]);
        assert_eq!(ids(&difference.networks.removed), ["green"]);
        let [(before, after)] = difference.networks.changed[..] else {
            panic!("{:?}", difference.networks);
        };
        assert_eq!(
            (before.value.mtu, after.value.mtu.map(|m| m.get())),
            (None, Some(9000))
        );
        assert_eq!(difference.ports.changed.len(), 1);
        assert!(difference.ports.added.is_empty() && difference.ports.removed.is_empty());
    }

    #[test]
    fn a_port_is_known_by_its_id_else_by_its_tap() {
        let new = OLD
            .replace("id = \"p1\"", "id = \"p1\"\ntap = \"vnet7\"")
            .replace("\"vnet1\"", "\"vnet2\"");
        let (old, new) = (config(OLD), config(&new));
        let ports = difference(&old, &new).ports;
        assert_eq!(
            (ports.added.len(), ports.changed.len(), ports.removed.len()),
            (1, 1, 1)
        );
    }

    #[test]
    fn settings_say_which_of_them_differ_and_which_need_a_restart() {
        let new = OLD.replace(
            "\"5m\"",
            "\"never\"\nsocket = \"/run/other.sock\"\nreceive_buffer = \"8MiB\"",
        );
        let new = new.replace("\"eth1\"", "\"eth2\"");
        let (old, new) = (
            config(OLD),
            config(&format!(
                "{new}\n[taps]\nadopt = true\n[vxlan]\nttl = 3\n[policy]\nx = 1"
            )),
        );
        let difference = difference(&old, &new);
        assert_eq!(difference.needs_restart, ["socket", "receive_buffer"]);
        assert!(difference.limits && difference.taps && difference.physical_networks);
        assert!(difference.vxlan && difference.policy && difference.networks.is_empty());
    }
}
