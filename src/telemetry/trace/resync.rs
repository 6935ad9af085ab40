//! After a loss: what a fresh listing says that the messages did not.
//!
//! Rows go through the same comparison as messages; what was known and is not listed is gone.

use super::event::{Line, Loss, Object, Word};
use super::fields::{Facts, Field};
use super::key::{Key, kind_of};
use super::state::{Told, Tracer};
use crate::kernel::watch::{Head, decode};
use std::collections::BTreeSet;

/// What a listing has named so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub devices: BTreeSet<u32>,
    pub ports: BTreeSet<u32>,
    pub objects: BTreeSet<Key>,
}

impl Tracer {
    /// After a loss: the marker, then every difference between what was known and the listing.
    pub fn resync<'a>(
        &mut self,
        rows: impl IntoIterator<Item = &'a [u8]>,
        lost: Option<u64>,
        resync_ms: u64,
        ts_us: u64,
    ) -> Vec<Line> {
        self.seq += 1;
        let mut lines = vec![Line::Loss(Loss {
            ts_us,
            seq: self.seq,
            lost,
            resync_ms,
        })];
        self.seen = Some(Seen::default());
        for row in rows {
            match decode(row) {
                Ok(notice) => {
                    let told = self.tell(&notice);
                    if told.word != Word::Change || !told.diff.is_empty() {
                        lines.push(self.found(told, ts_us));
                    }
                }
                Err(_) => self.undecodable += 1,
            }
        }
        let seen = self.seen.take().unwrap_or_default();
        for told in self.sweep(&seen) {
            lines.push(self.found(told, ts_us));
        }
        lines
    }

    fn found(&mut self, told: Told, ts_us: u64) -> Line {
        let mut event = self.event(told, Head::default(), ts_us);
        event.resync = true;
        Line::Event(Box::new(event))
    }

    /// What is known but was not listed: objects first, then ports, then links, as the kernel would take them down.
    fn sweep(&mut self, seen: &Seen) -> Vec<Told> {
        let lost: Vec<Key> = self
            .objects
            .keys()
            .filter(|k| !seen.objects.contains(k))
            .cloned()
            .collect();
        let mut told = Vec::new();
        for key in lost {
            let facts = self.objects.remove(&key).unwrap_or_default();
            let (object, family) = kind_of(&key.name);
            // A device's own: an entry of a bridge's table belongs to the port it points at.
            let index = device_field(&facts).unwrap_or(key.owner);
            told.push(Told {
                word: Word::Gone,
                object,
                family,
                index,
                key: Some(key.name.to_string().into()),
                diff: Vec::new(),
                left: None,
            });
        }
        let mut links: Vec<u32> = self.devices.keys().copied().collect();
        links.sort_unstable();
        for index in &links {
            let released =
                !seen.ports.contains(index) && self.devices.get(index).is_some_and(|d| d.port.is_some());
            if released {
                told.push(self.port_gone(*index));
            }
        }
        let gone = links.into_iter().filter(|index| !seen.devices.contains(index));
        told.extend(gone.map(|index| Told::of_device(Word::Gone, Object::Link, index, Vec::new())));
        told
    }
}

fn device_field(facts: &Facts) -> Option<u32> {
    facts.iter().find_map(|(name, value)| match value {
        Field::Device(index) if *name == "dev" => Some(*index),
        _ => None,
    })
}
