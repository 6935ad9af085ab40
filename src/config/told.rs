//! The keys of a network's gateway half and of a port's machine as JSON: what the control socket takes and the store
//! keeps. They are read by the same code as files, so the same mistakes get the same words.

use super::floating;
use super::gateway;
use super::network;
use super::place::{FileId, Place, Sources};
use super::port;
use super::reader::Table;
use super::report::{Findings, Report};
use crate::model::gateway::{Dhcp, Forward, Gateway, Router, SnatTo};
use crate::model::{Network, PortMapping, Segment};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Reads `gateway`, `dhcp`, `ra`, `metadata`, `share_dhcp_address`, `floating_ip` and `port_forward` for `network`.
pub fn gateway_from_json(
    keys: &Map<String, Value>,
    network: &Network,
) -> Result<Option<Box<Gateway>>, Report> {
    read(keys, "the request", |mut table, place, findings| {
        let local = network.segment == Segment::Local;
        let draft = gateway::read(&mut table, Some(&network.id), local, findings);
        table.finish(findings);
        let mut drafts = [network::NetworkDraft::of(network.clone(), place, draft)];
        floating::settle(&mut drafts, Vec::new(), Vec::new(), true, findings);
        let [draft] = drafts;
        draft.gateway.map(|draft| draft.gateway)
    })
}

/// Reads `mac`, `addresses`, `hostname`, `port_security` and `allowed_address_pairs` into `mapping`.
pub fn port_facts_from_json(keys: &Map<String, Value>, mapping: PortMapping) -> Result<PortMapping, Report> {
    let facts = read(keys, "the request", |mut table, _, findings| {
        let facts = port::facts(&mut table, findings);
        table.finish(findings);
        facts
    })?;
    Ok(facts.finish(mapping))
}

fn read<T>(
    keys: &Map<String, Value>,
    name: &'static str,
    body: impl FnOnce(Table<'_>, Place, &mut Findings) -> T,
) -> Result<T, Report> {
    let mut sources = Sources::default();
    let mut text = String::new();
    for (key, value) in keys {
        if !value.is_null() {
            let bare = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !key.is_empty();
            let key = if bare {
                key.clone()
            } else {
                Value::from(key.as_str()).to_string()
            };
            write_value(&mut text, &format!("{key} = "), value);
            text.push('\n');
        }
    }
    let file: FileId = sources.add(Path::new(name), text.clone());
    let mut findings = Findings::default();
    let place = Place::new(file, &(0..0));
    let result = super::parse(file, &text, &mut findings).map(|table| body(table, place, &mut findings));
    match result {
        Some(result) if findings.is_empty() => Ok(result),
        _ => Err(findings.into_report(&sources)),
    }
}

/// JSON's strings and numbers are TOML's; null is a key that is not there.
fn write_value(out: &mut String, lead: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => {
            let _ = write!(out, "{lead}{value}");
        }
        // JSON leaves DEL as it is, TOML does not.
        Value::String(_) => {
            let _ = write!(out, "{lead}{}", value.to_string().replace('\u{7f}', "\\u007f"));
        }
        Value::Array(items) => {
            out.push_str(lead);
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                write_value(out, if at == 0 { "" } else { ", " }, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str(lead);
            out.push_str("{ ");
            let present = map.iter().filter(|(_, value)| !value.is_null());
            for (at, (key, value)) in present.enumerate() {
                let comma = if at == 0 { "" } else { ", " };
                let key = Value::from(key.as_str());
                write_value(out, &format!("{comma}{key} = "), value);
            }
            out.push_str(" }");
        }
    }
}

/// The keys that `gateway_from_json` reads, defaults left out.
pub fn gateway_to_json(gateway: &Gateway) -> Map<String, Value> {
    let mut keys = Map::new();
    let mut table = Map::new();
    let texts = |list: &[crate::model::Cidr]| -> Value { list.iter().map(ToString::to_string).collect() };
    table.insert("addresses".into(), texts(&gateway.addresses));
    if let Some(snat) = &gateway.snat {
        table.insert("snat".into(), snat_to_json(snat));
    }
    if !gateway.dmz.is_empty() {
        table.insert("dmz".into(), texts(&gateway.dmz));
    }
    if !gateway.force_snat_range.is_empty() {
        table.insert("force_snat_range".into(), texts(&gateway.force_snat_range));
    }
    if let Forward::Only(names) = &gateway.forward {
        table.insert("forward".into(), names.iter().map(ToString::to_string).collect());
    }
    keys.insert("gateway".into(), Value::Object(table));
    if gateway.share_dhcp_address {
        keys.insert("share_dhcp_address".into(), true.into());
    }
    if let Some(server) = gateway.metadata {
        keys.insert(
            "metadata".into(),
            json!({ "host": server.ip().to_string(), "port": server.port() }),
        );
    }
    if let Some(dhcp) = &gateway.dhcp {
        keys.insert("dhcp".into(), dhcp_to_json(dhcp));
    }
    if let Some(ra) = &gateway.ra {
        let lifetime = if ra.lifetime.is_zero() {
            "none".to_owned()
        } else {
            seconds(ra.lifetime)
        };
        keys.insert(
            "ra".into(),
            json!({ "slaac": ra.slaac, "interval": seconds(ra.interval), "lifetime": lifetime }),
        );
    }
    let floating: Vec<Value> = gateway.floating_ips.iter().map(floating_to_json).collect();
    if !floating.is_empty() {
        keys.insert("floating_ip".into(), floating.into());
    }
    let forwards: Vec<Value> = gateway.port_forwards.iter().map(forward_to_json).collect();
    if !forwards.is_empty() {
        keys.insert("port_forward".into(), forwards.into());
    }
    keys
}

fn snat_to_json(snat: &crate::model::gateway::Snat) -> Value {
    let mut table = Map::new();
    if let Some(interface) = snat.interface {
        table.insert("interface".into(), interface.to_string().into());
    }
    let word = |address: Option<String>| address.unwrap_or_else(|| "masquerade".to_owned());
    if let Some(to) = snat.v4 {
        let address = match to {
            SnatTo::Masquerade => None,
            SnatTo::Address(a) => Some(a.to_string()),
        };
        table.insert("address".into(), word(address).into());
    }
    if let Some(to) = snat.v6 {
        let address = match to {
            SnatTo::Masquerade => None,
            SnatTo::Address(a) => Some(a.to_string()),
        };
        table.insert("address6".into(), word(address).into());
    }
    Value::Object(table)
}

fn dhcp_to_json(dhcp: &Dhcp) -> Value {
    let mut table = Map::new();
    if !dhcp.ranges.is_empty() {
        let ranges = dhcp.ranges.iter().map(|r| format!("{}-{}", r.first, r.last));
        table.insert("range".into(), ranges.collect());
    }
    table.insert(
        "lease_time".into(),
        dhcp.lease_time.map_or_else(|| "never".to_owned(), seconds).into(),
    );
    if let Some(servers) = &dhcp.dns_servers {
        table.insert(
            "dns_servers".into(),
            servers.iter().map(ToString::to_string).collect(),
        );
    }
    if let Some(domain) = &dhcp.domain {
        table.insert("domain".into(), domain.as_str().into());
    }
    if let Some(mtu) = dhcp.mtu {
        table.insert("mtu".into(), mtu.get().into());
    }
    if !dhcp.routes.is_empty() {
        let routes = dhcp
            .routes
            .iter()
            .map(|r| format!("{} via {}", r.destination, r.via));
        table.insert("routes".into(), routes.collect());
    }
    match dhcp.router {
        Router::Host => None,
        Router::None => table.insert("router".into(), "none".into()),
        Router::Other(router) => table.insert("router".into(), router.to_string().into()),
    };
    Value::Object(table)
}

fn floating_to_json(floating: &crate::model::gateway::FloatingIp) -> Value {
    json!({
        "address": floating.address.to_string(),
        "fixed_address": floating.fixed_address.to_string(),
        "interface": floating.interface.to_string(),
    })
}

fn forward_to_json(forward: &crate::model::gateway::PortForward) -> Value {
    json!({
        "protocol": forward.protocol.name(),
        "address": forward.address.to_string(),
        "port": forward.port,
        "fixed_address": forward.fixed_address.to_string(),
        "fixed_port": forward.fixed_port,
    })
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NetworkId, TapSelector};

    fn network() -> Network {
        Network::new(
            NetworkId::new("blue").unwrap(),
            Segment::Vxlan {
                vni: crate::model::Vni::new(7).unwrap(),
            },
        )
    }

    fn keys(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_gateway_survives_the_way_through_json() {
        let told = keys(json!({
            "gateway": {
                "addresses": ["10.0.0.2/24", "fd00::1/64"],
                "snat": { "interface": "eth0", "address": "203.0.113.5", "address6": "masquerade" },
                "dmz": ["10.128.0.0/24"], "force_snat_range": ["0.0.0.0/0"], "forward": ["eth0"]
            },
            "share_dhcp_address": true,
            "metadata": { "host": "192.0.2.1", "port": 8775 },
            "dhcp": {
                "range": ["10.0.0.100-10.0.0.199", "fd00::100-fd00::1ff"], "lease_time": "3600s",
                "dns_servers": ["192.0.2.53"], "domain": "blue.example", "mtu": 1400,
                "routes": ["10.1.0.0/16 via 10.0.0.9"], "router": "10.0.0.254"
            },
            "ra": { "slaac": false, "interval": "10s", "lifetime": "none" },
            "floating_ip": [{ "address": "203.0.113.7", "fixed_address": "10.0.0.5", "interface": "eth0" }],
            "port_forward": [{ "protocol": "udp", "address": "203.0.113.8", "port": 1000,
                "fixed_address": "10.0.0.2".replace(".2", ".6"), "fixed_port": 1194 }]
        }));
        let gateway = gateway_from_json(&told, &network()).unwrap().unwrap();
        assert_eq!(gateway_to_json(&gateway), told);
        assert_eq!(gateway.floating_ips.len(), 1);
        assert!(gateway.has_external_router() && gateway.share_dhcp_address);
        assert!(gateway_from_json(&Map::new(), &network()).unwrap().is_none());
        let nothing = keys(json!({ "gateway": null, "dhcp": null }));
        assert!(gateway_from_json(&nothing, &network()).unwrap().is_none());
    }

    #[test]
    fn mistakes_in_json_are_shown_like_those_in_files() {
        let told = keys(json!({ "gateway": { "addresses": ["10.0.0.0/24"], "sant": true } }));
        let report = gateway_from_json(&told, &network()).unwrap_err().to_string();
        for part in [
            "10.0.0.0/24 is the range's own",
            "unknown key `sant`",
            "did you mean `snat`?",
            "--> the request:1",
        ] {
            assert!(report.contains(part), "{report}");
        }
        // Whatever a client writes is a value and no TOML.
        let told = keys(json!({ "gateway": { "addresses": ["\"]\nx = 1\u{7f}\u{0}"] }, "a b\n": 1 }));
        assert!(gateway_from_json(&told, &network()).is_err());
    }

    #[test]
    fn a_ports_machine_is_read_and_guarded() {
        let mapping = PortMapping::new(
            TapSelector::Exact(crate::model::LinkName::new("tap1").unwrap()),
            NetworkId::new("blue").unwrap(),
        );
        let told = keys(json!({
            "mac": "fa:16:3e:00:00:05", "addresses": ["10.0.0.5"], "hostname": "web-1",
            "allowed_address_pairs": [{ "ip": "10.0.0.9/32" }, { "ip": "10.9.0.0/16", "mac": "00:00:5e:00:01:07" }]
        }));
        let port = port_facts_from_json(&told, mapping.clone()).unwrap();
        assert!(port.is_guarded() && port.allowed_address_pairs.len() == 2);
        assert_eq!(port.hostname.unwrap().as_str(), "web-1");
        assert!(!mapping.is_guarded());
        let told = keys(json!({ "port_security": true }));
        assert!(port_facts_from_json(&told, mapping).is_err());
    }
}
