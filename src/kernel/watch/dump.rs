//! The state to compare events with: one listing of every kind of object, on a socket of its own.
//!
//! Blocking, with a time limit for every read; the watch socket queues meanwhile. A listing the kernel calls
//! inconsistent (NLM_F_DUMP_INTR) is repeated a few times and then taken as it is: what changed during it is queued
//! on the watch socket anyway.

use super::{Objects, WatchError, decode};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// How long the kernel may keep silent within one listing.
const PATIENCE: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 4;
const HEADER: usize = 16;

/// Raw messages of a full listing, requests included, in the order they went over the socket.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub messages: Vec<Exchanged>,
    /// A listing stayed inconsistent after all attempts.
    pub interrupted: bool,
}

/// One raw message and which way it went.
#[derive(Debug)]
pub struct Exchanged {
    pub outgoing: bool,
    pub bytes: Box<[u8]>,
}

impl Snapshot {
    /// The rows the kernel answered with.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().filter(|m| !m.outgoing).map(|m| &*m.bytes)
    }
}

/// Lists everything `objects` names (links and bridge ports always).
pub fn dump(objects: Objects) -> Result<Snapshot, WatchError> {
    let fail = |source| WatchError::Open {
        what: "listing",
        source,
    };
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
    socket.bind_auto().map_err(fail)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
    limit_reads(&socket).map_err(fail)?;
    let listings = [
        (true, "links", libc::RTM_GETLINK, libc::AF_UNSPEC),
        (true, "bridge ports", libc::RTM_GETLINK, libc::AF_BRIDGE),
        (objects.addresses, "addresses", libc::RTM_GETADDR, libc::AF_UNSPEC),
        (objects.routes, "IPv4 routes", libc::RTM_GETROUTE, libc::AF_INET),
        (objects.routes, "IPv6 routes", libc::RTM_GETROUTE, libc::AF_INET6),
        (
            objects.neighbours,
            "neighbours",
            libc::RTM_GETNEIGH,
            libc::AF_UNSPEC,
        ),
        (
            objects.neighbours,
            "forwarding entries",
            libc::RTM_GETNEIGH,
            libc::AF_BRIDGE,
        ),
    ];
    let mut snapshot = Snapshot::default();
    let mut seq = 0;
    for (_, what, kind, family) in listings.into_iter().filter(|(wanted, ..)| *wanted) {
        for attempt in 1.. {
            seq += 1;
            let start = snapshot.messages.len();
            let interrupted = list(
                &socket,
                what,
                request(kind, family, seq),
                seq,
                &mut snapshot.messages,
            )?;
            if !interrupted {
                break;
            }
            if attempt == ATTEMPTS {
                snapshot.interrupted = true;
                break;
            }
            snapshot.messages.truncate(start);
        }
    }
    Ok(snapshot)
}

/// A dump request: header and a zero fixed part that is long enough for every type (struct ifinfomsg, 16 bytes).
fn request(kind: u16, family: libc::c_int, seq: u32) -> Box<[u8]> {
    let mut bytes = vec![0; HEADER + 16];
    let len = (bytes.len() as u32).to_ne_bytes();
    let flags = ((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes();
    let fields = len
        .into_iter()
        .chain(kind.to_ne_bytes())
        .chain(flags)
        .chain(seq.to_ne_bytes());
    for (to, from) in bytes.iter_mut().zip(fields) {
        *to = from;
    }
    if let Some(field) = bytes.get_mut(HEADER) {
        *field = family as u8;
    }
    bytes.into()
}

/// One listing, up to its NLMSG_DONE. True: the kernel flagged it as interrupted by a change.
fn list(
    socket: &Socket,
    what: &'static str,
    request: Box<[u8]>,
    seq: u32,
    into: &mut Vec<Exchanged>,
) -> Result<bool, WatchError> {
    let fail = |source| WatchError::Ask { what, source };
    socket.send(&request, 0).map_err(fail)?;
    into.push(Exchanged {
        outgoing: true,
        bytes: request,
    });
    let mut interrupted = false;
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(WatchError::Silent {
                    what,
                    seconds: PATIENCE.as_secs(),
                });
            }
            Err(error) => return Err(fail(error)),
        }
        for message in decode::messages(&buffer) {
            let Ok(message) = message else {
                return Err(fail(io::Error::other("an answer whose framing is broken")));
            };
            let Some(head) = decode::head(message).filter(|head| head.seq == seq) else {
                continue;
            };
            interrupted |= i32::from(head.flags) & libc::NLM_F_DUMP_INTR != 0;
            match i32::from(head.kind) {
                libc::NLMSG_DONE => return Ok(interrupted),
                libc::NLMSG_ERROR => {
                    let errno = message
                        .get(HEADER..HEADER + 4)
                        .and_then(|raw| raw.try_into().ok())
                        .map_or(libc::EPROTO, |raw| -i32::from_ne_bytes(raw));
                    return match errno {
                        // This kernel has no such table (IPv6 off, no bridge): an empty listing.
                        libc::EOPNOTSUPP | libc::EAFNOSUPPORT => Ok(interrupted),
                        _ => Err(fail(io::Error::from_raw_os_error(errno))),
                    };
                }
                _ => into.push(Exchanged {
                    outgoing: false,
                    bytes: message.into(),
                }),
            }
        }
    }
}

fn limit_reads(socket: &Socket) -> io::Result<()> {
    let limit = libc::timeval {
        tv_sec: PATIENCE.as_secs() as libc::time_t,
        tv_usec: 0,
    };
    // SAFETY: the option's value is one timeval, given with its size.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const limit).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
