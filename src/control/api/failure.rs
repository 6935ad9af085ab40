//! Why a command was not done.

use serde::{Deserialize, Serialize};

/// Why a command was not done. The HTTP status follows from `kind`; `error` and `hint` are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// Lower-case, no full stop.
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// 400: what was sent makes no sense.
    Invalid,
    /// 403: this user may look but not change.
    Denied,
    /// 404.
    NotFound,
    /// 405.
    Method,
    /// 409: it makes sense, but not in the present state.
    Conflict,
    /// 413.
    TooLarge,
    /// 500.
    Internal,
    /// 503: starting, stopping or overloaded.
    Unavailable,
    /// 504.
    TimedOut,
}

impl FailureKind {
    pub const fn http_status(self) -> u16 {
        match self {
            FailureKind::Invalid => 400,
            FailureKind::Denied => 403,
            FailureKind::NotFound => 404,
            FailureKind::Method => 405,
            FailureKind::Conflict => 409,
            FailureKind::TooLarge => 413,
            FailureKind::Internal => 500,
            FailureKind::Unavailable => 503,
            FailureKind::TimedOut => 504,
        }
    }
}

impl Failure {
    pub fn new(kind: FailureKind, error: impl Into<String>) -> Self {
        Self {
            kind,
            error: error.into(),
            hint: None,
        }
    }
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
