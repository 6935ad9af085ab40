//! New plugins in force without a restart: loaded aside, rehearsed on every known tap, then swapped.
//!
//! Loading and rehearsing run on a thread that may block; the loop goes on attaching taps meanwhile. Whatever fails on
//! the way leaves the running generation as it is.

use super::super::reactor::Reactor;
use super::{Policy, facts};
use crate::control::api::{Failure, FailureKind, PolicyReloadReport, PolicyReloadRequest, Reply};
use crate::model::Ifindex;
use crate::policy::api::{Hook, Subject};
use crate::policy::{Candidate, Comparison, Host, Known};

/// Of the answers, in per cent, that a reload may change unless told otherwise (never fewer than 10).
const MAX_CHANGES_PERCENT: u8 = 10;

impl Reactor {
    /// `policy reload`.
    pub(in super::super) fn policy_reload(
        &mut self,
        request: PolicyReloadRequest,
        reply: Reply<PolicyReloadReport>,
    ) {
        let Some(host) = &self.policy.host else {
            let _ = reply.send(Err(Failure::new(
                FailureKind::Unavailable,
                "no plugins are configured",
            )));
            return;
        };
        let preparation = host.prepare();
        let settings = self.config.policy.clone();
        let known = self.known_decisions();
        self.background(move || {
            let made = preparation.load_tested(&settings).and_then(|candidate| {
                let comparison = candidate.compare(&known)?;
                Ok((candidate, comparison))
            });
            Box::new(move |reactor: &mut Reactor| {
                let answer = match made {
                    Ok((candidate, comparison)) => reactor.finish_reload(candidate, &comparison, &request),
                    Err(report) => Err(Failure::new(FailureKind::Invalid, report.to_string())
                        .hint("the plugins that run are the old ones")),
                };
                let _ = reply.send(answer);
            })
        });
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
        checked.map_err(|refusal| {
            Failure::new(FailureKind::Conflict, refusal.to_string())
                .hint("the plugins that run are the old ones")
        })?;
        if !request.dry_run {
            if let Some(host) = &mut self.policy.host {
                host.commit(candidate);
            }
            self.policy_changed();
            tracing::info!(target: "policy", changes = changes.len(), "plugins reloaded");
        }
        Ok(PolicyReloadReport {
            generation: self.policy_status().generation,
            changes,
        })
    }

    pub(in super::super) fn policy_rollback(&mut self, reply: Reply<PolicyReloadReport>) {
        let done = self.policy.host.as_mut().is_some_and(Host::rollback);
        let answer = if done {
            self.policy_changed();
            Ok(PolicyReloadReport {
                generation: self.policy_status().generation,
                changes: Vec::new(),
            })
        } else {
            Err(Failure::new(
                FailureKind::Conflict,
                "there is no earlier generation of plugins",
            ))
        };
        let _ = reply.send(answer);
    }

    /// The files or the configuration changed: the same as `policy reload`, without a client. A plugin file that does
    /// not load keeps the old plugins and shows in the log and in `status`.
    pub(in super::super) fn restart_policy(&mut self) {
        let settings = self.config.policy.clone();
        let preparation = match (&self.policy.host, settings.plugins.is_empty()) {
            (_, true) => {
                self.policy.host = None;
                self.policy_changed();
                return;
            }
            (Some(host), false) => host.prepare(),
            (None, false) => {
                self.background(move || {
                    let started = Policy::start(&settings);
                    Box::new(move |reactor: &mut Reactor| match started {
                        Ok(policy) => {
                            reactor.policy = policy;
                            reactor.policy_changed();
                        }
                        Err(report) => {
                            tracing::error!(target: "policy", error = %report, "plugins do not load")
                        }
                    })
                });
                return;
            }
        };
        let known = self.known_decisions();
        self.background(move || {
            let made = preparation.load_tested(&settings).and_then(|candidate| {
                let comparison = candidate.compare(&known)?;
                Ok((candidate, comparison))
            });
            Box::new(move |reactor: &mut Reactor| {
                let request = PolicyReloadRequest::default();
                let finished = match made {
                    Ok((candidate, comparison)) => reactor
                        .finish_reload(candidate, &comparison, &request)
                        .map_err(|failure| failure.error),
                    Err(report) => Err(report.to_string()),
                };
                reactor.policy_error = finished.err();
                if let Some(error) = &reactor.policy_error {
                    tracing::error!(target: "policy", %error, "plugins refused; the old ones run on");
                }
            })
        });
    }

    /// Every decision that holds now, with the question as it would be asked now.
    fn known_decisions(&self) -> Vec<Known> {
        let question = |index: &Ifindex| {
            let network = self.engine.tap(*index)?.intent.network().cloned();
            facts::of_port(
                &self.engine,
                *index,
                Hook::Port,
                network.as_ref(),
                &self.policy.facts,
            )
        };
        self.policy
            .decisions
            .iter()
            .filter_map(|(index, before)| {
                Some(Known {
                    key: Subject::Tap(index.get()),
                    hook: Hook::Port,
                    context: question(index)?,
                    before: before.clone(),
                })
            })
            .collect()
    }
}
