//! VLANs of bridge ports and VNIs of VXLAN devices. Kept only where bridges filter by VLAN for us
//! (`[bridge] mode = "vlan-aware"`): elsewhere nothing is stored and nobody is told.
//!
//! Every AF_BRIDGE message about a port lists all its VLANs, so a message replaces what is known; what the bridge does to its
//! ports of itself (another `vlan_default_pvid`) is told VLAN by VLAN. A port not heard of yet is in no VLAN: our bridge gives
//! none to a new port.

use super::{Effect, Observed};
use crate::model::{Ifindex, PortVlans, Vid, VlanRow, Vni, VniRow};
use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Vlans {
    kept: bool,
    ports: BTreeMap<Ifindex, PortVlans>,
    /// How many ports are in a VLAN: who looks for a free one must not ask every port.
    members: BTreeMap<Vid, u32>,
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
        let different = before.differences(known);
        let now: Vec<(Vid, bool, bool)> = different
            .iter()
            .map(|vid| (*vid, before.get(*vid).is_some(), known.get(*vid).is_some()))
            .collect();
        for (vid, was, is) in now {
            self.count(vid, was, is);
        }
        Some(different)
    }

    fn count(&mut self, vid: Vid, was: bool, is: bool) {
        match (was, is) {
            (false, true) => *self.members.entry(vid).or_default() += 1,
            (true, false) => {
                if let Some(members) = self.members.get_mut(&vid) {
                    *members -= 1;
                    if *members == 0 {
                        self.members.remove(&vid);
                    }
                }
            }
            _ => {}
        }
    }

    pub fn set(&mut self, index: Ifindex, vid: Vid, row: Option<VlanRow>) -> bool {
        if !self.kept {
            return false;
        }
        let known = self.ports.entry(index).or_default();
        if known.get(vid) == row.as_ref() {
            return false;
        }
        let (was, is) = (known.get(vid).is_some(), row.is_some());
        match row {
            Some(row) => known.set(row),
            None => known.remove(vid),
        }
        self.count(vid, was, is);
        true
    }

    /// As `set`, by somebody's message: a VNI stays with its VLAN until that goes.
    pub fn told(&mut self, index: Ifindex, row: VlanRow, present: bool) -> bool {
        let known = self.ports.get(&index).and_then(|vlans| vlans.get(row.vid));
        let vni = row.vni.or_else(|| known?.vni);
        self.set(index, row.vid, present.then_some(VlanRow { vni, ..row }))
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
        for row in self.ports.remove(&index).unwrap_or_default().rows() {
            self.count(row.vid, true, false);
        }
    }

    pub fn forget(&mut self, index: Ifindex) {
        self.forget_port(index);
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
    /// Is some port in this VLAN?
    pub fn is_vid_in_use(&self, vid: Vid) -> bool {
        self.vlans.members.contains_key(&vid)
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

    pub(super) fn apply_own_vlan(&mut self, index: Ifindex, vid: Vid, row: Option<VlanRow>) -> Effect {
        match self.vlans.set(index, vid, row) {
            true => Effect::Vlans(index, vec![vid]),
            false => Effect::Same,
        }
    }

    pub(super) fn apply_vlans(&mut self, index: Ifindex, rows: Vec<VlanRow>, present: bool) -> Effect {
        // Of a bridge itself, or of a port that was let go: its bridge's message came first and said it all.
        if self.link(index).is_none_or(|link| link.master.is_none()) {
            return Effect::Same;
        }
        let changed = rows
            .into_iter()
            .filter(|row| self.vlans.told(index, *row, present));
        let changed: Vec<Vid> = changed.map(|row| row.vid).collect();
        match changed.is_empty() {
            true => Effect::Same,
            false => Effect::Vlans(index, changed),
        }
    }

    pub(super) fn apply_vnis(&mut self, index: Ifindex, rows: Vec<VniRow>, present: bool) -> Effect {
        let changed = rows
            .into_iter()
            .filter(|row| self.vlans.set_vni(index, *row, present));
        let changed: Vec<Vni> = changed.map(|row| row.vni).collect();
        match changed.is_empty() {
            true => Effect::Same,
            false => Effect::Vnis(index, changed),
        }
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
        self.vlans.members.clear();
        for row in self.vlans.ports.values().flat_map(PortVlans::rows) {
            *self.vlans.members.entry(row.vid).or_default() += 1;
        }
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
