//! From the forwarding entries a VXLAN device has to those it should have.
//!
//! Adds come before deletes and a changed destination is a replace, so that no known destination is ever missing.
//! Only entries with our mark are deleted; somebody else's fixed entry for the same MAC is left as it is.

use super::op::{LinkRef, ListAction, Op};
use crate::desired::fdb::ForwardingWant;
use crate::model::{FdbEntry, FdbRow, NeighbourEntry, Vni};
use std::collections::{BTreeMap, BTreeSet};

/// What the kernel has on one device.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ForwardingHave {
    pub fdb: Vec<FdbRow>,
    /// Permanent neighbours.
    pub neighbours: BTreeSet<NeighbourEntry>,
    /// Those of them that are ours.
    pub our_neighbours: BTreeSet<NeighbourEntry>,
}

/// `vni`: whose entries, on a device of many networks.
pub fn plan_forwarding(
    want: &ForwardingWant,
    have: &ForwardingHave,
    device: LinkRef,
    vni: Option<Vni>,
) -> Vec<Op> {
    let fdb = |action, entry| Op::Fdb {
        action,
        link: device,
        entry,
        vni,
    };
    let fixed: BTreeSet<FdbEntry> = have
        .fdb
        .iter()
        .filter(|row| row.fixed)
        .map(|row| row.entry)
        .collect();
    let foreign: BTreeMap<_, _> = have
        .fdb
        .iter()
        .filter(|row| row.fixed && !row.ours && !row.entry.is_flood())
        .map(|row| (row.entry.mac, row.entry))
        .collect();
    let mut ops = Vec::new();
    for entry in want.fdb.iter().filter(|entry| !fixed.contains(entry)) {
        if entry.is_flood() {
            ops.push(fdb(ListAction::Append, *entry));
        } else if !foreign.contains_key(&entry.mac) {
            ops.push(fdb(ListAction::Replace, *entry));
        }
    }
    for row in have
        .fdb
        .iter()
        .filter(|row| row.ours && !want.fdb.contains(&row.entry))
    {
        // A unicast MAC that moved was replaced above; deleting its old destination would find nothing.
        let moved = !row.entry.is_flood() && want.fdb.iter().any(|entry| entry.mac == row.entry.mac);
        if !moved {
            ops.push(fdb(ListAction::Delete, row.entry));
        }
    }
    let neighbour = |action, entry| Op::Neighbour {
        action,
        link: device,
        entry,
    };
    for entry in want.neighbours.difference(&have.neighbours) {
        ops.push(neighbour(ListAction::Replace, *entry));
    }
    for entry in have.our_neighbours.difference(&want.neighbours) {
        let moved = want.neighbours.iter().any(|n| n.ip == entry.ip);
        if !moved {
            ops.push(neighbour(ListAction::Delete, *entry));
        }
    }
    ops
}

impl ForwardingHave {
    /// What an acknowledged operation has done.
    pub fn acknowledge(&mut self, op: &Op) {
        match op {
            Op::Fdb {
                action: ListAction::Delete,
                entry,
                ..
            } => self.fdb.retain(|row| row.entry != *entry),
            Op::Fdb { entry, vni, .. } => {
                self.fdb
                    .retain(|row| row.entry != *entry && (entry.is_flood() || row.entry.mac != entry.mac));
                self.fdb.push(FdbRow {
                    entry: *entry,
                    vni: *vni,
                    ours: true,
                    fixed: true,
                });
            }
            Op::Neighbour {
                action: ListAction::Delete,
                entry,
                ..
            } => {
                self.neighbours.remove(entry);
                self.our_neighbours.remove(entry);
            }
            Op::Neighbour { entry, .. } => {
                self.neighbours.retain(|n| n.ip != entry.ip);
                self.our_neighbours.retain(|n| n.ip != entry.ip);
                self.neighbours.insert(*entry);
                self.our_neighbours.insert(*entry);
            }
            _ => {}
        }
    }
}
