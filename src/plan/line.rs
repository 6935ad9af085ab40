//! Operations as the command lines an operator would type: for `plan`, `explain`, the demo and golden files.

use super::guard::GuardedPort;
use super::op::{GuardTable, LinkChange, ListAction, Master, Op};
use crate::desired::guard::{Entry, table};
use crate::desired::ruleset::Ruleset;
use crate::model::record::{AddressRecord, Attribute, RouteRecord};
use crate::model::{BridgeAttributes, VxlanAttributes};
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::CreateBridge {
                name,
                mac,
                mtu,
                attributes,
            } => {
                write!(f, "ip link add {name} address {mac}")?;
                option(f, "mtu", *mtu)?;
                f.write_str(" type bridge")?;
                bridge(f, attributes)
            }
            Op::CreateVlan {
                name,
                parent,
                vid,
                mtu,
            } => {
                write!(f, "ip link add link {} name {name}", parent.name)?;
                option(f, "mtu", *mtu)?;
                write!(f, " type vlan id {vid}")
            }
            Op::CreateVxlan {
                name,
                mtu,
                attributes,
            } => {
                write!(f, "ip link add {name}")?;
                option(f, "mtu", *mtu)?;
                f.write_str(" type vxlan")?;
                vxlan(f, attributes)
            }
            Op::SetLink { link, change } => {
                write!(f, "ip link set {}", link.name)?;
                link_change(f, change)
            }
            Op::SetBridge { link, attributes } => {
                write!(f, "ip link set {} type bridge", link.name)?;
                bridge(f, attributes)
            }
            Op::SetVxlan { link, attributes } => {
                write!(f, "ip link set {} type vxlan", link.name)?;
                vxlan(f, attributes)
            }
            Op::SetPort { link, flags } => {
                write!(f, "bridge link set dev {}", link.name)?;
                flags
                    .words()
                    .try_for_each(|(word, on)| write!(f, " {word} {}", on_off(on)))
            }
            Op::DisableIpv6 { link, disable } => {
                write!(
                    f,
                    "sysctl net.ipv6.conf.{}.disable_ipv6={}",
                    link.name,
                    u8::from(*disable)
                )
            }
            Op::DeleteLink { link } => write!(f, "ip link del {}", link.name),
            Op::Fdb {
                action,
                link,
                entry,
                vni,
            } => {
                write!(f, "bridge fdb {} {} dev {}", verb(*action), entry.mac, link.name)?;
                match entry.dst {
                    Some(dst) => {
                        write!(f, " dst {dst}")?;
                        option(f, "src_vni", *vni)?;
                        f.write_str(" self permanent")
                    }
                    None => f.write_str(" master static"),
                }
            }
            Op::Vlan { action, link, row } => {
                write!(
                    f,
                    "bridge vlan {} dev {} vid {}",
                    verb(*action),
                    link.name,
                    row.vid
                )?;
                if *action == ListAction::Delete {
                    return Ok(());
                }
                f.write_str(if row.pvid { " pvid" } else { "" })?;
                f.write_str(if row.untagged { " untagged" } else { "" })?;
                option(f, "tunnel_info id", row.vni)
            }
            Op::Vni { action, link, row } => {
                let verb = if *action == ListAction::Delete {
                    "delete"
                } else {
                    "add"
                };
                write!(f, "bridge vni {verb} dev {} vni {}", link.name, row.vni)?;
                option(f, "group", row.group.filter(|_| *action != ListAction::Delete))
            }
            Op::Neighbour {
                action: ListAction::Delete,
                link,
                entry,
            } => {
                write!(f, "ip neigh del {} dev {}", entry.ip, link.name)
            }
            Op::Neighbour { action, link, entry } => {
                write!(
                    f,
                    "ip neigh {} {} lladdr {} dev {} nud permanent",
                    verb(*action),
                    entry.ip,
                    entry.mac,
                    link.name
                )
            }
            Op::Address { action, link, record } => {
                write!(
                    f,
                    "ip address {} {} dev {}",
                    verb(*action),
                    address(record),
                    link.name
                )
            }
            Op::Readdress { steps, .. } => {
                for (n, step) in steps.iter().enumerate() {
                    let between = if n == 0 { "" } else { "; " };
                    write!(f, "{between}{step}")?;
                }
                Ok(())
            }
            Op::Ruleset(ruleset) if ruleset.is_empty() => {
                write!(
                    f,
                    "nft delete table {}; delete table {}",
                    Ruleset::INET,
                    Ruleset::UPLINK
                )
            }
            Op::Ruleset(ruleset) => {
                write!(f, "nft table {}", Ruleset::INET)?;
                if ruleset.uplink.is_some() {
                    write!(f, ", table {}", Ruleset::UPLINK)?;
                }
                write!(f, " ({} rules)", ruleset.rules())
            }
            Op::Sysctls(sysctls) if sysctls.is_empty() => f.write_str("sysctl as before"),
            Op::Sysctls(sysctls) => {
                f.write_str("sysctl")?;
                sysctls
                    .iter()
                    .try_for_each(|sysctl| write!(f, " {}={}", sysctl.setting, sysctl.value))
            }
            Op::Announce { link, address } if address.is_ipv4() => {
                write!(f, "arping -U -c 3 -I {} {address}", link.name)
            }
            Op::Announce { link, address } => write!(f, "ndsend {address} {}", link.name),
            Op::Route { action, record } => write!(f, "ip route {} {}", verb(*action), route(record)),
            Op::Guard { link, gone, new } => {
                let mut elements = gone
                    .iter()
                    .map(|entry| ("delete", entry))
                    .chain(new.iter().map(|entry| ("add", entry)))
                    .peekable();
                f.write_str("nft ")?;
                while let Some((verb, entry)) = elements.next() {
                    element(f, verb, &link.name, entry)?;
                    f.write_str(if elements.peek().is_some() { "; " } else { "" })?;
                }
                Ok(())
            }
            Op::GuardTable(GuardTable::Make(ports)) => {
                let ports = ports.len();
                write!(
                    f,
                    "nft -f - (table bridge {}, guarded ports: {ports})",
                    table::NAME
                )
            }
            Op::GuardTable(GuardTable::Remove) => write!(f, "nft delete table bridge {}", table::NAME),
            Op::GuardTable(GuardTable::Sweep(ports)) => {
                let mut elements = ports
                    .iter()
                    .flat_map(|port| port.entries.iter().map(move |e| (port, e)))
                    .peekable();
                f.write_str("nft ")?;
                while let Some((GuardedPort { index, .. }, entry)) = elements.next() {
                    element(f, "delete", index, entry)?;
                    f.write_str(if elements.peek().is_some() { "; " } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

fn element(f: &mut fmt::Formatter<'_>, verb: &str, port: &dyn fmt::Display, entry: &Entry) -> fmt::Result {
    let (table, set) = (table::NAME, table::set_of(entry).name());
    write!(f, "{verb} element bridge {table} {set} {{ {port}{entry} }}")
}

fn verb(action: ListAction) -> &'static str {
    match action {
        ListAction::Replace => "replace",
        ListAction::Append => "append",
        ListAction::Add => "add",
        ListAction::Delete => "del",
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn option<T: fmt::Display>(f: &mut fmt::Formatter<'_>, word: &str, value: Option<T>) -> fmt::Result {
    match value {
        Some(value) => write!(f, " {word} {value}"),
        None => Ok(()),
    }
}

fn link_change(f: &mut fmt::Formatter<'_>, change: &LinkChange) -> fmt::Result {
    option(f, "mtu", change.mtu)?;
    option(f, "address", change.mac)?;
    option(f, "txqueuelen", change.tx_queue_len)?;
    if let Some(alias) = &change.alias {
        write!(f, " alias '{alias}'")?;
    }
    match change.master {
        Some(Master::Set(bridge)) => write!(f, " master {}", bridge.name)?,
        Some(Master::Clear) => f.write_str(" nomaster")?,
        None => {}
    }
    match change.up {
        Some(true) => f.write_str(" up"),
        Some(false) => f.write_str(" down"),
        None => Ok(()),
    }
}

fn bridge(f: &mut fmt::Formatter<'_>, b: &BridgeAttributes) -> fmt::Result {
    option(f, "stp_state", b.stp.map(u8::from))?;
    option(f, "forward_delay", b.forward_delay)?;
    option(f, "ageing_time", b.ageing_time)?;
    option(f, "mcast_snooping", b.multicast_snooping.map(u8::from))?;
    option(f, "vlan_filtering", b.vlan_filtering.map(u8::from))?;
    option(f, "vlan_default_pvid", b.vlan_default_pvid)?;
    option(
        f,
        "no_linklocal_learn",
        b.link_local_learning.map(|learns| u8::from(!learns)),
    )
}

fn vxlan(f: &mut fmt::Formatter<'_>, v: &VxlanAttributes) -> fmt::Result {
    match v.external {
        true => f.write_str(" external")?,
        false => write!(f, " id {}", v.vni)?,
    }
    f.write_str(if v.vnifilter { " vnifilter" } else { "" })?;
    write!(f, " dstport {}", v.dstport)?;
    option(f, "local", v.local)?;
    option(f, "group", v.group)?;
    option(f, "dev #", v.link)?;
    if v.ttl != 0 {
        write!(f, " ttl {}", v.ttl)?;
    }
    match v.tos {
        0 => {}
        1 => f.write_str(" tos inherit")?,
        tos => write!(f, " tos {tos:#x}")?,
    }
    if v.srcport != (0, 0) {
        write!(f, " srcport {} {}", v.srcport.0, v.srcport.1)?;
    }
    f.write_str(if v.learning { " learning" } else { " nolearning" })?;
    f.write_str(if v.proxy { " proxy" } else { "" })
}

const AF_INET: u8 = 2;

fn attribute(attributes: &[Attribute], kind: u16) -> Option<&[u8]> {
    attributes
        .iter()
        .find(|a| a.kind == kind)
        .map(|a| a.value.as_slice())
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|six| Ipv6Addr::from(six).into())
}

fn number(bytes: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(bytes).ok().map(u32::from_ne_bytes)
}

fn address(record: &AddressRecord) -> String {
    // IFA_LOCAL 2, IFA_ADDRESS 1 (the peer where both are given).
    let local = attribute(&record.attributes, 2).and_then(ip);
    let address = attribute(&record.attributes, 1).and_then(ip);
    match (local, address) {
        (Some(local), Some(peer)) if local != peer => format!("{local} peer {peer}/{}", record.prefix_len),
        (Some(ip), _) | (None, Some(ip)) => format!("{ip}/{}", record.prefix_len),
        (None, None) => "?".to_owned(),
    }
}

fn route(record: &RouteRecord) -> String {
    // RTA_DST 1, RTA_OIF 4, RTA_GATEWAY 5, RTA_PRIORITY 6, RTA_TABLE 15.
    let get = |kind| attribute(&record.attributes, kind);
    // RTN_LOCAL is all that is told of the local table.
    let local = if record.kind == 2 { "local " } else { "" };
    let mut text = match get(1).and_then(ip) {
        Some(dst) => format!("{local}{dst}/{}", record.dst_len),
        None if record.family == AF_INET => "default".to_owned(),
        None => "default (IPv6)".to_owned(),
    };
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _infallible = write!(text, " {name} {value}");
        }
    };
    word("via", get(5).and_then(ip).map(|g| g.to_string()));
    word("dev #", get(4).and_then(number).map(|i| i.to_string()));
    word(
        "table",
        get(15)
            .and_then(number)
            .filter(|t| *t != 254)
            .map(|t| t.to_string()),
    );
    word("metric", get(6).and_then(number).map(|m| m.to_string()));
    text
}
