//! Netlink's two framings, read raw: messages in a datagram and attributes in a message.
//!
//! The receiving side walks bytes instead of building typed messages: a decision needs a dozen of the sixty
//! attributes of an RTM_NEWLINK, and a typed decode of all of them costs fifty times the walk (`benches/kernel.rs`). Nothing
//! here panics on any bytes; a length that does not fit ends the walk with `Malformed`.

/// A length field that does not fit what surrounds it, or a value of the wrong size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink bytes: {0}")]
pub struct Malformed(pub &'static str);

/// `struct nlmsghdr` without its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `RTM_*` or `NLMSG_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Of a notification: the sequence number of the request that caused it, or 0.
    pub seq: u32,
    /// Of a notification about an address or route: the port id of the socket whose request caused it. Notifications
    /// about links carry 0, whoever caused them (6.18).
    pub portid: u32,
}

pub const HEADER_LEN: usize = 16;

/// One message out of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub header: Header,
    /// Behind the header, without padding.
    pub payload: &'a [u8],
    /// Header and payload, as received.
    pub raw: &'a [u8],
}

/// The messages of a datagram. After `Malformed` it ends: where the next one starts is not known any more.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let taken = take_message(self.rest);
        match taken {
            Ok((message, rest)) => {
                self.rest = rest;
                Some(Ok(message))
            }
            Err(malformed) => {
                self.rest = &[];
                Some(Err(malformed))
            }
        }
    }
}

fn take_message(bytes: &[u8]) -> Result<(Message<'_>, &[u8]), Malformed> {
    let (Some(len), Some(kind), Some(flags), Some(seq), Some(portid)) = (
        u32_at(bytes, 0),
        u16_at(bytes, 4),
        u16_at(bytes, 6),
        u32_at(bytes, 8),
        u32_at(bytes, 12),
    ) else {
        return Err(Malformed("datagram ends inside a message header"));
    };
    let len = len as usize;
    let (Some(raw), Some(payload)) = (bytes.get(..len), bytes.get(HEADER_LEN..len)) else {
        return Err(Malformed("message length does not fit the datagram"));
    };
    let header = Header {
        kind,
        flags,
        seq,
        portid,
    };
    let rest = bytes.get(align(len)..).unwrap_or_default();
    Ok((Message { header, payload, raw }, rest))
}

/// The attributes of a message or of a nested attribute: `(type without flag bits, value)`.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
    /// Those behind a fixed header of `len` bytes.
    pub fn behind(payload: &'a [u8], len: usize) -> Result<Self, Malformed> {
        payload
            .get(len..)
            .map(Self::new)
            .ok_or(Malformed("message shorter than its fixed header"))
    }
}

/// `NLA_TYPE_MASK`: the upper two bits say "nested" and "network byte order".
const TYPE_MASK: u16 = netlink_packet_core::NLA_TYPE_MASK;
const ATTRIBUTE_HEADER_LEN: usize = netlink_packet_core::NLA_HEADER_SIZE;

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (Some(len), Some(kind)) = (u16_at(self.rest, 0), u16_at(self.rest, 2)) else {
            // Less than an attribute header: the kernel's own nla_for_each_attr ignores such a tail too.
            return None;
        };
        let len = usize::from(len);
        let Some(value) = self.rest.get(ATTRIBUTE_HEADER_LEN..len) else {
            self.rest = &[];
            return Some(Err(Malformed("attribute length does not fit")));
        };
        self.rest = self.rest.get(align(len)..).unwrap_or_default();
        Some(Ok((kind & TYPE_MASK, value)))
    }
}

/// Netlink aligns everything to four bytes.
pub const fn align(len: usize) -> usize {
    len.saturating_add(3) & !3
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

pub fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array_at(bytes, at).map(i32::from_ne_bytes)
}

/// Values of attributes: the kernel's size or longer, never shorter (`nla_get_*`).
pub fn u8_value(value: &[u8]) -> Result<u8, Malformed> {
    value
        .first()
        .copied()
        .ok_or(Malformed("empty attribute where a byte belongs"))
}

pub fn u16_value(value: &[u8]) -> Result<u16, Malformed> {
    u16_at(value, 0).ok_or(Malformed("attribute shorter than 16 bits"))
}

pub fn u32_value(value: &[u8]) -> Result<u32, Malformed> {
    u32_at(value, 0).ok_or(Malformed("attribute shorter than 32 bits"))
}

/// Network byte order.
pub fn be16_value(value: &[u8]) -> Result<u16, Malformed> {
    array_at(value, 0)
        .map(u16::from_be_bytes)
        .ok_or(Malformed("attribute shorter than 16 bits"))
}

/// A string attribute up to its terminating zero, if it has one.
pub fn string_value(value: &[u8]) -> &[u8] {
    value.split(|b| *b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_length_attribute_ends_the_walk_instead_of_turning_for_ever() {
        let bytes = [0, 0, 1, 0, 0, 0, 0, 0];
        let seen: Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!(seen, [Err(Malformed("attribute length does not fit"))]);
    }

    #[test]
    fn a_tail_shorter_than_an_attribute_header_is_ignored_as_the_kernel_does() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&5u16.to_ne_bytes());
        bytes.extend_from_slice(&7u16.to_ne_bytes());
        bytes.extend_from_slice(&[9, 0, 0, 0, 1, 2, 3]);
        let seen: Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!(seen, [Ok((7, &[9][..]))]);
    }

    #[test]
    fn a_message_longer_than_its_datagram_is_malformed() {
        let mut bytes = vec![0; 16];
        bytes[..4].copy_from_slice(&20u32.to_ne_bytes());
        assert_eq!(
            Messages::new(&bytes).collect::<Vec<_>>(),
            [Err(Malformed("message length does not fit the datagram"))]
        );
        assert!(Messages::new(&bytes[..15]).next().is_some_and(|m| m.is_err()));
        assert_eq!(Messages::new(&[]).next(), None);
    }
}
