//! Finished answers on their way from the plugins' threads to the loop.
//!
//! The loop looks here at each of its turns, and only one that sleeps is woken: waking costs the plugin's thread a system
//! call and the loop a turn, and most answers come while it is awake.

use super::api::Reply;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc;
use tokio::sync::Notify;

#[derive(Default)]
struct Bell {
    /// The loop sleeps, or is about to.
    awaited: AtomicBool,
    rung: Notify,
}

/// The plugins' end.
#[derive(Clone)]
pub struct Outbox {
    replies: mpsc::Sender<Reply>,
    bell: Arc<Bell>,
}

/// The loop's end.
pub struct Inbox {
    replies: mpsc::Receiver<Reply>,
    bell: Arc<Bell>,
}

pub fn inbox() -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel();
    let bell = Arc::new(Bell::default());
    let outbox = Outbox {
        replies: sender,
        bell: Arc::clone(&bell),
    };
    let inbox = Inbox {
        replies: receiver,
        bell,
    };
    (outbox, inbox)
}

impl Outbox {
    pub fn put(&self, reply: Reply) {
        // The daemon is going down when nobody receives.
        let _ = self.replies.send(reply);
        // With the fence of `next`: one of the two sees the other.
        fence(Ordering::SeqCst);
        if self.bell.awaited.swap(false, Ordering::SeqCst) {
            self.bell.rung.notify_one();
        }
    }
}

impl Inbox {
    /// A reply that is there.
    pub fn take(&mut self) -> Option<Reply> {
        self.bell.awaited.store(false, Ordering::SeqCst);
        self.replies.try_recv().ok()
    }

    /// The next reply. Cancel-safe; never ends when nothing was asked.
    pub async fn next(&mut self) -> Reply {
        loop {
            let rung = self.bell.rung.notified();
            self.bell.awaited.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if let Ok(reply) = self.replies.try_recv() {
                self.bell.awaited.store(false, Ordering::SeqCst);
                return reply;
            }
            rung.await;
        }
    }

    /// The next reply, waited for. Not for an async context. `None`: nobody is left who could answer.
    pub fn wait(&mut self) -> Option<Reply> {
        self.replies.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::api::{Decision, Hook, Subject};

    fn reply(seq: u64) -> Reply {
        Reply {
            r#gen: 0,
            seq,
            key: Subject::Tap(1),
            hook: Hook::Port,
            generation: 1,
            decision: Arc::new(Decision::Nothing),
            conflicts: Arc::new([]),
            steps: Vec::new(),
            retry_after: None,
        }
    }

    /// Sleeps lost and found: each reply is asked for by a fresh future, many of which are dropped before they end.
    #[test]
    fn every_reply_arrives_whether_the_loop_sleeps_or_not() {
        const COUNT: u64 = 20_000;
        let (outbox, mut inbox) = inbox();
        let plugin = std::thread::spawn(move || {
            for seq in 0..COUNT {
                outbox.put(reply(seq));
                if seq % 7 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut expected = 0;
            while expected < COUNT {
                let found = match expected % 3 {
                    0 => inbox.take(),
                    _ => tokio::select! {
                        biased;
                        reply = inbox.next() => Some(reply),
                        () = tokio::task::yield_now(), if expected % 3 == 1 => None,
                        () = tokio::time::sleep(std::time::Duration::from_secs(20)) => panic!("reply {expected} is lost"),
                    },
                };
                if let Some(reply) = found {
                    assert_eq!(reply.seq, expected);
                    expected += 1;
                }
            }
        });
        plugin.join().unwrap();
        assert!(inbox.take().is_none());
        assert!(inbox.wait().is_none(), "nobody is left who could answer");
    }

    #[test]
    fn who_is_awake_is_not_woken() {
        let (outbox, mut inbox) = inbox();
        assert!(inbox.take().is_none());
        outbox.put(reply(1));
        assert!(inbox.take().is_some());
        let rung = std::pin::pin!(inbox.bell.rung.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(rung.poll(&mut context).is_pending(), "it was rung for");
    }
}
