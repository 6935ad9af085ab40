//! Networks.

use super::port::PortRow;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One row of `network list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    pub id: String,
    pub name: Option<String>,
    pub network_type: String,
    pub segmentation_id: Option<u32>,
    pub physical_network: Option<String>,
    pub bridge: Option<String>,
    /// Its VLAN on the VLAN-aware bridge; without such a bridge, or before it has one: none.
    #[serde(default)]
    pub vid: Option<u16>,
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
    /// The gateway half, in the words of `NetworkSpec` (`gateway`, `dhcp`, `ra` ...), defaults left out.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub services: Map<String, Value>,
    /// The network's dnsmasq; absent if it asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerRow>,
    /// By address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<LeaseRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRow {
    /// `waiting`, `starting`, `running`, `failed`.
    pub state: String,
    pub pid: Option<u32>,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    pub address: String,
    /// DHCPv6 leases have none.
    pub mac: Option<String>,
    pub hostname: Option<String>,
    /// `None`: never.
    pub expires_in_s: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    pub vtep: String,
    pub mac: Option<String>,
    pub ip: Option<String>,
}

/// `POST /v1/networks`: the keys of `[[network]]`, without peers; floating addresses and port forwards inside.
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
    /// `[network.gateway]`, and so on: read by the same code as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ra: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_dhcp_address: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floating_ip: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_forward: Option<Value>,
}

impl NetworkSpec {
    /// The keys of the gateway half that are there.
    pub fn services(&self) -> Map<String, Value> {
        let keys = [
            ("gateway", &self.gateway),
            ("dhcp", &self.dhcp),
            ("ra", &self.ra),
            ("metadata", &self.metadata),
            ("share_dhcp_address", &self.share_dhcp_address),
            ("floating_ip", &self.floating_ip),
            ("port_forward", &self.port_forward),
        ];
        let present = keys
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.clone()?)));
        present.map(|(key, value)| (key.to_owned(), value)).collect()
    }
}
