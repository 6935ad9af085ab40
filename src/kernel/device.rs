//! Index and name of a device by ioctl, and the one setting that netlink cannot change: `disable_ipv6`.

use super::error::{Error, Goal, Refusal};
use crate::model::{Ifindex, LinkName};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::RawFd;

/// The name an index has now; none when there is no such index. One system call, 0.3 us, no RTNL.
pub fn name_of(socket: RawFd, index: Ifindex) -> Result<Option<LinkName>, Error> {
    let mut request = empty_request();
    request.ifr_ifru.ifru_ifindex = libc::c_int::try_from(index.get()).unwrap_or(0);
    if let Some(error) = ioctl(socket, libc::SIOCGIFNAME as libc::Ioctl, &mut request) {
        return if error.raw_os_error() == Some(libc::ENODEV) {
            Ok(None)
        } else {
            Err(Error::Io {
                what: "asking for the name of a link",
                source: error,
            })
        };
    }
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(request.ifr_name) {
        *to = from.to_ne_bytes()[0];
    }
    Ok(LinkName::from_bytes(super::wire::string_value(&name)).ok())
}

/// `net.ipv6.conf.NAME.disable_ipv6`, in the calling thread's network namespace.
///
/// Never writes to another device than `index`: the file is opened first, and stays that device's. Then the index is
/// asked for its name. If the device is renamed or removed after that, its directory is unregistered and the write
/// fails with ENOENT, whoever has the name by then.
pub fn set_disable_ipv6(
    socket: RawFd,
    op: &'static str,
    name: &LinkName,
    index: Ifindex,
    disable: bool,
) -> Result<(), Error> {
    let mut path = Vec::with_capacity(64);
    path.extend_from_slice(b"/proc/sys/net/ipv6/conf/");
    path.extend_from_slice(name.as_bytes());
    path.extend_from_slice(b"/disable_ipv6");
    let path = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(path);
    let opened = OpenOptions::new().write(true).open(path);
    let now = name_of(socket, index)?;
    if now != Some(*name) {
        return Err(Error::Replaced {
            op,
            goal: Goal::Change,
            name: *name,
            index,
            now,
        });
    }
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The device is there and has no IPv6: none in the kernel, or an MTU below 1,280.
            return Err(Error::refused(op, Goal::Delete, Refusal::errno(libc::ENOENT)));
        }
        Err(error) => return Err(Error::from_io(op, Goal::Change, &error)),
    };
    file.write_all(if disable { b"1" } else { b"0" })
        .map_err(|error| Error::from_io(op, Goal::Change, &error))
}

fn empty_request() -> libc::ifreq {
    // SAFETY: ifreq is plain data; all zero is a valid value of it.
    unsafe { std::mem::zeroed() }
}

fn ioctl(socket: RawFd, number: libc::Ioctl, request: &mut libc::ifreq) -> Option<io::Error> {
    // SAFETY: the request is a live ifreq, which is what SIOCGIFNAME reads and writes.
    let result = unsafe { libc::ioctl(socket, number, std::ptr::from_mut(request)) };
    (result < 0).then(io::Error::last_os_error)
}
