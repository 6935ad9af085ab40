//! What gateways need beside the loop: tables and kernel settings, announcements, cutting flows.

use super::convert;
use super::reactor::Reactor;
use crate::engine::event::{Applied, Done, Event, StepResult};
use crate::kernel::announce::{AGAIN, Announcement, Announcer, SPREAD, TIMES};
use crate::kernel::netconf::NetconfMonitor;
use crate::kernel::nft::NftMonitor;
use crate::kernel::{self, ruleset, sysctl};
use crate::plan::gateway::HostHave;
use crate::plan::op::Op;
use crate::plan::{Key, Plan};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use tokio::sync::mpsc;

/// Carried out by a program, or with files: not on the loop.
pub(super) fn is_beside_the_loop(plan: &Plan) -> bool {
    plan.steps
        .iter()
        .any(|step| matches!(step.op, Op::Ruleset(_) | Op::Sysctls(_)))
}

fn carry_out(op: &Op, state_directory: &Path, process: &AtomicU32) -> Result<(), kernel::Error> {
    match op {
        Op::Ruleset(ruleset) => {
            match ruleset::apply(state_directory, ruleset, |pid| {
                process.store(pid, Ordering::Relaxed)
            })? {
                Ok(0) => {}
                Ok(flows) => tracing::info!(target: "kernel", flows, "flows cut"),
                Err(error) => {
                    tracing::warn!(target: "kernel", error = %convert::chain(&error), "flows are not cut");
                }
            }
            Ok(())
        }
        Op::Sysctls(wants) => sysctl::apply(state_directory, wants),
        other => Err(kernel::Error::Inexpressible {
            op: other.name(),
            problem: "an operation of the loop",
        }),
    }
}

impl Reactor {
    /// The engine hears of it when it is done, and does nothing else about gateways until then.
    pub(super) fn apply_beside_the_loop(&mut self, plan: Plan) {
        let state_directory = self.config.daemon.state_directory.clone();
        let process = Arc::clone(&self.beside.nft_process);
        let number = self.account.begins_beside_the_loop();
        self.background(move || {
            let mut results = Vec::with_capacity(plan.steps.len());
            for step in &plan.steps {
                let began = Instant::now();
                let outcome = carry_out(&step.op, &state_directory, &process)
                    .map(|()| Applied::Done)
                    .map_err(|error| convert::failure(&error));
                let failed = outcome.is_err();
                results.push(StepResult {
                    outcome,
                    elapsed_us: u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX),
                });
                if failed {
                    break;
                }
            }
            let done = Done {
                plan,
                results,
                undo_failures: Vec::new(),
            };
            Box::new(move |reactor: &mut Reactor| {
                let now = reactor.now();
                reactor.observer.plan(&done, &reactor.engine, now);
                let (account, engine) = (&mut reactor.account, &mut reactor.engine);
                account.hear_done_beside_the_loop(engine, number, done, now);
            })
        });
    }

    /// Forwarding that others switched off.
    pub(super) fn read_netconf(&mut self) -> Result<(), super::Error> {
        let Some(netconf) = &mut self.netconf else {
            return Ok(());
        };
        let (engine, mut touched) = (&self.engine, false);
        netconf.drain(|off| touched |= engine.needs_forwarding(off.ipv4, off.device))?;
        if touched {
            let now = self.now();
            self.hear(Event::SysctlsTouched, now);
        }
        Ok(())
    }

    /// Subscribed before it is read, so that nothing is missed in between.
    pub(super) fn read_gateways(&mut self, watch: bool) -> Event {
        if watch && self.nft.is_none() {
            match NftMonitor::open() {
                Ok(monitor) => self.nft = Some(monitor),
                Err(error) => return Event::Gateways(Err(convert::failure(&error))),
            }
        }
        if watch && self.netconf.is_none() {
            match NetconfMonitor::open() {
                Ok(monitor) => self.netconf = Some(monitor),
                Err(error) => return Event::Gateways(Err(convert::failure(&error))),
            }
        }
        let state_directory = &self.config.daemon.state_directory;
        let have = ruleset::read(state_directory)
            .and_then(|ruleset| sysctl::read(state_directory).map(|sysctls| HostHave { ruleset, sysctls }));
        Event::Gateways(have.map_err(|error| convert::failure(&error)))
    }

    /// Others' changes of our tables.
    pub(super) fn read_nft(&mut self) -> Result<(), super::Error> {
        let Some(nft) = &mut self.nft else { return Ok(()) };
        let own = [
            self.executor.nft_portid().unwrap_or_default(),
            self.beside.nft_process.load(Ordering::Relaxed),
        ];
        let touched = nft.drain(&own)?;
        let now = self.now();
        if touched.guard {
            self.hear(Event::GuardTouched, now);
        }
        if touched.ruleset {
            self.hear(Event::RulesetTouched, now);
        }
        Ok(())
    }

    /// Announcements of a plan that was carried out.
    pub(super) fn queue_for_gateways(&mut self, done: &Done) {
        if !matches!(done.plan.key, Key::Gateways | Key::Gateway(_)) {
            return;
        }
        let went = done.plan.steps.iter().zip(&done.results);
        for (step, _) in went.filter(|(_, result)| result.outcome.is_ok()) {
            let Op::Announce { link, address } = &step.op else {
                continue;
            };
            let known = link.index.and_then(|index| self.engine.observed().link(index));
            // A bridge that never had a port, or has none any more, has no MAC; nobody is there.
            let mac = known.and_then(|link| link.mac).filter(|mac| !mac.is_zero());
            if let Some((link, mac)) = known.and_then(|link| Some((link.index, mac?))) {
                self.beside.announcements.queue(Announcement {
                    link,
                    mac,
                    address: *address,
                });
            }
        }
    }
}

/// What goes on beside the loop.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// The last `nft` that changed a table of ours.
    nft_process: Arc<AtomicU32>,
    announcements: Announcements,
}

/// Sends what is queued, in a task that lives as long as there is something to send.
#[derive(Debug, Default)]
struct Announcements(Option<mpsc::UnboundedSender<Announcement>>);

impl Announcements {
    fn queue(&mut self, announcement: Announcement) {
        let left = match &self.0 {
            Some(queue) => queue.send(announcement).err().map(|error| error.0),
            None => Some(announcement),
        };
        // None yet, or it has just ended.
        if let Some(announcement) = left {
            let (queue, queued) = mpsc::unbounded_channel();
            tokio::spawn(send(queued));
            // The receiver is in the task just made.
            let _ = queue.send(announcement);
            self.0 = Some(queue);
        }
    }
}

async fn send(mut queued: mpsc::UnboundedReceiver<Announcement>) {
    let announcer = match Announcer::open() {
        Ok(announcer) => announcer,
        Err(error) => {
            tracing::warn!(target: "kernel", error = %convert::chain(&error), "addresses are not announced");
            return;
        }
    };
    let mut batch: Vec<Due> = Vec::new();
    loop {
        while let Ok(announcement) = queued.try_recv() {
            add(&mut batch, announcement);
        }
        let Some((next, at)) = batch
            .iter()
            .enumerate()
            .map(|(next, due)| (next, due.at))
            .min_by_key(|(_, at)| *at)
        else {
            return;
        };
        if at > tokio::time::Instant::now() {
            match tokio::time::timeout_at(at, queued.recv()).await {
                Ok(Some(announcement)) => add(&mut batch, announcement),
                // The daemon ends.
                Ok(None) => return,
                Err(_) => {}
            }
            continue;
        }
        if let Some(due) = batch.get_mut(next) {
            if let Err(error) = announcer.send(&due.announcement) {
                // A link that is down or gone has nobody to tell; the next time it may.
                tracing::debug!(target: "kernel", address = %due.announcement.address, %error, "not announced");
            }
            due.left -= 1;
            due.at += AGAIN;
            if due.left == 0 {
                batch.remove(next);
            }
        }
        tokio::time::sleep(SPREAD).await;
    }
}

/// One that is to be sent `left` times, next at this moment.
struct Due {
    announcement: Announcement,
    left: usize,
    at: tokio::time::Instant,
}

/// What is left of an earlier one of the address is void: its MAC may be another.
fn add(batch: &mut Vec<Due>, announcement: Announcement) {
    batch.retain(|due| {
        (due.announcement.link, due.announcement.address) != (announcement.link, announcement.address)
    });
    batch.push(Due {
        announcement,
        left: TIMES,
        at: tokio::time::Instant::now(),
    });
}

/// Never ends without a table of ours, or a gateway's settings.
pub(super) async fn readable(
    nft: &Option<NftMonitor>,
    netconf: &Option<NetconfMonitor>,
) -> Result<(), crate::kernel::Error> {
    match (nft, netconf) {
        (Some(nft), Some(netconf)) => tokio::select! {
            ready = nft.readable() => ready,
            ready = netconf.readable() => ready,
        },
        (Some(nft), None) => nft.readable().await,
        (None, Some(netconf)) => netconf.readable().await,
        (None, None) => std::future::pending().await,
    }
}
