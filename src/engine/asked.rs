//! Where a question to policy stands. While a new answer is awaited the old one holds, so nothing is undone in between.

/// Where an answer of policy stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Asked<V> {
    #[default]
    Never,
    /// To be asked anew; the old verdict holds until the answer comes.
    Stale(V),
    /// Under way; an answer with another ticket is stale. The previous verdict holds until then.
    Waiting {
        ticket: u64,
        previous: Option<V>,
    },
    Answered(V),
}

impl<V> Asked<V> {
    pub fn verdict(&self) -> Option<&V> {
        match self {
            Asked::Never => None,
            Asked::Waiting { previous, .. } => previous.as_ref(),
            Asked::Stale(verdict) | Asked::Answered(verdict) => Some(verdict),
        }
    }
    pub fn is_first_wait(&self) -> bool {
        matches!(self, Asked::Waiting { previous: None, .. })
    }
    pub fn needs_asking(&self) -> bool {
        matches!(self, Asked::Never | Asked::Stale(_))
    }
    pub fn waits_for(&self, ticket: u64) -> bool {
        matches!(self, Asked::Waiting { ticket: t, .. } if *t == ticket)
    }
    fn take(&mut self) -> Option<V> {
        match std::mem::take(self) {
            Asked::Never => None,
            Asked::Waiting { previous, .. } => previous,
            Asked::Stale(verdict) | Asked::Answered(verdict) => Some(verdict),
        }
    }
    /// The input changed: the verdict so far holds until a new one is there.
    pub fn make_stale(&mut self) {
        *self = match self.take() {
            Some(verdict) => Asked::Stale(verdict),
            None => Asked::Never,
        };
    }
    pub fn ask(&mut self, ticket: u64) {
        *self = Asked::Waiting {
            ticket,
            previous: self.take(),
        };
    }
}
