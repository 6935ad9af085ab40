//! Tells the neighbours that an address is here now: gratuitous ARP (RFC 5944 4.6), unsolicited neighbour advertisement
//! (RFC 4861 7.2.6).
//!
//! Neighbours that had the address elsewhere would go on sending there for minutes. Sent three times, a second apart,
//! because nobody acknowledges; a whole batch of addresses is spread, because switches drop what comes at once.

use super::error::Error;
use crate::model::{Ifindex, Mac};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// Each of an address's announcements, behind the one before.
pub const AGAIN: Duration = Duration::from_secs(1);
pub const TIMES: usize = 3;
/// Between two addresses of a batch.
pub const SPREAD: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    pub link: Ifindex,
    pub mac: Mac,
    pub address: IpAddr,
}

/// A packet socket that only sends.
#[derive(Debug)]
pub struct Announcer(OwnedFd);

impl Announcer {
    /// Opens in the calling thread's network namespace. Protocol 0: nothing is ever received.
    pub fn open() -> Result<Self, Error> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(Error::Io {
                what: "opening a packet socket",
                source: io::Error::last_os_error(),
            });
        }
        // SAFETY: just opened, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn send(&self, announcement: &Announcement) -> io::Result<()> {
        let (packet, protocol, to) = match announcement.address {
            IpAddr::V4(address) => (
                arp(announcement.mac, address).to_vec(),
                libc::ETH_P_ARP,
                [0xff; 6],
            ),
            IpAddr::V6(address) => (
                advertisement(announcement.mac, address).to_vec(),
                libc::ETH_P_IPV6,
                // ff02::1 (RFC 2464 7).
                [0x33, 0x33, 0, 0, 0, 1],
            ),
        };
        // SAFETY: sockaddr_ll is plain data; all zero is a valid value of it.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = (protocol as u16).to_be();
        address.sll_ifindex = announcement.link.get().cast_signed();
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&to);
        // SAFETY: packet and address live for the call, with the lengths told.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// A request for the address itself, from it: whoever has an entry for it learns the MAC.
fn arp(mac: Mac, address: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&mac.bytes());
    packet[14..18].copy_from_slice(&address.octets());
    packet[24..28].copy_from_slice(&address.octets());
    packet
}

/// From the address to all nodes, with "override" set and the MAC as target link-layer address.
///
/// A link-local address is only ever announced where it is the machines' router, and says so: one that said it is none would
/// be taken off their default routers (RFC 4861 7.2.5).
fn advertisement(mac: Mac, address: Ipv6Addr) -> [u8; 72] {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    let mut packet = [0; 72];
    packet[0] = 0x60;
    packet[5] = 32;
    packet[6] = ICMPV6;
    // RFC 4861 4.4: anything less was forwarded.
    packet[7] = 255;
    packet[8..24].copy_from_slice(&address.octets());
    packet[24..40].copy_from_slice(&ALL_NODES.octets());
    packet[40] = 136;
    packet[44] = if address.is_unicast_link_local() {
        0xa0
    } else {
        0x20
    };
    packet[48..64].copy_from_slice(&address.octets());
    packet[64] = 2;
    packet[65] = 1;
    packet[66..72].copy_from_slice(&mac.bytes());
    // RFC 8200 8.1: addresses, length and protocol, then the message.
    let words = packet[8..]
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum::<u32>() + 32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[42..44].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arp_announcement_asks_for_itself() {
        let packet = arp(Mac::new([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(203, 0, 113, 7));
        assert_eq!(packet[14..18], packet[24..28]);
        assert_eq!(packet[6..8], [0, 1]);
    }

    #[test]
    fn a_link_local_address_is_a_routers() {
        let flags = |address: &str| advertisement(Mac::new([2, 0, 0, 0, 0, 1]), address.parse().unwrap())[44];
        assert_eq!(flags("fe80::1"), 0xa0);
        assert_eq!(flags("2001:db8::7"), 0x20);
    }

    #[test]
    fn an_advertisements_checksum_adds_up() {
        let packet = advertisement(Mac::new([2, 0, 0, 0, 0, 1]), "2001:db8::7".parse().unwrap());
        let words = packet[8..]
            .chunks_exact(2)
            .map(|p| u32::from(u16::from_be_bytes([p[0], p[1]])));
        let mut sum: u32 = words.sum::<u32>() + 32 + 58;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    }
}
