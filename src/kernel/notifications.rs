//! A netlink socket subscribed to multicast groups whose messages only say that something has to be looked at: no
//! statistics and no time stamps, for which `monitor` has a socket of its own.

use super::error::Error;
use netlink_sys::Socket;
use std::io;
use std::task::{Context, Poll, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Datagrams read in one go.
const BUDGET: usize = 256;

#[derive(Debug)]
pub struct Notifications {
    socket: AsyncFd<Socket>,
    buffer: Box<[u8]>,
    portid: u32,
    what: &'static str,
}

impl Notifications {
    /// Opens and subscribes in the calling thread's network namespace. Must be called inside a tokio runtime. `buffer`
    /// bytes hold one datagram, `queue` bytes are asked for in the kernel; `what` is heard, for messages.
    pub fn open(
        protocol: isize,
        groups: &[u32],
        buffer: usize,
        queue: Option<usize>,
        what: &'static str,
    ) -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            if let Some(queue) = queue {
                // As much as is allowed.
                let _limit = socket.set_rx_buf_sz(libc::c_int::try_from(queue).unwrap_or(libc::c_int::MAX));
            }
            socket.set_non_blocking(true)?;
            let portid = socket.bind_auto()?.port_number();
            for group in groups {
                socket.add_membership(*group)?;
            }
            // SAFETY: the socket owns its open descriptor, and nothing replaces or closes it while the AsyncFd owns it.
            let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
            Ok((socket, portid))
        };
        let (socket, portid) = open().map_err(|source: io::Error| Error::Io { what, source })?;
        Ok(Self {
            socket,
            buffer: vec![0; buffer].into_boxed_slice(),
            portid,
            what,
        })
    }

    /// Names this socket in `/proc/net/netlink`.
    pub const fn portid(&self) -> u32 {
        self.portid
    }

    /// Waits until there is something to drain. Cancel-safe: nothing is consumed.
    pub async fn readable(&self) -> Result<(), Error> {
        let ready = self.socket.readable().await;
        ready.map(|_| ()).map_err(|source| self.error(source))
    }

    /// Tells the kernel's datagrams that are queued, and `None` where some were lost or one was cut short. What is left
    /// over when the budget is used up keeps the socket readable.
    pub fn drain(&mut self, mut tell: impl FnMut(Option<&[u8]>)) -> Result<(), Error> {
        // Taken before the first read: readiness that is noted afterwards is newer and stays when this one is cleared.
        let mut context = Context::from_waker(Waker::noop());
        let mut noted = match self.socket.poll_read_ready(&mut context) {
            Poll::Ready(Ok(guard)) => Some(guard),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        };
        for _ in 0..BUDGET {
            let mut window = &mut self.buffer[..];
            match self.socket.get_ref().recv_from(&mut window, libc::MSG_TRUNC) {
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) => tell(self.buffer.get(..length)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        if let Some(guard) = &mut noted {
                            guard.clear_ready();
                        }
                        break;
                    }
                    Some(libc::ENOBUFS) => tell(None),
                    Some(libc::EINTR) => {}
                    _ => return Err(self.error(error)),
                },
            }
        }
        Ok(())
    }

    fn error(&self, source: io::Error) -> Error {
        let what = self.what;
        Error::Io { what, source }
    }
}
