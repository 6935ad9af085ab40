//! One `[[network]]` table: what can be judged without looking at any other.

use super::Sourced;
use super::gateway::{self, GatewayDraft};
use super::place::{At, Place, Sources};
use super::reader::{Refusal, Table};
use super::report::Findings;
use super::suggest;
use super::units;
use crate::model::{
    BridgeAttributes, LinkName, Mac, Mtu, Network, NetworkId, Peer, PhysicalName, Segment, Vid, Vni,
};
use std::collections::HashMap;
use std::net::IpAddr;

/// A network as read, with the places that checks across tables point at. `network` is absent when something that
/// makes it a network (id, type, segment) is wrong and reported; the id is kept, so that a port that refers to it is
/// not blamed.
#[derive(Debug)]
pub(super) struct NetworkDraft {
    /// The header.
    pub place: Place,
    pub id: Option<At<NetworkId>>,
    pub network: Option<Network>,
    pub segmentation_id: Option<Place>,
    pub physical_network: Option<Place>,
    pub bridge: Option<At<LinkName>>,
    /// Sorted, without duplicates; `finish` moves them into the network.
    pub peers: Vec<At<Peer>>,
    /// `finish` moves it into the network.
    pub gateway: Option<GatewayDraft>,
}

impl NetworkDraft {
    /// A network that is right, and a gateway half that may not be.
    pub fn of(network: Network, place: Place, gateway: Option<GatewayDraft>) -> Self {
        Self {
            place,
            id: Some(At {
                value: network.id.clone(),
                place,
            }),
            network: Some(network),
            segmentation_id: None,
            physical_network: None,
            bridge: None,
            peers: Vec::new(),
            gateway,
        }
    }
    pub fn label(&self) -> &str {
        match (&self.network, &self.id) {
            (Some(network), _) => network.label(),
            (None, Some(id)) => id.value.as_str(),
            (None, None) => "without id",
        }
    }
    pub fn segmentation_place(&self) -> Place {
        self.segmentation_id.unwrap_or(self.place)
    }
    pub fn physical_place(&self) -> Place {
        self.physical_network.unwrap_or(self.place)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Local,
    Flat,
    Vlan,
    Vxlan,
}

const KINDS: [(&str, Kind); 4] = [
    ("local", Kind::Local),
    ("flat", Kind::Flat),
    ("vlan", Kind::Vlan),
    ("vxlan", Kind::Vxlan),
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Local => "local",
            Kind::Flat => "flat",
            Kind::Vlan => "vlan",
            Kind::Vxlan => "vxlan",
        }
    }
}

pub(super) fn read(mut t: Table<'_>, findings: &mut Findings) -> NetworkDraft {
    let place = t.place;
    let id = if t.has("id") {
        t.parsed(
            "id",
            "\"6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11\"",
            findings,
            |text| Ok(NetworkId::new(text)?),
        )
    } else {
        t.missing(
            "id",
            "give it one, usually Neutron's UUID: id = \"6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11\"",
            findings,
        );
        None
    };
    let kind = network_type(&mut t, findings);
    let segment = segment(&mut t, kind.map(|k| k.value), findings);
    let name = t.parsed("name", "\"blue\"", findings, people_name);
    let mtu = t.integer("mtu", "1450", findings, |raw| Ok(Mtu::new(raw)?));
    let bridge = t.parsed("bridge", "\"br100\"", findings, units::link_name);
    let prewarm = t.boolean("prewarm", findings);
    let snooping = t.boolean("mcast_snooping", findings);
    let peers = peers(&mut t, kind.map(|k| k.value), findings);
    let local = kind.is_some_and(|k| k.value == Kind::Local);
    let gateway = gateway::read(&mut t, id.as_ref().map(|id| &id.value), local, findings);
    t.finish(findings);

    let network = match (&id, segment.segment) {
        (Some(id), Some(segment)) => Some(Network {
            name: name.map(|n| n.value),
            mtu: mtu.map(|m| m.value),
            bridge: bridge.map(|b| b.value),
            prewarm: prewarm.is_some_and(|p| p.value),
            bridge_options: BridgeAttributes {
                multicast_snooping: snooping.map(|s| s.value),
                ..BridgeAttributes::default()
            },
            ..Network::new(id.value.clone(), segment)
        }),
        _ => None,
    };
    NetworkDraft {
        place,
        id,
        network,
        segmentation_id: segment.segmentation_id,
        physical_network: segment.physical_network,
        bridge,
        peers,
        gateway,
    }
}

impl NetworkDraft {
    /// The network with defaults filled in; only called when nothing was found wrong.
    pub fn finish(
        self,
        bridge: &BridgeAttributes,
        local_ip: Option<IpAddr>,
        sources: &Sources,
    ) -> Option<Sourced<Network>> {
        let mut network = self.network?;
        let options = &mut network.bridge_options;
        options.multicast_snooping = options.multicast_snooping.or(bridge.multicast_snooping);
        options.ageing_time = options.ageing_time.or(bridge.ageing_time);
        // The same list of VTEPs may be given to every host: its own is not a peer (as Neutron's agent has it).
        network.peers = self
            .peers
            .into_iter()
            .map(|p| p.value)
            .filter(|p| Some(p.vtep) != local_ip)
            .collect();
        network.gateway = self.gateway.map(|draft| draft.gateway);
        Some(Sourced {
            value: network,
            origin: sources.origin(self.place),
        })
    }
}

fn people_name(text: &str) -> Result<Box<str>, Refusal> {
    if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
        return Err(Refusal::new(
            "`name` is empty, longer than 255 bytes or has control characters",
            "for example name = \"blue\"",
        ));
    }
    Ok(text.into())
}

fn network_type(t: &mut Table<'_>, findings: &mut Findings) -> Option<At<Kind>> {
    let words = || KINDS.iter().map(|(word, _)| *word);
    if !t.has("network_type") {
        t.missing(
            "network_type",
            format!("one of {}", suggest::list(words())),
            findings,
        );
        return None;
    }
    let text = t.string("network_type", "\"vlan\"", findings)?;
    match KINDS.iter().find(|(word, _)| *word == text.value) {
        Some((_, kind)) => Some(At {
            value: *kind,
            place: text.place,
        }),
        None => {
            let hint = match suggest::nearest(findings, &text.value, words()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("one of {}", suggest::list(words())),
            };
            findings
                .error(text.place, format!("unknown network_type {:?}", text.value))
                .hint(hint);
            None
        }
    }
}

/// The segment if all its facts are right, and where they were told.
struct SegmentDraft {
    segment: Option<Segment>,
    segmentation_id: Option<Place>,
    physical_network: Option<Place>,
}

fn segment(t: &mut Table<'_>, kind: Option<Kind>, findings: &mut Findings) -> SegmentDraft {
    let (has_number, has_physical) = (t.has("segmentation_id"), t.has("physical_network"));
    let number = t.integer("segmentation_id", "100", findings, Ok);
    let name = t.string("physical_network", "\"physnet1\"", findings);
    let mut draft = SegmentDraft {
        segment: None,
        segmentation_id: number.as_ref().map(|n| n.place),
        physical_network: name.as_ref().map(|n| n.place),
    };
    let Some(kind) = kind else {
        return draft;
    };
    let word = kind.name();
    let wants_number = matches!(kind, Kind::Vlan | Kind::Vxlan);
    let wants_physical = matches!(kind, Kind::Flat | Kind::Vlan);

    if let Some(name) = name.as_ref().filter(|_| !wants_physical) {
        let hint = match kind {
            Kind::Vxlan => "leave it out: VXLAN leaves the host from local_ip of [vxlan]",
            _ => "leave it out: a local network never leaves the host",
        };
        findings
            .error(name.place, format!("a {word} network has no physical_network"))
            .hint(hint);
    }
    if let Some(number) = number.as_ref().filter(|_| !wants_number) {
        let hint = match kind {
            Kind::Flat => "leave it out, or write network_type = \"vlan\" if frames carry a tag",
            _ => "leave it out: a local network never leaves the host",
        };
        findings
            .error(number.place, format!("a {word} network has no segmentation_id"))
            .hint(hint);
    }
    if wants_physical && !has_physical {
        t.missing("physical_network", format!("a {word} network leaves the host through one of [physical_networks]: physical_network = \"physnet1\""), findings);
    }
    if wants_number && !has_number {
        let range = if kind == Kind::Vlan {
            "vlan id, 1..4094"
        } else {
            "VNI, 1..16777215"
        };
        t.missing(
            "segmentation_id",
            format!("a {word} network needs its {range}"),
            findings,
        );
    }

    let physical_name = name.filter(|_| wants_physical).and_then(|name| {
        name.parse("physical_network", "\"physnet1\"", findings, |text| {
            Ok(PhysicalName::new(text)?)
        })
        .map(|n| n.value)
    });
    let number = number.filter(|_| wants_number);
    draft.segment = match (kind, physical_name, number) {
        (Kind::Local, ..) => Some(Segment::Local),
        (Kind::Flat, Some(physical), _) => Some(Segment::Flat { physical }),
        (Kind::Vlan, physical, Some(number)) => {
            let vid = in_range(number, Vid::new, "802.1Q has 1..4094 to give", findings);
            physical
                .zip(vid)
                .map(|(physical, vid)| Segment::Vlan { physical, vid })
        }
        (Kind::Vxlan, _, Some(number)) => {
            in_range(number, Vni::new, "a VNI has 24 bits; 0 is not used", findings)
                .map(|vni| Segment::Vxlan { vni })
        }
        _ => None,
    };
    draft
}

fn in_range<T>(
    number: At<i64>,
    convert: impl FnOnce(i64) -> Result<T, crate::model::InvalidValue>,
    hint: &str,
    findings: &mut Findings,
) -> Option<T> {
    convert(number.value)
        .map_err(|error| {
            findings.error(number.place, error.to_string()).hint(hint);
        })
        .ok()
}

/// `[[network.peer]]`. The same peer twice is one; a MAC behind two VTEPs, or an IP behind two MACs, is a mistake.
fn peers(t: &mut Table<'_>, kind: Option<Kind>, findings: &mut Findings) -> Vec<At<Peer>> {
    let tables = t.tables("peer", "[[network.peer]]", findings);
    if let (Some(kind), Some(first)) = (kind.filter(|k| *k != Kind::Vxlan), tables.first()) {
        findings
            .error(first.place, format!("a {} network has no peers", kind.name()))
            .hint("remove it: only vxlan networks have remote VTEPs");
    }
    let mut peers: Vec<At<Peer>> = tables.into_iter().filter_map(|t| peer(t, findings)).collect();
    let mut vteps: HashMap<Mac, At<IpAddr>> = HashMap::new();
    let mut macs: HashMap<IpAddr, At<Mac>> = HashMap::new();
    for peer in &peers {
        let Some(mac) = peer.value.mac else {
            continue;
        };
        let vtep = At {
            value: peer.value.vtep,
            place: peer.place,
        };
        let first = *vteps.entry(mac).or_insert(vtep);
        if first.value != vtep.value {
            findings
                .error(
                    peer.place,
                    format!(
                        "mac address {mac} is behind two VTEPs, {} and {}",
                        first.value, vtep.value
                    ),
                )
                .hint("keep the one where the machine runs now")
                .related(first.place, "the other peer");
        }
        if let Some(ip) = peer.value.ip {
            let first = *macs.entry(ip).or_insert(At {
                value: mac,
                place: peer.place,
            });
            if first.value != mac {
                findings
                    .error(
                        peer.place,
                        format!("{ip} is behind two mac addresses, {} and {mac}", first.value),
                    )
                    .hint("keep the one that has the address now")
                    .related(first.place, "the other peer");
            }
        }
    }
    peers.sort_by_key(|peer| (peer.value, peer.place));
    peers.dedup_by_key(|peer| peer.value);
    peers
}

fn peer(mut t: Table<'_>, findings: &mut Findings) -> Option<At<Peer>> {
    let place = t.place;
    let vtep = if t.has("vtep") {
        t.parsed("vtep", "\"192.0.2.12\"", findings, units::unicast_ip)
    } else {
        t.missing(
            "vtep",
            "the remote host's local_ip, as in vtep = \"192.0.2.12\"",
            findings,
        );
        None
    };
    let has_mac = t.has("mac");
    let mac = t.parsed("mac", "\"fa:16:3e:00:00:07\"", findings, units::unicast_mac);
    let ip = t.parsed("ip", "\"10.0.0.7\"", findings, units::unicast_ip);
    if let Some(ip) = ip.as_ref().filter(|_| !has_mac) {
        findings
            .error(ip.place, "a peer with `ip` but without `mac`")
            .hint("add the machine's mac, or leave `ip` out for a flood entry");
    }
    t.finish(findings);
    let vtep = vtep?;
    Some(At {
        place: if vtep.place < place { place } else { vtep.place },
        value: Peer {
            vtep: vtep.value,
            mac: mac.map(|m| m.value),
            ip: ip.map(|i| i.value),
        },
    })
}
