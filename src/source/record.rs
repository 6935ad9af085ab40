//! What the store keeps: networks and port bindings as JSON, apart from the model, so that the model can change
//! without making old stores unreadable. Every field but the first is optional and unknown ones are ignored; a
//! change of meaning raises `store::SCHEMA`.

use super::RecordError;
use crate::config;
use crate::model::{
    AddressPair, BridgeAttributes, Hostname, LinkName, Mac, Mtu, NamePattern, Network, NetworkId, Peer,
    PhysicalName, PortId, PortMapping, Segment, TapSelector, Vid, Vni,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::IpAddr;

/// A network told over the control socket; the keys are those of `[[network]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: String,
    pub network_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segmentation_id: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_network: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prewarm: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcast_snooping: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerRecord>,
    /// The keys of the gateway half (`gateway`, `dhcp`, `floating_ip` ...), as `config::gateway_from_json` reads them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub services: Map<String, Value>,
}

/// A `[[network.peer]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    pub vtep: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

/// A binding told over the control socket; the keys are those of `[[port]]`. It names a tap, a port id, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingRecord {
    pub network: String,
    /// Exact name or pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_security: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_address_pairs: Vec<PairRecord>,
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub admin_state_up: bool,
}

/// One element of `allowed_address_pairs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairRecord {
    pub ip: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

impl BindingRecord {
    /// What `port bind` and `unbind` name it by: "port:ID" where there is an id, else "tap:NAME". A later binding
    /// with the same key replaces it.
    pub fn key(&self) -> Result<String, RecordError> {
        match (&self.port, &self.tap) {
            (Some(port), _) => Ok(format!("port:{port}")),
            (None, Some(tap)) => Ok(format!("tap:{tap}")),
            (None, None) => Err(RecordError::NoTap),
        }
    }
}

impl From<&Network> for NetworkRecord {
    fn from(network: &Network) -> Self {
        Self {
            id: network.id.to_string(),
            network_type: network.segment.network_type().to_owned(),
            name: network.name.as_deref().map(str::to_owned),
            segmentation_id: network.segment.segmentation_id(),
            physical_network: network.segment.physical().map(ToString::to_string),
            mtu: network.mtu.map(Mtu::get),
            bridge: network.bridge.map(|name| name.to_string()),
            prewarm: network.prewarm,
            mcast_snooping: network.bridge_options.multicast_snooping,
            peers: network.peers.iter().map(PeerRecord::from).collect(),
            services: network
                .gateway
                .as_deref()
                .map(config::gateway_to_json)
                .unwrap_or_default(),
        }
    }
}

impl From<&Peer> for PeerRecord {
    fn from(peer: &Peer) -> Self {
        Self {
            vtep: peer.vtep.to_string(),
            mac: peer.mac.map(|mac| mac.to_string()),
            ip: peer.ip.map(|ip| ip.to_string()),
        }
    }
}

impl From<&PortMapping> for BindingRecord {
    fn from(mapping: &PortMapping) -> Self {
        Self {
            network: mapping.network.to_string(),
            tap: Some(match &mapping.tap {
                TapSelector::Exact(name) => name.to_string(),
                TapSelector::Pattern(pattern) => pattern.as_str().to_owned(),
            }),
            port: mapping.id.as_ref().map(ToString::to_string),
            mac: mapping.mac.map(|mac| mac.to_string()),
            addresses: mapping.addresses.iter().map(ToString::to_string).collect(),
            hostname: mapping.hostname.as_ref().map(ToString::to_string),
            port_security: mapping.port_security,
            allowed_address_pairs: mapping
                .allowed_address_pairs
                .iter()
                .map(|pair| PairRecord {
                    ip: pair.ip.to_string(),
                    mac: pair.mac.map(|mac| mac.to_string()),
                })
                .collect(),
            admin_state_up: mapping.admin_state_up,
        }
    }
}

impl TryFrom<&NetworkRecord> for Network {
    type Error = RecordError;

    fn try_from(record: &NetworkRecord) -> Result<Self, RecordError> {
        let mut peers = record
            .peers
            .iter()
            .map(Peer::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        peers.sort();
        peers.dedup();
        let mut network = Network {
            name: record.name.as_deref().map(Into::into),
            mtu: record.mtu.map(|mtu| Mtu::new(i64::from(mtu))).transpose()?,
            bridge: record.bridge.as_deref().map(LinkName::new).transpose()?,
            prewarm: record.prewarm,
            peers,
            bridge_options: BridgeAttributes {
                multicast_snooping: record.mcast_snooping,
                ..BridgeAttributes::default()
            },
            ..Network::new(NetworkId::new(&record.id)?, segment(record)?)
        };
        network.gateway = config::gateway_from_json(&record.services, &network)?;
        Ok(network)
    }
}

fn segment(record: &NetworkRecord) -> Result<Segment, RecordError> {
    let wrong = |problem| RecordError::Segment {
        network_type: record.network_type.clone(),
        problem,
    };
    let number = record.segmentation_id.map(i64::from);
    let physical = record
        .physical_network
        .as_deref()
        .map(PhysicalName::new)
        .transpose()?;
    match (record.network_type.as_str(), physical, number) {
        ("local", None, None) => Ok(Segment::Local),
        ("flat", Some(physical), None) => Ok(Segment::Flat { physical }),
        ("vlan", Some(physical), Some(vid)) => Ok(Segment::Vlan {
            physical,
            vid: Vid::new(vid)?,
        }),
        ("vxlan", None, Some(vni)) => Ok(Segment::Vxlan { vni: Vni::new(vni)? }),
        ("flat" | "vlan", None, _) => Err(wrong("needs a physical_network")),
        ("local" | "vxlan", Some(_), _) => Err(wrong("has no physical_network")),
        ("vlan" | "vxlan", _, None) => Err(wrong("needs a segmentation_id")),
        ("local" | "flat", _, Some(_)) => Err(wrong("has no segmentation_id")),
        _ => Err(wrong("is not known: local, flat, vlan or vxlan")),
    }
}

impl TryFrom<&PeerRecord> for Peer {
    type Error = RecordError;

    fn try_from(record: &PeerRecord) -> Result<Self, RecordError> {
        Ok(Peer {
            vtep: address(&record.vtep)?,
            mac: record.mac.as_deref().map(str::parse::<Mac>).transpose()?,
            ip: record.ip.as_deref().map(address).transpose()?,
        })
    }
}

impl TryFrom<&BindingRecord> for PortMapping {
    type Error = RecordError;

    fn try_from(record: &BindingRecord) -> Result<Self, RecordError> {
        let id = record.port.as_deref().map(PortId::new).transpose()?;
        let tap = match (&record.tap, &id) {
            (Some(tap), _) if tap.contains(['*', '?']) => TapSelector::Pattern(NamePattern::new(tap)?),
            (Some(tap), _) => TapSelector::Exact(LinkName::new(tap)?),
            (None, Some(id)) => TapSelector::Exact(crate::model::owned::tap_name(id)?),
            (None, None) => return Err(RecordError::NoTap),
        };
        Ok(PortMapping {
            id,
            tap,
            network: NetworkId::new(&record.network)?,
            mac: record.mac.as_deref().map(str::parse::<Mac>).transpose()?,
            addresses: record
                .addresses
                .iter()
                .map(|text| address(text))
                .collect::<Result<_, _>>()?,
            hostname: record.hostname.as_deref().map(Hostname::new).transpose()?,
            admin_state_up: record.admin_state_up,
            port_security: record.port_security,
            allowed_address_pairs: record
                .allowed_address_pairs
                .iter()
                .map(AddressPair::try_from)
                .collect::<Result<_, _>>()?,
            sub_ports: Vec::new(),
        })
    }
}

impl TryFrom<&PairRecord> for AddressPair {
    type Error = RecordError;

    fn try_from(record: &PairRecord) -> Result<Self, RecordError> {
        Ok(AddressPair {
            ip: record.ip.parse()?,
            mac: record.mac.as_deref().map(str::parse::<Mac>).transpose()?,
        })
    }
}

fn address(text: &str) -> Result<IpAddr, RecordError> {
    text.parse().map_err(|_| RecordError::Address {
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_survives_the_way_through_its_record() {
        let json = r#"{"id":"blue","network_type":"vxlan","name":"Blue","segmentation_id":100,"mtu":1450,
            "bridge":"br100","prewarm":true,"mcast_snooping":false,
            "peers":[{"vtep":"192.0.2.12","mac":"fa:16:3e:00:00:07","ip":"10.0.0.7"}],
            "services":{"gateway":{"addresses":["10.0.0.1/24"]},"dhcp":{"lease_time":"3600s"}},"from_the_future":1}"#;
        let record: NetworkRecord = serde_json::from_str(json).unwrap();
        let network = Network::try_from(&record).unwrap();
        assert_eq!(NetworkRecord::from(&network), record);
        for (kind, physical, number) in [
            ("local", None, None),
            ("flat", Some("p"), None),
            ("vlan", Some("p"), Some(7)),
        ] {
            let record = NetworkRecord {
                id: "n".into(),
                network_type: kind.into(),
                name: None,
                segmentation_id: number,
                physical_network: physical.map(str::to_owned),
                mtu: None,
                bridge: None,
                prewarm: false,
                mcast_snooping: None,
                peers: vec![],
                services: Map::new(),
            };
            assert_eq!(NetworkRecord::from(&Network::try_from(&record).unwrap()), record);
        }
    }

    #[test]
    fn a_network_that_is_none_is_refused_in_words() {
        let refusal = |json: &str| {
            let record: NetworkRecord = serde_json::from_str(json).unwrap();
            Network::try_from(&record).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(r#"{"id":"n","network_type":"vlan","segmentation_id":1}"#),
            "a vlan network needs a physical_network"
        );
        assert_eq!(
            refusal(r#"{"id":"n","network_type":"vxlan"}"#),
            "a vxlan network needs a segmentation_id"
        );
        assert_eq!(
            refusal(r#"{"id":"n","network_type":"vlan","physical_network":"p","segmentation_id":4095}"#),
            "vlan id 4095 is outside 1..4094"
        );
        assert_eq!(
            refusal(r#"{"id":"n","network_type":"gre"}"#),
            "a gre network is not known: local, flat, vlan or vxlan"
        );
    }

    #[test]
    fn a_binding_is_known_by_its_port_else_by_its_tap() {
        let read = |json: &str| serde_json::from_str::<BindingRecord>(json).unwrap();
        let by_port = read(r#"{"network":"blue","port":"0f3a9c6e-1b22-4f5d","admin_state_up":false}"#);
        assert_eq!(by_port.key().unwrap(), "port:0f3a9c6e-1b22-4f5d");
        let mapping = PortMapping::try_from(&by_port).unwrap();
        assert_eq!(
            mapping.tap,
            TapSelector::Exact(LinkName::new("tap0f3a9c6e-1b").unwrap())
        );
        assert!(!mapping.admin_state_up);
        let by_tap = read(
            r#"{"network":"blue","tap":"vnet3","mac":"fa:16:3e:00:00:05","hostname":"web-1","port_security":false,
            "allowed_address_pairs":[{"ip":"10.0.0.0/24","mac":"fa:16:3e:00:00:06"}]}"#,
        );
        assert_eq!(by_tap.key().unwrap(), "tap:vnet3");
        assert_eq!(
            BindingRecord::from(&PortMapping::try_from(&by_tap).unwrap()),
            by_tap
        );
        assert!(matches!(
            read(r#"{"network":"blue"}"#).key(),
            Err(RecordError::NoTap)
        ));
    }
}
