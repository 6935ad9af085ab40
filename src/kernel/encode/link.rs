//! Links: making them and changing them, through rtnetlink's builders.

use super::super::error::Error;
use crate::model::{BridgeAttributes, Ifindex, Mtu, PortFlags, VxlanAttributes};
use crate::plan::op::{LinkChange, LinkRef, Master};
use netlink_packet_route::link::{
    BridgeBooleanOptionFlags, BridgeBooleanOptions, BridgeStpState, InfoBridge, InfoKind, InfoVxlan,
    LinkMessage,
};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVxlan};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub fn sized<T>(link: LinkMessageBuilder<T>, mtu: Option<Mtu>) -> LinkMessage {
    match mtu {
        Some(mtu) => link.mtu(mtu.get()).build(),
        None => link.build(),
    }
}

pub fn bridge(
    mut link: LinkMessageBuilder<LinkBridge>,
    attributes: &BridgeAttributes,
) -> LinkMessageBuilder<LinkBridge> {
    let BridgeAttributes {
        stp,
        forward_delay,
        ageing_time,
        multicast_snooping,
        vlan_filtering,
        vlan_default_pvid,
        link_local_learning,
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
    if let Some(vid) = vlan_default_pvid {
        link = link.vlan_default_pvid(vid);
    }
    if let Some(learns) = link_local_learning {
        // Not `set_boolean_opt`, which a change of a bridge that stands does not send (rtnetlink 0.24).
        let mask = BridgeBooleanOptionFlags::NoLinkLocalLearn;
        let value = if learns {
            BridgeBooleanOptionFlags::empty()
        } else {
            mask
        };
        link = link.append_info_data(InfoBridge::MultiBoolOpt(BridgeBooleanOptions { value, mask }));
    }
    link
}

pub fn new_vxlan(name: &str, attributes: &VxlanAttributes) -> LinkMessageBuilder<LinkVxlan> {
    let mut link = LinkMessageBuilder::<LinkVxlan>::new(name);
    // The kernel takes a device of many networks for one of VNI 0 if it is told one.
    if !attributes.external {
        link = link.id(attributes.vni);
    }
    link = link
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
    if attributes.vnifilter {
        link = link.vnifilter(true);
    }
    link
}

/// Underlay, group, TTL, TOS and learning; the kernel refuses to change anything else.
pub fn set_vxlan(index: Ifindex, attributes: &VxlanAttributes) -> LinkMessage {
    // "No group" is said with the unspecified address of the device's family.
    let group = attributes.group.unwrap_or(match attributes.local {
        Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Some(IpAddr::V4(_)) | None => Ipv4Addr::UNSPECIFIED.into(),
    });
    let mut link = LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan).index(index.get());
    if let Some(underlay) = attributes.link {
        link = link.dev(underlay.get());
    }
    link.append_info_data(match group {
        IpAddr::V4(ip) => InfoVxlan::Group(ip),
        IpAddr::V6(ip) => InfoVxlan::Group6(ip),
    })
    .ttl(attributes.ttl)
    .tos(attributes.tos)
    .learning(attributes.learning)
    .build()
}

pub fn set_link(
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

pub fn port(
    mut port: LinkMessageBuilder<LinkBridgePort>,
    flags: &PortFlags,
) -> LinkMessageBuilder<LinkBridgePort> {
    type Setter = fn(LinkMessageBuilder<LinkBridgePort>, bool) -> LinkMessageBuilder<LinkBridgePort>;
    let setters: [(Option<bool>, Setter); 9] = [
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
        (
            flags.vlan_tunnel,
            LinkMessageBuilder::<LinkBridgePort>::vlan_tunnel,
        ),
    ];
    for (flag, set) in setters {
        if let Some(on) = flag {
            port = set(port, on);
        }
    }
    port
}
