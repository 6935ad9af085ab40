//! The seam between the control socket and the daemon's loop: wire types and the closed set of commands.
//!
//! Keys of [`Status`], [`PortRow`], [`NetworkRow`] and [`PlanRow`] are promises to users (`--json`): they grow, they do
//! not change. The daemon's loop receives [`Request`]s from a bounded queue, answers each through the [`Reply`] inside
//! the command and may take its time (`Wait`, `Resync`): the server owns every time-out. An answer that nobody waits
//! for any more is not an error; `Reply::is_closed` tells (a waiter list drops such entries when it looks at them).

mod failure;
mod network;
mod policy;
mod port;
mod sink;
mod status;
mod story;
mod work;

pub use failure::{Failure, FailureKind};
pub use network::{LeaseRow, NetworkDetail, NetworkRow, NetworkSpec, PeerRow, ServerRow};
pub use policy::{PluginRow, PolicyReloadReport, PolicyReloadRequest, PolicyStatus};
pub use port::{BindRequest, Binding, PortDetail, PortRow, PortState, Verdict};
pub use sink::{Delivery, Sink};
pub use status::{ConfigState, Counters, PortCounts, Status};
pub use story::{StepKind, Story, StoryStep};
pub use work::{PlanRow, ReloadReport, ResyncReport, WAIT_DEFAULT, WAIT_MAX, WaitCondition, WaitReport};

use serde_json::Value;
use tokio::sync::oneshot;

/// Requests that may wait for the daemon's loop before clients start to wait for a place in the queue.
pub const QUEUE: usize = 64;
/// Lines that may wait for one slow reader of a stream before further ones are counted as lost.
pub const STREAM_QUEUE: usize = 4096;
/// The same for the account, whose lines are longer: at most 64 KiB each.
pub const ACCOUNT_QUEUE: usize = 512;
/// Largest request body, bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// One request of one client.
#[derive(Debug)]
pub struct Request {
    pub command: Command,
    pub peer: Peer,
}

/// Who asks (`SO_PEERCRED`), for the log. Whether they may has been checked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    /// Absent when the client lives in a process namespace that we do not see.
    pub pid: Option<i32>,
}

/// Where the answer to a command goes.
pub type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// Everything a client can ask of the daemon.
#[derive(Debug)]
pub enum Command {
    Status(Reply<Status>),
    /// Rows sorted by tap name; without `all`, unmanaged links are left out.
    PortList {
        all: bool,
        reply: Reply<Vec<PortRow>>,
    },
    /// By tap name or port id.
    PortShow {
        port: String,
        reply: Reply<PortDetail>,
    },
    /// Kept across restarts; told back only after it is on disk.
    PortBind {
        request: BindRequest,
        reply: Reply<Binding>,
    },
    /// By tap name or port id, as it was bound. `not_found` when no such binding was told over the socket.
    PortUnbind {
        port: String,
        reply: Reply<Binding>,
    },
    NetworkList(Reply<Vec<NetworkRow>>),
    /// By id, or by a name that only one network has.
    NetworkShow {
        network: String,
        reply: Reply<NetworkDetail>,
    },
    NetworkAdd {
        spec: NetworkSpec,
        reply: Reply<NetworkRow>,
    },
    /// Without `force`, `conflict` while taps are attached. `conflict` naming the file for a network from a file.
    NetworkDelete {
        network: String,
        force: bool,
        reply: Reply<NetworkRow>,
    },
    /// What a resync would do now; nothing is done.
    Plan(Reply<Vec<PlanRow>>),
    /// Answered when the full pass that it asked for has ended.
    Resync(Reply<ResyncReport>),
    /// Answered when it holds. The server's time-out drops the receiver: the loop needs no timer for it.
    Wait {
        condition: WaitCondition,
        reply: Reply<WaitReport>,
    },
    Explain {
        port: String,
        reply: Reply<Story>,
    },
    /// The newest `limit` records of the flight recorder, oldest first.
    History {
        limit: usize,
        reply: Reply<Vec<Value>>,
    },
    /// The flight recorder, written into the state directory; the path. `conflict` when it is off, `internal` when it cannot be
    /// written.
    HistorySave(Reply<String>),
    /// From now on: every record that passes `filter` goes into `sink`. The answer comes before the first record;
    /// `invalid` for a filter that does not parse.
    TraceSubscribe {
        filter: Option<String>,
        sink: Sink,
        reply: Reply<()>,
    },
    /// From now on: the daemon's account of everything that it decides by and decides goes into `sink`, for recordings
    /// (`daemon::account` says how it is written).
    AccountSubscribe {
        sink: Sink,
        reply: Reply<()>,
    },
    /// Prometheus text format.
    Metrics(Reply<String>),
    PolicyStatus(Reply<PolicyStatus>),
    PolicyReload {
        request: PolicyReloadRequest,
        reply: Reply<PolicyReloadReport>,
    },
    PolicyRollback(Reply<PolicyReloadReport>),
    /// What the policy decides for one live tap, with provenance per field; nothing is done.
    PolicyEval {
        port: String,
        reply: Reply<Value>,
    },
    /// From now on: every context a hook is called with, one JSON object a line, goes into `sink`.
    PolicyRecord {
        sink: Sink,
        reply: Reply<()>,
    },
    /// Read the configuration again; `force` overrides `max_detach`.
    Reload {
        force: bool,
        reply: Reply<ReloadReport>,
    },
}

impl Command {
    /// Whether it may change anything: those need more than the right to open the socket (see `server`).
    pub const fn changes(&self) -> bool {
        match self {
            Command::Status(_)
            | Command::PortList { .. }
            | Command::PortShow { .. }
            | Command::NetworkList(_)
            | Command::NetworkShow { .. }
            | Command::Plan(_)
            | Command::Wait { .. }
            | Command::Explain { .. }
            | Command::History { .. }
            | Command::TraceSubscribe { .. }
            | Command::AccountSubscribe { .. }
            | Command::Metrics(_)
            | Command::PolicyStatus(_)
            | Command::PolicyEval { .. }
            | Command::PolicyRecord { .. } => false,
            Command::PortBind { .. }
            | Command::PortUnbind { .. }
            | Command::NetworkAdd { .. }
            | Command::NetworkDelete { .. }
            | Command::Resync(_)
            // A file each time.
            | Command::HistorySave(_)
            | Command::PolicyReload { .. }
            | Command::PolicyRollback(_)
            | Command::Reload { .. } => true,
        }
    }

    /// Constant word for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Command::Status(_) => "status",
            Command::PortList { .. } => "port_list",
            Command::PortShow { .. } => "port_show",
            Command::PortBind { .. } => "port_bind",
            Command::PortUnbind { .. } => "port_unbind",
            Command::NetworkList(_) => "network_list",
            Command::NetworkShow { .. } => "network_show",
            Command::NetworkAdd { .. } => "network_add",
            Command::NetworkDelete { .. } => "network_delete",
            Command::Plan(_) => "plan",
            Command::Resync(_) => "resync",
            Command::Wait { .. } => "wait",
            Command::Explain { .. } => "explain",
            Command::History { .. } => "history",
            Command::HistorySave(_) => "history_save",
            Command::TraceSubscribe { .. } => "trace",
            Command::AccountSubscribe { .. } => "account",
            Command::Metrics(_) => "metrics",
            Command::PolicyStatus(_) => "policy_status",
            Command::PolicyReload { .. } => "policy_reload",
            Command::PolicyRollback(_) => "policy_rollback",
            Command::PolicyEval { .. } => "policy_eval",
            Command::PolicyRecord { .. } => "policy_record",
            Command::Reload { .. } => "reload",
        }
    }
}
