//! What hooks decided, in the engine's words.

use crate::desired::Desired;
use crate::desired::verdict::{Denial, NetworkVerdict, PortVerdict};
use crate::model::{
    BridgeAttributes, FdbEntry, Mac, Mtu, NeighbourEntry, Network, NetworkId, PhysicalName, PortFlags,
    Segment, Vid, Vni,
};
use crate::policy::api::context::NetworkType;
use crate::policy::api::{self, Decided, FdbKind, FdbRule, Hook, PortSettings, ResolveVerdict};
use crate::policy::shape::Setting;
use std::collections::BTreeMap;

/// `USER_HZ`: the kernel's bridge times are in hundredths of a second.
const USER_HZ: u32 = 100;

/// Adds what `port` said.
pub fn add_port(to: &mut PortVerdict, decided: &Decided<api::PortVerdict>) {
    let verdict = &decided.verdict;
    to.mtu = value(verdict.mtu.as_ref()).and_then(|mtu| Mtu::new(mtu.get()).ok());
    to.flags = verdict.port.as_ref().map(flags).unwrap_or_default();
    to.tx_queue_len = value(verdict.tx_queue_len.as_ref()).and_then(|v| u32::try_from(v.get()).ok());
    to.alias = value(verdict.alias.as_ref()).map(|alias| alias.as_str().into());
    to.fdb = verdict.fdb.iter().map(entry).collect();
    to.vlans = verdict
        .vlans
        .iter()
        .filter_map(|vid| Vid::new(vid.get()).ok())
        .collect();
    to.neighbours = verdict
        .neigh
        .iter()
        .filter_map(|n| {
            Some(NeighbourEntry {
                ip: n.ip?.0,
                mac: n.mac?.0,
            })
        })
        .collect();
    if let Some(reason) = &verdict.deny {
        to.deny = Some(denial(reason, Hook::Port, &decided.by));
    }
}

pub fn denial(reason: &str, hook: Hook, by: &BTreeMap<String, String>) -> Denial {
    let origin = by.get("deny").map_or("", String::as_str);
    // "plugin file:line"
    let (plugin, place) = origin.split_once(' ').unwrap_or((origin, "no place"));
    // What stands in for a failed answer tells hook and place itself.
    let failed = reason.starts_with(&format!("hook {}: ", hook.word()));
    Denial {
        plugin: plugin.into(),
        reason: match failed {
            true => reason.into(),
            false => format!("{reason} (hook {}, {place})", hook.word()).into(),
        },
    }
}

pub fn network(decided: &Decided<api::NetworkVerdict>) -> NetworkVerdict {
    let verdict = &decided.verdict;
    let bridge = verdict.bridge.as_ref();
    let mtu = |setting: Option<&Setting<api::decision::MtuValue>>| {
        value(setting).and_then(|m| Mtu::new(m.get()).ok())
    };
    NetworkVerdict {
        deny: None,
        mtu: bridge.and_then(|b| mtu(b.mtu.as_ref())),
        uplink_mtu: verdict.uplink.as_ref().and_then(|u| mtu(u.mtu.as_ref())),
        bridge: BridgeAttributes {
            stp: bridge.and_then(|b| b.stp).map(|s| s.value_or(false)),
            forward_delay: None,
            ageing_time: bridge
                .and_then(|b| value(b.ageing.as_ref()))
                .and_then(|s| u32::try_from(s.get()).ok())
                .map(|s| s.saturating_mul(USER_HZ)),
            multicast_snooping: bridge.and_then(|b| b.mcast_snooping).map(|s| s.value_or(true)),
            vlan_filtering: bridge.and_then(|b| b.vlan_filtering).map(|s| s.value_or(false)),
            vlan_default_pvid: None,
            link_local_learning: None,
        },
        vxlan_ttl: verdict
            .vxlan
            .as_ref()
            .and_then(|v| value(v.ttl.as_ref()))
            .and_then(|v| u8::try_from(v.get()).ok()),
        vxlan_tos: verdict
            .vxlan
            .as_ref()
            .and_then(|v| value(v.tos.as_ref()))
            .and_then(|v| u8::try_from(v.get()).ok()),
        vxlan_learning: verdict
            .vxlan
            .as_ref()
            .and_then(|v| v.learning)
            .map(|s| s.value_or(true)),
        flood: verdict.fdb.iter().map(entry).collect(),
    }
}

/// The network that `resolve` means; one described on the spot that nobody has told of is made up.
pub fn resolved(desired: &Desired, verdict: &ResolveVerdict) -> Result<Option<Resolved>, String> {
    if let Some(text) = &verdict.network {
        if let Some(network) = NetworkId::new(text).ok().and_then(|id| desired.network(&id)) {
            return Ok(Some(Resolved::Known(network.id.clone())));
        }
        let mut named = desired.networks().filter(|n| n.name.as_deref() == Some(text));
        return match (named.next(), named.next()) {
            (Some(network), None) => Ok(Some(Resolved::Known(network.id.clone()))),
            (Some(_), Some(_)) => Err(format!("more than one network is named {text:?}")),
            // Told later, perhaps: the tap waits for it like any other.
            (None, _) => Ok(NetworkId::new(text).ok().map(Resolved::Known)),
        };
    }
    let Some(kind) = verdict.network_type else {
        return Ok(None);
    };
    let id = verdict.segmentation_id.map(|id| id.get());
    let physical = || {
        let name = verdict.physical_network.as_deref().unwrap_or_default();
        PhysicalName::new(name).map_err(|e| e.to_string())
    };
    let segment = match kind {
        NetworkType::Local => Segment::Local,
        NetworkType::Flat => Segment::Flat {
            physical: physical()?,
        },
        NetworkType::Vlan => Segment::Vlan {
            physical: physical()?,
            vid: Vid::new(id.unwrap_or_default()).map_err(|e| e.to_string())?,
        },
        NetworkType::Vxlan => Segment::Vxlan {
            vni: Vni::new(id.unwrap_or_default()).map_err(|e| e.to_string())?,
        },
    };
    if segment != Segment::Local
        && let Some(known) = desired.networks().find(|n| n.segment == segment)
    {
        return Ok(Some(Resolved::Known(known.id.clone())));
    }
    let name = match (&segment, verdict.physical_network.as_deref(), id) {
        (Segment::Local, ..) => "local".to_owned(),
        (Segment::Flat { .. }, Some(physical), _) => format!("flat-{physical}"),
        (Segment::Vlan { .. }, Some(physical), Some(id)) => format!("v{id}-{physical}"),
        (_, _, Some(id)) => format!("vx{id}"),
        _ => return Err("the network described is not complete".to_owned()),
    };
    let id = NetworkId::new(&name).map_err(|e| e.to_string())?;
    match desired.network(&id) {
        Some(known) if known.segment != segment => Err(format!("network {id} exists and is another segment")),
        Some(_) => Ok(Some(Resolved::Known(id))),
        None => Ok(Some(Resolved::New(Box::new(Network::new(id, segment))))),
    }
}

pub enum Resolved {
    Known(NetworkId),
    New(Box<Network>),
}

fn value<T>(setting: Option<&Setting<T>>) -> Option<&T> {
    match setting {
        Some(Setting::Value(value)) => Some(value),
        Some(Setting::Unset(_)) | None => None,
    }
}

fn flags(settings: &PortSettings) -> PortFlags {
    let pick = |setting: Option<Setting<bool>>, default: Option<bool>| {
        setting.map(|s| s.value_or(default.unwrap_or_default()))
    };
    PortFlags {
        learning: pick(settings.learning, PortFlags::NEW_PORT.learning),
        isolated: pick(settings.isolated, PortFlags::NEW_PORT.isolated),
        hairpin: pick(settings.hairpin, PortFlags::NEW_PORT.hairpin),
        guard: pick(settings.guard, PortFlags::NEW_PORT.guard),
        neigh_suppress: pick(settings.neigh_suppress, PortFlags::NEW_PORT.neigh_suppress),
        flood: pick(settings.flood, PortFlags::NEW_PORT.flood),
        mcast_flood: pick(settings.mcast_flood, PortFlags::NEW_PORT.mcast_flood),
        bcast_flood: pick(settings.bcast_flood, PortFlags::NEW_PORT.bcast_flood),
        vlan_tunnel: None,
    }
}

fn entry(rule: &FdbRule) -> FdbEntry {
    let dst = match rule.kind() {
        FdbKind::Static => None,
        FdbKind::Unicast | FdbKind::Flood => rule.dst.map(|dst| dst.0),
    };
    let mac: Mac = rule.mac().0;
    FdbEntry { mac, dst }
}
