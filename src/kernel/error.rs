//! What can go wrong between us and the kernel, and what the caller does about it.
//!
//! The errno is classified once, here, where the request's goal is still known: `EEXIST` is good news for a create
//! and bad news for anything else.

use crate::model::{Ifindex, LinkName};
use std::fmt;
use std::io;

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It already is as asked (there on create, gone on delete): information, mark the key dirty and go on.
    AlreadySo,
    /// The device went away or changed its identity under us: look again, plan again.
    Gone,
    /// Nobody's fault, may work in a moment: retry with backoff.
    Transient,
    /// The kernel does not have the feature: report, retry slowly.
    Unsupported,
    /// No permission: `CAP_NET_ADMIN` is missing.
    Denied,
    /// A limit is reached (1,023 ports per bridge, address space).
    Full,
    /// The kernel does not want these values: report its text, retry slowly.
    Refused,
    /// Our request or the kernel's answer makes no sense: a defect of ours.
    Bug,
}

impl Class {
    /// Stable word for metrics and spans.
    pub const fn word(self) -> &'static str {
        match self {
            Class::AlreadySo => "already_so",
            Class::Gone => "gone",
            Class::Transient => "transient",
            Class::Unsupported => "unsupported",
            Class::Denied => "denied",
            Class::Full => "full",
            Class::Refused => "refused",
            Class::Bug => "bug",
        }
    }
}

/// What a request wants, because that decides what an errno means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Make something that should not be there yet.
    Create,
    /// Change or read something that should be there.
    Change,
    /// Change what only a port of a bridge has: `EOPNOTSUPP` says that it is none any more (`rtnl_bridge_setlink`).
    Port,
    /// Remove something.
    Delete,
}

/// The kernel's negative answer: errno and, when it has one, its extended-ack text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Positive errno.
    pub errno: i32,
    /// `NLMSGERR_ATTR_MSG`, for example "A VXLAN device with the specified VNI already exists".
    pub text: Option<Box<str>>,
}

impl Refusal {
    pub const fn errno(errno: i32) -> Self {
        Self { errno, text: None }
    }
    pub fn class(&self, goal: Goal) -> Class {
        match self.errno {
            libc::EEXIST if goal == Goal::Create => Class::AlreadySo,
            libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO
                if goal == Goal::Delete =>
            {
                Class::AlreadySo
            }
            libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::ENXIO => Class::Gone,
            libc::EOPNOTSUPP if goal == Goal::Port => Class::Gone,
            libc::EBUSY | libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::ENOBUFS | libc::ETIMEDOUT => {
                Class::Transient
            }
            libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ENOSYS => {
                Class::Unsupported
            }
            libc::EPERM | libc::EACCES | libc::EROFS => Class::Denied,
            libc::EXFULL | libc::ENOSPC | libc::EMFILE | libc::ENFILE | libc::E2BIG => Class::Full,
            libc::EFAULT | libc::EBADF | libc::ENOTSOCK | libc::EMSGSIZE | libc::EBADMSG => Class::Bug,
            _ => Class::Refused,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = io::Error::from_raw_os_error(self.errno).to_string();
        // std appends " (os error N)"; people read the words.
        let words = full.split(" (os error").next().unwrap_or(&full);
        match &self.text {
            Some(text) => write!(f, "{words}: {text}"),
            None => f.write_str(words),
        }
    }
}

/// A kernel operation that did not happen, or of which nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel said no.
    #[error("{op}: {refusal}")]
    Refused {
        /// `plan::Op::name` or what was read.
        op: &'static str,
        refusal: Refusal,
        class: Class,
    },
    /// The acknowledgement was lost (no memory for it): whether it happened is unknown, the next resync tells.
    #[error("{op}: the kernel's answer was lost")]
    NoAnswer { op: &'static str },
    /// The device with this index is not, or no longer, the one the plan meant.
    #[error("{op}: {}", Replaced { name, index: *index, now })]
    Replaced {
        op: &'static str,
        goal: Goal,
        name: LinkName,
        index: Ifindex,
        /// The name the index has now; absent when there is no such index any more.
        now: Option<LinkName>,
    },
    /// An op names a device without an index that no earlier op of the plan created.
    #[error("{op}: {name} is not created by this plan")]
    Unresolved { op: &'static str, name: LinkName },
    /// The op cannot be put into a request.
    #[error("{op}: {problem}")]
    Inexpressible { op: &'static str, problem: &'static str },
    /// The kernel's answer does not decode.
    #[error("{op}: the kernel's answer does not decode")]
    Answer {
        op: &'static str,
        #[source]
        source: super::wire::Malformed,
    },
    /// A system call on our own socket or file failed.
    #[error("{what} failed")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The text of `Error::Replaced`.
struct Replaced<'a> {
    name: &'a LinkName,
    index: Ifindex,
    now: &'a Option<LinkName>,
}

impl fmt::Display for Replaced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.now {
            Some(now) => write!(f, "link {} is {now} now, no longer {}", self.index, self.name),
            None => write!(f, "{} (link {}) is gone", self.name, self.index),
        }
    }
}

impl Error {
    pub fn refused(op: &'static str, goal: Goal, refusal: Refusal) -> Self {
        let class = refusal.class(goal);
        Error::Refused { op, refusal, class }
    }
    /// From a system call that names its errno, so that it is classified like a netlink answer.
    pub fn from_io(op: &'static str, goal: Goal, source: &io::Error) -> Self {
        Self::refused(
            op,
            goal,
            Refusal::errno(source.raw_os_error().unwrap_or(libc::EIO)),
        )
    }
    pub fn class(&self) -> Class {
        match self {
            Error::Refused { class, .. } => *class,
            Error::NoAnswer { .. } => Class::Transient,
            Error::Replaced {
                goal: Goal::Delete,
                now: None,
                ..
            } => Class::AlreadySo,
            Error::Replaced { .. } => Class::Gone,
            Error::Unresolved { .. } | Error::Inexpressible { .. } | Error::Answer { .. } => Class::Bug,
            Error::Io { source, .. } => {
                Refusal::errno(source.raw_os_error().unwrap_or(libc::EIO)).class(Goal::Change)
            }
        }
    }
    /// The errno, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { refusal, .. } => Some(refusal.errno),
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_errno_means_different_things_to_create_change_and_delete() {
        let exists = Refusal::errno(libc::EEXIST);
        assert_eq!(exists.class(Goal::Create), Class::AlreadySo);
        assert_eq!(exists.class(Goal::Change), Class::Refused);
        let gone = Refusal::errno(libc::ENODEV);
        assert_eq!(gone.class(Goal::Delete), Class::AlreadySo);
        assert_eq!(gone.class(Goal::Change), Class::Gone);
        assert_eq!(Refusal::errno(libc::EXFULL).class(Goal::Change), Class::Full);
        assert_eq!(Refusal::errno(libc::EPERM).class(Goal::Delete), Class::Denied);
        assert_eq!(
            Refusal::errno(libc::EOPNOTSUPP).class(Goal::Create),
            Class::Unsupported
        );
    }

    #[test]
    fn a_refusal_reads_as_op_errno_and_the_kernels_own_text() {
        let refusal = Refusal {
            errno: libc::EEXIST,
            text: Some("A VXLAN device with the specified VNI already exists".into()),
        };
        let error = Error::refused("create_vxlan", Goal::Create, refusal);
        assert_eq!(
            error.to_string(),
            "create_vxlan: File exists: A VXLAN device with the specified VNI already exists"
        );
        let replaced = Error::Replaced {
            op: "attach",
            goal: Goal::Change,
            name: LinkName::new("tap0").unwrap(),
            index: Ifindex::new(7).unwrap(),
            now: Some(LinkName::new("tap1").unwrap()),
        };
        assert_eq!(replaced.to_string(), "attach: link 7 is tap1 now, no longer tap0");
    }
}
