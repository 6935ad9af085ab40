//! What is to be done, was done, or is waited for.

use super::port::{PortRow, PortState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

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
    /// What is allowed in the files but can hardly be meant: "ports.toml:12: ...".
    #[serde(default)]
    pub warnings: Vec<String>,
}
