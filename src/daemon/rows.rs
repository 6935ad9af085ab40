//! The engine's state in the control socket's words.

use crate::control::api::{LeaseRow, NetworkRow, PortRow, PortState as Word, ServerRow};
use crate::desired::guard::Entry;
use crate::engine::Engine;
use crate::engine::service::ServiceState;
use crate::engine::state::{GatewayState, PortState, SegmentState, Tap};
use crate::model::{Ifindex, Link, LinkName, Network};
use crate::plan::op::{GuardTable, ListAction, Master, Op};
use crate::service::Held;

pub fn port_word(state: &PortState) -> Word {
    match state {
        PortState::Pending { .. } => Word::Pending,
        PortState::Configuring => Word::Configuring,
        PortState::Attached => Word::Attached,
        PortState::Failed { .. } => Word::Failed,
        PortState::Conflict { .. } => Word::Conflict,
        PortState::Denied { .. } => Word::Denied,
    }
}

pub fn port(engine: &Engine, index: Ifindex, tap: &Tap) -> PortRow {
    let link = engine.observed().link(index);
    let reason = match &tap.remark {
        Some(remark) => Some(remark.to_string()),
        None => Some(tap.state.to_string()).filter(|text| !text.is_empty()),
    };
    let mapping = engine.desired().mapping_for(&tap.name);
    PortRow {
        tap: tap.name.to_string(),
        ifindex: index.get(),
        port: mapping.and_then(|m| m.id.as_ref()).map(ToString::to_string),
        network: tap.intent.network().map(ToString::to_string),
        bridge: link
            .and_then(|l| l.master)
            .and_then(|m| engine.observed().link(m))
            .map(|l| l.name.to_string()),
        state: port_word(&tap.state),
        reason,
        mtu: link.map_or(0, |l| l.mtu),
        attach_us: tap.attach_us,
    }
}

pub fn unmanaged(engine: &Engine, link: &Link) -> PortRow {
    let bridge = link
        .master
        .and_then(|m| engine.observed().link(m))
        .map(|l| l.name.to_string());
    PortRow {
        tap: link.name.to_string(),
        ifindex: link.index.get(),
        port: None,
        network: None,
        bridge,
        state: Word::Unmanaged,
        reason: Some("its name matches nothing in taps.match".to_owned()),
        mtu: link.mtu,
        attach_us: None,
    }
}

/// A managed tap, or an unmanaged link of a tap's kind.
pub fn port_by_name(engine: &Engine, name: &LinkName) -> Option<PortRow> {
    let link = engine.observed().by_name(name)?;
    match engine.tap(link.index) {
        Some(tap) => Some(port(engine, link.index, tap)),
        None => engine
            .unmanaged()
            .find(|l| l.index == link.index)
            .map(|l| unmanaged(engine, l)),
    }
}

pub fn network(engine: &Engine, network: &Network) -> NetworkRow {
    let (state, reason) = network_state(engine, network);
    let segment = engine.segment(&network.id);
    let name_of = |index: Option<Ifindex>| {
        index
            .and_then(|i| engine.observed().link(i))
            .map(|l| l.name.to_string())
    };
    let attached = segment.into_iter().flat_map(|s| &s.users).filter(|index| {
        engine
            .tap(**index)
            .is_some_and(|tap| tap.state == PortState::Attached)
    });
    NetworkRow {
        id: network.id.to_string(),
        name: network.name.as_deref().map(str::to_owned),
        network_type: network.segment.network_type().to_owned(),
        segmentation_id: network.segment.segmentation_id(),
        physical_network: network.segment.physical().map(ToString::to_string),
        bridge: name_of(segment.and_then(|s| s.bridge))
            .or_else(|| engine.desired().bridge_name(network).map(|n| n.to_string())),
        vid: engine.vid_of(&network.id).map(|vid| vid.get()),
        uplink: name_of(segment.and_then(|s| s.uplink)),
        mtu: segment.and_then(|s| s.mtu).or(network.mtu).map(|m| m.get()),
        ports: attached.count() as u64,
        state: state.to_owned(),
        reason: Some(reason).filter(|text| !text.is_empty()),
    }
}

/// How a network is and why: its segment first, for nothing of the rest is there without it, then its gateway, then DHCP
/// and DNS, which only say that they wait: taps and addresses are there.
fn network_state(engine: &Engine, network: &Network) -> (&'static str, String) {
    let segment = engine.network_state(network);
    match (&segment, engine.gateway_state(&network.id)) {
        (SegmentState::Ready, Some(GatewayState::Ready) | None) => {}
        (SegmentState::Ready, Some(gateway)) => return (gateway.word(), format!("gateway: {gateway}")),
        (SegmentState::Configuring, _) => return ("pending", segment.to_string()),
        (other, _) => return (other.word(), other.to_string()),
    }
    match engine.service_state(&network.id) {
        Some(service @ ServiceState::Failed { .. }) => (service.word(), service.to_string()),
        Some(service) => (segment.word(), service.to_string()),
        None => (segment.word(), String::new()),
    }
}

pub fn server(state: &ServiceState) -> ServerRow {
    ServerRow {
        state: state.word().to_owned(),
        pid: match state {
            ServiceState::Running { pid } => Some(*pid),
            _ => None,
        },
        reason: Some(state.to_string()).filter(|text| !text.is_empty()),
    }
}

/// `now`: seconds since 1970.
pub fn lease(lease: &Held, now: u64) -> LeaseRow {
    LeaseRow {
        address: lease.address.to_string(),
        mac: lease.mac.map(|mac| mac.to_string()),
        hostname: lease.hostname.clone(),
        expires_in_s: lease.expires.map(|at| at.saturating_sub(now)),
    }
}

/// An operation's parts, for programs; the line beside it is for people.
pub fn op_args(op: &Op) -> serde_json::Value {
    use serde_json::json;
    match op {
        Op::CreateBridge { name, mac, mtu, .. } => {
            json!({"link": name.to_string(), "mac": mac.to_string(), "mtu": mtu.map(|m| m.get())})
        }
        Op::CreateVlan {
            name,
            parent,
            vid,
            mtu,
        } => {
            json!({"link": name.to_string(), "parent": parent.name.to_string(), "vid": vid.get(), "mtu": mtu.map(|m| m.get())})
        }
        Op::CreateVxlan {
            name,
            mtu,
            attributes,
        } => json!({
            "link": name.to_string(),
            "vni": attributes.vni,
            "local": attributes.local.map(|a| a.to_string()),
            "group": attributes.group.map(|a| a.to_string()),
            "dstport": attributes.dstport,
            "mtu": mtu.map(|m| m.get()),
        }),
        Op::SetLink { link, change } => json!({
            "link": link.name.to_string(),
            "mtu": change.mtu.map(|m| m.get()),
            "mac": change.mac.map(|m| m.to_string()),
            "alias": change.alias,
            "tx_queue_len": change.tx_queue_len,
            "master": match change.master {
                Some(Master::Set(bridge)) => Some(bridge.name.to_string()),
                Some(Master::Clear) => Some(String::new()),
                None => None,
            },
            "up": change.up,
        }),
        Op::SetBridge { link, .. } | Op::SetVxlan { link, .. } | Op::DeleteLink { link } => {
            json!({"link": link.name.to_string()})
        }
        Op::SetPort { link, flags } => {
            let flags: serde_json::Map<_, _> = flags
                .words()
                .map(|(word, on)| (word.to_owned(), json!(on)))
                .collect();
            json!({"link": link.name.to_string(), "flags": flags})
        }
        Op::DisableIpv6 { link, disable } => json!({"link": link.name.to_string(), "disable": disable}),
        Op::Fdb { link, entry, .. } => {
            json!({"link": link.name.to_string(), "mac": entry.mac.to_string(), "dst": entry.dst.map(|d| d.to_string())})
        }
        Op::Vlan { action, link, row } => json!({
            "link": link.name.to_string(),
            "vid": row.vid.get(),
            "present": *action != ListAction::Delete,
            "pvid": row.pvid,
            "untagged": row.untagged,
            "vni": row.vni.map(|vni| vni.get()),
        }),
        Op::Vni { action, link, row } => json!({
            "link": link.name.to_string(),
            "vni": row.vni.get(),
            "present": *action != ListAction::Delete,
            "group": row.group.map(|group| group.to_string()),
        }),
        Op::Neighbour { link, entry, .. } => {
            json!({"link": link.name.to_string(), "ip": entry.ip.to_string(), "mac": entry.mac.to_string()})
        }
        Op::Address { link, .. } => json!({"link": link.name.to_string()}),
        Op::Readdress { link, steps } => json!({
            "link": link.name.to_string(),
            "steps": steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
        Op::Route { record, .. } => json!({"table": record.table, "family": record.family}),
        Op::Guard { link, gone, new } => {
            let texts = |entries: &[Entry]| {
                let texts = entries
                    .iter()
                    .map(|entry| entry.to_string().trim_start_matches([' ', '.', ':']).to_owned());
                texts.collect::<Vec<_>>()
            };
            json!({"link": link.name.to_string(), "gone": texts(gone), "new": texts(new)})
        }
        Op::GuardTable(change) => {
            let (what, ports) = match change {
                GuardTable::Make(ports) => ("make", ports.len()),
                GuardTable::Remove => ("remove", 0),
                GuardTable::Sweep(ports) => ("sweep", ports.len()),
            };
            json!({"table": "bridge tapwire", "what": what, "ports": ports})
        }
        Op::Ruleset(ruleset) => json!({"rules": ruleset.rules(), "script": ruleset.script()}),
        Op::Sysctls(sysctls) => {
            let each = sysctls.iter().map(|s| (s.setting.to_string(), json!(s.value)));
            json!({"sysctls": each.collect::<serde_json::Map<_, _>>()})
        }
        Op::Announce { link, address } => {
            json!({"link": link.name.to_string(), "address": address.to_string()})
        }
    }
}
