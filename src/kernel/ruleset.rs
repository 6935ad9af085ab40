//! The gateways' tables in nftables: how they are, and how they come into force.
//!
//! With them in force the flows of what they translate no longer are cut, and what they are is noted in the state directory,
//! in this order: whatever ends the daemon in between, the next one finds the old note and does the rest. Without the note
//! (or when it is of other tables) they are made anew.

use super::conntrack;
use super::error::{Class, Error, Refusal};
use super::kept;
use super::nft::script::{self, ScriptError};
use super::nft::{self, Messages, NftSocket};
use crate::desired::ruleset::Ruleset;
use crate::desired::translation::Translation;
use crate::plan::gateway::RulesetHave;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// In the state directory.
const FILE: &str = "ruleset.json";
const TABLES: [(u8, &str); 2] = [
    (libc::NFPROTO_INET as u8, nft::RULESET),
    (libc::NFPROTO_BRIDGE as u8, nft::UPLINK),
];

/// What was brought into force last.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    /// Of the ruleset, and of the tables as the kernel then had them.
    ruleset: u64,
    tables: u64,
    translations: BTreeSet<Translation>,
}

fn file(state_directory: &Path) -> PathBuf {
    state_directory.join(FILE)
}

/// Whether the tables are there, and are still what was brought into force.
pub fn read(state_directory: &Path) -> Result<RulesetHave, Error> {
    let Some(tables) = tables()? else {
        return Ok(RulesetHave::Nothing);
    };
    // A damaged note only costs the tables' being made anew.
    let note: Note = kept::read(&file(state_directory)).unwrap_or_default();
    Ok(if note.tables == tables {
        RulesetHave::Is(note.ruleset)
    } else {
        RulesetHave::Other
    })
}

fn tables() -> Result<Option<u64>, Error> {
    nft::fingerprint(&mut NftSocket::open()?, &mut Messages::default(), &TABLES)
}

/// Replaces both tables in one transaction, then cuts the flows of what is not translated any more. Blocks. `started` is told
/// the port id of the change. How many flows were cut; not being able to is no reason to be without the rules.
pub fn apply(
    state_directory: &Path,
    ruleset: &Ruleset,
    started: impl FnOnce(u32),
) -> Result<Result<usize, Error>, Error> {
    let file = file(state_directory);
    let before: Note = kept::read(&file).unwrap_or_default();
    script::apply(&ruleset.script(), started).map_err(refused)?;
    let gone: Vec<Translation> = before
        .translations
        .difference(&ruleset.translations)
        .copied()
        .collect();
    let cut = conntrack::cut(&gone);
    let note = match tables()? {
        Some(tables) if !ruleset.is_empty() => Some(Note {
            ruleset: ruleset.fingerprint(),
            tables,
            translations: ruleset.translations.clone(),
        }),
        _ => None,
    };
    kept::write(&file, note.as_ref())?;
    Ok(cut)
}

fn refused(error: ScriptError) -> Error {
    let class = match error {
        ScriptError::Missing(_) => Class::Unsupported,
        ScriptError::Run(_) | ScriptError::Stuck => Class::Transient,
        ScriptError::Refused(_) => Class::Refused,
    };
    let errno = if class == Class::Unsupported {
        libc::EOPNOTSUPP
    } else {
        libc::EINVAL
    };
    Error::Refused {
        op: "ruleset",
        refusal: Refusal {
            errno,
            text: Some(error.to_string().into()),
        },
        class,
    }
}
