//! The gateway half of a `[[network]]`: `[network.gateway]`, `metadata`, `share_dhcp_address`, and what hangs on them
//! (`dhcp`, `floating`). What can be judged without looking at another network is judged here.

use super::place::{At, Place};
use super::reader::{Item, Refusal, Table};
use super::report::Findings;
use super::{dhcp, floating, units};
use crate::model::gateway::{Forward, Gateway, Snat, SnatTo};
use crate::model::{Cidr, InvalidValue, LinkName, NetworkId};
use floating::{FloatingDraft, ForwardDraft};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use toml::de::DeValue;

/// nova's `metadata_port`.
const METADATA_PORT: u16 = 8775;

/// As read; floating addresses and port forwards join it when all networks are known.
#[derive(Debug)]
pub(super) struct GatewayDraft {
    pub gateway: Box<Gateway>,
    pub addresses: Vec<At<Cidr>>,
    /// `addresses` is there but wrong: what depends on it must not be blamed too.
    pub refused: bool,
    pub floating_ips: Vec<FloatingDraft>,
    pub port_forwards: Vec<ForwardDraft>,
}

/// Takes the gateway keys out of a `[[network]]`; none of them is no gateway.
pub(super) fn read(
    t: &mut Table<'_>,
    id: Option<&NetworkId>,
    local: bool,
    findings: &mut Findings,
) -> Option<GatewayDraft> {
    let place = t.place;
    let table = t.table("gateway", "[network.gateway]", findings);
    let dhcp = t.table("dhcp", "[network.dhcp]", findings);
    let ra = t.table("ra", "[network.ra]", findings);
    let metadata = t.take("metadata");
    let share = t.boolean("share_dhcp_address", findings);
    let floating_ips = floating::floating_ips(
        t.tables("floating_ip", "[[network.floating_ip]]", findings),
        id,
        findings,
    );
    let port_forwards = floating::port_forwards(
        t.tables("port_forward", "[[network.port_forward]]", findings),
        id,
        findings,
    );
    let first = [
        dhcp.as_ref().map(|t| t.place),
        ra.as_ref().map(|t| t.place),
        metadata.as_ref().map(|item| item.key_place),
        share.filter(|s| s.value).map(|s| s.place),
    ];
    let Some(mut table) = table else {
        if let Some(needs) = first.into_iter().flatten().min() {
            findings
                .error(needs, "this needs an address of the host in the network")
                .hint("add [network.gateway] with addresses = [\"10.0.0.1/24\"]: guests find the host there");
        }
        // What is wrong in there is said in the same breath.
        dhcp.map(|t| dhcp::dhcp(t, None, findings));
        ra.map(|t| dhcp::ra(t, None, findings));
        let loose = !floating_ips.is_empty() || !port_forwards.is_empty();
        return loose.then(|| GatewayDraft {
            gateway: Box::default(),
            addresses: Vec::new(),
            refused: first.into_iter().flatten().next().is_some(),
            floating_ips,
            port_forwards,
        });
    };

    let before = findings.len();
    let addresses = addresses(&mut table, findings);
    let refused = findings.len() > before;
    let mut gateway = Gateway {
        addresses: addresses.iter().map(|a| a.value).collect(),
        ..Gateway::default()
    };
    gateway.snat = snat(&mut table, &gateway, refused, findings);
    gateway.dmz = ranges(&mut table, "dmz", "[\"10.128.0.0/24\"]", findings);
    gateway.force_snat_range = ranges(&mut table, "force_snat_range", "[\"0.0.0.0/0\"]", findings);
    gateway.forward = forward(&mut table, findings);
    table.finish(findings);
    gateway.metadata = metadata.and_then(|item| metadata_server(item, findings));
    if let Some(share) = share.filter(|s| s.value && local) {
        findings
            .error(
                share.place,
                "a local network has no uplink to isolate its address on",
            )
            .hint("leave `share_dhcp_address` out");
    }
    gateway.share_dhcp_address = share.is_some_and(|s| s.value);
    let known = (!refused).then_some(&addresses[..]);
    gateway.dhcp = dhcp.and_then(|t| dhcp::dhcp(t, known, findings));
    gateway.ra = ra.and_then(|t| dhcp::ra(t, known, findings));
    if let (Some(range), false) = (gateway.force_snat_range.first(), gateway.has_external_router())
        && gateway.dhcp.is_some()
    {
        findings
            .error(place, format!("force_snat_range {range} says nothing: guests' router is this host"))
            .hint("it is for guests with another router (`router` in [network.dhcp]); `snat` translates everything else");
    }
    Some(GatewayDraft {
        gateway: Box::new(gateway),
        addresses,
        refused,
        floating_ips,
        port_forwards,
    })
}

fn addresses(t: &mut Table<'_>, findings: &mut Findings) -> Vec<At<Cidr>> {
    let example = "[\"10.0.0.1/24\", \"fd00:0:0:1::1/64\"]";
    if !t.has("addresses") {
        t.missing(
            "addresses",
            format!("for example addresses = {example}"),
            findings,
        );
        return Vec::new();
    }
    let Some(list) = t.strings("addresses", example, findings) else {
        return Vec::new();
    };
    if list.value.is_empty() {
        findings
            .error(list.place, "`addresses` is empty")
            .hint(format!("for example addresses = {example}"));
    }
    let mut addresses: Vec<At<Cidr>> = Vec::new();
    for text in &list.value {
        let Some(address) = text.parse("addresses", example, findings, interface_address) else {
            continue;
        };
        if let Some(first) = addresses.iter().find(|a| a.value.overlaps(&address.value)) {
            findings
                .error(
                    address.place,
                    format!("{} and {} are in one range", first.value, address.value),
                )
                .hint("one address for each range: a second one would be the first one's secondary")
                .related(first.place, "the other address");
        }
        addresses.push(address);
    }
    addresses
}

/// "10.0.0.1/24": an address that the bridge can have.
fn interface_address(text: &str) -> Result<Cidr, Refusal> {
    if !text.contains('/') {
        return Err(Refusal::new(
            format!("{text:?} has no prefix length"),
            "the host must know the network's range: \"10.0.0.1/24\"",
        ));
    }
    let cidr: Cidr = text.parse()?;
    units::unicast_ip(&cidr.address().to_string())?;
    if cidr.length() == 0 || cidr.is_reserved(cidr.address()) {
        return Err(Refusal::new(
            format!("{cidr} is the range's own or its broadcast address"),
            "a machine's address in the range, as in \"10.0.0.1/24\" or \"fd00::1/64\"",
        ));
    }
    match cidr.address() {
        IpAddr::V4(a) if a.is_loopback() || a.is_link_local() => Err(not_routed(cidr)),
        IpAddr::V6(a) if a.is_loopback() || a.is_unicast_link_local() => Err(not_routed(cidr)),
        _ => Ok(cidr),
    }
}

fn not_routed(cidr: Cidr) -> Refusal {
    Refusal::new(
        format!("{cidr} is loopback or link-local: nothing is routed there"),
        "an address of the network's own range, as in \"10.0.0.1/24\"",
    )
}

/// "10.0.0.0/8": a range, without host bits.
pub(super) fn range(text: &str) -> Result<Cidr, Refusal> {
    let cidr: Cidr = text.parse()?;
    if cidr.network() != cidr {
        return Err(Refusal::new(
            format!("{cidr} has bits behind its prefix"),
            format!(
                "\"{}\" for the range, \"{}\" for the one address",
                cidr.network(),
                cidr.address()
            ),
        ));
    }
    Ok(cidr)
}

fn ranges(t: &mut Table<'_>, key: &'static str, example: &str, findings: &mut Findings) -> Vec<Cidr> {
    let list = t
        .strings(key, example, findings)
        .map_or(Vec::new(), |list| list.value);
    let mut ranges: Vec<Cidr> = list
        .iter()
        .filter_map(|text| Some(text.parse(key, example, findings, range)?.value))
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// `snat = true`, or `snat = { address = "203.0.113.5", interface = "eth0" }`.
fn snat(t: &mut Table<'_>, gateway: &Gateway, refused: bool, findings: &mut Findings) -> Option<Snat> {
    let item = t.take("snat")?;
    let place = item.place;
    let masquerade4 = gateway.routes(true).then_some(SnatTo::Masquerade);
    if let DeValue::Boolean(on) = item.value {
        if on && masquerade4.is_none() && !refused {
            findings
                .error(
                    place,
                    "`snat = true` translates IPv4, and the network has no IPv4 address",
                )
                .hint("for IPv6 say so: snat = { address6 = \"masquerade\" }");
        }
        return on.then_some(Snat {
            interface: None,
            v4: masquerade4,
            v6: None,
        });
    }
    let hint = "write snat = true, or snat = { address = \"203.0.113.5\", interface = \"eth0\" }";
    let mut t = item.into_table("snat", hint, findings)?;
    let interface = t.parsed("interface", "\"eth0\"", findings, units::link_name);
    let v4 = t.parsed("address", "\"203.0.113.5\"", findings, |text| {
        translation(text, "IPv4", |ip| match ip {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        })
    });
    let v6 = t.parsed("address6", "\"masquerade\"", findings, |text| {
        translation(text, "IPv6", |ip| match ip {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        })
    });
    t.finish(findings);
    if !refused {
        lacks(
            v4.as_ref().map(|v| v.place),
            gateway.routes(true),
            "IPv4",
            findings,
        );
        lacks(
            v6.as_ref().map(|v| v.place),
            gateway.routes(false),
            "IPv6",
            findings,
        );
    }
    Some(Snat {
        interface: interface.map(|i| i.value),
        v4: v4.map(|v: At<SnatTo<Ipv4Addr>>| v.value).or(masquerade4),
        v6: v6.map(|v: At<SnatTo<Ipv6Addr>>| v.value),
    })
}

fn translation<A>(
    text: &str,
    family: &str,
    pick: impl FnOnce(IpAddr) -> Option<A>,
) -> Result<SnatTo<A>, Refusal> {
    if text == "masquerade" {
        return Ok(SnatTo::Masquerade);
    }
    pick(units::unicast_ip(text)?)
        .map(SnatTo::Address)
        .ok_or_else(|| {
            Refusal::new(
                format!("{text} is not an {family} address"),
                "`address` is for IPv4, `address6` for IPv6; \"masquerade\" takes the outgoing interface's",
            )
        })
}

fn lacks(asked: Option<Place>, has: bool, family: &str, findings: &mut Findings) {
    if let (Some(place), false) = (asked, has) {
        findings
            .error(
                place,
                format!("the network has no {family} address to translate from"),
            )
            .hint("add one to `addresses`, or leave this out");
    }
}

fn forward(t: &mut Table<'_>, findings: &mut Findings) -> Forward {
    let Some(list) = t.strings("forward", "[\"eth0\"]", findings) else {
        return Forward::All;
    };
    if let [only] = &list.value[..]
        && only.value == "all"
    {
        return Forward::All;
    }
    let mut names: Vec<LinkName> = Vec::new();
    for text in &list.value {
        if text.value == "all" {
            findings
                .error(text.place, "\"all\" beside other interfaces")
                .hint("forward = [\"all\"], or the interfaces one by one");
            continue;
        }
        names.extend(
            text.parse("forward", "[\"eth0\"]", findings, units::link_name)
                .map(|n| n.value),
        );
    }
    names.sort_unstable();
    names.dedup();
    Forward::Only(names)
}

/// `metadata = { host = "192.0.2.1", port = 8775 }`.
fn metadata_server(item: Item<'_>, findings: &mut Findings) -> Option<SocketAddr> {
    let hint = "write metadata = { host = \"192.0.2.1\", port = 8775 }";
    let place = item.place;
    let mut t = item.into_table("metadata", hint, findings)?;
    let had_host = t.has("host");
    let host = t.parsed(
        "host",
        "\"192.0.2.1\"",
        findings,
        |text| match units::unicast_ip(text)? {
            IpAddr::V4(host) => Ok(host),
            IpAddr::V6(_) => Err(Refusal::new(
                format!("{text} is not an IPv4 address"),
                "guests ask for metadata at 169.254.169.254: its server is an IPv4 one",
            )),
        },
    );
    let port = t.integer("port", "8775", findings, |raw| Ok(udp_or_tcp_port(raw)?));
    t.finish(findings);
    if !had_host {
        findings.error(place, "`metadata` has no `host`").hint(hint);
    }
    Some(SocketAddr::new(
        IpAddr::V4(host?.value),
        port.map_or(METADATA_PORT, |p| p.value),
    ))
}

/// 1 to 65535.
pub(super) fn udp_or_tcp_port(raw: i64) -> Result<u16, InvalidValue> {
    match u16::try_from(raw) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(InvalidValue::new("port", raw, "outside 1..65535")),
    }
}
