//! Requests as bytes: one or more messages in one buffer that is reused from request to request.

use super::error::Error;
use crate::model::record::Attribute;
use crate::model::{Ifindex, LinkName};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

/// Which device to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKey {
    Index(Ifindex),
    Name(LinkName),
}

/// Messages to be sent together; their sequence numbers are filled in at sending.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins.
    starts: Vec<usize>,
}

impl Batch {
    /// An acknowledgement takes 768 bytes of receive buffer: 64 of them are a quarter of the smallest default.
    pub const MAX: usize = 64;

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }
    pub const fn len(&self) -> usize {
        self.starts.len()
    }
    pub const fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message at `position` alone, for a wrapper that sends one at a time.
    pub fn single(&self, position: usize) -> Batch {
        let start = self.starts.get(position).copied().unwrap_or(self.bytes.len());
        let end = self.starts.get(position + 1).copied().unwrap_or(self.bytes.len());
        Batch {
            bytes: self.bytes.get(start..end).unwrap_or_default().to_vec(),
            starts: if start < end { vec![0] } else { Vec::new() },
        }
    }

    /// Numbers the messages from `first` on; returns how many there are.
    pub(super) fn number(&mut self, first: u32) -> u32 {
        let mut seq = first;
        for &start in &self.starts {
            if let Some(field) = self.bytes.get_mut(start + 8..start + 12) {
                field.copy_from_slice(&seq.to_ne_bytes());
            }
            seq = seq.wrapping_add(1);
        }
        seq.wrapping_sub(first)
    }

    /// A request that asks for an acknowledgement. `flags` besides NLM_F_REQUEST | NLM_F_ACK.
    pub(super) fn push(&mut self, message: RouteNetlinkMessage, flags: u16) {
        self.push_plain(message, NLM_F_REQUEST | NLM_F_ACK | flags);
    }

    /// A request for every row there is; the message's header is the filter (NETLINK_GET_STRICT_CHK).
    pub(super) fn push_dump(&mut self, message: RouteNetlinkMessage) {
        self.push_plain(message, NLM_F_REQUEST | NLM_F_DUMP);
    }

    fn push_plain(&mut self, message: RouteNetlinkMessage, flags: u16) {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = self.bytes.len();
        self.bytes.resize(start + message.buffer_len(), 0);
        if let Some(room) = self.bytes.get_mut(start..) {
            message.serialize(room);
        }
        self.starts.push(start);
    }

    /// A request out of a fixed header and attributes kept as bytes, exactly as they were told.
    pub(super) fn push_record(
        &mut self,
        op: &'static str,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: &[Attribute],
    ) -> Result<(), Error> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; super::wire::HEADER_LEN]);
        self.bytes.extend_from_slice(fixed);
        for attribute in attributes {
            let Ok(len) = u16::try_from(attribute.value.len() + 4) else {
                self.bytes.truncate(start);
                return Err(Error::Inexpressible {
                    op,
                    problem: "an attribute is longer than 65,531 bytes",
                });
            };
            self.bytes.extend_from_slice(&len.to_ne_bytes());
            self.bytes.extend_from_slice(&attribute.kind.to_ne_bytes());
            self.bytes.extend_from_slice(&attribute.value);
            let padded = start + super::wire::align(self.bytes.len() - start);
            self.bytes.resize(padded, 0);
        }
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        header.message_type = kind;
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        if let Some(room) = self.bytes.get_mut(start..start + super::wire::HEADER_LEN) {
            netlink_packet_core::Emitable::emit(&header, room);
        }
        self.starts.push(start);
        Ok(())
    }

    /// RTM_GETTUNNEL: the VNIs of one VXLAN device (`struct tunnel_msg`; no typed message knows it).
    pub(super) fn push_vni_dump(&mut self, device: Ifindex) {
        const RTM_GETTUNNEL: u16 = 122;
        let start = self.bytes.len();
        self.bytes.resize(start + super::wire::HEADER_LEN, 0);
        self.bytes.extend_from_slice(&[libc::AF_BRIDGE as u8, 0, 0, 0]);
        self.bytes.extend_from_slice(&device.get().to_ne_bytes());
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        header.message_type = RTM_GETTUNNEL;
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        if let Some(room) = self.bytes.get_mut(start..start + super::wire::HEADER_LEN) {
            netlink_packet_core::Emitable::emit(&header, room);
        }
        self.starts.push(start);
    }

    /// RTM_GETLINK of one device, without its counters.
    pub(super) fn get_link(&mut self, key: LinkKey) {
        let mut message = LinkMessage::default();
        match key {
            LinkKey::Index(index) => message.header.index = index.get(),
            LinkKey::Name(name) => {
                let mut value = name.as_bytes().to_vec();
                value.push(0);
                message
                    .attributes
                    .push(LinkAttribute::Other(DefaultNla::new(libc::IFLA_IFNAME, value)));
            }
        }
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.push_plain(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST);
    }
}
