//! When to try again: after failures, and against somebody who keeps undoing our work.

use crate::model::Time;
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Pause after the nth failure in a row (1, 2, 4 ... 60 s) with up to a quarter of jitter taken from `seed`, so that
/// a thousand keys that failed together do not come back together.
pub fn after_failures(failures: u32, seed: u64) -> Duration {
    let base = FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(6))
        .min(LONGEST);
    // A cheap mix is enough: it only has to spread.
    let mixed = (seed ^ (u64::from(failures) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    base - base / 4 * (mixed as u32) / 256
}

/// A fight: somebody else takes a port away each time we repair it.
///
/// The first repairs are immediate (an operator's slip heals at once), the next ones wait a little longer each time: at
/// most ten in the first five seconds. After that one a minute. It is over when nothing happened for longer than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Fight {
    repairs: u32,
    last: Time,
}

impl Fight {
    const FREE: u32 = 5;
    /// Milliseconds, together less than five seconds.
    const PAUSES: [u64; 5] = [100, 200, 400, 800, 1600];

    /// Counts one more loss; how long to wait before the repair.
    pub fn lost(&mut self, now: Time) -> Duration {
        if now.since(self.last) > LONGEST + Duration::from_secs(5) {
            self.repairs = 0;
        }
        self.repairs = self.repairs.saturating_add(1);
        self.last = now;
        let Some(paused) = self.repairs.checked_sub(Self::FREE + 1) else {
            return Duration::ZERO;
        };
        let pause = usize::try_from(paused).ok().and_then(|n| Self::PAUSES.get(n));
        pause.map_or(LONGEST, |ms| Duration::from_millis(*ms))
    }
    pub fn repairs(&self) -> u32 {
        self.repairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_never_exceed_it() {
        for failures in 1..20 {
            for seed in 0..50 {
                let pause = after_failures(failures, seed);
                assert!(
                    pause <= LONGEST && pause >= FIRST * 3 / 4,
                    "{failures} {seed} {pause:?}"
                );
            }
        }
        assert!(after_failures(10, 1) > Duration::from_secs(44));
    }

    #[test]
    fn a_fight_costs_at_most_25_repairs_in_five_seconds_and_one_a_minute_later() {
        let mut fight = Fight::default();
        let mut now = Time::from_secs(1000);
        let mut in_five_seconds = 0;
        let mut later = Vec::new();
        for _ in 0..40 {
            now = now.plus(fight.lost(now)).plus(Duration::from_millis(1));
            if now < Time::from_secs(1005) {
                in_five_seconds += 1;
            } else {
                later.push(now);
            }
        }
        assert!((5..=25).contains(&in_five_seconds), "{in_five_seconds}");
        assert!(later.windows(2).all(|w| w[1].since(w[0]) >= LONGEST));
    }

    #[test]
    fn a_fight_is_forgotten_after_a_quiet_minute() {
        let mut fight = Fight::default();
        let mut now = Time::from_secs(10);
        for _ in 0..12 {
            now = now.plus(fight.lost(now));
        }
        now = now.plus(Duration::from_secs(66));
        assert_eq!(fight.lost(now), Duration::ZERO);
    }
}
