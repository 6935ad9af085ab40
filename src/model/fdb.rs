//! Forwarding entries of a VXLAN device and neighbours behind it.

use super::ids::Vni;
use super::mac::Mac;
use std::net::IpAddr;

/// A forwarding entry on a VXLAN device: frames to `mac` go to the VTEP `dst`. `Mac::ZERO` is a flood entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct FdbEntry {
    pub mac: Mac,
    /// The remote VTEP; absent for an entry of a bridge port (`bridge fdb add MAC dev PORT master static`).
    pub dst: Option<IpAddr>,
}

impl FdbEntry {
    pub const fn is_flood(&self) -> bool {
        self.mac.is_zero()
    }
}

/// An entry as the kernel lists it, with whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FdbRow {
    pub entry: FdbEntry,
    /// Of which network, on a device that serves many (`src_vni`).
    pub vni: Option<Vni>,
    /// Carries our mark (a combination of state bits and flags, `kernel::mark`): made by tapwire, this run or an
    /// earlier one. Destinations of one MAC share it; a flood entry shared with somebody else reads as foreign.
    pub ours: bool,
    /// `NUD_PERMANENT`/`NUD_NOARP`: told by somebody; otherwise learned from traffic.
    pub fixed: bool,
}

/// A permanent neighbour on a VXLAN device with `proxy` (the kernel's ARP responder).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct NeighbourEntry {
    pub ip: IpAddr,
    pub mac: Mac,
}
