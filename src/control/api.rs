//! The seam between the control socket and the daemon's loop: wire types and the closed set of commands.
//!
//! Keys of [`Status`], [`PortRow`], [`NetworkRow`] and [`PlanRow`] are promises to users (`--json`): they grow, they do
//! not change. The daemon's loop receives [`Request`]s from a bounded queue, answers each through the [`Reply`] inside
//! the command and may take its time (`Wait`, `Resync`): the server owns every time-out. An answer that nobody waits
//! for any more is not an error; `Reply::is_closed` tells (a waiter list drops such entries when it looks at them).

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the daemon's loop before clients start to wait for a place in the queue.
pub const QUEUE: usize = 64;
/// Lines that may wait for one slow reader of a stream before further ones are counted as lost.
pub const STREAM_QUEUE: usize = 4096;
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
    /// From now on: every record that passes `filter` goes into `sink`. The answer comes before the first record;
    /// `invalid` for a filter that does not parse.
    TraceSubscribe {
        filter: Option<String>,
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
            | Command::Metrics(_)
            | Command::PolicyStatus(_)
            | Command::PolicyEval { .. }
            | Command::PolicyRecord { .. } => false,
            Command::PortBind { .. }
            | Command::PortUnbind { .. }
            | Command::NetworkAdd { .. }
            | Command::NetworkDelete { .. }
            | Command::Resync(_)
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
            Command::TraceSubscribe { .. } => "trace",
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

// ---------------------------------------------------------------------------------------------------- failures

/// Why a command was not done. The HTTP status follows from `kind`; `error` and `hint` are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// Lower-case, no full stop.
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// 400: what was sent makes no sense.
    Invalid,
    /// 403: this user may look but not change.
    Denied,
    /// 404.
    NotFound,
    /// 405.
    Method,
    /// 409: it makes sense, but not in the present state.
    Conflict,
    /// 413.
    TooLarge,
    /// 500.
    Internal,
    /// 503: starting, stopping or overloaded.
    Unavailable,
    /// 504.
    TimedOut,
}

impl FailureKind {
    pub const fn http_status(self) -> u16 {
        match self {
            FailureKind::Invalid => 400,
            FailureKind::Denied => 403,
            FailureKind::NotFound => 404,
            FailureKind::Method => 405,
            FailureKind::Conflict => 409,
            FailureKind::TooLarge => 413,
            FailureKind::Internal => 500,
            FailureKind::Unavailable => 503,
            FailureKind::TimedOut => 504,
        }
    }
}

impl Failure {
    pub fn new(kind: FailureKind, error: impl Into<String>) -> Self {
        Self {
            kind,
            error: error.into(),
            hint: None,
        }
    }
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

// ---------------------------------------------------------------------------------------------------- status

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub in_sync: bool,
    /// RFC 3339 UTC: since when `in_sync` is what it is.
    pub since: String,
    pub uptime_s: u64,
    pub ports: PortCounts,
    /// Number of networks known.
    pub networks: u64,
    /// Number of links in the mirror.
    pub links: u64,
    pub counters: Counters,
    pub config: ConfigState,
    #[serde(default)]
    pub plugins: Vec<PluginRow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortCounts {
    pub attached: u64,
    pub pending: u64,
    #[serde(default)]
    pub configuring: u64,
    pub failed: u64,
    pub conflict: u64,
    pub denied: u64,
    pub unmanaged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    pub events: u64,
    pub overruns: u64,
    /// Full passes after the first one.
    pub resyncs: u64,
    pub decode_errors: u64,
    pub ops: u64,
    pub op_errors: u64,
    pub hook_calls: u64,
    pub hook_errors: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigState {
    pub path: String,
    /// False: the last reload was refused and `error` says why; what runs is the configuration before it.
    pub ok: bool,
    pub error: Option<String>,
}

// ---------------------------------------------------------------------------------------------------- ports

/// A port's state as one word; `reason` beside it says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    Unmanaged,
    Pending,
    Configuring,
    Attached,
    Failed,
    Conflict,
    Denied,
}

impl PortState {
    pub const ALL: [PortState; 7] = [
        PortState::Unmanaged,
        PortState::Pending,
        PortState::Configuring,
        PortState::Attached,
        PortState::Failed,
        PortState::Conflict,
        PortState::Denied,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            PortState::Unmanaged => "unmanaged",
            PortState::Pending => "pending",
            PortState::Configuring => "configuring",
            PortState::Attached => "attached",
            PortState::Failed => "failed",
            PortState::Conflict => "conflict",
            PortState::Denied => "denied",
        }
    }
}

impl std::str::FromStr for PortState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|s| s.as_str()).collect();
            format!("{text:?} is not a port state ({})", known.join(", "))
        })
    }
}

/// One row of `port list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    pub tap: String,
    pub ifindex: u32,
    /// Port id, when the mapping has one.
    pub port: Option<String>,
    pub network: Option<String>,
    pub bridge: Option<String>,
    pub state: PortState,
    pub reason: Option<String>,
    /// As observed, bytes.
    pub mtu: u32,
    /// Microseconds from receiving RTM_NEWLINK to the last ack.
    pub attach_us: Option<u64>,
}

/// `port show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDetail {
    #[serde(flatten)]
    pub row: PortRow,
    pub mac: Option<String>,
    pub up: bool,
    pub carrier: bool,
    /// Where the mapping comes from: "/etc/tapwire/tapwire.toml:12", "port bind".
    pub mapping: Option<String>,
    /// Milliseconds until the next attempt, when one is due.
    pub retry_in_ms: Option<u64>,
    /// What plugins said, in their order.
    pub verdicts: Vec<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub plugin: String,
    pub hook: String,
    /// "mtu 1450", "no opinion", "denied: ..."
    pub verdict: String,
}

/// `PUT /v1/ports/{port}/binding`; `port` comes from the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindRequest {
    /// Tap name or port id; a port id stands for the tap `tap` + its first 11 characters.
    #[serde(default)]
    pub port: String,
    pub network: String,
}

/// A binding told over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub port: String,
    /// The tap's name it stands for.
    pub tap: String,
    pub network: String,
}

// ---------------------------------------------------------------------------------------------------- networks

/// One row of `network list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    pub id: String,
    pub name: Option<String>,
    pub network_type: String,
    pub segmentation_id: Option<u32>,
    pub physical_network: Option<String>,
    pub bridge: Option<String>,
    pub uplink: Option<String>,
    pub mtu: Option<u32>,
    /// Number of taps attached.
    pub ports: u64,
    /// `idle` (known, nothing stands), `ready`, `pending`, `failed`, `conflict`.
    pub state: String,
    pub reason: Option<String>,
}

/// `network show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDetail {
    #[serde(flatten)]
    pub row: NetworkRow,
    /// Where it comes from: "/etc/tapwire/networks.d/blue.toml:3", "network add".
    pub origin: String,
    pub taps: Vec<PortRow>,
    pub peers: Vec<PeerRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    pub vtep: String,
    pub mac: Option<String>,
    pub ip: Option<String>,
}

/// `POST /v1/networks`: the keys of `[[network]]`, without peers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    pub id: String,
    pub network_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segmentation_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_network: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
}

// ---------------------------------------------------------------------------------------------------- plan, resync, wait

/// One operation of `plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanRow {
    /// `Op::name`.
    pub op: String,
    pub args: Value,
    pub cause: String,
    /// The same as an iproute2-like line.
    pub line: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResyncReport {
    pub links: u64,
    pub ops: u64,
    pub op_errors: u64,
    pub elapsed_us: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitCondition {
    InSync,
    /// By tap name or port id; it need not exist yet.
    Port {
        port: String,
        state: PortState,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WaitReport {
    /// The port's row, when a port was waited for.
    pub port: Option<PortRow>,
}

/// How long `wait` may last; also the default of the HTTP interface.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(30);
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Files read.
    pub files: u64,
    /// One line per difference that was applied: "network blue added (networks.d/blue.toml:3)".
    pub changes: Vec<String>,
}

// ---------------------------------------------------------------------------------------------------- explain

/// The story of one tap, oldest step first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    pub tap: String,
    pub ifindex: Option<u32>,
    pub state: PortState,
    pub reason: Option<String>,
    pub network: Option<String>,
    pub steps: Vec<StoryStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryStep {
    /// Microseconds since the daemon started, monotonic.
    pub at_us: u64,
    /// The event that set it off; every step with the same cause belongs together.
    pub cause: Option<u64>,
    pub kind: StepKind,
    pub text: String,
    /// Microseconds from the event that caused it.
    pub elapsed_us: Option<u64>,
    /// False for a refusal of the kernel, a failing hook ...; absent where there is nothing to succeed.
    pub ok: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// What the kernel told.
    Event,
    /// Which network, and who says so.
    Mapping,
    /// What a plugin said.
    Policy,
    /// What was asked of the kernel.
    Op,
    /// What the kernel answered.
    Answer,
    /// The port's new state.
    State,
}

impl StepKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            StepKind::Event => "event",
            StepKind::Mapping => "mapping",
            StepKind::Policy => "policy",
            StepKind::Op => "op",
            StepKind::Answer => "answer",
            StepKind::State => "state",
        }
    }
}

// ---------------------------------------------------------------------------------------------------- policy

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Hash of what is loaded; absent without plugins.
    pub generation: Option<String>,
    /// One older generation is kept for `rollback`.
    pub previous: Option<String>,
    pub plugins: Vec<PluginRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PluginRow {
    pub name: String,
    pub path: String,
    /// `ok`, `tripped`, `disabled`, `failed`.
    pub health: String,
    pub hooks: Vec<String>,
    pub calls: u64,
    pub errors: u64,
    pub last_error: Option<String>,
    pub memory_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyReloadRequest {
    /// Refuse when more ports than this would change; absent: 10 % of the ports, at least 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_changes: Option<u64>,
    /// Evaluate and report only.
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyReloadReport {
    pub generation: Option<String>,
    /// One line per port whose decision changes: "tap3f mtu 1500 -> 8950 (mtu)".
    pub changes: Vec<String>,
}

// ---------------------------------------------------------------------------------------------------- streams

/// The daemon's end of a stream: one JSON object per line, serialised once for all readers.
///
/// A reader that does not keep up loses lines, is told how many (a `{"event":"loss","lost":N}` line as soon as there
/// is room again) and never delays anybody.
#[derive(Debug)]
pub struct Sink {
    queue: mpsc::Sender<Arc<str>>,
    lost: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Queued,
    /// Counted; the reader will be told.
    Lost,
    /// The reader has gone: drop the sink.
    Closed,
}

impl Sink {
    pub fn pair(lines: usize) -> (Self, mpsc::Receiver<Arc<str>>) {
        let (queue, receiver) = mpsc::channel(lines.max(2));
        (Self { queue, lost: 0 }, receiver)
    }

    /// Never waits.
    pub fn push(&mut self, line: Arc<str>) -> Delivery {
        if self.lost > 0 {
            let marker = format!(r#"{{"event":"loss","lost":{},"resync_ms":null}}"#, self.lost);
            match self.queue.try_send(marker.into()) {
                Ok(()) => self.lost = 0,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.lost += 1;
                    return Delivery::Lost;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Delivery::Closed,
            }
        }
        match self.queue.try_send(line) {
            Ok(()) => Delivery::Queued,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost += 1;
                Delivery::Lost
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Delivery::Closed,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_the_promised_keys() {
        let value = serde_json::to_value(Status::default()).unwrap();
        for key in [
            "version", "in_sync", "since", "ports", "networks", "links", "counters", "config",
        ] {
            assert!(value.get(key).is_some(), "status lacks {key}");
        }
        for key in ["attached", "pending", "failed", "conflict", "denied", "unmanaged"] {
            assert!(value["ports"].get(key).is_some(), "ports lacks {key}");
        }
        for key in [
            "events",
            "overruns",
            "resyncs",
            "decode_errors",
            "ops",
            "op_errors",
            "hook_calls",
            "hook_errors",
        ] {
            assert!(value["counters"].get(key).is_some(), "counters lacks {key}");
        }
        for key in ["path", "ok", "error"] {
            assert!(value["config"].get(key).is_some(), "config lacks {key}");
        }
    }

    #[test]
    fn a_slow_reader_loses_lines_and_is_told_how_many() {
        let (mut sink, mut lines) = Sink::pair(2);
        assert_eq!(sink.push("1".into()), Delivery::Queued);
        assert_eq!(sink.push("2".into()), Delivery::Queued);
        assert_eq!(sink.push("3".into()), Delivery::Lost);
        assert_eq!(sink.push("4".into()), Delivery::Lost);
        assert_eq!(&*lines.try_recv().unwrap(), "1");
        assert_eq!(&*lines.try_recv().unwrap(), "2");
        assert_eq!(sink.push("5".into()), Delivery::Queued);
        assert_eq!(
            &*lines.try_recv().unwrap(),
            r#"{"event":"loss","lost":2,"resync_ms":null}"#
        );
        assert_eq!(&*lines.try_recv().unwrap(), "5");
        drop(lines);
        assert_eq!(sink.push("6".into()), Delivery::Closed);
    }

    #[test]
    fn every_port_state_reads_back_from_its_word() {
        for state in PortState::ALL {
            assert_eq!(state.as_str().parse::<PortState>(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert!("atached".parse::<PortState>().unwrap_err().contains("attached"));
    }
}
