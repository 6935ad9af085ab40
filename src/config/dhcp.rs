//! `[network.dhcp]` and `[network.ra]`.

use super::gateway::range;
use super::place::At;
use super::reader::{Refusal, Table};
use super::report::Findings;
use super::units;
use crate::model::gateway::{Dhcp, DhcpRange, DhcpRoute, Router, RouterAdvertisement};
use crate::model::{Cidr, Domain, InvalidValue, Mtu};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// dnsmasq takes no shorter lease.
const SHORTEST_LEASE: Duration = Duration::from_secs(120);

/// `addresses`: the gateway's; `None` if they are wrong and reported.
pub(super) fn dhcp(
    mut t: Table<'_>,
    addresses: Option<&[At<Cidr>]>,
    findings: &mut Findings,
) -> Option<Dhcp> {
    let place = t.place;
    let mut dhcp = Dhcp {
        ranges: ranges(&mut t, addresses, findings),
        ..Dhcp::default()
    };
    if let Some(time) = t.parsed("lease_time", "\"24h\"", findings, lease_time) {
        dhcp.lease_time = time.value;
    }
    dhcp.dns_servers = t
        .strings("dns_servers", "[\"192.0.2.53\"]", findings)
        .map(|list| {
            let each = list.value.iter().filter_map(|text| {
                text.parse("dns_servers", "[\"192.0.2.53\"]", findings, units::unicast_ip)
            });
            each.map(|server| server.value).collect()
        });
    dhcp.domain = t
        .parsed("domain", "\"blue.example\"", findings, |text| {
            Ok(Domain::new(text)?)
        })
        .map(|d| d.value);
    dhcp.mtu = t
        .integer("mtu", "1450", findings, |raw| Ok(Mtu::new(raw)?))
        .map(|m| m.value);
    let first4 = addresses
        .and_then(|a| a.iter().find(|a| a.value.is_ipv4()))
        .copied();
    let has_routes = t.has("routes");
    dhcp.routes = routes(&mut t, first4, findings);
    if let Some(router) = t.parsed("router", "\"10.0.0.254\"", findings, |text| router(text, first4)) {
        if addresses.is_some() && first4.is_none() {
            findings
                .error(
                    router.place,
                    "`router` is told by DHCPv4, and the network has no IPv4 address",
                )
                .hint("leave it out: IPv6 routers are told by [network.ra]");
        }
        dhcp.router = router.value;
    }
    t.finish(findings);
    if has_routes && addresses.is_some() && first4.is_none() {
        findings
            .error(
                place,
                "`routes` are told by DHCPv4, and the network has no IPv4 address",
            )
            .hint("leave them out");
    }
    Some(dhcp)
}

fn lease_time(text: &str) -> Result<Option<Duration>, Refusal> {
    let time = units::duration_or_never(text)?;
    match time {
        Some(time) if time < SHORTEST_LEASE || time.subsec_nanos() != 0 => Err(Refusal::new(
            format!("a lease of {text} is shorter than two minutes or not whole seconds"),
            "for example lease_time = \"24h\", or \"never\" for leases that do not end",
        )),
        time => Ok(time),
    }
}

/// `["10.0.0.100", "10.0.0.199"]` would not tell two families apart: each is "first-last".
fn ranges(t: &mut Table<'_>, addresses: Option<&[At<Cidr>]>, findings: &mut Findings) -> Vec<DhcpRange> {
    let example = "[\"10.0.0.100-10.0.0.199\"]";
    let list = t
        .strings("range", example, findings)
        .map_or(Vec::new(), |list| list.value);
    let mut ranges: Vec<At<DhcpRange>> = Vec::new();
    for text in &list {
        let Some(range) = text.parse("range", example, findings, address_range) else {
            continue;
        };
        let DhcpRange { first, last } = range.value;
        if let Some(other) = ranges.iter().find(|r| {
            r.value.first <= last && first <= r.value.last && r.value.first.is_ipv4() == first.is_ipv4()
        }) {
            findings
                .error(range.place, format!("{first} is in two ranges"))
                .hint("let every address be in one range only")
                .related(other.place, "the other range");
        }
        if let Some(addresses) = addresses {
            inside(range, addresses, findings);
        }
        ranges.push(range);
    }
    ranges.into_iter().map(|r| r.value).collect()
}

fn inside(range: At<DhcpRange>, addresses: &[At<Cidr>], findings: &mut Findings) {
    let DhcpRange { first, last } = range.value;
    let Some(holding) = addresses
        .iter()
        .find(|a| a.value.contains(first) && a.value.contains(last))
    else {
        findings
            .error(
                range.place,
                format!("{first}-{last} is not inside the range of a gateway address"),
            )
            .hint("DHCP serves the ranges of `addresses` in [network.gateway]");
        return;
    };
    let own = holding.value.address();
    if (first..=last).contains(&own) {
        findings
            .error(
                range.place,
                format!("the range holds {own}, the host's own address"),
            )
            .hint("begin behind it")
            .related(holding.place, "the gateway address");
    } else if holding.value.is_reserved(first) || holding.value.is_reserved(last) {
        findings
            .error(
                range.place,
                format!("{first}-{last} holds the range's own or its broadcast address"),
            )
            .hint("leave the first and the last address of the network out");
    }
}

fn address_range(text: &str) -> Result<DhcpRange, Refusal> {
    let example = "first and last address, as in \"10.0.0.100-10.0.0.199\"";
    let Some((first, last)) = text.split_once('-') else {
        return Err(Refusal::new(format!("{text:?} is not a range"), example));
    };
    let (first, last) = (units::ip(first.trim())?, units::ip(last.trim())?);
    if first.is_ipv4() != last.is_ipv4() {
        return Err(Refusal::new(
            format!("{first} and {last} are of two families"),
            example,
        ));
    }
    if first > last {
        return Err(Refusal::new(
            format!("the range {first}-{last} is empty"),
            format!("lowest first: \"{last}-{first}\""),
        ));
    }
    Ok(DhcpRange { first, last })
}

/// `routes = ["10.1.0.0/16 via 10.0.0.9"]`.
fn routes(t: &mut Table<'_>, first4: Option<At<Cidr>>, findings: &mut Findings) -> Vec<DhcpRoute> {
    let example = "[\"10.1.0.0/16 via 10.0.0.9\"]";
    let list = t
        .strings("routes", example, findings)
        .map_or(Vec::new(), |list| list.value);
    let each = list.iter().filter_map(|text| {
        text.parse("routes", example, findings, |text| {
            let bad = || {
                Refusal::new(
                    format!("{text:?} is not a route"),
                    "destination and router, as in \"10.1.0.0/16 via 10.0.0.9\"",
                )
            };
            let (destination, via) = text.split_once(" via ").ok_or_else(bad)?;
            let destination = range(destination.trim())?;
            if !destination.is_ipv4() {
                return Err(bad());
            }
            let via = on_link(via.trim(), first4)?;
            Ok(DhcpRoute { destination, via })
        })
    });
    each.map(|route| route.value).collect()
}

fn router(text: &str, first4: Option<At<Cidr>>) -> Result<Router, Refusal> {
    match text {
        "none" => Ok(Router::None),
        "host" => Ok(Router::Host),
        _ => Ok(Router::Other(on_link(text, first4)?)),
    }
}

/// A router must be reachable from the guests' own range.
fn on_link(text: &str, first4: Option<At<Cidr>>) -> Result<Ipv4Addr, Refusal> {
    let IpAddr::V4(address) = units::unicast_ip(text)? else {
        return Err(Refusal::new(
            format!("{text} is not an IPv4 address"),
            "DHCPv4 tells IPv4 routers; IPv6 routers are told by [network.ra]",
        ));
    };
    match first4 {
        Some(own) if !own.value.contains(IpAddr::V4(address)) => Err(Refusal::new(
            format!("{address} is not in the network's range {}", own.value.network()),
            "guests reach a router only on their own network",
        )),
        _ => Ok(address),
    }
}

pub(super) fn ra(
    mut t: Table<'_>,
    addresses: Option<&[At<Cidr>]>,
    findings: &mut Findings,
) -> Option<RouterAdvertisement> {
    let place = t.place;
    let mut ra = RouterAdvertisement::default();
    let slaac = t.boolean("slaac", findings);
    ra.slaac = slaac.is_none_or(|s| s.value);
    let seconds = |what: &'static str, least: u64, most: u64, problem: &'static str| {
        move |text: &str| match units::duration_or_never(text)? {
            Some(time) if time.subsec_nanos() == 0 && (least..=most).contains(&time.as_secs()) => Ok(time),
            _ => Err(InvalidValue::new(what, text, problem).into()),
        }
    };
    let interval = seconds("interval", 4, 1800, "outside 4s..30m, or not whole seconds");
    if let Some(interval) = t.parsed("interval", "\"10m\"", findings, interval) {
        ra.interval = interval.value;
        ra.lifetime = Duration::from_secs((3 * ra.interval.as_secs()).min(9000));
    }
    if let Some(lifetime) = t.parsed("lifetime", "\"30m\"", findings, lifetime) {
        ra.lifetime = lifetime.value;
    }
    t.finish(findings);
    if let Some(addresses) = addresses {
        match addresses.iter().find(|a| !a.value.is_ipv4()) {
            None => {
                findings
                    .error(
                        place,
                        "router advertisements are IPv6's, and the network has no IPv6 address",
                    )
                    .hint("add one to `addresses` in [network.gateway], as in \"fd00:0:0:1::1/64\"");
            }
            Some(six) if ra.slaac && six.value.length() != 64 => {
                findings
                    .error(
                        six.place,
                        format!(
                            "machines make addresses only in a /64, not in a /{}",
                            six.value.length()
                        ),
                    )
                    .hint("give the network a /64, or write slaac = false and a `range` in [network.dhcp]");
            }
            Some(_) => {}
        }
    }
    Some(ra)
}

/// "30m", or "none": is no default router.
fn lifetime(text: &str) -> Result<Duration, Refusal> {
    if text == "none" {
        return Ok(Duration::ZERO);
    }
    match units::duration_or_never(text)? {
        Some(time) if time.subsec_nanos() == 0 && time.as_secs() <= 9000 => Ok(time),
        _ => Err(Refusal::new(
            format!("a router lifetime of {text} is longer than 9000s or not whole seconds"),
            "for example lifetime = \"30m\", or \"none\" for a host that is no default router",
        )),
    }
}
