//! `[[floating_ip]]` and `[[port_forward]]`, at the top or inside a `[[network]]`, and the checks between networks that
//! have gateways.

use super::gateway::udp_or_tcp_port;
use super::network::NetworkDraft;
use super::place::{At, Place};
use super::reader::{Refusal, Table};
use super::report::Findings;
use super::units;
use crate::model::gateway::{FloatingIp, PortForward, Protocol};
use crate::model::{LinkName, NetworkId, Segment};
use std::collections::HashMap;
use std::net::IpAddr;

/// A floating address as read: its network may have to be found, its interface may be the network's.
#[derive(Debug)]
pub(super) struct FloatingDraft {
    network: Option<At<Box<str>>>,
    address: At<IpAddr>,
    fixed_address: At<IpAddr>,
    interface: Option<LinkName>,
    place: Place,
}

#[derive(Debug)]
pub(super) struct ForwardDraft {
    network: Option<At<Box<str>>>,
    value: PortForward,
    fixed_address: Place,
    place: Place,
}

pub(super) fn floating_ips(
    tables: Vec<Table<'_>>,
    network: Option<&NetworkId>,
    findings: &mut Findings,
) -> Vec<FloatingDraft> {
    tables
        .into_iter()
        .filter_map(|t| floating_ip(t, network, findings))
        .collect()
}

fn floating_ip(
    mut t: Table<'_>,
    network: Option<&NetworkId>,
    findings: &mut Findings,
) -> Option<FloatingDraft> {
    let place = t.place;
    let network = named_network(&mut t, network, findings);
    let address = address(&mut t, "address", "\"203.0.113.7\"", findings);
    let fixed_address = address_pair(&mut t, address, findings);
    let had_interface = t.has("interface");
    let interface = t.parsed("interface", "\"eth0\"", findings, units::link_name);
    t.finish(findings);
    if had_interface && interface.is_none() {
        return None;
    }
    Some(FloatingDraft {
        network,
        address: address?,
        fixed_address: fixed_address?,
        interface: interface.map(|i| i.value),
        place,
    })
}

pub(super) fn port_forwards(
    tables: Vec<Table<'_>>,
    network: Option<&NetworkId>,
    findings: &mut Findings,
) -> Vec<ForwardDraft> {
    tables
        .into_iter()
        .filter_map(|t| port_forward(t, network, findings))
        .collect()
}

fn port_forward(
    mut t: Table<'_>,
    network: Option<&NetworkId>,
    findings: &mut Findings,
) -> Option<ForwardDraft> {
    let place = t.place;
    let network = named_network(&mut t, network, findings);
    let address = address(&mut t, "address", "\"203.0.113.8\"", findings);
    let fixed_address = address_pair(&mut t, address, findings);
    let protocol = if t.has("protocol") {
        t.parsed("protocol", "\"udp\"", findings, |text| {
            Protocol::ALL
                .into_iter()
                .find(|p| p.name() == text)
                .ok_or_else(|| {
                    Refusal::new(
                        format!("unknown protocol {text:?}"),
                        "one of \"tcp\", \"udp\", \"sctp\"",
                    )
                })
        })
    } else {
        t.missing("protocol", "one of \"tcp\", \"udp\", \"sctp\"", findings);
        None
    };
    let port = if t.has("port") {
        t.integer("port", "1000", findings, |raw| Ok(udp_or_tcp_port(raw)?))
    } else {
        t.missing("port", "the port of `address`, as in port = 1000", findings);
        None
    };
    let had_fixed_port = t.has("fixed_port");
    let fixed_port = t.integer("fixed_port", "1194", findings, |raw| Ok(udp_or_tcp_port(raw)?));
    t.finish(findings);
    let fixed = fixed_address?;
    let port = port?.value;
    if had_fixed_port && fixed_port.is_none() {
        return None;
    }
    Some(ForwardDraft {
        network,
        value: PortForward {
            protocol: protocol?.value,
            address: address?.value,
            port,
            fixed_address: fixed.value,
            fixed_port: fixed_port.map_or(port, |p| p.value),
        },
        fixed_address: fixed.place,
        place,
    })
}

/// Inside a network it is that one; at the top it may be named.
fn named_network(
    t: &mut Table<'_>,
    inside: Option<&NetworkId>,
    findings: &mut Findings,
) -> Option<At<Box<str>>> {
    if let Some(id) = inside {
        return Some(At {
            value: id.as_str().into(),
            place: t.place,
        });
    }
    let named = t.string("network", "\"6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11\"", findings)?;
    Some(At {
        value: named.value.into(),
        place: named.place,
    })
}

fn address(
    t: &mut Table<'_>,
    key: &'static str,
    example: &str,
    findings: &mut Findings,
) -> Option<At<IpAddr>> {
    if t.has(key) {
        t.parsed(key, example, findings, units::unicast_ip)
    } else {
        t.missing(key, format!("for example {key} = {example}"), findings);
        None
    }
}

/// `fixed_address`, of the family of `address`.
fn address_pair(
    t: &mut Table<'_>,
    address_: Option<At<IpAddr>>,
    findings: &mut Findings,
) -> Option<At<IpAddr>> {
    let fixed = address(t, "fixed_address", "\"10.0.0.5\"", findings)?;
    if let Some(outside) = address_
        && outside.value.is_ipv4() != fixed.value.is_ipv4()
    {
        findings
            .error(
                fixed.place,
                format!("{} and {} are of two families", outside.value, fixed.value),
            )
            .hint("an address is translated to one of its own family")
            .related(outside.place, "the address of the outside");
        return None;
    }
    Some(fixed)
}

/// Ranges are one network's, floating addresses and forwarded ports one machine's; those told at the top find their
/// network. `complete` is false when some file could not be read.
pub(super) fn settle(
    networks: &mut [NetworkDraft],
    mut floating: Vec<FloatingDraft>,
    mut forwards: Vec<ForwardDraft>,
    complete: bool,
    findings: &mut Findings,
) {
    overlapping(networks, findings);
    for network in networks.iter_mut() {
        if let Some(gateway) = &mut network.gateway {
            floating.append(&mut gateway.floating_ips);
            forwards.append(&mut gateway.port_forwards);
        }
    }
    floating.sort_by_key(|f| f.place);
    forwards.sort_by_key(|f| f.place);
    let mut taken: HashMap<IpAddr, Place> = HashMap::new();
    let mut fixed: HashMap<IpAddr, Place> = HashMap::new();
    for draft in &floating {
        if let Some(first) = taken.insert(draft.address.value, draft.address.place) {
            findings
                .error(
                    draft.address.place,
                    format!("floating address {} leads to two machines", draft.address.value),
                )
                .hint("keep the one that has it now")
                .related(first, "it is first given here");
        }
        if let Some(first) = fixed.insert(draft.fixed_address.value, draft.fixed_address.place) {
            findings
                .error(
                    draft.fixed_address.place,
                    format!("{} has two floating addresses", draft.fixed_address.value),
                )
                .hint("what the machine sends can leave from one address only")
                .related(first, "the other one");
        }
        let wanted = (draft.fixed_address, draft.network.as_ref());
        let Some(network) = find(networks, wanted, complete, findings) else {
            continue;
        };
        let snat = network.snat.as_ref().and_then(|snat| snat.interface);
        match draft.interface.or(snat) {
            Some(interface) => network.floating_ips.push(FloatingIp {
                address: draft.address.value,
                fixed_address: draft.fixed_address.value,
                interface,
            }),
            None => {
                findings
                    .error(draft.place, format!("floating address {} has no `interface`", draft.address.value))
                    .hint("name the link that carries it: interface = \"eth0\" (default: the interface of the network's `snat`)");
            }
        }
    }
    let mut ports: HashMap<(Protocol, IpAddr, u16), Place> = HashMap::new();
    for draft in forwards {
        let PortForward {
            protocol,
            address,
            port,
            ..
        } = draft.value;
        if let Some(first) = ports.insert((protocol, address, port), draft.place) {
            findings
                .error(
                    draft.place,
                    format!(
                        "{} port {port} of {address} leads to two machines",
                        protocol.name()
                    ),
                )
                .hint("keep one of them")
                .related(first, "the other one");
        }
        if let Some(floating) = taken.get(&address) {
            findings
                .error(
                    draft.place,
                    format!("{address} is a floating address: all its ports lead to one machine"),
                )
                .hint("forward ports of an address that the host has itself")
                .related(*floating, "the floating address");
        }
        let wanted = At {
            value: draft.value.fixed_address,
            place: draft.fixed_address,
        };
        if let Some(network) = find(networks, (wanted, draft.network.as_ref()), complete, findings) {
            network.port_forwards.push(draft.value);
        }
    }
    for network in networks {
        if let Some(draft) = &mut network.gateway {
            draft.gateway.floating_ips.sort_unstable();
            draft.gateway.port_forwards.sort_unstable();
        }
    }
}

/// The gateway of the network whose range holds the address.
fn find<'n>(
    networks: &'n mut [NetworkDraft],
    (fixed, named): (At<IpAddr>, Option<&At<Box<str>>>),
    complete: bool,
    findings: &mut Findings,
) -> Option<&'n mut crate::model::Gateway> {
    let is_named = |n: &NetworkDraft, name: &str| n.id.as_ref().is_some_and(|id| id.value.as_str() == name);
    if let Some(named) = named
        && !networks.iter().any(|n| is_named(n, &named.value))
    {
        if complete {
            findings
                .error(named.place, format!("unknown network {:?}", named.value))
                .hint("the id of the [[network]] whose range holds fixed_address");
        }
        return None;
    }
    // Wrong addresses are reported already.
    let doubtful = networks.iter().any(|n| match (&n.gateway, named) {
        (Some(gateway), None) => gateway.refused,
        (Some(gateway), Some(named)) => gateway.refused && is_named(n, &named.value),
        (None, _) => false,
    });
    let found = networks.iter().position(|n| {
        named.is_none_or(|named| is_named(n, &named.value))
            && n.gateway
                .as_ref()
                .is_some_and(|g| g.gateway.holding(fixed.value).is_some())
    });
    match found {
        Some(index) => {
            let draft = networks.get_mut(index)?.gateway.as_mut()?;
            if draft.gateway.addresses.iter().any(|a| a.address() == fixed.value) {
                findings
                    .error(fixed.place, format!("{} is the host's own address", fixed.value))
                    .hint("a machine's address in the network");
                return None;
            }
            Some(&mut *draft.gateway)
        }
        None => {
            if complete && !doubtful {
                findings
                    .error(
                        fixed.place,
                        format!("{} is in no range of a gateway", fixed.value),
                    )
                    .hint("the host reaches the machine by an address of [network.gateway] in its range");
            }
            None
        }
    }
}

/// The host's address in a network is on the network's own bridge.
pub(super) fn not_on_a_shared_bridge(networks: &[NetworkDraft], findings: &mut Findings) {
    // A flat network has one of its own.
    let own = |draft: &&NetworkDraft| {
        let network = draft.network.as_ref();
        network.is_some_and(|n| matches!(n.segment, Segment::Flat { .. }))
    };
    for network in networks.iter().filter(|network| !own(network)) {
        if let Some(address) = network.gateway.as_ref().and_then(|g| g.addresses.first()) {
            findings
                .error(
                    address.place,
                    format!(
                        "network `{}` has no bridge of its own to carry {}",
                        network.label(),
                        address.value
                    ),
                )
                .hint("gateways need mode = \"per-network\" in [bridge]");
        }
    }
}

/// One namespace routes a range to one bridge.
fn overlapping(networks: &[NetworkDraft], findings: &mut Findings) {
    let mut all: Vec<(&NetworkDraft, At<crate::model::Cidr>)> = networks
        .iter()
        .filter_map(|n| Some((n, n.gateway.as_ref()?)))
        .flat_map(|(n, gateway)| gateway.addresses.iter().map(move |a| (n, *a)))
        .collect();
    // A range that holds another begins before it: comparing with the widest one so far is enough.
    all.sort_by_key(|(_, a)| (a.value.network().address(), a.value.length()));
    let mut widest: Option<(&NetworkDraft, At<crate::model::Cidr>)> = None;
    for (network, address) in all {
        match widest {
            Some((first, before)) if before.value.overlaps(&address.value) => {
                if !std::ptr::eq(first, network) {
                    findings
                        .error(
                            address.place,
                            format!(
                                "networks `{}` and `{}` share addresses: {} and {}",
                                first.label(),
                                network.label(),
                                before.value.network(),
                                address.value.network()
                            ),
                        )
                        .hint("a host routes a range to one network only")
                        .related(before.place, "the other gateway address");
                }
            }
            _ => widest = Some((network, address)),
        }
    }
}
