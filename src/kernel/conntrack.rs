//! Cuts flows: conntrack entries are found by what translated them and deleted one by one.
//!
//! A flow goes on by its entry, whatever the rules say by now: one that came by a floating address would reach its old
//! machine until it ends. Both directions count: to the address (its first packet's destination) and from it (its answers'
//! destination).
//!
//! Blocks, for as long as it takes the kernel to list its entries; runs beside the loop.

use super::error::{Error, Goal, Refusal};
use super::wire::{Attributes, Malformed, Messages, align, i32_at};
use crate::desired::translation::Translation;
use crate::model::gateway::Protocol;
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
const TUPLE_PROTO: u16 = 2;
const NESTED: u16 = 0x8000;

/// One direction: who sends what to whom. Ports are 0 where the protocol has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    protocol: u8,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
}

/// One entry, as far as it is looked at.
struct Flow {
    original: Tuple,
    reply: Tuple,
    /// The attributes that name it: tuple, id, zone, as received.
    key: Vec<u8>,
}

/// Ends the flows of these translations. How many entries were deleted.
pub fn cut(translations: &[Translation]) -> Result<usize, Error> {
    let mut cut = 0;
    for ipv4 in [true, false] {
        let concerned: Vec<&Translation> = translations.iter().filter(|t| is_ipv4(t) == ipv4).collect();
        if concerned.is_empty() {
            continue;
        }
        let socket = open()?;
        let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let mut keys = Vec::new();
        send(&socket, GET, NLM_F_REQUEST | NLM_F_DUMP, family, &[])?;
        read(&socket, |payload| {
            let flow = flow(payload).map_err(|source| Error::Answer { op: OP, source })?;
            if let Some(flow) = flow.filter(|flow| concerned.iter().any(|t| is_by(t, flow))) {
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

fn open() -> Result<Socket, Error> {
    let io = |what| move |source| Error::Io { what, source };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(io("opening an nfnetlink socket"))?;
    socket.bind_auto().map_err(io("binding an nfnetlink socket"))?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .map_err(io("connecting an nfnetlink socket"))?;
    Ok(socket)
}

fn is_ipv4(translation: &Translation) -> bool {
    match translation {
        Translation::Floating { address, .. } => address.is_ipv4(),
        Translation::Forward(forward) => forward.address.is_ipv4(),
        Translation::Range(range) => range.is_ipv4(),
    }
}

const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
        Protocol::Sctp => libc::IPPROTO_SCTP as u8,
    }
}

/// Without translation the reply is the original the other way round.
fn is_by(translation: &Translation, flow: &Flow) -> bool {
    let (original, reply) = (&flow.original, &flow.reply);
    match translation {
        Translation::Floating { address, fixed } => {
            let leads_in = original.to.0 == *address && reply.from.0 == *fixed;
            let leads_out = original.from.0 == *fixed && reply.to.0 == *address;
            leads_in || leads_out
        }
        Translation::Forward(forward) => {
            original.protocol == number(forward.protocol)
                && original.to == (forward.address, forward.port)
                && reply.from == (forward.fixed_address, forward.fixed_port)
        }
        Translation::Range(range) => [original, reply]
            .iter()
            .any(|tuple| range.contains(tuple.from.0) || range.contains(tuple.to.0)),
    }
}

fn flow(payload: &[u8]) -> Result<Option<Flow>, Malformed> {
    let (mut original, mut reply, mut key) = (None, None, Vec::new());
    for attribute in Attributes::behind(payload, GENERIC_LEN)? {
        let (kind, value) = attribute?;
        match kind {
            TUPLE_ORIG => {
                original = tuple(value)?;
                push(&mut key, kind | NESTED, value);
            }
            TUPLE_REPLY => reply = tuple(value)?,
            ID | ZONE => push(&mut key, kind, value),
            _ => {}
        }
    }
    Ok(original
        .zip(reply)
        .map(|(original, reply)| Flow { original, reply, key }))
}

fn tuple(attributes: &[u8]) -> Result<Option<Tuple>, Malformed> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut from, mut to) = (0, 0, 0);
    for attribute in Attributes::new(attributes) {
        let (part, value) = attribute?;
        for attribute in Attributes::new(value) {
            let (kind, value) = attribute?;
            let port = || value.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
            match (part, kind) {
                // CTA_IP_V4_SRC 1, V4_DST 2, V6_SRC 3, V6_DST 4.
                (TUPLE_IP, 1 | 3) => source = ip(value),
                (TUPLE_IP, 2 | 4) => destination = ip(value),
                // CTA_PROTO_NUM 1, SRC_PORT 2, DST_PORT 3.
                (TUPLE_PROTO, 1) => protocol = value.first().copied().unwrap_or(0),
                (TUPLE_PROTO, 2) => from = port(),
                (TUPLE_PROTO, 3) => to = port(),
                _ => {}
            }
        }
    }
    Ok(source.zip(destination).map(|(source, destination)| Tuple {
        protocol,
        from: (source, from),
        to: (destination, to),
    }))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
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
    use crate::model::gateway::PortForward;

    fn flow(from: &str, to: &str, answerer: &str, answered: &str) -> Flow {
        let tuple = |from: &str, to: &str| {
            let [from, to] = [from, to].map(|text| {
                let socket: std::net::SocketAddr = text.parse().unwrap();
                (socket.ip(), socket.port())
            });
            Tuple {
                protocol: 6,
                from,
                to,
            }
        };
        Flow {
            original: tuple(from, to),
            reply: tuple(answerer, answered),
            key: Vec::new(),
        }
    }

    #[test]
    fn flows_are_those_that_the_translation_made() {
        let floating = |fixed: &str| Translation::Floating {
            address: "203.0.113.7".parse().unwrap(),
            fixed: fixed.parse().unwrap(),
        };
        let inward = flow(
            "198.51.100.1:999",
            "203.0.113.7:80",
            "10.0.0.5:80",
            "198.51.100.1:999",
        );
        let outward = flow(
            "10.0.0.5:999",
            "198.51.100.1:80",
            "198.51.100.1:80",
            "203.0.113.7:999",
        );
        // The host's own, before the address was a floating one.
        let own = flow(
            "198.51.100.1:999",
            "203.0.113.7:80",
            "203.0.113.7:80",
            "198.51.100.1:999",
        );
        let by = |translation: &Translation| [&inward, &outward, &own].map(|flow| is_by(translation, flow));
        assert_eq!(by(&floating("10.0.0.5")), [true, true, false]);
        assert_eq!(by(&floating("10.0.0.6")), [false; 3]);
        assert_eq!(
            by(&Translation::Range("10.0.0.0/24".parse().unwrap())),
            [true, true, false]
        );
        let forward = |protocol, port, fixed_port| {
            Translation::Forward(PortForward {
                protocol,
                address: "203.0.113.7".parse().unwrap(),
                port,
                fixed_address: "10.0.0.5".parse().unwrap(),
                fixed_port,
            })
        };
        assert_eq!(by(&forward(Protocol::Tcp, 80, 80)), [true, false, false]);
        assert_eq!(by(&forward(Protocol::Udp, 80, 80)), [false; 3]);
        assert_eq!(by(&forward(Protocol::Tcp, 81, 80)), [false; 3]);
        assert_eq!(by(&forward(Protocol::Tcp, 80, 81)), [false; 3]);
    }
}
