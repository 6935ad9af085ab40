//! Networks.

use super::port::PortRow;
use serde::{Deserialize, Serialize};

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
