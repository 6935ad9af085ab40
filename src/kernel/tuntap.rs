//! Making tap devices, for `tapwire demo`, the tests and the benches.
//!
//! The daemon itself never makes or deletes a tap: hypervisors do. Here is the hypervisor's side of it, the
//! `/dev/net/tun` ioctls. A tap lives as long as its file descriptor, unless made persistent; closing it costs the
//! closer 16-20 ms (an RCU grace period, 6.18), so whoever makes thousands drops the network namespace instead.
//!
//! Failure half-way: a tap whose index cannot be read is gone again, since its descriptor is closed.

use crate::model::{Ifindex, LinkName};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

const PATH: &str = "/dev/net/tun";

/// Why there is no tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("no {PATH}: load the tun module (modprobe tun), or pass the device into this container")]
    Missing(#[source] io::Error),
    #[error("{PATH} is closed to this user: run as root, or `chmod 666 {PATH}` (udev's default)")]
    Forbidden(#[source] io::Error),
    #[error("cannot open {PATH}")]
    Open(#[source] io::Error),
    #[error("a device called {name} exists already, or a tap of that name is in use")]
    Taken {
        name: LinkName,
        #[source]
        cause: io::Error,
    },
    #[error("no CAP_NET_ADMIN in this network namespace")]
    Denied(#[source] io::Error),
    #[error("tap request {request} refused")]
    Refused {
        request: &'static str,
        #[source]
        cause: io::Error,
    },
}

/// An open `/dev/net/tun` that is no tap yet: lets a bench take its time stamp right before the one ioctl.
#[derive(Debug)]
pub struct TapSource(OwnedFd);

impl TapSource {
    pub fn open() -> Result<Self, TapError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            // The opener polls; a blocking read of a tap never ends by itself.
            .custom_flags(libc::O_NONBLOCK)
            .open(PATH)
            .map(|file| Self(file.into()))
            .map_err(|e| match e.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::Missing(e),
                Some(libc::EACCES | libc::EPERM) => TapError::Forbidden(e),
                _ => TapError::Open(e),
            })
    }

    /// `TUNSETIFF` with `IFF_TAP|IFF_NO_PI`: the tap appears in the network namespace of the calling thread, down,
    /// without a master. `name` may hold `%d`; without a name the kernel picks `tap0`, `tap1` ...
    ///
    /// Attaches to an existing persistent tap of that name when nobody has it open.
    pub fn create(self, name: Option<&LinkName>) -> Result<Tap, TapError> {
        let mut request = empty_request();
        if let Some(name) = name {
            for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
                *to = *from as libc::c_char;
            }
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        ioctl(&self.0, libc::TUNSETIFF, &raw mut request).map_err(|cause| {
            match (cause.raw_os_error(), name) {
                (Some(libc::EPERM), _) => TapError::Denied(cause),
                (Some(libc::EBUSY | libc::EEXIST | libc::EINVAL), Some(name))
                    if index_of(&request).is_ok() =>
                {
                    TapError::Taken { name: *name, cause }
                }
                _ => TapError::Refused {
                    request: "TUNSETIFF",
                    cause,
                },
            }
        })?;
        let index = index_of(&request).map_err(|cause| TapError::Refused {
            request: "SIOCGIFINDEX",
            cause,
        })?;
        let name = name_in(&request).map_err(|cause| TapError::Refused {
            request: "TUNSETIFF",
            cause,
        })?;
        Ok(Tap {
            fd: self.0,
            name,
            index,
        })
    }
}

/// A tap, held open.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: LinkName,
    index: Ifindex,
}

impl Tap {
    /// Opens `/dev/net/tun` and makes the tap.
    pub fn create(name: Option<&LinkName>) -> Result<Self, TapError> {
        TapSource::open()?.create(name)
    }

    /// As the kernel named it at creation; a later rename does not show here.
    pub fn name(&self) -> LinkName {
        self.name
    }

    pub fn index(&self) -> Ifindex {
        self.index
    }

    /// `TUNSETPERSIST`: a persistent tap stays, without carrier, when its descriptor is closed.
    pub fn set_persistent(&self, persistent: bool) -> Result<(), TapError> {
        // The argument is the value itself, not a pointer to it (drivers/net/tun.c).
        ioctl(
            &self.fd,
            libc::TUNSETPERSIST,
            libc::c_ulong::from(persistent) as *mut libc::c_void,
        )
        .map_err(|cause| TapError::Refused {
            request: "TUNSETPERSIST",
            cause,
        })
    }
}

impl AsFd for Tap {
    /// Reads and writes whole Ethernet frames, never blocking.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn empty_request() -> libc::ifreq {
    libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 },
    }
}

fn ioctl<T>(fd: &OwnedFd, request: libc::Ioctl, argument: *mut T) -> io::Result<()> {
    // SAFETY: both requests used here read at most a `struct ifreq`, which the callers own for the length of the call.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The index of the device that `request` names, in the calling thread's network namespace.
fn index_of(request: &libc::ifreq) -> io::Result<Ifindex> {
    // SAFETY: `ifr_name` is terminated: `create` writes at most 15 of 16 bytes, the kernel terminates what it writes.
    let raw = unsafe { libc::if_nametoindex(request.ifr_name.as_ptr()) };
    Ifindex::new(raw).ok_or_else(io::Error::last_os_error)
}

fn name_in(request: &libc::ifreq) -> io::Result<LinkName> {
    let bytes: Vec<u8> = request
        .ifr_name
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| c.cast_unsigned())
        .collect();
    LinkName::from_bytes(&bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_device_says_what_to_do() {
        let denied = TapError::Forbidden(io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(
            denied.to_string(),
            "/dev/net/tun is closed to this user: run as root, or `chmod 666 /dev/net/tun` (udev's default)"
        );
    }

    #[test]
    fn a_name_read_back_ends_at_the_zero() {
        let mut request = empty_request();
        for (to, from) in request.ifr_name.iter_mut().zip(b"tap0-1") {
            *to = from.cast_signed();
        }
        assert_eq!(name_in(&request).unwrap(), LinkName::new("tap0-1").unwrap());
    }
}
