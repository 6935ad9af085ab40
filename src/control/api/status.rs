//! The daemon as a whole.

use super::policy::PluginRow;
use serde::{Deserialize, Serialize};

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
    /// Fields about which plugins disagree, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
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
}
