//! The one loop.
//!
//! Each turn: read the link events that are queued (bounded), tell the engine when the queue is empty and what plugins
//! answered, carry out a few of its actions, hand out its notes; then, if nothing is left to do, sleep until the kernel, a
//! client, a signal or a deadline wakes it. While a plugin's answer is due any moment, it looks again instead of sleeping.
//! Netlink requests are answered inside the system call that sends them, so carrying out an action is two system calls
//! and no waiting. No policy code runs here, no file is read between an event and its attach.
//!
//! Length: one struct and the turn of its loop; what an answer, a note or a reply leads to is in the files beside it.

use super::account::Account;
use super::convert;
use super::observe::{self, Observer};
use super::policy::{Policy, reload::Load};
use super::sources::{self, Told};
use super::waiters::Waiters;
use super::{Error, notify, report};
use crate::config::Config;
use crate::control::api::Request;
use crate::engine::Engine;
use crate::engine::event::{Action, Event, Loss};
use crate::engine::note::What;
use crate::kernel::netconf::NetconfMonitor;
use crate::kernel::nft::NftMonitor;
use crate::kernel::{Drained, Executor, Monitor, RxEvent, Snapshot, Subscription};
use crate::model::Time;
use crate::source::{self, store::Store, watch::Watch};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::field::Empty;

/// Datagrams read in one go: enough for a burst, few enough that actions get their turn.
const READ_BUDGET: usize = 512;
/// Actions between two looks at the monitor socket, at most.
const ACTION_BUDGET: usize = 32;
/// What one action's echoes may take of the monitor socket's buffer: 16 link messages (a network made from nothing) of
/// 2,304 bytes each. With a small buffer fewer actions are carried out before it is read again, or our own work would
/// overrun it.
const ECHO_BYTES: usize = 16 * 2304;
/// Notes kept for a quiet moment, and for how long: a line of the log that comes seconds late helps nobody.
const NOTE_BUDGET: usize = 512;
const NOTE_DELAY: Duration = Duration::from_millis(100);
/// The address socket's receive buffer: an address event is 1 KB or so, and a lost one is made good by a dump.
const ADDRESS_BUFFER: usize = 1024 * 1024;

/// Opened with the first thing to keep; used from background work only.
pub(super) type SharedStore = Arc<Mutex<Option<Store>>>;

/// What background work leaves to do on the loop.
pub(super) type Continuation = Box<dyn FnOnce(&mut Reactor) + Send>;

pub struct Reactor {
    pub(super) engine: Engine,
    pub(super) executor: Executor,
    pub(super) snapshot: Snapshot,
    pub(super) links: Monitor,
    /// Events were lost and the queue was not empty since: what is still in it is older than a dump taken now.
    lost: bool,
    /// In this turn, everything queued was read.
    read_out: bool,
    action_budget: usize,
    addresses: Monitor,
    /// Opened with the first table of ours in nftables.
    pub(super) nft: Option<NftMonitor>,
    /// Opened with the first gateway.
    pub(super) netconf: Option<NetconfMonitor>,
    base: Instant,
    pub(super) started: SystemTime,
    pub(super) config: Config,
    pub(super) config_path: PathBuf,
    /// Why the last reload was refused.
    pub(super) config_error: Option<String>,
    pub(super) told: Told,
    pub(super) host: String,
    pub(super) waiters: Waiters,
    pub(super) store: SharedStore,
    watch: Option<Watch>,
    pub(super) observer: Observer,
    pub(super) account: Account,
    pub(super) policy: Policy,
    /// Why the plugins on disk are not those that run.
    pub(super) policy_error: Option<String>,
    /// Loads of plugins that wait for the one under way.
    pub(super) policy_loads: VecDeque<Load>,
    pub(super) policy_loading: bool,
    /// Loads of plugins by result.
    pub(super) policy_reloads: BTreeMap<&'static str, u64>,
    pub(super) services: super::service::Services,
    jobs: JoinSet<Continuation>,
    /// Tables, announcements.
    pub(super) beside: super::gateway::Beside,
    ready: bool,
}

impl Reactor {
    /// Opens everything in the calling thread's network namespace: subscribed before anything is read.
    pub fn open(config: Config, config_path: PathBuf) -> Result<Self, Error> {
        let links = Monitor::open(Subscription::Links, config.daemon.receive_buffer)?;
        let addresses = Monitor::open(Subscription::Addresses, ADDRESS_BUFFER)?;
        let (store, told) = sources::read_store(&config.daemon.state_directory);
        let services = super::service::Services::new(&config.daemon.state_directory);
        let observer = Observer::new(&config.daemon.state_directory, config.daemon.flight_recorder);
        let host = sources::host_identity();
        let desired = sources::desired(&config, &told, &host);
        let mut engine = Engine::new(desired, config.daemon.prune_after, Time::ZERO);
        let mut account = Account::new();
        account.hear(&mut engine, Event::SourcesInSync, Time::ZERO);
        let mut policy = Policy::start_or_last_good(&config.policy).map_err(Error::Policy)?;
        policy.restart_timers(Time::ZERO);
        account.hear(&mut engine, Event::PolicyChanged(policy.usage()), Time::ZERO);
        tracing::info!(
            target: "daemon",
            version = env!("CARGO_PKG_VERSION"),
            config = %config_path.display(),
            networks = engine.desired().network_count(),
            receive_buffer = links.granted_buffer(),
            "starting"
        );
        // Half of it for others' events.
        let action_budget = (links.granted_buffer() / 2 / ECHO_BYTES).clamp(1, ACTION_BUDGET);
        Ok(Self {
            engine,
            lost: false,
            read_out: false,
            action_budget,
            executor: Executor::open()?,
            snapshot: Snapshot::open()?,
            links,
            addresses,
            nft: None,
            netconf: None,
            base: Instant::now(),
            started: SystemTime::now(),
            config,
            config_path,
            config_error: None,
            told,
            host,
            waiters: Waiters::default(),
            store: Arc::new(Mutex::new(store)),
            watch: None,
            observer,
            account,
            policy,
            policy_error: None,
            policy_loads: VecDeque::new(),
            policy_loading: false,
            policy_reloads: BTreeMap::new(),
            services,
            jobs: JoinSet::new(),
            beside: super::gateway::Beside::default(),
            ready: false,
        })
    }

    pub async fn run(mut self, mut commands: mpsc::Receiver<Request>) -> Result<(), Error> {
        match Watch::new() {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => {
                tracing::warn!(target: "source", error = %convert::chain(&error), "files are not watched; use SIGHUP");
            }
        }
        let started = self.started;
        self.watch_files(started);
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut hangup = listen(SignalKind::hangup())?;
        let watchdog = notify::watchdog_interval();
        loop {
            let idle = self.turn().await?;
            self.account.hand_out(&self.engine, self.read_out);
            if !idle {
                // Between two turns of a storm the other inputs get a look, without waiting.
                if let Ok(request) = commands.try_recv() {
                    self.answer(request);
                }
                continue;
            }
            if self.policy.is_fresh() {
                // Another turn instead of sleep. The plugin's thread may have been put behind this one.
                crate::policy::pause();
                std::thread::yield_now();
                continue;
            }
            let now = self.now();
            let deadline = self
                .engine
                .next_deadline()
                .into_iter()
                .chain(self.policy.next_deadline())
                .min()
                .map(|at| at.since(now));
            // Every arm is cancel-safe: readiness, channel and signals lose nothing when dropped; sleeps are made anew.
            tokio::select! {
                biased;
                ready = self.links.readable() => ready?,
                ready = self.addresses.readable() => ready?,
                ready = super::gateway::readable(&self.nft, &self.netconf) => ready?,
                reply = self.policy.reply() => self.on_reply(reply),
                event = self.services.event() => self.on_service(event),
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => self.finish_job(done),
                Some(request) = commands.recv() => self.answer(request),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => self.reload_unasked("SIGHUP"),
                changed = changed(&mut self.watch) => match changed {
                    Ok(()) => self.reload_unasked("a file changed"),
                    Err(error) => {
                        tracing::warn!(target: "source", error = %convert::chain(&error), "files are no longer watched; use SIGHUP");
                        self.watch = None;
                    }
                },
                () = sleep(deadline) => {}
                () = sleep(watchdog) => {}
            }
            if watchdog.is_some() {
                notify::watchdog();
            }
        }
        notify::stopping();
        if let Some(keep) = self.asking().keep_answers() {
            keep();
        }
        tracing::info!(target: "daemon", "stopping; every port stays attached");
        Ok(())
    }

    /// Runs `work` on a thread that may block; what it returns is run here when it is done. The loop goes on meanwhile.
    pub(super) fn background(&mut self, work: impl FnOnce() -> Continuation + Send + 'static) {
        self.jobs.spawn_blocking(work);
    }

    fn finish_job(&mut self, done: Result<Continuation, tokio::task::JoinError>) {
        match done {
            Ok(continuation) => continuation(self),
            // Its client is told by the dropped reply.
            Err(error) => tracing::error!(target: "daemon", %error, "background work failed"),
        }
    }

    /// Our netlink sockets by name, with their port ids.
    pub(super) fn sockets(&self) -> Vec<(&'static str, u32)> {
        vec![
            ("links", self.links.portid()),
            ("addresses", self.addresses.portid()),
            ("requests", self.executor.portid()),
        ]
        .into_iter()
        .chain(self.nft.as_ref().map(|nft| ("nftables", nft.portid())))
        .collect()
    }

    pub(super) fn now(&self) -> Time {
        self.time_of(Instant::now())
    }

    fn time_of(&self, instant: Instant) -> Time {
        Time::ZERO.plus(instant.saturating_duration_since(self.base))
    }

    /// Reads, decides, does. True if nothing is left to do without a new event.
    async fn turn(&mut self) -> Result<bool, Error> {
        let drained = self.read_links()?;
        let addresses = self.read_addresses()?;
        self.read_out = (drained, addresses) == (Drained::Empty, Drained::Empty);
        self.read_nft()?;
        self.read_netconf()?;
        if drained == Drained::Empty {
            self.lost = false;
            self.hear(Event::Drained, self.now());
        } else if self.lost {
            // Read it out first: the dump to come must be newer than every event that is applied after it.
            return Ok(false);
        }
        // What an answer leads to is done now: everything older is read.
        let mut answered = self.take_replies();
        let mut acted = 0;
        while acted < self.action_budget {
            let Some(action) = self.decide() else {
                break;
            };
            self.carry_out(action).await;
            acted += 1;
            // A plugin thinks while its tap is being prepared; what it says then need not wait for the next turn.
            answered |= self.take_replies();
        }
        if acted > 0 || answered || drained == Drained::Budget {
            // In a storm notes wait for a quiet moment, but not without limit: they are memory, and somebody reads them.
            let late = |since: Time| since.plus(NOTE_DELAY) <= self.now();
            if self.engine.pending_notes() >= NOTE_BUDGET || self.engine.oldest_note().is_some_and(late) {
                self.hand_out_notes();
            }
            return Ok(false);
        }
        self.asking().run_policy_timers();
        self.hand_out_notes();
        // Notes may have asked hooks that answered at once, timers may have made keys dirty.
        Ok(!self.policy.has_ready_replies() && self.engine.dirty_keys() == 0)
    }

    fn read_links(&mut self) -> Result<Drained, Error> {
        let (engine, account, base) = (&mut self.engine, &mut self.account, self.base);
        let lost = &mut self.lost;
        Ok(self.links.drain(READ_BUDGET, &mut |event| {
            *lost |= matches!(event, RxEvent::Overrun { .. });
            tell(engine, account, base, event);
        })?)
    }

    fn read_addresses(&mut self) -> Result<Drained, Error> {
        let (engine, account, base) = (&mut self.engine, &mut self.account, self.base);
        Ok(self
            .addresses
            .drain(READ_BUDGET, &mut |event| tell(engine, account, base, event))?)
    }

    fn decide(&mut self) -> Option<Action> {
        let span = tracing::debug_span!(target: "engine", "decide", cause = Empty, key = Empty).entered();
        let now = self.now();
        let action = self.account.ask(&mut self.engine, now);
        if let Some(Action::Execute(plan)) = &action {
            span.record("cause", plan.cause.0);
            span.record("key", tracing::field::debug(&plan.key));
        }
        action
    }

    async fn carry_out(&mut self, action: Action) {
        // A new question begins with a clean sheet.
        if !matches!(action, Action::Execute(_)) {
            self.book_replies();
        }
        let event = match action {
            Action::Execute(plan) if super::gateway::is_beside_the_loop(&plan) => {
                return self.apply_beside_the_loop(plan);
            }
            Action::Execute(plan) => {
                if cfg!(debug_assertions) {
                    for fault in crate::plan::check::check(&plan, self.engine.observed()) {
                        tracing::error!(target: "plan", %fault, "plan breaks a rule");
                    }
                }
                let done = {
                    let _span =
                        tracing::debug_span!(target: "kernel::tx", "operations", cause = plan.cause.0)
                            .entered();
                    let done = convert::execute(&mut self.executor, plan);
                    observe::answers(&done);
                    done
                };
                self.book_replies();
                let now = self.now();
                self.observer.plan(&done, &self.engine, now);
                self.queue_for_gateways(&done);
                let _span = tracing::debug_span!(target: "engine", "acknowledge", cause = done.plan.cause.0)
                    .entered();
                let now = self.now();
                return self.account.hear_done(&mut self.engine, done, now);
            }
            Action::Snapshot => self.take_snapshot().await,
            Action::ReadForwarding { network, device } => self.read_forwarding(network, device).await,
            Action::ReadGateways { watch } => self.read_gateways(watch),
            Action::ReadCarried { key, devices } => self.read_carried(key, devices).await,
            Action::ReadGuard { watch } => self.read_guard(watch),
            Action::Serve {
                network,
                device,
                want,
            } => return self.serve(network, device, want),
            Action::EndService { network, forget } => return self.end_service(network, forget),
            Action::AskPort { index, ticket, why } => {
                self.asking().ask_port(index, ticket, why);
                return self.take_ready_replies();
            }
            Action::AskNetwork { network, ticket, why } => {
                self.asking().ask_network(&network, ticket, why);
                return self.take_ready_replies();
            }
        };
        let now = self.now();
        self.hear(event, now);
    }

    /// Watches the files that `config` was read from. A watch that cannot be had leaves SIGHUP.
    pub(super) fn watch_files(&mut self, since: SystemTime) {
        let set = match &mut self.watch {
            Some(watch) => {
                let mut files = self.config.files.clone();
                if self.config.policy.settings.get("watch") == Some(&serde_json::Value::Bool(true)) {
                    files.extend(self.config.policy.files());
                }
                watch.set(files, self.config.directories.clone(), since)
            }
            None => return,
        };
        if let Err(error) = set {
            tracing::warn!(target: "source", error = %convert::chain(&error), "some files are not watched; use SIGHUP");
        }
    }

    fn hand_out_notes(&mut self) {
        self.book_replies();
        for note in self.engine.take_notes() {
            report::log(&note);
            self.observer.note(&note);
            self.asking().tell_policy(&note);
            if matches!(note.what, What::InSync { .. }) && !self.ready {
                self.sweep_services();
                self.ready = true;
                notify::ready("in sync");
                super::footprint::release_files();
            }
        }
        if !self.waiters.is_empty() {
            let now = self.now();
            self.waiters.look(&self.engine, now);
        }
    }
}

fn tell(engine: &mut Engine, account: &mut Account, base: Instant, event: RxEvent<'_>) {
    let at = |received: Instant| Time::ZERO.plus(received.saturating_duration_since(base));
    match event {
        RxEvent::Message {
            received,
            change,
            message,
        } => {
            if let Some(change) = convert::change(change) {
                let span =
                    tracing::debug_span!(target: "kernel::rx", "receive", cause = Empty, bytes = Empty)
                        .entered();
                account.hear_message(engine, change, message.raw, at(received));
                if !span.is_disabled() {
                    span.record("cause", engine.last_cause().0);
                    span.record("bytes", message.raw.len());
                }
            }
        }
        RxEvent::Undecodable { received, source, .. } => {
            tracing::warn!(target: "kernel::rx", error = %source, "message does not decode");
            account.hear(engine, Event::Lost(Loss::Undecodable), at(received));
        }
        RxEvent::Overrun { received } => {
            account.hear(engine, Event::Lost(Loss::Overrun), at(received));
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(Error::Runtime)
}

/// Never ends without a watch.
async fn changed(watch: &mut Option<Watch>) -> Result<(), source::Error> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Never ends without a duration: no timer is armed.
async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}
