//! VLANs of bridge ports and VNIs of VXLAN devices. Kept only where bridges filter by VLAN for us
//! (`[bridge] mode = "vlan-aware"`): elsewhere nothing is stored and nobody is told.
//!
//! Every AF_BRIDGE message about a port lists all its VLANs, so a message replaces what is known. A port not heard of
//! yet is in no VLAN: our bridge gives none to a new port.

use super::Observed;
use crate::model::{Ifindex, PortVlans, Vid, VlanRow, Vni, VniRow};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Vlans {
    kept: bool,
    ports: BTreeMap<Ifindex, PortVlans>,
    vnis: BTreeMap<Ifindex, BTreeMap<Vni, Option<IpAddr>>>,
}

impl Vlans {
    /// The VIDs that are different now.
    pub fn replace(&mut self, index: Ifindex, vlans: PortVlans) -> Option<Vec<Vid>> {
        if !self.kept {
            return None;
        }
        let known = self.ports.entry(index).or_default();
        if *known == vlans {
            return None;
        }
        let before = std::mem::replace(known, vlans);
        Some(before.differences(known))
    }

    pub fn set(&mut self, index: Ifindex, vid: Vid, row: Option<VlanRow>) -> bool {
        if !self.kept {
            return false;
        }
        let known = self.ports.entry(index).or_default();
        if known.get(vid) == row.as_ref() {
            return false;
        }
        match row {
            Some(row) => known.set(row),
            None => known.remove(vid),
        }
        true
    }

    pub fn set_vni(&mut self, index: Ifindex, row: VniRow, present: bool) -> bool {
        if !self.kept {
            return false;
        }
        let known = self.vnis.entry(index).or_default();
        if present {
            known.insert(row.vni, row.group) != Some(row.group)
        } else {
            known.remove(&row.vni).is_some()
        }
    }

    pub fn forget_port(&mut self, index: Ifindex) {
        self.ports.remove(&index);
    }

    pub fn forget(&mut self, index: Ifindex) {
        self.ports.remove(&index);
        self.vnis.remove(&index);
    }
}

impl Observed {
    /// Whether VLANs are of interest at all. Turning it on asks for a dump.
    pub fn keep_vlans(&mut self, kept: bool) {
        if !kept {
            self.vlans = Vlans::default();
        }
        self.vlans.kept = kept;
    }
    pub fn vlans_of(&self, port: Ifindex) -> Option<&PortVlans> {
        self.vlans.ports.get(&port)
    }
    pub fn vlan(&self, port: Ifindex, vid: Vid) -> Option<&VlanRow> {
        self.vlans_of(port)?.get(vid)
    }
    /// VIDs that some port is in.
    pub fn vids_in_use(&self) -> BTreeSet<Vid> {
        let rows = self.vlans.ports.values().flat_map(PortVlans::rows);
        rows.map(|row| row.vid).collect()
    }
    /// The VNIs that a VXLAN device takes.
    pub fn vnis_of(&self, device: Ifindex) -> impl Iterator<Item = VniRow> {
        let rows = self.vlans.vnis.get(&device).into_iter().flatten();
        rows.map(|(vni, group)| VniRow {
            vni: *vni,
            group: *group,
        })
    }
    pub fn vni(&self, device: Ifindex, vni: Vni) -> Option<VniRow> {
        let group = *self.vlans.vnis.get(&device)?.get(&vni)?;
        Some(VniRow { vni, group })
    }

    /// A complete dump of what is in which VLAN.
    pub fn replace_vlans(
        &mut self,
        ports: impl IntoIterator<Item = (Ifindex, PortVlans)>,
        vnis: impl IntoIterator<Item = (Ifindex, VniRow)>,
    ) {
        if !self.vlans.kept {
            return;
        }
        self.vlans.ports = ports.into_iter().collect();
        self.vlans.vnis.clear();
        for (index, row) in vnis {
            self.vlans
                .vnis
                .entry(index)
                .or_default()
                .insert(row.vni, row.group);
        }
    }
}
