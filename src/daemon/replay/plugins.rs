//! The plugins of a replay: asked as the daemon asks them, and waited for.

use super::super::policy::ask::Asking;
use super::{Line, Player, ReplayError};
use crate::model::Time;

impl Player<'_> {
    pub(super) fn asking(&mut self, now: Time) -> Asking<'_> {
        // Seconds with microseconds: exact in an f64 for the next two centuries.
        #[allow(clippy::cast_precision_loss)]
        let wall = (self.tape.start_us + now.micros()) as f64 / 1e6;
        self.policy.set_clock(wall);
        Asking {
            engine: &mut self.engine,
            account: None,
            policy: &mut self.policy,
            now,
        }
    }

    /// Hands out what was answered. Answers lead to further questions, which are answered too. True if there was any.
    pub(super) fn answers(&mut self, now: Time) -> Result<bool, ReplayError> {
        let mut any = false;
        while let Some(reply) = self.policy.take_reply() {
            any = true;
            for step in &reply.steps {
                let whose = (step.plugin.clone(), reply.hook);
                let Some(error) = &step.error else {
                    self.failing.remove(&whose);
                    continue;
                };
                if self.failing.insert(whose) {
                    (self.tell)(Line::Plugin {
                        at: now,
                        plugin: step.plugin.clone(),
                        hook: reply.hook,
                        error: error.clone(),
                    })?;
                }
            }
            if self.asking(now).on_reply(&reply) {
                self.policy.decided(reply, now);
            }
        }
        Ok(any)
    }

    /// Questions that are due: timers, and those that were put off.
    pub(super) fn run_timers(&mut self, now: Time) -> Result<(), ReplayError> {
        self.asking(now).run_policy_timers();
        self.answers(now).map(|_| ())
    }

    /// What happened, for hooks that watch. True if some answered.
    pub(super) fn tell_plugins(&mut self, now: Time) -> Result<bool, ReplayError> {
        while let Some(note) = self.untold.pop_front() {
            self.asking(now).tell_policy(&note);
        }
        self.answers(now)
    }
}
