//! What the engine has to say to people: state changes, failures, resyncs. The daemon turns notes into log lines,
//! flight-recorder entries and live streams; the engine itself writes nothing.

use super::state::{PortLabel, PortState, SegmentState};
use crate::model::{LinkName, NetworkId, Time};
use crate::plan::CauseId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub at: Time,
    pub cause: CauseId,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    TapAppeared {
        port: PortLabel,
    },
    TapGone {
        port: PortLabel,
    },
    Port {
        port: PortLabel,
        state: PortState,
        remark: Option<Box<str>>,
        attach_us: Option<u64>,
    },
    Network {
        network: NetworkId,
        state: SegmentState,
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
