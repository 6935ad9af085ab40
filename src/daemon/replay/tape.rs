//! A recording as the replay needs it: listings apart from events, our own requests left out.
//!
//! What `tapwire trace --record` writes begins with a listing (requests and rows) and has another one after each loss;
//! everything between is events. Captures of other tools (an nlmon device) also hold requests that change something and
//! their answers: requests never count, whoever sent them, because what they did comes as events.
//!
//! The whole recording is held: a device that the replayed engine makes gets the index under which the recording will
//! tell of it, and that is further on.

use crate::daemon::account::checksum;
use crate::kernel::decode;
use crate::kernel::wire::{Message, Messages};
use crate::kernel::{self};
use crate::model::{Ifindex, Link, LinkName, Time};
use crate::telemetry::record::{Direction, Packet, Reader, RecordError};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Since the recording's first packet.
    pub at: Time,
    pub what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// The rows of one listing of everything, raw.
    Listing(Vec<Box<[u8]>>),
    /// One message of a multicast group, raw.
    Event(Box<[u8]>),
    /// Messages are missing here; how many, if that is known.
    Loss(Option<u64>),
}

#[derive(Debug, Default)]
pub struct Tape {
    pub entries: Vec<Entry>,
    /// The first packet's stamp, in microseconds since 1970.
    pub start_us: u64,
    /// What the daemon told of itself, line by line.
    pub account: Vec<Box<str>>,
    /// Where the file stops making sense; the entries before it are good.
    pub damage: Option<RecordError>,
    births: BTreeMap<LinkName, Vec<Birth>>,
    /// Where the event of this checksum is. Of several that are the same, any is as good.
    sums: BTreeMap<u64, usize>,
}

/// A device that was not there before.
#[derive(Debug)]
struct Birth {
    /// Of the entry that tells it.
    position: usize,
    link: Link,
}

impl Tape {
    /// Reads to the end, or to the first damage. A file that is no recording at all is an error.
    pub fn read(from: impl Read) -> Result<Self, RecordError> {
        let mut tape = Self::default();
        let mut sorter = Sorter::default();
        let mut reader = Reader::open(from)?;
        for packet in &mut reader {
            match packet {
                Ok(packet) => sorter.sort(&packet, &mut tape.entries),
                Err(damage) => tape.damage = Some(damage),
            }
        }
        sorter.end_listing(&mut tape.entries);
        tape.start_us = sorter.start.unwrap_or_default();
        tape.account = reader.take_account();
        tape.births = births(&tape.entries);
        if !tape.account.is_empty() {
            let raw = tape.entries.iter().enumerate();
            let sums = raw.filter_map(|(position, entry)| match &entry.what {
                What::Event(raw) => Some((checksum(raw), position)),
                _ => None,
            });
            tape.sums = sums.collect();
        }
        Ok(tape)
    }

    /// The event of this checksum, raw.
    pub fn message(&self, checksum: u64) -> Option<&[u8]> {
        match &self.entries.get(*self.sums.get(&checksum)?)?.what {
            What::Event(raw) => Some(raw),
            _ => None,
        }
    }

    /// What was there before the first event, raw.
    pub fn first_listing(&self) -> Option<&[Box<[u8]>]> {
        match &self.entries.first()?.what {
            What::Listing(rows) => Some(rows),
            _ => None,
        }
    }

    /// How often messages are missing.
    pub fn losses(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| matches!(entry.what, What::Loss(_)))
            .count()
    }

    /// A listing right behind a loss is complete: what it does not list is gone.
    pub fn follows_loss(&self, position: usize) -> bool {
        follows_loss(&self.entries, position)
    }

    /// The first device of this name that appears behind `position`, as it was first told.
    pub fn birth_after(&self, position: usize, name: &LinkName) -> Option<&Link> {
        let births = self.births.get(name)?;
        births
            .iter()
            .find(|birth| birth.position > position)
            .map(|birth| &birth.link)
    }
}

/// Tells the messages of one stream apart.
#[derive(Debug, Default)]
struct Sorter {
    start: Option<u64>,
    /// Of the listing that is being told, if one is.
    listing: Option<(Time, Vec<Box<[u8]>>)>,
}

impl Sorter {
    fn sort(&mut self, packet: &Packet, into: &mut Vec<Entry>) {
        let start = *self.start.get_or_insert(packet.ts_us);
        // Stamps of other tools' captures may step back.
        let earliest = into.last().map_or(Time::ZERO, |entry| entry.at);
        let at = Time(packet.ts_us.saturating_sub(start)).max(earliest);
        if let Some(lost) = packet.lost_before {
            self.end_listing(into);
            let lost = Some(lost).filter(|lost| *lost > 0);
            into.push(Entry {
                at,
                what: What::Loss(lost),
            });
        }
        for message in Messages::new(&packet.bytes) {
            let Ok(message) = message else {
                // Kept: the engine is told that something cannot be read, as the daemon's would have been.
                into.push(Entry {
                    at,
                    what: What::Event(Box::default()),
                });
                return;
            };
            match packet.direction {
                Direction::ToKernel if is_dump_request(&message) => {
                    self.listing.get_or_insert_with(|| (at, Vec::new()));
                }
                Direction::ToKernel => {}
                Direction::FromKernel if i32::from(message.header.kind) < libc::NLMSG_MIN_TYPE => {}
                Direction::FromKernel if is_row(&message) => {
                    let (_, rows) = self.listing.get_or_insert_with(|| (at, Vec::new()));
                    rows.push(message.raw.into());
                }
                Direction::FromKernel => {
                    self.end_listing(into);
                    into.push(Entry {
                        at,
                        what: What::Event(message.raw.into()),
                    });
                }
            }
        }
    }

    fn end_listing(&mut self, into: &mut Vec<Entry>) {
        if let Some((at, rows)) = self.listing.take() {
            into.push(Entry {
                at,
                what: What::Listing(rows),
            });
        }
    }
}

fn is_dump_request(message: &Message<'_>) -> bool {
    let flags = i32::from(message.header.flags);
    flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP && flags & libc::NLM_F_REQUEST != 0
}

/// Events are never parts of a multipart answer.
fn is_row(message: &Message<'_>) -> bool {
    i32::from(message.header.flags) & libc::NLM_F_MULTI != 0
}

/// The messages of one entry, decoded; `None` for one that cannot be.
pub fn changes(entry: &Entry) -> Vec<Option<kernel::Change>> {
    let one = |raw: &[u8]| {
        let message = Messages::new(raw).next()?.ok()?;
        decode::change(&message).ok()
    };
    match &entry.what {
        What::Listing(rows) => rows.iter().map(|row| one(row)).collect(),
        What::Event(raw) => vec![one(raw)],
        What::Loss(_) => Vec::new(),
    }
}

fn follows_loss(entries: &[Entry], position: usize) -> bool {
    let before = position.checked_sub(1).and_then(|before| entries.get(before));
    let after_loss = matches!(
        before,
        Some(Entry {
            what: What::Loss(_),
            ..
        })
    );
    after_loss
        && matches!(
            entries.get(position),
            Some(Entry {
                what: What::Listing(_),
                ..
            })
        )
}

fn births(entries: &[Entry]) -> BTreeMap<LinkName, Vec<Birth>> {
    let mut births: BTreeMap<LinkName, Vec<Birth>> = BTreeMap::new();
    let mut known: BTreeSet<Ifindex> = BTreeSet::new();
    for (position, entry) in entries.iter().enumerate() {
        let mut listed = BTreeSet::new();
        for change in changes(entry).into_iter().flatten() {
            match change {
                kernel::Change::Link(link) => {
                    listed.insert(link.index);
                    if known.insert(link.index) {
                        births
                            .entry(link.name)
                            .or_default()
                            .push(Birth { position, link });
                    }
                }
                kernel::Change::LinkGone { index, .. } => {
                    known.remove(&index);
                }
                _ => {}
            }
        }
        if follows_loss(entries, position) {
            known = listed;
        }
    }
    births
}
