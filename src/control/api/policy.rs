//! Plugins.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Hash of what is loaded; absent without plugins.
    pub generation: Option<String>,
    /// One older generation is kept for `rollback`.
    pub previous: Option<String>,
    pub plugins: Vec<PluginRow>,
    /// Fields about which plugins disagree, one line each: "mtu: a a.lua:2 = 1400 stands, b b.lua:1 = 1300 does not (tap1)".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PluginRow {
    pub name: String,
    pub path: String,
    /// `ok`, `last_good` (its file is broken: it runs as it last was), `suspended` or `disabled`.
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
    /// One line per field that changes: "tap3f mtu 1500 -> 8950 (mtu)".
    pub changes: Vec<String>,
    /// Ports and networks that change; absent where it is not known beforehand (`rollback`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<u64>,
    /// Of a dry run: why the reload itself would be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
