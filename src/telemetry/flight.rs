//! The flight recorder: the daemon's last few thousand steps, in memory, bounded, on unless configured away.
//!
//! A ring of bytes of fixed size. A record is a fixed head and up to three short texts; the oldest are overwritten.
//! Pushing copies some 60 bytes and allocates nothing; nothing on the daemon's path waits for a reader. Reading
//! (`tapwire explain`, `tapwire trace --history`, the dump on a panic) walks the ring oldest first and allocates.
//! (`[daemon] flight_recorder` sets the size; 0 is a recorder that records nothing, for whoever wants the bytes back.)
//! Texts longer than they may be are cut at a character's end, never the record.
//!
//! Lost with the process, on purpose: nothing in here is needed for a correct kernel.

mod step;

pub use step::{Kind, Step};

use super::clock;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MIN_CAPACITY: usize = 4 << 10;

/// Head of a record: length u16, kind u8, three text lengths u8, errno u16, ifindex u32, elapsed u32, at u64, cause u64.
const HEAD: usize = 32;
/// A record's length where the ring continues at its start instead.
const WRAP: u16 = 0;
const MAX_TEXT: usize = u8::MAX as usize;

/// See the module.
#[derive(Debug)]
pub struct FlightRecorder {
    ring: Box<[u8]>,
    /// Of the oldest record.
    head: usize,
    /// Behind the newest.
    tail: usize,
    records: usize,
    /// All ever pushed.
    pushed: u64,
    /// Where to leave everything when the thread that owns this panics.
    on_panic: Option<PathBuf>,
}

impl FlightRecorder {
    /// `capacity` in bytes, not fewer than 4 KiB; allocated at once and never again. 0: it records nothing.
    pub fn new(capacity: usize) -> Self {
        let capacity = match capacity {
            0 => 0,
            some => some.max(MIN_CAPACITY),
        };
        Self {
            ring: vec![0; capacity].into(),
            head: 0,
            tail: 0,
            records: 0,
            pushed: 0,
            on_panic: None,
        }
    }

    /// Records nothing: what it would be told need not be worked out.
    pub fn is_off(&self) -> bool {
        self.ring.is_empty()
    }

    /// Records held now.
    pub fn len(&self) -> usize {
        self.records
    }
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }
    /// Records overwritten so far.
    pub fn overwritten(&self) -> u64 {
        self.pushed - self.records as u64
    }

    /// Adds a step, overwriting the oldest where there is no room.
    pub fn push(&mut self, step: Step<'_>) {
        if self.is_off() {
            return;
        }
        let (name, word, text) = (cut(step.name), cut(step.word), cut(step.text));
        let len = HEAD + name.len() + word.len() + text.len();
        self.make_room(len);
        let mut record = [0; HEAD];
        let fields: [&[u8]; 8] = [
            &(len as u16).to_ne_bytes(),
            &[
                step.kind as u8,
                name.len() as u8,
                word.len() as u8,
                text.len() as u8,
            ],
            &step.errno.to_ne_bytes(),
            &step.ifindex.to_ne_bytes(),
            &step.elapsed_us.to_ne_bytes(),
            &step.at_us.to_ne_bytes(),
            &step.cause.to_ne_bytes(),
            &[],
        ];
        copy(&mut record, &fields);
        if let Some(to) = self.ring.get_mut(self.tail..self.tail + len) {
            copy(to, &[&record, name.as_bytes(), word.as_bytes(), text.as_bytes()]);
            self.tail += len;
            self.records += 1;
            self.pushed += 1;
        }
    }

    /// Room for `len` bytes in one piece at `tail`.
    fn make_room(&mut self, len: usize) {
        if self.tail + len > self.ring.len() {
            // The rest of the ring is too short. Drop what is left of the last round there, mark it, start over.
            while self.records > 0 && self.head >= self.tail {
                self.drop_oldest();
            }
            if let Some(mark) = self.ring.get_mut(self.tail..self.tail + 2) {
                mark.copy_from_slice(&WRAP.to_ne_bytes());
            }
            self.tail = 0;
        }
        while self.records > 0 && self.head >= self.tail && self.head < self.tail + len {
            self.drop_oldest();
        }
        if self.records == 0 {
            self.head = self.tail;
        }
    }

    fn drop_oldest(&mut self) {
        let len = self.length_at(self.head);
        self.head = self.settle(self.head + len);
        self.records -= 1;
    }

    fn length_at(&self, at: usize) -> usize {
        let raw = self.ring.get(at..at + 2).and_then(|raw| raw.try_into().ok());
        usize::from(raw.map_or(WRAP, u16::from_ne_bytes))
    }

    /// Where the record that would be at `at` really is.
    fn settle(&self, at: usize) -> usize {
        // At the tail there is no record yet, so no mark either.
        if at != self.tail && self.length_at(at) == usize::from(WRAP) {
            0
        } else {
            at
        }
    }

    /// All steps, oldest first.
    pub fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let mut at = self.head;
        (0..self.records).map_while(move |_| {
            let len = self.length_at(at);
            let step = read(self.ring.get(at..at + len)?)?;
            at = self.settle(at + len);
            Some(step)
        })
    }

    /// The story of one device: its steps by index, those under its name before it had one, its network's operations
    /// of the same causes, and what concerned all (resyncs, overruns) in between. An index that was another device
    /// before starts with that device's end. `ifindex` 0: the device is gone, and the last one of that name is meant.
    pub fn of_device<'a>(&'a self, ifindex: u32, name: &str, network: Option<&str>) -> Vec<Step<'a>> {
        let ifindex = match ifindex {
            0 => self
                .steps()
                .filter(|step| step.name == name && step.ifindex != 0)
                .last()
                .map_or(0, |step| step.ifindex),
            known => known,
        };
        let mine = |step: &Step<'_>| match step.ifindex {
            0 => step.name == name,
            index => index == ifindex,
        };
        let causes: BTreeSet<u64> = self.steps().filter(mine).map(|step| step.cause).collect();
        let of_network = |step: &Step<'_>| {
            step.kind == Kind::Op
                && step.ifindex == 0
                && Some(step.name) == network
                && causes.contains(&step.cause)
        };
        let mut steps: Vec<_> = self
            .steps()
            .filter(|step| {
                mine(step) || of_network(step) || matches!(step.kind, Kind::Resync | Kind::Overrun)
            })
            .collect();
        // Everything up to the last end of an earlier device under this index is another device's story.
        let earlier = steps
            .iter()
            .rposition(|s| s.kind == Kind::Event && s.word == "gone" && s.ifindex == ifindex);
        if let Some(end) = earlier.filter(|end| steps.iter().skip(end + 1).any(mine)) {
            steps.drain(..=end);
        }
        let first = steps
            .iter()
            .position(|step| mine(step) || of_network(step))
            .unwrap_or(steps.len());
        steps.drain(..first);
        steps
    }

    /// Everything as JSON lines, oldest first: for the state directory, on a panic or on request.
    pub fn dump(&self, to: &mut impl Write) -> io::Result<()> {
        for step in self.steps() {
            serde_json::to_writer(&mut *to, &step)?;
            to.write_all(b"\n")?;
        }
        to.flush()
    }

    /// Writes [`FlightRecorder::dump`] into a file of its own in `directory`, readable by the owner only, whole or not
    /// at all; its path. `why` becomes part of the name ("panic", "request").
    pub fn dump_into(&self, directory: &Path, why: &str) -> io::Result<PathBuf> {
        // Nothing may have been kept in it yet.
        std::fs::create_dir_all(directory)?;
        let name = format!("flight-{}-{why}.jsonl", clock::wall_us() / 1_000_000);
        let (path, partial) = (directory.join(&name), directory.join(format!(".{name}.partial")));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        self.dump(&mut BufWriter::new(&file))?;
        file.sync_all()?;
        std::fs::rename(&partial, &path)?;
        Ok(path)
    }

    /// From now on a panic that unwinds through the owner leaves a dump in `directory`.
    pub fn dump_on_panic(&mut self, directory: impl Into<PathBuf>) {
        self.on_panic = Some(directory.into());
    }
}

impl Drop for FlightRecorder {
    fn drop(&mut self) {
        if let Some(directory) = self.on_panic.take().filter(|_| std::thread::panicking()) {
            match self.dump_into(&directory, "panic") {
                Ok(path) => tracing::error!(path = %path.display(), "flight recorder saved"),
                Err(error) => tracing::error!(%error, "flight recorder not saved"),
            }
        }
    }
}

fn read(record: &[u8]) -> Option<Step<'_>> {
    let half = |at: usize| Some(u16::from_ne_bytes(record.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?));
    let tag = *record.get(2)?;
    let mut at = HEAD;
    let mut text = |len: usize| {
        let text = std::str::from_utf8(record.get(at..at + len)?).ok()?;
        at += len;
        Some(text)
    };
    Some(Step {
        kind: Kind::ALL.into_iter().find(|kind| *kind as u8 == tag)?,
        name: text(usize::from(*record.get(3)?))?,
        word: text(usize::from(*record.get(4)?))?,
        text: text(usize::from(*record.get(5)?))?,
        errno: half(6)?,
        ifindex: word(8)?,
        elapsed_us: word(12)?,
        at_us: long(16)?,
        cause: long(24)?,
    })
}

/// At most 255 bytes, ending with a whole character.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or(text)
}

fn copy(mut to: &mut [u8], parts: &[&[u8]]) {
    for part in parts {
        let Some((here, rest)) = std::mem::take(&mut to).split_at_mut_checked(part.len()) else {
            return;
        };
        here.copy_from_slice(part);
        to = rest;
    }
}

#[cfg(test)]
mod tests;
