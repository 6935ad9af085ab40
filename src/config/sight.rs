//! Ports whose taps are never looked at.

use super::port::PortDraft;
use super::report::Findings;
use crate::model::{TapMatch, TapSelector};

/// A word left out of `match` concerns every port.
const MAX_WARNINGS: usize = 10;

/// A port's tap must match `taps.match` too. One that can't is never looked at, and nobody hears why.
pub(super) fn check(ports: &[PortDraft], taps: &TapMatch, findings: &mut Findings) {
    let out_of_sight = |tap: &TapSelector| match tap {
        TapSelector::Exact(name) => !taps.patterns.iter().any(|pattern| pattern.matches(name)),
        TapSelector::Pattern(own) => !taps.patterns.iter().any(|pattern| pattern.overlaps(own)),
    };
    let mut taps_out_of_sight = ports
        .iter()
        .filter_map(|port| port.tap.as_ref())
        .filter(|tap| out_of_sight(&tap.value));
    let patterns: Vec<_> = taps.patterns.iter().map(|pattern| pattern.as_str()).collect();
    for tap in taps_out_of_sight.by_ref().take(MAX_WARNINGS) {
        let name = match &tap.value {
            TapSelector::Exact(name) => name.to_string(),
            TapSelector::Pattern(pattern) => pattern.as_str().to_owned(),
        };
        let listed: Vec<_> = patterns.iter().map(|pattern| format!("{pattern:?}")).collect();
        findings
            .warning(
                tap.place,
                format!("tap `{name}` will never be looked at: `match` in [taps] lets no such name in"),
            )
            .hint(format!("in [taps]: match = [{}, \"{name}\"]", listed.join(", ")));
    }
    if let Some(first) = taps_out_of_sight.next() {
        let more = taps_out_of_sight.count() + 1;
        findings.warning(
            first.place,
            format!("{more} more that `match` in [taps] does not let in"),
        );
    }
}
