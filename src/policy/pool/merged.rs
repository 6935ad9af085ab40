//! What the plugins said together, of late.
//!
//! Plugins say the same of tap after tap, and an answer said again is the one kept from the first time
//! (`plugin/said.rs`). So whether it all was merged before shows in a few comparisons of pointers, and taps that were
//! told the same share one decision.
//!
//! Locked for these comparisons only: a merge of long lists takes its time, and the loop asks here too.

use crate::policy::api::decision::{Decision, Verdict};
use crate::policy::api::{Conflict, Hook};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// For each hook.
const KEPT: usize = 8;
/// Fields in a decision that is kept: a list of a thousand entries is memory, and hardly ever the same again.
const MAX_FIELDS: usize = 64;

/// Both parts of a merge.
pub type Outcome = (Arc<Decision>, Arc<[Conflict]>);

#[derive(Debug, Default)]
pub struct Merged(Mutex<[VecDeque<Known>; Hook::ALL.len()]>);

#[derive(Debug)]
struct Known {
    /// By lane. Held, so that nothing else comes to lie at the same place.
    said: Vec<Option<Arc<Verdict>>>,
    outcome: Outcome,
}

impl Merged {
    /// The outcome for these verdicts, by lane; `merge` makes one that is not known.
    pub fn outcome<'a>(
        &self,
        hook: Hook,
        said: impl Iterator<Item = Option<&'a Arc<Verdict>>> + Clone,
        merge: impl FnOnce() -> (Decision, Vec<Conflict>),
    ) -> Outcome {
        let same = |known: &&Known| {
            said.clone().zip(&known.said).all(|pair| match pair {
                (Some(now), Some(then)) => Arc::ptr_eq(now, then),
                (None, None) => true,
                _ => false,
            })
        };
        let known = self.lock().get(hook as usize).and_then(|all| {
            let known = all.iter().find(same)?;
            Some(known.outcome.clone())
        });
        if let Some(outcome) = known {
            return outcome;
        }
        let (decision, conflicts) = merge();
        let outcome: Outcome = (Arc::new(decision), conflicts.into());
        if field_count(&outcome.0) <= MAX_FIELDS
            && let Some(all) = self.lock().get_mut(hook as usize)
        {
            all.truncate(KEPT - 1);
            all.push_front(Known {
                said: said.map(|verdict| verdict.cloned()).collect(),
                outcome: outcome.clone(),
            });
        }
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, [VecDeque<Known>; Hook::ALL.len()]> {
        // Whole values only: what a panic left behind is usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fields and list entries.
fn field_count(decision: &Decision) -> usize {
    match decision {
        Decision::Resolve(decided) => decided.by.len(),
        Decision::Network(decided) => decided.by.len(),
        Decision::Port(decided) => decided.by.len(),
        Decision::Admit(decided) => decided.by.len(),
        Decision::Observe(decided) => decided.by.len(),
        Decision::Nothing => 0,
    }
}
