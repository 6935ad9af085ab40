//! What the gateways' rules translate, one by one: for flows that must end with the rule that they live by.

use super::Desired;
use crate::model::Cidr;
use crate::model::gateway::PortForward;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// One reason for flows to be translated, or to pass at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Translation {
    /// A floating address, both ways.
    Floating { address: IpAddr, fixed: IpAddr },
    /// A forwarded port.
    Forward(PortForward),
    /// A network with the host as its router.
    Range(Cidr),
}

pub fn derive_translations(desired: &Desired) -> BTreeSet<Translation> {
    let gateways = desired
        .networks()
        .filter_map(|network| network.gateway.as_deref());
    let each = gateways.flat_map(|gateway| {
        let ranges = gateway.addresses.iter().map(|a| Translation::Range(a.network()));
        let floating = gateway.floating_ips.iter().map(|f| Translation::Floating {
            address: f.address,
            fixed: f.fixed_address,
        });
        let forwards = gateway.port_forwards.iter().copied().map(Translation::Forward);
        ranges.chain(floating).chain(forwards)
    });
    each.collect()
}
