//! The gateways' tables in nftables: are they there?

use super::conntrack::exchange;
use super::error::{Class, Error, Refusal};
use super::nft::script::{self, ScriptError};
use crate::desired::ruleset::Ruleset;

/// `NFT_MSG_GETTABLE`
const GET_TABLE: u16 = (10 << 8) | 1;
/// `NFTA_TABLE_NAME`
const NAME: u16 = 1;

/// Whether one of the tables is there, right or wrong.
pub fn is_there() -> Result<bool, Error> {
    for table in [Ruleset::INET, Ruleset::UPLINK] {
        let (family, name) = table.split_once(' ').unwrap_or_default();
        let family = if family == "bridge" {
            libc::NFPROTO_BRIDGE
        } else {
            libc::NFPROTO_INET
        };
        let name = [name.as_bytes(), &[0]].concat();
        match exchange(GET_TABLE, family as u8, NAME, &name) {
            Ok(()) => return Ok(true),
            Err(Error::Refused { refusal, .. }) if refusal.errno == libc::ENOENT => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Replaces both tables in one transaction. Blocks. `started` is told the port id of the change.
pub fn apply(ruleset: &Ruleset, started: impl FnOnce(u32)) -> Result<(), Error> {
    script::apply(&ruleset.script(), started).map_err(|error| {
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
    })
}
