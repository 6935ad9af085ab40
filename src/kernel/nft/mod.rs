//! nftables: our own tables, and nobody else's.
//!
//! | module | what it owns |
//! |---|---|
//! | `guard`, `element` | the spoof guard's table `bridge tapwire` and its elements as transactions |
//! | `read` | what the kernel has of that table |
//! | `script` | a table as text for `nft -f -` |
//! | `fingerprint` | were the gateways' tables touched since? |
//! | `monitor` | somebody else changed a table of ours |
//! | `socket`, `message` | transactions and lists, and their bytes |
//!
//! Tables of ours are recognised by family and name; everything else of the ruleset is never read nor written.

mod element;
mod fingerprint;
mod guard;
mod message;
mod monitor;
mod read;
pub mod script;
mod socket;

pub use fingerprint::fingerprint;
pub use message::Messages;
pub use monitor::{NftMonitor, Touched};
pub use socket::NftSocket;

use super::error::{Error, Goal};
use crate::desired::guard::table;
use crate::plan::guard::GuardHave;
use crate::plan::op::{GuardTable, Op};

/// The gateways' table of the inet family, and theirs of the bridge family; the spoof guard's is `table::NAME` of the latter.
pub const RULESET: &str = table::NAME;
pub const UPLINK: &str = "tapwire_uplink";

/// Writes the transaction of an operation of the guard.
pub(super) fn transaction(op: &Op, messages: &mut Messages) -> Result<(), Error> {
    match op {
        Op::GuardTable(GuardTable::Make(ports)) => guard::make(ports, messages),
        Op::GuardTable(GuardTable::Remove) => guard::remove(messages),
        Op::GuardTable(GuardTable::Sweep(ports)) => guard::sweep(ports, messages),
        Op::Guard { link, gone, new } => {
            let index = link.index.ok_or(Error::Unresolved {
                op: op.name(),
                name: link.name,
            })?;
            guard::change(index, gone, new, messages);
        }
        _ => {
            return Err(Error::Inexpressible {
                op: op.name(),
                problem: "not an operation of nftables",
            });
        }
    }
    Ok(())
}

pub(super) fn commit(
    socket: &mut NftSocket,
    op: &'static str,
    goal: Goal,
    messages: &mut Messages,
) -> Result<(), Error> {
    socket.commit(op, goal, messages)
}

pub use read::drops;

/// What the kernel has of the spoof guard.
pub fn read_guard(socket: &mut NftSocket, messages: &mut Messages) -> Result<GuardHave, Error> {
    read::read(socket, messages)
}
