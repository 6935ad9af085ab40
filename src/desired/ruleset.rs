//! What all gateways of the host ask of nftables: translation, forwarding and what may reach the host, as text.
//!
//! Two tables: `inet tapwire`, and `bridge tapwire_uplink` for what stays within a segment. (`bridge tapwire` is the spoof
//! guard's, see `guard`.) The text follows from the configuration alone, so it changes only with that; devices are matched by
//! name and may come and go.
//!
//! The order of the translation rules is nova-network's: metadata, forwarded ports, floating addresses before routing; behind
//! it first what is not translated (metadata, DMZ, the network's own range), then floating addresses, then the network's
//! own translation. Unlike there, a packet to a floating address from a neighbour of its machine is translated on both
//! sides, or the answer would take the short way and be refused.
//!
//! A network's rules are in chains of its own, found by one lookup: what a packet costs does not grow with the networks.
//!
//! Length: the chains of one table, which are read against each other.

use super::Desired;
use super::gateway::reflected;
use super::translation::{Translation, derive_translations};
use crate::model::gateway::{Forward, Gateway, SnatTo};
use crate::model::{Cidr, LinkName};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::{IpAddr, SocketAddr};

/// The tables' bodies; a table that is not needed is absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Ruleset {
    pub inet: Option<Box<str>>,
    pub uplink: Option<Box<str>>,
    /// What the rules translate: flows of what is not among them any more are cut when they come into force.
    pub translations: BTreeSet<Translation>,
}

impl Ruleset {
    pub const INET: &'static str = "inet tapwire";
    pub const UPLINK: &'static str = "bridge tapwire_uplink";

    pub fn is_empty(&self) -> bool {
        self.inet.is_none() && self.uplink.is_none()
    }

    /// Two rulesets of the same build with the same fingerprint are the same.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// For `nft -f -`: both tables as they should be, whatever is there, in one transaction.
    pub fn script(&self) -> String {
        let mut script = String::new();
        for (name, body) in [(Self::INET, &self.inet), (Self::UPLINK, &self.uplink)] {
            // A table must be there to be deleted.
            let _ = writeln!(script, "table {name}\ndelete table {name}");
            if let Some(body) = body {
                let _ = writeln!(script, "table {name} {{\n{body}}}");
            }
        }
        script
    }

    /// Number of rules, for people.
    pub fn rules(&self) -> usize {
        let bodies = [&self.inet, &self.uplink].into_iter().flatten();
        bodies
            .flat_map(|body| body.lines())
            .filter(|line| line.starts_with("    "))
            .count()
    }
}

/// One network's part: who and where.
struct Side<'a> {
    bridge: LinkName,
    gateway: &'a Gateway,
    uplinks: Vec<LinkName>,
}

impl Side<'_> {
    /// Something outside leads to its machines.
    fn leads_in(&self) -> bool {
        !self.gateway.floating_ips.is_empty() || !self.gateway.port_forwards.is_empty()
    }
    /// The forward policy has something to say.
    fn is_confined(&self) -> bool {
        self.gateway.forward != Forward::All
    }
    fn name(&self) -> String {
        quoted(&self.bridge)
    }
}

/// `strange`: see `gateway::strange_uplinks`.
pub fn derive_ruleset(desired: &Desired, strange: &[(LinkName, LinkName)]) -> Ruleset {
    let sides: Vec<Side<'_>> = desired
        .networks()
        .filter_map(|network| {
            let gateway = network.gateway.as_deref()?;
            let bridge = desired.bridge_name(network)?;
            let own = super::gateway::uplink_name(desired, network);
            let strange = strange.iter().filter(|(of, _)| *of == bridge);
            let uplinks = own.into_iter().chain(strange.map(|(_, port)| *port)).collect();
            Some(Side {
                bridge,
                gateway,
                uplinks,
            })
        })
        .filter(|side| is_expressible(side.bridge))
        .collect();
    if sides.is_empty() {
        return Ruleset::default();
    }
    let mut inet = String::new();
    let out = &mut inet;
    hook(out, "prerouting", "nat hook prerouting priority dstnat", |out| {
        metadata(out, &sides);
        to_machines(out, &sides);
    });
    hook(out, "output", "nat hook output priority -100", |out| {
        to_machines(out, &sides);
    });
    translation(out, &sides);
    services(out, &sides);
    redirects(out, &sides);
    forwarding(out, &sides);
    Ruleset {
        inet: Some(inet.into()),
        uplink: within_segments(desired, &sides),
        translations: derive_translations(desired),
    }
}

/// nft has no way to write these characters in a name, and takes a `*` at the end for a wildcard.
pub fn is_expressible(name: LinkName) -> bool {
    name.as_bytes()
        .iter()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'*'))
}

/// A chain that the kernel calls; not there without rules.
fn hook(out: &mut String, name: &str, hook: &str, rules: impl FnOnce(&mut String)) {
    let mut body = String::new();
    rules(&mut body);
    if !body.is_empty() {
        let _ = writeln!(
            out,
            "  chain {name} {{\n   type {hook}; policy accept;\n{body}  }}"
        );
    }
}

/// A chain that rules call.
fn chain(out: &mut String, name: &str, rules: impl FnOnce(&mut String)) {
    let _ = writeln!(out, "  chain {name} {{");
    rules(out);
    let _ = writeln!(out, "  }}");
}

fn rule(out: &mut String, text: fmt::Arguments<'_>) {
    let _ = writeln!(out, "    {text}");
}

fn quoted(name: &LinkName) -> String {
    format!("\"{name}\"")
}

/// The word for a family in a match.
fn ip(ipv4: bool) -> &'static str {
    if ipv4 { "ip" } else { "ip6" }
}

/// `a, b, c`.
fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for item in items {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{item}");
    }
    text
}

fn pairs(map: &BTreeMap<IpAddr, IpAddr>) -> String {
    list(map.iter().map(|(from, to)| format!("{from} : {to}")))
}

/// Address and port as `dnat` takes them.
fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn metadata(out: &mut String, sides: &[Side<'_>]) {
    let mut by_server: BTreeMap<SocketAddr, Vec<String>> = BTreeMap::new();
    for side in sides {
        if let Some(server) = side.gateway.metadata {
            by_server.entry(server).or_default().push(side.name());
        }
    }
    let (address, port) = (Gateway::METADATA, Gateway::METADATA_PORT);
    for (server, bridges) in by_server {
        let to = if server.ip().is_loopback() {
            // The address of the bridge: nothing from outside may reach 127.0.0.1.
            format!("redirect to :{}", server.port())
        } else {
            format!("dnat ip to {server}")
        };
        rule(
            out,
            format_args!(
                "iifname {{ {} }} ip daddr {address} tcp dport {port} {to}",
                list(bridges)
            ),
        );
    }
}

/// Forwarded ports and floating addresses: what leads to a machine from outside, from other networks and from the host.
fn to_machines(out: &mut String, sides: &[Side<'_>]) {
    for forward in sides.iter().flat_map(|side| &side.gateway.port_forwards) {
        let word = ip(forward.address.is_ipv4());
        rule(
            out,
            format_args!(
                "{word} daddr {} {} dport {} dnat {word} to {}",
                forward.address,
                forward.protocol.name(),
                forward.port,
                socket(forward.fixed_address, forward.fixed_port)
            ),
        );
    }
    for ipv4 in [true, false] {
        let map: BTreeMap<IpAddr, IpAddr> = sides
            .iter()
            .flat_map(|side| &side.gateway.floating_ips)
            .filter(|floating| floating.address.is_ipv4() == ipv4)
            .map(|floating| (floating.address, floating.fixed_address))
            .collect();
        if !map.is_empty() {
            let word = ip(ipv4);
            rule(
                out,
                format_args!("dnat {word} to {word} daddr map {{ {} }}", pairs(&map)),
            );
        }
    }
}

/// Behind routing: each network's own chain, by the range that a packet comes from.
fn translation(out: &mut String, sides: &[Side<'_>]) {
    for (number, side) in sides.iter().enumerate() {
        chain(out, &format!("snat{number}"), |out| {
            untranslated(out, side);
            from_floating(out, side);
            translated(out, side);
        });
    }
    hook(
        out,
        "postrouting",
        "nat hook postrouting priority srcnat",
        |out| {
            for ipv4 in [true, false] {
                let ranges = sides.iter().enumerate().flat_map(|(number, side)| {
                    let own = side.gateway.addresses.iter().filter(move |a| a.is_ipv4() == ipv4);
                    own.map(move |own| format!("{} : jump snat{number}", own.network()))
                });
                let map = list(ranges);
                if !map.is_empty() {
                    rule(out, format_args!("{} saddr vmap {{ {map} }}", ip(ipv4)));
                }
            }
        },
    );
}

/// The exceptions from all translation.
fn untranslated(out: &mut String, side: &Side<'_>) {
    let gateway = side.gateway;
    for own in &gateway.addresses {
        let (word, range) = (ip(own.is_ipv4()), own.network());
        if let Some(server) = gateway.metadata.filter(|s| s.is_ipv4() && own.is_ipv4()) {
            rule(
                out,
                format_args!("{word} saddr {range} {word} daddr {} accept", server.ip()),
            );
        }
        let dmz = list(gateway.dmz.iter().filter(|d| d.is_ipv4() == own.is_ipv4()));
        if !dmz.is_empty() {
            rule(
                out,
                format_args!("{word} saddr {range} {word} daddr {{ {dmz} }} accept"),
            );
        }
        rule(
            out,
            format_args!("{word} saddr {range} {word} daddr {range} ct status & dnat == 0 accept"),
        );
    }
}

/// What a machine with a floating address sends leaves with it: out of the interface that carries it, and whatever went to
/// another floating address or forwarded port.
fn from_floating(out: &mut String, side: &Side<'_>) {
    for ipv4 in [true, false] {
        let word = ip(ipv4);
        let floating = &side.gateway.floating_ips;
        let of_family = || floating.iter().filter(|f| f.address.is_ipv4() == ipv4);
        let map: BTreeMap<IpAddr, IpAddr> = of_family().map(|f| (f.fixed_address, f.address)).collect();
        if map.is_empty() {
            continue;
        }
        let snat = |map: &_| format!("snat {word} to {word} saddr map {{ {} }}", pairs(map));
        rule(out, format_args!("ct status dnat {}", snat(&map)));
        let mut by_interface: BTreeMap<LinkName, BTreeMap<IpAddr, IpAddr>> = BTreeMap::new();
        for f in of_family().filter(|f| is_expressible(f.interface)) {
            by_interface
                .entry(f.interface)
                .or_default()
                .insert(f.fixed_address, f.address);
        }
        for (interface, map) in by_interface {
            rule(out, format_args!("oifname \"{interface}\" {}", snat(&map)));
        }
    }
}

/// The network's own translation.
fn translated(out: &mut String, side: &Side<'_>) {
    let (bridge, gateway) = (side.bridge, side.gateway);
    for own in &gateway.addresses {
        let (word, range) = (ip(own.is_ipv4()), own.network());
        // From a machine to a neighbour by its floating address: the answer must come back this way.
        rule(
            out,
            format_args!("{word} saddr {range} oifname \"{bridge}\" ct status dnat masquerade"),
        );
    }
    let Some(snat) = &gateway.snat else { return };
    let leaving = match snat.interface {
        Some(interface) if !is_expressible(interface) => return,
        Some(interface) => format!("oifname \"{interface}\""),
        None => format!("oifname != \"{bridge}\""),
    };
    for own in &gateway.addresses {
        let (word, range) = (ip(own.is_ipv4()), own.network());
        let to = match (own.is_ipv4(), snat.v4, snat.v6) {
            (true, Some(SnatTo::Masquerade), _) | (false, _, Some(SnatTo::Masquerade)) => {
                "masquerade".to_owned()
            }
            (true, Some(SnatTo::Address(a)), _) => format!("snat {word} to {a}"),
            (false, _, Some(SnatTo::Address(a))) => format!("snat {word} to {a}"),
            (true, None, _) | (false, _, None) => continue,
        };
        if gateway.has_external_router() && own.is_ipv4() {
            let forced = list(gateway.force_snat_range.iter().filter(|r| r.is_ipv4()));
            if !forced.is_empty() {
                rule(
                    out,
                    format_args!("{word} saddr {range} {word} daddr {{ {forced} }} {leaving} {to}"),
                );
            }
        } else {
            rule(out, format_args!("{word} saddr {range} {leaving} {to}"));
        }
    }
}

/// DHCP and DNS of a network are for its own machines and the host.
fn services(out: &mut String, sides: &[Side<'_>]) {
    let served: Vec<&Side<'_>> = sides
        .iter()
        .filter(|side| side.gateway.dhcp.is_some() || side.gateway.ra.is_some())
        .collect();
    if served.is_empty() {
        return;
    }
    chain(out, "services", |out| {
        rule(out, format_args!("iifname \"lo\" return"));
        for ipv4 in [true, false] {
            let own = || {
                served.iter().flat_map(move |side| {
                    let own = side.gateway.addresses.iter().filter(move |a| a.is_ipv4() == ipv4);
                    own.map(move |a| (side.name(), a.address()))
                })
            };
            let all = list(own().map(|(_, address)| address));
            if !all.is_empty() {
                let word = ip(ipv4);
                let pairs = list(own().map(|(bridge, address)| format!("{bridge} . {address}")));
                rule(out, format_args!("iifname . {word} daddr {{ {pairs} }} return"));
                rule(out, format_args!("{word} daddr {{ {all} }} drop"));
            }
        }
    });
    hook(out, "input", "filter hook input priority filter", |out| {
        rule(
            out,
            format_args!("meta l4proto {{ tcp, udp }} th dport {{ 53, 67, 547 }} jump services"),
        );
    });
}

/// To a neighbour by an address of the outside there is no shorter way than through the host, whatever routers think: only
/// here is it translated.
fn redirects(out: &mut String, sides: &[Side<'_>]) {
    let bridges = list(sides.iter().filter(|side| side.leads_in()).map(Side::name));
    if !bridges.is_empty() {
        hook(out, "redirects", "filter hook output priority filter", |out| {
            rule(
                out,
                format_args!("oifname {{ {bridges} }} icmp type redirect drop"),
            );
            rule(
                out,
                format_args!("oifname {{ {bridges} }} icmpv6 type nd-redirect drop"),
            );
        });
    }
}

/// nova's `forward_bridge_interface`: with `all` nothing is refused here. A packet between two networks passes both lists.
fn forwarding(out: &mut String, sides: &[Side<'_>]) {
    let confined: Vec<(usize, &Side<'_>)> = sides
        .iter()
        .enumerate()
        .filter(|(_, side)| side.is_confined())
        .collect();
    if confined.is_empty() {
        return;
    }
    for (number, side) in &confined {
        chain(out, &format!("from{number}"), |out| {
            passes(out, side, "oifname", "saddr");
        });
        chain(out, &format!("to{number}"), |out| {
            passes(out, side, "iifname", "daddr");
        });
    }
    hook(out, "forward", "filter hook forward priority filter", |out| {
        for (direction, chain) in [("iifname", "from"), ("oifname", "to")] {
            let map = list(
                confined
                    .iter()
                    .map(|(number, side)| format!("{} : jump {chain}{number}", side.name())),
            );
            rule(out, format_args!("{direction} vmap {{ {map} }}"));
        }
    });
}

/// One direction of a network's policy: which others it passes to or from.
fn passes(out: &mut String, side: &Side<'_>, other: &str, machine: &str) {
    let Forward::Only(names) = &side.gateway.forward else {
        return;
    };
    let isolated = names.is_empty();
    let names = names.iter().filter(|n| is_expressible(**n)).map(quoted);
    rule(
        out,
        format_args!("{other} {{ {} }} return", list(names.chain([side.name()]))),
    );
    // A floating address or forwarded port is a wish of its own.
    let floating = &side.gateway.floating_ips;
    for f in floating.iter().filter(|f| is_expressible(f.interface)) {
        let (word, interface, fixed) = (ip(f.fixed_address.is_ipv4()), f.interface, f.fixed_address);
        rule(
            out,
            format_args!("{other} \"{interface}\" {word} {machine} {fixed} return"),
        );
    }
    // Another network's too: it is on the outside, wherever it leads.
    if !isolated || side.leads_in() || side.gateway.metadata.is_some() {
        rule(out, format_args!("ct status dnat return"));
    }
    rule(out, format_args!("drop"));
}

/// The bridges' own table.
fn within_segments(desired: &Desired, sides: &[Side<'_>]) -> Option<Box<str>> {
    let mut table = String::new();
    shared_addresses(&mut table, sides);
    not_reflected(&mut table, desired);
    (!table.is_empty()).then(|| table.into())
}

/// A port with hairpin mode gets back what its machine sends to all: nothing that a machine expects.
fn not_reflected(out: &mut String, desired: &Desired) {
    let taps = list(reflected(desired).map(|tap| format!("\"{tap}\" . \"{tap}\"")));
    if !taps.is_empty() {
        hook(out, "forward", "filter hook forward priority filter", |out| {
            rule(
                out,
                format_args!(
                    "ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 iifname . oifname {{ {taps} }} drop"
                ),
            );
        });
    }
}

/// nova's `isolate_dhcp_address`: an address that other hosts have too is not heard across the uplink, for either family;
/// neither are DHCP and router advertisements.
fn shared_addresses(out: &mut String, sides: &[Side<'_>]) {
    let shared: Vec<(LinkName, &Gateway)> = sides
        .iter()
        .filter(|side| side.gateway.share_dhcp_address)
        .flat_map(|side| side.uplinks.iter().map(|uplink| (*uplink, side.gateway)))
        .filter(|(uplink, _)| is_expressible(*uplink))
        .collect();
    let hooks = [
        ("prerouting", "filter hook prerouting priority -300", "iifname"),
        ("postrouting", "filter hook postrouting priority 300", "oifname"),
    ];
    for (name, kind, direction) in hooks {
        hook(out, name, kind, |out| {
            for (uplink, gateway) in &shared {
                let at = format!("{direction} \"{uplink}\"");
                for own in [gateway.first4(), gateway.first6()].into_iter().flatten() {
                    isolate(out, &at, own);
                }
                rule(
                    out,
                    format_args!(
                        "{at} meta protocol {{ ip, ip6 }} meta l4proto udp th dport {{ 67, 68, 546, 547 }} drop"
                    ),
                );
                if gateway.ra.is_some() {
                    rule(
                        out,
                        format_args!("{at} icmpv6 type {{ nd-router-solicit, nd-router-advert }} drop"),
                    );
                }
            }
        });
    }
}

fn isolate(out: &mut String, at: &str, own: Cidr) {
    match own.address() {
        IpAddr::V4(a) => {
            rule(out, format_args!("{at} arp saddr ip {a} drop"));
            rule(out, format_args!("{at} arp daddr ip {a} drop"));
        }
        IpAddr::V6(a) => {
            // The target address (RFC 4861 4.3 and 4.4) by its place: nft 1.0.6 has no word for it.
            rule(
                out,
                format_args!(
                    "{at} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} @th,64,128 {:#034x} drop",
                    u128::from(a)
                ),
            );
            rule(
                out,
                format_args!("{at} icmpv6 type nd-neighbor-solicit ip6 saddr {a} drop"),
            );
        }
    }
}
