//! What all gateways share: tables and kernel settings, as far as they are known to be in force.

use super::super::Engine;
use super::super::backoff;
use super::super::event::{Failure, FailureClass};
use super::super::note::What;
use super::network::READ;
use crate::desired::gateway::{HostWant, Setting, Sysctl};
use crate::model::{LinkName, Time};
use crate::plan::address_move::Carried;
use crate::plan::gateway::{HostHave, RulesetHave};
use crate::plan::op::Op;
use crate::plan::{CauseId, Key, Step};
use std::sync::Arc;

/// Tables and settings.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) enum InForce {
    #[default]
    Unknown,
    Asked,
    Known {
        ruleset: RulesetHave,
        /// None: some may be others than we made, or are left from an earlier run.
        sysctls: Option<Vec<Sysctl>>,
    },
}

impl InForce {
    const DOUBTFUL: InForce = InForce::Known {
        ruleset: RulesetHave::Other,
        sysctls: None,
    };

    pub fn is(want: &HostWant) -> Self {
        let ruleset = if want.ruleset.is_empty() {
            RulesetHave::Nothing
        } else {
            RulesetHave::Is(want.ruleset.fingerprint())
        };
        InForce::Known {
            ruleset,
            sysctls: Some(want.sysctls.clone()),
        }
    }
}

impl Engine {
    /// Somebody else changed a table of ours.
    pub(in crate::engine) fn on_ruleset_touched(&mut self, now: Time) {
        let ours = |ruleset: &RulesetHave| matches!(ruleset, RulesetHave::Is(_));
        if self.gateways.under_way.is_some() {
            self.gateways.doubted = true;
        } else if let InForce::Known { ruleset, .. } = &mut self.gateways.in_force
            && ours(ruleset)
        {
            *ruleset = RulesetHave::Other;
            self.gateways_undone("nftables", now);
        }
        self.mark_gateways(CauseId(self.causes));
    }

    /// Whether a gateway leans on this host or device forwarding.
    pub fn needs_forwarding(&self, ipv4: bool, device: Option<u32>) -> bool {
        let wants = match (&self.gateways.under_way, &self.gateways.in_force) {
            (Some(want), _) => &want.sysctls[..],
            (None, InForce::Known { sysctls, .. }) => sysctls.as_deref().unwrap_or_default(),
            (None, _) => &[],
        };
        wants.iter().any(|want| match want.setting {
            Setting::Forward4 => ipv4 && device.is_none(),
            Setting::Forward6 => !ipv4 && device.is_none(),
            Setting::DeviceForward4(_, index) => ipv4 && device.is_none_or(|device| device == index.get()),
            Setting::AcceptRa(..) => false,
        })
    }

    /// Somebody switched off a setting that a gateway needs.
    pub(in crate::engine) fn on_sysctls_touched(&mut self, now: Time) {
        if self.gateways.under_way.is_some() {
            self.gateways.sysctls_doubted = true;
        } else if let InForce::Known { sysctls, .. } = &mut self.gateways.in_force
            && sysctls.take().is_some()
        {
            self.gateways_undone("sysctl", now);
        }
        self.mark_gateways(CauseId(self.causes));
    }

    fn gateways_undone(&mut self, what: &str, now: Time) {
        let pause = self.gateways.fight.lost(now);
        if !pause.is_zero() {
            self.retry_gateways(now.plus(pause));
        }
        if let Ok(device) = LinkName::new(what) {
            let what = What::Drift {
                device,
                network: None,
            };
            self.note(now, CauseId(self.causes), what);
        }
    }

    pub(in crate::engine) fn on_gateways_read(&mut self, have: Result<HostHave, Failure>, now: Time) {
        let cause = self.gateways.cause;
        self.gateways.in_force = match have {
            Ok(HostHave { ruleset, sysctls }) => InForce::Known { ruleset, sysctls },
            // A kernel without nftables has no table of ours.
            Err(_) if !self.gateways.wanted => InForce::is(&HostWant::default()),
            Err(failure) => {
                self.gateways_refused("read the tables", &failure, now);
                InForce::DOUBTFUL
            }
        };
        self.mark_gateways(cause);
    }

    /// A plan of all gateways was carried out.
    ///
    /// Who undoes a repair before it is acknowledged is fought like anybody else. What is touched while something new comes
    /// into force may be our own doing (the kernel tells of every device when the host's switch is turned), and is looked
    /// at once more for nothing.
    pub(in crate::engine) fn gateways_done(&mut self, failed: Option<&Failure>, op: &str, now: Time) {
        let under_way = self.gateways.under_way.take();
        let (repairs_ruleset, repairs_sysctls) = match &self.gateways.in_force {
            InForce::Known { ruleset, sysctls } => (*ruleset == RulesetHave::Other, sysctls.is_none()),
            InForce::Unknown | InForce::Asked => (false, false),
        };
        let doubted = std::mem::take(&mut self.gateways.doubted);
        let sysctls_doubted = std::mem::take(&mut self.gateways.sysctls_doubted);
        match (failed, under_way) {
            (None, under_way) => {
                if let Some(want) = under_way {
                    let mut is = InForce::is(&want);
                    if let InForce::Known { ruleset, sysctls } = &mut is {
                        if doubted {
                            *ruleset = RulesetHave::Other;
                        }
                        sysctls.take_if(|_| sysctls_doubted);
                    }
                    self.gateways.in_force = is;
                }
                self.gateways.failures = 0;
                self.gateways.failed = None;
                if doubted && repairs_ruleset {
                    self.gateways_undone("nftables", now);
                }
                if sysctls_doubted && repairs_sysctls {
                    self.gateways_undone("sysctl", now);
                }
            }
            (Some(failure), under_way) => {
                if under_way.is_some() {
                    self.gateways.in_force = InForce::DOUBTFUL;
                }
                self.gateways_refused(op, failure, now);
            }
        }
        self.mark_gateways(self.gateways.cause);
    }

    /// Answer to a question about a device that an address of ours goes from.
    pub(in crate::engine) fn on_gateways_carried(&mut self, have: Result<Carried, Failure>, now: Time) {
        match have {
            Ok(carried) => self.gateways.carried = Some(carried),
            Err(failure) => self.gateways_refused(READ, &failure, now),
        }
        self.mark_gateways(self.gateways.cause);
    }

    fn gateways_refused(&mut self, op: &str, failure: &Failure, now: Time) {
        self.gateways.failures += 1;
        if self.gateways.failures == 1 {
            let what = What::Failed {
                op: op.to_owned(),
                error: failure.message.clone(),
                port: None,
                network: None,
            };
            self.note(now, self.gateways.cause, what);
        }
        self.gateways.failed = Some(format!("{op}: {}", failure.message).into());
        match failure.class {
            FailureClass::Unsupported => self.gateways.retry_at = Some(Time(u64::MAX)),
            _ => self.retry_gateways(now.plus(backoff::after_failures(self.gateways.failures, 0))),
        }
    }

    fn retry_gateways(&mut self, at: Time) {
        if let Some(old) = self.gateways.retry_at.replace(at) {
            self.timers.remove(&(old, Key::Gateways));
        }
        self.timers.insert((at, Key::Gateways));
    }
}

/// Rules before the host forwards anything, and no forwarding without them.
pub(super) fn host_steps(have: &InForce, want: &HostWant) -> Vec<Step> {
    let (have_ruleset, have_sysctls) = match have {
        InForce::Known { ruleset, sysctls } => (*ruleset, sysctls.as_ref()),
        InForce::Unknown | InForce::Asked => (RulesetHave::Other, None),
    };
    let right = match have_ruleset {
        RulesetHave::Nothing => want.ruleset.is_empty(),
        RulesetHave::Is(fingerprint) => fingerprint == want.ruleset.fingerprint(),
        RulesetHave::Other => false,
    };
    let ruleset = (!right).then(|| Op::Ruleset(Arc::clone(&want.ruleset)));
    let sysctls = (have_sysctls != Some(&want.sysctls)).then(|| Op::Sysctls(want.sysctls.clone().into()));
    let mut steps: Vec<Step> = ruleset.into_iter().chain(sysctls).map(Step::from).collect();
    if want.ruleset.is_empty() {
        steps.reverse();
    }
    steps
}
