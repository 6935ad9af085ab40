//! The kernel of a replay: what the recording tells, with every operation of the engine carried out on top.
//!
//! Links as they are now are in the engine's own mirror; here is what it takes to keep that right (each link as the
//! recording last told it) and what the mirror does not hold: addresses, routes and forwarding entries in full.
//! `execute` carries operations out in it.

use super::merge;
use crate::daemon::convert;
use crate::kernel::snapshot::refers_to;
use crate::kernel::{self, NeighbourRow};
use crate::model::record::{AddressRecord, RouteRecord};
use crate::model::{Ifindex, Link, NeighbourEntry, owned};
use crate::observed::{AddressRow, Change, Observed};
use crate::plan::address_move::{Carried, address_of};
use crate::plan::forwarding::ForwardingHave;
use crate::plan::guard::GuardHave;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Indexes of devices that the recording never tells of.
pub(super) const FIRST_MADE: u32 = 1 << 30;
/// RTA_CACHEINFO and RTA_EXPIRES: how long a route lives says nothing of which one it is.
const LIFETIMES: [u16; 2] = [12, 23];
/// Attribute type without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const TYPE_MASK: u16 = 0x3fff;

#[derive(Debug, Default)]
pub struct World {
    /// As the recording last told them.
    pub(super) recorded: BTreeMap<Ifindex, Link>,
    recorded_addresses: BTreeSet<(Ifindex, IpAddr)>,
    /// In the recording still there; the engine has deleted them.
    pub(super) deleted: BTreeSet<Ifindex>,
    pub(super) made: u32,
    pub(super) addresses: BTreeMap<(Ifindex, IpAddr), AddressRecord>,
    pub(super) routes: Vec<RouteRecord>,
    pub(super) forwarding: BTreeMap<Ifindex, ForwardingHave>,
    /// A recording does not tell it; from an empty one on it is as the operations leave it.
    pub(super) guard: GuardHave,
}

impl World {
    /// Takes in one recorded message; returns what it means for the mirror, which now is `observed`.
    pub fn absorb(&mut self, change: kernel::Change, observed: &Observed) -> Vec<Change> {
        match change {
            kernel::Change::Link(link) => self.absorb_link(link, observed),
            kernel::Change::LinkGone { index, .. } => {
                self.recorded.remove(&index);
                self.deleted.remove(&index);
                self.forget(index);
                let known = observed.link(index).is_some();
                known.then_some(Change::Removed(index)).into_iter().collect()
            }
            kernel::Change::BridgePort {
                index, master, flags, ..
            } => match self.recorded.get(&index) {
                Some(known) => {
                    let port = known.port.unwrap_or_default().overlaid_with(&flags);
                    let link = Link {
                        master: Some(master),
                        port: Some(port),
                        ..known.clone()
                    };
                    self.absorb_link(link, observed)
                }
                None => Vec::new(),
            },
            kernel::Change::LeftBridge { index, master } => match self.recorded.get(&index) {
                // A port moved to another bridge leaves the first one after it joined the second.
                Some(known) if master.is_some() && known.master == master => {
                    let link = Link {
                        master: None,
                        port: None,
                        ..known.clone()
                    };
                    self.absorb_link(link, observed)
                }
                _ => Vec::new(),
            },
            kernel::Change::AddressSet(record) => self.absorb_address(record),
            kernel::Change::AddressGone(record) => {
                if let Some(key) = address_key(&record) {
                    self.recorded_addresses.remove(&key);
                    self.addresses.remove(&key);
                }
                convert::change(kernel::Change::AddressGone(record))
                    .into_iter()
                    .collect()
            }
            kernel::Change::RouteSet(record) => {
                self.remove_route(&record);
                self.routes.push(record);
                Vec::new()
            }
            kernel::Change::RouteGone(record) => {
                self.remove_route(&record);
                Vec::new()
            }
            kernel::Change::NeighbourSet(row) => {
                self.set_neighbour(&row);
                Vec::new()
            }
            kernel::Change::NeighbourGone(row) => {
                self.remove_neighbour(&row);
                Vec::new()
            }
            // Recordings hold messages about links and what is on them.
            kernel::Change::Vlans { .. } | kernel::Change::Vnis { .. } | kernel::Change::Other => Vec::new(),
        }
    }

    /// What a complete listing did not list, as the removals that were lost.
    pub fn unlisted(&self, listing: &[kernel::Change]) -> Vec<kernel::Change> {
        let mut links = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for change in listing {
            match change {
                kernel::Change::Link(link) => drop(links.insert(link.index)),
                kernel::Change::AddressSet(record) => addresses.extend(address_key(record)),
                _ => {}
            }
        }
        let gone = self.recorded.values().filter(|link| !links.contains(&link.index));
        let gone = gone.map(|link| kernel::Change::LinkGone {
            index: link.index,
            name: Some(link.name),
            moved_to: None,
        });
        let lost = self.recorded_addresses.difference(&addresses);
        let lost = lost.filter_map(|key| self.addresses.get(key));
        lost.map(|record| kernel::Change::AddressGone(record.clone()))
            .chain(gone)
            .collect()
    }

    fn absorb_link(&mut self, now: Link, observed: &Observed) -> Vec<Change> {
        let before = self.recorded.insert(now.index, now.clone());
        if self.deleted.contains(&now.index) {
            return Vec::new();
        }
        match (before, observed.link(now.index)) {
            (Some(before), Some(have)) => vec![Change::Upsert(merge::link(&before, now, have))],
            _ => {
                // A device of this name that the engine made stands for this one.
                let stand_in = observed
                    .by_name(&now.name)
                    .filter(|link| link.index.get() > FIRST_MADE);
                stand_in
                    .map(|link| Change::Removed(link.index))
                    .into_iter()
                    .chain([Change::Upsert(now)])
                    .collect()
            }
        }
    }

    fn absorb_address(&mut self, record: AddressRecord) -> Vec<Change> {
        let Some(key) = address_key(&record) else {
            return Vec::new();
        };
        let repeated = !self.recorded_addresses.insert(key);
        if repeated && !self.addresses.contains_key(&key) {
            // Told again (its lifetime, mostly), but the engine has moved it away.
            return Vec::new();
        }
        self.addresses.insert(key, record.clone());
        convert::change(kernel::Change::AddressSet(record))
            .into_iter()
            .collect()
    }

    pub(super) fn remove_route(&mut self, record: &RouteRecord) {
        let key = |r: &RouteRecord| (r.family, r.dst_len, r.src_len, r.tos, r.table, r.protocol, r.kind);
        self.routes.retain(|known| {
            key(known) != key(record)
                || !record
                    .attributes
                    .iter()
                    .filter(|a| !LIFETIMES.contains(&(a.kind & TYPE_MASK)))
                    .all(|a| known.attributes.contains(a))
        });
    }

    fn set_neighbour(&mut self, row: &NeighbourRow) {
        let have = self.forwarding.entry(row.index).or_default();
        if row.is_forwarding() {
            // The bridge's own table is not what a VXLAN device forwards by.
            if row.master.is_none()
                && let Some(row) = row.forwarding()
            {
                have.fdb.retain(|known| known.entry != row.entry);
                have.fdb.push(row);
            }
        } else if let Some(neighbour) = row.neighbour() {
            remove_ip(have, Some(neighbour.ip));
            have.neighbours.insert(neighbour);
            if row.protocol == Some(owned::PROTOCOL) {
                have.our_neighbours.insert(neighbour);
            }
        }
    }

    fn remove_neighbour(&mut self, row: &NeighbourRow) {
        let Some(have) = self.forwarding.get_mut(&row.index) else {
            return;
        };
        if !row.is_forwarding() {
            remove_ip(have, row.ip);
        } else if let (None, Some(gone)) = (row.master, row.forwarding()) {
            have.fdb.retain(|known| known.entry != gone.entry);
        }
    }

    pub(super) fn forget(&mut self, index: Ifindex) {
        self.recorded_addresses.retain(|(on, _)| *on != index);
        self.addresses.retain(|(on, _), _| *on != index);
        self.routes.retain(|route| !refers_to(route, index));
        self.forwarding.remove(&index);
    }

    /// Which address is on which link.
    pub fn addresses(&self) -> Vec<AddressRow> {
        let row = |((index, address), record): (&(Ifindex, IpAddr), &AddressRecord)| AddressRow {
            index: *index,
            address: *address,
            own: record.own(),
        };
        self.addresses.iter().map(row).collect()
    }

    pub fn forwarding(&self, device: Ifindex) -> ForwardingHave {
        self.forwarding.get(&device).cloned().unwrap_or_default()
    }

    pub fn carried(&self, device: Ifindex) -> Carried {
        let on_device = self.addresses.iter().filter(|((on, _), _)| *on == device);
        Carried {
            addresses: on_device.map(|(_, record)| record.clone()).collect(),
            routes: self
                .routes
                .iter()
                .filter(|route| refers_to(route, device))
                .cloned()
                .collect(),
        }
    }
}

fn address_key(record: &AddressRecord) -> Option<(Ifindex, IpAddr)> {
    Some((Ifindex::new(record.ifindex)?, address_of(record)?))
}

fn remove_ip(have: &mut ForwardingHave, ip: Option<IpAddr>) {
    let other = |known: &NeighbourEntry| Some(known.ip) != ip;
    have.neighbours.retain(other);
    have.our_neighbours.retain(other);
}
