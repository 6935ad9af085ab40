//! Which VLANs a bridge port is in, and the VNIs of a VXLAN device that serves many networks.

use super::ids::{Vid, Vni};
use std::net::IpAddr;

/// One VLAN of a bridge port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct VlanRow {
    pub vid: Vid,
    /// What comes in without a tag belongs to this VLAN.
    pub pvid: bool,
    /// What goes out has no tag.
    pub untagged: bool,
    /// On a VXLAN device with `vlan_tunnel`: the VNI that stands for this VLAN on the wire.
    pub vni: Option<Vni>,
}

impl VlanRow {
    /// A port of one network: no tags outside.
    pub const fn access(vid: Vid) -> Self {
        Self {
            vid,
            pvid: true,
            untagged: true,
            vni: None,
        }
    }
    /// One network of several on a port.
    pub const fn tagged(vid: Vid) -> Self {
        Self {
            vid,
            pvid: false,
            untagged: false,
            vni: None,
        }
    }
    pub const fn tunnel(vid: Vid, vni: Vni) -> Self {
        Self {
            vni: Some(vni),
            ..Self::tagged(vid)
        }
    }
}

/// The VLANs of one bridge port, by VID.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct PortVlans(Vec<VlanRow>);

impl PortVlans {
    pub fn get(&self, vid: Vid) -> Option<&VlanRow> {
        self.0
            .binary_search_by_key(&vid, |row| row.vid)
            .ok()
            .map(|at| &self.0[at])
    }
    pub fn rows(&self) -> impl Iterator<Item = &VlanRow> {
        self.0.iter()
    }
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn pvid(&self) -> Option<Vid> {
        self.0.iter().find(|row| row.pvid).map(|row| row.vid)
    }
    /// As the kernel does: a port has one PVID, the one told last.
    pub fn set(&mut self, row: VlanRow) {
        if row.pvid {
            self.0.iter_mut().for_each(|other| other.pvid = false);
        }
        match self.0.binary_search_by_key(&row.vid, |row| row.vid) {
            Ok(at) => self.0[at] = row,
            Err(at) => self.0.insert(at, row),
        }
    }
    pub fn remove(&mut self, vid: Vid) {
        self.0.retain(|row| row.vid != vid);
    }
    /// VIDs whose rows differ between the two.
    pub fn differences(&self, other: &Self) -> Vec<Vid> {
        let missing = |a: &Self, b: &Self| -> Vec<Vid> {
            let rows = a.0.iter().filter(|row| b.get(row.vid) != Some(row));
            rows.map(|row| row.vid).collect()
        };
        let mut vids = missing(self, other);
        vids.extend(missing(other, self));
        vids.sort_unstable();
        vids.dedup();
        vids
    }
}

impl FromIterator<VlanRow> for PortVlans {
    fn from_iter<I: IntoIterator<Item = VlanRow>>(rows: I) -> Self {
        let mut all = Self(rows.into_iter().collect());
        all.0.sort_by_key(|row| row.vid);
        all.0.dedup_by_key(|row| row.vid);
        all
    }
}

/// One VNI that a VXLAN device takes and sends, with its multicast group (`bridge vni add vni N group G`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct VniRow {
    pub vni: Vni,
    pub group: Option<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vid(raw: i64) -> Vid {
        Vid::new(raw).unwrap()
    }

    #[test]
    fn a_port_has_one_pvid_the_one_told_last() {
        let mut vlans = PortVlans::default();
        vlans.set(VlanRow::access(vid(20)));
        vlans.set(VlanRow::access(vid(10)));
        assert_eq!(vlans.pvid(), Some(vid(10)));
        assert!(vlans.get(vid(20)).is_some_and(|row| row.untagged && !row.pvid));
        vlans.remove(vid(10));
        assert_eq!(vlans.pvid(), None);
    }

    #[test]
    fn differences_name_what_came_went_and_changed() {
        let rows = |list: &[VlanRow]| list.iter().copied().collect::<PortVlans>();
        let before = rows(&[
            VlanRow::tagged(vid(1)),
            VlanRow::tagged(vid(2)),
            VlanRow::tagged(vid(3)),
        ]);
        let after = rows(&[
            VlanRow::tagged(vid(2)),
            VlanRow::access(vid(3)),
            VlanRow::tagged(vid(4)),
        ]);
        assert_eq!(before.differences(&after), [vid(1), vid(3), vid(4)]);
        assert_eq!(before.differences(&before), []);
    }
}
