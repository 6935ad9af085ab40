//! Raw Ethernet frames, for what a network stack would hide: what arrives, and what must not.

use super::host::Host;
use super::wait::wait_until;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// IEEE 802's "local experimental" EtherType: nobody answers it.
const EXPERIMENTAL: u16 = 0x88b5;
const BROADCAST: [u8; 6] = [0xff; 6];
const HEADER: usize = 14;

/// A NIC of a host, open for frames of the experimental type.
#[derive(Debug)]
pub struct Nic {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl Nic {
    #[track_caller]
    pub fn open(host: &Host, name: &str) -> Self {
        let text = host.link(name).expect("the NIC")["address"]
            .as_str()
            .expect("a MAC")
            .to_owned();
        let bytes: Vec<u8> = text
            .split(':')
            .map(|b| u8::from_str_radix(b, 16).expect("hex"))
            .collect();
        let socket = host
            .within(|| bound(name, EXPERIMENTAL))
            .expect("a packet socket");
        Self {
            socket,
            mac: bytes.try_into().expect("six bytes"),
        }
    }

    /// Broadcasts a frame with this text.
    #[track_caller]
    pub fn shout(&self, text: &str) {
        let mut frame = [
            &BROADCAST[..],
            &self.mac,
            &EXPERIMENTAL.to_be_bytes(),
            text.as_bytes(),
        ]
        .concat();
        frame.resize(60, 0);
        // SAFETY: the buffer lives through the call and its length is told; the descriptor is ours.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, 60, "{}", io::Error::last_os_error());
    }

    /// The text of the next frame that came in from somebody else.
    fn next(&self) -> Option<String> {
        loop {
            let (mac, text) = self.next_of_all()?;
            if mac != self.mac {
                return Some(text);
            }
        }
    }

    /// Everything that came in until `text` did, whoever sent it.
    #[track_caller]
    pub fn heard_all_until(&self, text: &str) -> Vec<String> {
        let mut heard = Vec::new();
        wait_until(&format!("{text:?} is heard"), Duration::from_secs(5), || {
            heard.extend(std::iter::from_fn(|| self.next_of_all()).map(|(_, text)| text));
            heard.iter().any(|h| h == text)
        });
        heard
    }

    /// Sender and text of the next frame that came in.
    fn next_of_all(&self) -> Option<([u8; 6], String)> {
        let frame = next_in(&self.socket)?;
        let mac = <[u8; 6]>::try_from(&frame[6..12]).expect("six bytes");
        let text = String::from_utf8_lossy(&frame[HEADER..]);
        Some((mac, text.trim_end_matches('\0').to_owned()))
    }

    /// Everything heard until `text` is; frames of one sender arrive in order.
    #[track_caller]
    pub fn heard_until(&self, text: &str) -> Vec<String> {
        let mut heard = Vec::new();
        wait_until(&format!("{text:?} is heard"), Duration::from_secs(5), || {
            heard.extend(std::iter::from_fn(|| self.next()));
            heard.iter().any(|h| h == text)
        });
        heard
    }
}

/// The next frame that is queued and came in: not one that went out here.
pub fn next_in(socket: &OwnedFd) -> Option<Vec<u8>> {
    loop {
        let mut frame = [0_u8; 2048];
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: buffer and address live through the call and their lengths are told; the descriptor is ours.
        let got = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                std::ptr::from_mut(&mut from).cast(),
                &raw mut length,
            )
        };
        let got = usize::try_from(got).ok()?;
        if from.sll_pkttype != libc::PACKET_OUTGOING {
            return Some(frame[..got].to_vec());
        }
    }
}

/// A packet socket for frames of one protocol of a link.
pub fn bound(name: &str, kind: u16) -> io::Result<OwnedFd> {
    let protocol = i32::from(kind.to_be());
    // SAFETY: takes no pointers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let text = CString::new(name).expect("a name");
    // SAFETY: a terminated string that lives through the call.
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = kind.to_be();
    address.sll_ifindex = i32::try_from(index).expect("an index");
    // SAFETY: the address lives through the call and its length is told.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
