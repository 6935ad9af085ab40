//! Forwarding entries of VXLAN devices and bridge ports, neighbours.

use super::{Answer, Kernel, refuse};
use tapwire::model::{FdbEntry, FdbRow, Ifindex, LinkKind, NeighbourEntry, Vni};
use tapwire::plan::op::ListAction;

impl Kernel {
    /// `ours`: carries the program's mark.
    pub fn fdb(&mut self, action: ListAction, index: Ifindex, entry: FdbEntry, ours: bool) -> Answer {
        self.fdb_of(action, index, entry, None, ours)
    }

    /// `vni`: on a device of many networks, whose.
    pub fn fdb_of(
        &mut self,
        action: ListAction,
        index: Ifindex,
        entry: FdbEntry,
        vni: Option<Vni>,
        ours: bool,
    ) -> Answer {
        let Some(device) = self.device_mut(index) else {
            return refuse(libc::ENODEV, "");
        };
        if entry.dst.is_none() {
            if device.link.master.is_none() {
                return refuse(libc::EOPNOTSUPP, "");
            }
            let known = device.port_fdb.contains(&entry.mac);
            return match (action, known) {
                (ListAction::Delete, false) => refuse(libc::ENOENT, ""),
                (ListAction::Delete, true) => {
                    device.port_fdb.retain(|mac| *mac != entry.mac);
                    Ok(())
                }
                (ListAction::Add, true) => refuse(libc::EEXIST, ""),
                _ => {
                    device.port_fdb.retain(|mac| *mac != entry.mac);
                    device.port_fdb.push(entry.mac);
                    Ok(())
                }
            };
        }
        if !matches!(device.link.kind, LinkKind::Vxlan(_)) {
            return refuse(libc::EOPNOTSUPP, "");
        }
        let row = FdbRow {
            entry,
            vni,
            ours,
            fixed: true,
        };
        let known = device.fdb.iter().any(|row| row.entry == entry && row.vni == vni);
        let same_mac = device
            .fdb
            .iter()
            .any(|row| row.entry.mac == entry.mac && row.vni == vni);
        match action {
            ListAction::Delete if !known => refuse(libc::ENOENT, ""),
            ListAction::Delete => {
                device.fdb.retain(|row| row.entry != entry || row.vni != vni);
                Ok(())
            }
            // `vxlan_fdb_update_existing`: only a unicast entry is replaced, only a flood entry is appended to.
            ListAction::Replace if entry.is_flood() => {
                refuse(libc::EOPNOTSUPP, "Cannot replace non-unicast fdb entries")
            }
            ListAction::Append if !entry.is_flood() && same_mac => refuse(libc::EEXIST, ""),
            ListAction::Add if same_mac => refuse(libc::EEXIST, ""),
            ListAction::Replace => {
                device
                    .fdb
                    .retain(|row| row.entry.mac != entry.mac || row.vni != vni);
                device.fdb.push(row);
                Ok(())
            }
            ListAction::Append | ListAction::Add => {
                if !known {
                    device.fdb.push(row);
                }
                // The mark is the entry's, not the destination's, and what a user told keeps the user's.
                let same = |row: &&mut FdbRow| row.entry.mac == entry.mac && row.vni == vni;
                if device.fdb.iter_mut().filter(same).any(|row| !row.ours) {
                    device
                        .fdb
                        .iter_mut()
                        .filter(same)
                        .for_each(|row| row.ours = false);
                }
                Ok(())
            }
        }
    }

    pub fn neighbour(
        &mut self,
        action: ListAction,
        index: Ifindex,
        entry: NeighbourEntry,
        ours: bool,
    ) -> Answer {
        let Some(device) = self.device_mut(index) else {
            return refuse(libc::ENODEV, "");
        };
        let known = device.neighbours.iter().any(|(have, _)| have.ip == entry.ip);
        match action {
            ListAction::Delete if !known => refuse(libc::ENOENT, ""),
            ListAction::Delete => {
                device.neighbours.retain(|(have, _)| have.ip != entry.ip);
                Ok(())
            }
            ListAction::Add | ListAction::Append if known => refuse(libc::EEXIST, ""),
            _ => {
                device.neighbours.retain(|(have, _)| have.ip != entry.ip);
                device.neighbours.push((entry, ours));
                Ok(())
            }
        }
    }
}
