//! Frames as a guest writes them.

pub type Mac = [u8; 6];
pub const BROADCAST: Mac = [0xff; 6];
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    // Without padding: the bridge trims it where it looks for multicast.
    [&to[..], &from[..], &kind.to_be_bytes(), payload].concat()
}

/// The same frame with a tag in front of its type.
pub fn tagged(frame: &[u8], protocol: u16, vid: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &protocol.to_be_bytes(), &vid.to_be_bytes(), rest].concat()
}

pub fn arp(from: Mac, operation: u16, sender: (Mac, &str), target: &str) -> Vec<u8> {
    let (mac, ip) = sender;
    let payload = [
        &[0, 1, 8, 0, 6, 4][..],
        &operation.to_be_bytes(),
        &mac,
        &four(ip),
        &[0; 6],
        &four(target),
    ];
    ethernet(BROADCAST, from, ARP, &payload.concat())
}

/// QEMU's word after a migration.
pub fn rarp(from: Mac) -> Vec<u8> {
    let payload = [&[0, 1, 8, 0, 6, 4, 0, 3][..], &from, &[0; 4], &from, &[0; 4]];
    ethernet(BROADCAST, from, 0x8035, &payload.concat())
}

pub fn ipv4(from: Mac, source: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_fragment(from, source, protocol, 0, payload)
}

/// `fragment`: flags and offset as in the header.
pub fn ipv4_fragment(from: Mac, source: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 7]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(four(source));
    header.extend([255; 4]);
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet(BROADCAST, from, IPV4, &[&header[..], payload].concat())
}

pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let header = [
        source.to_be_bytes(),
        destination.to_be_bytes(),
        length.to_be_bytes(),
        [0; 2],
    ];
    [&header.concat()[..], payload].concat()
}

/// BOOTP as far as `chaddr` and a bit further.
pub fn bootp(operation: u8, client: Mac) -> Vec<u8> {
    let mut message = vec![operation, 1, 6, 0];
    message.extend([0; 24]);
    message.extend(client);
    message.resize(240, 0);
    message
}

pub fn ipv6(from: Mac, source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    header.extend([next, 255]);
    header.extend(six(source));
    header.extend(six("ff02::1"));
    ethernet(
        [0x33, 0x33, 0, 0, 0, 1],
        from,
        IPV6,
        &[&header[..], payload].concat(),
    )
}

/// An ICMPv6 message with a target, as neighbour solicitations and advertisements have.
pub fn nd(kind: u8, target: &str) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &six(target)].concat()
}

/// Behind a header of destination options, which hide the protocol from who looks only at the first header.
pub fn behind_options(next: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    (
        DESTINATION_OPTIONS,
        [&[next, 0, 1, 4, 0, 0, 0, 0][..], payload].concat(),
    )
}

/// As a fragment: `offset` in bytes, `more` to come.
pub fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> (u8, Vec<u8>) {
    let place = offset | u16::from(more);
    let header = [&[next, 0][..], &place.to_be_bytes(), &[0, 0, 0, 9]].concat();
    (FRAGMENT, [&header[..], payload].concat())
}

fn four(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

fn six(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}
