//! Writing a recording.

use super::{
    ACCOUNT, ARPHRD_NETLINK, BYTE_ORDER, COOKED, Direction, ENHANCED_PACKET, INTERFACE, LINK_TYPE,
    OPTION_COMMENT, OPTION_DROPS, OPTION_END, OPTION_FLAGS, SECTION,
};
use std::io::{self, Write};

/// The netlink family (`NETLINK_ROUTE`) in the cooked header.
const NETLINK_ROUTE: u16 = 0;

/// Writes packets one after the other; call [`Recorder::finish`] at the end, and [`Recorder::flush`] when idle, so
/// that a kill loses little.
pub struct Recorder<W: Write> {
    to: W,
    /// Wall clock minus monotonic clock at the start, microseconds.
    epoch_us: u64,
    packets: u64,
    /// Lost before the next packet; 0: the number is unknown.
    lost: Option<u64>,
    block: Vec<u8>,
}

impl<W: Write> Recorder<W> {
    /// Writes the head of the file. `wall_us`: microseconds since 1970 at the monotonic time `now_us`.
    pub fn start(mut to: W, wall_us: u64, now_us: u64) -> io::Result<Self> {
        let mut block = Vec::new();
        block.extend(BYTE_ORDER.to_ne_bytes());
        block.extend(1u16.to_ne_bytes());
        block.extend(0u16.to_ne_bytes());
        // Section length: unknown.
        block.extend(u64::MAX.to_ne_bytes());
        // shb_userappl.
        option(
            &mut block,
            4,
            concat!("tapwire ", env!("CARGO_PKG_VERSION")).as_bytes(),
        );
        option(&mut block, OPTION_END, &[]);
        write_block(&mut to, SECTION, &block)?;
        block.clear();
        block.extend(LINK_TYPE.to_ne_bytes());
        block.extend(0u16.to_ne_bytes());
        // Snap length: unlimited. Time stamps are microseconds, the default.
        block.extend(0u32.to_ne_bytes());
        // if_name.
        option(&mut block, 2, b"rtnetlink");
        option(&mut block, OPTION_END, &[]);
        write_block(&mut to, INTERFACE, &block)?;
        Ok(Self {
            to,
            epoch_us: wall_us.saturating_sub(now_us),
            packets: 0,
            lost: None,
            block,
        })
    }

    /// One whole netlink message. `ts_us`: CLOCK_MONOTONIC.
    pub fn message(&mut self, ts_us: u64, direction: Direction, message: &[u8]) -> io::Result<()> {
        let stamp = self.epoch_us.saturating_add(ts_us);
        let len = u32::try_from(COOKED + message.len()).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "a netlink message of more than 4 GiB",
            )
        })?;
        let block = &mut self.block;
        block.clear();
        block.extend(0u32.to_ne_bytes());
        // The upper half of the stamp comes first, in either byte order.
        block.extend(((stamp >> 32) as u32).to_ne_bytes());
        block.extend((stamp as u32).to_ne_bytes());
        block.extend(len.to_ne_bytes());
        block.extend(len.to_ne_bytes());
        block.extend(direction.packet_type().to_be_bytes());
        block.extend(ARPHRD_NETLINK.to_be_bytes());
        block.extend([0; 10]);
        block.extend(NETLINK_ROUTE.to_be_bytes());
        block.extend(message);
        block.resize(block.len().next_multiple_of(4), 0);
        option(block, OPTION_FLAGS, &direction.flags().to_ne_bytes());
        if let Some(lost) = self.lost.take() {
            option(block, OPTION_DROPS, &lost.to_ne_bytes());
            let text = match lost {
                0 => "an unknown number of messages lost before this one".to_owned(),
                lost => format!("{lost} messages lost before this one"),
            };
            option(block, OPTION_COMMENT, text.as_bytes());
        }
        option(block, OPTION_END, &[]);
        write_block(&mut self.to, ENHANCED_PACKET, block)?;
        self.packets += 1;
        Ok(())
    }

    /// One line of the daemon's account.
    pub fn account(&mut self, line: &str) -> io::Result<()> {
        let block = &mut self.block;
        block.clear();
        let len = u32::try_from(line.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a line of more than 4 GiB"))?;
        block.extend(len.to_ne_bytes());
        block.extend(line.as_bytes());
        block.resize(block.len().next_multiple_of(4), 0);
        write_block(&mut self.to, ACCOUNT, block)
    }

    /// Messages were lost before the next one; `None`: nobody knows how many.
    pub fn loss(&mut self, lost: Option<u64>) {
        self.lost = Some(self.lost.unwrap_or(0) + lost.unwrap_or(0));
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// Messages written so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Everything is in the writer's hands; how many messages that were.
    pub fn finish(mut self) -> io::Result<(u64, W)> {
        self.to.flush()?;
        Ok((self.packets, self.to))
    }
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend(code.to_ne_bytes());
    block.extend((value.len() as u16).to_ne_bytes());
    block.extend(value);
    block.resize(block.len().next_multiple_of(4), 0);
}

fn write_block(to: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = ((body.len() + 12) as u32).to_ne_bytes();
    to.write_all(&kind.to_ne_bytes())?;
    to.write_all(&len)?;
    to.write_all(body)?;
    to.write_all(&len)
}
