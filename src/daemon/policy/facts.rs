//! What hooks are given: the engine's knowledge in the words of `policy::api::Context`.

use crate::desired::segment::{UplinkWant, derive_segment};
use crate::engine::Engine;
use crate::model::{Ifindex, Link as KernelLink, Network, NetworkId, PortFlags, Segment};
use crate::observed::is_link_local;
use crate::plan::op::{ListAction, Master, Op};
use crate::policy::api::context::{
    Bridge, Current, Difference, FdbRow, HostFacts, Link, Network as NetworkFacts, NetworkType, Port, Reason,
    Uplink,
};
use crate::policy::api::{Context, Hook};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// The context of a hook about one tap. `network` overrides the mapping's (after `resolve`).
pub fn of_port(
    engine: &Engine,
    index: Ifindex,
    hook: Hook,
    network: Option<&NetworkId>,
    host: &Arc<HostFacts>,
) -> Option<Context> {
    let link = engine.observed().link(index)?;
    Some(of_link(engine, link, hook, network, host))
}

/// The same of a link that may be gone.
pub fn of_link(
    engine: &Engine,
    link: &KernelLink,
    hook: Hook,
    network: Option<&NetworkId>,
    host: &Arc<HostFacts>,
) -> Context {
    let index = link.index;
    let name = |index: Option<Ifindex>| {
        index
            .and_then(|i| engine.observed().link(i))
            .map(|l| l.name.to_string())
    };
    let mapping = engine.desired().mapping_for(&link.name);
    let known = network.and_then(|id| engine.desired().network(id));
    let flags = link.port.unwrap_or_default();
    let fdb = engine
        .tap(index)
        .map(|tap| tap.fdb.as_slice())
        .unwrap_or_default();
    Context {
        hook,
        now: now(),
        reason: Reason::Change,
        link: Some(Link {
            ifindex: index.get(),
            name: link.name.to_string(),
            mac: link.mac.map(|m| m.to_string()),
            mtu: link.mtu,
            kind: link.kind.name().to_owned(),
            alias: link.alias.as_deref().map(str::to_owned),
            operstate: Some(link.operstate.word().to_owned()),
            up: link.up,
            master: name(link.master),
        }),
        port: mapping.map(|m| Port {
            id: m.id.as_ref().map(ToString::to_string),
            mac: m.mac.map(|mac| mac.to_string()),
            addresses: m.addresses.iter().map(ToString::to_string).collect(),
            admin_state_up: m.admin_state_up,
        }),
        network: known.map(|n| Arc::new(network_facts(n))),
        uplink: known.and_then(|n| uplink(engine, n)).map(Arc::new),
        bridge: known.and_then(|n| bridge(engine, n)),
        current: Some(Current {
            mtu: Some(link.mtu),
            port: flags.words().map(|(word, on)| (word.to_owned(), on)).collect(),
            fdb: fdb
                .iter()
                .map(|mac| FdbRow {
                    mac: mac.to_string(),
                    dst: None,
                    vlan: None,
                })
                .collect(),
        }),
        host: Arc::clone(host),
        ..Context::default()
    }
}

/// What operations on a tap change, field by field in the words of the `port` verdict. What has no such word (the spoof
/// guard, VLANs) is among the operations only.
pub fn changes(
    engine: &Engine,
    index: Ifindex,
    operations: &[Op],
    by: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let Some(link) = engine.observed().link(index) else {
        return Vec::new();
    };
    let name = |index: Ifindex| engine.observed().link(index).map(|l| l.name.to_string());
    let mut rows = Vec::new();
    let mut row = |field: String, have: Option<Value>, want: Option<Value>| {
        rows.push(Difference {
            by: by.get(&field).cloned(),
            field,
            have,
            want,
        });
    };
    for operation in operations {
        match operation {
            Op::SetLink { change, .. } => {
                if let Some(master) = &change.master {
                    let want = match master {
                        Master::Set(bridge) => Some(bridge.name.to_string().into()),
                        Master::Clear => None,
                    };
                    row("master".into(), link.master.and_then(name).map(Value::from), want);
                }
                if let Some(mtu) = change.mtu {
                    row("mtu".into(), Some(link.mtu.into()), Some(mtu.get().into()));
                }
                if let Some(alias) = &change.alias {
                    let have = link.alias.as_deref().map(Value::from);
                    row("alias".into(), have, Some((**alias).into()));
                }
                if let Some(length) = change.tx_queue_len {
                    let have = Some(link.tx_queue_len.into());
                    row("tx_queue_len".into(), have, Some(length.into()));
                }
                if let Some(up) = change.up {
                    row("up".into(), Some(link.up.into()), Some(up.into()));
                }
            }
            Op::DisableIpv6 { disable, .. } => {
                let have = link.ipv6_disabled.map(Value::from);
                row("disable_ipv6".into(), have, Some((*disable).into()));
            }
            Op::SetPort { flags, .. } => {
                let known: BTreeMap<&str, bool> = link.port.iter().flat_map(PortFlags::words).collect();
                for (word, on) in flags.words() {
                    let have = known.get(word).copied().map(Value::from);
                    row(format!("port.{word}"), have, Some(on.into()));
                }
            }
            Op::Fdb { action, entry, .. } => {
                let mac = Some(Value::from(entry.mac.to_string()));
                let (have, want) = match action {
                    ListAction::Delete => (mac, None),
                    _ => (None, mac),
                };
                row(format!("fdb[{}]", entry.mac), have, want);
            }
            _ => {}
        }
    }
    rows
}

pub fn of_network(engine: &Engine, network: &Network, host: &Arc<HostFacts>) -> Context {
    Context {
        hook: Hook::Network,
        now: now(),
        network: Some(Arc::new(network_facts(network))),
        uplink: uplink(engine, network).map(Arc::new),
        bridge: bridge(engine, network),
        host: Arc::clone(host),
        ..Context::default()
    }
}

pub fn of_timer(host: &Arc<HostFacts>) -> Context {
    Context {
        hook: Hook::Tick,
        now: now(),
        host: Arc::clone(host),
        ..Context::default()
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

fn network_facts(network: &Network) -> NetworkFacts {
    NetworkFacts {
        id: network.id.to_string(),
        name: network.name.as_deref().map(str::to_owned),
        network_type: match network.segment {
            Segment::Local => NetworkType::Local,
            Segment::Flat { .. } => NetworkType::Flat,
            Segment::Vlan { .. } => NetworkType::Vlan,
            Segment::Vxlan { .. } => NetworkType::Vxlan,
        },
        segmentation_id: network.segment.segmentation_id(),
        physical_network: network.segment.physical().map(ToString::to_string),
        mtu: network.mtu.map(|m| m.get()),
        tags: std::collections::BTreeMap::new(),
    }
}

/// The link that carries the segment off the host; for VXLAN the underlay below the device.
fn uplink(engine: &Engine, network: &Network) -> Option<Uplink> {
    if matches!(network.segment, Segment::Local) {
        return None;
    }
    let want = derive_segment(engine.desired(), engine.observed(), network, None).ok()?;
    let index = match want.uplink {
        UplinkWant::None => return None,
        UplinkWant::Flat { index, .. } => index,
        UplinkWant::Vlan { parent_index, .. } => parent_index,
        UplinkWant::Trunk { index, .. } => index,
        UplinkWant::Vxlan { attributes, .. } | UplinkWant::SharedVxlan { attributes, .. } => {
            attributes.link?
        }
    };
    let link = engine.observed().link(index)?;
    let address = |v4: bool| {
        engine
            .observed()
            .addresses_of(index)
            .find(|a| a.is_ipv4() == v4 && !is_link_local(*a))
            .map(|a| a.to_string())
    };
    Some(Uplink {
        name: link.name.to_string(),
        mtu: link.mtu,
        up: link.up,
        addr4: address(true),
        addr6: address(false),
    })
}

fn bridge(engine: &Engine, network: &Network) -> Option<Bridge> {
    let link = engine
        .observed()
        .by_name(&engine.desired().bridge_name(network)?)?;
    Some(Bridge {
        name: link.name.to_string(),
        mtu: link.mtu,
        ports: u32::try_from(engine.observed().port_count(link.index)).unwrap_or(u32::MAX),
    })
}
