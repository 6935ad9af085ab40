//! The small tables that are there once: `[daemon]`, `[taps]`, `[bridge]`.

use super::DaemonSettings;
use super::aware::BridgeSettings;
use super::reader::{Refusal, Table};
use super::report::Findings;
use super::units;
use crate::model::{
    BridgeAttributes, BridgeMode, InvalidValue, LinkName, NamePattern, SharedBridge, TapMatch, owned,
};
use std::time::Duration;
use toml::de::DeValue;

pub(super) fn daemon(table: Option<Table<'_>>, findings: &mut Findings) -> DaemonSettings {
    let mut settings = DaemonSettings::default();
    let Some(mut t) = table else {
        return settings;
    };
    if let Some(socket) = t.parsed(
        "socket",
        "\"/run/tapwire/tapwire.sock\"",
        findings,
        units::socket_path,
    ) {
        settings.socket = socket.value;
    }
    settings.socket_group = t
        .parsed("socket_group", "\"tapwire\"", findings, units::group_name)
        .map(|g| g.value);
    if let Some(dir) = t.parsed(
        "state_directory",
        "\"/var/lib/tapwire\"",
        findings,
        units::absolute_path,
    ) {
        settings.state_directory = dir.value;
    }
    if let Some(after) = t.parsed("prune_after", "\"5m\"", findings, units::duration_or_never) {
        settings.prune_after = after.value;
    }
    if let Some(percent) = t.parsed("max_detach", "\"25%\"", findings, units::percent) {
        settings.max_detach_percent = percent.value;
    }
    let (key, example) = ("receive_buffer", "\"64MiB\"");
    if let Some(size) = size(&mut t, key, example, units::buffer_size, findings) {
        settings.receive_buffer = size;
    }
    let (key, example) = ("flight_recorder", "\"256KiB\"");
    if let Some(size) = size(&mut t, key, example, units::recorder_size, findings) {
        settings.flight_recorder = size;
    }
    settings.metrics_listen = t
        .parsed(
            "metrics_listen",
            "\"127.0.0.1:9478\"",
            findings,
            units::loopback_socket,
        )
        .map(|a| a.value);
    t.finish(findings);
    settings
}

/// Bytes as a number, or a string with a unit; `check` knows which are right for the key.
fn size(
    table: &mut Table<'_>,
    key: &'static str,
    example: &'static str,
    check: fn(u64, &str) -> Result<usize, Refusal>,
    findings: &mut Findings,
) -> Option<usize> {
    let item = table.take(key)?;
    let place = item.place;
    let size = match &item.value {
        DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(bytes) => check(bytes, &format!("{bytes} bytes")),
            Err(_) => check(u64::MAX, &format!("{number} bytes")),
        },
        DeValue::String(text) => units::byte_size(text).and_then(|bytes| check(bytes, text)),
        _ => {
            item.string(example, findings)?;
            return None;
        }
    };
    match size {
        Ok(size) => Some(size),
        Err(refusal) => {
            refusal.report(place, key, example, findings);
            None
        }
    }
}

pub(super) fn taps(table: Option<Table<'_>>, findings: &mut Findings) -> TapMatch {
    let mut taps = TapMatch {
        patterns: Vec::new(),
        other_kinds: Vec::new(),
        adopt: false,
    };
    let mut stated = false;
    if let Some(mut t) = table {
        if let Some(list) = t.strings("match", "[\"tap*\", \"vnet*\"]", findings) {
            stated = true;
            if list.value.is_empty() {
                findings
                    .error(list.place, "`match` is empty: no link would ever be a tap")
                    .hint("leave it out for the default, [\"tap*\", \"vnet*\"]");
            }
            let patterns = list.value.iter().filter_map(|text| {
                text.parse("match", "[\"tap*\"]", findings, |text| {
                    Ok(NamePattern::new(text)?)
                })
                .map(|p| p.value)
            });
            taps.patterns = patterns.collect();
        }
        if let Some(list) = t.strings("other_kinds", "[\"veth\"]", findings) {
            let kinds = list
                .value
                .iter()
                .filter_map(|text| text.parse("other_kinds", "[\"veth\"]", findings, kind));
            taps.other_kinds = kinds.map(|k| k.value).collect();
        }
        taps.adopt = t.boolean("adopt", findings).is_some_and(|a| a.value);
        t.finish(findings);
    }
    if !stated {
        taps.patterns = ["tap*", "vnet*"]
            .iter()
            .filter_map(|p| NamePattern::new(p).ok())
            .collect();
    }
    taps
}

/// A link kind that may be a port besides taps.
fn kind(text: &str) -> Result<Box<str>, Refusal> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match text {
        "tun" | "tap" => Err(Refusal::new(
            format!("{text:?} needs no mention"),
            "links of kind tun in tap mode always match; tun mode has no Ethernet frames",
        )),
        "bridge" | "vlan" | "vxlan" => Err(Refusal::new(
            format!("a {text} device can't be taken for a tap"),
            "tapwire makes such devices itself; name the kind of the guests' links, as in \"veth\"",
        )),
        _ if text.is_empty() || text.len() > 32 || !text.chars().all(legal) => Err(Refusal::new(
            format!("{text:?} is not a kind of link"),
            "the word that `ip -d link` shows, as in \"veth\"",
        )),
        _ => Ok(text.into()),
    }
}

/// `[bridge]`: one bridge or many, and their defaults.
pub(super) fn bridge(table: Option<Table<'_>>, findings: &mut Findings) -> BridgeSettings {
    let mut attributes = BridgeAttributes::default();
    let Some(mut t) = table else {
        return BridgeSettings::default();
    };
    let aware = t.parsed("mode", "\"vlan-aware\"", findings, |text| match text {
        "per-network" => Ok(false),
        "vlan-aware" => Ok(true),
        _ => Err(Refusal::new(
            format!("unknown bridge mode {text:?}"),
            "write mode = \"per-network\" or mode = \"vlan-aware\"",
        )),
    });
    let name = t.parsed("name", "\"brvlan\"", findings, units::link_name);
    attributes.multicast_snooping = t.boolean("mcast_snooping", findings).map(|b| b.value);
    attributes.ageing_time = t
        .integer("ageing_time", "300", findings, |seconds| {
            u32::try_from(seconds)
                .ok()
                .filter(|s| *s <= 1_000_000)
                .map(|s| s * 100)
                .ok_or_else(|| InvalidValue::new("ageing time", seconds, "outside 0..1000000 seconds").into())
        })
        .map(|hundredths| hundredths.value);
    t.finish(findings);
    let place = name.as_ref().map(|n| n.place).or(aware.as_ref().map(|a| a.place));
    let name = name.map_or_else(|| LinkName::new(owned::SHARED_BRIDGE), |n| Ok(n.value));
    let mode = match (aware, name) {
        (Some(aware), Ok(name)) if aware.value => BridgeMode::VlanAware(SharedBridge { name, attributes }),
        _ => BridgeMode::PerNetwork,
    };
    BridgeSettings {
        attributes,
        mode,
        place,
    }
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self {
            socket: "/run/tapwire/tapwire.sock".into(),
            socket_group: None,
            state_directory: "/var/lib/tapwire".into(),
            prune_after: Some(Duration::from_secs(300)),
            max_detach_percent: 25,
            receive_buffer: 64 << 20,
            flight_recorder: 256 << 10,
            metrics_listen: None,
        }
    }
}
