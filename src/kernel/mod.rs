//! The only netlink code: what the kernel tells, and what we ask of it.
//!
//! | module | what it owns |
//! |---|---|
//! | `monitor` | the subscription socket: events in order, losses said |
//! | `snapshot` | lists of links, entries, addresses, routes |
//! | `executor` | operations of a plan, one request each, and their outcomes |
//! | `nft` | our own tables of nftables |
//! | `watch` | events and lists in all their detail, for tracing |
//! | `fault` | an executor's kernel that fails on command, for tests |
//! | `tuntap` | making taps, for the demo, the tests and the benches |
//! | `decode`, `encode` | messages to model, operations to messages |
//! | `wire`, `request`, `socket`, `device` | bytes and system calls below them |
//! | `ruleset`, `sysctl`, `netconf`, `conntrack`, `announce` | what gateways need besides rtnetlink |
//! | `kept` | what the kernel does not remember, in the state directory |
//! | `mark` | how our forwarding entries are recognised after a restart |
//!
//! All of it runs on the daemon's one thread. Three sockets: events, requests, dumps; never one for two of them,
//! because a notification may carry the causing request's sequence number and would be taken for its answer.

pub mod announce;
pub mod conntrack;
pub mod decode;
mod device;
mod encode;
mod error;
pub mod executor;
pub mod fault;
mod kept;
mod mark;
pub mod monitor;
pub mod netconf;
pub mod nft;
mod notifications;
pub mod request;
pub mod ruleset;
pub mod snapshot;
mod socket;
mod subject;
pub mod sysctl;
pub mod tuntap;
mod usage;
pub mod watch;
pub mod wire;

pub use decode::{Change, NeighbourRow};
pub use error::{Class, Error, Goal, Refusal};
pub use executor::{Executor, Outcome, Transport, Verdict};
pub use monitor::{Drained, Monitor, RxEvent, Subscription};
pub use request::LinkKey;
pub use snapshot::{Listing, Retry, Snapshot};
pub use socket::Step;
pub use usage::socket_usage;
