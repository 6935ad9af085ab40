//! What the engine remembers of a tap and of a segment.
//!
//! Length: the states with their words, and what is remembered of a tap and of a network.

pub use super::asked::Asked;
pub use super::gateway::GatewayState;

use super::backoff::Fight;
use super::event::Why;
use super::original::{BridgeOriginal, Original};
use crate::desired::port::{PortIntent, PortWant};
use crate::desired::segment::SegmentWant;
use crate::desired::verdict::{NetworkVerdict, PortVerdict};
use crate::model::{FdbEntry, Ifindex, LinkName, Mac, Mtu, NetworkId, Time};
use crate::plan::CauseId;
use crate::plan::address_move::AddressMove;
use crate::plan::forwarding::ForwardingHave;
use crate::plan::op::{ListAction, Op};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Why a tap is pending while its question is under way: usually for less than a millisecond.
pub const WAITS_FOR_POLICY: &str = "waits for policy";

/// Where a tap stands (the contract's port states).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum PortState {
    /// Waits for something: a mapping, a network, policy.
    Pending {
        reason: Box<str>,
    },
    /// Operations are under way.
    Configuring,
    Attached,
    /// The kernel said no; tried again at `retry_at`, or (absent) with the next full pass.
    Failed {
        error: Box<str>,
        retry_at: Option<Time>,
    },
    /// On somebody else's bridge, or taken from ours again and again.
    Conflict {
        bridge: Box<str>,
        reason: Box<str>,
    },
    Denied {
        plugin: Box<str>,
        reason: Box<str>,
    },
}

impl PortState {
    pub const fn word(&self) -> &'static str {
        match self {
            PortState::Pending { .. } => "pending",
            PortState::Configuring => "configuring",
            PortState::Attached => "attached",
            PortState::Failed { .. } => "failed",
            PortState::Conflict { .. } => "conflict",
            PortState::Denied { .. } => "denied",
        }
    }
}

/// Why, in words; empty when there is nothing to say.
impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortState::Pending { reason } | PortState::Conflict { reason, .. } => f.write_str(reason),
            PortState::Configuring | PortState::Attached => Ok(()),
            PortState::Failed { error, .. } => f.write_str(error),
            PortState::Denied { plugin, reason } => write!(f, "plugin {plugin}: {reason}"),
        }
    }
}

/// What a tap with sub-ports has beside its own network.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Trunk {
    /// Networks of its sub-ports that count it among their users.
    pub networks: Vec<NetworkId>,
    /// Sub-interfaces that it has, or is about to.
    pub interfaces: Vec<LinkName>,
    /// What stands in a sub-port's way.
    pub remark: Option<Box<str>>,
}

/// One managed tap. A host has thousands: what few of them need is boxed.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Tap {
    pub name: LinkName,
    pub intent: PortIntent,
    pub state: PortState,
    /// Beside the state: something true of an attached port that an operator should know.
    pub remark: Option<Box<str>>,
    /// When the state last changed.
    pub since: Time,
    /// When the first message about it was received (for attach_us).
    pub seen_at: Time,
    /// From receiving RTM_NEWLINK to the last acknowledgement, microseconds.
    pub attach_us: Option<u64>,
    /// The bridge on which we have seen or put it, as its mapping says.
    pub wired: Option<Ifindex>,
    pub admin_state_applied: Option<bool>,
    /// As it was meant to be when all was last right, with its segment's MTU.
    pub settled: Option<(Arc<PortWant>, Option<Mtu>)>,
    /// Static entries that we put on its port.
    pub fdb: Vec<Mac>,
    /// Of a trunk port only.
    pub trunk: Option<Box<Trunk>>,
    /// How it was before policy said otherwise.
    pub original: Original,
    /// An MTU that the kernel refused for it: the attach stands, the MTU is not asked for again.
    pub refused_mtu: Option<Mtu>,
    pub failures: u32,
    pub retry_at: Option<Time>,
    pub fight: Fight,
    pub verdict: Asked<Box<PortVerdict>>,
    /// Why it is asked about next.
    pub why: Why,
    pub dirty: bool,
    /// The event that last made it dirty.
    pub cause: CauseId,
    /// Epoch in which an operation on it was last carried out.
    pub touched: u64,
}

impl Tap {
    pub fn sub_interfaces(&self) -> &[LinkName] {
        self.trunk.as_deref().map_or(&[], |trunk| &trunk.interfaces)
    }

    /// What policy last said, if it was asked.
    pub fn verdict(&self) -> Option<&PortVerdict> {
        self.verdict.verdict().map(|verdict| &**verdict)
    }

    /// Policy put entries on its network's VXLAN device. Static entries are on its own port and concern nobody else.
    pub fn has_entries(&self) -> bool {
        self.verdict()
            .is_some_and(|v| v.fdb.iter().any(|entry| entry.dst.is_some()) || !v.neighbours.is_empty())
    }

    /// Policy's answer is old; it holds until there is a new one.
    pub fn ask_again(&mut self, why: Why) {
        if self.verdict != Asked::Never {
            self.why = why;
        }
        self.verdict.make_stale();
    }

    pub fn label(&self, index: Ifindex) -> PortLabel {
        PortLabel {
            index,
            name: self.name,
            network: self.intent.network().cloned(),
        }
    }

    pub fn new(name: LinkName, now: Time) -> Self {
        Self {
            name,
            intent: PortIntent::Unmapped,
            state: PortState::Pending {
                reason: "not looked at yet".into(),
            },
            remark: None,
            since: now,
            seen_at: now,
            attach_us: None,
            wired: None,
            admin_state_applied: None,
            settled: None,
            fdb: Vec::new(),
            trunk: None,
            original: Original::default(),
            refused_mtu: None,
            failures: 0,
            retry_at: None,
            fight: Fight::default(),
            verdict: Asked::Never,
            why: Why::New,
            dirty: false,
            cause: CauseId::default(),
            touched: 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SegmentState {
    /// No tap needs it; nothing is made.
    Idle,
    Pending {
        reason: Box<str>,
    },
    Configuring,
    Ready,
    Failed {
        error: Box<str>,
        retry_at: Option<Time>,
    },
    Conflict {
        reason: Box<str>,
    },
}

impl SegmentState {
    pub const fn word(&self) -> &'static str {
        match self {
            SegmentState::Idle => "idle",
            SegmentState::Pending { .. } => "pending",
            SegmentState::Configuring => "configuring",
            SegmentState::Ready => "ready",
            SegmentState::Failed { .. } => "failed",
            SegmentState::Conflict { .. } => "conflict",
        }
    }
}

impl fmt::Display for SegmentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SegmentState::Idle | SegmentState::Configuring | SegmentState::Ready => Ok(()),
            SegmentState::Pending { reason } | SegmentState::Conflict { reason } => f.write_str(reason),
            SegmentState::Failed { error, .. } => f.write_str(error),
        }
    }
}

/// How far the move of a flat network's addresses has come.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Moving {
    /// Asked what the devices carry.
    Reading,
    /// The restore transaction is being carried out.
    Restoring(Box<AddressMove>),
    /// Asked again, to compare.
    Verifying(Box<AddressMove>),
    /// The old ones are being removed (or, after a failed comparison, the new ones).
    Finishing,
}

/// One network in use (or once in use).
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct SegmentEntry {
    pub state: SegmentState,
    pub since: Time,
    /// Taps that belong here, attached or not.
    pub users: BTreeSet<Ifindex>,
    pub bridge: Option<Ifindex>,
    pub uplink: Option<Ifindex>,
    pub mtu: Option<Mtu>,
    /// The kernel's forwarding entries of `device`, once read.
    pub forwarding: Option<(Ifindex, ForwardingHave)>,
    /// Read since the last time all was right: good enough to plan by. Others write there too, unheard.
    pub forwarding_fresh: bool,
    /// Destinations of the flood entry of `device` that are ours. The kernel's mark is on the entry as a whole: a
    /// destination that somebody appends makes all of them read as foreign.
    pub our_flood: Option<(Ifindex, BTreeSet<FdbEntry>)>,
    pub moving: Option<Moving>,
    /// The devices that the addresses under way come from and go to.
    pub moving_between: Option<(Ifindex, Ifindex)>,
    /// As it was meant to be when all was last right.
    pub settled: Option<SegmentWant>,
    /// How its bridge was before policy said otherwise.
    pub original: BridgeOriginal,
    /// The MTU it asks of its interface.
    pub asked_of_nic: Option<(Ifindex, Mtu)>,
    /// Somebody else keeps changing bridge or uplink.
    pub fight: Fight,
    pub failures: u32,
    pub retry_at: Option<Time>,
    /// Waits because a device is gone whose end was not told yet.
    pub awaits_gone: bool,
    pub verdict: Asked<NetworkVerdict>,
    /// Why it is asked about next.
    pub why: Why,
    /// Names of links this segment leans on, as registered in the engine's watch list.
    pub watched: Vec<LinkName>,
    pub dirty: bool,
    pub cause: CauseId,
    pub touched: u64,
}

impl SegmentEntry {
    /// Policy's answer is old; it holds until there is a new one.
    pub fn ask_again(&mut self, why: Why) {
        if self.verdict != Asked::Never {
            self.why = why;
        }
        self.verdict.make_stale();
    }

    pub fn new(now: Time) -> Self {
        Self {
            state: SegmentState::Idle,
            since: now,
            users: BTreeSet::new(),
            bridge: None,
            uplink: None,
            mtu: None,
            forwarding: None,
            forwarding_fresh: false,
            our_flood: None,
            moving: None,
            moving_between: None,
            settled: None,
            original: BridgeOriginal::default(),
            asked_of_nic: None,
            fight: Fight::default(),
            failures: 0,
            retry_at: None,
            awaits_gone: false,
            verdict: Asked::Never,
            why: Why::New,
            watched: Vec::new(),
            dirty: false,
            cause: CauseId::default(),
            touched: 0,
        }
    }

    /// The forwarding entries of `device` were read.
    pub fn has_forwarding(&mut self, device: Ifindex, mut have: ForwardingHave) {
        let known = self.our_flood.take().filter(|(on, _)| *on == device);
        let known = known.map(|(_, destinations)| destinations).unwrap_or_default();
        let mut ours = BTreeSet::new();
        for row in have.fdb.iter_mut().filter(|row| row.entry.is_flood()) {
            row.ours |= known.contains(&row.entry);
            if row.ours {
                ours.insert(row.entry);
            }
        }
        self.our_flood = Some((device, ours));
        self.forwarding = Some((device, have));
        self.forwarding_fresh = true;
    }

    /// An operation of ours on the forwarding entries of `device` was acknowledged.
    pub fn forwarding_done(&mut self, device: Ifindex, op: &Op) {
        if let Some((read, have)) = &mut self.forwarding
            && *read == device
        {
            have.acknowledge(op);
        }
        if let Some((read, ours)) = &mut self.our_flood
            && *read == device
            && let Op::Fdb { action, entry, .. } = op
            && entry.is_flood()
        {
            match action {
                ListAction::Delete => ours.remove(entry),
                ListAction::Add | ListAction::Append | ListAction::Replace => ours.insert(*entry),
            };
        }
    }
}

/// A network's id with a tap's index, for notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortLabel {
    pub index: Ifindex,
    pub name: LinkName,
    pub network: Option<NetworkId>,
}
