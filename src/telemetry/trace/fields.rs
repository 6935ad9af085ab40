//! Facts of a message -> named fields that can be compared, and the words for the kernel's numbers.

use super::event::Value;
use crate::kernel::watch::{AddressFacts, LinkFacts, NeighbourFacts, PortFacts, RouteFacts};
use crate::model::{PortVlans, VlanRow, owned};
use std::fmt::Write;

/// A field's value as remembered: devices by index, because their names change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Number(u64),
    Bool(bool),
    Text(Box<str>),
    /// `IFF_*`.
    LinkFlags(u32),
    Device(u32),
    /// Next hops of a route.
    Hops(Vec<crate::kernel::watch::NextHop>),
}

/// What is known of one object, in the order it is shown; absent fields are left out.
pub type Facts = Vec<(&'static str, Field)>;

fn text(value: impl ToString) -> Field {
    Field::Text(value.to_string().into())
}

pub fn link(facts: &LinkFacts) -> Facts {
    let alternative = (!facts.alternative_names.is_empty()).then(|| text(facts.alternative_names.join(",")));
    [
        ("name", facts.name.map(text)),
        ("flags", Some(Field::LinkFlags(facts.flags))),
        ("master", facts.master.map(Field::Device)),
        ("mtu", facts.mtu.map(|mtu| Field::Number(mtu.into()))),
        ("mac", facts.mac.map(text)),
        ("operstate", facts.operstate.map(|state| text(operstate(state)))),
        (
            "parent",
            // 0: none, or none yet (a veth before its peer).
            facts
                .parent
                .filter(|p| *p != 0 && *p != facts.index)
                .map(Field::Device),
        ),
        (
            "segment",
            facts.segment.map(|segment| Field::Number(segment.into())),
        ),
        ("alias", facts.alias.clone().map(Field::Text)),
        ("altnames", alternative),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// Field names of a port's flags with the value the kernel gives a new port: compared with that, a fresh port differs
/// only in what somebody set.
const PORT_DEFAULTS: [(&str, bool); 8] = [
    ("learning", true),
    ("isolated", false),
    ("hairpin", false),
    ("guard", false),
    ("neigh_suppress", false),
    ("flood", true),
    ("mcast_flood", true),
    ("bcast_flood", true),
];

/// A port before anything was said about it.
pub fn fresh_port() -> Facts {
    PORT_DEFAULTS
        .into_iter()
        .map(|(name, value)| (name, Field::Bool(value)))
        .collect()
}

pub fn port(facts: &PortFacts) -> Facts {
    let flags = [
        facts.learning,
        facts.isolated,
        facts.hairpin,
        facts.guard,
        facts.neigh_suppress,
        facts.flood,
        facts.mcast_flood,
        facts.bcast_flood,
    ];
    let state = facts.state.map(|state| ("port_state", text(port_state(state))));
    let flags = PORT_DEFAULTS
        .into_iter()
        .zip(flags)
        .map(|((name, default), value)| (name, Field::Bool(value.unwrap_or(default))));
    // A kernel with VLAN filtering puts every new port into VLAN 1, which says nothing on a bridge that does not filter.
    let vlans = facts
        .vlans
        .as_ref()
        .map(vlans)
        .filter(|told| told != DEFAULT_VLANS);
    let vlans = vlans.map(|told| ("vlans", text(told)));
    state.into_iter().chain(flags).chain(vlans).collect()
}

const DEFAULT_VLANS: &str = "1 pvid untagged";

/// As `bridge vlan` prints them.
fn vlans(vlans: &PortVlans) -> String {
    let words = |row: &VlanRow| {
        let pvid = if row.pvid { " pvid" } else { "" };
        let untagged = if row.untagged { " untagged" } else { "" };
        let vni = row.vni.map_or_else(String::new, |vni| format!(" vni {vni}"));
        format!("{}{pvid}{untagged}{vni}", row.vid)
    };
    vlans.rows().map(words).collect::<Vec<_>>().join(", ")
}

pub fn address(facts: &AddressFacts) -> Facts {
    let number = |seconds: Option<u32>| seconds.map(|seconds| Field::Number(seconds.into()));
    // IFA_F_PERMANENT says what absent lifetimes say.
    let flags = ADDRESS_FLAGS
        .into_iter()
        .filter(|(bit, _)| facts.flags & bit != 0)
        .map(|(_, name)| name)
        .collect::<Vec<_>>();
    [
        ("scope", Some(text(scope(facts.scope)))),
        ("peer", facts.peer.map(text)),
        ("label", facts.label.clone().map(Field::Text)),
        ("flags", (!flags.is_empty()).then(|| text(flags.join(",")))),
        ("valid_s", number(facts.valid_seconds)),
        ("preferred_s", number(facts.preferred_seconds)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

pub fn route(facts: &RouteFacts) -> Facts {
    [
        (
            "type",
            (facts.kind != libc::RTN_UNICAST).then(|| text(route_kind(facts.kind))),
        ),
        (
            "via",
            (!facts.hops.is_empty()).then(|| Field::Hops(facts.hops.clone())),
        ),
        ("nexthop", facts.nexthop_id.map(|id| Field::Number(id.into()))),
        ("proto", Some(text(protocol(facts.protocol)))),
        ("scope", (facts.scope != 0).then(|| text(scope(facts.scope)))),
        ("src", facts.source.map(text)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

pub fn neighbour(facts: &NeighbourFacts) -> Facts {
    [
        ("mac", facts.mac.map(text)),
        ("state", Some(text(neighbour_state(facts.state)))),
        ("flags", neighbour_flags(facts.flags).map(text)),
        ("proto", facts.protocol.map(|p| text(protocol(p)))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// A forwarding entry; `dev` is a field and not part of its name, because an entry moves between a bridge's ports.
pub fn fdb(facts: &NeighbourFacts) -> Facts {
    [
        ("dev", Some(Field::Device(facts.index))),
        ("dst", facts.address.map(text)),
        ("state", Some(text(fdb_state(facts)))),
        ("flags", neighbour_flags(facts.flags).map(text)),
        ("proto", facts.protocol.map(|p| text(protocol(p)))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// For people and JSON; `name_of` knows the devices.
pub fn show(field: &Field, name_of: &dyn Fn(u32) -> Box<str>) -> Value {
    match field {
        Field::Number(n) => Value::Number(*n),
        Field::Bool(b) => Value::Bool(*b),
        Field::Text(text) => Value::Text(text.clone()),
        Field::LinkFlags(flags) => Value::Flags(link_flags(*flags)),
        Field::Device(index) => Value::Text(name_of(*index)),
        Field::Hops(hops) => {
            let mut out = String::new();
            for hop in hops {
                let gap = if out.is_empty() { "" } else { " + " };
                out.push_str(gap);
                if let Some(gateway) = hop.gateway {
                    let _infallible = write!(out, "{gateway} ");
                }
                if let Some(index) = hop.index {
                    let _infallible = write!(out, "dev {}", name_of(index));
                }
                if hop.weight > 1 {
                    let _infallible = write!(out, " weight {}", hop.weight);
                }
            }
            Value::Text(out.trim_end().into())
        }
    }
}

/// `IFF_*` bits as `ip link` spells them, in the order of the bits.
const LINK_FLAGS: [(u32, &str); 19] = [
    (0x1, "up"),
    (0x2, "broadcast"),
    (0x4, "debug"),
    (0x8, "loopback"),
    (0x10, "pointopoint"),
    (0x20, "notrailers"),
    (0x40, "running"),
    (0x80, "noarp"),
    (0x100, "promisc"),
    (0x200, "allmulti"),
    (0x400, "master"),
    (0x800, "slave"),
    (0x1000, "multicast"),
    (0x2000, "portsel"),
    (0x4000, "automedia"),
    (0x8000, "dynamic"),
    (0x10000, "lower_up"),
    (0x20000, "dormant"),
    (0x40000, "echo"),
];

pub fn link_flags(flags: u32) -> Vec<&'static str> {
    LINK_FLAGS
        .into_iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| name)
        .collect()
}

/// `IFA_F_*` without PERMANENT (0x80).
const ADDRESS_FLAGS: [(u32, &str); 10] = [
    (0x01, "secondary"),
    (0x02, "nodad"),
    (0x04, "optimistic"),
    (0x08, "dadfailed"),
    (0x10, "home"),
    (0x20, "deprecated"),
    (0x40, "tentative"),
    (0x100, "mngtmpaddr"),
    (0x200, "noprefixroute"),
    (0x400, "autojoin"),
];

/// RFC 2863, as `ip link` spells it.
fn operstate(state: u8) -> String {
    numbered(
        state,
        &[
            "unknown",
            "notpresent",
            "down",
            "lowerlayerdown",
            "testing",
            "dormant",
            "up",
        ],
    )
}

fn port_state(state: u8) -> String {
    numbered(
        state,
        &["disabled", "listening", "learning", "forwarding", "blocking"],
    )
}

pub fn route_kind(kind: u8) -> String {
    numbered(
        kind,
        &[
            "unspec",
            "unicast",
            "local",
            "broadcast",
            "anycast",
            "multicast",
            "blackhole",
            "unreachable",
            "prohibit",
            "throw",
            "nat",
            "xresolve",
        ],
    )
}

/// `RTPROT_*`, those with a name in iproute2's default table.
fn protocol(protocol: u8) -> String {
    match protocol {
        0 => "unspec",
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        owned::PROTOCOL => "tapwire",
        186 => "bgp",
        188 => "ospf",
        _ => return protocol.to_string(),
    }
    .to_owned()
}

fn scope(scope: u8) -> String {
    match scope {
        0 => "global",
        200 => "site",
        253 => "link",
        254 => "host",
        255 => "nowhere",
        _ => return scope.to_string(),
    }
    .to_owned()
}

fn neighbour_state(state: u16) -> String {
    const STATES: [(u16, &str); 8] = [
        (0x01, "incomplete"),
        (0x02, "reachable"),
        (0x04, "stale"),
        (0x08, "delay"),
        (0x10, "probe"),
        (0x20, "failed"),
        (0x40, "noarp"),
        (0x80, "permanent"),
    ];
    let names: Vec<_> = STATES
        .into_iter()
        .filter(|(bit, _)| state & bit != 0)
        .map(|(_, n)| n)
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(",")
    }
}

/// As `bridge fdb` spells it: in a bridge's table permanent is the port's own address and noarp a static entry.
fn fdb_state(facts: &NeighbourFacts) -> String {
    match facts.state {
        0x80 => "permanent".to_owned(),
        0x40 => "static".to_owned(),
        0x02 => "reachable".to_owned(),
        0x04 => "stale".to_owned(),
        other => neighbour_state(other),
    }
}

/// `NTF_*` without SELF and MASTER, which say which table was meant.
fn neighbour_flags(flags: u8) -> Option<String> {
    const FLAGS: [(u8, &str); 6] = [
        (0x01, "use"),
        (0x08, "proxy"),
        (0x10, "extern_learn"),
        (0x20, "offload"),
        (0x40, "sticky"),
        (0x80, "router"),
    ];
    let names: Vec<_> = FLAGS
        .into_iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, n)| n)
        .collect();
    (!names.is_empty()).then(|| names.join(","))
}

fn numbered(value: u8, names: &[&str]) -> String {
    names
        .get(usize::from(value))
        .map_or_else(|| value.to_string(), |name| (*name).to_owned())
}
