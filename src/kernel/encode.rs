//! From one operation to one request.
//!
//! Links go through rtnetlink's builders, neighbours and forwarding entries through netlink-packet-route's messages;
//! addresses and routes are told back byte by byte as they were read, because a typed message would lose what it
//! does not know. Nothing is decided here: what an op does not say is not sent.

use super::error::{Error, Goal};
use super::mark;
use super::request::Batch;
use crate::model::record::{AddressRecord, RouteRecord};
use crate::model::{
    BridgeAttributes, FdbEntry, Ifindex, LinkName, Mac, Mtu, NeighbourEntry, PortFlags, VxlanAttributes,
    owned,
};
use crate::plan::op::{LinkChange, LinkRef, ListAction, Master, Op};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{BridgeStpState, InfoKind, InfoVxlan, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVlan, LinkVxlan};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Appends the op's request to the batch. `resolve` gives the index of a link that may have been created by an
/// earlier op of the plan.
pub fn op(
    op: &Op,
    resolve: &dyn Fn(&LinkRef) -> Result<Ifindex, Error>,
    batch: &mut Batch,
) -> Result<(), Error> {
    let word = op.name();
    match op {
        Op::CreateBridge {
            name,
            mac,
            mtu,
            attributes,
        } => {
            // Not `LinkBridge::new`, which also brings it up: before its IPv6 is off that would be an address of ours
            // in the tenant's network.
            let link = LinkMessageBuilder::<LinkBridge>::new(text(word, name)?);
            let link = bridge(link, attributes).address(mac.bytes().to_vec());
            batch.push(RouteNetlinkMessage::NewLink(sized(link, *mtu)), CREATE);
        }
        Op::CreateVlan {
            name,
            parent,
            vid,
            mtu,
        } => {
            let link = LinkVlan::new(text(word, name)?, resolve(parent)?.get(), vid.get());
            batch.push(RouteNetlinkMessage::NewLink(sized(link, *mtu)), CREATE);
        }
        Op::CreateVxlan {
            name,
            mtu,
            attributes,
        } => {
            let link = new_vxlan(text(word, name)?, attributes);
            batch.push(RouteNetlinkMessage::NewLink(sized(link, *mtu)), CREATE);
        }
        Op::SetLink { link, change } => {
            let message = set_link(resolve(link)?, change, resolve)?;
            batch.push(RouteNetlinkMessage::SetLink(message), 0);
        }
        // RTM_SETLINK ignores kind and port data; RTM_NEWLINK without NLM_F_CREATE changes what is there.
        Op::SetBridge { link, attributes } => {
            let change = LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge)
                .index(resolve(link)?.get());
            batch.push(
                RouteNetlinkMessage::NewLink(bridge(change, attributes).build()),
                0,
            );
        }
        Op::SetVxlan { link, attributes } => {
            let change = set_vxlan(resolve(link)?, attributes);
            batch.push(RouteNetlinkMessage::NewLink(change), 0);
        }
        Op::SetPort { link, flags } => {
            let change = port(LinkBridgePort::new(resolve(link)?.get()), flags);
            batch.push(RouteNetlinkMessage::NewLink(change.build()), 0);
        }
        Op::DeleteLink { link } => {
            let message = LinkUnspec::new_with_index(resolve(link)?.get()).build();
            batch.push(RouteNetlinkMessage::DelLink(message), 0);
        }
        Op::Fdb { action, link, entry } => push_neighbour(*action, forwarding(resolve(link)?, entry), batch),
        Op::Neighbour { action, link, entry } => {
            push_neighbour(*action, neighbour(resolve(link)?, entry), batch)
        }
        Op::Address { action, link, record } => {
            return push_address(word, *action, resolve(link)?, record, batch);
        }
        Op::Route { action, record } => return push_route(word, *action, record, batch),
        Op::DisableIpv6 { .. } => {
            return Err(Error::Inexpressible {
                op: word,
                problem: "a setting of /proc/sys, not a netlink request",
            });
        }
    }
    Ok(())
}

/// What the op wants, for the meaning of its errno.
pub const fn goal(op: &Op) -> Goal {
    match op {
        Op::CreateBridge { .. } | Op::CreateVlan { .. } | Op::CreateVxlan { .. } => Goal::Create,
        Op::DeleteLink { .. } => Goal::Delete,
        Op::Fdb { action, .. }
        | Op::Neighbour { action, .. }
        | Op::Address { action, .. }
        | Op::Route { action, .. } => match action {
            ListAction::Add | ListAction::Append => Goal::Create,
            ListAction::Replace => Goal::Change,
            ListAction::Delete => Goal::Delete,
        },
        Op::SetLink { .. }
        | Op::SetBridge { .. }
        | Op::SetVxlan { .. }
        | Op::SetPort { .. }
        | Op::DisableIpv6 { .. } => Goal::Change,
    }
}

const fn list_flags(action: ListAction) -> u16 {
    match action {
        ListAction::Replace => NLM_F_CREATE | NLM_F_REPLACE,
        ListAction::Append => NLM_F_CREATE | NLM_F_APPEND,
        ListAction::Add => CREATE,
        ListAction::Delete => 0,
    }
}

/// Names of ours are UTF-8; the builders take nothing else.
fn text<'a>(op: &'static str, name: &'a LinkName) -> Result<&'a str, Error> {
    std::str::from_utf8(name.as_bytes()).map_err(|_| Error::Inexpressible {
        op,
        problem: "the name of a device to make is not UTF-8",
    })
}

fn sized<T>(link: LinkMessageBuilder<T>, mtu: Option<Mtu>) -> LinkMessage {
    match mtu {
        Some(mtu) => link.mtu(mtu.get()).build(),
        None => link.build(),
    }
}

fn bridge(
    mut link: LinkMessageBuilder<LinkBridge>,
    attributes: &BridgeAttributes,
) -> LinkMessageBuilder<LinkBridge> {
    let BridgeAttributes {
        stp,
        forward_delay,
        ageing_time,
        multicast_snooping,
        vlan_filtering,
    } = *attributes;
    // Before the forward delay: with STP on, a delay below two seconds is raised to it (6.18, silently).
    if let Some(on) = stp {
        link = link.stp_state(if on {
            BridgeStpState::KernelStp
        } else {
            BridgeStpState::Disabled
        });
    }
    if let Some(delay) = forward_delay {
        link = link.forward_delay(delay);
    }
    if let Some(age) = ageing_time {
        link = link.ageing_time(age);
    }
    if let Some(on) = multicast_snooping {
        link = link.mcast_snooping(on);
    }
    if let Some(on) = vlan_filtering {
        link = link.vlan_filtering(on);
    }
    link
}

fn new_vxlan(name: &str, attributes: &VxlanAttributes) -> LinkMessageBuilder<LinkVxlan> {
    let mut link = LinkMessageBuilder::<LinkVxlan>::new(name)
        .id(attributes.vni)
        .port(attributes.dstport)
        .learning(attributes.learning)
        .proxy(attributes.proxy);
    match attributes.local {
        Some(IpAddr::V4(ip)) => link = link.local(ip),
        Some(IpAddr::V6(ip)) => link = link.local6(ip),
        None => {}
    }
    match attributes.group {
        Some(IpAddr::V4(ip)) => link = link.group(ip),
        Some(IpAddr::V6(ip)) => link = link.group6(ip),
        None => {}
    }
    if let Some(underlay) = attributes.link {
        link = link.dev(underlay.get());
    }
    if attributes.ttl != 0 {
        link = link.ttl(attributes.ttl);
    }
    if attributes.tos != 0 {
        link = link.tos(attributes.tos);
    }
    if attributes.srcport != (0, 0) {
        link = link.port_range(attributes.srcport.0, attributes.srcport.1);
    }
    if attributes.external {
        link = link.collect_metadata(true);
    }
    link
}

/// Group, TTL, TOS and learning; the kernel refuses to change anything else.
fn set_vxlan(index: Ifindex, attributes: &VxlanAttributes) -> LinkMessage {
    // "No group" is said with the unspecified address of the device's family.
    let group = attributes.group.unwrap_or(match attributes.local {
        Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Some(IpAddr::V4(_)) | None => Ipv4Addr::UNSPECIFIED.into(),
    });
    LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan)
        .index(index.get())
        .append_info_data(match group {
            IpAddr::V4(ip) => InfoVxlan::Group(ip),
            IpAddr::V6(ip) => InfoVxlan::Group6(ip),
        })
        .ttl(attributes.ttl)
        .tos(attributes.tos)
        .learning(attributes.learning)
        .build()
}

fn set_link(
    index: Ifindex,
    change: &LinkChange,
    resolve: &dyn Fn(&LinkRef) -> Result<Ifindex, Error>,
) -> Result<LinkMessage, Error> {
    let mut link = LinkUnspec::new_with_index(index.get());
    if let Some(mtu) = change.mtu {
        link = link.mtu(mtu.get());
    }
    if let Some(mac) = change.mac {
        link = link.address(mac.bytes().to_vec());
    }
    if let Some(alias) = &change.alias {
        link = link.alias(&**alias);
    }
    if let Some(length) = change.tx_queue_len {
        link = link.txqueuelen(length);
    }
    match &change.master {
        Some(Master::Set(master)) => link = link.controller(resolve(master)?.get()),
        Some(Master::Clear) => link = link.nocontroller(),
        None => {}
    }
    match change.up {
        Some(true) => link = link.up(),
        Some(false) => link = link.down(),
        None => {}
    }
    Ok(link.build())
}

fn port(
    mut port: LinkMessageBuilder<LinkBridgePort>,
    flags: &PortFlags,
) -> LinkMessageBuilder<LinkBridgePort> {
    type Setter = fn(LinkMessageBuilder<LinkBridgePort>, bool) -> LinkMessageBuilder<LinkBridgePort>;
    let setters: [(Option<bool>, Setter); 8] = [
        (flags.learning, LinkMessageBuilder::<LinkBridgePort>::learning),
        (flags.isolated, LinkMessageBuilder::<LinkBridgePort>::isolated),
        (flags.hairpin, LinkMessageBuilder::<LinkBridgePort>::hairpin),
        (flags.guard, LinkMessageBuilder::<LinkBridgePort>::guard),
        (
            flags.neigh_suppress,
            LinkMessageBuilder::<LinkBridgePort>::neigh_suppress,
        ),
        (flags.flood, LinkMessageBuilder::<LinkBridgePort>::flood),
        (
            flags.mcast_flood,
            LinkMessageBuilder::<LinkBridgePort>::mcast_flood,
        ),
        (
            flags.bcast_flood,
            LinkMessageBuilder::<LinkBridgePort>::bcast_flood,
        ),
    ];
    for (flag, set) in setters {
        if let Some(on) = flag {
            port = set(port, on);
        }
    }
    port
}

fn push_neighbour(action: ListAction, message: NeighbourMessage, batch: &mut Batch) {
    let request = match action {
        ListAction::Delete => RouteNetlinkMessage::DelNeighbour(message),
        _ => RouteNetlinkMessage::NewNeighbour(message),
    };
    batch.push(request, list_flags(action));
}

/// With a destination: an entry of the VXLAN device itself, carrying our mark. Without: a static entry of the bridge
/// for one of its ports (never both in one message, which the kernel half-applies).
fn forwarding(index: Ifindex, entry: &FdbEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index.get();
    message.attributes = vec![lladdr(entry.mac)];
    match entry.dst {
        Some(dst) => {
            message.header.state = NeighbourState::Other(mark::STATE);
            message.header.flags = NeighbourFlags::Own | NeighbourFlags::from_bits_retain(mark::FLAGS);
            message
                .attributes
                .push(NeighbourAttribute::Destination(dst.into()));
        }
        None => {
            message.header.state = NeighbourState::Noarp;
            message.header.flags = NeighbourFlags::Controller;
        }
    }
    message
}

fn neighbour(index: Ifindex, entry: &NeighbourEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match entry.ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = index.get();
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(entry.ip.into()),
        lladdr(entry.mac),
        NeighbourAttribute::Protocol(RouteProtocol::from(owned::PROTOCOL)),
    ];
    message
}

fn lladdr(mac: Mac) -> NeighbourAttribute {
    NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec())
}

fn push_address(
    op: &'static str,
    action: ListAction,
    link: Ifindex,
    record: &AddressRecord,
    batch: &mut Batch,
) -> Result<(), Error> {
    let [a, b, c, d] = link.get().to_ne_bytes();
    let fixed = [
        record.family,
        record.prefix_len,
        record.flags,
        record.scope,
        a,
        b,
        c,
        d,
    ];
    let kind = match action {
        ListAction::Delete => libc::RTM_DELADDR,
        _ => libc::RTM_NEWADDR,
    };
    batch.push_record(op, kind, list_flags(action), &fixed, &record.attributes)
}

fn push_route(
    op: &'static str,
    action: ListAction,
    record: &RouteRecord,
    batch: &mut Batch,
) -> Result<(), Error> {
    let [a, b, c, d] = record.flags.to_ne_bytes();
    let fixed = [
        record.family,
        record.dst_len,
        record.src_len,
        record.tos,
        record.table,
        record.protocol,
        record.scope,
        record.kind,
        a,
        b,
        c,
        d,
    ];
    let kind = match action {
        ListAction::Delete => libc::RTM_DELROUTE,
        _ => libc::RTM_NEWROUTE,
    };
    batch.push_record(op, kind, list_flags(action), &fixed, &record.attributes)
}
