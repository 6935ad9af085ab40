//! DHCP, DNS and router advertisements: one supervised dnsmasq for each network that asks for it. The only folder that
//! keeps processes.
//!
//! Told what each network's server is to say (`Command::Serve`), it says back how that server is and who got a lease
//! (`Event`). All of it runs on a thread of its own, which exists from the first such network on: nothing here is
//! between a tap and its attach. That thread is also what the processes' lives hang on: dnsmasq is killed by the kernel
//! when it ends (`PR_SET_PDEATHSIG`), however the daemon ends.
//!
//! `render` is dnsmasq's grammar, `files` a network's directory, `leases` dnsmasq's lease file, `process` and `confine` one
//! process and what it may do, `server` the life of one network's server, `supervisor` the thread, `report` how a lease
//! event comes from dnsmasq to here.

mod confine;
mod files;
mod leases;
mod process;
mod render;
pub mod report;
mod server;
mod supervisor;

pub use leases::{Held, held};
pub use supervisor::{Service, Settings};

use crate::desired::service::ServiceWant;
use crate::model::{Ifindex, Mac, NetworkId};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug)]
pub enum Command {
    /// From now on, serve so. `device` is the bridge that carries the want's interface name now: dnsmasq's sockets belong
    /// to a device, not to a name.
    Serve {
        network: NetworkId,
        device: Ifindex,
        want: Box<ServiceWant>,
    },
    /// End it; its leases stay.
    Pause(NetworkId),
    /// End it, and forget its leases.
    Remove(NetworkId),
    /// Whatever an earlier run left of other networks than these goes.
    Keep(BTreeSet<NetworkId>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    State { network: NetworkId, state: State },
    Lease(Lease),
}

/// How a network's server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Starting {
        /// The one before had ended by itself.
        again: bool,
    },
    Running {
        pid: u32,
    },
    /// In dnsmasq's own words where it had some; tried again after `retry`.
    Failed {
        reason: String,
        retry: Duration,
    },
}

/// Something happened to a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub network: NetworkId,
    pub what: LeaseWhat,
    pub address: IpAddr,
    /// DHCPv6 knows it only if the client's request showed it.
    pub mac: Option<Mac>,
    /// The name the client has in DNS.
    pub hostname: Option<String>,
    /// Seconds that are left; `None`: for ever, or ended.
    pub expires_in: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseWhat {
    Added,
    /// Known from before a restart, or another name or client id.
    Changed,
    /// Given back, run out, or its reservation is gone.
    Ended,
}

impl LeaseWhat {
    pub const fn word(self) -> &'static str {
        match self {
            LeaseWhat::Added => "added",
            LeaseWhat::Changed => "changed",
            LeaseWhat::Ended => "ended",
        }
    }
}

impl fmt::Display for LeaseWhat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("there is no dnsmasq in PATH (Debian's package is dnsmasq-base)")]
    NoProgram,
    #[error("cannot start dnsmasq")]
    Start(#[source] io::Error),
    #[error("cannot start the thread of DHCP and DNS")]
    Thread(#[source] io::Error),
}

impl Error {
    fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { what, path, cause }
    }
}

/// An error with its causes, one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
