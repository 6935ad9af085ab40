//! The seam between policy and the rest: plain data in (`Request` with a `Context`), plain data out (`Reply` with a
//! `Decision`). No Lua type and no kernel type appears here; the daemon converts from and to the model.

pub mod context;
pub mod decision;

pub use context::Context;
pub use decision::{
    AdmitVerdict, BridgeSettings, Decided, Decision, FdbKind, FdbRule, NeighbourRule, NetworkVerdict,
    ObserveVerdict, PortSettings, PortVerdict, ResolveVerdict, UplinkSettings, VxlanSettings,
};

use super::shape::words;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// The API version this program speaks, and the oldest it still serves.
pub const API: u32 = 1;
pub const API_MIN: u32 = 1;

words! {
    /// The questions a plugin can answer, named by what they decide.
    pub enum Hook {
        /// Which network an unmapped tap belongs to. The first answer counts.
        Resolve = "resolve",
        /// Bridge and uplink options of a network.
        Network = "network",
        /// What one tap gets.
        Port = "port",
        /// A last veto over a finished plan.
        Admit = "admit",
        /// After a tap was attached.
        Attached = "attached",
        /// After a tap was detached or went away.
        Detached = "detached",
        /// After a difference between desired and observed state was found.
        Drift = "drift",
        /// After a client of the network's DHCP got a lease, changed or lost it.
        Lease = "lease",
        /// A link event that matches `when`.
        Observe = "observe",
        /// A timer declared with `every`.
        Tick = "tick",
    }
}

impl Hook {
    /// Its answer changes what the kernel is told; the others only watch.
    pub const fn decides(self) -> bool {
        matches!(self, Hook::Resolve | Hook::Network | Hook::Port | Hook::Admit)
    }
    /// A fallback to the last good answer makes sense.
    pub const fn remembers(self) -> bool {
        matches!(self, Hook::Resolve | Hook::Network | Hook::Port)
    }
}

/// Whom a question is about; newer questions about the same subject replace older ones that still wait.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A tap, by ifindex.
    Tap(u32),
    /// A network, by id.
    Network(String),
    /// One plugin (`tick`), by name: only it is asked.
    Plugin(String),
}

/// A question. `gen` and `seq` are the caller's and come back unchanged, so that it can discard a stale reply.
#[derive(Debug, Clone)]
pub struct Request {
    /// The caller's generation of the subject (an ifindex is reused; this tells the two devices apart).
    pub r#gen: u64,
    pub seq: u64,
    pub key: Subject,
    pub hook: Hook,
    pub context: Context,
}

/// The merged answer of all plugins.
#[derive(Debug, Clone)]
pub struct Reply {
    pub r#gen: u64,
    pub seq: u64,
    pub key: Subject,
    pub hook: Hook,
    /// The policy generation that answered, see `Status::generation`.
    pub generation: u64,
    /// Shared with the answers for other subjects that say the same.
    pub decision: Arc<Decision>,
    /// Fields on which plugins disagree; the first one's value stands in `decision`.
    pub conflicts: Arc<[Conflict]>,
    /// What each plugin did, in order; for `explain` and the trace.
    pub steps: Vec<Step>,
    /// Ask again after this long: a plugin failed and there was no earlier answer to fall back to.
    pub retry_after: Option<Duration>,
}

impl Reply {
    /// Some plugin failed, and `decision` contains its fallback instead of an answer.
    pub fn is_fallback(&self) -> bool {
        self.steps.iter().any(|s| s.fallback != Fallback::None)
    }
}

/// Two plugins want different values for one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    pub field: String,
    /// "plugin file:line = value" of the value that stands.
    pub kept: String,
    /// The same of the value that was not taken.
    pub refused: String,
}

words! {
    /// How one call of one hook ended.
    pub enum Outcome {
        Answered = "ok",
        /// No opinion.
        Nil = "nil",
        Denied = "deny",
        Deferred = "defer",
        /// The script raised an error.
        Error = "error",
        /// Stopped after its CPU time was used up.
        Deadline = "deadline",
        /// Out of its memory.
        Memory = "oom",
        /// Returned something that is no decision.
        Invalid = "invalid",
        /// Did not come back at all; its thread was abandoned.
        Wedged = "wedged",
        /// Not called: it failed too often lately.
        Tripped = "tripped",
        /// Not called: `when` does not match, or it has no such hook.
        Skipped = "skipped",
    }
}

impl Outcome {
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Outcome::Error
                | Outcome::Deadline
                | Outcome::Memory
                | Outcome::Invalid
                | Outcome::Wedged
                | Outcome::Tripped
        )
    }
}

words! {
    /// What stood in for the answer of a plugin that failed.
    pub enum Fallback {
        None = "none",
        /// The last answer it gave for the same subject and network.
        LastGood = "last_good",
        /// The port is denied.
        Deny = "deny",
        /// As if it had no opinion.
        Skip = "skip",
    }
}

/// One plugin's part in a reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub plugin: String,
    pub outcome: Outcome,
    pub fallback: Fallback,
    /// Answered from memory: the same input was answered before.
    pub cached: bool,
    /// Microseconds in the plugin.
    pub elapsed_us: u64,
    /// "plugins/mtu.lua:14: message" of a failure.
    pub error: Option<String>,
}
