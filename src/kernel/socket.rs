//! The request socket: bytes out, acknowledgements and rows in.
//!
//! It is never subscribed to a group: a notification may carry the *causing* request's sequence number, so on a shared
//! socket it can be taken for an answer (139 of 59,200 requests, measured). The kernel handles an rtnetlink request
//! inside `sendmsg` and the next piece of a dump inside `recvmsg`; every answer is therefore queued before the call
//! returns, and receiving never waits. An empty queue means a lost answer, never a late one, and is said at once.
//!
//! Used by the executor (one instance) and by snapshots (another, so that a dump under way disturbs no attach).

use super::decode::{self, Change};
use super::error::{Error, Goal, Refusal};
use super::request::{Batch, LinkKey};
use super::wire::{Attributes, Malformed, Message, Messages, i32_at, string_value};
use crate::model::Link;
use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::os::fd::{AsRawFd, RawFd};

const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;

/// The kernel builds dump rows in pieces of at most 32 KiB; one link with 100 long alternative names has 14 KB.
const BUFFER: usize = 64 * 1024;

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more to read.
    More,
    /// All rows were told.
    Done,
    /// `NLM_F_DUMP_INTR`: the list changed meanwhile; rows may be missing or doubled. What was told is true, what
    /// was not told is unknown.
    Interrupted,
}

#[derive(Debug)]
pub struct RequestSocket {
    socket: Socket,
    portid: u32,
    seq: u32,
    buffer: Box<[u8]>,
    /// A dump was begun and its end not read.
    dumping: bool,
    /// Of that dump: NLM_F_DUMP_INTR seen so far.
    interrupted: bool,
}

impl RequestSocket {
    /// Opens in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let io = |what| move |source| Error::Io { what, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(io("opening a netlink socket"))?;
        let portid = socket
            .bind_auto()
            .map_err(io("binding a netlink socket"))?
            .port_number();
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(io("connecting a netlink socket"))?;
        socket.set_ext_ack(true).map_err(io("setting NETLINK_EXT_ACK"))?;
        socket.set_cap_ack(true).map_err(io("setting NETLINK_CAP_ACK"))?;
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(io("setting NETLINK_GET_STRICT_CHK"))?;
        Ok(Self {
            socket,
            portid,
            seq: 0,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            dumping: false,
            interrupted: false,
        })
    }

    /// The port id that notifications caused by our requests carry: the cause is then "own".
    pub const fn portid(&self) -> u32 {
        self.portid
    }

    /// For ioctls: any socket will do.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Sends all requests in one call and reports each answer, in order: `None` is one whose answer was lost.
    ///
    /// The kernel runs them one after the other; a failing one does not stop the later ones. At most
    /// `Batch::MAX` at once, so that the acknowledgements always fit the receive buffer.
    pub fn exchange(
        &mut self,
        batch: &mut Batch,
        answer: &mut dyn FnMut(usize, Option<Result<(), Refusal>>),
    ) -> Result<(), Error> {
        let count = batch.len();
        if count == 0 {
            return Ok(());
        }
        let first = self.send(batch)?;
        let mut next = 0;
        while next < count {
            let Some(length) = self.receive()? else { break };
            for message in Messages::new(self.buffer.get(..length).unwrap_or_default()) {
                let message = message.map_err(|source| Error::Answer {
                    op: "acknowledgement",
                    source,
                })?;
                let position = message.header.seq.wrapping_sub(first) as usize;
                if message.header.kind != NLMSG_ERROR || position >= count || position < next {
                    // An answer to an earlier request that was given up.
                    continue;
                }
                for lost in next..position {
                    answer(lost, None);
                }
                let told = acknowledgement(&message).map_err(|source| Error::Answer {
                    op: "acknowledgement",
                    source,
                })?;
                answer(position, Some(told));
                next = position + 1;
            }
        }
        for lost in next..count {
            answer(lost, None);
        }
        Ok(())
    }

    /// RTM_GETLINK of one device: 2-12 us at any number of links.
    pub fn link(&mut self, key: LinkKey, batch: &mut Batch) -> Result<Link, Error> {
        const OP: &str = "get_link";
        batch.clear();
        batch.get_link(key);
        let seq = self.send(batch)?;
        while let Some(length) = self.receive()? {
            for message in Messages::new(self.buffer.get(..length).unwrap_or_default()) {
                let bad = |source| Error::Answer { op: OP, source };
                let message = message.map_err(bad)?;
                if message.header.seq != seq {
                    continue;
                }
                if message.header.kind == NLMSG_ERROR {
                    match acknowledgement(&message).map_err(bad)? {
                        Ok(()) => continue,
                        Err(refusal) => return Err(Error::refused(OP, Goal::Change, refusal)),
                    }
                }
                if let Change::Link(link) = decode::change(&message).map_err(bad)? {
                    return Ok(link);
                }
            }
        }
        Err(Error::NoAnswer { op: OP })
    }

    /// Starts a dump; `step` reads it. One that was abandoned half-way is read to its end first, because the kernel
    /// runs one dump per socket (EBUSY otherwise).
    pub fn begin_dump(&mut self, batch: &mut Batch) -> Result<(), Error> {
        while self.dumping {
            // Whatever it tells, also an error, is not wanted any more; an error ends it.
            let _unwanted = self.step("abandoned dump", &mut |_| {});
        }
        self.interrupted = false;
        self.send(batch)?;
        self.dumping = true;
        Ok(())
    }

    /// Reads one piece of the dump (at most 32 KiB, some 20 links) and tells its rows.
    pub fn step(&mut self, op: &'static str, row: &mut dyn FnMut(&Message<'_>)) -> Result<Step, Error> {
        let step = self.next_piece(op, row);
        self.dumping = matches!(step, Ok(Step::More));
        step
    }

    fn next_piece(&mut self, op: &'static str, row: &mut dyn FnMut(&Message<'_>)) -> Result<Step, Error> {
        let Some(length) = self.receive()? else {
            return Err(Error::NoAnswer { op });
        };
        for message in Messages::new(self.buffer.get(..length).unwrap_or_default()) {
            let message = message.map_err(|source| Error::Answer { op, source })?;
            if message.header.seq != self.seq {
                continue;
            }
            self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.header.kind {
                NLMSG_DONE => {
                    // Its payload is the dump's own errno, negative, or 0.
                    let errno = i32_at(message.payload, 0).unwrap_or(0).saturating_neg();
                    if errno != 0 {
                        return Err(Error::refused(op, Goal::Change, Refusal::errno(errno)));
                    }
                    return Ok(if self.interrupted {
                        Step::Interrupted
                    } else {
                        Step::Done
                    });
                }
                NLMSG_ERROR => {
                    let told = acknowledgement(&message).map_err(|source| Error::Answer { op, source })?;
                    if let Err(refusal) = told {
                        return Err(Error::refused(op, Goal::Change, refusal));
                    }
                }
                _ => row(&message),
            }
        }
        Ok(Step::More)
    }

    /// Numbers the messages, sends them, returns the first one's sequence number.
    fn send(&mut self, batch: &mut Batch) -> Result<u32, Error> {
        let first = self.seq.wrapping_add(1);
        let count = batch.number(first);
        self.seq = self.seq.wrapping_add(count);
        self.socket.send(batch.bytes(), 0).map_err(|source| Error::Io {
            what: "sending a netlink request",
            source,
        })?;
        Ok(first)
    }

    /// The next datagram's length in `buffer`; none when the queue is empty.
    fn receive(&mut self) -> Result<Option<usize>, Error> {
        loop {
            let mut window = &mut self.buffer[..];
            match self
                .socket
                .recv(&mut window, libc::MSG_DONTWAIT | libc::MSG_TRUNC)
            {
                Ok(length) if length > BUFFER => {
                    return Err(Error::Answer {
                        op: "receive",
                        source: Malformed("answer longer than any known message"),
                    });
                }
                Ok(length) => return Ok(Some(length)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    // ENOBUFS: an answer was lost. Those still queued follow, the gap shows by its number.
                    Some(libc::EINTR | libc::ENOBUFS) => {}
                    _ => {
                        return Err(Error::Io {
                            what: "receiving a netlink answer",
                            source: error,
                        });
                    }
                },
            }
        }
    }
}

/// NLMSG_ERROR: the negative errno, the request's header, and with NLM_F_ACK_TLVS attributes of which
/// `NLMSGERR_ATTR_MSG` is a text for people.
pub(super) fn acknowledgement(message: &Message<'_>) -> Result<Result<(), Refusal>, Malformed> {
    const ATTR_MSG: u16 = 1;
    /// errno and the request's `struct nlmsghdr`.
    const FIXED: usize = 4 + super::wire::HEADER_LEN;
    let code = i32_at(message.payload, 0).ok_or(Malformed("acknowledgement without an errno"))?;
    if code == 0 {
        return Ok(Ok(()));
    }
    let mut text = None;
    if message.header.flags & NLM_F_ACK_TLVS != 0 {
        // Without NLM_F_CAPPED the whole request is repeated in front of the attributes.
        let skip = if message.header.flags & NLM_F_CAPPED != 0 {
            FIXED
        } else {
            super::wire::u32_at(message.payload, 4).map_or(FIXED, |len| 4 + super::wire::align(len as usize))
        };
        for attribute in Attributes::behind(message.payload, skip)? {
            if let (ATTR_MSG, value) = attribute? {
                let value = String::from_utf8_lossy(string_value(value));
                text = Some(value.trim_end_matches('.').into());
            }
        }
    }
    Ok(Err(Refusal {
        errno: code.saturating_neg(),
        text,
    }))
}
