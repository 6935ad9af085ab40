//! Runs the operations of a plan, in order, and tells what became of each.
//!
//! It decides nothing: one op is one request, and the first failure ends the run (the engine marks the key dirty and
//! plans again from what then is). What it does guarantee:
//!
//! * An op for an index never reaches a device that took over the index or the name: before a plan's first op on a
//!   link its index must still have the name the plan knows (one ioctl, 0.3 us).
//! * A link that a plan creates is read back, so that later ops of the plan have its index and the mirror needs no
//!   event for it.
//! * A create that finds the name taken ends the run with `AlreadyThere`: whether that device will do is the
//!   engine's question, and until it is answered nothing more is done to it.
//!
//! If it dies half-way, the ops done so far stand; the next full pass sees them and goes on from there.
//!
//! Length: one run of a plan with everything that can end it, and the seam for tests; every piece is read with the others.

use super::device;
use super::encode;
use super::error::{Class, Error, Goal, Refusal};
use super::nft;
use super::request::{Batch, LinkKey};
use super::socket::RequestSocket;
use super::subject::{created_name, is_list_entry, is_newborn, links_of};
use crate::desired::guard::table::Reason;
use crate::model::{Ifindex, Link, LinkName};
use crate::plan::guard::GuardHave;
use crate::plan::op::{LinkRef, Op};
use std::time::{Duration, Instant};

/// What became of one op.
#[derive(Debug)]
pub struct Outcome {
    /// From the call to the kernel's answer; of ops sent together, each one's share.
    pub elapsed: Duration,
    pub verdict: Verdict,
}

#[derive(Debug)]
pub enum Verdict {
    /// Done as asked.
    Done,
    /// Made, and read back; also when the answer was lost and the link is there as it was to be made.
    Created(Box<Link>),
    /// The name to be made is taken, by this. Ends the run.
    AlreadyThere(Box<Link>),
    /// It was so already (`Class::AlreadySo`): information, the run goes on.
    AlreadySo(Error),
    /// Ends the run.
    Failed(Error),
}

impl Verdict {
    /// Whether the ops behind this one are still run.
    pub const fn goes_on(&self) -> bool {
        matches!(self, Verdict::Done | Verdict::Created(_) | Verdict::AlreadySo(_))
    }
}

/// The executor's side of the kernel. The one seam in this folder: tests put `fault::Faulty` in between.
pub trait Transport {
    /// Sends requests together; answers come in order, `None` for a lost one.
    fn exchange(
        &mut self,
        batch: &mut Batch,
        answer: &mut dyn FnMut(usize, Option<Result<(), Refusal>>),
    ) -> Result<(), Error>;
    fn link(&mut self, key: LinkKey) -> Result<Link, Error>;
    /// The name an index has now.
    fn name_of(&mut self, index: Ifindex) -> Result<Option<LinkName>, Error>;
    fn set_disable_ipv6(
        &mut self,
        op: &'static str,
        name: &LinkName,
        index: Ifindex,
        disable: bool,
    ) -> Result<(), Error>;
    /// Carries out a transaction of nftables: all of it or nothing.
    fn commit(&mut self, op: &'static str, goal: Goal, messages: &mut nft::Messages) -> Result<(), Error>;
}

/// The kernel of the network namespace the thread was in when it opened.
#[derive(Debug)]
pub struct Kernel {
    socket: RequestSocket,
    scratch: Batch,
    /// Opened when it is first needed.
    nft: Option<nft::NftSocket>,
}

impl Kernel {
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: RequestSocket::open()?,
            scratch: Batch::default(),
            nft: None,
        })
    }

    fn nft(&mut self) -> Result<&mut nft::NftSocket, Error> {
        if self.nft.is_none() {
            self.nft = Some(nft::NftSocket::open()?);
        }
        self.nft.as_mut().ok_or(Error::Inexpressible {
            op: "nft",
            problem: "no socket",
        })
    }
}

impl Transport for Kernel {
    fn exchange(
        &mut self,
        batch: &mut Batch,
        answer: &mut dyn FnMut(usize, Option<Result<(), Refusal>>),
    ) -> Result<(), Error> {
        self.socket.exchange(batch, answer)
    }
    fn link(&mut self, key: LinkKey) -> Result<Link, Error> {
        self.socket.link(key, &mut self.scratch)
    }
    fn name_of(&mut self, index: Ifindex) -> Result<Option<LinkName>, Error> {
        device::name_of(self.socket.raw_fd(), index)
    }
    fn set_disable_ipv6(
        &mut self,
        op: &'static str,
        name: &LinkName,
        index: Ifindex,
        disable: bool,
    ) -> Result<(), Error> {
        device::set_disable_ipv6(self.socket.raw_fd(), op, name, index, disable)
    }
    fn commit(&mut self, op: &'static str, goal: Goal, messages: &mut nft::Messages) -> Result<(), Error> {
        nft::commit(self.nft()?, op, goal, messages)
    }
}

#[derive(Debug)]
pub struct Executor<T = Kernel> {
    kernel: T,
    batch: Batch,
    messages: nft::Messages,
    /// Links whose index and name were seen to agree during the present run, made ones included.
    agreed: Vec<(Ifindex, LinkName)>,
}

impl Executor<Kernel> {
    /// Opens in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Kernel::open().map(Self::new)
    }
    /// The port id that notifications caused by our operations carry.
    pub const fn portid(&self) -> u32 {
        self.kernel.socket.portid()
    }
    /// Likewise of nftables, once there was one.
    pub fn nft_portid(&self) -> Option<u32> {
        self.kernel.nft.as_ref().map(nft::NftSocket::portid)
    }
    /// What the kernel has of the spoof guard.
    pub fn read_guard(&mut self) -> Result<GuardHave, Error> {
        nft::read_guard(self.kernel.nft()?, &mut self.messages)
    }
    /// Frames that the spoof guard has dropped, by reason; none where nothing is guarded.
    pub fn guard_drops(&mut self) -> Result<Vec<(Reason, u64)>, Error> {
        match &mut self.kernel.nft {
            Some(socket) => nft::drops(socket, &mut self.messages),
            None => Ok(Vec::new()),
        }
    }
    /// Nothing of ours is in nftables, nor will be.
    pub fn close_nft(&mut self) {
        self.kernel.nft = None;
    }
}

impl<T: Transport> Executor<T> {
    pub fn new(kernel: T) -> Self {
        Self {
            kernel,
            batch: Batch::default(),
            messages: nft::Messages::default(),
            agreed: Vec::new(),
        }
    }

    /// The kernel itself, for a wrapper's own business.
    pub const fn transport(&mut self) -> &mut T {
        &mut self.kernel
    }

    /// Reads one link as it is now.
    pub fn link(&mut self, key: LinkKey) -> Result<Link, Error> {
        self.kernel.link(key)
    }

    /// Runs the ops in order, telling each one's outcome with its position. Returns how many were told: all of them,
    /// or those up to the failure (and those that were sent together with it).
    pub fn run(&mut self, ops: &[Op], mut tell: impl FnMut(usize, Outcome)) -> usize {
        self.agreed.clear();
        let mut done = 0;
        while let Some(op) = ops.get(done) {
            if is_list_entry(op) {
                let rest = ops.get(done..).unwrap_or_default();
                let (told, goes_on) = self.run_together(done, rest, &mut tell);
                done += told;
                if !goes_on {
                    break;
                }
                continue;
            }
            let started = Instant::now();
            let verdict = self.run_one(op);
            let goes_on = verdict.goes_on();
            tell(
                done,
                Outcome {
                    elapsed: started.elapsed(),
                    verdict,
                },
            );
            done += 1;
            if !goes_on {
                break;
            }
        }
        done
    }

    fn run_one(&mut self, op: &Op) -> Verdict {
        let result = self.agree(op).and_then(|()| self.attempt(op));
        match result {
            Ok(()) => match created_name(op) {
                Some(name) => self.read_back(op, name),
                None => Verdict::Done,
            },
            Err(error) if error.class() == Class::AlreadySo => match created_name(op) {
                Some(name) => self.find_what_is_there(op, name, error),
                None => Verdict::AlreadySo(error),
            },
            Err(error @ Error::NoAnswer { .. }) => match created_name(op) {
                Some(name) => self.find_what_became(op, name, error),
                None => Verdict::Failed(error),
            },
            Err(error) => Verdict::Failed(error),
        }
    }

    fn attempt(&mut self, op: &Op) -> Result<(), Error> {
        if let Op::DisableIpv6 { link, disable } = op {
            let index = resolve(&self.agreed, op.name(), link)?;
            return self
                .kernel
                .set_disable_ipv6(op.name(), &link.name, index, *disable);
        }
        if matches!(op, Op::Guard { .. } | Op::GuardTable(_)) {
            nft::transaction(op, &mut self.messages)?;
            return self
                .kernel
                .commit(op.name(), encode::goal(op), &mut self.messages);
        }
        // Queued by whoever drives us; what counts here is that the device is still the one meant.
        if matches!(op, Op::Announce { .. }) {
            return Ok(());
        }
        self.batch.clear();
        let agreed = &self.agreed;
        encode::op(op, &|link| resolve(agreed, op.name(), link), &mut self.batch)?;
        if let Op::Readdress { steps, .. } = op {
            return self.readdress(steps);
        }
        let mut result = Err(Error::NoAnswer { op: op.name() });
        self.kernel.exchange(&mut self.batch, &mut |_, answer| {
            result = judged(op, answer);
        })?;
        result
    }

    /// All of them are told; the first refusal is the answer.
    fn readdress(&mut self, steps: &[Op]) -> Result<(), Error> {
        let mut result = Ok(());
        self.kernel.exchange(&mut self.batch, &mut |position, answer| {
            let judged = steps.get(position).map_or(Ok(()), |step| judged(step, answer));
            let refused = judged.err().filter(|error| error.class() != Class::AlreadySo);
            if let (Ok(()), Some(error)) = (&result, refused) {
                result = Err(error);
            }
        })?;
        result
    }

    /// Sends the list entries at the front of `ops` together. Returns how many were told, and whether to go on.
    fn run_together(
        &mut self,
        first: usize,
        ops: &[Op],
        tell: &mut impl FnMut(usize, Outcome),
    ) -> (usize, bool) {
        let started = Instant::now();
        self.batch.clear();
        let mut unsent = None;
        for op in ops.iter().take(Batch::MAX) {
            if !is_list_entry(op) {
                break;
            }
            let ready = self.agree(op).and_then(|()| {
                let agreed = &self.agreed;
                encode::op(op, &|link| resolve(agreed, op.name(), link), &mut self.batch)
            });
            if let Err(error) = ready {
                unsent = Some(error);
                break;
            }
        }
        let sent = self.batch.len();
        let mut results = Vec::with_capacity(sent);
        let exchanged = self.kernel.exchange(&mut self.batch, &mut |position, answer| {
            if let Some(op) = ops.get(position) {
                results.push(judged(op, answer));
            }
        });
        let elapsed = started.elapsed() / u32::try_from(sent).unwrap_or(1).max(1);
        let mut goes_on = true;
        let mut told = 0;
        for result in results {
            let verdict = match result {
                Ok(()) => Verdict::Done,
                Err(error) if error.class() == Class::AlreadySo => Verdict::AlreadySo(error),
                Err(error) => Verdict::Failed(error),
            };
            goes_on &= verdict.goes_on();
            tell(first + told, Outcome { elapsed, verdict });
            told += 1;
        }
        if let Some(error) = exchanged.err().or(unsent) {
            tell(
                first + told,
                Outcome {
                    elapsed,
                    verdict: Verdict::Failed(error),
                },
            );
            return (told + 1, false);
        }
        (told, goes_on)
    }

    fn read_back(&mut self, op: &Op, name: LinkName) -> Verdict {
        match self.kernel.link(LinkKey::Name(name)) {
            Ok(link) => {
                self.agreed.push((link.index, name));
                Verdict::Created(Box::new(link))
            }
            Err(Error::Refused { refusal, .. }) => {
                Verdict::Failed(Error::refused(op.name(), Goal::Change, refusal))
            }
            Err(error) => Verdict::Failed(error),
        }
    }

    /// The answer to a create was lost: what is there now tells. Taken for ours only as it is in the moment of its birth;
    /// a device that we made and do not know for ours would never be removed.
    fn find_what_became(&mut self, op: &Op, name: LinkName, error: Error) -> Verdict {
        match self.kernel.link(LinkKey::Name(name)) {
            Ok(link) if is_newborn(op, &link) => {
                self.agreed.push((link.index, name));
                Verdict::Created(Box::new(link))
            }
            _ => Verdict::Failed(error),
        }
    }

    /// EEXIST: the name is taken, or (VNI, VID) the thing is there under another name, which is a plain refusal.
    fn find_what_is_there(&mut self, op: &Op, name: LinkName, error: Error) -> Verdict {
        match self.kernel.link(LinkKey::Name(name)) {
            Ok(link) => Verdict::AlreadyThere(Box::new(link)),
            Err(_) => match error {
                Error::Refused { refusal, .. } => Verdict::Failed(Error::Refused {
                    op: op.name(),
                    refusal,
                    class: Class::Refused,
                }),
                other => Verdict::Failed(other),
            },
        }
    }

    /// Each link the op names by index must still have that name.
    fn agree(&mut self, op: &Op) -> Result<(), Error> {
        for link in links_of(op).into_iter().flatten() {
            let Some(index) = link.index else { continue };
            if self.agreed.contains(&(index, link.name)) {
                continue;
            }
            let now = self.kernel.name_of(index)?;
            if now != Some(link.name) {
                return Err(Error::Replaced {
                    op: op.name(),
                    goal: encode::goal(op),
                    name: link.name,
                    index,
                    now,
                });
            }
            self.agreed.push((index, link.name));
        }
        Ok(())
    }
}

/// The index an op means: its own, or that of the link made under this name earlier in the run.
fn resolve(agreed: &[(Ifindex, LinkName)], op: &'static str, link: &LinkRef) -> Result<Ifindex, Error> {
    link.index
        .or_else(|| {
            let made = agreed.iter().find(|(_, name)| *name == link.name)?;
            Some(made.0)
        })
        .ok_or(Error::Unresolved { op, name: link.name })
}

fn judged(op: &Op, answer: Option<Result<(), Refusal>>) -> Result<(), Error> {
    match answer {
        Some(Ok(())) => Ok(()),
        Some(Err(refusal)) => Err(Error::refused(op.name(), encode::goal(op), refusal)),
        None => Err(Error::NoAnswer { op: op.name() }),
    }
}
