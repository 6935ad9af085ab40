//! Between the kernel edge's words and the engine's. No decisions, only translation.

use crate::engine::event::{Applied, Done, Failure, FailureClass, StepResult};
use crate::kernel::{self, Class, Executor, Outcome, Transport, Verdict};
use crate::model::Ifindex;
use crate::observed::Change;
use crate::plan::Plan;
use crate::plan::address_move::address_of;
use crate::plan::op::Op;

/// What a message says, if it says something that the engine's mirror holds.
pub fn change(change: kernel::Change) -> Option<Change> {
    match change {
        kernel::Change::Link(link) => Some(Change::Upsert(link)),
        kernel::Change::LinkGone { index, .. } => Some(Change::Removed(index)),
        kernel::Change::BridgePort {
            index,
            master,
            flags,
            vlans,
        } => Some(Change::BridgePort {
            index,
            master,
            flags,
            vlans,
        }),
        kernel::Change::LeftBridge {
            index,
            master: Some(master),
        } => Some(Change::LeftBridge { index, master }),
        kernel::Change::AddressSet(record) => Some(Change::Address {
            index: Ifindex::new(record.ifindex)?,
            address: address_of(&record)?,
            own: record.own(),
            present: true,
        }),
        kernel::Change::AddressGone(record) => Some(Change::Address {
            index: Ifindex::new(record.ifindex)?,
            address: address_of(&record)?,
            own: None,
            present: false,
        }),
        kernel::Change::Vlans { index, rows, present } => Some(Change::Vlans { index, rows, present }),
        kernel::Change::Vnis { index, rows, present } => Some(Change::Vnis { index, rows, present }),
        kernel::Change::LeftBridge { master: None, .. }
        | kernel::Change::RouteSet(_)
        | kernel::Change::RouteGone(_)
        | kernel::Change::NeighbourSet(_)
        | kernel::Change::NeighbourGone(_)
        | kernel::Change::Other => None,
    }
}

pub fn failure(error: &kernel::Error) -> Failure {
    let class = match error.class() {
        Class::Gone => FailureClass::Gone,
        Class::Transient => FailureClass::Busy,
        Class::Unsupported => FailureClass::Unsupported,
        Class::Denied => FailureClass::Denied,
        Class::Full => FailureClass::Full,
        Class::AlreadySo | Class::Refused | Class::Bug => FailureClass::Refused,
    };
    // The operation is named beside it; a refusal's own words are enough.
    let message = match error {
        kernel::Error::Refused { refusal, .. } => refusal.to_string(),
        other => chain(other),
    };
    Failure {
        class,
        errno: error.errno().unwrap_or(0),
        message,
    }
}

/// An error with its causes, one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn result(outcome: Outcome) -> StepResult {
    let elapsed_us = u32::try_from(outcome.elapsed.as_micros()).unwrap_or(u32::MAX);
    let outcome = match outcome.verdict {
        Verdict::Done | Verdict::AlreadySo(_) => Ok(Applied::Done),
        Verdict::Created(link) => Ok(Applied::Created(link)),
        Verdict::AlreadyThere(link) => Ok(Applied::AlreadyThere(link)),
        Verdict::Failed(error) => Err(failure(&error)),
    };
    StepResult { outcome, elapsed_us }
}

/// Carries a plan out, taking done steps back if a later one fails.
pub fn execute<T: Transport>(executor: &mut Executor<T>, plan: Plan) -> Done {
    let ops: Vec<Op> = plan.steps.iter().map(|step| step.op.clone()).collect();
    let mut results = Vec::with_capacity(ops.len());
    executor.run(&ops, |_, outcome| results.push(result(outcome)));
    let mut undo_failures = Vec::new();
    if let Some(failed) = results.iter().position(|r| r.outcome.is_err()) {
        // The failed one too: it may have had its effect and lost its answer, and to take back nothing is harmless.
        let done = plan.steps.iter().take(failed + 1).rev();
        for undo in done.filter_map(|step| step.undo.as_ref()) {
            if !undo_failures.is_empty() {
                // What was done before it may be all there is: addresses on an interface that could not be made a port again.
                break;
            }
            executor.run(std::slice::from_ref(undo), |_, outcome| {
                if let Verdict::Failed(error) = &outcome.verdict {
                    undo_failures.push(format!("{undo}: {}", chain(error)));
                }
            });
        }
    }
    Done {
        plan,
        results,
        undo_failures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::request::Batch;
    use crate::kernel::{Error, Goal, LinkKey, Refusal, nft};
    use crate::model::{Link, LinkName};
    use crate::plan::op::LinkRef;
    use crate::plan::{CauseId, Key, Step};

    /// Writes down what is to become of IPv6, and refuses two things.
    #[derive(Default)]
    struct Sysctls {
        asked: Vec<String>,
    }

    impl Transport for &mut Sysctls {
        fn exchange(
            &mut self,
            _: &mut Batch,
            _: &mut dyn FnMut(usize, Option<Result<(), Refusal>>),
        ) -> Result<(), Error> {
            Ok(())
        }
        fn link(&mut self, _: LinkKey) -> Result<Link, Error> {
            unreachable!("nothing is created")
        }
        fn name_of(&mut self, index: Ifindex) -> Result<Option<LinkName>, Error> {
            Ok(LinkName::new(&format!("nic{index}")).ok())
        }
        fn set_disable_ipv6(
            &mut self,
            op: &'static str,
            name: &LinkName,
            _: Ifindex,
            disable: bool,
        ) -> Result<(), Error> {
            let asked = format!("{name}={}", u8::from(disable));
            self.asked.push(asked.clone());
            match asked.as_str() {
                "nic3=1" | "nic2=0" => Err(Error::refused(op, Goal::Change, Refusal::errno(libc::EBUSY))),
                _ => Ok(()),
            }
        }
        fn commit(&mut self, _: &'static str, _: Goal, _: &mut nft::Messages) -> Result<(), Error> {
            unreachable!("nothing is guarded")
        }
    }

    #[test]
    fn taking_back_ends_with_the_first_step_that_cannot_be_taken_back() {
        let silence = |index: u32, disable| Op::DisableIpv6 {
            link: LinkRef {
                name: LinkName::new(&format!("nic{index}")).unwrap(),
                index: Ifindex::new(index),
            },
            disable,
        };
        let step = |index| Step {
            op: silence(index, true),
            undo: Some(silence(index, false)),
        };
        let plan = Plan {
            key: Key::Guard,
            cause: CauseId(0),
            steps: vec![step(1), step(2), step(3)],
        };
        let mut sysctls = Sysctls::default();
        let done = execute(&mut Executor::new(&mut sysctls), plan);
        assert_eq!(done.undo_failures.len(), 1, "{:?}", done.undo_failures);
        assert_eq!(sysctls.asked, ["nic1=1", "nic2=1", "nic3=1", "nic3=0", "nic2=0"]);
    }
}
