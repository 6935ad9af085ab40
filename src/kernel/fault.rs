//! A kernel that fails on command: the executor's transport with chosen requests refused, before or after they took
//! effect.
//!
//! For the fault matrix (every failing prefix of a plan, then a retry, must converge), with the real kernel or a fake
//! one underneath. Requests are counted from 0 over the life of the wrapper: each message of a batch and each
//! `disable_ipv6` is one; reading does not count.

use super::error::{Error, Goal, Refusal};
use super::executor::Transport;
use super::nft;
use super::request::{Batch, LinkKey};
use crate::model::{Ifindex, Link, LinkName};

/// Whether the request that is reported as failed was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It never reached the kernel.
    Before,
    /// It was carried out and its good answer replaced.
    After,
}

/// What to do to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Position of the request, counted from 0.
    pub nth: usize,
    pub when: When,
    /// Positive errno; none: the answer is lost.
    pub errno: Option<i32>,
}

#[derive(Debug)]
pub struct Faulty<T> {
    kernel: T,
    faults: Vec<Fault>,
    seen: usize,
}

impl<T> Faulty<T> {
    pub const fn new(kernel: T, faults: Vec<Fault>) -> Self {
        Self {
            kernel,
            faults,
            seen: 0,
        }
    }
    /// Requests so far.
    pub const fn seen(&self) -> usize {
        self.seen
    }
    /// What lies underneath.
    pub const fn kernel(&mut self) -> &mut T {
        &mut self.kernel
    }

    fn next_fault(&mut self) -> Option<Fault> {
        let nth = self.seen;
        self.seen += 1;
        self.faults.iter().copied().find(|fault| fault.nth == nth)
    }
}

impl<T: Transport> Transport for Faulty<T> {
    fn exchange(
        &mut self,
        batch: &mut Batch,
        answer: &mut dyn FnMut(usize, Option<Result<(), Refusal>>),
    ) -> Result<(), Error> {
        for position in 0..batch.len() {
            let fault = self.next_fault();
            let mut told = fault.map(|fault| fault.errno.map(|errno| Err(Refusal::errno(errno))));
            if !fault.is_some_and(|fault| fault.when == When::Before) {
                self.kernel
                    .exchange(&mut batch.single(position), &mut |_, answered| {
                        told.get_or_insert(answered);
                    })?;
            }
            answer(position, told.flatten());
        }
        Ok(())
    }

    fn link(&mut self, key: LinkKey) -> Result<Link, Error> {
        self.kernel.link(key)
    }

    fn name_of(&mut self, index: Ifindex) -> Result<Option<LinkName>, Error> {
        self.kernel.name_of(index)
    }

    fn set_disable_ipv6(
        &mut self,
        op: &'static str,
        name: &LinkName,
        index: Ifindex,
        disable: bool,
    ) -> Result<(), Error> {
        let fault = self.next_fault();
        if !fault.is_some_and(|fault| fault.when == When::Before) {
            self.kernel.set_disable_ipv6(op, name, index, disable)?;
        }
        match fault {
            None => Ok(()),
            Some(fault) => Err(match fault.errno {
                Some(errno) => Error::refused(op, Goal::Change, Refusal::errno(errno)),
                None => Error::NoAnswer { op },
            }),
        }
    }

    fn commit(&mut self, op: &'static str, goal: Goal, messages: &mut nft::Messages) -> Result<(), Error> {
        let fault = self.next_fault();
        if !fault.is_some_and(|fault| fault.when == When::Before) {
            self.kernel.commit(op, goal, messages)?;
        }
        match fault {
            None => Ok(()),
            Some(fault) => Err(match fault.errno {
                Some(errno) => Error::refused(op, goal, Refusal::errno(errno)),
                None => Error::NoAnswer { op },
            }),
        }
    }
}
