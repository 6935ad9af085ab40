//! Somebody changed a table of ours: NFNLGRP_NFTABLES, reduced to that one question.
//!
//! Opened with the first table of ours. What others do to their own tables wakes the loop and is forgotten; our own
//! transactions over `NftSocket` are recognised by its port id. A lost message may have been about us.

use super::guard::TABLE;
use super::message::GENERIC_LEN;
use super::{RULESET, UPLINK};
use crate::desired::guard::table;
use crate::kernel::error::Error;
use crate::kernel::wire::{Attributes, Message, Messages, string_value};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use std::task::{Context, Poll, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A transaction's messages come together, in datagrams of at most 32 KiB.
const BUFFER: usize = 64 * 1024;
/// A busy host's rulesets change by thousands of elements at once; what does not fit only costs a look at our own.
const RECEIVE_BUFFER: usize = 1024 * 1024;
/// Datagrams read in one go.
const BUDGET: usize = 256;

/// Which of our tables somebody else changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Touched {
    pub guard: bool,
    /// One of the gateways'.
    pub ruleset: bool,
}

impl Touched {
    const PERHAPS: Touched = Touched {
        guard: true,
        ruleset: true,
    };
}

#[derive(Debug)]
pub struct NftMonitor {
    socket: AsyncFd<Socket>,
    buffer: Box<[u8]>,
    portid: u32,
}

impl NftMonitor {
    /// Opens and subscribes in the calling thread's network namespace. Must be called inside a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let io = |what| move |source| Error::Io { what, source };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(io("opening the nftables monitor"))?;
        // As much as is allowed.
        let _limit = socket.set_rx_buf_sz(libc::c_int::try_from(RECEIVE_BUFFER).unwrap_or(libc::c_int::MAX));
        socket
            .set_non_blocking(true)
            .map_err(io("setting the nftables monitor non-blocking"))?;
        let portid = socket
            .bind_auto()
            .map_err(io("binding the nftables monitor"))?
            .port_number();
        socket
            .add_membership(libc::NFNLGRP_NFTABLES.cast_unsigned())
            .map_err(io("subscribing to nftables changes"))?;
        // SAFETY: the socket owns its open descriptor, and nothing replaces or closes it while the AsyncFd owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|error| io("registering the nftables monitor")(error.into()))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            portid,
        })
    }

    /// Names this socket in `/proc/net/netlink`.
    pub const fn portid(&self) -> u32 {
        self.portid
    }

    /// Waits until there is something to drain. Cancel-safe: nothing is consumed.
    pub async fn readable(&self) -> Result<(), Error> {
        self.socket
            .readable()
            .await
            .map(|_| ())
            .map_err(|source| Error::Io {
                what: "waiting for nftables changes",
                source,
            })
    }

    /// Reads what is queued, and tells which tables of ours somebody other than `own` (port ids) changed. What is
    /// left over when the budget is used up keeps the socket readable.
    pub fn drain(&mut self, own: &[u32]) -> Result<Touched, Error> {
        let mut context = Context::from_waker(Waker::noop());
        let mut noted = match self.socket.poll_read_ready(&mut context) {
            Poll::Ready(Ok(guard)) => Some(guard),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        };
        let mut touched = Touched::default();
        for _ in 0..BUDGET {
            let mut window = &mut self.buffer[..];
            match self.socket.get_ref().recv_from(&mut window, libc::MSG_TRUNC) {
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) => match self.buffer.get(..length) {
                    Some(datagram) => look(datagram, own, &mut touched),
                    None => {
                        touched = Touched::PERHAPS;
                    }
                },
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        if let Some(guard) = &mut noted {
                            guard.clear_ready();
                        }
                        break;
                    }
                    Some(libc::ENOBUFS) => {
                        touched = Touched::PERHAPS;
                    }
                    Some(libc::EINTR) => {}
                    _ => {
                        return Err(Error::Io {
                            what: "receiving nftables changes",
                            source: error,
                        });
                    }
                },
            }
        }
        Ok(touched)
    }
}

fn look(datagram: &[u8], own: &[u32], touched: &mut Touched) {
    for message in Messages::new(datagram) {
        let Ok(message) = message else {
            *touched = Touched::PERHAPS;
            return;
        };
        if own.contains(&message.header.portid) {
            continue;
        }
        let family = message.payload.first().map(|family| libc::c_int::from(*family));
        match (family, table_of(&message)) {
            (Some(libc::NFPROTO_BRIDGE), Some(name)) if name == table::NAME.as_bytes() => {
                touched.guard = true
            }
            (Some(libc::NFPROTO_BRIDGE), Some(name)) if name == UPLINK.as_bytes() => touched.ruleset = true,
            (Some(libc::NFPROTO_INET), Some(name)) if name == RULESET.as_bytes() => touched.ruleset = true,
            _ => {}
        }
    }
}

/// Every object's first attribute is its table's name; a new generation has none.
fn table_of<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    if message.header.kind == super::message::kind(libc::NFT_MSG_NEWGEN) {
        return None;
    }
    let mut attributes = Attributes::new(message.payload.get(GENERIC_LEN..)?).flatten();
    let (_, name) = attributes.find(|(kind, _)| *kind == TABLE)?;
    Some(string_value(name))
}
