//! From the guard that a port has to the one it should have.

use super::op::{GuardTable, LinkRef, Op};
use crate::desired::guard::{Entry, difference};
use crate::model::Ifindex;
use std::collections::BTreeMap;

/// What the kernel has of the table `bridge tapwire`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum TableHave {
    #[default]
    Absent,
    /// As we make it.
    Right,
    /// Of this name, but not as we make it: an older version's, or somebody changed it.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct GuardHave {
    pub table: TableHave,
    /// Entries by port, sorted. Empty unless the table is right.
    pub ports: BTreeMap<Ifindex, Vec<Entry>>,
}

/// A port with all its entries.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GuardedPort {
    pub index: Ifindex,
    pub entries: Vec<Entry>,
}

/// One transaction that brings a port's entries about; none if they are so already.
pub fn plan_guard(want: &[Entry], have: &[Entry], link: LinkRef) -> Option<Op> {
    let (gone, new) = difference(have, want);
    (!gone.is_empty() || !new.is_empty()).then(|| Op::Guard {
        link,
        gone: gone.into(),
        new: new.into(),
    })
}

impl GuardHave {
    /// An acknowledged operation of ours.
    pub fn acknowledge(&mut self, op: &Op) {
        match op {
            Op::GuardTable(GuardTable::Make(ports)) => {
                self.table = TableHave::Right;
                self.ports = ports
                    .iter()
                    .map(|port| (port.index, port.entries.clone()))
                    .collect();
            }
            Op::GuardTable(GuardTable::Remove) => *self = GuardHave::default(),
            Op::GuardTable(GuardTable::Sweep(ports)) => {
                for port in ports {
                    self.change(port.index, &port.entries, &[]);
                }
            }
            Op::Guard { link, gone, new } => {
                if let Some(index) = link.index {
                    self.change(index, gone, new);
                }
            }
            _ => {}
        }
    }

    fn change(&mut self, index: Ifindex, gone: &[Entry], new: &[Entry]) {
        let entries = self.ports.entry(index).or_default();
        entries.retain(|entry| gone.binary_search(entry).is_err());
        entries.extend_from_slice(new);
        entries.sort_unstable();
        entries.dedup();
        if entries.is_empty() {
            self.ports.remove(&index);
        }
    }
}
