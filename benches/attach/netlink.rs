//! Just enough rtnetlink, by hand: what the observer and the reference attacher share, and nothing of the daemon's.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const RECEIVE_BUFFER: libc::c_int = 64 << 20;

/// What both sides read of a link message.
#[derive(Debug, Default, Clone, Copy)]
pub struct LinkMessage<'a> {
    /// RTM_NEWLINK of family AF_UNSPEC; anything else is not interesting here.
    pub describes_link: bool,
    pub index: u32,
    pub up: bool,
    pub name: &'a [u8],
    pub master: u32,
    /// `IFLA_INFO_KIND` is `tun`.
    pub tun: bool,
}

/// A socket in the link group with a receive buffer that a burst of thousands does not fill.
#[derive(Debug)]
pub struct Monitor {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Monitor {
    pub fn open() -> io::Result<Self> {
        let socket = open_socket(libc::RTMGRP_LINK as u32)?;
        let size = RECEIVE_BUFFER;
        // In a user namespace only the unforced form is allowed, up to net.core.rmem_max; an overrun then ends the
        // measurement.
        for option in [libc::SO_RCVBUF, libc::SO_RCVBUFFORCE] {
            // SAFETY: one int, alive through the call.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const size).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
        }
        Ok(Self {
            socket,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Waits for one datagram and hands its messages out.
    pub fn receive(&mut self, each: impl FnMut(LinkMessage<'_>)) -> io::Result<()> {
        let length = receive(&self.socket, &mut self.buffer)?;
        for_each_link(&self.buffer[..length], each);
        Ok(())
    }

    /// As `receive`, giving up at `deadline` with false.
    pub fn receive_until(
        &mut self,
        deadline: Instant,
        each: impl FnMut(LinkMessage<'_>),
    ) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = libc::c_int::try_from(left.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one pollfd, alive through the call.
        match unsafe { libc::poll(&raw mut poll, 1, timeout) } {
            0 => Ok(false),
            1 => self.receive(each).map(|()| true),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads until nothing came for `pause`.
    pub fn wait_for_silence(&mut self, pause: Duration) -> io::Result<()> {
        while self.receive_until(Instant::now() + pause, |_| ())? {}
        Ok(())
    }
}

/// A socket for requests, each answered before the next.
#[derive(Debug)]
pub struct Requests {
    socket: OwnedFd,
    sequence: u32,
}

impl Requests {
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: open_socket(0)?,
            sequence: 0,
        })
    }

    /// `ip link set dev INDEX master MASTER`.
    pub fn set_master(&mut self, index: u32, master: u32) -> io::Result<()> {
        let mut attribute = [0; 8];
        attribute[..2].copy_from_slice(&8_u16.to_ne_bytes());
        attribute[2..4].copy_from_slice(&libc::IFLA_MASTER.to_ne_bytes());
        attribute[4..].copy_from_slice(&master.to_ne_bytes());
        self.set_link(index, 0, &attribute)
    }

    /// `ip link set dev INDEX up`.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.set_link(index, libc::IFF_UP as u32, &[])
    }

    fn set_link(&mut self, index: u32, up: u32, attributes: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = HEADER + LINK_HEADER + attributes.len();
        let mut message = Vec::with_capacity(length);
        message.extend((length as u32).to_ne_bytes());
        message.extend(libc::RTM_SETLINK.to_ne_bytes());
        message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend([0; 4]); // AF_UNSPEC, padding, device type
        message.extend(index.to_ne_bytes());
        message.extend(up.to_ne_bytes()); // flags
        message.extend(up.to_ne_bytes()); // which of them to change
        message.extend(attributes);
        // SAFETY: the buffer is alive through the call.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), length, 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answer = [0; 256];
        let received = receive(&self.socket, &mut answer)?;
        let error = answer
            .get(HEADER..HEADER + 4)
            .filter(|_| received >= HEADER + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(-libc::EIO, i32::from_ne_bytes);
        if error == 0 {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(-error))
        }
    }
}

fn open_socket(groups: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid address of this plain C structure.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    // SAFETY: the address is alive through the call and its size is told.
    let bound = unsafe {
        libc::bind(
            fd,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_nl>() as libc::socklen_t,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is alive through the call and its size is told.
    let length = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

fn for_each_link(datagram: &[u8], mut each: impl FnMut(LinkMessage<'_>)) {
    let mut rest = datagram;
    while rest.len() >= HEADER + LINK_HEADER {
        let length = (u32_at(rest, 0) as usize).clamp(HEADER + LINK_HEADER, rest.len());
        let kind = u16_at(rest, 4);
        let body = &rest[HEADER..length];
        if kind == libc::RTM_NEWLINK && i32::from(body[0]) == libc::AF_UNSPEC {
            let mut message = LinkMessage {
                describes_link: true,
                index: u32_at(body, 4),
                up: u32_at(body, 8) & libc::IFF_UP as u32 != 0,
                ..LinkMessage::default()
            };
            for_each_attribute(&body[LINK_HEADER..], |kind, value| match kind {
                libc::IFLA_IFNAME => message.name = value.strip_suffix(b"\0").unwrap_or(value),
                libc::IFLA_MASTER => message.master = u32_at(value, 0),
                libc::IFLA_LINKINFO => for_each_attribute(value, |kind, value| {
                    if kind == libc::IFLA_INFO_KIND {
                        message.tun = value.starts_with(b"tun");
                    }
                }),
                _ => {}
            });
            each(message);
        } else {
            each(LinkMessage::default());
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
}

fn for_each_attribute<'a>(mut rest: &'a [u8], mut each: impl FnMut(u16, &'a [u8])) {
    while rest.len() >= 4 {
        let length = usize::from(u16_at(rest, 0)).clamp(4, rest.len());
        // The nested flag is not part of the kind.
        each(u16_at(rest, 2) & 0x3fff, &rest[4..length]);
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
