//! New plugins in force without a restart: loaded aside, rehearsed on everything that is known, then swapped.
//!
//! Loading and rehearsing run on a thread that may block; the loop goes on attaching taps meanwhile. Whatever fails on
//! the way leaves the running generation as it is. One load at a time, in the order asked for, each with the
//! configuration of the moment it begins: what was asked for last is what runs in the end.

use super::super::reactor::Reactor;
use super::{Policy, facts};
use crate::config::PolicySettings;
use crate::control::api::{Failure, FailureKind, PolicyReloadReport, PolicyReloadRequest, Reply};
use crate::engine::event::Event;
use crate::model::{Ifindex, NetworkId};
use crate::policy::api::context::Reason;
use crate::policy::api::{Hook, Subject};
use crate::policy::{Candidate, Comparison, Host, Known, LoadReport, Preparation};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Of the answers, in per cent, that a reload may change unless told otherwise (never fewer than 10).
const MAX_CHANGES_PERCENT: u8 = 10;

/// A load that was asked for; without a client it follows a change of the configuration.
#[derive(Debug)]
pub(in super::super) struct Load {
    request: PolicyReloadRequest,
    reply: Option<Reply<PolicyReloadReport>>,
    /// Something in the configuration changed, so every question is asked again whatever the plugins' files say.
    asks_again: bool,
}

/// What was loaded aside.
enum Loaded {
    /// Instead of the plugins that run.
    Next(Box<Candidate>, Comparison),
    /// Where none ran.
    First(Box<Policy>),
    /// Nobody asked for a reload by name, and the plugins that run are those on disk.
    Unchanged,
}

fn load(
    settings: &PolicySettings,
    running: Option<(Preparation, Vec<Known>)>,
    asked_for: bool,
) -> Result<Loaded, LoadReport> {
    let Some((preparation, known)) = running else {
        return Policy::start(settings).map(|policy| Loaded::First(Box::new(policy)));
    };
    if !asked_for && preparation.is_unchanged(settings) {
        return Ok(Loaded::Unchanged);
    }
    let candidate = preparation.load_tested(settings)?;
    let comparison = candidate.compare(&known)?;
    Ok(Loaded::Next(Box::new(candidate), comparison))
}

impl Reactor {
    /// `policy reload`.
    pub(in super::super) fn policy_reload(
        &mut self,
        request: PolicyReloadRequest,
        reply: Reply<PolicyReloadReport>,
    ) {
        self.policy_loads.push_back(Load {
            request,
            reply: Some(reply),
            asks_again: true,
        });
        self.begin_next_load();
    }

    /// The files or the configuration changed: the same as `policy reload`, without a client. A plugin file that does
    /// not load keeps the old plugins and shows in the log and in `status`; files that say what they said are left alone.
    pub(in super::super) fn restart_policy(&mut self, asks_again: bool) {
        self.policy_loads.push_back(Load {
            request: PolicyReloadRequest::default(),
            reply: None,
            asks_again,
        });
        self.begin_next_load();
    }

    fn begin_next_load(&mut self) {
        while !self.policy_loading
            && let Some(Load {
                request,
                reply,
                asks_again,
            }) = self.policy_loads.pop_front()
        {
            let settings = self.config.policy.clone();
            self.policy.set_labels(&settings);
            if settings.plugins.is_empty() {
                self.policy.stop();
                self.policy_changed();
                let nothing = Failure::new(FailureKind::Unavailable, "no plugins are configured");
                self.end_load(reply, Err(nothing));
                continue;
            }
            let known = self.known_decisions();
            let running = self.policy.host.as_ref().map(|host| (host.prepare(), known));
            self.policy_loading = true;
            let asked_for = reply.is_some();
            self.background(move || {
                let loaded = catch_unwind(AssertUnwindSafe(|| load(&settings, running, asked_for)));
                Box::new(move |reactor: &mut Reactor| {
                    reactor.policy_loading = false;
                    let unchanged = matches!(loaded, Ok(Ok(Loaded::Unchanged)));
                    let answer = match loaded {
                        Ok(Ok(Loaded::Next(candidate, comparison))) => {
                            reactor.finish_reload(*candidate, &comparison, &request)
                        }
                        Ok(Ok(Loaded::Unchanged)) => Ok(reactor.keep_policy(asks_again)),
                        Ok(Ok(Loaded::First(policy))) => reactor.start_policy(*policy, &request),
                        Ok(Err(report)) => Err(Failure::new(FailureKind::Invalid, report.to_string())),
                        Err(_) => Err(Failure::new(
                            FailureKind::Internal,
                            "loading the plugins panicked",
                        )),
                    };
                    let result = match &answer {
                        Ok(_) if unchanged => "unchanged",
                        Ok(report) if report.refused.is_some() => "refused",
                        Ok(_) if request.dry_run => "dry_run",
                        Ok(_) => "ok",
                        Err(_) => "refused",
                    };
                    *reactor.policy_reloads.entry(result).or_default() += 1;
                    reactor.end_load(reply, answer);
                    reactor.begin_next_load();
                })
            });
        }
    }

    fn end_load(
        &mut self,
        reply: Option<Reply<PolicyReloadReport>>,
        answer: Result<PolicyReloadReport, Failure>,
    ) {
        let old_ones_run = |failure: Failure| match self.policy.host {
            Some(_) => failure.hint("the plugins that run are the old ones"),
            None => failure,
        };
        match reply {
            Some(reply) => {
                if answer.is_ok() {
                    self.policy_error = None;
                }
                let _ = reply.send(answer.map_err(old_ones_run));
            }
            // The configuration names none: that is no error of its own.
            None if self.config.policy.plugins.is_empty() => self.policy_error = None,
            None => {
                self.policy_error = answer.err().map(|failure| failure.error);
                if let Some(error) = &self.policy_error {
                    tracing::error!(target: "policy", %error, "plugins refused; the old ones run on");
                }
            }
        }
    }

    fn keep_policy(&mut self, asks_again: bool) -> PolicyReloadReport {
        tracing::debug!(target: "policy", "plugins unchanged");
        if asks_again {
            let (usage, now) = (self.policy.usage(), self.now());
            self.hear(Event::PolicyChanged(usage), now);
        }
        PolicyReloadReport {
            generation: self.policy_status().generation,
            ports: Some(0),
            networks: Some(0),
            ..PolicyReloadReport::default()
        }
    }

    fn start_policy(
        &mut self,
        policy: Policy,
        request: &PolicyReloadRequest,
    ) -> Result<PolicyReloadReport, Failure> {
        if !request.dry_run {
            self.policy = policy;
            self.policy_changed();
        }
        Ok(PolicyReloadReport {
            generation: self.policy_status().generation,
            ..PolicyReloadReport::default()
        })
    }

    fn finish_reload(
        &mut self,
        candidate: Candidate,
        comparison: &Comparison,
        request: &PolicyReloadRequest,
    ) -> Result<PolicyReloadReport, Failure> {
        let changes: Vec<String> = comparison
            .changed
            .iter()
            .flat_map(|changed| changed.lines())
            .collect();
        let checked = match request.max_changes {
            Some(most) => comparison.check_at_most(usize::try_from(most).unwrap_or(usize::MAX)),
            None => comparison.check(MAX_CHANGES_PERCENT),
        };
        let refused = match checked {
            Ok(()) => None,
            Err(refusal) if request.dry_run => Some(refusal.to_string()),
            Err(refusal) => return Err(Failure::new(FailureKind::Conflict, refusal.to_string())),
        };
        let (ports, networks) = comparison.subjects();
        if !request.dry_run {
            if let Some(host) = &mut self.policy.host {
                host.commit(candidate);
            }
            self.keep_generation();
            self.policy_changed();
            let generation = self.policy_status().generation.unwrap_or_default();
            tracing::info!(target: "policy", generation, ports, networks, "plugins reloaded");
        }
        Ok(PolicyReloadReport {
            generation: self.policy_status().generation,
            changes,
            ports: Some(ports as u64),
            networks: Some(networks as u64),
            refused,
        })
    }

    /// What is in force now is written down for the next start.
    fn keep_generation(&mut self) {
        if let Some(host) = &self.policy.host {
            let keep = host.keep();
            self.background(move || {
                keep();
                Box::new(|_: &mut Reactor| {})
            });
        }
    }

    pub(in super::super) fn policy_rollback(&mut self, reply: Reply<PolicyReloadReport>) {
        if self.policy.host.as_mut().is_some_and(Host::rollback) {
            let _ = reply.send(Ok(self.rolled_back()));
            return;
        }
        let archived = self.policy.host.as_ref().and_then(|host| {
            let edition = host.archived()?;
            Some((edition, host.prepare()))
        });
        let Some((edition, preparation)) = archived.filter(|_| !self.policy_loading) else {
            let none = Failure::new(FailureKind::Conflict, "there is no earlier generation of plugins");
            let _ = reply.send(Err(none));
            return;
        };
        // It ran before the daemon was started: loaded from what was kept of it.
        self.policy_loading = true;
        self.background(move || {
            let loaded = catch_unwind(AssertUnwindSafe(|| preparation.load_archived(&edition)));
            Box::new(move |reactor: &mut Reactor| {
                reactor.policy_loading = false;
                let answer = match (loaded, &mut reactor.policy.host) {
                    (Ok(Ok(candidate)), Some(host)) => {
                        host.commit(candidate);
                        Ok(reactor.rolled_back())
                    }
                    (Ok(Err(report)), _) => Err(Failure::new(FailureKind::Invalid, report.to_string())),
                    _ => Err(Failure::new(
                        FailureKind::Internal,
                        "loading the plugins panicked",
                    )),
                };
                let _ = reply.send(answer);
                reactor.begin_next_load();
            })
        });
    }

    fn rolled_back(&mut self) -> PolicyReloadReport {
        self.keep_generation();
        self.policy_changed();
        let generation = self.policy_status().generation;
        tracing::info!(target: "policy", generation = generation.as_deref().unwrap_or_default(), "plugins rolled back");
        PolicyReloadReport {
            generation,
            ..PolicyReloadReport::default()
        }
    }

    /// Every decision that holds now, with the question as it would be asked now.
    fn known_decisions(&self) -> Vec<Known> {
        let facts = &self.policy.facts;
        let question = |key: &Subject, hook: Hook| match key {
            Subject::Tap(raw) => {
                let index = Ifindex::new(*raw)?;
                let tap = self.engine.tap(index)?;
                // A mapping told since spares the question.
                if hook == Hook::Resolve && self.engine.desired().mapping_for(&tap.name).is_some() {
                    return None;
                }
                let network = tap.intent.network().filter(|_| hook == Hook::Port).cloned();
                facts::of_port(&self.engine, index, hook, network.as_ref(), facts)
            }
            Subject::Network(text) => {
                let network = self.engine.desired().network(&NetworkId::new(text).ok()?)?;
                Some(facts::of_network(&self.engine, network, facts))
            }
            Subject::Plugin(_) => None,
        };
        let known = self.policy.decisions.iter().filter_map(|((key, hook), before)| {
            let mut context = question(key, *hook)?;
            context.reason = Reason::Reload;
            Some(Known {
                key: key.clone(),
                hook: *hook,
                context,
                before: before.clone(),
                failing: self
                    .policy
                    .failed
                    .get(&(key.clone(), *hook))
                    .cloned()
                    .unwrap_or_default(),
            })
        });
        known.collect()
    }
}
