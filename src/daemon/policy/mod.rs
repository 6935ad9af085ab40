//! Policy's place in the loop: questions out, verdicts in, reloads.
//!
//! The engine asks about a tap or a network (`Action::AskPort`, `AskNetwork`); here the question becomes one to three
//! hook calls (`resolve`, `port`, `admit`) on the plugins' own threads, and the answers become one verdict. Nothing waits:
//! a question that needs a script is answered by a later event. Without plugins there is no host and no thread.

pub(super) mod ask;
mod conflicts;
mod facts;
pub(super) mod reload;
mod show;
mod verdict;
mod watching;

use super::reactor::Reactor;
use crate::config::PolicySettings;
use crate::control::api::{Delivery, Sink};
use crate::desired::verdict::PortVerdict;
use crate::engine::event::{Event, PolicyUse, Why};
use crate::engine::state::{PortState, Tap};
use crate::model::{Ifindex, NetworkId, Time};
use crate::policy::api::context::HostFacts;
use crate::policy::api::{Context, Decision, Hook, Reply, Request, Subject};
use crate::policy::tools::recording::Recorder;
use crate::policy::{Asked, Host, LoadReport};
use conflicts::Conflicts;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Questions that may be under way for a recording; more are left out of it.
const MAX_RECORDED: usize = 4096;

/// Changed answers are written down together, so that a burst of taps costs one file.
const KEEP_AFTER: Duration = Duration::from_secs(5);

/// How long the loop stays awake for an answer: three plugins take half as long, and going to sleep and being woken up is
/// a sixth of that (`benches/attach`, section `plugins`). A plugin that takes longer costs this once for each question.
const BRIEFLY: Duration = Duration::from_micros(100);

/// A question about a tap that goes through several hooks.
#[derive(Debug, Clone)]
struct Question {
    ticket: u64,
    why: Why,
    network: Option<NetworkId>,
    verdict: PortVerdict,
    /// What `port` said: who decided which field of the verdict.
    said: Option<Arc<Decision>>,
}

/// Whom to ask about again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Again {
    Tap(Ifindex),
    Network(NetworkId),
}

/// One plugin's last word about a tap.
#[derive(Debug, Clone)]
struct Said {
    hook: Hook,
    plugin: String,
    verdict: String,
}

/// A reply that was acted on, and is still to be counted and shown.
struct Unbooked {
    at: Time,
    /// Of the tap as it came.
    cause: u64,
    /// It decides something from now on.
    decides: bool,
    reply: Reply,
}

#[derive(Default)]
pub struct Policy {
    host: Option<Host>,
    facts: Arc<HostFacts>,
    questions: BTreeMap<Ifindex, Question>,
    /// Tickets of networks' questions.
    networks: BTreeMap<NetworkId, u64>,
    /// What `network` hooks said for the ports' `ctx.network.tags`; only networks with tags.
    tags: BTreeMap<NetworkId, BTreeMap<String, String>>,
    said: BTreeMap<Ifindex, Vec<Said>>,
    /// The last question that a script is to decide, by its ticket, and since when.
    fresh: Option<(u64, Instant)>,
    /// The last question that decides went to a script, which runs beside the loop; the next one probably will.
    scripted: bool,
    /// Replies that needed no script: handled after the engine has finished its turn.
    ready: VecDeque<Reply>,
    /// In the order in which they came.
    unbooked: Vec<Unbooked>,
    /// To be asked again then.
    again: BTreeMap<Again, Time>,
    timers: Vec<(String, Duration, Time)>,
    recorders: Vec<Sink>,
    /// Questions under way that are being recorded.
    recorded: BTreeMap<(Subject, Hook), Context>,
    /// The last decision about each network (`network`) and tap (`resolve`, `port`): what a reload is compared with.
    decisions: BTreeMap<(Subject, Hook), Arc<Decision>>,
    /// Plugins and hooks whose last call failed: told once, not with every tap.
    failing: BTreeSet<(String, Hook)>,
    /// Plugins whose last answer about a subject was a failure; what does not get worse by a reload.
    failed: BTreeMap<(Subject, Hook), BTreeSet<String>>,
    conflicts: Conflicts,
    /// Taps that `attached` was true of, for `detached`: kept only where a plugin wants to be told.
    attached: BTreeMap<Ifindex, NetworkId>,
    /// When the last good answers are written down, after some changed.
    keep_at: Option<Time>,
    calls: u64,
    errors: u64,
    seq: u64,
    /// In a replay: answers are waited for, and this is the time, in seconds since 1970.
    replayed: Option<f64>,
}

impl Policy {
    /// Loads the plugins of a configuration; no thread without plugins.
    pub fn start(settings: &PolicySettings) -> Result<Self, LoadReport> {
        Self::with(settings, Host::load)
    }

    /// The same when the daemon starts: what is broken runs as it last was.
    pub fn start_or_last_good(settings: &PolicySettings) -> Result<Self, LoadReport> {
        Self::with(settings, Host::load_or_last_good)
    }

    fn with(
        settings: &PolicySettings,
        load: impl FnOnce(&PolicySettings) -> Result<Host, LoadReport>,
    ) -> Result<Self, LoadReport> {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let facts = Arc::new(HostFacts {
            name: hostname.trim().to_owned(),
            labels: labels(settings),
        });
        let host = if settings.plugins.is_empty() {
            None
        } else {
            Some(load(settings)?)
        };
        Ok(Self {
            host,
            facts,
            ..Self::default()
        })
    }

    /// The plugins of a replay: they are asked as the daemon asks them, but nothing goes on meanwhile, and what they keep
    /// (`host.state`) begins empty and goes nowhere.
    pub fn replayed(settings: &PolicySettings) -> Result<Self, LoadReport> {
        let mut settings = settings.clone();
        settings.settings.remove("state");
        settings.archive = None;
        let mut policy = Self::start(&settings)?;
        policy.replayed = Some(0.0);
        Ok(policy)
    }

    /// In a replay: what `ctx.now` is from here on, in seconds since 1970.
    pub fn set_clock(&mut self, now: f64) {
        self.replayed = Some(now);
    }

    /// A plugin could not be loaded when the daemon started, and runs as it last was.
    pub fn last_good(&self) -> Option<String> {
        self.host.as_ref()?.last_good()
    }

    pub fn usage(&self) -> PolicyUse {
        let has = |hook| self.host.as_ref().is_some_and(|host| host.has_hook(hook));
        PolicyUse {
            ports: has(Hook::Resolve) || has(Hook::Port) || has(Hook::Admit),
            networks: has(Hook::Network),
        }
    }

    /// Some plugin wants to be told what happened.
    pub fn watches(&self) -> bool {
        [Hook::Attached, Hook::Detached, Hook::Drift, Hook::Observe]
            .into_iter()
            .any(|hook| self.has(hook))
    }

    /// `[policy.labels]` as they are now.
    fn set_labels(&mut self, settings: &PolicySettings) {
        let labels = labels(settings);
        if self.facts.labels != labels {
            Arc::make_mut(&mut self.facts).labels = labels;
        }
    }

    fn has(&self, hook: Hook) -> bool {
        self.host.as_ref().is_some_and(|host| host.has_hook(hook))
    }

    /// The plugins go, and what was asked of them and what they said.
    fn stop(&mut self) {
        self.host = None;
        self.questions.clear();
        self.networks.clear();
        self.tags.clear();
        self.said.clear();
        self.ready.clear();
        self.unbooked.clear();
        self.again.clear();
        self.recorded.clear();
        self.decisions.clear();
        self.failing.clear();
        self.failed.clear();
        self.attached.clear();
        self.keep_at = None;
    }

    /// Notes what was decided; a decision that is another one shall outlive the daemon.
    pub fn decided(&mut self, reply: Reply, now: Time) {
        let changed = match self.decisions.entry((reply.key, reply.hook)) {
            Entry::Occupied(mut known) => {
                let before = known.insert(reply.decision);
                !Arc::ptr_eq(&before, known.get()) && before != *known.get()
            }
            Entry::Vacant(place) => {
                place.insert(reply.decision);
                true
            }
        };
        if changed && self.keep_at.is_none() && self.host.as_ref().is_some_and(Host::keeps_answers) {
            self.keep_at = Some(now.plus(KEEP_AFTER));
        }
    }

    /// A plugin's last word about a tap: one for each hook, however often it is told of changes.
    fn say(&mut self, index: Ifindex, hook: Hook, plugin: &str, verdict: String) {
        let said = self.said.entry(index).or_default();
        let known = said
            .iter_mut()
            .find(|said| said.hook == hook && said.plugin == plugin);
        match known {
            Some(known) => known.verdict = verdict,
            None => said.push(Said {
                hook,
                plugin: plugin.to_owned(),
                verdict,
            }),
        }
    }

    /// Drops what the plugins know about a subject that is gone.
    fn forget(&self, key: &Subject) {
        if let Some(host) = &self.host {
            host.forget(key);
        }
    }

    pub fn restart_timers(&mut self, now: Time) {
        let timers = self.host.as_ref().map(Host::timers).unwrap_or_default();
        self.timers = timers
            .into_iter()
            .map(|(name, every)| (name, every, now.plus(every)))
            .collect();
    }

    /// When `tick` or a second question is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let again = self.again.values().min().copied();
        let timers = self.timers.iter().map(|(_, _, at)| *at);
        timers.chain(again).chain(self.keep_at).min()
    }

    /// The next reply of a script. Cancel-safe; never ends without plugins.
    pub async fn reply(&mut self) -> Reply {
        match &mut self.host {
            Some(host) => host.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Puts the network's tags into the context of a question about a tap.
    fn tag(&self, context: &mut Context, network: Option<&NetworkId>) {
        if let Some(tags) = network.and_then(|id| self.tags.get(id))
            && let Some(network) = &mut context.network
        {
            Arc::make_mut(network).tags.clone_from(tags);
        }
    }

    /// A script was asked so short a time ago that its answer is worth staying awake for: one tap's, not those of a burst,
    /// which leaves the loop no rest in which it looks at everything else.
    pub fn is_fresh(&mut self) -> bool {
        self.fresh = self.fresh.filter(|(_, since)| since.elapsed() < BRIEFLY);
        self.fresh.is_some() && self.questions.len() <= 1
    }

    /// Replies that needed no script and are not handled yet.
    pub fn has_ready_replies(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Replies that are there already.
    pub fn take_reply(&mut self) -> Option<Reply> {
        self.ready.pop_front().or_else(|| self.host.as_mut()?.try_recv())
    }

    fn ask(&mut self, key: Subject, hook: Hook, seq: u64, mut context: Context) {
        context.hook = hook;
        context.seq = seq;
        if !self.recorders.is_empty() && self.recorded.len() < MAX_RECORDED {
            let generation = self.host.as_ref().map_or(0, Host::generation);
            let asked = Context {
                r#gen: generation,
                ..context.clone()
            };
            self.recorded.insert((key.clone(), hook), asked);
        }
        if let Some(now) = self.replayed {
            context.now = now;
        }
        let Some(host) = &mut self.host else { return };
        let asked = host.ask(Request {
            r#gen: 0,
            seq,
            key,
            hook,
            context,
        });
        if hook.decides() {
            self.scripted = matches!(asked, Asked::Pending) && host.is_beside();
            self.fresh = self.scripted.then(|| (seq, Instant::now()));
        }
        match asked {
            Asked::Answered(reply) => self.ready.push_back(*reply),
            Asked::Pending if self.replayed.is_some() => self.ready.extend(host.wait()),
            Asked::Pending => {}
        }
    }

    /// A question about a tap is being made: the plugins' thread wakes up meanwhile, if it will have to.
    fn stir(&self) {
        if let Some(host) = self.host.as_ref().filter(|_| self.scripted) {
            host.stir();
        }
    }

    /// The question and its answer, for `policy record`.
    fn record(&mut self, reply: &Reply) {
        // A question that a newer one replaced has no reply; the newer one took its place here too.
        let id = (reply.key.clone(), reply.hook);
        let Some(context) = self.recorded.remove(&id).filter(|c| c.seq == reply.seq) else {
            return;
        };
        let mut recorder = Recorder::new(Vec::new());
        // Writing into memory cannot fail.
        let _ = recorder.write(&reply.key, reply.hook, &context, &reply.decision);
        let line: Arc<str> = String::from_utf8_lossy(&recorder.into_inner()).trim_end().into();
        self.recorders
            .retain_mut(|sink| sink.push(Arc::clone(&line)) != Delivery::Closed);
        if self.recorders.is_empty() {
            self.recorded.clear();
        }
    }
}

fn labels(settings: &PolicySettings) -> BTreeMap<String, String> {
    let table = settings.settings.get("labels").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    table
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

impl Reactor {
    /// Tells the engine which questions the plugins want; everything is asked anew.
    pub(super) fn policy_changed(&mut self) {
        let now = self.now();
        self.policy.restart_timers(now);
        self.policy.conflicts.forget();
        self.policy.attached.clear();
        if self.policy.has(Hook::Detached) {
            let attached = self
                .engine
                .taps()
                .filter(|(_, tap)| tap.state == PortState::Attached);
            let network = |(index, tap): (Ifindex, &Tap)| Some((index, tap.intent.network()?.clone()));
            self.policy.attached = attached.filter_map(network).collect();
        }
        let usage = self.policy.usage();
        self.hear(Event::PolicyChanged(usage), now);
    }
}
