//! What a plugin's hooks said of late, so that an answer said again is neither converted nor checked again.
//!
//! An answer is a function of the table that the hook returned: an equal table means the same. Whoever was given the
//! answer shares it, thousands of taps included.

use crate::policy::api::Hook;
use crate::policy::api::decision::Verdict;
use crate::policy::lift::lifts_to;
use mlua::Value;
use serde_json::Value as Json;
use std::collections::VecDeque;
use std::sync::Arc;

/// For each hook. Few, as each one that does not match costs a look at the table.
const KEPT: usize = 4;
/// Values in an answer that is kept: a list of a thousand entries is memory, and hardly ever the same again.
const MAX_VALUES: usize = 64;
/// Bytes of one string in it.
const MAX_TEXT: usize = 256;

#[derive(Debug, Default)]
pub struct Said([VecDeque<(Json, Arc<Verdict>)>; Hook::ALL.len()]);

impl Said {
    /// What was said with an equal table.
    pub fn again(&self, hook: Hook, returned: &Value) -> Option<Arc<Verdict>> {
        let mut kept = self.0.get(hook as usize)?.iter();
        let (_, verdict) = kept.find(|(value, _)| lifts_to(returned, value))?;
        Some(Arc::clone(verdict))
    }

    /// `value`: the table, lifted.
    pub fn keep(&mut self, hook: Hook, value: Json, verdict: &Arc<Verdict>) {
        if let Some(kept) = self.0.get_mut(hook as usize) {
            kept.truncate(KEPT - 1);
            kept.push_front((value, Arc::clone(verdict)));
        }
    }

    /// Is it small?
    pub fn is_worth_keeping(value: &Json) -> bool {
        fn fits(value: &Json, left: &mut usize) -> bool {
            let Some(rest) = left.checked_sub(1) else {
                return false;
            };
            *left = rest;
            match value {
                Json::String(text) => text.len() <= MAX_TEXT,
                Json::Array(list) => list.iter().all(|value| fits(value, left)),
                Json::Object(map) => map
                    .iter()
                    .all(|(key, value)| key.len() <= MAX_TEXT && fits(value, left)),
                Json::Null | Json::Bool(_) | Json::Number(_) => true,
            }
        }
        fits(value, &mut MAX_VALUES.clone())
    }
}
