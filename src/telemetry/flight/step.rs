//! One step of the flight recorder.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// Which kind of step; the number is the record's tag in memory only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The kernel told something: `word` is the trace's word, `text` the difference.
    Event = 1,
    /// Where the tap belongs: `word` says by whom ("port", "pattern", "policy"), `text` the network or why none.
    Mapping = 2,
    /// A plugin answered: `word` is the plugin, `text` the verdict.
    Policy = 3,
    /// An operation and the kernel's answer: `word` is `Op::name`, `text` the error with the extended-ack text.
    Op = 4,
    /// A port's new state: `word` is the state, `text` the reason.
    State = 5,
    /// A full pass: `word` says why.
    Resync = 6,
    /// The kernel dropped messages; `text` says how many where that is known.
    Overrun = 7,
    /// A lease of the machine behind the tap: `word` says what happened, `text` the address.
    Lease = 8,
}

impl Kind {
    pub(super) const ALL: [Kind; 8] = [
        Kind::Event,
        Kind::Mapping,
        Kind::Policy,
        Kind::Op,
        Kind::State,
        Kind::Resync,
        Kind::Overrun,
        Kind::Lease,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Event => "event",
            Kind::Mapping => "mapping",
            Kind::Policy => "policy",
            Kind::Op => "op",
            Kind::State => "state",
            Kind::Resync => "resync",
            Kind::Overrun => "overrun",
            Kind::Lease => "lease",
        }
    }
}

/// One step, borrowed: to push it, and as it is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// Microseconds, the daemon's monotonic time (`model::time::Time`).
    pub at_us: u64,
    /// What set it off; 0: nothing outside.
    pub cause: u64,
    pub kind: Kind,
    /// 0: about no device in particular.
    pub ifindex: u32,
    pub name: &'a str,
    pub word: &'a str,
    pub text: &'a str,
    /// Positive errno of a failed operation; 0: it went well, or it is none.
    pub errno: u16,
    /// Microseconds the step took, saturating; 0 where nothing was measured.
    pub elapsed_us: u32,
}

impl<'a> Step<'a> {
    /// A step with nothing but kind, time and cause.
    pub const fn new(kind: Kind, at_us: u64, cause: u64) -> Self {
        Self {
            at_us,
            cause,
            kind,
            ifindex: 0,
            name: "",
            word: "",
            text: "",
            errno: 0,
            elapsed_us: 0,
        }
    }
    #[must_use]
    pub const fn device(self, ifindex: u32, name: &'a str) -> Self {
        Self {
            ifindex,
            name,
            ..self
        }
    }
    #[must_use]
    pub const fn says(self, word: &'a str, text: &'a str) -> Self {
        Self { word, text, ..self }
    }
    #[must_use]
    pub const fn took(self, elapsed_us: u32, errno: u16) -> Self {
        Self {
            elapsed_us,
            errno,
            ..self
        }
    }
}

impl Serialize for Step<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("at_us", &self.at_us)?;
        map.serialize_entry("kind", self.kind.as_str())?;
        if self.cause != 0 {
            map.serialize_entry("cause", &self.cause)?;
        }
        if self.ifindex != 0 {
            map.serialize_entry("ifindex", &self.ifindex)?;
        }
        if !self.name.is_empty() {
            map.serialize_entry("ifname", self.name)?;
        }
        map.serialize_entry("word", self.word)?;
        if self.errno != 0 {
            map.serialize_entry("errno", &self.errno)?;
        }
        if self.elapsed_us != 0 {
            map.serialize_entry("elapsed_us", &self.elapsed_us)?;
        }
        map.serialize_entry("text", self.text)?;
        map.end()
    }
}
