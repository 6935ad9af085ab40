//! The way from how it is to how it should be: the difference as an ordered list of closed operations.
//!
//! One file per feature, each a pure function of (wanted, observed). A plan makes no decisions when it is carried
//! out: every operation carries all it needs, failing ends the plan, and the key is looked at again. `check` reads
//! plans with other eyes than those that wrote them.

pub mod address_move;
pub mod aware;
mod bridge;
pub mod check;
pub mod first_address;
pub mod flat;
pub mod forwarding;
pub mod gateway;
pub mod guard;
pub mod line;
pub mod membership;
pub mod op;
pub mod port;
pub mod segment;
pub mod sub_port;

use crate::model::{Ifindex, NetworkId};
use op::Op;

/// Whose plan it is; a failure concerns this key and nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Key {
    Network(NetworkId),
    Port(Ifindex),
    /// A bridge or uplink of ours that nothing needs any more.
    Orphan(Ifindex),
    /// The spoof guard's table, which all guarded ports share.
    Guard,
    /// What all gateways share: tables, kernel settings, and what is left of networks that are gone.
    Gateways,
    /// One network's gateway and floating addresses.
    Gateway(NetworkId),
}

/// Identifies the event that led to a plan, from the event to the last acknowledgement.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
pub struct CauseId(pub u64);

/// One operation, and what takes it back if a later one of the same transaction fails.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    pub op: Op,
    pub undo: Option<Op>,
}

impl From<Op> for Step {
    fn from(op: Op) -> Self {
        Step { op, undo: None }
    }
}

/// Operations for one key, in order. The first failure ends it; its own `undo` (it may have had its effect) and those of
/// the done steps then take everything back, last first.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    pub key: Key,
    pub cause: CauseId,
    pub steps: Vec<Step>,
}

/// The world is not such that a plan could be made without harming somebody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Conflict {
    /// The device in the way.
    pub device: crate::model::LinkName,
    pub reason: String,
}
