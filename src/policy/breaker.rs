//! When to stop calling a hook that keeps failing, and when to try it again.
//!
//! Two breakers look at each call: one per hook, one per hook and network. The second keeps a plugin that only fails
//! for one network from costing all the others their answer, and opens sooner for failures that cost time.

use super::api::{Hook, Outcome};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Failures in a row that open a breaker.
pub const FAILURES: u32 = 5;
/// The same for one network, when each failure used up the whole deadline.
const EXPENSIVE_FAILURES: u32 = 2;
/// An open breaker lets one call through after this long.
pub const PROBE_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, Default)]
struct Breaker {
    failures: u32,
    opened: Option<Instant>,
}

impl Breaker {
    fn would_admit(&self, now: Instant) -> bool {
        self.opened
            .is_none_or(|since| now.duration_since(since) >= PROBE_AFTER)
    }
    /// A call goes through; if it is a probe the door closes behind it until its outcome is known.
    fn enter(&mut self, now: Instant) {
        if self.opened.is_some() {
            self.opened = Some(now);
        }
    }
    fn fail(&mut self, threshold: u32, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= threshold {
            let newly = self.opened.is_none();
            self.opened = Some(now);
            return newly;
        }
        false
    }
}

/// All breakers of one plugin.
#[derive(Debug, Default)]
pub struct Breakers {
    hooks: [Breaker; Hook::ALL.len()],
    networks: HashMap<(Hook, String), Breaker>,
}

/// What a failure did to the breakers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tripped {
    /// This failure opened a breaker.
    pub newly: bool,
    /// Failures in a row, for the pause before the question is asked again.
    pub failures: u32,
}

impl Breakers {
    /// May this call go through? If so it counts as the probe of an open breaker.
    pub fn admits(&mut self, hook: Hook, network: &str, now: Instant) -> bool {
        let key = (hook, network.to_owned());
        let both = [self.hooks.get_mut(hook as usize), self.networks.get_mut(&key)];
        if !both.iter().flatten().all(|breaker| breaker.would_admit(now)) {
            return false;
        }
        for breaker in both.into_iter().flatten() {
            breaker.enter(now);
        }
        true
    }

    /// Did the last call for this network fail? Such questions wait behind all others.
    pub fn is_suspect(&self, hook: Hook, network: &str) -> bool {
        !self.networks.is_empty() && self.networks.contains_key(&(hook, network.to_owned()))
    }

    pub fn succeed(&mut self, hook: Hook, network: &str) {
        if let Some(breaker) = self.hooks.get_mut(hook as usize) {
            *breaker = Breaker::default();
        }
        if !self.networks.is_empty() {
            self.networks.remove(&(hook, network.to_owned()));
        }
    }

    pub fn fail(&mut self, hook: Hook, network: &str, outcome: Outcome, now: Instant) -> Tripped {
        let expensive = matches!(outcome, Outcome::Deadline | Outcome::Memory | Outcome::Wedged);
        let threshold = if expensive { EXPENSIVE_FAILURES } else { FAILURES };
        let breaker = self.networks.entry((hook, network.to_owned())).or_default();
        let newly = breaker.fail(threshold, now);
        let failures = breaker.failures;
        let hook_wide = self
            .hooks
            .get_mut(hook as usize)
            .is_some_and(|b| b.fail(FAILURES, now));
        Tripped {
            newly: newly || hook_wide,
            failures,
        }
    }

    /// Hooks and networks that are not called at the moment ("port", "port of network 6f0c").
    pub fn open(&self) -> Vec<String> {
        let hooks = Hook::ALL
            .iter()
            .zip(&self.hooks)
            .filter(|(_, b)| b.opened.is_some())
            .map(|(h, _)| h.to_string());
        let mut open: Vec<String> = hooks.collect();
        let networks = self.networks.iter().filter(|(_, b)| b.opened.is_some());
        open.extend(networks.map(|((hook, network), _)| match network.as_str() {
            "" => format!("{hook} without network"),
            network => format!("{hook} of network {network}"),
        }));
        open.sort();
        open
    }
}

/// Pause before a failed question is asked again: 1 s, doubling, at most a minute.
pub fn retry_after(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_open_the_breaker_and_one_probe_goes_through_after_the_pause() {
        let (mut breakers, t0) = (Breakers::default(), Instant::now());
        for n in 1..=FAILURES {
            assert!(breakers.admits(Hook::Port, "", t0));
            assert_eq!(
                breakers.fail(Hook::Port, "", Outcome::Error, t0).newly,
                n == FAILURES
            );
        }
        assert!(!breakers.admits(Hook::Port, "", t0));
        assert!(
            breakers.admits(Hook::Network, "", t0),
            "another hook is not concerned"
        );
        let later = t0 + PROBE_AFTER;
        assert!(breakers.admits(Hook::Port, "", later));
        assert!(!breakers.admits(Hook::Port, "", later), "only one probe");
        breakers.succeed(Hook::Port, "");
        assert!(breakers.admits(Hook::Port, "", later));
        assert!(breakers.open().is_empty());
    }

    #[test]
    fn a_network_whose_calls_cost_time_is_cut_off_without_the_others() {
        let (mut breakers, t0) = (Breakers::default(), Instant::now());
        for _ in 0..2 {
            breakers.fail(Hook::Port, "blue", Outcome::Deadline, t0);
            breakers.succeed(Hook::Port, "green");
        }
        assert!(!breakers.admits(Hook::Port, "blue", t0));
        assert!(breakers.admits(Hook::Port, "green", t0));
        assert_eq!(breakers.open(), ["port of network blue"]);
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute() {
        assert_eq!(
            [1, 2, 3, 7, 40].map(|n| retry_after(n).as_secs()),
            [1, 2, 4, 60, 60]
        );
    }
}
