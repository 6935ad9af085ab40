//! Time as an argument: the pure folders never read a clock.

use std::fmt;
use std::time::Duration;

/// Microseconds of `CLOCK_BOOTTIME`-like monotonic time since the daemon started; unaffected by wall-clock steps.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Time(pub u64);

impl Time {
    pub const ZERO: Time = Time(0);

    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1000)
    }
    pub const fn from_secs(s: u64) -> Self {
        Self(s * 1_000_000)
    }
    pub const fn micros(self) -> u64 {
        self.0
    }
    /// Time passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
    #[must_use]
    pub fn plus(self, by: Duration) -> Time {
        Time(
            self.0
                .saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}
