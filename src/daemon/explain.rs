//! `explain`: the story of one tap from the flight recorder, and where it stands now.

use super::reactor::Reactor;
use crate::control::api::{Failure, FailureKind, PortState as Word, StepKind, Story, StoryStep};
use crate::desired::port::PortIntent;
use crate::desired::segment::{Waiting, derive_segment};
use crate::engine::state::{PortState, SegmentState, Tap};
use crate::model::Link;
use crate::observed::is_tap_kind;
use crate::telemetry::explain::{self, Standing};
use crate::telemetry::flight::Kind;

impl Reactor {
    pub(super) fn explain(&self, port: &str) -> Result<Story, Failure> {
        let target = crate::control::spec::PortTarget::parse(port)
            .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        let link = self.engine.observed().by_name(&target.tap);
        let tap = link.and_then(|l| self.engine.tap(l.index));
        let ifindex = link.map(|l| l.index.get());
        let network = tap.and_then(|t| t.intent.network()).map(|id| id.as_str());
        let mut steps = self
            .observer
            .flight
            .of_device(ifindex.unwrap_or(0), &target.tap.to_text(), network);
        // Operations are recorded as they end, what the engine notes a moment later: put them in order.
        steps.sort_by_key(|step| step.at_us);
        if link.is_none() && steps.is_empty() {
            return Err(
                Failure::new(FailureKind::NotFound, format!("no link is named {}", target.tap)).hint(
                    "it is looked at the moment it appears; `tapwire port list --all` shows what is there",
                ),
            );
        }
        let now = self.now().micros();
        let lines = self.with_standing(link, tap, |standing| explain::story(&steps, standing));
        let steps = lines.into_iter().map(|line| StoryStep {
            at_us: line.at_us.unwrap_or(now),
            cause: line.cause,
            kind: match line.kind {
                Kind::Event | Kind::Resync | Kind::Overrun | Kind::Lease => StepKind::Event,
                Kind::Mapping => StepKind::Mapping,
                Kind::Policy => StepKind::Policy,
                Kind::Op => StepKind::Op,
                Kind::State => StepKind::State,
            },
            text: line.text,
            elapsed_us: line.elapsed_us,
            ok: line.ok,
        });
        Ok(Story {
            tap: target.tap.to_string(),
            ifindex,
            state: tap.map_or(Word::Unmanaged, |t| super::rows::port_word(&t.state)),
            reason: tap.map(|t| t.state.to_string()).filter(|text| !text.is_empty()),
            network: network.map(str::to_owned),
            steps: steps.collect(),
        })
    }

    /// Where a tap stands, in the words of `explain`; borrowed data lives as long as the call.
    fn with_standing<T>(
        &self,
        link: Option<&Link>,
        tap: Option<&Tap>,
        tell: impl FnOnce(&Standing<'_>) -> T,
    ) -> T {
        let desired = self.engine.desired();
        let Some(link) = link else {
            return tell(&Standing::NoSuchLink);
        };
        let Some(tap) = tap else {
            if !is_tap_kind(&link.kind, &desired.taps.other_kinds) {
                return tell(&Standing::KindNotMatched {
                    kind: link.kind.name(),
                });
            }
            let patterns: Vec<&str> = desired.taps.patterns.iter().map(|p| p.as_str()).collect();
            return tell(&Standing::NameNotMatched {
                patterns: &patterns.join(", "),
            });
        };
        let retry_s = tap
            .retry_at
            .filter(|at| at.micros() != u64::MAX)
            .map(|at| at.since(self.now()).as_secs());
        let bridge_name = |want: &crate::desired::port::PortWant| {
            desired
                .network(&want.network)
                .and_then(|n| desired.bridge_name(n))
                .map(|n| n.to_string())
                .unwrap_or_default()
        };
        let want = match &tap.intent {
            PortIntent::Unmanaged => return tell(&Standing::IgnoredByPolicy),
            PortIntent::Unmapped => return tell(&Standing::NoMapping),
            PortIntent::UnknownNetwork(id) => {
                return tell(&Standing::UnknownNetwork { network: id.as_str() });
            }
            PortIntent::Denied { plugin, reason } => return tell(&Standing::Denied { plugin, reason }),
            PortIntent::Attach(want) => want,
        };
        let network = want.network.as_str();
        let bridge = bridge_name(want);
        match &tap.state {
            PortState::Attached => tell(&Standing::Attached {
                network,
                bridge: &bridge,
                up: link.up,
                admin_state_up: want.admin_state_up,
                remark: tap.remark.as_deref(),
            }),
            PortState::Conflict { bridge: holder, .. } if !holder.is_empty() => {
                tell(&Standing::ForeignBridge { bridge: holder })
            }
            PortState::Conflict { reason, .. } => tell(&Standing::Fight { reason, retry_s }),
            PortState::Denied { plugin, reason } => tell(&Standing::Denied { plugin, reason }),
            PortState::Configuring => tell(&Standing::Configuring),
            PortState::Pending { .. } | PortState::Failed { .. } => {
                match self.engine.segment(&want.network).map(|s| &s.state) {
                    Some(SegmentState::Pending { .. }) => match self.waiting(&want.network) {
                        Some(waiting) => tell(&Standing::NetworkWaits {
                            network,
                            waiting: &waiting,
                        }),
                        None => tell(&Standing::Configuring),
                    },
                    Some(SegmentState::Failed { error, .. }) => {
                        tell(&Standing::NetworkFailed { network, error })
                    }
                    Some(SegmentState::Conflict { reason }) => {
                        tell(&Standing::NetworkConflict { network, reason })
                    }
                    _ => match &tap.state {
                        PortState::Failed { error, .. } => tell(&Standing::Failed {
                            network,
                            bridge: &bridge,
                            error,
                            retry_s,
                        }),
                        _ => tell(&Standing::WaitsForPolicy),
                    },
                }
            }
        }
    }

    fn waiting(&self, id: &crate::model::NetworkId) -> Option<Waiting> {
        let network = self.engine.desired().network(id)?;
        let verdict = self.engine.segment(id).and_then(|s| s.verdict.verdict());
        derive_segment(self.engine.desired(), self.engine.observed(), network, verdict).err()
    }
}
