//! One `[[port]]` table: what can be judged without looking at any other.

use super::Sourced;
use super::gateway::range;
use super::place::{At, Place, Sources};
use super::reader::{Refusal, Table};
use super::report::Findings;
use super::units;
use crate::model::{
    AddressPair, Hostname, LinkName, Mac, NamePattern, NetworkId, PortId, PortMapping, SubPort, TapSelector,
    Vid, owned,
};
use std::collections::HashMap;
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
    pub facts: PortFacts,
    pub admin_state_up: bool,
    pub sub_ports: Vec<SubPortDraft>,
    /// The header.
    pub place: Place,
}

/// What is told of the machine behind the tap.
#[derive(Debug, Default)]
pub(super) struct PortFacts {
    pub mac: Option<At<Mac>>,
    pub addresses: Vec<At<IpAddr>>,
    pub hostname: Option<At<Hostname>>,
    pub port_security: Option<bool>,
    pub pairs: Vec<AddressPair>,
}

/// One `[[port.sub_port]]`.
#[derive(Debug)]
pub(super) struct SubPortDraft {
    pub network: At<Box<str>>,
    pub vid: Vid,
    /// Of the VID.
    pub place: Place,
}

/// The networks of a port, looked up.
#[derive(Debug)]
pub(super) struct PortNetworks {
    pub own: NetworkId,
    pub sub_ports: Vec<SubPort>,
}

fn sub_port(mut t: Table<'_>, findings: &mut Findings) -> Option<SubPortDraft> {
    for (key, hint) in [
        (
            "network",
            "the id of the [[network]] that the guest sees with this tag",
        ),
        ("segmentation_id", "the VLAN id between host and guest, 1..4094"),
    ] {
        if !t.has(key) {
            t.missing(key, hint, findings);
        }
    }
    let network = t.string("network", "\"6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11\"", findings);
    let vid = t.integer("segmentation_id", "101", findings, |raw| Ok(Vid::new(raw)?));
    // Neutron's word; it has no other kind either.
    t.parsed("segmentation_type", "\"vlan\"", findings, |text| match text {
        "vlan" => Ok(()),
        _ => Err(Refusal::new(
            format!("unknown segmentation_type {text:?}"),
            "sub-ports are told apart by VLAN: segmentation_type = \"vlan\", or leave it out",
        )),
    });
    t.finish(findings);
    let (network, vid) = (network?, vid?);
    Some(SubPortDraft {
        network: At {
            value: network.value.into(),
            place: network.place,
        },
        vid: vid.value,
        place: vid.place,
    })
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
    let facts = facts(&mut t, findings);
    let up = t.boolean("admin_state_up", findings);
    let sub_ports = t.tables("sub_port", "[[port.sub_port]]", findings);
    let sub_ports = sub_ports
        .into_iter()
        .filter_map(|t| sub_port(t, findings))
        .collect();
    t.finish(findings);
    PortDraft {
        id,
        tap,
        derived: !has_tap,
        network: network.map(|n| At {
            value: n.value.into(),
            place: n.place,
        }),
        facts,
        admin_state_up: up.is_none_or(|up| up.value),
        sub_ports,
        place,
    }
}

impl PortDraft {
    /// A trunk port has each tag once, and each network once.
    pub fn check_sub_ports(&self, findings: &mut Findings) {
        let mut tags: HashMap<Vid, Place> = HashMap::new();
        let mut networks: HashMap<&str, Place> = HashMap::new();
        networks.extend(self.network.as_ref().map(|own| (&*own.value, own.place)));
        for sub in &self.sub_ports {
            if let Some(first) = tags.insert(sub.vid, sub.place) {
                findings
                    .error(
                        sub.place,
                        format!("segmentation_id {} is given to two sub-ports", sub.vid),
                    )
                    .hint("the guest tells its networks apart by their tags: give each its own")
                    .related(first, "it is first given here");
            }
            if let Some(first) = networks.insert(&sub.network.value, sub.network.place) {
                findings
                    .error(
                        sub.network.place,
                        format!("network {:?} is on this port twice", sub.network.value),
                    )
                    .hint("a guest with two ways into one network would be a loop")
                    .related(first, "it is first named here");
            }
        }
    }

    /// The mapping; only called when nothing was found wrong.
    pub fn finish(self, networks: PortNetworks, sources: &Sources) -> Option<Sourced<PortMapping>> {
        Some(Sourced {
            value: self.facts.finish(PortMapping {
                id: self.id.map(|id| id.value),
                admin_state_up: self.admin_state_up,
                sub_ports: networks.sub_ports,
                ..PortMapping::new(self.tap?.value, networks.own)
            }),
            origin: sources.origin(self.place),
        })
    }
}

/// The keys that say who the machine is.
pub(super) fn facts(t: &mut Table<'_>, findings: &mut Findings) -> PortFacts {
    let mac = t.parsed("mac", "\"fa:16:3e:00:00:05\"", findings, units::unicast_mac);
    let addresses =
        t.strings("addresses", "[\"10.0.0.5\"]", findings)
            .map_or(Vec::new(), |list| {
                let each = list.value.iter().filter_map(|text| {
                    text.parse("addresses", "[\"10.0.0.5\"]", findings, units::unicast_ip)
                });
                each.collect()
            });
    let hostname = t.parsed("hostname", "\"web-1\"", findings, |text| Ok(Hostname::new(text)?));
    let port_security = t.boolean("port_security", findings);
    let place = t.place;
    let has_pairs = t.has("allowed_address_pairs");
    let tables = t.tables(
        "allowed_address_pairs",
        "[[port.allowed_address_pairs]]",
        findings,
    );
    let pairs: Vec<AddressPair> = tables.into_iter().filter_map(|t| pair(t, findings)).collect();
    let facts = PortFacts {
        mac,
        addresses,
        hostname,
        port_security: port_security.map(|s| s.value),
        pairs,
    };
    let known = mac.is_some() || !facts.addresses.is_empty();
    if let Some(on) = port_security.filter(|s| s.value && !known) {
        findings
            .error(
                on.place,
                "`port_security` without `mac` or `addresses`: there is nothing to hold the port to",
            )
            .hint("add the machine's mac and addresses, or leave it out");
    }
    if has_pairs && port_security.is_none_or(|s| s.value) && !known {
        findings
            .error(
                place,
                "`allowed_address_pairs` of a port without `mac` or `addresses`",
            )
            .hint("they add to what a guarded port may use: add its mac or addresses");
    }
    facts
}

fn pair(mut t: Table<'_>, findings: &mut Findings) -> Option<AddressPair> {
    let ip = if t.has("ip") {
        t.parsed("ip", "\"10.0.0.9\"", findings, range)
    } else {
        t.missing("ip", "an address or a range, as in ip = \"10.0.0.9\"", findings);
        None
    };
    let had_mac = t.has("mac");
    let mac = t.parsed("mac", "\"00:00:5e:00:01:07\"", findings, units::unicast_mac);
    t.finish(findings);
    if had_mac && mac.is_none() {
        return None;
    }
    Some(AddressPair {
        ip: ip?.value,
        mac: mac.map(|m| m.value),
    })
}

impl PortFacts {
    pub fn finish(self, mapping: PortMapping) -> PortMapping {
        PortMapping {
            mac: self.mac.map(|m| m.value),
            addresses: self.addresses.into_iter().map(|a| a.value).collect(),
            hostname: self.hostname.map(|h| h.value),
            port_security: self.port_security,
            allowed_address_pairs: self.pairs.into(),
            ..mapping
        }
    }
}

fn selector(text: &str) -> Result<TapSelector, Refusal> {
    if text.contains(['*', '?']) {
        return Ok(TapSelector::Pattern(NamePattern::new(text)?));
    }
    Ok(TapSelector::Exact(LinkName::new(text)?))
}
