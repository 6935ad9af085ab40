//! The texts that were read, and places in them.
//!
//! A place is three numbers, so that a hundred thousand networks can carry theirs; line and column are only worked
//! out for the places that end up in a message.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A run of bytes in one of the files read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub file: FileId,
    start: u32,
    end: u32,
}

/// Which of the files of one load, in the order they were read; the main file is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(u32);

/// A value with the place that said it.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

impl Place {
    /// `Sources::add` refuses texts that 32 bits cannot address, so nothing is lost here.
    pub fn new(file: FileId, span: &Range<usize>) -> Self {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            file,
            start: clamp(span.start),
            end: clamp(span.end),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Sources {
    files: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    /// As the user wrote it, or as it was derived from that; for messages.
    path: PathBuf,
    text: Arc<str>,
    /// Byte offset of each line's first byte.
    lines: Vec<u32>,
}

/// Where a place is, for people: lines and columns count from 1, columns in characters.
pub(super) struct Position<'a> {
    pub path: &'a Path,
    pub line: usize,
    pub column: usize,
    /// The line itself, without its end.
    pub text: &'a str,
    /// The marked bytes of `text`; cut at the end of the line.
    pub span: Range<usize>,
}

impl Sources {
    /// Largest file taken, bytes. A million networks are some 150 MB; anything above is not a configuration.
    pub const LARGEST: u64 = 1 << 30;

    pub fn add(&mut self, path: &Path, text: String) -> FileId {
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0)
            .chain(starts.map(|(at, _)| u32::try_from(at + 1).unwrap_or(u32::MAX)))
            .collect();
        self.files.push(Source {
            path: path.to_owned(),
            text: text.into(),
            lines,
        });
        id
    }

    pub fn text(&self, id: FileId) -> Arc<str> {
        self.source(id).map_or_else(|| "".into(), |s| s.text.clone())
    }

    pub fn path(&self, id: FileId) -> &Path {
        self.source(id).map_or(Path::new(""), |s| &s.path)
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|s| s.path.as_path())
    }

    /// "/etc/tapwire/networks.d/a.toml:12", what `status` and errors at run time say of a network or port.
    pub fn origin(&self, place: Place) -> String {
        let line = self.source(place.file).map_or(0, |s| s.line_of(place.start));
        format!("{}:{}", self.path(place.file).display(), line + 1)
    }

    pub fn position(&self, place: Place) -> Option<Position<'_>> {
        let source = self.source(place.file)?;
        let line = source.line_of(place.start);
        let begin = *source.lines.get(line)? as usize;
        let end = source
            .lines
            .get(line + 1)
            .map_or(source.text.len(), |e| *e as usize);
        let text = source.text.get(begin..end)?.trim_end_matches(['\n', '\r']);
        let start = floor_char(text, (place.start as usize).saturating_sub(begin));
        let stop = floor_char(text, (place.end as usize).saturating_sub(begin)).max(start);
        Some(Position {
            path: &source.path,
            line: line + 1,
            column: text.get(..start)?.chars().count() + 1,
            text,
            span: start..stop,
        })
    }

    fn source(&self, id: FileId) -> Option<&Source> {
        self.files.get(id.0 as usize)
    }
}

impl Source {
    /// Zero-based number of the line that holds the byte.
    fn line_of(&self, byte: u32) -> usize {
        self.lines
            .partition_point(|start| *start <= byte)
            .saturating_sub(1)
    }
}

/// The largest character boundary not behind `at`.
fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_end_at_either_kind_of_newline() {
        let mut sources = Sources::default();
        let file = sources.add(Path::new("a.toml"), "x = 1\r\nnäme = 2\n".into());
        let at = |start, end| sources.position(Place::new(file, &(start..end))).unwrap();
        let p = at(7, 12);
        assert_eq!((p.line, p.column, p.text), (2, 1, "näme = 2"));
        assert_eq!(at(15, 16).column, 8);
        let eof = at(17, 17);
        assert_eq!((eof.line, eof.column, eof.text), (3, 1, ""));
        assert_eq!(sources.origin(Place::new(file, &(7..8))), "a.toml:2");
    }

    #[test]
    fn a_mark_over_several_lines_is_cut_at_the_first() {
        let mut sources = Sources::default();
        let file = sources.add(Path::new("a.toml"), "x = [\n1,\n2]\n".into());
        let p = sources.position(Place::new(file, &(4..11))).unwrap();
        assert_eq!(p.span, 4..5);
    }
}
