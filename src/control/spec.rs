//! What clients write, as nouns of the model: the same checks for the command line (before it asks) and the daemon.

use super::api::NetworkSpec;
use crate::config::{self, Report};
use crate::model::{
    InvalidValue, LinkName, Mtu, Network, NetworkId, PhysicalName, PortId, Segment, Vid, Vni, owned,
};

/// A network type Neutron knows and this program serves.
pub const NETWORK_TYPES: [&str; 4] = ["local", "flat", "vlan", "vxlan"];

/// Why a network cannot be what was written; `key` is the key of `[[network]]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{key}: {source}")]
    Value { key: &'static str, source: InvalidValue },
    #[error("network_type {value:?} is none of {}{}", NETWORK_TYPES.join(", "), did_you_mean(.value))]
    Type { value: String },
    #[error("{key} is missing: a {network_type} network needs it")]
    Missing {
        key: &'static str,
        network_type: &'static str,
    },
    #[error("{key} does not belong to a {network_type} network")]
    Surplus {
        key: &'static str,
        network_type: &'static str,
    },
    #[error("{0}")]
    Services(Report),
}

impl NetworkSpec {
    /// The network it describes, or everything that is wrong with it.
    pub fn check(&self) -> Result<Network, Vec<SpecError>> {
        let mut errors = Vec::new();
        let id = keep(&mut errors, "id", NetworkId::new(&self.id));
        let segment = self.segment(&mut errors);
        let mtu = self.mtu.and_then(|raw| keep(&mut errors, "mtu", Mtu::new(raw)));
        let bridge = self
            .bridge
            .as_deref()
            .and_then(|raw| keep(&mut errors, "bridge", LinkName::new(raw)));
        match (id, segment) {
            (Some(id), Some(segment)) if errors.is_empty() => {
                let mut network = Network::new(id, segment);
                network.name = self.name.as_deref().map(Into::into);
                network.mtu = mtu;
                network.bridge = bridge;
                match config::gateway_from_json(&self.services(), &network) {
                    Ok(gateway) => network.gateway = gateway,
                    Err(report) => return Err(vec![SpecError::Services(report)]),
                }
                Ok(network)
            }
            _ => Err(errors),
        }
    }

    fn segment(&self, errors: &mut Vec<SpecError>) -> Option<Segment> {
        let Some(network_type) = NETWORK_TYPES
            .into_iter()
            .find(|known| *known == self.network_type)
        else {
            errors.push(SpecError::Type {
                value: self.network_type.clone(),
            });
            return None;
        };
        let (needs_physical, needs_id) = match network_type {
            "flat" => (true, false),
            "vlan" => (true, true),
            "vxlan" => (false, true),
            _ => (false, false),
        };
        let mut expect = |key, needed, present| match (needed, present) {
            (true, false) => errors.push(SpecError::Missing { key, network_type }),
            (false, true) => errors.push(SpecError::Surplus { key, network_type }),
            _ => {}
        };
        expect(
            "physical_network",
            needs_physical,
            self.physical_network.is_some(),
        );
        expect("segmentation_id", needs_id, self.segmentation_id.is_some());
        let physical = self
            .physical_network
            .as_deref()
            .filter(|_| needs_physical)
            .and_then(|raw| keep(errors, "physical_network", PhysicalName::new(raw)));
        let number = self.segmentation_id.filter(|_| needs_id);
        match network_type {
            "flat" => Some(Segment::Flat { physical: physical? }),
            "vlan" => {
                let vid = keep(errors, "segmentation_id", Vid::new(number?));
                Some(Segment::Vlan {
                    physical: physical?,
                    vid: vid?,
                })
            }
            "vxlan" => Some(Segment::Vxlan {
                vni: keep(errors, "segmentation_id", Vni::new(number?))?,
            }),
            _ => Some(Segment::Local),
        }
    }
}

fn keep<T>(errors: &mut Vec<SpecError>, key: &'static str, value: Result<T, InvalidValue>) -> Option<T> {
    value
        .map_err(|source| errors.push(SpecError::Value { key, source }))
        .ok()
}

fn did_you_mean(value: &str) -> String {
    NETWORK_TYPES
        .into_iter()
        .filter(|known| strsim::jaro_winkler(&value.to_lowercase(), known) > 0.7)
        .max_by(|a, b| strsim::jaro_winkler(value, a).total_cmp(&strsim::jaro_winkler(value, b)))
        .map_or_else(String::new, |known| format!("; did you mean {known}?"))
}

/// What `TAP|PORT-ID` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTarget {
    pub tap: LinkName,
    /// Present when a port id was written.
    pub port: Option<PortId>,
}

impl PortTarget {
    /// Up to 15 bytes is a tap's name; what is longer is a port id, which stands for `tap` + its first 11 characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.len() <= LinkName::MAX {
            return LinkName::new(text).map(|tap| Self { tap, port: None });
        }
        let port = PortId::new(text)?;
        Ok(Self {
            tap: owned::tap_name(&port)?,
            port: Some(port),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(network_type: &str) -> NetworkSpec {
        NetworkSpec {
            id: "blue".into(),
            network_type: network_type.into(),
            ..NetworkSpec::default()
        }
    }

    fn texts(spec: &NetworkSpec) -> Vec<String> {
        spec.check()
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn every_type_takes_exactly_its_keys() {
        assert_eq!(spec("local").check().unwrap().segment, Segment::Local);
        assert_eq!(
            texts(&spec("vlan")),
            [
                "physical_network is missing: a vlan network needs it",
                "segmentation_id is missing: a vlan network needs it"
            ]
        );
        let mut flat = spec("flat");
        flat.segmentation_id = Some(7);
        flat.physical_network = Some("physnet1".into());
        assert_eq!(
            texts(&flat),
            ["segmentation_id does not belong to a flat network"]
        );
        let mut vxlan = spec("vxlan");
        vxlan.segmentation_id = Some(100);
        vxlan.mtu = Some(1450);
        let network = vxlan.check().unwrap();
        assert_eq!(network.segment.segmentation_id(), Some(100));
        assert_eq!(network.mtu.unwrap().get(), 1450);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let mut bad = spec("vlan");
        bad.id = "a b".into();
        bad.physical_network = Some("physnet1".into());
        bad.segmentation_id = Some(4095);
        bad.mtu = Some(20);
        bad.bridge = Some("much-too-long-a-name".into());
        let texts = texts(&bad).join("\n");
        for part in [
            "id: network id \"a b\"",
            "segmentation_id: vlan id 4095 is outside 1..4094",
            "mtu: mtu 20 is outside 68..65535",
            "bridge: interface name",
        ] {
            assert!(texts.contains(part), "{texts}");
        }
        assert_eq!(
            self::texts(&spec("vxlam")),
            ["network_type \"vxlam\" is none of local, flat, vlan, vxlan; did you mean vxlan?"]
        );
    }

    #[test]
    fn a_port_id_stands_for_its_tap() {
        let target = PortTarget::parse("0f3a9c6e-1b22-4f5d-8d7e-aa0102030405").unwrap();
        assert_eq!(target.tap.to_string(), "tap0f3a9c6e-1b");
        assert!(target.port.is_some());
        let target = PortTarget::parse("vnet3").unwrap();
        assert_eq!((target.tap.to_string().as_str(), target.port), ("vnet3", None));
        assert!(PortTarget::parse("a/b").is_err());
        assert!(PortTarget::parse("").is_err());
    }
}
