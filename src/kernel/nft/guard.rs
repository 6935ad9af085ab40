//! The spoof guard's table as transactions: made whole, removed, its elements changed.
//!
//! Written by us and not by `nft`: putting a port under guard is part of its attach, and must not wait for a process;
//! the table is so made in one transaction together with all elements, never a moment without; and what is compared
//! does not depend on the version of a program.

use super::element::elements;
use super::message::{APPEND, Attributes, CREATE, Messages};
use crate::desired::guard::Entry;
use crate::desired::guard::table::{self, Act, CHAINS, Chain, Field, Hook, Reason, Rule, Set, Test};
use crate::model::Ifindex;
use crate::plan::guard::GuardedPort;

/// `NFTA_*_TABLE`: the first attribute of every object.
pub const TABLE: u16 = 1;

/// `nft`'s numbers of its data types, which only its listings use.
mod datatype {
    pub const IPV4: u32 = 7;
    pub const IPV6: u32 = 8;
    pub const ETHER: u32 = 9;
    pub const IFINDEX: u32 = 20;
    /// A concatenation: six bits for each part.
    pub const fn with(head: u32, tail: u32) -> u32 {
        (head << 6) | tail
    }
}

/// A set's key: `nft`'s type and the length of each part, padded.
fn key_of(set: Set) -> (u32, &'static [u32]) {
    use datatype::{ETHER, IFINDEX, IPV4, IPV6, with};
    let port_mac = with(IFINDEX, ETHER);
    match set {
        Set::Ports | Set::FreeMacs | Set::FreeAddresses | Set::Trunks => (IFINDEX, &[4]),
        Set::Macs => (port_mac, &[4, 6]),
        Set::Ipv4 | Set::Ipv4Ranges => (with(port_mac, IPV4), &[4, 6, 4]),
        Set::Ipv6 | Set::Ipv6Ranges => (with(port_mac, IPV6), &[4, 6, 16]),
    }
}

const fn padded(length: u32) -> u32 {
    length.next_multiple_of(4)
}

/// The whole table with its elements, in place of what was there.
pub fn make(ports: &[GuardedPort], messages: &mut Messages) {
    messages.begin();
    let name = |attributes: &mut Attributes<'_>| attributes.text(TABLE, table::NAME);
    // Deleting what is not there would fail the transaction.
    messages.change(libc::NFT_MSG_NEWTABLE, CREATE, name);
    messages.change(libc::NFT_MSG_DELTABLE, 0, name);
    messages.change(libc::NFT_MSG_NEWTABLE, CREATE, name);
    for reason in Reason::ALL {
        messages.change(libc::NFT_MSG_NEWOBJ, CREATE, |a| counter(reason, a));
    }
    for chain in CHAINS {
        messages.change(libc::NFT_MSG_NEWCHAIN, CREATE, |a| self::chain(chain, a));
    }
    for (id, set) in (1..).zip(Set::ALL) {
        messages.change(libc::NFT_MSG_NEWSET, CREATE, |a| {
            self::set(set, a);
            a.number(NFTA_SET_ID, id);
        });
    }
    for chain in CHAINS {
        for rule in chain.rules {
            messages.change(libc::NFT_MSG_NEWRULE, CREATE | APPEND, |a| {
                a.text(TABLE, table::NAME);
                a.text(NFTA_RULE_CHAIN, chain.name);
                a.nest(NFTA_RULE_EXPRESSIONS, |list| expressions(rule, list));
            });
        }
    }
    let entries = ports
        .iter()
        .flat_map(|port| port.entries.iter().map(move |entry| (port.index, *entry)));
    elements(libc::NFT_MSG_NEWSETELEM, entries, messages);
}

pub fn remove(messages: &mut Messages) {
    messages.begin();
    messages.change(libc::NFT_MSG_DELTABLE, 0, |a| a.text(TABLE, table::NAME));
}

/// One port's entries from what they are to what they should be, in one step.
pub fn change(index: Ifindex, gone: &[Entry], new: &[Entry], messages: &mut Messages) {
    messages.begin();
    elements(
        libc::NFT_MSG_DELSETELEM,
        gone.iter().map(|entry| (index, *entry)),
        messages,
    );
    elements(
        libc::NFT_MSG_NEWSETELEM,
        new.iter().map(|entry| (index, *entry)),
        messages,
    );
}

/// Entries of ports that are no more.
pub fn sweep(ports: &[GuardedPort], messages: &mut Messages) {
    messages.begin();
    let entries = ports
        .iter()
        .flat_map(|port| port.entries.iter().map(move |entry| (port.index, *entry)));
    elements(libc::NFT_MSG_DELSETELEM, entries, messages);
}

const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_CONCAT: u32 = 0x80;
pub const LIST_ELEM: u16 = 1;

/// All but its id, which it has only in the transaction that makes it.
pub fn set(set: Set, a: &mut Attributes<'_>) {
    let (key_type, lengths) = key_of(set);
    a.text(TABLE, table::NAME);
    a.text(NFTA_SET_NAME, set.name());
    // What is nothing is not told back.
    if set.is_interval() {
        a.number(NFTA_SET_FLAGS, NFT_SET_INTERVAL | NFT_SET_CONCAT);
    }
    a.number(NFTA_SET_KEY_TYPE, key_type);
    a.number(NFTA_SET_KEY_LEN, lengths.iter().copied().map(padded).sum());
    if lengths.len() == 1 {
        // For `nft`'s listing: the key is in host byte order (type 0, 4 bytes, 1).
        let [b0, b1, b2, b3] = 1u32.to_ne_bytes();
        a.bytes(NFTA_SET_USERDATA, &[0, 4, b0, b1, b2, b3]);
    }
    if set.is_interval() {
        a.nest(NFTA_SET_DESC, |desc| {
            desc.nest(NFTA_SET_DESC_CONCAT, |concat| {
                for length in lengths {
                    concat.nest(LIST_ELEM, |field| field.number(NFTA_SET_FIELD_LEN, *length));
                }
            });
        });
    }
}

const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NF_BR_PRE_ROUTING: u32 = 0;
const NF_BR_LOCAL_IN: u32 = 1;

pub fn chain(chain: &Chain, a: &mut Attributes<'_>) {
    a.text(TABLE, table::NAME);
    a.text(NFTA_CHAIN_NAME, chain.name);
    let Some(hook) = chain.hook else { return };
    a.text(NFTA_CHAIN_TYPE, "filter");
    a.number(NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32);
    a.nest(NFTA_CHAIN_HOOK, |nest| {
        nest.number(
            NFTA_HOOK_HOOKNUM,
            match hook {
                Hook::Prerouting => NF_BR_PRE_ROUTING,
                Hook::Input => NF_BR_LOCAL_IN,
            },
        );
        nest.number(NFTA_HOOK_PRIORITY, table::PRIORITY.cast_unsigned());
    });
}

pub const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
pub const NFTA_OBJ_DATA: u16 = 4;
const NFT_OBJECT_COUNTER: u32 = 1;

fn counter(reason: Reason, a: &mut Attributes<'_>) {
    a.text(TABLE, table::NAME);
    a.text(NFTA_OBJ_NAME, reason.name());
    a.number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
    a.nest(NFTA_OBJ_DATA, |_| {});
}

pub const NFTA_RULE_CHAIN: u16 = 2;
pub const NFTA_RULE_EXPRESSIONS: u16 = 4;

/// Registers as the kernel names them back: the first 16 bytes are `NFT_REG_1`, each four behind them
/// `NFT_REG32_01` and on.
fn register(slot: u32) -> u32 {
    const NFT_REG_1: u32 = 1;
    const NFT_REG32_00: u32 = 8;
    if slot.is_multiple_of(4) {
        NFT_REG_1 + slot / 4
    } else {
        NFT_REG32_00 + slot
    }
}

fn expression(list: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    list.nest(LIST_ELEM, |e| {
        e.text(1, name);
        e.nest(2, data);
    });
}

pub fn expressions(rule: &Rule, list: &mut Attributes<'_>) {
    for test in rule.tests {
        self::test(test, list);
    }
    match rule.act {
        Act::Accept => verdict(list, libc::NF_ACCEPT, None),
        Act::Return => verdict(list, libc::NFT_RETURN, None),
        Act::Jump(chain) => verdict(list, libc::NFT_JUMP, Some(chain)),
        Act::Goto(chain) => verdict(list, libc::NFT_GOTO, Some(chain)),
        Act::Drop(reason) => {
            expression(list, "objref", |e| {
                e.number(1, NFT_OBJECT_COUNTER);
                e.text(2, reason.name());
            });
            verdict(list, libc::NF_DROP, None);
        }
    }
}

fn test(test: &Test, list: &mut Attributes<'_>) {
    match test {
        Test::Is(field, value) => {
            load(list, *field, 0);
            compare(list, libc::NFT_CMP_EQ, value);
        }
        Test::IsNot(field, value) => {
            load(list, *field, 0);
            compare(list, libc::NFT_CMP_NEQ, value);
        }
        Test::Between(field, low, high) => {
            load(list, *field, 0);
            compare(list, libc::NFT_CMP_GTE, low);
            compare(list, libc::NFT_CMP_LTE, high);
        }
        Test::Masked(field, mask, value) => masked(list, *field, mask, libc::NFT_CMP_EQ, value),
        Test::MaskedNot(field, mask, value) => masked(list, *field, mask, libc::NFT_CMP_NEQ, value),
        Test::In(set, fields) => lookup(list, *set, fields, 0),
        Test::NotIn(set, fields) => lookup(list, *set, fields, libc::NFT_LOOKUP_F_INV as u32),
    }
}

fn masked(list: &mut Attributes<'_>, field: Field, mask: &[u8], op: libc::c_int, value: &[u8]) {
    load(list, field, 0);
    expression(list, "bitwise", |e| {
        e.number(1, register(0));
        e.number(2, register(0));
        e.number(3, u32::try_from(mask.len()).unwrap_or(0));
        e.nest(4, |data| data.bytes(DATA_VALUE, mask));
        e.nest(5, |data| data.bytes(DATA_VALUE, &[0; 16][..mask.len().min(16)]));
    });
    compare(list, op, value);
}

pub const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

fn compare(list: &mut Attributes<'_>, op: libc::c_int, value: &[u8]) {
    expression(list, "cmp", |e| {
        e.number(1, register(0));
        e.number(2, op.cast_unsigned());
        e.nest(3, |data| data.bytes(DATA_VALUE, value));
    });
}

fn lookup(list: &mut Attributes<'_>, set: Set, fields: &[Field], flags: u32) {
    load(list, Field::Port, 0);
    if set.is_interval() {
        // `nft` shows the parts of an interval's key as big-endian numbers.
        expression(list, "byteorder", |e| {
            e.number(1, register(0));
            e.number(2, register(0));
            e.number(3, libc::NFT_BYTEORDER_HTON.cast_unsigned());
            e.number(4, 4);
            e.number(5, 4);
        });
    }
    let mut slot = 1;
    for field in fields {
        load(list, *field, slot);
        slot += padded(length(*field)) / 4;
    }
    expression(list, "lookup", |e| {
        e.text(1, set.name());
        e.number(2, register(0));
        e.number(5, flags);
    });
}

fn verdict(list: &mut Attributes<'_>, code: libc::c_int, chain: Option<&str>) {
    expression(list, "immediate", |e| {
        e.number(1, 0);
        e.nest(2, |data| {
            data.nest(DATA_VERDICT, |v| verdict_data(v, code, chain))
        });
    });
}

pub fn verdict_data(a: &mut Attributes<'_>, code: libc::c_int, chain: Option<&str>) {
    a.number(1, code.cast_unsigned());
    if let Some(chain) = chain {
        a.text(2, chain);
    }
}

enum Place {
    Meta(libc::c_int),
    /// IPv6 extension header, offset, length.
    Extension(u8, u32, u32),
    /// Base, offset, length.
    Payload(libc::c_int, u32, u32),
}

fn place(field: Field) -> Place {
    use libc::NFT_PAYLOAD_TRANSPORT_HEADER as TRANSPORT;
    use libc::{NFT_PAYLOAD_LL_HEADER as LINK, NFT_PAYLOAD_NETWORK_HEADER as NETWORK};
    match field {
        Field::Port => Place::Meta(libc::NFT_META_IIF),
        Field::L4Protocol => Place::Meta(libc::NFT_META_L4PROTO),
        Field::EtherDestination => Place::Payload(LINK, 0, 6),
        Field::EtherSource => Place::Payload(LINK, 6, 6),
        Field::EtherType => Place::Payload(LINK, 12, 2),
        Field::VlanTag => Place::Payload(LINK, 14, 2),
        Field::ArpFormat => Place::Payload(NETWORK, 0, 6),
        Field::ArpOperation => Place::Payload(NETWORK, 6, 2),
        Field::ArpSenderMac => Place::Payload(NETWORK, 8, 6),
        Field::ArpSenderIp => Place::Payload(NETWORK, 14, 4),
        Field::ArpTargetIp => Place::Payload(NETWORK, 24, 4),
        Field::Ipv4Source => Place::Payload(NETWORK, 12, 4),
        Field::Ipv6Source => Place::Payload(NETWORK, 8, 16),
        Field::FragmentOffset => Place::Extension(libc::IPPROTO_FRAGMENT as u8, 2, 2),
        Field::SourcePort => Place::Payload(TRANSPORT, 0, 2),
        Field::DestinationPort => Place::Payload(TRANSPORT, 2, 2),
        Field::IcmpType => Place::Payload(TRANSPORT, 0, 1),
        Field::NdTarget => Place::Payload(TRANSPORT, 8, 16),
        // Behind the 8 bytes of UDP (RFC 951).
        Field::DhcpClient => Place::Payload(TRANSPORT, 8 + 28, 6),
    }
}

fn length(field: Field) -> u32 {
    match place(field) {
        Place::Meta(_) => 4,
        Place::Payload(_, _, length) | Place::Extension(_, _, length) => length,
    }
}

fn load(list: &mut Attributes<'_>, field: Field, slot: u32) {
    match place(field) {
        Place::Meta(key) => expression(list, "meta", |e| {
            e.number(1, register(slot));
            e.number(2, key.cast_unsigned());
        }),
        Place::Extension(kind, offset, length) => expression(list, "exthdr", |e| {
            e.number(1, register(slot));
            e.bytes(2, &[kind]);
            e.number(3, offset);
            e.number(4, length);
        }),
        Place::Payload(base, offset, length) => expression(list, "payload", |e| {
            e.number(1, register(slot));
            e.number(2, base.cast_unsigned());
            e.number(3, offset);
            e.number(4, length);
        }),
    }
}
