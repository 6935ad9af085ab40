//! The kernel of a replay: what the recording tells, with every operation of the engine carried out on top.
//!
//! Links as they are now are in the engine's own mirror; here is what it takes to keep that right (each link as the
//! recording last told it) and what the mirror does not hold: addresses, routes and forwarding entries in full.
//! Operations always succeed. A device that is made gets the index of the recording's device of that name, if one
//! follows, else one that no kernel reaches soon.
//!
//! Length: the kernel as a recording knows it; its rules belong side by side.

use super::merge;
use super::tape::Tape;
use crate::daemon::convert;
use crate::engine::event::{Applied, Done, StepResult};
use crate::kernel::snapshot::refers_to;
use crate::kernel::{self, NeighbourRow};
use crate::model::record::{AddressRecord, RouteRecord};
use crate::model::{
    FdbEntry, FdbRow, Ifindex, Link, LinkKind, LinkName, Mac, NeighbourEntry, VlanAttributes, owned,
};
use crate::observed::{Change, Observed};
use crate::plan::Plan;
use crate::plan::address_move::{Carried, address_of};
use crate::plan::forwarding::ForwardingHave;
use crate::plan::op::{LinkRef, ListAction, Op};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Indexes of devices that the recording never tells of.
const FIRST_MADE: u32 = 1 << 30;
/// Bytes, where neither the operation nor the recording says.
const MTU: u32 = 1500;
const VXLAN_OVERHEAD: u32 = 50;
const TX_QUEUE_LEN: u32 = 1000;
const ETH_P_8021Q: u16 = 0x8100;
/// RTA_CACHEINFO and RTA_EXPIRES: how long a route lives says nothing of which one it is.
const LIFETIMES: [u16; 2] = [12, 23];
/// Attribute type without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const TYPE_MASK: u16 = 0x3fff;

#[derive(Debug, Default)]
pub struct World {
    /// As the recording last told them.
    recorded: BTreeMap<Ifindex, Link>,
    recorded_addresses: BTreeSet<(Ifindex, IpAddr)>,
    /// In the recording still there; the engine has deleted them.
    deleted: BTreeSet<Ifindex>,
    made: u32,
    addresses: BTreeMap<(Ifindex, IpAddr), AddressRecord>,
    routes: Vec<RouteRecord>,
    forwarding: BTreeMap<Ifindex, ForwardingHave>,
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
            kernel::Change::BridgePort { index, master, flags } => match self.recorded.get(&index) {
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
            kernel::Change::Other => Vec::new(),
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

    fn remove_route(&mut self, record: &RouteRecord) {
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

    fn forget(&mut self, index: Ifindex) {
        self.recorded_addresses.retain(|(on, _)| *on != index);
        self.addresses.retain(|(on, _), _| *on != index);
        self.routes.retain(|route| !refers_to(route, index));
        self.forwarding.remove(&index);
    }

    /// Which address is on which link.
    pub fn addresses(&self) -> Vec<(Ifindex, IpAddr)> {
        self.addresses.keys().copied().collect()
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

    /// Carries out a plan behind the tape's entry `position`.
    pub fn execute(&mut self, plan: Plan, observed: &Observed, tape: &Tape, position: usize) -> Done {
        let mut run = Run {
            world: self,
            observed,
            tape,
            position,
            made: Vec::new(),
        };
        let results = plan.steps.iter().map(|step| StepResult {
            outcome: Ok(run.apply(&step.op)),
            elapsed_us: 0,
        });
        let results = results.collect();
        Done {
            plan,
            results,
            undo_failures: Vec::new(),
        }
    }
}

/// One plan being carried out.
struct Run<'a> {
    world: &'a mut World,
    observed: &'a Observed,
    tape: &'a Tape,
    position: usize,
    made: Vec<(LinkName, Ifindex)>,
}

impl Run<'_> {
    fn apply(&mut self, op: &Op) -> Applied {
        match op {
            Op::CreateBridge { .. } | Op::CreateVlan { .. } | Op::CreateVxlan { .. } => {
                return match self.create(op) {
                    Some(link) => Applied::Created(Box::new(link)),
                    None => Applied::Done,
                };
            }
            Op::DeleteLink { link } => {
                if let Some(index) = self.index_of(link) {
                    if self.world.recorded.contains_key(&index) {
                        self.world.deleted.insert(index);
                    }
                    self.world.forget(index);
                }
            }
            Op::Fdb { link, .. } | Op::Neighbour { link, .. } => {
                if let Some(index) = self.index_of(link) {
                    self.world.forwarding.entry(index).or_default().acknowledge(op);
                }
            }
            Op::Address { action, link, record } => self.address(*action, link, record),
            Op::Route { action, record } => {
                self.world.remove_route(record);
                if *action != ListAction::Delete {
                    self.world.routes.push((**record).clone());
                }
            }
            // The engine's mirror shows it: `engine::acknowledge`.
            Op::SetLink { .. }
            | Op::SetBridge { .. }
            | Op::SetVxlan { .. }
            | Op::SetPort { .. }
            | Op::DisableIpv6 { .. } => {}
        }
        Applied::Done
    }

    fn address(&mut self, action: ListAction, link: &LinkRef, record: &AddressRecord) {
        let (Some(index), Some(address)) = (self.index_of(link), address_of(record)) else {
            return;
        };
        match action {
            ListAction::Delete => drop(self.world.addresses.remove(&(index, address))),
            ListAction::Replace | ListAction::Append | ListAction::Add => {
                let mut record = record.clone();
                record.ifindex = index.get();
                self.world.addresses.insert((index, address), record);
            }
        }
    }

    fn index_of(&self, link: &LinkRef) -> Option<Ifindex> {
        let made = || self.made.iter().find(|(name, _)| *name == link.name);
        link.index
            .or_else(|| made().map(|(_, index)| *index))
            .or_else(|| self.observed.by_name(&link.name).map(|l| l.index))
    }

    fn create(&mut self, op: &Op) -> Option<Link> {
        let (name, kind, parent, mac, mtu) = match op {
            Op::CreateBridge {
                name,
                mac,
                mtu,
                attributes,
            } => (name, LinkKind::Bridge(*attributes), None, Some(*mac), *mtu),
            Op::CreateVlan {
                name,
                parent,
                vid,
                mtu,
            } => {
                let kind = LinkKind::Vlan(VlanAttributes {
                    vid: Some(*vid),
                    protocol: ETH_P_8021Q,
                });
                (name, kind, self.index_of(parent), None, *mtu)
            }
            Op::CreateVxlan {
                name,
                mtu,
                attributes,
            } => {
                let kind = LinkKind::Vxlan(Box::new(attributes.clone()));
                (name, kind, attributes.link, None, *mtu)
            }
            _ => return None,
        };
        let below = parent.and_then(|index| self.observed.link(index));
        let told = self.tape.birth_after(self.position, name);
        let told = told.filter(|link| link.kind.name() == kind.name());
        if let Some(told) = told {
            self.world.recorded.insert(told.index, told.clone());
        }
        let index = match told {
            Some(told) => told.index,
            None => self.world.next_made()?,
        };
        let room = match (&kind, below) {
            (LinkKind::Vxlan(_), below) => below.map_or(MTU, |l| l.mtu).saturating_sub(VXLAN_OVERHEAD),
            (_, Some(below)) => below.mtu,
            (_, None) => MTU,
        };
        // The kernel makes its own entry for the group.
        if let LinkKind::Vxlan(attributes) = &kind
            && let Some(group) = attributes.group
        {
            let entry = FdbEntry {
                mac: Mac::ZERO,
                dst: Some(group),
            };
            self.world.forwarding.entry(index).or_default().fdb.push(FdbRow {
                entry,
                ours: false,
                fixed: true,
            });
        }
        self.made.push((*name, index));
        Some(Link {
            index,
            name: *name,
            kind,
            mac: mac
                .or_else(|| told.and_then(|l| l.mac))
                .or_else(|| below.and_then(|l| l.mac)),
            mtu: mtu.map_or_else(|| told.map_or(room, |l| l.mtu), |mtu| mtu.get()),
            up: false,
            carrier: false,
            master: None,
            parent,
            alias: None,
            ipv6_disabled: told.map_or_else(|| self.world.ipv6_of_new_links(), |l| l.ipv6_disabled),
            tx_queue_len: told.map_or(TX_QUEUE_LEN, |l| l.tx_queue_len),
            port: None,
        })
    }
}

impl World {
    fn next_made(&mut self) -> Option<Ifindex> {
        self.made += 1;
        Ifindex::new(FIRST_MADE + self.made)
    }

    /// A kernel without IPv6 says nothing of it; with it, a new link has it on unless somebody turned it off.
    fn ipv6_of_new_links(&self) -> Option<bool> {
        let with_ipv6 = self.recorded.values().any(|link| link.ipv6_disabled.is_some());
        with_ipv6.then_some(false)
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
