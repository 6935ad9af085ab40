//! Forwarding entries and neighbours as typed messages, addresses and routes as the bytes they were read.

use super::super::error::Error;
use super::super::mark;
use super::super::request::Batch;
use super::CREATE;
use crate::model::record::{AddressRecord, RouteRecord};
use crate::model::{FdbEntry, Ifindex, Mac, NeighbourEntry, Vni, owned};
use crate::plan::op::ListAction;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

pub fn push_neighbour(action: ListAction, message: NeighbourMessage, batch: &mut Batch) {
    let request = match action {
        ListAction::Delete => RouteNetlinkMessage::DelNeighbour(message),
        _ => RouteNetlinkMessage::NewNeighbour(message),
    };
    batch.push(request, list_flags(action));
}

/// With a destination: an entry of the VXLAN device itself, carrying our mark. Without: a static entry of the bridge
/// for one of its ports (never both in one message, which the kernel half-applies).
pub fn forwarding(index: Ifindex, entry: &FdbEntry, vni: Option<Vni>) -> NeighbourMessage {
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
            let of = vni.map(|vni| NeighbourAttribute::SourceVni(vni.get()));
            message.attributes.extend(of);
        }
        None => {
            message.header.state = NeighbourState::Noarp;
            message.header.flags = NeighbourFlags::Controller;
        }
    }
    message
}

pub fn neighbour(index: Ifindex, entry: &NeighbourEntry) -> NeighbourMessage {
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

pub fn push_address(
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

pub fn push_route(
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

const fn list_flags(action: ListAction) -> u16 {
    match action {
        ListAction::Replace => NLM_F_CREATE | NLM_F_REPLACE,
        ListAction::Append => NLM_F_CREATE | NLM_F_APPEND,
        ListAction::Add => CREATE,
        ListAction::Delete => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::decode::{Change, change};
    use crate::kernel::wire::Messages;

    #[test]
    fn what_is_told_back_is_byte_for_byte_what_was_read() {
        let mut batch = Batch::default();
        let mut read = Vec::new();
        for captured in [
            &include_bytes!("../../../tests/data/rtnetlink-6.1.bin")[..],
            &include_bytes!("../../../tests/data/rtnetlink-6.18.bin")[..],
        ] {
            for message in Messages::new(captured) {
                let message = message.unwrap();
                match change(&message).unwrap() {
                    Change::AddressSet(record) | Change::AddressGone(record) => {
                        let link = Ifindex::new(record.ifindex).unwrap();
                        push_address("address", ListAction::Add, link, &record, &mut batch).unwrap();
                    }
                    Change::RouteSet(record) | Change::RouteGone(record) => {
                        push_route("route", ListAction::Add, &record, &mut batch).unwrap();
                    }
                    _ => continue,
                }
                read.push(message.payload);
            }
        }
        assert!(read.len() > 20);
        assert_eq!(batch.number(7), u32::try_from(read.len()).unwrap());
        let told: Vec<_> = Messages::new(batch.bytes()).map(Result::unwrap).collect();
        assert_eq!(told.iter().map(|m| m.payload).collect::<Vec<_>>(), read);
        assert!((7..).zip(&told).all(|(seq, message)| message.header.seq == seq));
        let second = batch.single(1);
        assert_eq!((second.len(), second.bytes()), (1, told[1].raw));
        assert!(batch.single(read.len()).is_empty());
    }

    #[test]
    fn an_attribute_too_long_for_its_length_field_is_refused_and_leaves_no_half_message() {
        let record = RouteRecord {
            family: 2,
            dst_len: 0,
            src_len: 0,
            tos: 0,
            table: 254,
            protocol: 4,
            scope: 0,
            kind: 1,
            flags: 0,
            attributes: vec![crate::model::record::Attribute {
                kind: 1,
                value: vec![0; 65_532],
            }],
        };
        let mut batch = Batch::default();
        let error = push_route("route", ListAction::Add, &record, &mut batch).unwrap_err();
        assert_eq!(
            error.to_string(),
            "route: an attribute is longer than 65,531 bytes"
        );
        assert!(batch.is_empty() && batch.bytes().is_empty());
    }
}
