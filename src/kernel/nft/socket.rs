//! The nfnetlink request socket: transactions out, acknowledgements and lists in.
//!
//! Opened when it is first needed: a host whose networks ask for none of it has no such socket. As with rtnetlink, the
//! kernel handles a request inside the system call that sends it, so receiving never waits.

use super::message::Messages;
use crate::kernel::error::{Error, Goal, Refusal};
use crate::kernel::socket::acknowledgement;
use crate::kernel::wire::{self, Malformed, Message};
use netlink_packet_core::NLM_F_DUMP_INTR;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::os::fd::AsRawFd;

/// Lists come in pieces of at most 32 KiB.
const BUFFER: usize = 64 * 1024;
/// Others' transactions interrupt a list; a host where that happens this often in a row is asked again later.
const TRIES: u32 = 8;

#[derive(Debug)]
pub struct NftSocket {
    socket: Socket,
    portid: u32,
    seq: u32,
    send_buffer: usize,
    buffer: Box<[u8]>,
}

impl NftSocket {
    /// Opens in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let io = |what| move |source| Error::Io { what, source };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(io("opening an nfnetlink socket"))?;
        let portid = socket
            .bind_auto()
            .map_err(io("binding an nfnetlink socket"))?
            .port_number();
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(io("connecting an nfnetlink socket"))?;
        socket.set_ext_ack(true).map_err(io("setting NETLINK_EXT_ACK"))?;
        socket.set_cap_ack(true).map_err(io("setting NETLINK_CAP_ACK"))?;
        Ok(Self {
            socket,
            portid,
            seq: 0,
            send_buffer: 128 * 1024,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        })
    }

    /// The port id that notifications caused by our transactions carry.
    pub const fn portid(&self) -> u32 {
        self.portid
    }

    /// Carries out what stands between `Messages::begin` and here: all of it or nothing.
    pub fn commit(&mut self, op: &'static str, goal: Goal, messages: &mut Messages) -> Result<(), Error> {
        let first = self.seq.wrapping_add(1);
        let last = messages.end(first);
        self.seq = self.seq.wrapping_add(messages.count());
        self.make_room(messages.bytes().len());
        self.send(messages.bytes())?;
        let mut refused = None;
        // A failed transaction is answered for each message that failed, before the acknowledgement of the last one; a
        // transaction that is refused as a whole only by its first.
        while let Some(length) = self.receive()? {
            for message in wire::Messages::new(self.buffer.get(..length).unwrap_or_default()) {
                let bad = |source| Error::Answer { op, source };
                let message = message.map_err(bad)?;
                if message.header.kind != libc::NLMSG_ERROR as u16
                    || message.header.seq.wrapping_sub(first) > last.wrapping_sub(first)
                {
                    continue;
                }
                match acknowledgement(&message).map_err(bad)? {
                    Err(refusal) => refused = refused.or(Some(refusal)),
                    Ok(()) if message.header.seq == last && refused.is_none() => return Ok(()),
                    Ok(()) => {}
                }
            }
        }
        match refused {
            Some(refusal) => Err(Error::refused(op, goal, refusal)),
            None => Err(Error::NoAnswer { op }),
        }
    }

    /// The rows of a list, complete and of one generation of the ruleset. `request` writes it for a sequence number.
    pub fn list<T>(
        &mut self,
        op: &'static str,
        messages: &mut Messages,
        mut request: impl FnMut(&mut Messages, u32),
        mut row: impl FnMut(&Message<'_>, &mut T) -> Result<(), Malformed>,
        mut empty: impl FnMut() -> T,
    ) -> Result<T, Error> {
        for _ in 0..TRIES {
            let mut rows = empty();
            self.seq = self.seq.wrapping_add(1);
            request(messages, self.seq);
            self.send(messages.bytes())?;
            if self.read_list(op, &mut |message| row(message, &mut rows))? {
                return Ok(rows);
            }
        }
        Err(Error::refused(op, Goal::Change, Refusal::errno(libc::EBUSY)))
    }

    /// False if others changed the ruleset meanwhile.
    fn read_list(
        &mut self,
        op: &'static str,
        row: &mut dyn FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<bool, Error> {
        let bad = |source| Error::Answer { op, source };
        let mut whole = true;
        while let Some(length) = self.receive()? {
            for message in wire::Messages::new(self.buffer.get(..length).unwrap_or_default()) {
                let message = message.map_err(bad)?;
                if message.header.seq != self.seq {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match libc::c_int::from(message.header.kind) {
                    libc::NLMSG_DONE => {
                        match wire::i32_at(message.payload, 0).unwrap_or(0).saturating_neg() {
                            0 => return Ok(whole),
                            libc::EINTR => return Ok(false),
                            errno => return Err(Error::refused(op, Goal::Change, Refusal::errno(errno))),
                        }
                    }
                    libc::NLMSG_ERROR => match acknowledgement(&message).map_err(bad)? {
                        Ok(()) => {}
                        Err(refusal) if refusal.errno == libc::EINTR => return Ok(false),
                        Err(refusal) => return Err(Error::refused(op, Goal::Change, refusal)),
                    },
                    _ => row(&message).map_err(bad)?,
                }
            }
        }
        Err(Error::NoAnswer { op })
    }

    /// A transaction is one datagram: the send buffer must hold it. Without CAP_NET_ADMIN in the first user namespace
    /// `net.core.wmem_max` is the limit (some 2,500 guarded ports at the usual 212,992 bytes), and sending says so.
    fn make_room(&mut self, bytes: usize) {
        if bytes <= self.send_buffer {
            return;
        }
        let wanted = libc::c_int::try_from(bytes.saturating_mul(2)).unwrap_or(libc::c_int::MAX);
        for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
            // SAFETY: the option's value is a live c_int of the size told; the descriptor is open for the whole call.
            let set = unsafe {
                libc::setsockopt(
                    self.socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    std::ptr::from_ref(&wanted).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            if set == 0 {
                self.send_buffer = bytes;
                return;
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self.socket.send(bytes, 0) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Io {
                what: "sending an nfnetlink request",
                source,
            }),
        }
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
                    Some(libc::EINTR | libc::ENOBUFS) => {}
                    _ => {
                        return Err(Error::Io {
                            what: "receiving an nfnetlink answer",
                            source: error,
                        });
                    }
                },
            }
        }
    }
}
