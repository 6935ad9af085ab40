//! The mirror of the kernel: what links exist, how they are and which addresses they carry.
//!
//! Dump rows, multicast events and our own acknowledged operations go through the same idempotent [`Observed::apply`],
//! so their order and repetition do not matter. The interface index is the key; a name is an attribute that may move
//! from one index to another. Nothing here decides anything: `apply` only says what changed, the engine knows who cares.

use crate::model::{Ifindex, Link, LinkKind, LinkName, PortFlags, PortVlans, Vid, VlanRow, Vni, VniRow};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
mod vlans;

/// One fact from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// RTM_NEWLINK, `AF_UNSPEC`: the link is there and is like this.
    Upsert(Link),
    /// RTM_DELLINK, `AF_UNSPEC`: the link is gone (deleted, or moved to another namespace).
    Removed(Ifindex),
    /// RTM_NEWLINK, `AF_BRIDGE`: a port's bridge-side state.
    BridgePort {
        index: Ifindex,
        master: Ifindex,
        flags: PortFlags,
        vlans: PortVlans,
    },
    /// One VLAN of a port, by our own hand; without flags: not any more.
    PortVlan {
        index: Ifindex,
        vid: Vid,
        row: Option<VlanRow>,
    },
    /// RTM_NEWVLAN, RTM_DELVLAN: these VLANs of a port. A row without a VNI says nothing of one.
    Vlans {
        index: Ifindex,
        rows: Vec<VlanRow>,
        present: bool,
    },
    /// RTM_NEWTUNNEL, RTM_DELTUNNEL: VNIs of a VXLAN device.
    Vnis {
        index: Ifindex,
        rows: Vec<VniRow>,
        present: bool,
    },
    /// RTM_DELLINK, `AF_BRIDGE`: the port left its bridge; the link itself lives on.
    LeftBridge { index: Ifindex, master: Ifindex },
    /// RTM_NEWADDR / RTM_DELADDR.
    Address {
        index: Ifindex,
        address: IpAddr,
        /// Its prefix length, if it carries our mark.
        own: Option<u8>,
        present: bool,
    },
}

/// One row of a dump of all addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AddressRow {
    pub index: Ifindex,
    pub address: IpAddr,
    /// Its prefix length, if it carries our mark.
    pub own: Option<u8>,
}

/// What an applied change means for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The mirror said so already.
    Same,
    Appeared(Ifindex),
    /// The link as it was before; the new state is in the mirror.
    Changed(Box<Link>),
    Gone(Box<Link>),
    /// The set of addresses of a link changed.
    Addresses(Ifindex),
    /// These VLANs of a bridge port changed, and nothing else of it.
    Vlans(Ifindex, Vec<Vid>),
    /// These VNIs of a VXLAN device came, changed or went.
    Vnis(Ifindex, Vec<Vni>),
}

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Observed {
    /// Boxed: a tree's nodes are half empty when keys come in order.
    links: BTreeMap<Ifindex, Box<Link>>,
    /// The newest holder last. Two in the kernel never share a name, but here one may still be leaving.
    names: BTreeMap<LinkName, Vec<Ifindex>>,
    ports: BTreeMap<Ifindex, BTreeSet<Ifindex>>,
    addresses: BTreeMap<IpAddr, BTreeSet<Ifindex>>,
    /// Those of them that carry our mark, with their prefix lengths.
    #[serde(with = "crate::model::stored::pairs")]
    own: BTreeMap<(Ifindex, IpAddr), u8>,
    /// Devices that this run made; their mark (`ifalias`) is set by a later request, which may fail.
    made_here: BTreeSet<Ifindex>,
    vlans: vlans::Vlans,
}

impl Observed {
    pub fn link(&self, index: Ifindex) -> Option<&Link> {
        self.links.get(&index).map(|link| &**link)
    }
    pub fn by_name(&self, name: &LinkName) -> Option<&Link> {
        let index = self.names.get(name)?.last()?;
        self.link(*index)
    }
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values().map(|link| &**link)
    }
    pub fn len(&self) -> usize {
        self.links.len()
    }
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
    /// The ports of a bridge (or slaves of any master), in index order.
    pub fn ports_of(&self, master: Ifindex) -> impl Iterator<Item = &Link> {
        self.ports
            .get(&master)
            .into_iter()
            .flatten()
            .filter_map(|index| self.link(*index))
    }
    pub fn port_count(&self, master: Ifindex) -> usize {
        self.ports.get(&master).map_or(0, BTreeSet::len)
    }
    /// The link with the lowest index that carries this address.
    pub fn link_with_address(&self, address: IpAddr) -> Option<&Link> {
        let index = self.addresses.get(&address)?.first()?;
        self.link(*index)
    }
    /// Addresses on a link that are not link-local.
    pub fn has_address(&self, index: Ifindex) -> bool {
        self.addresses_of(index).any(|address| !is_link_local(address))
    }
    /// Every address of a link, link-local ones included.
    pub fn addresses_of(&self, index: Ifindex) -> impl Iterator<Item = IpAddr> {
        self.addresses
            .iter()
            .filter(move |(_, on)| on.contains(&index))
            .map(|(address, _)| *address)
    }

    pub fn carries(&self, index: Ifindex, address: IpAddr) -> bool {
        self.addresses.get(&address).is_some_and(|on| on.contains(&index))
    }
    /// Addresses with our mark: device, address, prefix length.
    pub fn own_addresses(&self) -> impl Iterator<Item = (Ifindex, IpAddr, u8)> {
        self.own
            .iter()
            .map(|((index, address), length)| (*index, *address, *length))
    }

    /// A device as read back after our own create.
    pub fn made(&mut self, link: Link) -> Effect {
        self.made_here.insert(link.index);
        self.upsert(link)
    }
    pub fn is_made_here(&self, index: Ifindex) -> bool {
        self.made_here.contains(&index)
    }

    pub fn apply(&mut self, change: Change) -> Effect {
        match change {
            Change::Upsert(link) => self.upsert(link),
            Change::Removed(index) => self.remove(index),
            Change::BridgePort {
                index,
                master,
                flags,
                vlans,
            } => {
                let effect = self.update(index, |link| {
                    link.master = Some(master);
                    link.port = Some(link.port.unwrap_or_default().overlaid_with(&flags));
                });
                match (effect, self.vlans.replace(index, vlans)) {
                    (Effect::Same, Some(vids)) => Effect::Vlans(index, vids),
                    (effect, _) => effect,
                }
            }
            Change::PortVlan { index, vid, row } => self.apply_own_vlan(index, vid, row),
            Change::Vlans { index, rows, present } => self.apply_vlans(index, rows, present),
            Change::Vnis { index, rows, present } => self.apply_vnis(index, rows, present),
            Change::LeftBridge { index, master } => self.update(index, |link| {
                // A port moved to another bridge leaves the first one after it joined the second.
                if link.master == Some(master) {
                    link.master = None;
                    link.port = None;
                }
            }),
            Change::Address {
                index,
                address,
                own,
                present,
            } => self.set_address(index, address, own, present),
        }
    }

    /// Drops every link that a complete dump did not list; returns them.
    pub fn retain(&mut self, listed: &BTreeSet<Ifindex>) -> Vec<Link> {
        let unlisted: Vec<Ifindex> = self
            .links
            .keys()
            .filter(|index| !listed.contains(index))
            .copied()
            .collect();
        unlisted
            .into_iter()
            .filter_map(|index| match self.remove(index) {
                Effect::Gone(link) => Some(*link),
                _ => None,
            })
            .collect()
    }

    /// Replaces the addresses by a complete dump; true if anything is different now.
    pub fn replace_addresses(&mut self, rows: impl IntoIterator<Item = AddressRow>) -> bool {
        let mut fresh: BTreeMap<IpAddr, BTreeSet<Ifindex>> = BTreeMap::new();
        let mut own = BTreeMap::new();
        for AddressRow {
            index,
            address,
            own: length,
        } in rows
        {
            fresh.entry(address).or_default().insert(index);
            if let Some(length) = length {
                own.insert((index, address), length);
            }
        }
        let different = fresh != self.addresses || own != self.own;
        self.own = own;
        self.addresses = fresh;
        different
    }

    /// The addresses of one device as just read, whatever its events said or still will say.
    pub fn set_addresses(&mut self, index: Ifindex, addresses: &BTreeSet<IpAddr>) -> Effect {
        let known: BTreeSet<IpAddr> = self.addresses_of(index).collect();
        for gone in known.difference(addresses) {
            self.set_address(index, *gone, None, false);
        }
        for new in addresses.difference(&known) {
            self.set_address(index, *new, None, true);
        }
        if known == *addresses {
            Effect::Same
        } else {
            Effect::Addresses(index)
        }
    }

    fn upsert(&mut self, link: Link) -> Effect {
        let index = link.index;
        match self.links.get_mut(&index) {
            None => {
                self.claim_name(link.name, index);
                if let Some(master) = link.master {
                    self.ports.entry(master).or_default().insert(index);
                }
                self.links.insert(index, Box::new(link));
                Effect::Appeared(index)
            }
            Some(known) => {
                // Shown, but nothing follows from it alone.
                known.operstate = link.operstate;
                if **known == link {
                    return Effect::Same;
                }
                let before = std::mem::replace(&mut **known, link);
                let (name, master) = (known.name, known.master);
                self.reindex(&before, name, master);
                Effect::Changed(Box::new(before))
            }
        }
    }

    fn update(&mut self, index: Ifindex, change: impl FnOnce(&mut Link)) -> Effect {
        let Some(link) = self.links.get(&index) else {
            return Effect::Same;
        };
        let mut link = (**link).clone();
        change(&mut link);
        self.upsert(link)
    }

    fn remove(&mut self, index: Ifindex) -> Effect {
        let Some(link) = self.links.remove(&index) else {
            return Effect::Same;
        };
        self.made_here.remove(&index);
        self.vlans.forget(index);
        self.release_name(&link.name, index);
        if let Some(master) = link.master {
            self.leave(master, index);
        }
        // A master that is gone has no ports, whatever their own events say later.
        for port in self.ports.remove(&index).into_iter().flatten() {
            if let Some(port) = self.links.get_mut(&port) {
                port.master = None;
                port.port = None;
            }
        }
        self.own.retain(|(on, _), _| *on != index);
        self.addresses.retain(|_, on| {
            on.remove(&index);
            !on.is_empty()
        });
        Effect::Gone(link)
    }

    fn set_address(&mut self, index: Ifindex, address: IpAddr, own: Option<u8>, present: bool) -> Effect {
        let marked = match own.filter(|_| present) {
            Some(length) => self.own.insert((index, address), length) != Some(length),
            None => self.own.remove(&(index, address)).is_some(),
        };
        let changed = if present {
            self.addresses.entry(address).or_default().insert(index)
        } else {
            match self.addresses.get_mut(&address) {
                Some(on) => {
                    let removed = on.remove(&index);
                    if on.is_empty() {
                        self.addresses.remove(&address);
                    }
                    removed
                }
                None => false,
            }
        };
        if changed || marked {
            Effect::Addresses(index)
        } else {
            Effect::Same
        }
    }

    fn reindex(&mut self, before: &Link, name: LinkName, master: Option<Ifindex>) {
        let index = before.index;
        if before.name != name {
            self.release_name(&before.name, index);
            self.claim_name(name, index);
        }
        if before.master != master {
            // The kernel drops a port's VLANs with the port.
            self.vlans.forget_port(index);
            if let Some(old) = before.master {
                self.leave(old, index);
            }
            if let Some(new) = master {
                self.ports.entry(new).or_default().insert(index);
            }
        }
    }

    /// The newest holder of a name has it: the other's event is on its way.
    fn claim_name(&mut self, name: LinkName, index: Ifindex) {
        self.names.entry(name).or_default().push(index);
    }

    /// The last message about a device that went may come after the news of its successor; that keeps the name.
    fn release_name(&mut self, name: &LinkName, index: Ifindex) {
        if let Some(holders) = self.names.get_mut(name) {
            holders.retain(|holder| *holder != index);
            if holders.is_empty() {
                self.names.remove(name);
            }
        }
    }

    fn leave(&mut self, master: Ifindex, index: Ifindex) {
        if let Some(ports) = self.ports.get_mut(&master) {
            ports.remove(&index);
            if ports.is_empty() {
                self.ports.remove(&master);
            }
        }
    }
}

/// `fe80::/10` and `169.254.0.0/16`.
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// Is this a device that VM managers make for a guest: a tap, or one of the other kinds that the operator names?
pub fn is_tap_kind(kind: &LinkKind, other_kinds: &[Box<str>]) -> bool {
    match kind {
        LinkKind::Tap => true,
        LinkKind::Tun | LinkKind::Physical => false,
        other => other_kinds.iter().any(|k| **k == *other.name()),
    }
}

#[cfg(test)]
mod tests;
