//! nfnetlink messages as bytes: the two framings of `wire`, written.
//!
//! Everything of nf_tables is in network byte order, nested attributes carry NLA_F_NESTED, strings their zero.

use crate::kernel::wire::{HEADER_LEN, align};

/// `struct nfgenmsg`: family, version, resource id.
pub const GENERIC_LEN: usize = 4;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
pub const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// NLM_F_APPEND: a rule goes to the end of its chain.
pub const APPEND: u16 = libc::NLM_F_APPEND as u16;

/// `NFPROTO_BRIDGE`
pub const BRIDGE: u8 = libc::NFPROTO_BRIDGE as u8;

/// A message's type, of one of `libc::NFT_MSG_*`.
pub const fn kind(message: libc::c_int) -> u16 {
    (SUBSYSTEM << 8) | message as u16
}

/// A transaction, or a request for a list.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    /// Where the last message begins: it alone is acknowledged.
    last: usize,
    count: u32,
}

impl Messages {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// Messages so far.
    pub const fn count(&self) -> u32 {
        self.count
    }
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.last, self.count) = (0, 0);
    }

    /// `NFNL_MSG_BATCH_BEGIN`: from here to `end` all or nothing.
    pub fn begin(&mut self) {
        self.clear();
        self.push(libc::NFNL_MSG_BATCH_BEGIN as u16, REQUEST, 0, SUBSYSTEM, |_| {});
    }

    /// Numbers the messages from `first` on; asks for an acknowledgement of the last change, whose number is returned.
    pub fn end(&mut self, first: u32) -> u32 {
        let acknowledged = first.wrapping_add(self.count).wrapping_sub(1);
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            flags.copy_from_slice(&(u16_of(flags) | ACK).to_ne_bytes());
        }
        self.push(libc::NFNL_MSG_BATCH_END as u16, REQUEST, 0, SUBSYSTEM, |_| {});
        self.number(first);
        acknowledged
    }

    /// A change of the bridge family's objects.
    pub fn change(&mut self, message: libc::c_int, flags: u16, attributes: impl FnOnce(&mut Attributes<'_>)) {
        self.push(kind(message), REQUEST | flags, BRIDGE, 0, attributes);
    }

    /// Asks for all objects of a kind that the attributes name.
    pub fn list(
        &mut self,
        message: libc::c_int,
        family: u8,
        seq: u32,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.clear();
        self.push(kind(message), REQUEST | DUMP, family, 0, attributes);
        self.number(seq);
    }

    /// Asks for one object.
    pub fn get(
        &mut self,
        message: libc::c_int,
        family: u8,
        seq: u32,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.clear();
        self.push(kind(message), REQUEST, family, 0, attributes);
        self.number(seq);
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        attributes(&mut Attributes {
            bytes: &mut self.bytes,
        });
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(start..start + 4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.last = start;
        self.count += 1;
    }

    fn number(&mut self, first: u32) {
        let (mut at, mut seq) = (0, first);
        while let Some(head) = self.bytes.get_mut(at..at + HEADER_LEN) {
            let length = head.first_chunk::<4>().map_or(0, |b| u32::from_ne_bytes(*b)) as usize;
            if let Some(field) = head.get_mut(8..12) {
                field.copy_from_slice(&seq.to_ne_bytes());
            }
            seq = seq.wrapping_add(1);
            at += align(length.max(HEADER_LEN));
        }
    }
}

fn u16_of(bytes: &[u8]) -> u16 {
    bytes.first_chunk::<2>().map_or(0, |b| u16::from_ne_bytes(*b))
}

/// Writes the attributes of a message, or of one nested in it.
#[derive(Debug)]
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// Bytes of the whole message so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
    }
    pub fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }
    pub fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.open(kind | NESTED);
        inner(&mut Attributes { bytes: self.bytes });
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }
    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(field) = self.bytes.get_mut(start..start + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        let padded = start + align(self.bytes.len() - start);
        self.bytes.resize(padded, 0);
    }
}

impl<'a> Attributes<'a> {
    /// For attributes outside a message.
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        Attributes { bytes }
    }
}
