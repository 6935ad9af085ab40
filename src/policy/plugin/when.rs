//! `when`: which questions reach a plugin. Evaluated in Rust, so that a plugin costs nothing where it has no say.

use crate::model::name::matches_bytes;
use crate::policy::api::Context;
use crate::policy::api::context::NetworkType;
use crate::policy::shape::{OneOrMany, decoded_record};

decoded_record! {
    /// Conditions; all that are given must hold. A list holds when one of its entries does.
    pub struct When {
        /// Name patterns of the tap (`*` any run, `?` one character).
        pub tap: OneOrMany<String>,
        /// Types of network.
        pub network_type: OneOrMany<NetworkType>,
        /// Patterns for the network's id or name.
        pub network: OneOrMany<String>,
        /// Patterns for the physical network.
        pub physical_network: OneOrMany<String>,
        /// Kinds of link ("tap", "veth" ...).
        pub kind: OneOrMany<String>,
    }
}

impl When {
    pub fn matches(&self, context: &Context) -> bool {
        let any = |patterns: &OneOrMany<String>, texts: &[Option<&str>]| {
            patterns.0.is_empty()
                || texts.iter().flatten().any(|text| {
                    patterns
                        .0
                        .iter()
                        .any(|pattern| matches_bytes(pattern.as_bytes(), text.as_bytes()))
                })
        };
        let network = context.network.as_deref();
        any(&self.tap, &[context.link.as_ref().map(|l| l.name.as_str())])
            && any(&self.kind, &[context.link.as_ref().map(|l| l.kind.as_str())])
            && any(
                &self.network,
                &[
                    network.map(|n| n.id.as_str()),
                    network.and_then(|n| n.name.as_deref()),
                ],
            )
            && any(
                &self.physical_network,
                &[network.and_then(|n| n.physical_network.as_deref())],
            )
            && (self.network_type.0.is_empty()
                || network.is_some_and(|n| self.network_type.0.contains(&n.network_type)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::api::context::{Link, Network};
    use crate::policy::shape::Decode;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn every_condition_must_hold_and_one_entry_of_a_list_suffices() {
        let context = Context {
            link: Some(Link {
                name: "tap1".into(),
                kind: "tap".into(),
                ..Link::default()
            }),
            network: Some(Arc::new(Network {
                id: "6f0c".into(),
                name: Some("storage-a".into()),
                network_type: NetworkType::Vlan,
                ..Network::default()
            })),
            ..Context::default()
        };
        let matches = |when| When::decode(when).unwrap().matches(&context);
        assert!(matches(json!({})));
        assert!(matches(json!({"tap": "tap*", "network_type": ["vxlan", "vlan"]})));
        assert!(matches(json!({"network": "storage-?"})));
        assert!(!matches(json!({"tap": "tap*", "network_type": "vxlan"})));
        assert!(!matches(json!({"physical_network": "*"})));
    }
}
