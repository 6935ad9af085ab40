//! `[vxlan]`: the underlay of every VXLAN network.

use super::place::{At, Place};
use super::reader::{Refusal, Table};
use super::report::Findings;
use super::units;
use crate::model::{InvalidValue, MulticastRange, VxlanGroup, VxlanSettings};
use std::net::IpAddr;

/// `[vxlan]` with the places that checks across tables speak of.
#[derive(Debug, Default)]
pub(super) struct Vxlan {
    pub settings: VxlanSettings,
    pub local_ip: Option<Place>,
    /// `local_ip` or a group is there but wrong: its absence must not be reported too.
    pub refused: bool,
    /// The header, if there is one.
    pub header: Option<Place>,
}

pub(super) fn read(table: Option<Table<'_>>, findings: &mut Findings) -> Vxlan {
    let Some(mut t) = table else {
        return Vxlan::default();
    };
    let before = findings.len();
    let local_ip = t.parsed("local_ip", "\"192.0.2.11\"", findings, units::unicast_ip);
    let group = t.parsed("vxlan_group", "\"239.1.1.1\"", findings, units::vxlan_group);
    let ranges = multicast_ranges(&mut t, findings);
    let refused = findings.len() > before;
    same_family(local_ip, group, &ranges, findings);

    let small = |what: &'static str, max: u8, problem: &'static str| {
        move |raw: i64| match u8::try_from(raw) {
            Ok(value) if value <= max => Ok(value),
            _ => Err(InvalidValue::new(what, raw, problem).into()),
        }
    };
    let port = |what: &'static str, min: u16, problem: &'static str| {
        move |raw: i64| match u16::try_from(raw) {
            Ok(value) if value >= min => Ok(value),
            _ => Err(InvalidValue::new(what, raw, problem).into()),
        }
    };
    let settings = VxlanSettings {
        local_ip: local_ip.map(|a| a.value),
        udp_dstport: t
            .integer(
                "udp_dstport",
                "4789",
                findings,
                port("udp port", 1, "outside 1..65535"),
            )
            .map(|p| p.value),
        l2_population: t.boolean("l2_population", findings).is_some_and(|b| b.value),
        group: group.map(|g| g.value),
        multicast_ranges: ranges.into_iter().map(|r| r.value).collect(),
        arp_responder: t.boolean("arp_responder", findings).is_some_and(|b| b.value),
        ttl: t
            .integer("ttl", "64", findings, small("ttl", 255, "outside 0..255"))
            .map(|v| v.value),
        tos: t
            .integer("tos", "0", findings, small("tos", 255, "outside 0..255"))
            .map(|v| v.value),
        dscp: t
            .integer("dscp", "46", findings, small("dscp", 63, "outside 0..63"))
            .map(|v| v.value),
        dscp_inherit: t.boolean("dscp_inherit", findings).is_some_and(|b| b.value),
        srcport: source_ports(&mut t, findings, port("udp port", 0, "outside 0..65535")),
    };
    let header = Some(t.place);
    t.finish(findings);
    Vxlan {
        settings,
        local_ip: local_ip.map(|a| a.place),
        refused,
        header,
    }
}

/// The source port range; `None` (or Neutron's 0, 0) leaves it to the kernel.
fn source_ports(
    t: &mut Table<'_>,
    findings: &mut Findings,
    port: impl Fn(i64) -> Result<u16, Refusal>,
) -> Option<(u16, u16)> {
    let (has_min, has_max) = (t.has("udp_srcport_min"), t.has("udp_srcport_max"));
    let min = t.integer("udp_srcport_min", "49152", findings, &port);
    let max = t.integer("udp_srcport_max", "65535", findings, &port);
    match (min, max) {
        (Some(min), None) if !has_max => {
            findings
                .error(min.place, "`udp_srcport_min` without `udp_srcport_max`")
                .hint("give both ends of the range, or neither");
            None
        }
        (None, Some(max)) if !has_min => {
            findings
                .error(max.place, "`udp_srcport_max` without `udp_srcport_min`")
                .hint("give both ends of the range, or neither");
            None
        }
        (Some(min), Some(max)) if min.value > max.value => {
            findings
                .error(
                    min.place,
                    format!("the source port range {}..{} is empty", min.value, max.value),
                )
                .hint("the lower port belongs into `udp_srcport_min`")
                .related(max.place, "the upper end is here");
            None
        }
        (Some(min), Some(max)) if min.value == 0 && max.value != 0 => {
            findings
                .error(min.place, "a source port range can't begin with port 0")
                .hint("begin with 1024 or more; 0 for both leaves the range to the kernel");
            None
        }
        (Some(min), Some(max)) if max.value != 0 => Some((min.value, max.value)),
        _ => None,
    }
}

fn multicast_ranges(t: &mut Table<'_>, findings: &mut Findings) -> Vec<At<MulticastRange>> {
    let Some(list) = t.strings("multicast_ranges", "[\"239.1.1.0:300:315\"]", findings) else {
        return Vec::new();
    };
    let example = "[\"239.1.1.0:300:315\"]";
    let ranges: Vec<At<MulticastRange>> = list
        .value
        .iter()
        .filter_map(|text| text.parse("multicast_ranges", example, findings, units::multicast_range))
        .collect();
    let mut sorted: Vec<&At<MulticastRange>> = ranges.iter().collect();
    sorted.sort_by_key(|range| (range.value.min, range.value.max));
    let mut highest: Option<&At<MulticastRange>> = None;
    for range in sorted {
        match highest {
            Some(before) if before.value.max >= range.value.min => {
                let (first, second) = if before.place < range.place {
                    (before, range)
                } else {
                    (range, before)
                };
                findings
                    .error(
                        second.place,
                        format!("VNI {} is in two multicast ranges", range.value.min),
                    )
                    .hint("let every VNI be in one range only")
                    .related(first.place, "the other range");
                if range.value.max > before.value.max {
                    highest = Some(range);
                }
            }
            _ => highest = Some(range),
        }
    }
    ranges
}

/// A group of another family than `local_ip` can't be sent to from it.
fn same_family(
    local_ip: Option<At<IpAddr>>,
    group: Option<At<VxlanGroup>>,
    ranges: &[At<MulticastRange>],
    findings: &mut Findings,
) {
    let Some(local) = local_ip else {
        return;
    };
    let groups = group.iter().map(|g| (g.place, g.value.address()));
    for (place, address) in groups.chain(ranges.iter().map(|r| (r.place, r.value.group))) {
        if address.is_ipv4() != local.value.is_ipv4() {
            let family = if local.value.is_ipv4() {
                "an IPv4"
            } else {
                "an IPv6"
            };
            findings
                .error(
                    place,
                    format!(
                        "group {address} is of another family than local_ip {}",
                        local.value
                    ),
                )
                .hint(format!(
                    "use {family} group: all VXLAN packets leave from local_ip"
                ))
                .related(local.place, "local_ip is set here");
        }
    }
}
