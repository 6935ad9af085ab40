//! What a hook may return, and what the plugins decided together.

use crate::policy::api::Hook;
use crate::policy::shape::{
    Decode, IpText, MacText, Misshapen, OneOrMany, Setting, Whole, verdict_record, words,
};
use serde::Serialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Bytes; 68 is IPv4's minimum, 65535 the largest an Ethernet-like link takes.
pub type MtuValue = Whole<68, 65535>;
pub type VlanId = Whole<1, 4094>;

words! {
    /// Where a forwarding entry lives.
    pub enum FdbKind {
        /// On the VXLAN device: frames to `mac` go to `dst`.
        Unicast = "unicast",
        /// On the VXLAN device: broadcast, multicast and unknown frames also go to `dst`.
        Flood = "flood",
        /// On the tap as bridge port (`bridge fdb add MAC dev TAP master static`).
        Static = "static",
    }
}

verdict_record! {
    /// One forwarding entry.
    pub struct FdbRule {
        /// Hardware address; may be left out of a flood entry.
        pub mac: Option<MacText>,
        /// Remote VTEP; needed by unicast and flood entries.
        pub dst: Option<IpText>,
        /// VLAN id: tells entries apart. The kernel's entry is in every VLAN of the port.
        pub vlan: Option<VlanId>,
        /// Default: "static" without `dst`, else "unicast", or "flood" for the all-zero address.
        pub kind: Option<FdbKind>,
    }
}

impl FdbRule {
    /// The kind, said or implied.
    pub fn kind(&self) -> FdbKind {
        match (self.kind, self.dst, self.mac) {
            (Some(kind), ..) => kind,
            (None, None, _) => FdbKind::Static,
            (None, Some(_), Some(mac)) if !mac.0.is_zero() => FdbKind::Unicast,
            (None, Some(_), _) => FdbKind::Flood,
        }
    }
    /// The address; all-zero for a flood entry.
    pub fn mac(&self) -> MacText {
        self.mac.unwrap_or(MacText(crate::model::Mac::ZERO))
    }
    fn check(&self) -> Result<(), Misshapen> {
        let zero = self.mac().0.is_zero();
        let problem = match self.kind() {
            FdbKind::Static if self.dst.is_some() => "a static entry sits on the tap and has no `dst`",
            FdbKind::Static if zero => "a static entry needs a `mac`",
            FdbKind::Unicast if self.dst.is_none() => "a unicast entry needs `dst`, the remote VTEP",
            FdbKind::Unicast if zero => "a unicast entry needs a `mac`; all-zero is a flood entry",
            FdbKind::Flood if self.dst.is_none() => "a flood entry needs `dst`, the remote VTEP",
            FdbKind::Flood if !zero => "a flood entry has the all-zero `mac`, or none",
            FdbKind::Static | FdbKind::Unicast if self.mac().0.is_multicast() => {
                "a multicast address is never a station's own"
            }
            _ => return Ok(()),
        };
        Err(Misshapen::new(problem))
    }
}

verdict_record! {
    /// One permanent neighbour behind a VXLAN device (the kernel's ARP responder).
    pub struct NeighbourRule {
        /// IP address.
        pub ip: Option<IpText>,
        /// Its hardware address.
        pub mac: Option<MacText>,
    }
}

verdict_record! {
    /// Bridge-port flags of a tap, named as iproute2 does.
    pub struct PortSettings {
        /// Learn source addresses.
        pub learning: Option<Setting<bool>>,
        /// Talk to non-isolated ports only.
        pub isolated: Option<Setting<bool>>,
        /// Send frames back out of the port they came in by.
        pub hairpin: Option<Setting<bool>>,
        /// BPDU guard.
        pub guard: Option<Setting<bool>>,
        /// Suppress ARP and ND that the bridge can answer itself.
        pub neigh_suppress: Option<Setting<bool>>,
        /// Send unknown unicast to it.
        pub flood: Option<Setting<bool>>,
        /// Send unknown multicast to it.
        pub mcast_flood: Option<Setting<bool>>,
        /// Send broadcast to it.
        pub bcast_flood: Option<Setting<bool>>,
    }
}

verdict_record! {
    /// What `port` returns.
    pub struct PortVerdict {
        /// MTU of the tap in bytes.
        pub mtu: Option<Setting<MtuValue>>,
        /// Bridge-port flags.
        pub port: Option<PortSettings>,
        /// Forwarding entries.
        pub fdb: Vec<FdbRule>,
        /// Permanent neighbours on the VXLAN device.
        pub neigh: Vec<NeighbourRule>,
        /// VLAN ids that it carries tagged beside its own: those of networks on the VLAN-aware bridge.
        pub vlans: Vec<VlanId>,
        /// Length of the transmit queue in packets.
        pub tx_queue_len: Option<Setting<Whole<0, 1000000>>>,
        /// `ifalias` of the tap.
        pub alias: Option<Setting<String>>,
        /// Words for later plugins and for `explain`.
        pub tags: BTreeMap<String, String>,
        /// Refuse the tap, with a reason for people.
        pub deny: Option<String>,
        /// Decide later: ask again after so many seconds.
        pub defer: Option<Whole<1, 3600>>,
    }
}

verdict_record! {
    /// Bridge options of a network.
    pub struct BridgeSettings {
        /// MTU in bytes.
        pub mtu: Option<Setting<MtuValue>>,
        /// Seconds until a learned address is forgotten.
        pub ageing: Option<Setting<Whole<0, 1000000>>>,
        /// Spanning tree.
        pub stp: Option<Setting<bool>>,
        /// IGMP and MLD snooping.
        pub mcast_snooping: Option<Setting<bool>>,
        /// VLAN filtering.
        pub vlan_filtering: Option<Setting<bool>>,
    }
}

verdict_record! {
    /// Options of the link that carries the segment off the host.
    pub struct UplinkSettings {
        /// MTU in bytes.
        pub mtu: Option<Setting<MtuValue>>,
    }
}

verdict_record! {
    /// Options of the network's VXLAN device.
    pub struct VxlanSettings {
        /// Time to live of the outer packets; 0: the kernel's default.
        pub ttl: Option<Setting<Whole<0, 255>>>,
        /// Type of service of the outer packets.
        pub tos: Option<Setting<Whole<0, 255>>>,
        /// Learn remote addresses from traffic.
        pub learning: Option<Setting<bool>>,
    }
}

verdict_record! {
    /// What `network` returns.
    pub struct NetworkVerdict {
        /// Bridge options.
        pub bridge: Option<BridgeSettings>,
        /// Uplink options.
        pub uplink: Option<UplinkSettings>,
        /// Options of the VXLAN device.
        pub vxlan: Option<VxlanSettings>,
        /// Forwarding entries of the VXLAN device (flood and unicast).
        pub fdb: Vec<FdbRule>,
        /// Words for later plugins, for `explain`, and for `ctx.network.tags` of the ports.
        pub tags: BTreeMap<String, String>,
    }
}

verdict_record! {
    /// What `resolve` returns: an existing network's id, a network described on the spot, or `ignore`.
    pub struct ResolveVerdict {
        /// Id or name of a configured network.
        pub network: Option<String>,
        /// A network described on the spot: its type ...
        pub network_type: Option<super::context::NetworkType>,
        /// ... its VLAN id or VNI ...
        pub segmentation_id: Option<Whole<1, 16777215>>,
        /// ... and its physical network (flat and vlan).
        pub physical_network: Option<String>,
        /// Leave the tap alone.
        pub ignore: Option<bool>,
    }
}

verdict_record! {
    /// What `admit` returns.
    pub struct AdmitVerdict {
        /// Refuse, with a reason for people.
        pub deny: Option<String>,
        /// Ask again after so many seconds.
        pub defer: Option<Whole<1, 3600>>,
    }
}

verdict_record! {
    /// What shall be asked again.
    pub struct Invalidation {
        /// Names or patterns of taps.
        pub taps: OneOrMany<String>,
        /// Ids or names of networks.
        pub networks: OneOrMany<String>,
    }
}

verdict_record! {
    /// What `observe` and `tick` return.
    pub struct ObserveVerdict {
        /// Taps and networks to ask about again.
        pub invalidate: Option<Invalidation>,
    }
}

/// A verdict with the origin of each of its fields.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Decided<V> {
    #[serde(flatten)]
    pub verdict: V,
    /// Field path ("mtu", "port.learning", `fdb[fa:16:3e:00:00:05]`) -> "plugin file:line".
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by: BTreeMap<String, String>,
}

/// What the plugins decided together, by hook. `attached`, `detached` and `drift` decide nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Decision {
    Resolve(Decided<ResolveVerdict>),
    Network(Decided<NetworkVerdict>),
    Port(Decided<PortVerdict>),
    Admit(Decided<AdmitVerdict>),
    Observe(Decided<ObserveVerdict>),
    Nothing,
}

impl Decision {
    /// "No opinion", in the form that belongs to the hook.
    pub fn none(hook: Hook) -> Self {
        match hook {
            Hook::Resolve => Decision::Resolve(Decided::default()),
            Hook::Network => Decision::Network(Decided::default()),
            Hook::Port => Decision::Port(Decided::default()),
            Hook::Admit => Decision::Admit(Decided::default()),
            Hook::Observe | Hook::Tick => Decision::Observe(Decided::default()),
            Hook::Attached | Hook::Detached | Hook::Drift | Hook::Lease => Decision::Nothing,
        }
    }
}

/// One plugin's answer, decoded but not yet merged.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Resolve(ResolveVerdict),
    Network(NetworkVerdict),
    Port(PortVerdict),
    Admit(AdmitVerdict),
    Observe(ObserveVerdict),
}

/// What `attached` and the like may return: nothing.
const WATCHING_ONLY: &str = "this hook decides nothing; it must return nil";

impl Verdict {
    /// Decodes strictly what `hook` returned (never nil).
    pub fn decode(hook: Hook, value: Json) -> Result<Self, Misshapen> {
        match hook {
            Hook::Resolve => {
                let verdict = ResolveVerdict::decode(value)?;
                check_resolve(&verdict)?;
                Ok(Verdict::Resolve(verdict))
            }
            Hook::Network => {
                elsewhere(&value, NetworkVerdict::FIELDS, PortVerdict::FIELDS, Hook::Port)?;
                let verdict = NetworkVerdict::decode(value)?;
                for (i, rule) in verdict.fdb.iter().enumerate() {
                    let checked = match rule.kind() {
                        FdbKind::Static => Err(Misshapen::new(
                            "a static entry belongs to `port`; here `dst` is needed",
                        )),
                        _ => rule.check(),
                    };
                    checked.map_err(|e| e.inside(format_args!("fdb[{}]", i + 1)))?;
                }
                Ok(Verdict::Network(verdict))
            }
            Hook::Port => {
                if let Json::Object(map) = &value
                    && let Some(flag) = map.keys().find(|k| PortSettings::FIELDS.contains(&k.as_str()))
                {
                    let problem =
                        format!("unknown field `{flag}`; port flags are written port = {{ {flag} = ... }}");
                    return Err(Misshapen::new(problem));
                }
                elsewhere(&value, PortVerdict::FIELDS, NetworkVerdict::FIELDS, Hook::Network)?;
                let verdict = PortVerdict::decode(value)?;
                check_port(&verdict)?;
                Ok(Verdict::Port(verdict))
            }
            Hook::Admit => {
                let verdict = AdmitVerdict::decode(value)?;
                check_reason(verdict.deny.as_deref())?;
                Ok(Verdict::Admit(verdict))
            }
            Hook::Observe | Hook::Tick => ObserveVerdict::decode(value).map(Verdict::Observe),
            Hook::Attached | Hook::Detached | Hook::Drift | Hook::Lease => Err(Misshapen::new(WATCHING_ONLY)),
        }
    }
}

/// A field that `other` decides and this hook does not.
fn elsewhere(value: &Json, own: &[&str], others: &[&str], other: Hook) -> Result<(), Misshapen> {
    let misplaced = |key: &&String| !own.contains(&key.as_str()) && others.contains(&key.as_str());
    match value.as_object().and_then(|map| map.keys().find(misplaced)) {
        Some(key) => Err(Misshapen::new(format!(
            "unknown field `{key}`; it is decided by the hook `{other}`"
        ))),
        None => Ok(()),
    }
}

/// The kernel's limit for `IFLA_IFALIAS` (IFALIASZ with the terminating zero).
const MAX_ALIAS: usize = 255;
const MAX_REASON: usize = 256;

fn check_port(verdict: &PortVerdict) -> Result<(), Misshapen> {
    for (i, rule) in verdict.fdb.iter().enumerate() {
        rule.check()
            .map_err(|e| e.inside(format_args!("fdb[{}]", i + 1)))?;
    }
    for (i, rule) in verdict.neigh.iter().enumerate() {
        if rule.ip.is_none() || rule.mac.is_none() {
            let problem = "a neighbour needs `ip` and `mac`";
            return Err(Misshapen::new(problem).inside(format_args!("neigh[{}]", i + 1)));
        }
    }
    if let Some(Setting::Value(alias)) = &verdict.alias
        && (alias.len() > MAX_ALIAS || alias.chars().any(char::is_control))
    {
        let problem = format!("at most {MAX_ALIAS} bytes without control characters");
        return Err(Misshapen::new(problem).inside("alias"));
    }
    check_reason(verdict.deny.as_deref())
}

fn check_reason(reason: Option<&str>) -> Result<(), Misshapen> {
    let problem = match reason {
        Some(reason) if reason.trim().is_empty() => {
            "say why, for who asks why the tap is not attached".to_owned()
        }
        Some(reason) if reason.len() > MAX_REASON => format!("at most {MAX_REASON} bytes"),
        _ => return Ok(()),
    };
    Err(Misshapen::new(problem).inside("deny"))
}

fn check_resolve(verdict: &ResolveVerdict) -> Result<(), Misshapen> {
    use super::context::NetworkType;
    let inline = verdict.network_type.is_some()
        || verdict.segmentation_id.is_some()
        || verdict.physical_network.is_some();
    let ways = [verdict.network.is_some(), inline, verdict.ignore == Some(true)];
    if ways.iter().filter(|said| **said).count() > 1 {
        return Err(Misshapen::new(
            "say `network`, or `network_type` and its companions, or `ignore`: one of them",
        ));
    }
    let id = verdict.segmentation_id.map(Whole::get);
    let problem = match verdict.network_type {
        None if inline => "`network_type` is missing",
        Some(NetworkType::Vlan) if id.is_none_or(|id| id > 4094) => "vlan needs a `segmentation_id` 1..4094",
        Some(NetworkType::Vxlan) if id.is_none() => "vxlan needs a `segmentation_id`",
        Some(NetworkType::Local | NetworkType::Flat) if id.is_some() => {
            "local and flat have no `segmentation_id`"
        }
        Some(NetworkType::Vlan | NetworkType::Flat) if verdict.physical_network.is_none() => {
            "`physical_network` is missing"
        }
        Some(NetworkType::Local | NetworkType::Vxlan) if verdict.physical_network.is_some() => {
            "local and vxlan have no `physical_network`"
        }
        _ => return Ok(()),
    };
    Err(Misshapen::new(problem))
}
