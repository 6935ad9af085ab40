//! The lines of a trace, and their JSON form, which is a promise (`trace --json objects` in the manual).

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;

/// What happened, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// Not known before.
    New,
    /// Known; `diff` says what is different, which may be nothing: the kernel repeats itself.
    Change,
    /// A device became a port of its `master`.
    Enslaved,
    /// A device is no longer a port. Also what an AF_BRIDGE removal is: the device lives on.
    Released,
    Gone,
    /// Only in loss markers.
    Loss,
}

impl Word {
    pub const ALL: [Word; 6] = [
        Word::New,
        Word::Change,
        Word::Enslaved,
        Word::Released,
        Word::Gone,
        Word::Loss,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Word::New => "new",
            Word::Change => "change",
            Word::Enslaved => "enslaved",
            Word::Released => "released",
            Word::Gone => "gone",
            Word::Loss => "loss",
        }
    }
}

/// What it happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Object {
    Link,
    /// A link as a bridge's port.
    Port,
    Address,
    Route,
    Neighbour,
    Fdb,
    /// A message type this program has no name for.
    Other,
}

impl Object {
    pub const ALL: [Object; 7] = [
        Object::Link,
        Object::Port,
        Object::Address,
        Object::Route,
        Object::Neighbour,
        Object::Fdb,
        Object::Other,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Object::Link => "link",
            Object::Port => "port",
            Object::Address => "address",
            Object::Route => "route",
            Object::Neighbour => "neighbour",
            Object::Fdb => "fdb",
            Object::Other => "other",
        }
    }
}

/// A field's value before or after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Absent,
    Number(u64),
    Bool(bool),
    Text(Box<str>),
    /// Names of the flags that are set, in the order of their bits.
    Flags(Vec<&'static str>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Absent => to.serialize_none(),
            Value::Number(n) => to.serialize_u64(*n),
            Value::Bool(b) => to.serialize_bool(*b),
            Value::Text(text) => to.serialize_str(text),
            Value::Flags(flags) => flags.serialize(to),
        }
    }
}

/// One field that differs from the state before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub field: &'static str,
    pub old: Value,
    pub new: Value,
}

/// Who made it happen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// The daemon, known by its port id or by a decision of its that fits.
    pub own: bool,
    /// The daemon's operation, e.g. "attach".
    pub op: Option<Box<str>>,
    /// The requester's netlink port id, usually its process id, where the kernel says it.
    pub portid: Option<u32>,
}

/// What the daemon made of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub decision: Box<str>,
    pub outcome: Option<Box<str>>,
    /// From receiving the event to the last acknowledgement.
    pub elapsed_us: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// CLOCK_MONOTONIC, microseconds, when the message was received.
    pub ts_us: u64,
    /// Counts lines, from 1; a filter leaves gaps.
    pub seq: u64,
    pub word: Word,
    pub object: Object,
    /// "unspec", "bridge", "inet", "inet6": the family of the message.
    pub family: &'static str,
    /// The device the object belongs to; 0 when there is none (a blackhole or multipath route).
    pub ifindex: u32,
    pub ifname: Box<str>,
    /// The device's kind; empty for physical devices and loopback.
    pub kind: Box<str>,
    /// Which object of the device: "10.0.0.1/24", a MAC address, a route's prefix. Absent for links and ports.
    pub key: Option<Box<str>>,
    /// The device's master, if any.
    pub master: Option<Box<str>>,
    /// The network that the device, or its master, is marked with.
    pub network: Option<Box<str>>,
    pub diff: Vec<Change>,
    pub cause: Cause,
    pub decided: Option<Decided>,
    /// Not a message: found by the listing after a loss.
    pub resync: bool,
}

/// The kernel dropped messages here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    pub ts_us: u64,
    pub seq: u64,
    /// How many; absent when the kernel did not count.
    pub lost: Option<u64>,
    /// How long listing everything again took.
    pub resync_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Event(Box<TraceEvent>),
    Loss(Loss),
    /// A decision of the daemon that fits no event shown: by command, by timer, or its event was lost.
    Decision(Box<super::join::Decision>),
}

/// `{field: [old, new]}`, in the order the fields were compared.
struct Diff<'a>(&'a [Change]);

impl Serialize for Diff<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for change in self.0 {
            map.serialize_entry(change.field, &(&change.old, &change.new))?;
        }
        map.end()
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("by", if self.own { "own" } else { "foreign" })?;
        if let Some(op) = &self.op {
            map.serialize_entry("op", op)?;
        }
        if let Some(portid) = self.portid {
            map.serialize_entry("portid", &portid)?;
        }
        map.end()
    }
}

impl Serialize for TraceEvent {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("ts_us", &self.ts_us)?;
        map.serialize_entry("seq", &self.seq)?;
        map.serialize_entry("event", self.word.as_str())?;
        map.serialize_entry("object", self.object.as_str())?;
        map.serialize_entry("family", self.family)?;
        map.serialize_entry("ifindex", &self.ifindex)?;
        map.serialize_entry("ifname", &self.ifname)?;
        map.serialize_entry("kind", &self.kind)?;
        if let Some(key) = &self.key {
            map.serialize_entry("key", key)?;
        }
        if let Some(network) = &self.network {
            map.serialize_entry("network", network)?;
        }
        map.serialize_entry("diff", &Diff(&self.diff))?;
        map.serialize_entry("cause", &self.cause)?;
        if let Some(decided) = &self.decided {
            map.serialize_entry("decision", &decided.decision)?;
            if let Some(outcome) = &decided.outcome {
                map.serialize_entry("outcome", outcome)?;
            }
            if let Some(elapsed) = decided.elapsed_us {
                map.serialize_entry("elapsed_us", &elapsed)?;
            }
        }
        if self.resync {
            map.serialize_entry("resync", &true)?;
        }
        map.end()
    }
}

impl Line {
    pub fn ts_us(&self) -> u64 {
        match self {
            Line::Event(event) => event.ts_us,
            Line::Loss(loss) => loss.ts_us,
            Line::Decision(decision) => decision.ts_us,
        }
    }

    /// One JSON object on one line, without the line end.
    pub fn to_json(&self) -> serde_json::Result<String> {
        match self {
            Line::Event(event) => serde_json::to_string(event),
            Line::Loss(loss) => serde_json::to_string(&json!({
                "ts_us": loss.ts_us,
                "seq": loss.seq,
                "event": Word::Loss.as_str(),
                "lost": loss.lost,
                "resync_ms": loss.resync_ms,
            })),
            Line::Decision(decision) => serde_json::to_string(decision),
        }
    }
}
