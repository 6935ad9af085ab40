//! A pure stand-in for the kernel: links, bridges, VLAN and VXLAN devices, addresses, routes, forwarding entries.
//!
//! It refuses what the kernel refuses, with the kernel's errno, and queues the messages that the kernel would
//! multicast, in its order. What it knows comes from measurements on 6.18 and from the kernel's sources; each rule that
//! a test leans on says where it is from. Everybody's hands go through the same calls: the program's operations
//! (`execute`) and those of other programs (a scenario's events).
//!
//! Nothing sleeps and nothing reads a clock: a run is a function of its inputs.

mod address;
pub mod device;
mod execute;
mod forwarding;
pub mod host;
pub mod record;
mod vlan;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tapwire::desired::gateway::Sysctl;
use tapwire::desired::ruleset::Ruleset;
use tapwire::engine::event::Snapshot;
use tapwire::kernel::Refusal;
use tapwire::model::record::{AddressRecord, RouteRecord};
use tapwire::model::{FdbRow, Ifindex, Link, LinkName, Mac, NeighbourEntry, PortVlans, VniRow};
use tapwire::observed::{AddressRow, Change};
use tapwire::plan::address_move::{Carried, address_of};
use tapwire::plan::forwarding::ForwardingHave;
use tapwire::plan::gateway::{HostHave, RulesetHave};
use tapwire::plan::guard::GuardHave;

pub use execute::{Fault, Moment};

pub type Answer<T = ()> = Result<T, Refusal>;

pub fn refuse<T>(errno: i32, text: &str) -> Answer<T> {
    Err(Refusal {
        errno,
        text: (!text.is_empty()).then(|| text.into()),
    })
}

/// One device, with what netlink shows of it and what it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub link: Link,
    /// Set by somebody: a bridge's address no longer follows its lowest port.
    mac_pinned: bool,
    /// Likewise its MTU, "in either direction, never again".
    mtu_pinned: bool,
    pub max_mtu: u32,
    /// Entries of a VXLAN device.
    pub fdb: Vec<FdbRow>,
    /// Static entries of a bridge port.
    pub port_fdb: Vec<Mac>,
    /// Permanent neighbours, and whether they carry our mark.
    pub neighbours: Vec<(NeighbourEntry, bool)>,
    pub addresses: Vec<AddressRecord>,
    /// As a port of a bridge.
    pub vlans: PortVlans,
    /// Of a VXLAN device with `vnifilter`.
    pub vnis: Vec<VniRow>,
}

#[derive(Debug, Clone)]
pub struct Kernel {
    devices: BTreeMap<Ifindex, Device>,
    next_index: u32,
    pub routes: Vec<RouteRecord>,
    /// Messages of RTNLGRP_LINK not read yet.
    links: VecDeque<Change>,
    /// Messages of the address groups, which another socket reads.
    addresses: VecDeque<Change>,
    /// The gateways' tables in nftables, and whether somebody changed them since.
    pub ruleset: (Arc<Ruleset>, bool),
    /// The kernel settings that were changed for gateways.
    pub sysctls: Option<Vec<Sysctl>>,
    /// 1,023 in the real one.
    pub ports_per_bridge: usize,
    /// nftables' table `bridge tapwire`.
    pub guard: GuardHave,
    /// 802.1Q support.
    pub vlans: bool,
    /// A bridge whose deletion has begun: it is over when the next request gets its turn.
    dying: Option<Ifindex>,
    /// The last word about a device that is gone already, not told yet.
    untold: Option<Change>,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            devices: BTreeMap::new(),
            next_index: 1,
            routes: Vec::new(),
            links: VecDeque::new(),
            addresses: VecDeque::new(),
            ruleset: (Arc::default(), false),
            sysctls: Some(Vec::new()),
            ports_per_bridge: 1023,
            guard: GuardHave::default(),
            vlans: true,
            dying: None,
            untold: None,
        }
    }
}

impl Kernel {
    pub fn gateways(&self) -> HostHave {
        let ruleset = match &self.ruleset {
            (_, true) => RulesetHave::Other,
            (ruleset, false) if ruleset.is_empty() => RulesetHave::Nothing,
            (ruleset, false) => RulesetHave::Is(ruleset.fingerprint()),
        };
        HostHave {
            ruleset,
            sysctls: self.sysctls.clone(),
        }
    }
    pub fn device(&self, index: Ifindex) -> Option<&Device> {
        self.devices.get(&index)
    }
    pub fn device_mut(&mut self, index: Ifindex) -> Option<&mut Device> {
        self.devices.get_mut(&index)
    }
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }
    pub fn named(&self, name: &str) -> Option<&Device> {
        self.devices
            .values()
            .find(|d| d.link.name.as_bytes() == name.as_bytes())
    }
    pub fn index(&self, name: &str) -> Option<Ifindex> {
        self.named(name).map(|d| d.link.index)
    }
    fn by_name(&self, name: &LinkName) -> Option<&Device> {
        self.devices.values().find(|d| d.link.name == *name)
    }
    fn ports_of(&self, bridge: Ifindex) -> Vec<Ifindex> {
        self.devices
            .values()
            .filter(|d| d.link.master == Some(bridge))
            .map(|d| d.link.index)
            .collect()
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            links: self.devices.values().map(|d| d.link.clone()).collect(),
            addresses: self
                .devices
                .values()
                .flat_map(|d| {
                    d.addresses.iter().filter_map(|record| {
                        Some(AddressRow {
                            index: d.link.index,
                            address: address_of(record)?,
                            own: record.own(),
                        })
                    })
                })
                .collect(),
            static_entries: self
                .devices
                .values()
                .filter(|d| d.link.master.is_some())
                .map(|d| (d.link.index, d.port_fdb.clone()))
                .collect(),
            vlans: self
                .devices
                .values()
                .filter(|d| d.link.master.is_some())
                .map(|d| (d.link.index, d.vlans.clone()))
                .collect(),
            vnis: self
                .devices
                .values()
                .flat_map(|d| d.vnis.iter().map(|row| (d.link.index, *row)))
                .collect(),
        }
    }

    pub fn carried(&self, index: Ifindex) -> Answer<Carried> {
        let Some(device) = self.device(index) else {
            return refuse(libc::ENODEV, "");
        };
        Ok(Carried {
            addresses: device.addresses.clone(),
            routes: self
                .routes
                .iter()
                .filter(|r| record::out_of(r) == Some(index))
                .cloned()
                .collect(),
        })
    }

    pub fn forwarding(&self, index: Ifindex) -> Answer<ForwardingHave> {
        let Some(device) = self.device(index) else {
            return refuse(libc::ENODEV, "");
        };
        Ok(ForwardingHave {
            fdb: device.fdb.clone(),
            neighbours: device.neighbours.iter().map(|(entry, _)| *entry).collect(),
            our_neighbours: device
                .neighbours
                .iter()
                .filter(|(_, ours)| *ours)
                .map(|(entry, _)| *entry)
                .collect(),
        })
    }

    pub fn next_link_message(&mut self) -> Option<Change> {
        self.links.pop_front()
    }
    pub fn next_address_message(&mut self) -> Option<Change> {
        self.addresses.pop_front()
    }
    pub fn link_messages(&self) -> &VecDeque<Change> {
        &self.links
    }
    /// ENOBUFS on both sockets: what was queued is gone.
    pub fn lose_messages(&mut self) {
        self.links.clear();
        self.addresses.clear();
    }
    /// Delivers every queued link message `times` times: later ones repeat what is so already.
    pub fn repeat_messages(&mut self, times: usize) {
        let queued = std::mem::take(&mut self.links);
        for message in queued {
            self.links.extend(std::iter::repeat_n(message, times));
        }
    }

    fn tell_link(&mut self, index: Ifindex) {
        if let Some(device) = self.devices.get(&index) {
            self.links.push_back(Change::Upsert(device.link.clone()));
        }
    }
    fn tell_port(&mut self, index: Ifindex) {
        if let Some(device) = self.devices.get(&index)
            && let (Some(master), Some(flags)) = (device.link.master, device.link.port)
        {
            self.links.push_back(Change::BridgePort {
                index,
                master,
                flags,
                vlans: device.vlans.clone(),
            });
        }
    }
}
