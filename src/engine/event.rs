//! Everything that comes into the engine, and everything it asks for. Both enums are closed: whoever drives the
//! engine (the daemon, a scenario test, `replay`) sees the whole conversation.

use super::service::ServiceState;
use crate::desired::Desired;
use crate::desired::service::ServiceWant;
use crate::desired::verdict::{NetworkVerdict, PortVerdict};
use crate::model::{Ifindex, Link, Mac, Network, NetworkId, PortMapping, PortVlans, TapSelector, VniRow};
use crate::observed::{AddressRow, Change};
use crate::plan::address_move::Carried;
use crate::plan::forwarding::ForwardingHave;
use crate::plan::gateway::HostHave;
use crate::plan::guard::GuardHave;
use crate::plan::{Key, Plan};

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum Event {
    /// One message of the monitor socket.
    #[serde(skip)]
    Kernel(Change),
    /// The monitor socket is empty: all that the kernel has said so far, echoes of our operations included, is in.
    Drained,
    /// Messages were lost or could not be read.
    Lost(Loss),
    /// A complete dump, taken after the monitor was subscribed.
    Snapshot(Snapshot),
    /// The dump could not be had; it is asked for again.
    SnapshotFailed {
        error: String,
    },
    /// Everything the sources tell, as a whole: at start and on reload.
    Desired(Box<Desired>),
    SetNetwork(Box<Network>),
    RemoveNetwork(NetworkId),
    SetMapping(Box<PortMapping>),
    RemoveMapping(TapSelector),
    /// Every source has told what it has.
    SourcesInSync,
    /// How a network's DHCP, DNS and RA server is now.
    Service {
        network: NetworkId,
        state: ServiceState,
    },
    /// A plan was carried out, as far as it went.
    #[serde(skip)]
    Done(Done),
    /// Answer to `Action::ReadForwarding`.
    Forwarding {
        network: NetworkId,
        device: Ifindex,
        have: Result<ForwardingHave, Failure>,
    },
    /// Answer to `Action::ReadGuard`.
    Guard(Result<GuardHave, Failure>),
    /// Somebody else changed the table of the spoof guard.
    GuardTouched,
    /// Answer to `Action::ReadGateways`: what is there of ours?
    Gateways(Result<HostHave, Failure>),
    /// Somebody else changed one of the gateways' tables.
    RulesetTouched,
    /// Somebody else switched off a kernel setting that gateways need.
    SysctlsTouched,
    /// Answer to `Action::ReadCarried`, in the order asked.
    Carried {
        key: Key,
        have: Result<Vec<Carried>, Failure>,
    },
    /// Answer to `Action::AskPort`.
    PortVerdict {
        index: Ifindex,
        ticket: u64,
        verdict: Box<PortVerdict>,
    },
    /// Answer to `Action::AskNetwork`.
    NetworkVerdict {
        network: NetworkId,
        ticket: u64,
        verdict: Box<NetworkVerdict>,
    },
    /// Policy started, stopped or changed: every verdict is to be asked again.
    PolicyChanged(PolicyUse),
    /// Policy wants these looked at again (`observe`, `tick`).
    Invalidate {
        taps: Vec<Ifindex>,
        networks: Vec<NetworkId>,
    },
    /// `tapwire resync`.
    Resync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Loss {
    /// ENOBUFS.
    Overrun,
    /// A message that could not be decoded.
    Undecodable,
}

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    pub links: Vec<Link>,
    pub addresses: Vec<AddressRow>,
    /// With a VLAN-aware bridge: the VLANs of every bridge port, the VNIs of VXLAN devices.
    pub vlans: Vec<(Ifindex, PortVlans)>,
    pub vnis: Vec<(Ifindex, VniRow)>,
    /// Of taps on whose ports we put static entries: those that are there.
    #[serde(default)]
    pub static_entries: Vec<(Ifindex, Vec<Mac>)>,
}

/// Which questions policy wants to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct PolicyUse {
    /// `port`, `admit` or `resolve` hooks.
    pub ports: bool,
    /// `network` hooks.
    pub networks: bool,
}

/// Why policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Why {
    /// Not asked before.
    #[default]
    New,
    /// What the question is about changed.
    Change,
    /// A full pass.
    Resync,
    /// The plugins changed.
    Reload,
    /// A plugin wished it, or its last answer was a failure or "later".
    Invalidate,
}

/// What became of a plan: one result for each step begun; fewer than steps if one failed.
#[derive(Debug, Clone)]
pub struct Done {
    pub plan: Plan,
    pub results: Vec<StepResult>,
    /// Errors while taking back done steps.
    pub undo_failures: Vec<String>,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct StepResult {
    pub outcome: Result<Applied, Failure>,
    /// Microseconds the kernel took.
    pub elapsed_us: u32,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum Applied {
    Done,
    /// A create, with the link as read back.
    Created(Box<Link>),
    /// A create that found something of that name; as read back.
    AlreadyThere(Box<Link>),
}

/// What the kernel (or the executor) said no to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    pub class: FailureClass,
    pub errno: i32,
    /// strerror and the kernel's extended-ack text.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FailureClass {
    /// The device went away or changed its name: look again.
    Gone,
    /// EXFULL: the bridge has its 1,023 ports.
    Full,
    /// Worth another try soon.
    Busy,
    /// This kernel cannot: not tried again until a full pass.
    Unsupported,
    /// EPERM.
    Denied,
    /// The kernel does not take the values.
    Refused,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum Action {
    /// Dump all links and addresses.
    Snapshot,
    Execute(Plan),
    ReadForwarding {
        network: NetworkId,
        device: Ifindex,
    },
    /// Read the spoof guard's table; with `watch`, from then on tell when somebody else changes it.
    ReadGuard {
        watch: bool,
    },
    /// Find out whether tables or kernel settings of ours are left of an earlier run; with `watch`, from then on tell when
    /// somebody else changes the tables.
    ReadGateways {
        watch: bool,
    },
    /// Read addresses and routes of these devices.
    ReadCarried {
        key: Key,
        devices: Vec<Ifindex>,
    },
    /// A network's DHCP, DNS and RA server is to say this, on this bridge. Answers come as `Event::Service`, whenever.
    Serve {
        network: NetworkId,
        device: Ifindex,
        want: Box<ServiceWant>,
    },
    /// It is to end, with `forget` for good: its leases go too.
    EndService {
        network: NetworkId,
        forget: bool,
    },
    /// Ask policy about a tap; answer with the same ticket.
    AskPort {
        index: Ifindex,
        ticket: u64,
        why: Why,
    },
    AskNetwork {
        network: NetworkId,
        ticket: u64,
        why: Why,
    },
}
