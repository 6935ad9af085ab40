//! Addresses and routes as the kernel told them, attribute by attribute, so that they can be told back unchanged.
//!
//! The move of a flat network's addresses (design rule 11) must lose nothing, also attributes this program has never
//! heard of. So a record keeps the fixed header and every attribute as bytes; only what must change (interface
//! index, label, expiry form) is looked at, in `plan::address_move`.

/// One netlink attribute: type without the nested/byte-order flags' meaning, payload without padding.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Attribute {
    pub kind: u16,
    pub value: Vec<u8>,
}

/// An address (`struct ifaddrmsg` + attributes).
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct AddressRecord {
    /// `AF_INET` 2 or `AF_INET6` 10.
    pub family: u8,
    pub prefix_len: u8,
    /// The 8-bit header copy; `IFA_FLAGS` among the attributes is the full one.
    pub flags: u8,
    pub scope: u8,
    pub ifindex: u32,
    pub attributes: Vec<Attribute>,
}

impl AddressRecord {
    /// `IFA_PROTO` of `uapi/linux/if_addr.h`; kernels before 5.18 neither keep nor tell it.
    pub const PROTO: u16 = 11;

    /// The prefix length, if the record carries our mark.
    pub fn own(&self) -> Option<u8> {
        let mark = |a: &Attribute| a.kind == Self::PROTO && a.value == [super::owned::PROTOCOL];
        self.attributes.iter().any(mark).then_some(self.prefix_len)
    }
}

/// A route (`struct rtmsg` + attributes).
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct RouteRecord {
    pub family: u8,
    pub dst_len: u8,
    pub src_len: u8,
    pub tos: u8,
    /// The 8-bit header copy; `RTA_TABLE` among the attributes is the full one.
    pub table: u8,
    pub protocol: u8,
    pub scope: u8,
    pub kind: u8,
    pub flags: u32,
    pub attributes: Vec<Attribute>,
}
