//! VLANs of bridge ports and VNIs of VXLAN devices (`net/bridge/br_netlink.c`, `drivers/net/vxlan/vxlan_vnifilter.c`).

use super::{Answer, Kernel, refuse};
use tapwire::model::{Ifindex, LinkKind, Vid, VlanRow, VniRow};
use tapwire::plan::op::ListAction;

impl Kernel {
    /// What a new port of this bridge is in.
    pub(super) fn default_vlan(&self, bridge: Ifindex) -> Option<VlanRow> {
        match self.device(bridge).map(|d| &d.link.kind) {
            Some(LinkKind::Bridge(have)) => {
                let vid = Vid::new(i64::from(have.vlan_default_pvid.unwrap_or(1)));
                vid.ok().map(VlanRow::access)
            }
            _ => None,
        }
    }

    pub fn vlan(&mut self, action: ListAction, index: Ifindex, row: VlanRow) -> Answer {
        let Some(device) = self.device_mut(index) else {
            return refuse(libc::ENODEV, "");
        };
        if device.link.master.is_none() {
            return refuse(libc::EOPNOTSUPP, "");
        }
        let before = device.vlans.clone();
        if action == ListAction::Delete {
            device.vlans.remove(row.vid);
        } else {
            let tunnel = device.link.port.and_then(|p| p.vlan_tunnel) == Some(true);
            if row.vni.is_some() && !tunnel {
                return refuse(libc::EINVAL, "");
            }
            if row.vni.is_some_and(|vni| {
                device
                    .vlans
                    .rows()
                    .any(|r| r.vni == Some(vni) && r.vid != row.vid)
            }) {
                return refuse(libc::EEXIST, "");
            }
            // A VNI stays with its VLAN until that goes.
            let kept = device.vlans.get(row.vid).and_then(|have| have.vni);
            if row.vni.is_some() && kept.is_some() && kept != row.vni {
                return refuse(libc::EEXIST, "");
            }
            device.vlans.set(VlanRow {
                vni: row.vni.or(kept),
                ..row
            });
        }
        if self.device(index).is_some_and(|d| d.vlans != before) {
            self.tell_port(index);
        }
        Ok(())
    }

    pub fn vni(&mut self, action: ListAction, index: Ifindex, row: VniRow) -> Answer {
        let Some(device) = self.device_mut(index) else {
            return refuse(libc::ENODEV, "");
        };
        if !matches!(&device.link.kind, LinkKind::Vxlan(have) if have.vnifilter) {
            return refuse(libc::EOPNOTSUPP, "");
        }
        let known = device.vnis.iter().any(|have| have.vni == row.vni);
        match action {
            ListAction::Delete if !known => return refuse(libc::ENOENT, ""),
            _ => device.vnis.retain(|have| have.vni != row.vni),
        }
        if action != ListAction::Delete {
            device.vnis.push(row);
        }
        Ok(())
    }
}
