//! What a hook is given: `ctx`, a read-only table. Fields are only ever added within one API version.

use crate::policy::api::Hook;
use crate::policy::shape::{Shaped, did_you_mean, record, words};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

words! {
    /// Why a hook is asked.
    pub enum Reason {
        New = "new",
        Change = "change",
        Resync = "resync",
        Reload = "reload",
        Invalidate = "invalidate",
    }
}

/// `ctx`. Absent parts are unknown at that moment or do not apply to the hook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Context {
    pub api: u32,
    pub hook: Hook,
    pub r#gen: u64,
    pub now: f64,
    pub seq: u64,
    pub reason: Reason,
    pub link: Option<Link>,
    pub port: Option<Port>,
    pub network: Option<Arc<Network>>,
    pub uplink: Option<Arc<Uplink>>,
    pub bridge: Option<Bridge>,
    pub current: Option<Current>,
    pub host: Arc<HostFacts>,
    pub tags: BTreeMap<String, String>,
    pub plan: Option<Plan>,
    pub result: Option<AttachResult>,
    pub lease: Option<Lease>,
    pub diff: Vec<Difference>,
}

impl Context {
    /// From JSON, as files and tests have it. `also`: names that may stand beside the parts, for hints.
    pub fn read(value: serde_json::Value, also: &[&str]) -> Result<Self, String> {
        if !value.is_object() {
            return Err(
                "a context is an object with the parts of ctx: {\"hook\": \"port\", \"link\": {...}}"
                    .to_owned(),
            );
        }
        serde_json::from_value(value).map_err(|error| with_hint(&error.to_string(), also))
    }
}

/// serde's "unknown field `nme`, expected one of `name`, ..." with what was meant, if that can be told.
fn with_hint(message: &str, also: &[&str]) -> String {
    let Some((problem, list)) = message.split_once(", expected one of ") else {
        return message.to_owned();
    };
    let word = problem.split('`').nth(1).unwrap_or_default();
    let known: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let problem = problem.replace("unknown variant", "unknown word");
    match did_you_mean(word, known.iter().chain(also).copied()) {
        hint if hint.is_empty() => format!("{problem}, known are: {}", known.join(", ")),
        hint => format!("{problem}{hint}"),
    }
}

impl Default for Context {
    fn default() -> Self {
        Self {
            api: super::API,
            hook: Hook::Port,
            r#gen: 0,
            now: 0.0,
            seq: 0,
            reason: Reason::New,
            link: None,
            port: None,
            network: None,
            uplink: None,
            bridge: None,
            current: None,
            host: Arc::default(),
            tags: BTreeMap::new(),
            plan: None,
            result: None,
            lease: None,
            diff: Vec::new(),
        }
    }
}

words! {
    /// The parts of `ctx` that `reads` can name.
    pub enum Part {
        /// The link (the tap).
        Link = "link",
        /// What the mapping says of the port.
        Port = "port",
        /// The network, when known.
        Network = "network",
        /// The link that carries the segment off the host.
        Uplink = "uplink",
        /// The network's bridge, when it stands.
        Bridge = "bridge",
        /// What the tap has now.
        Current = "current",
        /// Facts about this host.
        Host = "host",
        /// Tags that earlier plugins of the chain decided.
        Tags = "tags",
        /// What is about to be done.
        Plan = "plan",
        /// How it ended.
        Result = "result",
        /// What happened to a lease.
        Lease = "lease",
        /// What differs.
        Diff = "diff",
        /// Unix time in seconds, when the question was asked.
        Now = "now",
        /// Number of the question.
        Seq = "seq",
        /// Generation of the policy.
        Gen = "gen",
        /// Why the question is asked.
        Reason = "reason",
    }
}

impl Part {
    /// Changes from question to question: an answer that depends on it can't be remembered.
    pub const fn is_volatile(self) -> bool {
        matches!(
            self,
            Part::Tags | Part::Now | Part::Seq | Part::Gen | Part::Reason
        )
    }
}

record! {
    /// A link as the kernel describes it.
    pub struct Link {
        /// Kernel interface index.
        pub ifindex: u32,
        /// Interface name.
        pub name: String,
        /// Hardware address, "fa:16:3e:00:00:05".
        pub mac: Option<String>,
        /// MTU in bytes.
        pub mtu: u32,
        /// "tap", "tun", "veth", "bridge" ...; empty for a physical device.
        pub kind: String,
        /// `ifalias`.
        pub alias: Option<String>,
        /// "up", "down", "lowerlayerdown", "unknown" ...
        pub operstate: Option<String>,
        /// Administratively up.
        pub up: bool,
        /// Name of the bridge (or bond, VRF ...) it is a port of.
        pub master: Option<String>,
    }
}

record! {
    /// What the mapping says of a port.
    pub struct Port {
        /// Port id, usually Neutron's UUID.
        pub id: Option<String>,
        /// The address the virtual machine uses, when the mapping says it.
        pub mac: Option<String>,
        /// IP addresses the virtual machine uses, when the mapping says them.
        pub addresses: Vec<String>,
        /// False: the port is to stay down.
        pub admin_state_up: bool,
    }
}

words! {
    /// How a network's frames leave the host.
    pub enum NetworkType {
        Local = "local",
        Flat = "flat",
        Vlan = "vlan",
        Vxlan = "vxlan",
    }
}

record! {
    /// The network a tap belongs to.
    pub struct Network {
        /// Network id.
        pub id: String,
        /// Name for people.
        pub name: Option<String>,
        /// "local", "flat", "vlan" or "vxlan".
        pub network_type: NetworkType,
        /// VLAN id or VNI.
        pub segmentation_id: Option<u32>,
        /// Name of the physical network (flat and vlan).
        pub physical_network: Option<String>,
        /// MTU from the configuration.
        pub mtu: Option<u32>,
        /// Tags from the configuration and from `network` hooks.
        pub tags: BTreeMap<String, String>,
    }
}

record! {
    /// The link that carries a segment off the host (for vxlan: the underlay below the VXLAN device).
    pub struct Uplink {
        /// Interface name.
        pub name: String,
        /// MTU in bytes.
        pub mtu: u32,
        /// Administratively up.
        pub up: bool,
        /// First IPv4 address with prefix length.
        pub addr4: Option<String>,
        /// First IPv6 address with prefix length.
        pub addr6: Option<String>,
    }
}

record! {
    /// The network's bridge.
    pub struct Bridge {
        /// Interface name.
        pub name: String,
        /// MTU in bytes.
        pub mtu: u32,
        /// Number of ports.
        pub ports: u32,
    }
}

record! {
    /// What a tap has at the moment.
    pub struct Current {
        /// MTU in bytes.
        pub mtu: Option<u32>,
        /// Bridge-port flags by name.
        pub port: BTreeMap<String, bool>,
        /// Forwarding entries of tapwire on it.
        pub fdb: Vec<FdbRow>,
    }
}

record! {
    /// A forwarding entry as it is.
    pub struct FdbRow {
        /// Hardware address.
        pub mac: String,
        /// Remote VTEP.
        pub dst: Option<String>,
        /// VLAN id.
        pub vlan: Option<u32>,
    }
}

record! {
    /// Facts about this host.
    pub struct HostFacts {
        /// Host name.
        pub name: String,
        /// Labels from the configuration.
        pub labels: BTreeMap<String, String>,
    }
}

record! {
    /// What is about to be done (`admit`).
    pub struct Plan {
        /// Differences that will be applied.
        pub changes: Vec<Difference>,
        /// Operations, one iproute2-like line each.
        pub operations: Vec<String>,
    }
}

record! {
    /// One difference between what is and what shall be.
    pub struct Difference {
        /// "mtu", "port.learning" ...
        pub field: String,
        /// What is; absent: nothing.
        pub have: Option<serde_json::Value>,
        /// What shall be; absent: nothing.
        pub want: Option<serde_json::Value>,
        /// Which plugin wants it ("mtu plugins/mtu.lua:14"); absent: the configuration.
        pub by: Option<String>,
    }
}

record! {
    /// How an attach ended (`attached`).
    pub struct AttachResult {
        /// "attached", "failed" ...
        pub state: String,
        /// The kernel's words.
        pub error: Option<String>,
        /// From the kernel's announcement to the last acknowledgement.
        pub elapsed_us: u64,
    }
}

record! {
    /// What happened to a lease (`lease`).
    pub struct Lease {
        /// "added", "changed" or "ended".
        pub what: String,
        /// IPv4 or IPv6 address.
        pub address: String,
        /// The client's MAC address; DHCPv6 does not always show it.
        pub mac: Option<String>,
        /// The client's name in DNS.
        pub hostname: Option<String>,
        /// Seconds that are left; absent: for ever, or ended.
        pub expires_in: Option<u64>,
    }
}

impl Shaped for Context {
    fn shape() -> crate::policy::shape::Shape {
        use crate::policy::shape::{Field, Shape};
        fn field<T: Shaped>(name: &'static str, doc: &str) -> Field {
            Field {
                name,
                doc: doc.to_owned(),
                shape: T::shape(),
                optional: T::optional(),
            }
        }
        Shape::Record(
            "Context",
            vec![
                field::<u32>("api", "API version."),
                field::<Hook>("hook", "The hook that is called."),
                field::<u64>("gen", "Generation of the policy."),
                field::<f64>(
                    "now",
                    "Unix time in seconds, when the question was asked; the only clock.",
                ),
                field::<u64>("seq", "Number of the question."),
                field::<Reason>("reason", "Why the question is asked."),
                field::<Option<Link>>("link", "The tap; in `observe` the link that changed."),
                field::<Option<Port>>("port", "What the mapping says of the port."),
                field::<Option<Network>>("network", "The network; absent in `resolve`."),
                field::<Option<Uplink>>("uplink", "The link that carries the segment off the host."),
                field::<Option<Bridge>>("bridge", "The network's bridge, when it stands."),
                field::<Option<Current>>("current", "What the tap has now."),
                field::<HostFacts>("host", "Facts about this host."),
                field::<BTreeMap<String, String>>("tags", "Tags decided by earlier plugins of the chain."),
                field::<Option<Plan>>(
                    "plan",
                    "`admit`: what is about to be done; also the second argument.",
                ),
                field::<Option<AttachResult>>(
                    "result",
                    "`attached`: how it ended; also the second argument.",
                ),
                field::<Option<Lease>>("lease", "`lease`: what happened."),
                field::<Vec<Difference>>("diff", "`drift`: what differs; also the second argument."),
            ],
        )
    }
}

impl Context {
    /// The tap's name, or "" when the question is not about a link.
    pub fn tap(&self) -> &str {
        self.link.as_ref().map_or("", |l| l.name.as_str())
    }
    /// The network's id, or "" when there is none.
    pub fn network_id(&self) -> &str {
        self.network.as_ref().map_or("", |n| n.id.as_str())
    }
}
