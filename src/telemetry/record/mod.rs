//! Recordings: pcapng files of link type NETLINK (253), read by Wireshark, tshark and `tapwire replay`.
//!
//! One packet is one whole netlink message behind the 16-byte cooked header of the link type. Written and read here
//! and not with a crate: four kinds of blocks are all there is, the common crate (pcap-file 2) drags second major
//! versions of thiserror and syn into the build, and its errors do not say where in the file.
//!
//! Time: packets are stamped with the wall clock at the start plus monotonic time passed, so that a clock that is set
//! does not tear the recording. A loss is an `epb_dropcount` option (and a comment) on the next packet.
//! What the daemon tells of itself (`daemon::account`) is in blocks of a type for local use, which other readers pass over.
//! A recording that was cut short (killed, disk full) is readable up to the cut, which the reader then reports.

mod reader;
mod writer;

pub use reader::{Packet, Problem, Reader, RecordError};
pub use writer::Recorder;

/// LINKTYPE_NETLINK.
pub const LINK_TYPE: u16 = 253;
/// ARPHRD_NETLINK, in the cooked header.
const ARPHRD_NETLINK: u16 = 824;
/// Bytes of the cooked header: packet type, ARPHRD, ten unused, netlink family; 16-bit fields in network order.
const COOKED: usize = 16;

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// One line of the daemon's account: its length, 32 bits, and its bytes. The upper bit says: for local use.
const ACCOUNT: u32 = 0x8000_7477;
const OPTION_END: u16 = 0;
const OPTION_COMMENT: u16 = 1;
const OPTION_FLAGS: u16 = 2;
const OPTION_DROPS: u16 = 4;
const OPTION_RESOLUTION: u16 = 9;

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// An event or an answer (PACKET_USER).
    FromKernel,
    /// A request of ours (PACKET_KERNEL).
    ToKernel,
}

impl Direction {
    const fn packet_type(self) -> u16 {
        match self {
            Direction::FromKernel => 6,
            Direction::ToKernel => 7,
        }
    }
    /// `epb_flags`, bits 0 and 1.
    const fn flags(self) -> u32 {
        match self {
            Direction::FromKernel => 1,
            Direction::ToKernel => 2,
        }
    }
}

#[cfg(test)]
mod tests;
