//! Tables as one number: were they touched since?
//!
//! Everything the kernel lists of them goes in, handles included, so a rule that was deleted and made again shows too. Only
//! elements of sets have no order of their own.

use super::element;
use super::guard::TABLE;
use super::message::{GENERIC_LEN, Messages};
use super::socket::NftSocket;
use crate::kernel::error::Error;
use crate::kernel::wire::{Attributes, Malformed, Message, string_value};
use std::hash::{DefaultHasher, Hasher as _};

const OP: &str = "read_tables";
/// `NFTA_SET_NAME`
const SET_NAME: u16 = 2;

/// Of these tables (family, name); none if none of them is there.
pub fn fingerprint(
    socket: &mut NftSocket,
    messages: &mut Messages,
    tables: &[(u8, &str)],
) -> Result<Option<u64>, Error> {
    let mut hasher = DefaultHasher::new();
    let mut any = false;
    for table in tables {
        let found = rows(socket, messages, *table, libc::NFT_MSG_GETTABLE)?;
        let Some(found) = found.first() else { continue };
        any = true;
        hasher.write(found);
        for kind in [
            libc::NFT_MSG_GETCHAIN,
            libc::NFT_MSG_GETRULE,
            libc::NFT_MSG_GETSET,
        ] {
            let rows = rows(socket, messages, *table, kind)?;
            for row in &rows {
                hasher.write(row);
                if kind == libc::NFT_MSG_GETSET {
                    let name = attribute(row, SET_NAME)?.map(string_value).unwrap_or_default();
                    hasher.write_u64(elements(socket, messages, *table, name)?);
                }
            }
        }
    }
    Ok(any.then(|| hasher.finish()))
}

fn attribute(body: &[u8], wanted: u16) -> Result<Option<&[u8]>, Error> {
    find(body, wanted).map_err(|source| Error::Answer { op: OP, source })
}

fn find(body: &[u8], wanted: u16) -> Result<Option<&[u8]>, Malformed> {
    for attribute in Attributes::new(body) {
        let (kind, value) = attribute?;
        if kind == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn body<'a>(message: &Message<'a>) -> &'a [u8] {
    message.payload.get(GENERIC_LEN..).unwrap_or_default()
}

/// Kinds that the kernel lists for the whole family are told by their table.
fn rows(
    socket: &mut NftSocket,
    messages: &mut Messages,
    (family, table): (u8, &str),
    kind: libc::c_int,
) -> Result<Vec<Vec<u8>>, Error> {
    socket.list(
        OP,
        messages,
        |m, seq| {
            m.list(kind, family, seq, |a| {
                if kind != libc::NFT_MSG_GETTABLE {
                    a.text(TABLE, table);
                }
            });
        },
        |message, rows: &mut Vec<Vec<u8>>| {
            let body = body(message);
            if find(body, TABLE)?.is_some_and(|name| string_value(name) == table.as_bytes()) {
                rows.push(body.to_vec());
            }
            Ok(())
        },
        Vec::new,
    )
}

fn elements(
    socket: &mut NftSocket,
    messages: &mut Messages,
    (family, table): (u8, &str),
    set: &[u8],
) -> Result<u64, Error> {
    let set = [set, &[0]].concat();
    socket.list(
        OP,
        messages,
        |m, seq| {
            m.list(libc::NFT_MSG_GETSETELEM, family, seq, |a| {
                a.text(TABLE, table);
                a.bytes(element::NFTA_SET_ELEM_LIST_SET, &set);
            });
        },
        |message, sum: &mut u64| {
            let list = find(body(message), element::NFTA_SET_ELEM_LIST_ELEMENTS)?.unwrap_or_default();
            for element in Attributes::new(list) {
                let mut hasher = DefaultHasher::new();
                hasher.write(element?.1);
                *sum = sum.wrapping_add(hasher.finish());
            }
            Ok(())
        },
        || 0,
    )
}
