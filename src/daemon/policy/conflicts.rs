//! Answers in which plugins disagree: counted for the metrics, and shown in `status` as long as they stand.

use crate::policy::api::Conflict;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Conflicts {
    /// Since the daemon started.
    counts: BTreeMap<String, u64>,
    /// Of the plugins that run now.
    standing: BTreeMap<String, Standing>,
}

/// The last disagreement about a field.
#[derive(Debug)]
struct Standing {
    kept: String,
    refused: String,
    /// The tap or network it was about.
    subject: String,
    times: u64,
}

impl Conflicts {
    /// False: the same was said before.
    pub fn note(&mut self, conflict: &Conflict, subject: &str) -> bool {
        // Keys of lists and names of tags are the scripts' own: one series for each list.
        let field = conflict.field.split('[').next().unwrap_or_default();
        let field = if field.starts_with("tags") { "tags" } else { field };
        *self.counts.entry(field.to_owned()).or_default() += 1;
        let known = self.standing.get_mut(field);
        if let Some(known) = known.filter(|k| k.kept == conflict.kept && k.refused == conflict.refused) {
            known.times += 1;
            subject.clone_into(&mut known.subject);
            return false;
        }
        let times = self.standing.get(field).map_or(0, |known| known.times);
        self.standing.insert(
            field.to_owned(),
            Standing {
                kept: conflict.kept.clone(),
                refused: conflict.refused.clone(),
                subject: subject.to_owned(),
                times: times + 1,
            },
        );
        true
    }

    /// Other plugins run from here on.
    pub fn forget(&mut self) {
        self.standing.clear();
    }

    pub fn counts(&self) -> Vec<(String, u64)> {
        self.counts.iter().map(|(field, n)| (field.clone(), *n)).collect()
    }

    /// One line for each field.
    pub fn lines(&self) -> Vec<String> {
        let line = |(field, s): (&String, &Standing)| {
            let times = match s.times {
                1 => String::new(),
                times => format!("{times} times, last "),
            };
            format!("{field}: {} ({times}{})", words(&s.kept, &s.refused), s.subject)
        };
        self.standing.iter().map(line).collect()
    }
}

/// What stands and what does not.
pub(super) fn words(kept: &str, refused: &str) -> String {
    format!("{kept} stands, {refused} does not")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict(field: &str, refused: &str) -> Conflict {
        Conflict {
            field: field.into(),
            kept: "a a.lua:2 = 1".into(),
            refused: refused.into(),
        }
    }

    #[test]
    fn what_is_said_again_is_counted_and_what_is_new_is_shown() {
        let mut conflicts = Conflicts::default();
        assert!(conflicts.note(&conflict("mtu", "b b.lua:1 = 2"), "tap1"));
        assert!(!conflicts.note(&conflict("mtu", "b b.lua:1 = 2"), "tap2"));
        assert!(conflicts.note(&conflict("tags.x", "b b.lua:1 = 3"), "tap3"));
        assert_eq!(
            conflicts.lines(),
            [
                "mtu: a a.lua:2 = 1 stands, b b.lua:1 = 2 does not (2 times, last tap2)",
                "tags: a a.lua:2 = 1 stands, b b.lua:1 = 3 does not (tap3)",
            ]
        );
        conflicts.forget();
        assert!(conflicts.lines().is_empty());
        assert_eq!(
            conflicts.counts(),
            [("mtu".to_owned(), 2), ("tags".to_owned(), 1)]
        );
    }
}
