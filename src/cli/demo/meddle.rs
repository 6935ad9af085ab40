//! What the demo does behind the daemon's back, through the kernel's oldest interface: the ioctls that `brctl` and
//! `ifconfig` still use. Nothing of the daemon is involved, so what it repairs was really broken by somebody else.
//!
//! All in the network namespace of the calling thread, which the demo has left the host's for.

use crate::model::{Ifindex, LinkName};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// linux/sockios.h; libc does not have these three.
const SIOCBRDELBR: libc::Ioctl = 0x89a1;
const SIOCBRDELIF: libc::Ioctl = 0x89a3;
const SIOCSIFVLAN: libc::Ioctl = 0x8983;

/// An ioctl socket.
#[derive(Debug)]
pub struct Hand(OwnedFd);

impl Hand {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; a descriptor that is not negative is ours alone.
        unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// `ifconfig NAME ADDRESS netmask 255.255.255.0 up`.
    pub fn address(&self, name: &LinkName, address: Ipv4Addr) -> io::Result<()> {
        for (what, value) in [
            (libc::SIOCSIFADDR, address),
            (libc::SIOCSIFNETMASK, Ipv4Addr::new(255, 255, 255, 0)),
        ] {
            let mut request = request(name);
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr {
                    s_addr: u32::from(value).to_be(),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: both are 16 bytes of plain data; the kernel reads a sockaddr_in there.
            request.ifr_ifru.ifru_addr =
                unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
            self.call(what as libc::Ioctl, &raw mut request)?;
        }
        self.set_up(name)
    }

    /// `ip link set NAME up`.
    pub fn set_up(&self, name: &LinkName) -> io::Result<()> {
        self.flags(name, libc::IFF_UP)
    }

    /// `brctl delif BRIDGE TAP`.
    pub fn detach(&self, bridge: &LinkName, port: Ifindex) -> io::Result<()> {
        let mut request = request(bridge);
        request.ifr_ifru.ifru_ifindex = port.get().cast_signed();
        self.call(SIOCBRDELIF, &raw mut request)
    }

    /// `ifconfig BRIDGE down; brctl delbr BRIDGE`, its ports and all.
    pub fn delete_bridge(&self, bridge: &LinkName) -> io::Result<()> {
        self.flags(bridge, 0)?;
        let mut name = request(bridge).ifr_name;
        self.call(SIOCBRDELBR, name.as_mut_ptr())
    }

    /// Whether the kernel knows 802.1Q: makes `NAME.4094` and removes it again.
    pub fn knows_vlans(&self, name: &LinkName) -> bool {
        const ADD: libc::c_int = 0;
        const DELETE: libc::c_int = 1;
        let mut add = VlanRequest::new(ADD, name.as_bytes());
        add.vid = 4094;
        if self.call(SIOCSIFVLAN, &raw mut add).is_err() {
            return false;
        }
        let mut delete = VlanRequest::new(DELETE, format!("{name}.4094").as_bytes());
        self.call(SIOCSIFVLAN, &raw mut delete).is_ok()
    }

    fn flags(&self, name: &LinkName, flags: libc::c_int) -> io::Result<()> {
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        self.call(libc::SIOCSIFFLAGS as libc::Ioctl, &raw mut request)
    }

    fn call<T>(&self, what: libc::Ioctl, argument: *mut T) -> io::Result<()> {
        // SAFETY: every caller passes the structure that `what` reads and writes, alive through the call.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), what, argument) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// `struct vlan_ioctl_args` (linux/if_vlan.h): a union of 24 bytes of which only the VID is used.
#[repr(C)]
struct VlanRequest {
    cmd: libc::c_int,
    device: [u8; 24],
    vid: libc::c_int,
    rest_of_union: [u8; 20],
    qos: libc::c_short,
}

impl VlanRequest {
    fn new(cmd: libc::c_int, name: &[u8]) -> Self {
        let mut device = [0; 24];
        for (to, from) in device.iter_mut().take(23).zip(name) {
            *to = *from;
        }
        Self {
            cmd,
            device,
            vid: 0,
            rest_of_union: [0; 20],
            qos: 0,
        }
    }
}

fn request(name: &LinkName) -> libc::ifreq {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tuntap::Tap;
    use std::ffi::CString;

    const SIOCBRADDBR: libc::Ioctl = 0x89a0;
    const SIOCBRADDIF: libc::Ioctl = 0x89a2;

    fn exists(name: &str) -> bool {
        let name = CString::new(name).unwrap();
        // SAFETY: a terminated string, alive through the call.
        unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
    }

    /// In a network namespace of a thread of its own, which only root can make without more ado.
    fn in_thread_namespace(work: impl FnOnce() + Send + 'static) {
        let outcome = std::thread::spawn(|| {
            // SAFETY: takes no pointers.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
                work();
                return true;
            }
            false
        })
        .join();
        match outcome {
            Ok(true) => {}
            Ok(false) => println!("skipped: no private network namespace without root"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    #[test]
    fn a_port_is_taken_off_and_a_bridge_deleted_with_its_ports() {
        in_thread_namespace(|| {
            let hand = Hand::new().unwrap();
            let bridge = LinkName::new("br0").unwrap();
            let mut name = request(&bridge).ifr_name;
            hand.call(SIOCBRADDBR, name.as_mut_ptr()).unwrap();
            let tap = Tap::create(Some(&LinkName::new("tap0").unwrap())).unwrap();
            let mut enslave = request(&bridge);
            enslave.ifr_ifru.ifru_ifindex = tap.index().get().cast_signed();
            hand.call(SIOCBRADDIF, &raw mut enslave).unwrap();
            hand.set_up(&bridge).unwrap();
            hand.address(&bridge, Ipv4Addr::new(192, 0, 2, 1)).unwrap();
            hand.detach(&bridge, tap.index()).unwrap();
            let again = hand.detach(&bridge, tap.index());
            assert_eq!(
                again.unwrap_err().raw_os_error(),
                Some(libc::EINVAL),
                "no port any more"
            );
            hand.call(SIOCBRADDIF, &raw mut enslave).unwrap();
            hand.delete_bridge(&bridge).unwrap();
            assert!(!exists("br0") && exists("tap0"));
            // Either answer is right; the probe must leave nothing behind.
            let _ = hand.knows_vlans(&tap.name());
            assert!(!exists("tap0.4094"));
        });
    }
}
