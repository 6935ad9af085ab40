//! VLANs of bridge ports and VNIs of VXLAN devices (`net/bridge/br_netlink.c`, `drivers/net/vxlan/vxlan_vnifilter.c`).

use super::{Answer, Kernel, refuse};
use tapwire::model::{Ifindex, LinkKind, Vid, VlanRow, Vni, VniRow};
use tapwire::observed::Change;
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
            // `br_process_vlan_info`, told at once; then `br_process_vlan_tunnel_info`, which may be refused.
            let kept = device.vlans.get(row.vid).and_then(|have| have.vni);
            device.vlans.set(VlanRow { vni: kept, ..row });
            if device.vlans != before {
                self.tell_vlan(index, row.vid);
            }
            if let Some(vni) = row.vni {
                let answer = self.tunnel_id(index, row.vid, vni);
                if self.device(index).is_some_and(|d| d.vlans != before) {
                    self.tell_port(index);
                }
                return answer;
            }
        }
        if self.device(index).is_some_and(|d| d.vlans != before) {
            if action == ListAction::Delete {
                self.tell_vlan(index, row.vid);
            }
            self.tell_port(index);
        }
        Ok(())
    }

    /// `__vlan_tunnel_info_add`: a VLAN keeps the VNI it has, and no two of a port have the same one.
    fn tunnel_id(&mut self, index: Ifindex, vid: Vid, vni: Vni) -> Answer {
        let Some(device) = self.device_mut(index) else {
            return refuse(libc::ENODEV, "");
        };
        if device.link.port.and_then(|p| p.vlan_tunnel) != Some(true) {
            return refuse(libc::EINVAL, "");
        }
        match device.vlans.get(vid).copied() {
            Some(have) if have.vni.is_none() && !device.vlans.rows().any(|r| r.vni == Some(vni)) => {
                device.vlans.set(VlanRow {
                    vni: Some(vni),
                    ..have
                });
                Ok(())
            }
            _ => refuse(libc::EEXIST, ""),
        }
    }

    /// RTM_NEWVLAN or RTM_DELVLAN, which the kernel sends before it sees to the VLAN's VNI.
    fn tell_vlan(&mut self, index: Ifindex, vid: Vid) {
        let now = self.device(index).and_then(|d| d.vlans.get(vid)).copied();
        let gone = VlanRow::tagged(vid);
        self.links.push_back(Change::Vlans {
            index,
            rows: vec![VlanRow {
                vni: None,
                ..now.unwrap_or(gone)
            }],
            present: now.is_some(),
        });
    }

    /// `__br_vlan_set_default_pvid`: the ports that are in no such VLAN yet are put into it, as their PVID; those that the
    /// old one was given to lose it. Of the ports only RTM_NEWVLAN and RTM_DELVLAN are sent.
    pub fn set_default_pvid(&mut self, bridge: Ifindex, pvid: u16) {
        let Some(LinkKind::Bridge(have)) = self.device_mut(bridge).map(|d| &mut d.link.kind) else {
            return;
        };
        let old = Vid::new(i64::from(have.vlan_default_pvid.replace(pvid).unwrap_or(1))).ok();
        let new = Vid::new(i64::from(pvid)).ok();
        for port in self.ports_of(bridge) {
            let Some(device) = self.device_mut(port) else {
                continue;
            };
            let told: Vec<Vid> = match (old, new) {
                (Some(old), _) if device.vlans.pvid() == Some(old) => {
                    device.vlans.remove(old);
                    if let Some(new) = new {
                        device.vlans.set(VlanRow::access(new));
                    }
                    new.into_iter().chain([old]).collect()
                }
                (None, Some(new)) if device.vlans.get(new).is_none() => {
                    device.vlans.set(VlanRow::access(new));
                    vec![new]
                }
                _ => Vec::new(),
            };
            for vid in told {
                self.tell_vlan(port, vid);
            }
        }
        self.tell_link(bridge);
    }

    pub fn set_filtering(&mut self, bridge: Ifindex, on: bool) {
        if let Some(LinkKind::Bridge(have)) = self.device_mut(bridge).map(|d| &mut d.link.kind) {
            have.vlan_filtering = Some(on);
            self.tell_link(bridge);
        }
    }

    /// `bridge link set dev PORT vlan_tunnel off` forgets which VNIs its VLANs stand for (`nbp_vlan_tunnel_info_flush`).
    pub fn tunnel_off(&mut self, port: Ifindex) {
        if let Some(device) = self.device_mut(port)
            && let Some(flags) = &mut device.link.port
        {
            flags.vlan_tunnel = Some(false);
            let rows = device.vlans.rows().map(|row| VlanRow { vni: None, ..*row });
            device.vlans = rows.collect();
            self.tell_port(port);
        }
    }

    pub fn vni(&mut self, action: ListAction, index: Ifindex, row: VniRow) -> Answer {
        let Some(device) = self.device_mut(index) else {
            return refuse(libc::ENODEV, "");
        };
        if !matches!(&device.link.kind, LinkKind::Vxlan(have) if have.vnifilter) {
            return refuse(libc::EOPNOTSUPP, "");
        }
        let known = device.vnis.iter().find(|have| have.vni == row.vni).copied();
        let present = action != ListAction::Delete;
        match known {
            None if !present => return refuse(libc::ENOENT, ""),
            Some(have) if present && have == row => return Ok(()),
            _ => device.vnis.retain(|have| have.vni != row.vni),
        }
        if present {
            device.vnis.push(row);
        }
        self.links.push_back(Change::Vnis {
            index,
            rows: vec![row],
            present,
        });
        Ok(())
    }
}
