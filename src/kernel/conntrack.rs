//! Cuts flows: conntrack entries are found by address and deleted one by one.
//!
//! A flow goes on by its entry, whatever the rules say by now: one that came by a floating address would reach its old
//! machine until it ends. Both directions count: to the address (its first packet's destination) and from it (its answers'
//! destination).
//!
//! Blocks, for as long as it takes the kernel to list its entries; runs beside the loop.

use super::error::{Error, Goal, Refusal};
use super::wire::{Attributes, Malformed, Messages, align, i32_at};
use crate::plan::op::Flows;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::net::IpAddr;

const OP: &str = "cut_flows";
const BUFFER: usize = 64 * 1024;
/// `struct nfgenmsg`
const GENERIC_LEN: usize = 4;
/// `uapi/linux/netfilter/nfnetlink_conntrack.h`
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const NESTED: u16 = 0x8000;

/// One entry, as far as it is looked at.
struct Flow {
    original: (IpAddr, IpAddr),
    reply: (IpAddr, IpAddr),
    /// The attributes that name it: tuple, id, zone, as received.
    key: Vec<u8>,
}

/// How many entries were deleted.
pub fn cut(flows: &[Flows]) -> Result<usize, Error> {
    let socket = open()?;
    let mut cut = 0;
    for ipv4 in [true, false] {
        let concerned: Vec<&Flows> = flows.iter().filter(|f| is_ipv4(f) == ipv4).collect();
        if concerned.is_empty() {
            continue;
        }
        let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let mut keys = Vec::new();
        send(&socket, GET, NLM_F_REQUEST | NLM_F_DUMP, family, &[])?;
        read(&socket, |payload| {
            let flow = flow(payload).map_err(|source| Error::Answer { op: OP, source })?;
            if let Some(flow) = flow.filter(|flow| concerned.iter().any(|f| concerns(f, flow))) {
                keys.push(flow.key);
            }
            Ok(())
        })?;
        for key in keys {
            send(&socket, DELETE, NLM_F_REQUEST | NLM_F_ACK, family, &key)?;
            match read(&socket, |_| Ok(())) {
                Ok(()) => cut += 1,
                // Ended by itself.
                Err(Error::Refused { refusal, .. }) if refusal.errno == libc::ENOENT => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(cut)
}

/// One request of nfnetlink with one attribute, and its acknowledgement.
pub(super) fn exchange(kind: u16, family: u8, attribute: u16, value: &[u8]) -> Result<(), Error> {
    let socket = open()?;
    let mut attributes = Vec::new();
    push(&mut attributes, attribute, value);
    send(&socket, kind, NLM_F_REQUEST | NLM_F_ACK, family, &attributes)?;
    read(&socket, |_| Ok(()))
}

fn open() -> Result<Socket, Error> {
    let io = |what| move |source| Error::Io { what, source };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(io("opening an nfnetlink socket"))?;
    socket.bind_auto().map_err(io("binding an nfnetlink socket"))?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .map_err(io("connecting an nfnetlink socket"))?;
    Ok(socket)
}

fn is_ipv4(flows: &Flows) -> bool {
    match flows {
        Flows::Floating { address, .. } => address.is_ipv4(),
        Flows::Range(range) => range.is_ipv4(),
    }
}

fn concerns(flows: &Flows, flow: &Flow) -> bool {
    let (from, to) = flow.original;
    // Whoever answers, and whom he answers: the other way round, unless it is translated.
    let (answerer, answered) = flow.reply;
    match flows {
        Flows::Floating { address, keep } => {
            let leads_in = to == *address && answerer != to && Some(answerer) != *keep;
            let leads_out = answered == *address && answered != from && Some(from) != *keep;
            leads_in || leads_out
        }
        Flows::Range(range) => [from, to, answerer, answered]
            .iter()
            .any(|ip| range.contains(*ip)),
    }
}

fn flow(payload: &[u8]) -> Result<Option<Flow>, Malformed> {
    let (mut original, mut reply, mut key) = (None, None, Vec::new());
    for attribute in Attributes::behind(payload, GENERIC_LEN)? {
        let (kind, value) = attribute?;
        match kind {
            TUPLE_ORIG => {
                original = addresses(value)?;
                push(&mut key, kind | NESTED, value);
            }
            TUPLE_REPLY => reply = addresses(value)?,
            ID | ZONE => push(&mut key, kind, value),
            _ => {}
        }
    }
    Ok(original
        .zip(reply)
        .map(|(original, reply)| Flow { original, reply, key }))
}

/// Source and destination of a tuple.
fn addresses(tuple: &[u8]) -> Result<Option<(IpAddr, IpAddr)>, Malformed> {
    let (mut source, mut destination) = (None, None);
    for attribute in Attributes::new(tuple) {
        let (TUPLE_IP, value) = attribute? else { continue };
        for attribute in Attributes::new(value) {
            let (kind, value) = attribute?;
            let ip = match value.len() {
                4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
                16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
                _ => None,
            };
            // CTA_IP_V4_SRC 1, V4_DST 2, V6_SRC 3, V6_DST 4.
            match kind {
                1 | 3 => source = ip,
                2 | 4 => destination = ip,
                _ => {}
            }
        }
    }
    Ok(source.zip(destination))
}

fn push(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(align(out.len()), 0);
}

fn send(socket: &Socket, kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Result<(), Error> {
    let length = 16 + GENERIC_LEN + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(&[family, 0, 0, 0]);
    message.extend_from_slice(attributes);
    let sent = socket.send(&message, 0).map_err(|source| Error::Io {
        what: "sending a conntrack request",
        source,
    })?;
    debug_assert_eq!(sent, length);
    Ok(())
}

/// Reads one answer: the rows of a list, or an acknowledgement. The kernel answers inside the call that sends, so nothing
/// here waits.
fn read(socket: &Socket, mut row: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut window = &mut buffer[..];
        let length = match socket.recv(&mut window, 0) {
            Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
            Err(source) => {
                return Err(Error::Io {
                    what: "receiving a conntrack answer",
                    source,
                });
            }
        };
        let bad = |source| Error::Answer { op: OP, source };
        for message in Messages::new(buffer.get(..length).unwrap_or_default()) {
            let message = message.map_err(bad)?;
            match message.header.kind {
                kind if kind == NLMSG_DONE => return Ok(()),
                kind if kind == NLMSG_ERROR => {
                    return match i32_at(message.payload, 0) {
                        Some(0) => Ok(()),
                        Some(errno) => Err(Error::refused(OP, Goal::Change, Refusal::errno(-errno))),
                        None => Err(bad(Malformed("error message shorter than its code"))),
                    };
                }
                _ => row(message.payload)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(from: &str, to: &str, answerer: &str, answered: &str) -> Flow {
        let ip = |text: &str| text.parse().unwrap();
        Flow {
            original: (ip(from), ip(to)),
            reply: (ip(answerer), ip(answered)),
            key: Vec::new(),
        }
    }

    #[test]
    fn flows_of_a_floating_address_are_those_that_are_translated_by_it() {
        let of = |keep: Option<&str>| Flows::Floating {
            address: "203.0.113.7".parse().unwrap(),
            keep: keep.map(|ip| ip.parse().unwrap()),
        };
        let inward = flow("198.51.100.1", "203.0.113.7", "10.0.0.5", "198.51.100.1");
        let outward = flow("10.0.0.5", "198.51.100.1", "198.51.100.1", "203.0.113.7");
        assert!(concerns(&of(None), &inward) && concerns(&of(None), &outward));
        assert!(!concerns(&of(Some("10.0.0.5")), &inward) && !concerns(&of(Some("10.0.0.5")), &outward));
        assert!(concerns(&of(Some("10.0.0.6")), &inward) && concerns(&of(Some("10.0.0.6")), &outward));
        // The host's own, before the address was a floating one.
        let own = flow("198.51.100.1", "203.0.113.7", "203.0.113.7", "198.51.100.1");
        assert!(!concerns(&of(None), &own));
        let range = Flows::Range("10.0.0.0/24".parse().unwrap());
        assert!(concerns(&range, &inward) && concerns(&range, &outward) && !concerns(&range, &own));
    }
}
