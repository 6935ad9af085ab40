//! One `[[port]]` table: what can be judged without looking at any other.

use super::Sourced;
use super::place::{At, Place, Sources};
use super::reader::{Refusal, Table};
use super::report::Findings;
use super::units;
use crate::model::{LinkName, Mac, NamePattern, NetworkId, PortId, PortMapping, TapSelector, owned};
use std::net::IpAddr;

/// A port as read. Its network is a word until all networks are known.
#[derive(Debug)]
pub(super) struct PortDraft {
    pub id: Option<At<PortId>>,
    /// The place of `tap`, or of `id` where the name comes from that.
    pub tap: Option<At<TapSelector>>,
    /// `tap` is not written: the name is derived from `id`.
    pub derived: bool,
    pub network: Option<At<Box<str>>>,
    pub mac: Option<Mac>,
    pub addresses: Vec<IpAddr>,
    pub admin_state_up: bool,
    /// The header.
    pub place: Place,
}

pub(super) fn read(mut t: Table<'_>, findings: &mut Findings) -> PortDraft {
    let place = t.place;
    let (has_id, has_tap) = (t.has("id"), t.has("tap"));
    if !has_id && !has_tap {
        findings.error(place, "[[port]] has neither `id` nor `tap`").hint(
            "give it Neutron's port id (the tap is then tap + its first 11 characters), or the tap's name",
        );
    }
    let id = t.parsed(
        "id",
        "\"0f3a9c6e-1b22-4f5d-8d7e-aa0102030405\"",
        findings,
        |text| Ok(PortId::new(text)?),
    );
    let tap = t.parsed("tap", "\"vnet3\"", findings, selector);
    let tap = match (&id, tap) {
        (_, Some(tap)) => Some(tap),
        (Some(id), None) if !has_tap => match owned::tap_name(&id.value) {
            Ok(name) => Some(At {
                value: TapSelector::Exact(name),
                place: id.place,
            }),
            Err(error) => {
                findings
                    .error(id.place, error.to_string())
                    .hint("name the tap: tap = \"vnet3\"");
                None
            }
        },
        _ => None,
    };
    let network = if t.has("network") {
        t.string("network", "\"6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11\"", findings)
    } else {
        t.missing(
            "network",
            "the id of the [[network]] its tap belongs to",
            findings,
        );
        None
    };
    let mac = t.parsed("mac", "\"fa:16:3e:00:00:05\"", findings, units::unicast_mac);
    let addresses =
        t.strings("addresses", "[\"10.0.0.5\"]", findings)
            .map_or(Vec::new(), |list| {
                let each = list.value.iter().filter_map(|text| {
                    text.parse("addresses", "[\"10.0.0.5\"]", findings, units::unicast_ip)
                });
                each.map(|address| address.value).collect()
            });
    let up = t.boolean("admin_state_up", findings);
    t.finish(findings);
    PortDraft {
        id,
        tap,
        derived: !has_tap,
        network: network.map(|n| At {
            value: n.value.into(),
            place: n.place,
        }),
        mac: mac.map(|m| m.value),
        addresses,
        admin_state_up: up.is_none_or(|up| up.value),
        place,
    }
}

impl PortDraft {
    /// The mapping; only called when nothing was found wrong.
    pub fn finish(self, network: NetworkId, sources: &Sources) -> Option<Sourced<PortMapping>> {
        Some(Sourced {
            value: PortMapping {
                id: self.id.map(|id| id.value),
                tap: self.tap?.value,
                network,
                mac: self.mac,
                addresses: self.addresses,
                admin_state_up: self.admin_state_up,
            },
            origin: sources.origin(self.place),
        })
    }
}

fn selector(text: &str) -> Result<TapSelector, Refusal> {
    if text.contains(['*', '?']) {
        return Ok(TapSelector::Pattern(NamePattern::new(text)?));
    }
    Ok(TapSelector::Exact(LinkName::new(text)?))
}
