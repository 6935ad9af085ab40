//! Streams: the daemon's end.

use std::sync::Arc;
use tokio::sync::mpsc;

/// The daemon's end of a stream: one JSON object per line, serialised once for all readers.
///
/// A reader that does not keep up loses lines, is told how many (a `{"event":"loss","lost":N}` line as soon as there
/// is room again) and never delays anybody.
#[derive(Debug)]
pub struct Sink {
    queue: mpsc::Sender<Arc<str>>,
    lost: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Queued,
    /// Counted; the reader will be told.
    Lost,
    /// The reader has gone: drop the sink.
    Closed,
}

impl Sink {
    pub fn pair(lines: usize) -> (Self, mpsc::Receiver<Arc<str>>) {
        let (queue, receiver) = mpsc::channel(lines.max(2));
        (Self { queue, lost: 0 }, receiver)
    }

    /// Never waits.
    pub fn push(&mut self, line: Arc<str>) -> Delivery {
        if self.lost > 0 {
            let marker = format!(r#"{{"event":"loss","lost":{},"resync_ms":null}}"#, self.lost);
            match self.queue.try_send(marker.into()) {
                Ok(()) => self.lost = 0,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.lost += 1;
                    return Delivery::Lost;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Delivery::Closed,
            }
        }
        match self.queue.try_send(line) {
            Ok(()) => Delivery::Queued,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost += 1;
                Delivery::Lost
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Delivery::Closed,
        }
    }

    /// Its reader keeps up: half of the queue is free.
    pub fn has_room(&self) -> bool {
        self.queue.capacity() * 2 >= self.queue.max_capacity()
    }

    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_loses_lines_and_is_told_how_many() {
        let (mut sink, mut lines) = Sink::pair(2);
        assert_eq!(sink.push("1".into()), Delivery::Queued);
        assert_eq!(sink.push("2".into()), Delivery::Queued);
        assert_eq!(sink.push("3".into()), Delivery::Lost);
        assert_eq!(sink.push("4".into()), Delivery::Lost);
        assert_eq!(&*lines.try_recv().unwrap(), "1");
        assert_eq!(&*lines.try_recv().unwrap(), "2");
        assert_eq!(sink.push("5".into()), Delivery::Queued);
        assert_eq!(
            &*lines.try_recv().unwrap(),
            r#"{"event":"loss","lost":2,"resync_ms":null}"#
        );
        assert_eq!(&*lines.try_recv().unwrap(), "5");
        drop(lines);
        assert_eq!(sink.push("6".into()), Delivery::Closed);
    }
}
