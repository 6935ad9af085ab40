//! Why a command ends badly, and with which exit code.

use crate::control::client;
use std::error::Error;
use std::io;

/// The contract's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// Bad usage, configuration or plugin.
    Usage = 2,
    Unreachable = 3,
    TimedOut = 4,
}

#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// Empty: nothing is printed (the reader of our output has gone, or the report itself says it all).
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
        }
    }
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
    /// What has to be said is on stdout or stderr already.
    pub fn told(exit: Exit) -> Self {
        Self::new(exit, "")
    }
    /// An error with its causes.
    pub fn from_error(exit: Exit, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            message.push_str(": ");
            message.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self::new(exit, message)
    }
    /// What was being done, before the message.
    #[must_use]
    pub fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let exit = if error.is_timeout() {
            Exit::TimedOut
        } else if error.is_unreachable() {
            Exit::Unreachable
        } else if error.is_invalid() {
            Exit::Usage
        } else {
            Exit::Failed
        };
        Failure::from_error(exit, &error).maybe_hint(error.hint())
    }
}

/// Output errors: a reader that has gone (`tapwire port list | head -1`) is not a failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::told(Exit::Done)
        } else {
            Failure::failed(format!("cannot write the output: {error}"))
        }
    }
}
