//! What a plugin answered, by what it looked at for that.
//!
//! A hook is a function of `ctx`: with the parts it has seen so far being equal, it looks at the same part next, and in
//! the end says the same. So its answers form a tree: at each node stands the part that it looks at there, one branch
//! for each content of that part, and at the leaves stand the answers. A plugin that has no say about a network is done
//! after `ctx.network`, whatever the tap.

use super::job::{Digest, Job};
use crate::policy::api::Hook;
use crate::policy::api::context::Part;
use crate::policy::api::decision::Verdict;
use std::collections::HashMap;
use std::sync::Arc;

/// Nodes and leaves. Then all are forgotten: what is still asked comes back at once.
const MAX_PLACES: usize = 1024;

/// The tree, each place under the digest of the way to it.
#[derive(Debug, Default)]
pub struct Remembered(HashMap<u128, Place>);

#[derive(Debug)]
enum Place {
    LooksAt(Part),
    Says(Option<Arc<Verdict>>),
}

/// `None` inside: it has no opinion.
pub type Answer = Option<Arc<Verdict>>;

impl Remembered {
    /// The answer to a question, if it was given before to one with the same parts.
    pub fn recall(&self, job: &mut Job) -> Option<Answer> {
        let mut way = start(job.hook);
        loop {
            match self.0.get(&way)? {
                Place::Says(answer) => return Some(answer.clone()),
                Place::LooksAt(part) => way = on(way, job.digest(*part)?),
            }
        }
    }

    /// `read`: the parts in the order in which they were first looked at.
    pub fn store(&mut self, job: &mut Job, read: &[Part], answer: Answer) {
        if self.0.len() + read.len() >= MAX_PLACES {
            self.0.clear();
        }
        let mut way = start(job.hook);
        for part in read {
            let Some(digest) = job.digest(*part) else { return };
            self.0.insert(way, Place::LooksAt(*part));
            way = on(way, digest);
        }
        self.0.insert(way, Place::Says(answer));
    }
}

fn start(hook: Hook) -> u128 {
    Digest::of(&(hook as u8))
}

fn on(way: u128, digest: u128) -> u128 {
    Digest::of(&(way, digest))
}
