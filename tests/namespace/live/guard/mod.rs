//! What a guarded port may send: frames written by a guest, seen (or not) by its neighbour on the same bridge.

mod foreign;
mod frame;
mod life;

use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use frame::*;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;
use tapwire::kernel::tuntap::Tap;

/// The guest's, its neighbour's, and an allowed one.
pub const OWN: Mac = [0xfa, 0x16, 0x3e, 0, 0, 5];
pub const OTHER: Mac = [0xfa, 0x16, 0x3e, 0, 0, 6];
const VIRTUAL: Mac = [0x00, 0x00, 0x5e, 0, 1, 7];
const LINK_LOCAL: &str = "fe80::f816:3eff:fe00:5";

pub const GUARDED: &str = r#"
[daemon]
prune_after = "never"
[taps]
match = ["tap*"]
[[network]]
id = "blue"
network_type = "local"
[[port]]
tap = "tap1"
network = "blue"
[[port]]
tap = "tap0"
network = "blue"
mac = "fa:16:3e:00:00:05"
addresses = ["10.0.0.5", "2001:db8::5"]
"#;

/// Two guests on one bridge; what the first sends, the second sees.
pub struct Pair {
    pub guest: Tap,
    pub neighbour: Tap,
}

impl Pair {
    /// `tap0` and `tap1`, attached.
    pub fn attached(host: &Host, daemon: &Daemon) -> Self {
        let neighbour = host.tap("tap1");
        daemon.wait_port("tap1", "attached");
        let guest = host.tap("tap0");
        daemon.wait_port("tap0", "attached");
        let pair = Self { guest, neighbour };
        // Carrier and the bridge's forwarding are told a moment later than `attached`.
        wait_until("the port forwards", Duration::from_secs(5), || {
            write(&pair.guest, &marker(0));
            read(&pair.neighbour).is_some()
        });
        pair.drain();
        pair
    }

    fn drain(&self) {
        while read(&self.neighbour).is_some() {}
    }

    /// Whether the frame comes through. A frame that certainly does is sent behind it, so nothing is waited for in vain.
    pub fn passes(&self, frame: &[u8]) -> bool {
        write(&self.guest, frame);
        write(&self.guest, &marker(1));
        let mut seen = false;
        wait_until("the marker comes through", Duration::from_secs(5), || {
            while let Some(got) = read(&self.neighbour) {
                if got == marker(1) {
                    return true;
                }
                seen |= got == frame;
            }
            false
        });
        seen
    }
}

/// A frame that every guard in these tests lets through.
fn marker(number: u8) -> Vec<u8> {
    ipv4(OWN, "10.0.0.5", 253, &[0x6d, number])
}

pub fn write(tap: &Tap, frame: &[u8]) {
    // SAFETY: the frame is readable for its whole length; the descriptor is the tap's.
    let written = unsafe { libc::write(tap.as_fd().as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
    // A port that is down takes nothing (EIO).
    assert!(
        written == frame.len().cast_signed()
            || std::io::Error::last_os_error().raw_os_error() == Some(libc::EIO),
        "{}",
        std::io::Error::last_os_error()
    );
}

pub fn read(tap: &Tap) -> Option<Vec<u8>> {
    let mut frame = vec![0; 2048];
    // SAFETY: the buffer is writable for its whole length; the descriptor is the tap's.
    let got = unsafe { libc::read(tap.as_fd().as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) };
    frame.truncate(usize::try_from(got).ok()?);
    Some(frame)
}

fn dhcp(from: Mac, source: &str, client: Mac) -> Vec<u8> {
    ipv4(from, source, UDP, &udp(68, 67, &bootp(1, client)))
}

fn router_advertisement() -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8];
    message.resize(16, 0);
    message
}

/// What a guest with that MAC and those addresses has every right to send.
fn legitimate() -> Vec<(&'static str, Vec<u8>)> {
    let echo = [8, 0, 0, 0, 0, 0, 0, 0];
    let big = [0; 64];
    let (options, behind) = behind_options(ICMPV6, &nd(135, "2001:db8::9"));
    let (next, first) = fragment(UDP, 0, true, &udp(1000, 2000, &big));
    let (_, last) = fragment(UDP, 72, false, &big);
    vec![
        ("an IPv4 packet", ipv4(OWN, "10.0.0.5", 1, &echo)),
        (
            "an IPv4 fragment",
            ipv4_fragment(OWN, "10.0.0.5", UDP, 0x2000, &udp(1, 2, &big)),
        ),
        (
            "the last IPv4 fragment",
            ipv4_fragment(OWN, "10.0.0.5", UDP, 9, &big),
        ),
        ("a UDP packet", ipv4(OWN, "10.0.0.5", UDP, &udp(53, 53, b"?"))),
        ("a DHCP request without an address", dhcp(OWN, "0.0.0.0", OWN)),
        ("a renewal", dhcp(OWN, "10.0.0.5", OWN)),
        ("an ARP request", arp(OWN, 1, (OWN, "10.0.0.5"), "10.0.0.9")),
        ("an ARP answer", arp(OWN, 2, (OWN, "10.0.0.5"), "10.0.0.9")),
        ("a gratuitous ARP", arp(OWN, 1, (OWN, "10.0.0.5"), "10.0.0.5")),
        ("an ARP probe", arp(OWN, 1, (OWN, "0.0.0.0"), "10.0.0.5")),
        ("QEMU's RARP", rarp(OWN)),
        ("an IPv6 packet", ipv6(OWN, "2001:db8::5", UDP, &udp(1, 2, b"?"))),
        ("an IPv6 fragment", ipv6(OWN, "2001:db8::5", next, &first)),
        ("the last IPv6 fragment", ipv6(OWN, "2001:db8::5", next, &last)),
        ("one with options", ipv6(OWN, "2001:db8::5", options, &behind)),
        ("a link-local one", ipv6(OWN, LINK_LOCAL, UDP, &udp(1, 2, b"?"))),
        (
            "a DHCPv6 request",
            ipv6(OWN, LINK_LOCAL, UDP, &udp(546, 547, b"?")),
        ),
        (
            "a router solicitation",
            ipv6(OWN, LINK_LOCAL, ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (
            "one from nowhere",
            ipv6(OWN, "::", ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (
            "a multicast report",
            ipv6(OWN, "::", ICMPV6, &[143, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (
            "a neighbour solicitation",
            ipv6(OWN, "2001:db8::5", ICMPV6, &nd(135, "2001:db8::9")),
        ),
        (
            "an advertisement",
            ipv6(OWN, "2001:db8::5", ICMPV6, &nd(136, "2001:db8::5")),
        ),
        (
            "one of the link-local address",
            ipv6(OWN, LINK_LOCAL, ICMPV6, &nd(136, LINK_LOCAL)),
        ),
        (
            "is my address free?",
            ipv6(OWN, "::", ICMPV6, &nd(135, "2001:db8::5")),
        ),
        (
            "is my link-local address free?",
            ipv6(OWN, "::", ICMPV6, &nd(135, LINK_LOCAL)),
        ),
    ]
}

/// What it has no right to.
fn spoofed() -> Vec<(&'static str, Vec<u8>)> {
    let echo = [8, 0, 0, 0, 0, 0, 0, 0];
    let advertisement = router_advertisement();
    let (options, behind) = behind_options(ICMPV6, &advertisement);
    let (next, first) = fragment(ICMPV6, 0, true, &advertisement);
    // RFC 7113: the first fragment ends before the ICMPv6 header.
    let (hidden, hiding) = fragment(60, 0, true, &[ICMPV6, 20, 1, 4, 0, 0, 0, 0]);
    let mut frames = vec![
        ("another's MAC", ipv4(OTHER, "10.0.0.5", 1, &echo)),
        (
            "another's MAC in IPv6",
            ipv6(OTHER, "2001:db8::5", UDP, &udp(1, 2, b"?")),
        ),
        (
            "another's MAC in ARP",
            arp(OTHER, 1, (OTHER, "10.0.0.5"), "10.0.0.9"),
        ),
        ("another's MAC in RARP", rarp(OTHER)),
        ("a MAC of all machines", ipv4(BROADCAST, "10.0.0.5", 1, &echo)),
        ("another's IPv4", ipv4(OWN, "10.0.0.6", 1, &echo)),
        (
            "a fragment of another's",
            ipv4_fragment(OWN, "10.0.0.6", UDP, 9, &echo),
        ),
        ("no IPv4 address", ipv4(OWN, "0.0.0.0", 1, &echo)),
        (
            "no address, another port",
            ipv4(OWN, "0.0.0.0", UDP, &udp(1068, 67, b"?")),
        ),
        ("a DHCP request for another", dhcp(OWN, "0.0.0.0", OTHER)),
        ("a release for another", dhcp(OWN, "10.0.0.5", OTHER)),
        ("a DHCP request that hides for whom", {
            ipv4_fragment(
                OWN,
                "10.0.0.5",
                UDP,
                0x2000,
                &udp(68, 67, &[1, 1, 6, 0, 0, 0, 0, 0]),
            )
        }),
        ("another's IPv6", ipv6(OWN, "2001:db8::6", UDP, &udp(1, 2, b"?"))),
        (
            "another's link-local",
            ipv6(OWN, "fe80::1", UDP, &udp(1, 2, b"?")),
        ),
        ("no IPv6 address", ipv6(OWN, "::", UDP, &udp(1, 2, b"?"))),
        (
            "ARP of another's address",
            arp(OWN, 2, (OWN, "10.0.0.6"), "10.0.0.9"),
        ),
        (
            "ARP of another's MAC",
            arp(OWN, 2, (OTHER, "10.0.0.5"), "10.0.0.9"),
        ),
        (
            "ARP of a whole other machine",
            arp(OWN, 1, (OTHER, "10.0.0.6"), "10.0.0.9"),
        ),
        (
            "a gratuitous ARP of another's",
            arp(OWN, 1, (OWN, "10.0.0.6"), "10.0.0.6"),
        ),
        ("a probe of another's", arp(OWN, 1, (OWN, "0.0.0.0"), "10.0.0.6")),
        (
            "an answer from nowhere",
            arp(OWN, 2, (OWN, "0.0.0.0"), "10.0.0.5"),
        ),
        (
            "an advertisement of another's",
            ipv6(OWN, "2001:db8::5", ICMPV6, &nd(136, "2001:db8::6")),
        ),
        (
            "one of the router's",
            ipv6(OWN, LINK_LOCAL, ICMPV6, &nd(136, "fe80::1")),
        ),
        (
            "one from another",
            ipv6(OWN, "2001:db8::6", ICMPV6, &nd(136, "2001:db8::5")),
        ),
        (
            "a solicitation from another",
            ipv6(OWN, "2001:db8::6", ICMPV6, &nd(135, "2001:db8::9")),
        ),
        (
            "is another's address free?",
            ipv6(OWN, "::", ICMPV6, &nd(135, "2001:db8::6")),
        ),
        (
            "a DHCP answer",
            ipv4(OWN, "10.0.0.5", UDP, &udp(67, 68, &bootp(2, OTHER))),
        ),
        (
            "one from another port",
            ipv4(OWN, "10.0.0.5", UDP, &udp(4000, 68, &bootp(2, OTHER))),
        ),
        ("one as a fragment", {
            ipv4_fragment(
                OWN,
                "10.0.0.5",
                UDP,
                0x2000,
                &udp(67, 68, &[2, 1, 6, 0, 0, 0, 0, 0]),
            )
        }),
        (
            "a DHCPv6 answer",
            ipv6(OWN, LINK_LOCAL, UDP, &udp(547, 546, b"?")),
        ),
        (
            "one from another port",
            ipv6(OWN, LINK_LOCAL, UDP, &udp(4000, 546, b"?")),
        ),
        (
            "a router advertisement",
            ipv6(OWN, LINK_LOCAL, ICMPV6, &advertisement),
        ),
        ("one behind options", ipv6(OWN, LINK_LOCAL, options, &behind)),
        ("one as a fragment", ipv6(OWN, LINK_LOCAL, next, &first)),
        (
            "one behind a fragment's end",
            ipv6(OWN, LINK_LOCAL, hidden, &hiding),
        ),
        (
            "a redirect",
            ipv6(OWN, LINK_LOCAL, ICMPV6, &nd(137, "2001:db8::9")),
        ),
        ("another protocol", ethernet(BROADCAST, OWN, 0x88b5, b"?")),
        (
            "LLC",
            ethernet(BROADCAST, OWN, 40, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
        ),
    ];
    let evasions: Vec<(&'static str, Vec<u8>)> = frames
        .iter()
        .flat_map(|(_, frame)| {
            [
                ("the same with an 802.1Q tag", tagged(frame, 0x8100, 7)),
                ("the same with a priority tag", tagged(frame, 0x8100, 0)),
                ("the same with an 802.1ad tag", tagged(frame, 0x88a8, 7)),
                (
                    "the same with two tags",
                    tagged(&tagged(frame, 0x8100, 7), 0x88a8, 9),
                ),
                (
                    "the same with two empty tags",
                    tagged(&tagged(frame, 0x8100, 0), 0x8100, 0),
                ),
                ("the same with an old tag", tagged(frame, 0x9100, 7)),
            ]
        })
        .collect();
    frames.extend(evasions);
    frames.extend(
        legitimate()
            .into_iter()
            .map(|(_, frame)| ("a right one with a tag", tagged(&frame, 0x8100, 7))),
    );
    frames
}

#[test]
fn nothing_spoofed_leaves_a_guarded_port_and_everything_right_does() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter);
        let host = Host::here();
        let daemon = host.daemon(GUARDED);
        let pair = Pair::attached(&host, &daemon);
        for (what, frame) in legitimate() {
            assert!(pair.passes(&frame), "does not pass: {what}");
        }
        for (what, frame) in spoofed() {
            assert!(!pair.passes(&frame), "passes: {what}: {frame:02x?}");
        }
        daemon.assert_nothing_planned();
    });
}

#[test]
fn the_guard_holds_on_a_vlan_aware_bridge_and_leaves_sub_ports_alone() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::VlanFiltering);
        let host = Host::here();
        let configuration = format!(
            "{GUARDED}[[port.sub_port]]\nsegmentation_id = 7\nnetwork = \"red\"\n\
             [[network]]\nid = \"red\"\nnetwork_type = \"local\"\n\
             [[port]]\ntap = \"tap2\"\nnetwork = \"red\"\n[bridge]\nmode = \"vlan-aware\"\n"
        );
        let daemon = host.daemon(&configuration);
        let red = host.tap("tap2");
        daemon.wait_port("tap2", "attached");
        let pair = Pair::attached(&host, &daemon);
        for (what, frame) in legitimate() {
            assert!(pair.passes(&frame), "does not pass: {what}");
        }
        for (what, frame) in spoofed() {
            assert!(!pair.passes(&frame), "passes: {what}: {frame:02x?}");
        }
        // A sub-port is a port of its own, whose addresses nobody told.
        let frame = ipv4(OWN, "10.7.0.5", 1, b"?");
        write(&pair.guest, &tagged(&frame, 0x8100, 7));
        wait_until("the tagged frame comes through", Duration::from_secs(5), || {
            std::iter::from_fn(|| read(&red)).any(|got| got == frame)
        });
    });
}

#[test]
fn an_unguarded_port_sends_whatever_it_likes() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::Program("nft"));
        let host = Host::here();
        let daemon = host.daemon(&GUARDED.replace("addresses = ", "port_security = false\naddresses = "));
        let pair = Pair::attached(&host, &daemon);
        for (what, frame) in spoofed().into_iter().take(38) {
            // The kernel itself drops what comes from a group address.
            if frame[6] & 1 == 0 {
                assert!(pair.passes(&frame), "does not pass: {what}");
            }
        }
        assert_eq!(host.run("nft list ruleset"), "", "nobody asked for a table");
    });
}

#[test]
fn allowed_pairs_work_each_with_its_own_mac() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter);
        let host = Host::here();
        let pairs = r#"
[[port.allowed_address_pairs]]
ip = "10.0.0.100"
mac = "00:00:5e:00:01:07"
[[port.allowed_address_pairs]]
ip = "10.1.0.0/16"
[[port.allowed_address_pairs]]
ip = "2001:db8:1::/64"
"#;
        let daemon = host.daemon(&format!("{GUARDED}{pairs}"));
        let pair = Pair::attached(&host, &daemon);
        let right = [
            ipv4(VIRTUAL, "10.0.0.100", 1, b"?"),
            arp(VIRTUAL, 1, (VIRTUAL, "10.0.0.100"), "10.0.0.100"),
            ipv4(OWN, "10.1.2.3", 1, b"?"),
            ipv4(OWN, "10.1.255.255", 1, b"?"),
            arp(OWN, 2, (OWN, "10.1.2.3"), "10.0.0.9"),
            arp(OWN, 1, (OWN, "0.0.0.0"), "10.1.2.3"),
            ipv6(OWN, "2001:db8:1::7", UDP, &udp(1, 2, b"?")),
            ipv6(OWN, "2001:db8:1::7", ICMPV6, &nd(136, "2001:db8:1::7")),
            ipv6(OWN, "::", ICMPV6, &nd(135, "2001:db8:1::7")),
            ipv6(VIRTUAL, "fe80::200:5eff:fe00:107", UDP, &udp(1, 2, b"?")),
        ];
        for frame in right
            .into_iter()
            .chain(legitimate().into_iter().map(|(_, frame)| frame))
        {
            assert!(pair.passes(&frame), "does not pass: {frame:02x?}");
        }
        let wrong = [
            ipv4(OWN, "10.0.0.100", 1, b"?"),
            ipv4(VIRTUAL, "10.0.0.5", 1, b"?"),
            ipv4(VIRTUAL, "10.1.2.3", 1, b"?"),
            ipv4(OWN, "10.2.0.0", 1, b"?"),
            arp(OWN, 1, (OWN, "10.0.0.100"), "10.0.0.100"),
            ipv6(OWN, "2001:db8:1:1::7", UDP, &udp(1, 2, b"?")),
            ipv6(OWN, "2001:db8:1::7", ICMPV6, &nd(136, "2001:db8:2::7")),
        ];
        for frame in wrong
            .into_iter()
            .chain(spoofed().into_iter().map(|(_, frame)| frame))
        {
            assert!(!pair.passes(&frame), "passes: {frame:02x?}");
        }
    });
}

#[test]
fn what_is_not_told_is_not_compared() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter);
        let host = Host::here();
        let daemon = host.daemon(&GUARDED.replace("addresses = ", "#"));
        let pair = Pair::attached(&host, &daemon);
        let free = [
            ipv4(OWN, "10.9.9.9", 1, b"?"),
            arp(OWN, 2, (OWN, "10.9.9.9"), "10.0.0.9"),
            ipv6(OWN, "fe80::1", ICMPV6, &nd(136, "fe80::1")),
        ];
        for frame in free {
            assert!(pair.passes(&frame), "does not pass: {frame:02x?}");
        }
        let held = [
            ipv4(OTHER, "10.9.9.9", 1, b"?"),
            arp(OWN, 2, (OTHER, "10.9.9.9"), "10.0.0.9"),
            dhcp(OWN, "0.0.0.0", OTHER),
            ipv4(OWN, "10.0.0.5", UDP, &udp(67, 68, b"?")),
            ipv6(OWN, "fe80::1", ICMPV6, &router_advertisement()),
            tagged(&ipv6(OWN, "fe80::1", ICMPV6, &router_advertisement()), 0x8100, 0),
        ];
        for frame in held {
            assert!(!pair.passes(&frame), "passes: {frame:02x?}");
        }
    });
}

#[test]
fn addresses_without_a_mac_hold_for_any_mac() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter);
        let host = Host::here();
        let daemon = host.daemon(&GUARDED.replace("mac = ", "#"));
        let pair = Pair::attached(&host, &daemon);
        for frame in [
            ipv4(OTHER, "10.0.0.5", 1, b"?"),
            arp(OTHER, 2, (OTHER, "10.0.0.5"), "10.0.0.9"),
            ipv6(OTHER, "2001:db8::5", UDP, &udp(1, 2, b"?")),
            dhcp(OTHER, "0.0.0.0", OTHER),
        ] {
            assert!(pair.passes(&frame), "does not pass: {frame:02x?}");
        }
        for frame in [
            ipv4(OWN, "10.0.0.6", 1, b"?"),
            arp(OWN, 2, (OWN, "10.0.0.6"), "10.0.0.9"),
            ipv6(OWN, "2001:db8::6", UDP, &udp(1, 2, b"?")),
            ipv4(OWN, "10.0.0.5", UDP, &udp(67, 68, b"?")),
        ] {
            assert!(!pair.passes(&frame), "passes: {frame:02x?}");
        }
    });
}

/// The bridge does not forward frames to 01:80:c2:00:00:0X, but learns from them: another's address would lead to this
/// port. Some of them pass no filter.
#[test]
fn a_frame_that_only_the_bridge_hears_teaches_it_nothing() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter);
        let host = Host::here();
        let daemon = host.daemon(&GUARDED.replace("addresses = ", "port_security = false\naddresses = "));
        let pair = Pair::attached(&host, &daemon);
        let learned = |mac: &str| host.run("bridge fdb show br brqblue").contains(mac);
        write(
            &pair.guest,
            &ethernet([1, 0x80, 0xc2, 0, 0, 14], [2, 0, 0, 0, 2, 14], 0x88cc, b"?"),
        );
        assert!(learned("02:00:00:00:02:0e"), "without a guard");
        daemon.reload(GUARDED);
        wait_until("the guard holds", Duration::from_secs(5), || {
            !pair.passes(&ipv4(OWN, "10.0.0.6", 1, b"?"))
        });
        for last in 0..16 {
            let group = [1, 0x80, 0xc2, 0, 0, last];
            write(&pair.guest, &ethernet(group, [2, 0, 0, 0, 1, last], 0x88cc, b"?"));
            assert!(!learned(&format!("02:00:00:00:01:{last:02x}")), "{group:02x?}");
        }
        write(&pair.guest, &ipv4([2, 0, 0, 0, 0, 3], "10.0.0.5", 1, b"?"));
        assert!(!learned("02:00:00:00:00:03"));
        assert!(learned("fa:16:3e:00:00:05"), "its own");
    });
}
