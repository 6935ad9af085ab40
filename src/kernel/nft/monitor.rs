//! Somebody changed a table of ours: NFNLGRP_NFTABLES, reduced to that one question.
//!
//! Opened with the first table of ours. What others do to their own tables wakes the loop and is forgotten; our own
//! transactions over `NftSocket` are recognised by its port id. A lost message may have been about us.

use super::guard::TABLE;
use super::message::GENERIC_LEN;
use super::{RULESET, UPLINK};
use crate::desired::guard::table;
use crate::kernel::error::Error;
use crate::kernel::notifications::Notifications;
use crate::kernel::wire::{Attributes, Message, Messages, string_value};
use netlink_sys::protocols::NETLINK_NETFILTER;

/// A transaction's messages come together, in datagrams of at most 32 KiB.
const BUFFER: usize = 64 * 1024;
/// A busy host's rulesets change by thousands of elements at once; what does not fit only costs a look at our own.
const RECEIVE_BUFFER: usize = 1024 * 1024;

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
pub struct NftMonitor(Notifications);

impl NftMonitor {
    /// Opens and subscribes in the calling thread's network namespace. Must be called inside a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let groups = [libc::NFNLGRP_NFTABLES.cast_unsigned()];
        let what = "listening for nftables changes";
        Notifications::open(NETLINK_NETFILTER, &groups, BUFFER, Some(RECEIVE_BUFFER), what).map(Self)
    }

    /// Names this socket in `/proc/net/netlink`.
    pub const fn portid(&self) -> u32 {
        self.0.portid()
    }

    /// Waits until there is something to drain. Cancel-safe: nothing is consumed.
    pub async fn readable(&self) -> Result<(), Error> {
        self.0.readable().await
    }

    /// Reads what is queued, and tells which tables of ours somebody other than `own` (port ids) changed. What is
    /// left over when the budget is used up keeps the socket readable.
    pub fn drain(&mut self, own: &[u32]) -> Result<Touched, Error> {
        let mut touched = Touched::default();
        self.0.drain(|datagram| match datagram {
            Some(datagram) => look(datagram, own, &mut touched),
            None => touched = Touched::PERHAPS,
        })?;
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
