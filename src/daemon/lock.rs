//! One daemon per network namespace.
//!
//! An abstract unix socket: its names belong to the network namespace, exactly the thing two daemons would fight
//! over, and the kernel drops it when the process ends, however it ends.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

const NAME: &[u8] = b"tapwire/daemon";

#[derive(Debug)]
pub struct Lock {
    _listener: UnixListener,
}

impl Lock {
    /// `None` if another daemon has it.
    pub fn take() -> io::Result<Option<Self>> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Some(Self { _listener: listener })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}
