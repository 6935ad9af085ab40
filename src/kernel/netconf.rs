//! Somebody switched forwarding off: RTNLGRP_IPV4_NETCONF and RTNLGRP_IPV6_NETCONF, reduced to that.
//!
//! Opened with the first gateway. Every new device is told here too (IPv6), so who listens says which devices matter.

use super::error::Error;
use super::notifications::Notifications;
use super::wire::{Attributes, Messages, i32_at};
use netlink_sys::protocols::NETLINK_ROUTE;

const BUFFER: usize = 32 * 1024;
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
pub struct NetconfMonitor(Notifications);

impl NetconfMonitor {
    /// Opens and subscribes in the calling thread's network namespace. Must be called inside a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let groups = [RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF];
        Notifications::open(
            NETLINK_ROUTE,
            &groups,
            BUFFER,
            None,
            "listening for changed settings",
        )
        .map(Self)
    }

    /// Waits until there is something to drain. Cancel-safe: nothing is consumed.
    pub async fn readable(&self) -> Result<(), Error> {
        self.0.readable().await
    }

    /// Reads what is queued. A lost message may have been about any of them. What is left over when the budget is used
    /// up keeps the socket readable.
    pub fn drain(&mut self, mut off: impl FnMut(Off)) -> Result<(), Error> {
        self.0.drain(|datagram| match datagram {
            Some(datagram) => Messages::new(datagram)
                .flatten()
                .filter(|message| message.header.kind == RTM_NEWNETCONF)
                .filter_map(|message| read(message.payload))
                .for_each(&mut off),
            None => [true, false]
                .into_iter()
                .for_each(|ipv4| off(Off { ipv4, device: None })),
        })
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
