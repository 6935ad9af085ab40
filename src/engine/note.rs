//! What the engine has to say to people: state changes, failures, resyncs. The daemon turns notes into log lines,
//! flight-recorder entries and live streams; the engine itself writes nothing.

use super::service::ServiceState;
use super::state::{GatewayState, PortLabel, PortState, SegmentState};
use crate::model::{Link, LinkName, NetworkId, Time};
use crate::plan::CauseId;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub at: Time,
    pub cause: CauseId,
    pub what: What,
}

/// Old and new of what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TapChange {
    pub name: Option<(LinkName, LinkName)>,
    pub master: Option<(Option<LinkName>, Option<LinkName>)>,
    pub up: Option<(bool, bool)>,
    pub mtu: Option<(u32, u32)>,
}

impl fmt::Display for TapChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = |up: bool| if up { "up" } else { "down" };
        let none = || "none".to_owned();
        let name = |name: Option<LinkName>| name.map_or_else(none, |n| n.to_string());
        let parts = [
            self.name.map(|(a, b)| format!("name {a} -> {b}")),
            self.master
                .map(|(a, b)| format!("master {} -> {}", name(a), name(b))),
            self.up.map(|(a, b)| format!("{} -> {}", up(a), up(b))),
            self.mtu.map(|(a, b)| format!("mtu {a} -> {b}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    TapAppeared {
        port: PortLabel,
    },
    TapGone {
        port: PortLabel,
        /// As it last was; absent while it is still there, and only none of ours any more.
        link: Option<Box<Link>>,
    },
    /// Somebody other than us changed it.
    TapChanged {
        port: PortLabel,
        change: TapChange,
    },
    /// Where it belongs, and who says so ("port", "pattern", "policy").
    Mapped {
        port: PortLabel,
        by: &'static str,
    },
    Port {
        port: PortLabel,
        state: PortState,
        remark: Option<Box<str>>,
        /// From the first message about it until it was attached, microseconds; only the first time. What brings it back
        /// later is a repair.
        attach_us: Option<u64>,
    },
    Network {
        network: NetworkId,
        state: SegmentState,
    },
    /// The gateway half of a network.
    Gateway {
        network: NetworkId,
        state: GatewayState,
    },
    /// A network's DHCP, DNS and RA server.
    Service {
        network: NetworkId,
        state: ServiceState,
    },
    /// One operation failed.
    Failed {
        op: String,
        error: String,
        port: Option<PortLabel>,
        network: Option<NetworkId>,
    },
    /// Links or mappings were lost or asked for: everything is looked at again.
    Resync {
        reason: &'static str,
    },
    InSync {
        links: usize,
        taps: usize,
    },
    /// A device of ours that nothing needed was removed.
    Pruned {
        device: LinkName,
    },
    /// Addresses moved to a bridge, or back.
    AddressesMoved {
        from: LinkName,
        to: LinkName,
        addresses: usize,
        routes: usize,
    },
    /// Put right after somebody else changed it.
    Drift {
        device: LinkName,
        network: Option<NetworkId>,
    },
}
