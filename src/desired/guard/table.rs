//! The nftables table `bridge tapwire`, as a value: what its rules (`rules`) can say, and the sets they look into.
//!
//! It is the same on every host at every time; only the elements of its sets differ, and they are put there port by
//! port. A frame meets it before anything else of the bridge family (`PRIORITY`), so before the bridge learns its
//! source address. What passes is left to others' tables; what does not is dropped and counted by reason.
//!
//! Fields are compared by their place in the frame, and a field that is not there fails its test. So a rule that
//! refuses can be evaded by a frame that hides the field (fragments, chains of IPv6 extension headers: RFC 7113), a
//! rule that accepts cannot: whatever is not accepted is dropped at the end of a chain.

use super::Entry;
pub use super::rules::CHAINS;
use std::net::IpAddr;

pub const NAME: &str = "tapwire";
/// Before `NF_BR_PRI_NAT_DST_BRIDGED` (-300), the first place that others use.
pub const PRIORITY: i32 = -350;

/// A place in a frame, or a fact about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `iif`: the port's index.
    Port,
    EtherDestination,
    EtherSource,
    /// The outermost type: a tag's own, if there is one.
    EtherType,
    /// Priority and VID, behind an 802.1Q type.
    VlanTag,
    /// Hardware and protocol type and length: where everything else of an ARP message is.
    ArpFormat,
    ArpOperation,
    ArpSenderMac,
    ArpSenderIp,
    ArpTargetIp,
    Ipv4Source,
    Ipv6Source,
    /// IPv6: eighths of bytes, and flags in the lowest three bits.
    FragmentOffset,
    /// Behind all IPv6 extension headers; absent if they do not fit the frame.
    L4Protocol,
    SourcePort,
    DestinationPort,
    IcmpType,
    /// The target of a neighbour solicitation or advertisement.
    NdTarget,
    /// `chaddr`: for whom a DHCP client speaks.
    DhcpClient,
}

/// The table's sets; each element begins with the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    Ports,
    FreeMacs,
    FreeAddresses,
    Trunks,
    Macs,
    Ipv4,
    Ipv4Ranges,
    Ipv6,
    Ipv6Ranges,
}

impl Set {
    pub const ALL: [Set; 9] = [
        Set::Ports,
        Set::FreeMacs,
        Set::FreeAddresses,
        Set::Trunks,
        Set::Macs,
        Set::Ipv4,
        Set::Ipv4Ranges,
        Set::Ipv6,
        Set::Ipv6Ranges,
    ];
    pub const fn name(self) -> &'static str {
        match self {
            Set::Ports => "ports",
            Set::FreeMacs => "free_macs",
            Set::FreeAddresses => "free_addresses",
            Set::Trunks => "trunks",
            Set::Macs => "macs",
            Set::Ipv4 => "ipv4",
            Set::Ipv4Ranges => "ipv4_ranges",
            Set::Ipv6 => "ipv6",
            Set::Ipv6Ranges => "ipv6_ranges",
        }
    }
    /// Holds ranges, not single values.
    pub const fn is_interval(self) -> bool {
        matches!(self, Set::Ipv4Ranges | Set::Ipv6Ranges)
    }
}

/// Why a frame is dropped; each has a counter of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    SpoofedMac,
    SpoofedIpv4,
    SpoofedIpv6,
    SpoofedArp,
    DhcpServer,
    Router,
    OtherProtocol,
}

impl Reason {
    pub const ALL: [Reason; 7] = [
        Reason::SpoofedMac,
        Reason::SpoofedIpv4,
        Reason::SpoofedIpv6,
        Reason::SpoofedArp,
        Reason::DhcpServer,
        Reason::Router,
        Reason::OtherProtocol,
    ];
    pub const fn name(self) -> &'static str {
        match self {
            Reason::SpoofedMac => "spoofed_mac",
            Reason::SpoofedIpv4 => "spoofed_ipv4",
            Reason::SpoofedIpv6 => "spoofed_ipv6",
            Reason::SpoofedArp => "spoofed_arp",
            Reason::DhcpServer => "dhcp_server",
            Reason::Router => "router",
            Reason::OtherProtocol => "other_protocol",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    Is(Field, &'static [u8]),
    IsNot(Field, &'static [u8]),
    /// Lowest and highest value.
    Between(Field, &'static [u8], &'static [u8]),
    /// Mask and value.
    Masked(Field, &'static [u8], &'static [u8]),
    /// Mask, and any value but this.
    MaskedNot(Field, &'static [u8], &'static [u8]),
    /// The port and these fields together are an element.
    In(Set, &'static [Field]),
    NotIn(Set, &'static [Field]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing more of this table.
    Accept,
    /// Back to the chain that jumped here.
    Return,
    Drop(Reason),
    Jump(&'static str),
    Goto(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub tests: &'static [Test],
    pub act: Act,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    /// What the bridge keeps for the host and does not forward: frames to 01:80:c2:00:00:0X come only here, and their
    /// source is learned all the same (`br_handle_frame`).
    Input,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    /// A base chain, or one that is only jumped to.
    pub hook: Option<Hook>,
    pub rules: &'static [Rule],
}

/// Where an entry stands.
pub fn set_of(entry: &Entry) -> Set {
    match entry {
        Entry::Port => Set::Ports,
        Entry::FreeMac => Set::FreeMacs,
        Entry::FreeAddresses => Set::FreeAddresses,
        Entry::Trunk => Set::Trunks,
        Entry::Mac(_) => Set::Macs,
        Entry::Address(_, IpAddr::V4(_)) => Set::Ipv4,
        Entry::Address(_, IpAddr::V6(_)) => Set::Ipv6,
        Entry::Range(_, range) if range.is_ipv4() => Set::Ipv4Ranges,
        Entry::Range(..) => Set::Ipv6Ranges,
    }
}
