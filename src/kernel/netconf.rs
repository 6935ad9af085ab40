//! Somebody switched forwarding off: RTNLGRP_IPV4_NETCONF and RTNLGRP_IPV6_NETCONF, reduced to that.
//!
//! Opened with the first gateway. Every new device is told here too (IPv6), so who listens says which devices matter.

use super::error::Error;
use super::wire::{Attributes, Messages, i32_at};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use std::task::{Context, Poll, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const BUFFER: usize = 32 * 1024;
/// Datagrams read in one go.
const BUDGET: usize = 256;
/// `uapi/linux/rtnetlink.h`
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const RTNLGRP_IPV6_NETCONF: u32 = 25;
const RTM_NEWNETCONF: u16 = 80;
/// `uapi/linux/netconf.h`: `struct netconfmsg` is the family, aligned.
const HEADER: usize = 4;
const IFINDEX: u16 = 1;
const FORWARDING: u16 = 2;
const ALL_DEVICES: i32 = -1;

/// Forwarding that is off now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Off {
    pub ipv4: bool,
    /// Absent: the switch of the whole host.
    pub device: Option<u32>,
}

#[derive(Debug)]
pub struct NetconfMonitor {
    socket: AsyncFd<Socket>,
    buffer: Box<[u8]>,
}

impl NetconfMonitor {
    /// Opens and subscribes in the calling thread's network namespace. Must be called inside a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let io = |what| move |source| Error::Io { what, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(io("opening the settings monitor"))?;
        socket
            .set_non_blocking(true)
            .map_err(io("setting the settings monitor non-blocking"))?;
        socket.bind_auto().map_err(io("binding the settings monitor"))?;
        for group in [RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF] {
            socket
                .add_membership(group)
                .map_err(io("subscribing to changed settings"))?;
        }
        // SAFETY: the socket owns its open descriptor, and nothing replaces or closes it while the AsyncFd owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|error| io("registering the settings monitor")(error.into()))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        })
    }

    /// Waits until there is something to drain. Cancel-safe: nothing is consumed.
    pub async fn readable(&self) -> Result<(), Error> {
        self.socket
            .readable()
            .await
            .map(|_| ())
            .map_err(|source| Error::Io {
                what: "waiting for changed settings",
                source,
            })
    }

    /// Reads what is queued. A lost message may have been about any of them. What is left over when the budget is used
    /// up keeps the socket readable.
    pub fn drain(&mut self, mut off: impl FnMut(Off)) -> Result<(), Error> {
        let mut context = Context::from_waker(Waker::noop());
        let mut noted = match self.socket.poll_read_ready(&mut context) {
            Poll::Ready(Ok(guard)) => Some(guard),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        };
        for _ in 0..BUDGET {
            let mut window = &mut self.buffer[..];
            match self.socket.get_ref().recv_from(&mut window, 0) {
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) => {
                    let datagram = self.buffer.get(..length).unwrap_or_default();
                    let messages = Messages::new(datagram).flatten();
                    messages
                        .filter(|message| message.header.kind == RTM_NEWNETCONF)
                        .filter_map(|message| read(message.payload))
                        .for_each(&mut off);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        if let Some(guard) = &mut noted {
                            guard.clear_ready();
                        }
                        break;
                    }
                    Some(libc::ENOBUFS) => {
                        for ipv4 in [true, false] {
                            off(Off { ipv4, device: None });
                        }
                    }
                    Some(libc::EINTR) => {}
                    _ => {
                        return Err(Error::Io {
                            what: "receiving changed settings",
                            source: error,
                        });
                    }
                },
            }
        }
        Ok(())
    }
}

fn read(payload: &[u8]) -> Option<Off> {
    let ipv4 = libc::c_int::from(*payload.first()?) == libc::AF_INET;
    let (mut device, mut forwarding) = (None, None);
    for (kind, value) in Attributes::new(payload.get(HEADER..)?).flatten() {
        match kind {
            IFINDEX => device = i32_at(value, 0),
            FORWARDING => forwarding = i32_at(value, 0),
            _ => {}
        }
    }
    let device = match device? {
        ALL_DEVICES => None,
        index => Some(u32::try_from(index).ok()?),
    };
    (forwarding == Some(0)).then_some(Off { ipv4, device })
}
