//! Everything that arrives on a link, as a protocol analyser sees it.

use super::frame;
use super::host::Host;
use super::wait::wait_until;
use std::cell::RefCell;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A link of a host, heard from now on.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    heard: RefCell<Vec<Vec<u8>>>,
}

impl Wire {
    #[track_caller]
    pub fn open(host: &Host, name: &str) -> Self {
        let all = u16::try_from(libc::ETH_P_ALL).expect("a protocol");
        let socket = host.within(|| frame::bound(name, all)).expect("a packet socket");
        Self {
            socket,
            heard: RefCell::default(),
        }
    }

    /// What was heard so far does not count.
    pub fn forget(&self) {
        self.listen();
        self.heard.borrow_mut().clear();
    }

    fn listen(&self) {
        let arrived = std::iter::from_fn(|| frame::next_in(&self.socket));
        self.heard.borrow_mut().extend(arrived);
    }

    fn count(&self, of: impl Fn(&[u8]) -> bool) -> usize {
        self.listen();
        self.heard.borrow().iter().filter(|frame| of(frame)).count()
    }

    /// Until the address was announced so often, by gratuitous ARP or unsolicited neighbour advertisement, with this MAC.
    #[track_caller]
    pub fn wait_announced(&self, address: IpAddr, mac: &str, times: usize) {
        let mut heard = 0;
        wait_until(&format!("{address} is announced {times} times"), PATIENCE, || {
            heard = self.announced(address, mac);
            heard >= times
        });
        assert_eq!(heard, times, "announcements of {address}");
    }

    /// How often the address was announced with this MAC.
    pub fn announced(&self, address: IpAddr, mac: &str) -> usize {
        let bytes = mac.split(':').map(|b| u8::from_str_radix(b, 16).expect("hex"));
        let mac: Vec<u8> = bytes.collect();
        self.count(|frame| announces(frame, address, &mac))
    }

    /// Frames in which somebody says that he has this address.
    pub fn mentions(&self, address: IpAddr) -> usize {
        self.count(|frame| claims(frame, address))
    }

    pub fn router_advertisements(&self) -> usize {
        self.count(|frame| icmpv6(frame).is_some_and(|message| message.first() == Some(&134)))
    }

    /// UDP datagrams to these ports.
    pub fn datagrams(&self, ports: &[u16]) -> usize {
        self.count(|frame| udp_port(frame).is_some_and(|port| ports.contains(&port)))
    }

    #[track_caller]
    pub fn wait_datagram(&self, port: u16) {
        wait_until(&format!("a datagram to port {port}"), PATIENCE, || {
            self.datagrams(&[port]) > 0
        });
    }
}

fn kind(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}

fn is(bytes: Option<&[u8]>, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => bytes == Some(&a.octets()),
        IpAddr::V6(a) => bytes == Some(&a.octets()),
    }
}

fn icmpv6(frame: &[u8]) -> Option<&[u8]> {
    (kind(frame) == IPV6 && frame.get(20) == Some(&ICMPV6)).then(|| frame.get(54..))?
}

fn claims(frame: &[u8], address: IpAddr) -> bool {
    match kind(frame) {
        ARP => is(frame.get(28..32), address),
        IPV6 => icmpv6(frame)
            .is_some_and(|message| message.first() == Some(&136) && is(message.get(8..24), address)),
        _ => false,
    }
}

fn announces(frame: &[u8], address: IpAddr, mac: &[u8]) -> bool {
    claims(frame, address)
        && match icmpv6(frame) {
            // Not solicited, override, and a link-local address is a router's; the target's link-layer address (RFC 4861 4.4).
            Some(message) => {
                let router = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
                let flags = if router { 0xa0 } else { 0x20 };
                message.get(4) == Some(&flags) && message.get(26..32) == Some(mac)
            }
            None => {
                frame[..6] == [0xff; 6] && is(frame.get(38..42), address) && frame.get(22..28) == Some(mac)
            }
        }
}

fn udp_port(frame: &[u8]) -> Option<u16> {
    let (protocol, port) = match kind(frame) {
        IPV4 => (frame.get(23)?, frame.get(36..38)?),
        IPV6 => (frame.get(20)?, frame.get(56..58)?),
        _ => return None,
    };
    (*protocol == UDP).then(|| u16::from_be_bytes([port[0], port[1]]))
}
