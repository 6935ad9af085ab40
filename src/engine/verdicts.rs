//! Policy's answers: kept by key, asked anew when their input changed. The old one holds until the new one is there.

use super::Engine;
use super::event::Why;
use super::state::Asked;
use crate::desired::verdict::{NetworkVerdict, PortVerdict};
use crate::model::{Ifindex, NetworkId};
use crate::plan::CauseId;

impl Engine {
    pub(super) fn on_port_verdict(&mut self, index: Ifindex, ticket: u64, verdict: PortVerdict) {
        let Some(tap) = self.taps.get_mut(&index) else {
            return;
        };
        if !tap.verdict.waits_for(ticket) {
            return;
        }
        // Policy's entries live on the network's VXLAN device; those of the old verdict go from there.
        let before = tap.has_entries();
        tap.verdict = Asked::Answered(Box::new(verdict));
        let entries = before || tap.has_entries();
        let cause = tap.cause;
        if entries && let Some(id) = tap.intent.network().cloned() {
            self.mark_segment(&id, cause);
        }
        self.mark_tap(index, cause);
    }

    /// The question is asked anew when the tap is looked at; until then the old verdict holds.
    pub(super) fn ask_port_again(&mut self, index: Ifindex, why: Why) {
        if !self.policy.ports {
            return;
        }
        if let Some(tap) = self.taps.get_mut(&index) {
            tap.ask_again(why);
        }
    }

    pub(super) fn on_network_verdict(&mut self, id: &NetworkId, ticket: u64, verdict: NetworkVerdict) {
        let Some(entry) = self.segments.get_mut(id) else {
            return;
        };
        if entry.verdict.waits_for(ticket) {
            entry.verdict = Asked::Answered(verdict);
            let cause = entry.cause;
            self.mark_segment(id, cause);
        }
    }

    pub(super) fn ask_network_again(&mut self, id: &NetworkId, why: Why) {
        if self.policy.networks
            && let Some(entry) = self.segments.get_mut(id)
        {
            entry.ask_again(why);
        }
    }

    pub(super) fn ask_everything_again(&mut self, why: Why) {
        if self.policy.networks {
            for entry in self.segments.values_mut() {
                entry.ask_again(why);
            }
        }
        if self.policy.ports {
            for tap in self.taps.values_mut() {
                tap.ask_again(why);
            }
        }
    }

    /// A link that is no tap of ours has another MTU: it may be what a network's verdict was made from (an uplink, the
    /// underlay of a VXLAN network). Answers from memory make this cheap for whoever was not meant.
    pub(super) fn on_foreign_mtu(&mut self, cause: CauseId) {
        if !self.policy.networks && !self.policy.ports {
            return;
        }
        self.ask_everything_again(Why::Change);
        self.mark_everything(cause);
    }

    /// Policy is another one now: what it asks no more falls back to no opinion, the rest is asked again.
    pub(super) fn forget_verdicts(&mut self) {
        for entry in self.segments.values_mut() {
            if self.policy.networks {
                entry.ask_again(Why::Reload)
            } else {
                entry.verdict = Asked::Never
            }
        }
        for tap in self.taps.values_mut() {
            if self.policy.ports {
                tap.ask_again(Why::Reload)
            } else {
                tap.verdict = Asked::Never
            }
        }
    }
}
