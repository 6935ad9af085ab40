//! The subscription socket: every link event of the network namespace, in order, or a plain word that some were lost.
//!
//! Owned by the daemon's loop, which awaits `readable` and then `drain`s with a budget, so that other work gets its
//! turn in a storm. Nothing here decides anything; nothing here runs policy code. Invariants: only messages of the
//! kernel itself (sender port 0) are told; a datagram that does not fit the buffer, or an overrun of the receive
//! buffer, is told as `Overrun` and the stream goes on.
//!
//! One `recvfrom` per message: 0.8 us with decoding; sixteen at a time with `recvmmsg` saved 10-20 ns each (6.18,
//! `benches/kernel.rs`), not worth its buffers.
//!
//! Costs that size the buffer: a queued link message takes 2,304 bytes of it (whatever its own 1.5 KB), one tap's
//! whole life is 17 messages, so the default of 212,992 bytes holds 92 unread births; 64 MiB hold 29,000.

use super::decode::{self, Change};
use super::error::Error;
use super::wire::{Malformed, Message, Messages};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use std::io;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel builds notifications up to what a link with all its attributes needs; 14 KB was the largest seen
/// (100 alternative names of 118 bytes).
const BUFFER: usize = 64 * 1024;

/// What to subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription {
    /// Links only: the socket of the hot path.
    Links,
    /// Addresses of both families: an unhurried socket of its own, so that somebody's burst of addresses never
    /// overruns the first. No routes and neighbours: they change all the time, and nothing here decides by them.
    Addresses,
}

impl Subscription {
    fn groups(self) -> &'static [u32] {
        const LINKS: [u32; 1] = [libc::RTNLGRP_LINK];
        const ADDRESSES: [u32; 2] = [libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];
        match self {
            Subscription::Links => &LINKS,
            Subscription::Addresses => &ADDRESSES,
        }
    }
}

/// What came in.
#[derive(Debug)]
pub enum RxEvent<'a> {
    Message {
        /// When `recvmsg` returned.
        received: Instant,
        /// Header and raw bytes: cause (`portid`, `seq`) and the recorder's food.
        message: Message<'a>,
        change: Change,
    },
    /// A message that contradicts itself: counted, and worth one (rate-limited) resync.
    Undecodable {
        received: Instant,
        /// What is left of it; the whole datagram when its framing is broken.
        raw: &'a [u8],
        source: Malformed,
    },
    /// Messages were lost: dump everything again, once, after the queue is drained.
    Overrun { received: Instant },
}

/// Why `drain` returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is queued any more.
    Empty,
    /// The budget is used up; call again soon.
    Budget,
}

#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    buffer: Box<[u8]>,
    granted: usize,
    portid: u32,
    foreign: u64,
    hears_vlans: bool,
}

impl Monitor {
    /// Opens and subscribes in the calling thread's network namespace. `receive_buffer` in bytes of payload: the
    /// kernel doubles it for its own overhead. Must be called inside a tokio runtime.
    pub fn open(subscription: Subscription, receive_buffer: usize) -> Result<Self, Error> {
        let io = |what| move |source| Error::Io { what, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(io("opening the monitor socket"))?;
        let granted = grow_receive_buffer(&socket, receive_buffer)
            .map_err(io("sizing the monitor socket's receive buffer"))?;
        socket
            .set_non_blocking(true)
            .map_err(io("setting the monitor socket non-blocking"))?;
        let portid = socket
            .bind_auto()
            .map_err(io("binding the monitor socket"))?
            .port_number();
        for group in subscription.groups() {
            socket
                .add_membership(*group)
                .map_err(io("subscribing to link events"))?;
        }
        // SAFETY: the socket owns its open descriptor, and nothing replaces or closes it while the AsyncFd owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|error| io("registering the monitor socket")(error.into()))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            granted,
            portid,
            foreign: 0,
            hears_vlans: false,
        })
    }

    /// Whether VLANs of bridge ports and VNIs of VXLAN devices (`bridge vlan`, `bridge vni`) are told too, in order with the
    /// links that have them. A kernel without such groups (before 5.6 and 5.18) has nothing to tell.
    pub fn hear_vlans(&mut self, hear: bool) -> Result<(), Error> {
        if hear == self.hears_vlans {
            return Ok(());
        }
        for group in [libc::RTNLGRP_BRVLAN, libc::RTNLGRP_TUNNEL] {
            let socket = self.socket.get_mut();
            let changed = match hear {
                true => socket.add_membership(group),
                false => socket.drop_membership(group),
            };
            if let Err(source) = changed
                && source.raw_os_error() != Some(libc::EINVAL)
            {
                return Err(Error::Io {
                    what: "subscribing to VLANs and VNIs",
                    source,
                });
            }
        }
        self.hears_vlans = hear;
        Ok(())
    }

    /// The receive buffer the kernel granted, in bytes as it counts them (twice what was asked, or less than that
    /// without CAP_NET_ADMIN).
    pub const fn granted_buffer(&self) -> usize {
        self.granted
    }

    /// Names this socket in `/proc/net/netlink`.
    pub const fn portid(&self) -> u32 {
        self.portid
    }

    /// Datagrams that did not come from the kernel, so far. They are dropped.
    pub const fn foreign_datagrams(&self) -> u64 {
        self.foreign
    }

    /// Waits until there is something to drain. Cancel-safe: nothing is consumed.
    pub async fn readable(&self) -> Result<(), Error> {
        // The guard is dropped without clearing readiness; `drain` clears it when the queue is empty.
        self.socket
            .readable()
            .await
            .map(|_| ())
            .map_err(|source| Error::Io {
                what: "waiting for link events",
                source,
            })
    }

    /// Tells what is queued, at most `budget` datagrams (the kernel sends one message in each).
    pub fn drain(&mut self, budget: usize, tell: &mut dyn FnMut(RxEvent<'_>)) -> Result<Drained, Error> {
        // Taken before the first read: readiness that the reactor notes afterwards is newer and stays when this one
        // is cleared. Without it (nothing noted yet) the queue is read all the same.
        let mut context = Context::from_waker(Waker::noop());
        let mut noted = match self.socket.poll_read_ready(&mut context) {
            Poll::Ready(Ok(guard)) => Some(guard),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        };
        for _ in 0..budget {
            let mut window = &mut self.buffer[..];
            let got = self.socket.get_ref().recv_from(&mut window, libc::MSG_TRUNC);
            let received = Instant::now();
            match got {
                Ok((_, sender)) if sender.port_number() != 0 => self.foreign += 1,
                Ok((length, _)) => match self.buffer.get(..length) {
                    Some(datagram) => tell_datagram(datagram, received, tell),
                    // MSG_TRUNC: longer than the buffer, the rest of it is lost.
                    None => tell(RxEvent::Overrun { received }),
                },
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        if let Some(guard) = &mut noted {
                            guard.clear_ready();
                        }
                        return Ok(Drained::Empty);
                    }
                    Some(libc::ENOBUFS) => tell(RxEvent::Overrun { received }),
                    Some(libc::EINTR) => {}
                    _ => {
                        return Err(Error::Io {
                            what: "receiving link events",
                            source: error,
                        });
                    }
                },
            }
        }
        Ok(Drained::Budget)
    }
}

fn tell_datagram(datagram: &[u8], received: Instant, tell: &mut dyn FnMut(RxEvent<'_>)) {
    for message in Messages::new(datagram) {
        match message {
            Ok(message) => match decode::change(&message) {
                Ok(change) => tell(RxEvent::Message {
                    received,
                    message,
                    change,
                }),
                Err(source) => tell(RxEvent::Undecodable {
                    received,
                    raw: message.raw,
                    source,
                }),
            },
            Err(source) => tell(RxEvent::Undecodable {
                received,
                raw: datagram,
                source,
            }),
        }
    }
}

/// SO_RCVBUFFORCE ignores `net.core.rmem_max` and needs CAP_NET_ADMIN in the first user namespace (6.18); without it
/// SO_RCVBUF gives up to the limit. Returns what is granted.
fn grow_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<usize> {
    let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the option's value is a live c_int of the size told; the descriptor is open for the whole call.
    let forced = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            std::ptr::from_ref(&wanted).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if forced != 0 {
        socket.set_rx_buf_sz(wanted)?;
    }
    socket.get_rx_buf_sz()
}
