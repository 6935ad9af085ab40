//! Link events as the kernel multicasts them, read by hand so that nothing of the daemon's own decoder is trusted.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

/// A test's burst must fit: a queued link message costs 2,304 bytes, 64 MiB hold 29,000.
const RECEIVE_BUFFER: libc::c_int = 64 << 20;
const RTMGRP_LINK: u32 = 1;

/// What happened to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// RTM_NEWLINK: made or changed.
    New,
    /// RTM_DELLINK of family AF_UNSPEC: the device is gone.
    Gone,
    /// RTM_DELLINK of family AF_BRIDGE: a port left its bridge.
    Released,
}

/// One link event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEvent {
    pub change: Change,
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub master: Option<u32>,
}

/// A monitor socket. The kernel queues an event before the request that caused it returns, and `take` reads what is
/// queued; a thread reads in between, because in a user namespace the receive buffer holds 92 events and no more.
#[derive(Debug)]
pub struct LinkObserver {
    inner: Arc<Inner>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    socket: Socket,
    seen: Mutex<Seen>,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    events: Vec<LinkEvent>,
    /// The kernel dropped some: nothing counted here is to be trusted.
    failure: Option<io::Error>,
}

impl LinkObserver {
    /// In the calling thread's network namespace; see `Host::observer`.
    pub fn open() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).expect("a netlink socket");
        set_receive_buffer(&socket);
        socket
            .bind(&SocketAddr::new(0, RTMGRP_LINK))
            .expect("join the link group");
        socket.set_non_blocking(true).expect("a non-blocking socket");
        let inner = Arc::new(Inner {
            socket,
            seen: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let reading = Arc::clone(&inner);
        Self {
            inner,
            reader: Some(thread::spawn(move || {
                while !reading.stop.load(Ordering::Relaxed) {
                    if reading.wait_readable() {
                        drop(reading.drain());
                    }
                }
            })),
        }
    }

    /// All events since the last call.
    pub fn take(&self) -> Vec<LinkEvent> {
        let mut seen = self.inner.drain();
        if let Some(failure) = &seen.failure {
            panic!("the observer lost events: {failure}");
        }
        std::mem::take(&mut seen.events)
    }

    /// How many events of one sort since the last call.
    pub fn count(&self, change: Change) -> usize {
        self.take().iter().filter(|e| e.change == change).count()
    }
}

impl Drop for LinkObserver {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // It panics only when a message made no sense, which `take` would have shown.
            let _ = reader.join();
        }
    }
}

impl Inner {
    /// Reads what is queued; whoever holds the lock has seen everything up to now.
    fn drain(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().expect("the reader does not panic");
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => seen.events.extend(decode(&datagram)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return seen,
                Err(e) => {
                    seen.failure.get_or_insert(e);
                }
            }
        }
    }

    /// False after a while without events, so that the reader notices its end.
    fn wait_readable(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.socket.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, alive through the call.
        unsafe { libc::poll(&raw mut poll, 1, 50) == 1 }
    }
}

fn set_receive_buffer(socket: &Socket) {
    let bytes = RECEIVE_BUFFER;
    // SAFETY: the value is one int, alive through the call. In a user namespace the forced form is refused.
    unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

fn decode(datagram: &[u8]) -> Vec<LinkEvent> {
    const HEADER: usize = 16;
    const LINK_HEADER: usize = 16;
    let mut events = Vec::new();
    let mut rest = datagram;
    while rest.len() >= HEADER + LINK_HEADER {
        let length = u32_at(rest, 0) as usize;
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        let message = &rest[HEADER..length];
        let change = match (kind, libc::c_int::from(message[0])) {
            (libc::RTM_NEWLINK, _) => Some(Change::New),
            (libc::RTM_DELLINK, libc::AF_BRIDGE) => Some(Change::Released),
            (libc::RTM_DELLINK, _) => Some(Change::Gone),
            _ => None,
        };
        if let Some(change) = change {
            let mut event = LinkEvent {
                change,
                index: u32_at(message, 4),
                name: String::new(),
                up: u32_at(message, 8) & libc::IFF_UP as u32 != 0,
                master: None,
            };
            read_attributes(&message[LINK_HEADER..], &mut event);
            events.push(event);
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    events
}

fn read_attributes(mut rest: &[u8], event: &mut LinkEvent) {
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let value = &rest[4..length];
        match u16::from_ne_bytes([rest[2], rest[3]]) {
            libc::IFLA_IFNAME => {
                event.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            }
            libc::IFLA_MASTER => event.master = Some(u32_at(value, 0)),
            _ => {}
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
