//! Watching everything: one socket on the link, address, route and neighbour groups, for people and recordings.
//!
//! The daemon's own monitor reads RTNLGRP_LINK only and decides from it; this one decides nothing. It is what
//! `tapwire trace` reads, with or without a daemon, and needs no privilege (a forced receive buffer if it has one).
//! One socket for all groups, because only one queue keeps the kernel's order across them.
//!
//! Invariants: subscribe first, dump second, on different sockets ([`dump()`]); a message that cannot be decoded is
//! returned as such and never ends the stream; an overrun is a return value, not an error. The socket is non-blocking:
//! whoever owns it waits for readability (`AsFd`) and then calls [`Watch::receive`] until it says `Empty`.

pub mod decode;
pub mod dump;
pub mod notice;

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

pub use decode::{Undecodable, decode};
pub use dump::{Snapshot, dump};
pub use notice::{
    AddressFacts, Body, Head, LinkFacts, NeighbourFacts, NextHop, Notice, PortFacts, RouteFacts, Verb,
};

/// Bytes asked for with SO_RCVBUFFORCE. A burst of 2,000 taps with `up` is 32 MB of queued link messages; the other
/// groups double it. Nothing is allocated until it is needed.
pub const RECEIVE_BUFFER: usize = 128 << 20;

/// The largest datagram read whole. A link with 100 alternative names is 14 KB; dumps come in skbs of up to 32 KB.
const DATAGRAM: usize = 256 << 10;

/// What went wrong with the socket itself. Every variant ends the watching; a decoding failure or an overrun does not.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot open a netlink socket for {what}")]
    Open {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the netlink socket")]
    Receive(#[source] io::Error),
    #[error("cannot ask the kernel for its {what}")]
    Ask {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the kernel did not finish listing its {what} within {seconds} s")]
    Silent { what: &'static str, seconds: u64 },
}

/// What to listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objects {
    pub links: bool,
    pub addresses: bool,
    pub routes: bool,
    /// ARP and neighbour discovery, and (AF_BRIDGE) forwarding entries: one group carries both.
    pub neighbours: bool,
}

impl Objects {
    pub const ALL: Objects = Objects {
        links: true,
        addresses: true,
        routes: true,
        neighbours: true,
    };

    fn groups(self) -> impl Iterator<Item = u32> {
        let of = |on: bool, groups: &'static [u32]| if on { groups } else { &[] };
        [
            // Always: names, kinds and masters of the other objects' devices come from here.
            of(true, &[libc::RTNLGRP_LINK]),
            of(
                self.addresses,
                &[libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR],
            ),
            of(self.routes, &[libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV6_ROUTE]),
            of(self.neighbours, &[libc::RTNLGRP_NEIGH]),
        ]
        .into_iter()
        .flatten()
        .copied()
    }
}

/// One call of [`Watch::receive`].
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// One datagram of one or more whole messages; split it with [`decode::messages`].
    Datagram(&'a [u8]),
    /// ENOBUFS: the kernel dropped messages since the last call. What is still queued is older than the loss.
    Overrun,
    /// A datagram that did not fit the buffer, of this many bytes: as good as lost.
    Truncated(usize),
    /// Nothing queued: wait for readability.
    Empty,
}

/// The subscribed socket.
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
    inode: u64,
    granted: usize,
    dropped: u64,
}

impl Watch {
    /// Subscribes. `receive_buffer` in bytes: forced if allowed (CAP_NET_ADMIN in the socket's user namespace), else
    /// as much of it as `net.core.rmem_max` gives; [`Watch::receive_buffer`] says what it became.
    pub fn open(objects: Objects, receive_buffer: usize) -> Result<Self, WatchError> {
        let fail = |source| WatchError::Open {
            what: "events",
            source,
        };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
        force_receive_buffer(&socket, receive_buffer).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        socket.set_non_blocking(true).map_err(fail)?;
        for group in objects.groups() {
            socket.add_membership(group).map_err(fail)?;
        }
        let granted = socket.get_rx_buf_sz().map_err(fail)?;
        let inode = inode_of(socket.as_raw_fd()).map_err(fail)?;
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM],
            inode,
            granted,
            dropped: 0,
        })
    }

    /// Bytes of receive buffer the kernel granted (it doubles what is asked for).
    pub fn receive_buffer(&self) -> usize {
        self.granted
    }

    /// Next datagram, or why there is none. Datagrams of other processes (sender not the kernel) are skipped.
    pub fn receive(&mut self) -> Result<Received<'_>, WatchError> {
        loop {
            // SAFETY: an all-zero sockaddr_nl is a valid value, and the kernel writes at most `len` bytes into it.
            let mut sender: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
            let mut len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            // SAFETY: the descriptor is open for as long as `self.socket`; buffer and address are valid for writes of
            // the lengths given. MSG_TRUNC makes the call return the datagram's true length.
            let n = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    libc::MSG_TRUNC,
                    (&raw mut sender).cast(),
                    &raw mut len,
                )
            };
            let Ok(n) = usize::try_from(n) else {
                let error = io::Error::last_os_error();
                return match error.raw_os_error() {
                    Some(libc::ENOBUFS) => Ok(Received::Overrun),
                    Some(libc::EAGAIN) => Ok(Received::Empty),
                    Some(libc::EINTR) => continue,
                    _ => Err(WatchError::Receive(error)),
                };
            };
            if n > self.buffer.len() {
                return Ok(Received::Truncated(n));
            }
            if sender.nl_pid == 0 {
                return Ok(Received::Datagram(self.buffer.get(..n).unwrap_or_default()));
            }
        }
    }

    /// Messages the kernel dropped on this socket since the last call, by its own count (`/proc/net/netlink`).
    ///
    /// `None` when that cannot be read, or when the kernel reported a loss it did not count (an skb it could not
    /// allocate): then nobody knows the number.
    pub fn lost_since_last_asked(&mut self) -> Option<u64> {
        let total = drops(self.inode)?;
        let lost = total.saturating_sub(self.dropped);
        self.dropped = total;
        (lost > 0).then_some(lost)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.socket`, which lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// SO_RCVBUFFORCE, else SO_RCVBUF: inside a user namespace the first is refused with EPERM.
fn force_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the option's value is one c_int, given with its size.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        socket.set_rx_buf_sz(value)
    }
}

fn inode_of(fd: std::os::fd::RawFd) -> io::Result<u64> {
    // SAFETY: an all-zero stat is a valid value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for the write.
    match unsafe { libc::fstat(fd, &raw mut stat) } {
        0 => Ok(stat.st_ino),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The Drops column of the socket with this inode. Columns: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode.
fn drops(inode: u64) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace().rev();
        let this: u64 = columns.next()?.parse().ok()?;
        let drops = columns.next()?.parse().ok()?;
        (this == inode).then_some(drops)
    })
}
