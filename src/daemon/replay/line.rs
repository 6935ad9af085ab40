//! What a replay says.

use crate::engine::note::Note;
use crate::engine::view::PortCounts;
use crate::model::Time;
use crate::observed::Observed;
use crate::plan::Key;
use crate::plan::op::Op;
use crate::policy::LoadReport;
use crate::policy::api::Hook;
use crate::telemetry::record::RecordError;
use crate::telemetry::trace;
use serde_json::Value;
use std::io;
use std::time::Duration;

/// What the replay has to say, in order.
#[derive(Debug)]
pub enum Line {
    /// A recorded message, in the words of `trace`.
    Event(trace::Line),
    /// Messages are missing; how many, if that is known.
    Loss { at: Time, lost: Option<u64> },
    /// An operation that the daemon would have asked the kernel for.
    Operation(Box<Operation>),
    /// What the engine made of it: states, drift, pruning.
    Note(Box<Note>),
    /// A plugin's hook begins to fail; something else stands in for its answers.
    Plugin {
        at: Time,
        plugin: String,
        hook: Hook,
        error: String,
    },
    /// From here on everything is known: how the recorded daemon stood.
    State {
        version: String,
        links: usize,
        ports: PortCounts,
    },
    /// From here on nothing is known of the recorded daemon, and why.
    Gap { why: String },
    /// What the recorded daemon did next, and what the replay would do.
    Difference {
        at: Time,
        recorded: String,
        replayed: String,
    },
}

#[derive(Debug)]
pub struct Operation {
    pub at: Time,
    pub cause: u64,
    pub owner: Owner,
    pub op: Op,
    /// Its parts, for programs.
    pub args: Value,
    /// What the kernel said to the recorded daemon; none: done, or never asked.
    pub error: Option<String>,
}

/// Whose plan an operation belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Tap {
        ifindex: u32,
        name: String,
    },
    Network(String),
    /// What all gateways share.
    Gateways,
    /// A device of ours that nothing needs any more.
    Orphan(String),
    /// The spoof guard's table.
    Guard,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Messages, those of listings included.
    pub messages: u64,
    pub undecodable: u64,
    pub operations: u64,
    /// From the first packet to the last.
    pub took: Duration,
    /// At the end.
    pub ports: PortCounts,
    /// False: it is not known which links were there before the first event.
    pub begins_with_listing: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Policy(#[from] LoadReport),
    #[error("cannot print")]
    Print(#[from] io::Error),
    #[error("the daemon's account cannot be read; it is another version's")]
    Account(#[source] serde_json::Error),
    /// It has been told.
    #[error("at {at} s the replay decides otherwise than the recorded daemon did")]
    Differs { at: Time },
    #[error("the engine does not come to rest at {at} s, its last operation is: {last}")]
    Restless { at: Time, last: String },
}

pub(super) fn owner(key: &Key, observed: &Observed) -> Owner {
    let name_of = |index| {
        observed
            .link(index)
            .map(|link| link.name.to_string())
            .unwrap_or_default()
    };
    match key {
        Key::Port(index) => Owner::Tap {
            ifindex: index.get(),
            name: name_of(*index),
        },
        Key::Network(id) | Key::Gateway(id) => Owner::Network(id.to_string()),
        Key::Gateways => Owner::Gateways,
        Key::Orphan(index) => Owner::Orphan(name_of(*index)),
        Key::Guard => Owner::Guard,
    }
}
