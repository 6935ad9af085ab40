//! Reading a recording, from anybody: every length is checked before it is believed.

use super::{
    ACCOUNT, BYTE_ORDER, COOKED, Direction, ENHANCED_PACKET, INTERFACE, LINK_TYPE, OPTION_DROPS, OPTION_END,
    OPTION_RESOLUTION, SECTION,
};
use std::io::{self, Read};

/// A larger block is a broken length: the longest netlink datagram of this program is 256 KiB.
const MAX_BLOCK: u32 = 1 << 20;
/// Linux's netlink family 0.
const NETLINK_ROUTE: u16 = 0;

/// What is wrong with the file, and where.
#[derive(Debug, thiserror::Error)]
#[error("recording is not readable at byte {offset}: {problem}")]
pub struct RecordError {
    /// Of the block that cannot be read.
    pub offset: u64,
    pub problem: Problem,
}

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Io(#[source] io::Error),
    #[error("not a pcapng file")]
    NotPcapng,
    #[error("recorded on a machine of the other byte order")]
    ByteOrder,
    #[error("the file is cut short")]
    CutShort,
    #[error("a block of {0} bytes")]
    BlockLength(u32),
    #[error("the block's two lengths differ ({0} and {1})")]
    Lengths(u32, u32),
    #[error("a block that is too short for its kind")]
    ShortBlock,
    #[error("link type {0}, not netlink (253)")]
    LinkType(u16),
    #[error("a packet of interface {0}, which is not described")]
    Interface(u32),
    #[error("a packet of {0} bytes that does not fit its block")]
    PacketLength(u32),
    #[error("a line of the daemon's account that is no text")]
    Account,
    #[error("a time resolution of 10^-{0} s or finer")]
    Resolution(u8),
}

/// One recorded message or, in captures of other tools, one datagram of several (`kernel::watch::decode::messages`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Microseconds since 1970, advancing monotonically within one recording of ours.
    pub ts_us: u64,
    pub direction: Direction,
    /// Messages were lost before this one; 0: an unknown number.
    pub lost_before: Option<u64>,
    pub bytes: Vec<u8>,
}

/// Ticks per second of an interface's stamps.
#[derive(Debug, Clone, Copy)]
struct Interface {
    ticks_per_second: u64,
}

/// Yields packets in the file's order; after an error, nothing more.
pub struct Reader<R: Read> {
    from: R,
    offset: u64,
    interfaces: Vec<Interface>,
    account: Vec<Box<str>>,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the head of the file, so that a file of another format is refused at once. `from` should be buffered.
    pub fn open(from: R) -> Result<Self, RecordError> {
        let mut reader = Self {
            from,
            offset: 0,
            interfaces: Vec::new(),
            account: Vec::new(),
            ended: false,
        };
        match reader.block() {
            Ok(Some((SECTION, _))) => Ok(reader),
            Ok(_) => Err(reader.at(0, Problem::NotPcapng)),
            Err(error) => Err(error),
        }
    }

    /// The lines of the daemon's account in what was read so far, in order.
    pub fn take_account(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.account)
    }

    fn at(&self, offset: u64, problem: Problem) -> RecordError {
        RecordError { offset, problem }
    }

    /// Fills `buffer`; false: the file ended before its first byte.
    fn fill(&mut self, buffer: &mut [u8], start: u64) -> Result<bool, RecordError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.at(start, Problem::CutShort)),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.at(start, Problem::Io(error))),
            }
        }
        self.offset += filled as u64;
        Ok(true)
    }

    /// Type and body of the next block; `None` at the end of the file.
    fn block(&mut self) -> Result<Option<(u32, Vec<u8>)>, RecordError> {
        let start = self.offset;
        let first = start == 0;
        let mut head = [0; 8];
        if !self.fill(&mut head, start)? {
            return if first {
                Err(self.at(0, Problem::NotPcapng))
            } else {
                Ok(None)
            };
        }
        let (kind, len) = (word(&head, 0).unwrap_or(0), word(&head, 4).unwrap_or(0));
        if first && kind != SECTION {
            return Err(self.at(0, Problem::NotPcapng));
        }
        // A section's byte order comes before its length can be believed.
        let mut body = Vec::new();
        if kind == SECTION {
            let mut magic = [0; 4];
            if !self.fill(&mut magic, start)? {
                return Err(self.at(start, Problem::CutShort));
            }
            match u32::from_ne_bytes(magic) {
                BYTE_ORDER => {}
                swapped if swapped.swap_bytes() == BYTE_ORDER => {
                    return Err(self.at(start, Problem::ByteOrder));
                }
                _ => return Err(self.at(start, Problem::NotPcapng)),
            }
            body.extend(magic);
        }
        if len % 4 != 0 || len > MAX_BLOCK || (len as usize) < 12 + body.len() {
            return Err(self.at(start, Problem::BlockLength(len)));
        }
        let read = body.len();
        body.resize(len as usize - 12, 0);
        if let Some(rest) = body.get_mut(read..)
            && !rest.is_empty()
        {
            let mut rest_bytes = vec![0; rest.len()];
            if !self.fill(&mut rest_bytes, start)? {
                return Err(self.at(start, Problem::CutShort));
            }
            rest.copy_from_slice(&rest_bytes);
        }
        let mut tail = [0; 4];
        if !self.fill(&mut tail, start)? {
            return Err(self.at(start, Problem::CutShort));
        }
        let again = u32::from_ne_bytes(tail);
        if again != len {
            return Err(self.at(start, Problem::Lengths(len, again)));
        }
        if kind == SECTION {
            self.interfaces.clear();
        }
        Ok(Some((kind, body)))
    }

    fn interface(&mut self, body: &[u8]) -> Result<(), Problem> {
        let link_type = half(body, 0).ok_or(Problem::ShortBlock)?;
        if link_type != LINK_TYPE {
            return Err(Problem::LinkType(link_type));
        }
        let resolution = options(body.get(8..).unwrap_or_default())
            .find(|(code, _)| *code == OPTION_RESOLUTION)
            .and_then(|(_, value)| value.first().copied())
            .unwrap_or(6);
        let exponent = u32::from(resolution & 0x7f);
        let base: u64 = if resolution & 0x80 == 0 { 10 } else { 2 };
        let ticks_per_second = base
            .checked_pow(exponent)
            .ok_or(Problem::Resolution(resolution & 0x7f))?;
        self.interfaces.push(Interface { ticks_per_second });
        Ok(())
    }

    /// `None`: a packet of another netlink family, as captures of the nlmon device have them.
    fn packet(&self, body: &[u8]) -> Result<Option<Packet>, Problem> {
        let at = |at| word(body, at).ok_or(Problem::ShortBlock);
        let id = at(0)?;
        let interface = self.interfaces.get(id as usize).ok_or(Problem::Interface(id))?;
        let ticks = (u64::from(at(4)?) << 32) | u64::from(at(8)?);
        let len = at(12)?;
        let data = body
            .get(20..)
            .and_then(|rest| rest.get(..len as usize))
            .filter(|data| data.len() >= COOKED)
            .ok_or(Problem::PacketLength(len))?;
        let (cooked, message) = data.split_at(COOKED);
        let network_order = |at| half(cooked, at).map(u16::from_be);
        if network_order(14) != Some(NETLINK_ROUTE) {
            return Ok(None);
        }
        let direction = match network_order(0) {
            Some(kind) if kind == Direction::ToKernel.packet_type() => Direction::ToKernel,
            _ => Direction::FromKernel,
        };
        let lost_before = options(
            body.get(20 + (len as usize).next_multiple_of(4)..)
                .unwrap_or_default(),
        )
        .find(|(code, _)| *code == OPTION_DROPS)
        .and_then(|(_, value)| value.try_into().ok())
        .map(u64::from_ne_bytes);
        let micros = u128::from(ticks) * 1_000_000 / u128::from(interface.ticks_per_second);
        Ok(Some(Packet {
            ts_us: u64::try_from(micros).unwrap_or(u64::MAX),
            direction,
            lost_before,
            bytes: message.to_vec(),
        }))
    }

    fn next_packet(&mut self) -> Result<Option<Packet>, RecordError> {
        loop {
            let start = self.offset;
            let Some((kind, body)) = self.block()? else {
                return Ok(None);
            };
            let here = |problem| RecordError {
                offset: start,
                problem,
            };
            match kind {
                INTERFACE => self.interface(&body).map_err(here)?,
                ENHANCED_PACKET => {
                    if let Some(packet) = self.packet(&body).map_err(here)? {
                        return Ok(Some(packet));
                    }
                }
                ACCOUNT => self.account.push(account(&body).map_err(here)?),
                // Statistics, names, whatever comes: nothing to replay.
                _ => {}
            }
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Packet, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.next_packet().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

fn account(body: &[u8]) -> Result<Box<str>, Problem> {
    let len = word(body, 0).ok_or(Problem::ShortBlock)? as usize;
    let line = body.get(4..).and_then(|rest| rest.get(..len));
    let line = line.and_then(|line| std::str::from_utf8(line).ok());
    line.map(Into::into).ok_or(Problem::Account)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// (code, value) up to the end mark, or to one that does not fit.
fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let code = half(bytes, 0).filter(|code| *code != OPTION_END)?;
        let len = usize::from(half(bytes, 2)?);
        let value = bytes.get(4..4 + len)?;
        bytes = bytes.get((4 + len).next_multiple_of(4)..).unwrap_or_default();
        Some((code, value))
    })
}
