//! What goes to stdout: JSON for machines, aligned columns for people.
//!
//! Colours only on a terminal and never with `NO_COLOR`. Names that come from the kernel may hold any byte, escape
//! sequences included; control characters are shown escaped, never sent to the terminal.

use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, StdoutLock, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Attention,
    Bad,
    Accent,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Attention => "33",
            Style::Bad => "31",
            Style::Accent => "36",
        }
    }
}

/// Whether a stream takes colours.
pub fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// The buffered standard output of one command.
#[derive(Debug)]
pub struct Output {
    out: io::BufWriter<StdoutLock<'static>>,
    colour: bool,
}

impl Output {
    pub fn stdout() -> Self {
        let out = io::stdout().lock();
        let colour = colour(&out);
        Self {
            out: io::BufWriter::new(out),
            colour,
        }
    }

    pub fn has_colour(&self) -> bool {
        self.colour
    }

    pub fn paint(&self, style: Style, text: &str) -> String {
        let text = plain(text);
        if self.colour && style != Style::Plain {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text
        }
    }

    /// Already painted text, and a newline.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// Text from outside, as it is (files made by us, completions, metrics).
    pub fn raw(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    /// One JSON value on one line.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        let mut widths: Vec<usize> = table.heads.iter().map(|h| h.chars().count()).collect();
        for row in &table.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(plain(&cell.text).chars().count());
            }
        }
        let heads: Vec<Cell> = table.heads.iter().map(|h| Cell::styled(Style::Dim, *h)).collect();
        self.row(&heads, &widths, &table.right)?;
        for row in &table.rows {
            self.row(row, &widths, &table.right)?;
        }
        Ok(())
    }

    fn row(&mut self, cells: &[Cell], widths: &[usize], right: &[bool]) -> io::Result<()> {
        let mut line = String::new();
        let last = cells.len().saturating_sub(1);
        for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let pad = width.saturating_sub(plain(&cell.text).chars().count());
            let painted = self.paint(cell.style, &cell.text);
            let spaces = " ".repeat(pad);
            if right.get(at).copied().unwrap_or(false) {
                line.push_str(&spaces);
                line.push_str(&painted);
            } else {
                line.push_str(&painted);
                if at != last {
                    line.push_str(&spaces);
                }
            }
            if at != last {
                line.push_str("  ");
            }
        }
        self.line(line.trim_end())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[derive(Debug, Clone)]
pub struct Cell {
    style: Style,
    text: String,
}

impl Cell {
    pub fn styled(style: Style, text: impl Into<String>) -> Self {
        Self {
            style,
            text: text.into(),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::styled(Style::Plain, text)
    }
}
impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::styled(Style::Plain, text)
    }
}
impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::from(number.to_string())
    }
}
impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::from(number.to_string())
    }
}
/// Nothing to say is a dash.
impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(|| Self::styled(Style::Dim, "-"), Into::into)
    }
}

/// Columns are as wide as their widest cell; the last one is not padded.
#[derive(Debug)]
pub struct Table {
    heads: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A head that starts with `>` makes a right-aligned column.
    pub fn new(heads: &[&'static str]) -> Self {
        Self {
            right: heads.iter().map(|h| h.starts_with('>')).collect(),
            heads: heads.iter().map(|h| h.trim_start_matches('>')).collect(),
            rows: Vec::new(),
        }
    }
    pub fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }
}

/// Control characters escaped, so that a device's name or alias cannot steer the terminal.
pub fn plain(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() {
            // Writing to a String cannot fail.
            let _ = write!(safe, "{}", c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// "412 us", "3.20 ms", "1.50 s".
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

/// "3d 4h", "5h 12m", "12m 3s", "3s".
pub fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// "1 file", "2 files".
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_like_times() {
        assert_eq!(micros(412), "412 us");
        assert_eq!(micros(3_207), "3.20 ms");
        assert_eq!(micros(1_507_000), "1.50 s");
        assert_eq!(uptime(3), "3s");
        assert_eq!(uptime(723), "12m 3s");
        assert_eq!(uptime(18_720), "5h 12m");
        assert_eq!(uptime(273_600), "3d 4h");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(plain("tap\u{1b}[31m"), "tap\\u{1b}[31m");
        assert_eq!(plain("täp0"), "täp0");
    }
}
