//! What the kernel has of the guard's table: is it there, is it as we make it, which entries has it?
//!
//! The kernel tells an object with more attributes than it was made with (handles, counters, uses), so an object is
//! ours if it says everything that we would say of it. Anything besides (a rule, a chain, a set by somebody else) makes
//! it another table.

use super::element;
use super::guard::{self, TABLE};
use super::message::{Attributes as Writer, BRIDGE, Messages};
use super::socket::NftSocket;
use crate::desired::guard::table::{self, CHAINS, Reason, Set};
use crate::kernel::error::Error;
use crate::kernel::wire::{Attributes, Malformed, Message, string_value};
use crate::plan::guard::{GuardHave, TableHave};

const OP: &str = "read_guard";

/// Asks the kernel. Costs some 0.2 ms, and some 2 us for each guarded port.
pub fn read(socket: &mut NftSocket, messages: &mut Messages) -> Result<GuardHave, Error> {
    let mut have = GuardHave::default();
    let flags = match table_flags(socket, messages)? {
        None => return Ok(have),
        Some(flags) => flags,
    };
    // Not dormant, not bound to somebody's socket.
    let right = flags == 0
        && same_chains(socket, messages)?
        && same_sets(socket, messages)?
        && same_rules(socket, messages)?;
    have.table = if right { TableHave::Right } else { TableHave::Other };
    if right {
        for set in Set::ALL {
            if !read_elements(socket, messages, set, &mut have)? {
                have.table = TableHave::Other;
            }
        }
        for entries in have.ports.values_mut() {
            entries.sort_unstable();
        }
    }
    Ok(have)
}

/// A table's flags; none if there is no such table.
fn table_flags(socket: &mut NftSocket, messages: &mut Messages) -> Result<Option<u32>, Error> {
    const NFTA_TABLE_FLAGS: u16 = 2;
    socket.list(
        OP,
        messages,
        |m, seq| m.list(libc::NFT_MSG_GETTABLE, BRIDGE, seq, |_| {}),
        |message, found: &mut Option<u32>| {
            if is_of_table(message)? {
                let flags = find(
                    message.payload.get(GENERIC..).unwrap_or_default(),
                    NFTA_TABLE_FLAGS,
                )?;
                *found = Some(flags.and_then(be32).unwrap_or(0));
            }
            Ok(())
        },
        || None,
    )
}

/// How many frames were dropped so far, by reason. The kernel forgets it with the table.
pub fn drops(socket: &mut NftSocket, messages: &mut Messages) -> Result<Vec<(Reason, u64)>, Error> {
    const NFTA_COUNTER_PACKETS: u16 = 2;
    let bad = |source| Error::Answer { op: OP, source };
    let mut drops = Vec::with_capacity(Reason::ALL.len());
    for object in bodies(socket, messages, libc::NFT_MSG_GETOBJ)? {
        let name = find(&object, guard::NFTA_OBJ_NAME)
            .map_err(bad)?
            .map(string_value);
        let Some(reason) = Reason::ALL
            .into_iter()
            .find(|r| Some(r.name().as_bytes()) == name)
        else {
            continue;
        };
        let data = find(&object, guard::NFTA_OBJ_DATA)
            .map_err(bad)?
            .unwrap_or_default();
        let packets = find(data, NFTA_COUNTER_PACKETS).map_err(bad)?;
        let packets = packets.and_then(|value| value.first_chunk::<8>());
        drops.push((reason, packets.map_or(0, |bytes| u64::from_be_bytes(*bytes))));
    }
    Ok(drops)
}

const GENERIC: usize = super::message::GENERIC_LEN;

/// Kinds of objects are listed for the whole family; ours are told by their table.
fn is_of_table(message: &Message<'_>) -> Result<bool, Malformed> {
    let body = message.payload.get(GENERIC..).unwrap_or_default();
    let name = find(body, TABLE)?;
    Ok(name.is_some_and(|name| string_value(name) == table::NAME.as_bytes()))
}

fn find(attributes: &[u8], kind: u16) -> Result<Option<&[u8]>, Malformed> {
    for attribute in Attributes::new(attributes) {
        let (found, value) = attribute?;
        if found == kind {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn be32(value: &[u8]) -> Option<u32> {
    value.first_chunk::<4>().map(|b| u32::from_be_bytes(*b))
}

/// The bodies of all objects of a kind that are in our table, in the kernel's order.
fn bodies(
    socket: &mut NftSocket,
    messages: &mut Messages,
    message: libc::c_int,
) -> Result<Vec<Vec<u8>>, Error> {
    socket.list(
        OP,
        messages,
        |m, seq| m.list(message, BRIDGE, seq, |a| a.text(TABLE, table::NAME)),
        |message, rows: &mut Vec<Vec<u8>>| {
            if is_of_table(message)? {
                rows.push(message.payload.get(GENERIC..).unwrap_or_default().to_vec());
            }
            Ok(())
        },
        Vec::new,
    )
}

fn same_chains(socket: &mut NftSocket, messages: &mut Messages) -> Result<bool, Error> {
    let wanted = CHAINS.iter().map(|chain| written(|a| guard::chain(chain, a)));
    let have = bodies(socket, messages, libc::NFT_MSG_GETCHAIN)?;
    Ok(one_to_one(wanted.collect(), &have))
}

fn same_sets(socket: &mut NftSocket, messages: &mut Messages) -> Result<bool, Error> {
    let wanted = Set::ALL.map(|set| written(|a| guard::set(set, a)));
    let have = bodies(socket, messages, libc::NFT_MSG_GETSET)?;
    Ok(one_to_one(wanted.to_vec(), &have))
}

fn one_to_one(wanted: Vec<Vec<u8>>, have: &[Vec<u8>]) -> bool {
    wanted.len() == have.len() && wanted.iter().all(|want| have.iter().any(|have| says(have, want)))
}

/// Rules are listed chain by chain, within a chain in order.
fn same_rules(socket: &mut NftSocket, messages: &mut Messages) -> Result<bool, Error> {
    let have = bodies(socket, messages, libc::NFT_MSG_GETRULE)?;
    let total: usize = CHAINS.iter().map(|chain| chain.rules.len()).sum();
    if have.len() != total {
        return Ok(false);
    }
    Ok(CHAINS.iter().all(|chain| {
        let in_chain = have.iter().filter(|rule| {
            let name = find(rule, guard::NFTA_RULE_CHAIN).ok().flatten();
            name.is_some_and(|name| string_value(name) == chain.name.as_bytes())
        });
        let mut wanted = chain.rules.iter();
        let same = in_chain.map(|have| (have, wanted.next())).all(|(have, rule)| {
            rule.is_some_and(|rule| {
                let want = written(|a| {
                    a.nest(guard::NFTA_RULE_EXPRESSIONS, |list| {
                        guard::expressions(rule, list)
                    });
                });
                says(have, &want)
            })
        });
        same && wanted.next().is_none()
    }))
}

fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut Writer::new(&mut bytes));
    bytes
}

/// Whether `have` has every attribute of `want`, nested ones likewise. Lists (repeated attributes of one type) must be
/// equally long and in the same order.
fn says(have: &[u8], want: &[u8]) -> bool {
    let wanted: Vec<(u16, bool, &[u8])> = raw(want);
    let had: Vec<(u16, bool, &[u8])> = raw(have);
    let of_kind = |list: &[(u16, bool, &[u8])], kind: u16| list.iter().filter(|a| a.0 == kind).count();
    wanted.iter().enumerate().all(|(at, (kind, nested, value))| {
        let position = wanted.iter().take(at).filter(|a| a.0 == *kind).count();
        let same = had.iter().filter(|a| a.0 == *kind).nth(position);
        let repeated = of_kind(&wanted, *kind);
        (repeated == 1 && !*nested || repeated == of_kind(&had, *kind))
            && same.is_some_and(|(_, _, found)| {
                if *nested {
                    says(found, value)
                } else {
                    found == value
                }
            })
    })
}

/// Type, NLA_F_NESTED and value of each attribute.
fn raw(bytes: &[u8]) -> Vec<(u16, bool, &[u8])> {
    let mut at = 0;
    let mut all = Vec::new();
    for attribute in Attributes::new(bytes) {
        let Ok((kind, value)) = attribute else { break };
        let flags = crate::kernel::wire::u16_at(bytes, at + 2).unwrap_or(0);
        all.push((kind, flags & libc::NLA_F_NESTED as u16 != 0, value));
        at += crate::kernel::wire::align(value.len() + 4);
    }
    all
}

/// False if the set holds an element that we never write.
fn read_elements(
    socket: &mut NftSocket,
    messages: &mut Messages,
    set: Set,
    have: &mut GuardHave,
) -> Result<bool, Error> {
    let (all, known) = socket.list(
        OP,
        messages,
        |m, seq| {
            m.list(libc::NFT_MSG_GETSETELEM, BRIDGE, seq, |a| {
                a.text(TABLE, table::NAME);
                a.text(element::NFTA_SET_ELEM_LIST_SET, set.name());
            });
        },
        |message, (all, known): &mut (Vec<_>, bool)| {
            let body = message.payload.get(GENERIC..).unwrap_or_default();
            let list = find(body, element::NFTA_SET_ELEM_LIST_ELEMENTS)?.unwrap_or_default();
            for element in Attributes::new(list) {
                let (_, element) = element?;
                match element_of(set, element)? {
                    Some(entry) => all.push(entry),
                    None => *known = false,
                }
            }
            Ok(())
        },
        || (Vec::new(), true),
    )?;
    for (index, entry) in all {
        have.ports.entry(index).or_default().push(entry);
    }
    Ok(known)
}

type Element = (crate::model::Ifindex, crate::desired::guard::Entry);

fn element_of(set: Set, element: &[u8]) -> Result<Option<Element>, Malformed> {
    let value = |kind| match find(element, kind)? {
        Some(data) => find(data, guard::DATA_VALUE),
        None => Ok(None),
    };
    let key = value(element::NFTA_SET_ELEM_KEY)?.unwrap_or_default();
    let end = value(element::NFTA_SET_ELEM_KEY_END)?;
    Ok(element::entry_of(set, key, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_may_say_more_than_asked_but_not_less_or_otherwise() {
        let object = |name: &str, more: bool, list: &[u32]| {
            written(|a| {
                if more {
                    a.number(9, 1);
                }
                a.text(1, name);
                a.nest(2, |nest| {
                    for number in list {
                        nest.nest(1, |item| item.number(1, *number));
                    }
                });
            })
        };
        let want = object("ports", false, &[1, 2]);
        assert!(says(&want, &want));
        assert!(says(&object("ports", true, &[1, 2]), &want));
        assert!(!says(&want, &object("ports", true, &[1, 2])));
        assert!(!says(&object("macs", false, &[1, 2]), &want));
        for list in [&[1][..], &[2, 1], &[1, 2, 3], &[]] {
            assert!(!says(&object("ports", false, list), &want), "{list:?}");
        }
    }
}
