//! The kernel folder against a real kernel; iproute2 is the second opinion.

mod entries;
mod guard;
mod links;
mod lists;
mod monitor;
mod nft;

use tapwire::kernel::{Executor, Outcome, Verdict};
use tapwire::model::{Ifindex, Link, LinkName};
use tapwire::plan::op::{LinkChange, LinkRef, Master, Op};

fn name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

/// A link of this namespace, by name and index.
fn there(text: &str) -> LinkRef {
    LinkRef {
        name: name(text),
        index: Some(index(text)),
    }
}

/// A link that an earlier op of the plan makes.
fn made(text: &str) -> LinkRef {
    LinkRef {
        name: name(text),
        index: None,
    }
}

fn index(text: &str) -> Ifindex {
    let c = std::ffi::CString::new(text).unwrap();
    // SAFETY: a live string with its terminating zero.
    Ifindex::new(unsafe { libc::if_nametoindex(c.as_ptr()) }).unwrap_or_else(|| panic!("no link {text}"))
}

fn run(ops: &[Op]) -> Vec<Verdict> {
    let mut told = Vec::new();
    Executor::open().unwrap().run(ops, |position, outcome: Outcome| {
        assert_eq!(position, told.len(), "outcomes come in order");
        told.push(outcome.verdict);
    });
    told
}

#[track_caller]
fn run_well(ops: &[Op]) -> Vec<Link> {
    let verdicts = run(ops);
    let mut links = Vec::new();
    for (op, verdict) in ops.iter().zip(&verdicts) {
        match verdict {
            Verdict::Done => {}
            Verdict::Created(link) => links.push((**link).clone()),
            other => panic!("{op:?}: {other:?}"),
        }
    }
    assert_eq!(verdicts.len(), ops.len());
    links
}

/// The last verdict's error text; panics when it is none.
#[track_caller]
fn failure(ops: &[Op]) -> tapwire::kernel::Error {
    match run(ops).pop() {
        Some(Verdict::Failed(error) | Verdict::AlreadySo(error)) => error,
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn attach(tap: &str, bridge: &str) -> Op {
    set(
        tap,
        LinkChange {
            master: Some(Master::Set(there(bridge))),
            ..LinkChange::default()
        },
    )
}

fn set(link: &str, change: LinkChange) -> Op {
    Op::SetLink {
        link: there(link),
        change,
    }
}

/// The kernel folder wants a runtime for its timers and its reactor.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
