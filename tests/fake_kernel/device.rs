//! Links: making and deleting them, joining and leaving bridges, MTU, address and `up`.

use super::{Answer, Device, Kernel, refuse};
use tapwire::model::{
    BridgeAttributes, Ifindex, Link, LinkKind, LinkName, Mac, OperState, PortFlags, PortVlans,
    VlanAttributes, VxlanAttributes,
};
use tapwire::observed::Change;

/// Outer headers of a VXLAN frame: the kernel's VXLAN_HEADROOM and VXLAN6_HEADROOM.
const HEADROOM_V4: u32 = 50;
const HEADROOM_V6: u32 = 70;

/// What is asked of a new device; unset: the kernel's own choice.
#[derive(Debug, Clone)]
pub struct Birth {
    pub name: LinkName,
    pub kind: LinkKind,
    pub index: Option<Ifindex>,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub parent: Option<Ifindex>,
}

impl Birth {
    pub fn of(name: LinkName, kind: LinkKind) -> Self {
        Self {
            name,
            kind,
            index: None,
            mac: None,
            mtu: None,
            parent: None,
        }
    }
}

impl Kernel {
    pub fn create(&mut self, birth: Birth) -> Answer<Ifindex> {
        if self.by_name(&birth.name).is_some() {
            return refuse(libc::EEXIST, "");
        }
        self.check_kind(&birth)?;
        let index = match birth.index {
            Some(index) if self.devices.contains_key(&index) => return refuse(libc::EBUSY, ""),
            Some(index) => index,
            None => self.free_index(),
        };
        self.next_index = self.next_index.max(index.get());
        let parent = birth.parent.and_then(|p| self.device(p));
        let below = match &birth.kind {
            LinkKind::Vlan(_) => parent.map(|p| p.link.mtu),
            LinkKind::Vxlan(v) => v
                .link
                .and_then(|l| self.device(l))
                .map(|d| d.link.mtu - headroom(v)),
            _ => None,
        };
        // A VLAN device inherits its parent's address (`vlan_dev_init`); the others get a random one.
        let inherited = parent
            .and_then(|p| p.link.mac)
            .filter(|_| matches!(birth.kind, LinkKind::Vlan(_)));
        let random = Mac::derived_from(&format!("random {}/{}", birth.name, index));
        let kind = match birth.kind {
            LinkKind::Bridge(asked) => LinkKind::Bridge(complete(asked)),
            other => other,
        };
        let link = Link {
            index,
            name: birth.name,
            mac: birth.mac.or(inherited).or(Some(random)),
            mtu: birth.mtu.or(below).unwrap_or(1500),
            up: false,
            carrier: false,
            operstate: OperState::Unknown,
            master: None,
            parent: match &kind {
                LinkKind::Vxlan(v) => v.link,
                _ => birth.parent,
            },
            alias: None,
            ipv6_disabled: Some(false),
            tx_queue_len: 1000,
            port: None,
            kind,
        };
        self.devices.insert(
            index,
            Device {
                mac_pinned: birth.mac.is_some(),
                // Only a later change pins it (6.18).
                mtu_pinned: false,
                max_mtu: 65535,
                fdb: Vec::new(),
                port_fdb: Vec::new(),
                neighbours: Vec::new(),
                addresses: Vec::new(),
                vlans: PortVlans::default(),
                vnis: Vec::new(),
                link,
            },
        );
        self.tell_link(index);
        Ok(index)
    }

    fn free_index(&self) -> Ifindex {
        let next = (self.next_index + 1..).find_map(|raw| {
            let index = Ifindex::new(raw)?;
            (!self.devices.contains_key(&index)).then_some(index)
        });
        next.unwrap_or_else(|| unreachable!("a 32-bit index is free"))
    }

    fn check_kind(&self, birth: &Birth) -> Answer {
        match &birth.kind {
            LinkKind::Vlan(asked) => self.check_vlan(birth, asked),
            LinkKind::Vxlan(asked) => self.check_vxlan(birth, asked),
            _ => Ok(()),
        }
    }

    fn check_vlan(&self, birth: &Birth, asked: &VlanAttributes) -> Answer {
        if !self.vlans {
            return refuse(libc::EOPNOTSUPP, "Unknown device type");
        }
        let Some(parent) = birth.parent.and_then(|p| self.device(p)) else {
            return refuse(libc::ENODEV, "link not specified");
        };
        let taken = self.devices().any(|d| {
            d.link.parent == birth.parent && matches!(&d.link.kind, LinkKind::Vlan(v) if v.vid == asked.vid)
        });
        if taken {
            return refuse(libc::EEXIST, "VLAN device already exists");
        }
        if birth.mtu.is_some_and(|mtu| mtu > parent.link.mtu) {
            return refuse(
                libc::EINVAL,
                "VLAN device MTU can't exceed MTU of the lower device",
            );
        }
        Ok(())
    }

    fn check_vxlan(&self, birth: &Birth, asked: &VxlanAttributes) -> Answer {
        let below = match asked.link {
            Some(link) => match self.device(link) {
                Some(device) => Some(device.link.mtu),
                None => return refuse(libc::ENODEV, "Invalid local interface"),
            },
            None => None,
        };
        if asked.group.is_some_and(|g| g.is_multicast()) && asked.link.is_none() {
            return refuse(
                libc::EINVAL,
                "Local interface required for multicast remote destination",
            );
        }
        if let (Some(below), Some(mtu)) = (below, birth.mtu)
            && mtu > below - headroom(asked)
        {
            return refuse(
                libc::EINVAL,
                "MTU for VXLAN interface must be between 68 and the underlay's",
            );
        }
        let taken = self.devices().any(|d| {
            matches!(&d.link.kind, LinkKind::Vxlan(v)
                if v.vni == asked.vni && v.dstport == asked.dstport && !v.external)
        });
        if taken {
            return refuse(
                libc::EEXIST,
                "A VXLAN device with the specified VNI already exists",
            );
        }
        Ok(())
    }

    /// Takes what hangs on it along: VLAN children and VXLAN devices above it die, a bridge's ports are let go and stay up.
    pub fn delete(&mut self, index: Ifindex) -> Answer {
        let Some(device) = self.devices.get(&index) else {
            return refuse(libc::ENODEV, "");
        };
        let master = device.link.master;
        let above: Vec<Ifindex> = self
            .devices()
            .filter(|d| match &d.link.kind {
                LinkKind::Vlan(_) => d.link.parent == Some(index),
                LinkKind::Vxlan(v) => v.link == Some(index),
                _ => false,
            })
            .map(|d| d.link.index)
            .collect();
        for child in above {
            self.delete(child)?;
        }
        for port in self.ports_of(index) {
            self.leave(port);
        }
        if master.is_some() {
            self.leave(index);
        }
        self.forget_addresses(index);
        self.tell_link(index);
        self.devices.remove(&index);
        self.links.push_back(Change::Removed(index));
        Ok(())
    }

    /// Deleting a bridge lets its ports go one by one, each with an RCU grace period; who reads the first message meanwhile
    /// and answers it gets its answer (here: from `finish_deletion`) when the bridge is gone.
    pub fn delete_slowly(&mut self, bridge: Ifindex) {
        if let Some(first) = self.ports_of(bridge).first() {
            self.leave(*first);
        }
        self.dying = Some(bridge);
    }

    /// The kernel unlists a device, tells that it is down, waits for an RCU grace period, and only then tells that it is
    /// gone: in between every request is answered with ENODEV. `tell_deletion` is the end of that.
    pub fn delete_untold(&mut self, index: Ifindex) -> Answer {
        if let Some(device) = self.devices.get_mut(&index) {
            device.link.up = false;
        }
        self.delete(index)?;
        self.untold = self.links.pop_back();
        Ok(())
    }

    pub fn tell_deletion(&mut self) {
        self.links.extend(self.untold.take());
    }

    pub(super) fn finish_deletion(&mut self) -> Answer {
        match self.dying.take() {
            // Unless somebody else was faster.
            Some(bridge) if self.device(bridge).is_some() => self.delete(bridge),
            _ => Ok(()),
        }
    }

    /// `IFLA_MASTER`. Another bridge's port is moved silently; the same master again is free.
    pub fn set_master(&mut self, index: Ifindex, master: Option<Ifindex>) -> Answer {
        let Some(link) = self.device(index).map(|d| &d.link) else {
            return refuse(libc::ENODEV, "");
        };
        if link.master == master {
            return Ok(());
        }
        let is_bridge = link.is_bridge();
        let had_one = link.master.is_some();
        let Some(bridge) = master else {
            self.leave(index);
            return Ok(());
        };
        // `do_set_master`: an index that is gone is an invalid value.
        let Some(upper) = self.device(bridge) else {
            return refuse(libc::EINVAL, "");
        };
        let takes_ports = upper.link.is_bridge();
        if had_one {
            self.leave(index);
        }
        if !takes_ports {
            return refuse(libc::EOPNOTSUPP, "");
        }
        if is_bridge {
            return refuse(libc::ELOOP, "Can not enslave a bridge to a bridge");
        }
        if self.ports_of(bridge).len() >= self.ports_per_bridge {
            return refuse(libc::EXFULL, "");
        }
        let default = self.default_vlan(bridge);
        if let Some(device) = self.devices.get_mut(&index) {
            device.link.master = master;
            device.link.port = Some(fresh_port());
            device.vlans = default.into_iter().collect();
        }
        self.tell_port(index);
        self.tell_link(index);
        self.follow_ports(bridge);
        Ok(())
    }

    fn leave(&mut self, index: Ifindex) {
        let Some(device) = self.devices.get_mut(&index) else {
            return;
        };
        let Some(master) = device.link.master.take() else {
            return;
        };
        device.link.port = None;
        device.port_fdb.clear();
        device.vlans = PortVlans::default();
        self.links.push_back(Change::LeftBridge { index, master });
        self.tell_link(index);
        self.follow_ports(master);
    }

    /// An address or MTU that nobody set follows the ports (`br_stp_recalculate_bridge_id`, `br_mtu_auto_adjust`).
    fn follow_ports(&mut self, bridge: Ifindex) {
        let ports: Vec<(Option<Mac>, u32)> = self
            .ports_of(bridge)
            .into_iter()
            .filter_map(|port| self.device(port))
            .map(|d| (d.link.mac, d.link.mtu))
            .collect();
        let Some(device) = self.devices.get_mut(&bridge) else {
            return;
        };
        let before = device.link.clone();
        if !device.mac_pinned
            && let Some(lowest) = ports.iter().filter_map(|(mac, _)| *mac).min()
        {
            device.link.mac = Some(lowest);
        }
        if !device.mtu_pinned {
            device.link.mtu = ports.iter().map(|(_, mtu)| *mtu).min().unwrap_or(1500);
        }
        if device.link != before {
            self.tell_link(bridge);
        }
    }

    pub fn set_mtu(&mut self, index: Ifindex, mtu: u32) -> Answer {
        let Some(device) = self.device(index) else {
            return refuse(libc::ENODEV, "");
        };
        if mtu < 68 {
            return refuse(libc::EINVAL, "mtu less than device minimum");
        }
        let below = match &device.link.kind {
            // A VLAN device says ERANGE where others say EINVAL (`vlan_dev_change_mtu`).
            LinkKind::Vlan(_) => device
                .link
                .parent
                .and_then(|p| self.device(p))
                .map(|p| (p.link.mtu, libc::ERANGE)),
            LinkKind::Vxlan(v) => v
                .link
                .and_then(|l| self.device(l))
                .map(|d| (d.link.mtu - headroom(v), libc::EINVAL)),
            _ => None,
        };
        if let Some((limit, errno)) = below
            && mtu > limit
        {
            return refuse(errno, "");
        }
        if mtu > device.max_mtu {
            return refuse(libc::EINVAL, "mtu greater than device maximum");
        }
        let master = device.link.master;
        if let Some(device) = self.devices.get_mut(&index) {
            // The same one again never reaches the driver, so it does not pin (`dev_set_mtu`).
            if device.link.mtu == mtu {
                return Ok(());
            }
            device.mtu_pinned = true;
            device.link.mtu = mtu;
        }
        self.tell_link(index);
        // VLAN children never exceed their parent (`vlan_device_event`, NETDEV_CHANGEMTU).
        let larger: Vec<Ifindex> = self
            .vlans_on(index)
            .into_iter()
            .filter(|child| self.device(*child).is_some_and(|d| d.link.mtu > mtu))
            .collect();
        for child in larger {
            self.set_mtu(child, mtu)?;
        }
        if let Some(master) = master {
            self.follow_ports(master);
        }
        Ok(())
    }

    pub fn set_mac(&mut self, index: Ifindex, mac: Mac) -> Answer {
        let Some(device) = self.devices.get_mut(&index) else {
            return refuse(libc::ENODEV, "");
        };
        device.mac_pinned = true;
        if device.link.mac != Some(mac) {
            device.link.mac = Some(mac);
            self.tell_link(index);
        }
        Ok(())
    }

    /// VLAN children follow their parent down and up (`vlan_device_event`), and do not come up without it.
    pub fn set_up(&mut self, index: Ifindex, up: bool) -> Answer {
        let Some(device) = self.device(index) else {
            return refuse(libc::ENODEV, "");
        };
        if device.link.up == up {
            return Ok(());
        }
        let parent = device
            .link
            .parent
            .filter(|_| matches!(device.link.kind, LinkKind::Vlan(_)));
        if up && parent.and_then(|p| self.device(p)).is_some_and(|p| !p.link.up) {
            return refuse(libc::ENETDOWN, "");
        }
        if let Some(device) = self.devices.get_mut(&index) {
            device.link.up = up;
            device.link.carrier = up;
        }
        self.tell_link(index);
        for child in self.vlans_on(index) {
            self.set_up(child, up)?;
        }
        Ok(())
    }

    pub fn rename(&mut self, index: Ifindex, name: LinkName) -> Answer {
        if self.by_name(&name).is_some_and(|d| d.link.index != index) {
            return refuse(libc::EEXIST, "");
        }
        let Some(device) = self.devices.get_mut(&index) else {
            return refuse(libc::ENODEV, "");
        };
        device.link.name = name;
        self.tell_link(index);
        Ok(())
    }

    pub fn set_alias(&mut self, index: Ifindex, alias: &str) -> Answer {
        let Some(device) = self.devices.get_mut(&index) else {
            return refuse(libc::ENODEV, "");
        };
        let alias = (!alias.is_empty()).then(|| alias.into());
        if device.link.alias != alias {
            device.link.alias = alias;
            self.tell_link(index);
        }
        Ok(())
    }

    /// No message: only the network configuration groups hear of it.
    pub fn set_ipv6_disabled(&mut self, index: Ifindex, disable: bool) -> Answer {
        let Some(device) = self.devices.get_mut(&index) else {
            return refuse(libc::ENOENT, "");
        };
        device.link.ipv6_disabled = Some(disable);
        if disable {
            self.forget_ipv6(index);
        }
        Ok(())
    }

    fn vlans_on(&self, index: Ifindex) -> Vec<Ifindex> {
        self.devices()
            .filter(|d| d.link.parent == Some(index) && matches!(d.link.kind, LinkKind::Vlan(_)))
            .map(|d| d.link.index)
            .collect()
    }
}

fn headroom(vxlan: &VxlanAttributes) -> u32 {
    if vxlan.local.is_some_and(|ip| ip.is_ipv6()) {
        HEADROOM_V6
    } else {
        HEADROOM_V4
    }
}

/// A bridge's attributes as the kernel lists them: all of them, its own defaults where nothing was asked.
fn complete(asked: BridgeAttributes) -> BridgeAttributes {
    BridgeAttributes {
        stp: asked.stp.or(Some(false)),
        forward_delay: asked.forward_delay.or(Some(1500)),
        ageing_time: asked.ageing_time.or(Some(30000)),
        multicast_snooping: asked.multicast_snooping.or(Some(true)),
        vlan_filtering: asked.vlan_filtering.or(Some(false)),
        vlan_default_pvid: asked.vlan_default_pvid.or(Some(1)),
        link_local_learning: asked.link_local_learning.or(Some(true)),
    }
}

fn fresh_port() -> PortFlags {
    PortFlags {
        learning: Some(true),
        isolated: Some(false),
        hairpin: Some(false),
        guard: Some(false),
        neigh_suppress: Some(false),
        flood: Some(true),
        mcast_flood: Some(true),
        bcast_flood: Some(true),
        vlan_tunnel: Some(false),
    }
}
