//! Waiting for the kernel or the daemon to reach a state.

use super::world::slowness;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks. Not a synchronisation: the predicate decides.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Looks until `reached`, else panics with `what` after `limit` (longer in a virtual machine).
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut reached: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(
            begin.elapsed() < limit * slowness(),
            "not reached after {limit:?}: {what}"
        );
        thread::sleep(LOOK_AGAIN);
    }
}
