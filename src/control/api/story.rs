//! Why a tap is, or is not, attached.

use super::port::PortState;
use serde::{Deserialize, Serialize};

/// The story of one tap, oldest step first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    pub tap: String,
    pub ifindex: Option<u32>,
    pub state: PortState,
    pub reason: Option<String>,
    pub network: Option<String>,
    pub steps: Vec<StoryStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryStep {
    /// Microseconds since the daemon started, monotonic.
    pub at_us: u64,
    /// The event that set it off; every step with the same cause belongs together.
    pub cause: Option<u64>,
    pub kind: StepKind,
    pub text: String,
    /// Microseconds from the event that caused it.
    pub elapsed_us: Option<u64>,
    /// False for a refusal of the kernel, a failing hook ...; absent where there is nothing to succeed.
    pub ok: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// What the kernel told.
    Event,
    /// Which network, and who says so.
    Mapping,
    /// What a plugin said.
    Policy,
    /// What was asked of the kernel.
    Op,
    /// What the kernel answered.
    Answer,
    /// The port's new state.
    State,
}

impl StepKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            StepKind::Event => "event",
            StepKind::Mapping => "mapping",
            StepKind::Policy => "policy",
            StepKind::Op => "op",
            StepKind::Answer => "answer",
            StepKind::State => "state",
        }
    }
}
