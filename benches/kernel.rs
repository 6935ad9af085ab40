//! What the hot path costs: `cargo bench --bench kernel`.
//!
//! Decoding in nanoseconds, kernel operations and whole attaches in microseconds (median and 90th percentile), each
//! beside what the leanest possible program does: hand-laid bytes, one blocking socket, no runtime. Runs in a private
//! network namespace of its own, without root. It prints; it judges nothing.

// A bench that cannot go on has nothing better to do than stop.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::hint::black_box;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};
use tapwire::daemon::namespace;
use tapwire::desired::guard::Entry;
use tapwire::kernel::executor::Transport as _;
use tapwire::kernel::tuntap::{Tap, TapSource};
use tapwire::kernel::wire::{Message, Messages};
use tapwire::kernel::{Change, Executor, LinkKey, Monitor, RxEvent, Snapshot, Subscription, Verdict, decode};
use tapwire::model::{BridgeAttributes, Ifindex, LinkName, Mac};
use tapwire::plan::guard::GuardedPort;
use tapwire::plan::op::{GuardTable, LinkChange, LinkRef, Master, Op};
use tapwire::telemetry::flight::{FlightRecorder, Kind, Step};

const CAPTURED: &[u8] = include_bytes!("../tests/data/rtnetlink-6.18.bin");
/// Taps per measured figure.
const TAPS: usize = 300;

fn main() {
    // `cargo test` and `cargo bench -- FILTER` pass arguments of libtest; only a plain bench run measures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    namespace::enter_private().expect("a private namespace");
    decoding();
    recording();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        questions();
        receiving();
        operations();
        guarding();
        whole_attach().await;
        dumps().await;
    });
}

/// The flight recorder's whole share of an attach: what the daemon pushes for one tap.
fn recording() {
    let mut recorder = FlightRecorder::new(256 << 10);
    let steps = [
        (Kind::Event, "new", ""),
        (Kind::Mapping, "pattern", "6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11"),
        (Kind::State, "configuring", ""),
        (Kind::Op, "disable_ipv6", ""),
        (Kind::Op, "attach", ""),
        (Kind::Op, "up", ""),
        (Kind::State, "attached", ""),
    ];
    let mut at = 0;
    println!("telemetry, ns");
    per_op("flight recorder, one attach (7 steps)", 100_000, || {
        for (kind, word, text) in steps {
            at += 1;
            let step = Step::new(kind, at, at).device(7, "tap0f3a9c6e-1b");
            recorder.push(black_box(step.says(word, text)));
        }
    });
}

fn decoding() {
    let messages: Vec<Message<'_>> = Messages::new(CAPTURED).map(Result::unwrap).collect();
    let tap = messages
        .iter()
        .find(
            |message| matches!(decode::change(message), Ok(Change::Link(link)) if link.kind.name() == "tap"),
        )
        .unwrap();
    println!("decode, ns per message");
    per_op("tap's birth, raw walk", 200_000, || {
        let _ = black_box(decode::change(black_box(tap)));
    });
    per_op("tap's birth, typed (netlink-packet-route)", 20_000, || {
        let _ = black_box(NetlinkMessage::<RouteNetlinkMessage>::deserialize(black_box(
            tap.raw,
        )));
    });
    let mut turn = messages.iter().cycle();
    per_op("mix of all link, neighbour and route messages", 200_000, || {
        let _ = black_box(decode::change(black_box(turn.next().unwrap())));
    });
}

fn per_op(what: &str, times: u32, mut work: impl FnMut()) {
    for _ in 0..times / 10 {
        work();
    }
    let begin = Instant::now();
    for _ in 0..times {
        work();
    }
    println!(
        "  {what:<55} {:>9.0} ns",
        begin.elapsed().as_nanos() as f64 / f64::from(times)
    );
}

/// Reading one link.
fn questions() {
    println!("questions");
    let mut executor = Executor::open().unwrap();
    let lo = LinkName::new("lo").unwrap();
    let index = Ifindex::new(1).unwrap();
    per_op("index to name by ioctl (the guard of a plan)", 50_000, || {
        black_box(executor.transport().name_of(index).unwrap());
    });
    per_op("RTM_GETLINK by index", 5_000, || {
        black_box(executor.link(LinkKey::Index(index)).unwrap());
    });
    per_op("RTM_GETLINK by name", 5_000, || {
        black_box(executor.link(LinkKey::Name(lo)).unwrap());
    });
}

/// One recvmsg per datagram against recvmmsg.
fn receiving() {
    println!("receiving queued events, per message with decoding where said");
    let mut bridge = raw::Attacher::open();
    let mut monitor = Monitor::open(Subscription::Links, 64 << 20).unwrap();
    let mut many = Socket::new(NETLINK_ROUTE).unwrap();
    many.set_rx_buf_sz(32_i32 << 20).unwrap();
    many.bind_auto().unwrap();
    many.add_membership(libc::RTNLGRP_LINK).unwrap();
    // Each change of the queue length of lo is one message.
    for i in 0..1000u32 {
        bridge.set(1, libc::IFLA_TXQLEN, 1000 + (i & 1));
    }
    let mut count = 0;
    let begin = Instant::now();
    monitor.drain(usize::MAX, &mut |_| count += 1).unwrap();
    let spent = begin.elapsed();
    println!(
        "  {:<55} {:>9.0} ns",
        "monitor: recvfrom, decode",
        spent.as_nanos() as f64 / f64::from(count)
    );
    let begin = Instant::now();
    let count = raw::receive_many(&many);
    let spent = begin.elapsed();
    println!(
        "  {:<55} {:>9.0} ns",
        "recvmmsg of 16, not decoded",
        spent.as_nanos() as f64 / count as f64
    );
}

fn link(name: LinkName, index: Ifindex) -> LinkRef {
    LinkRef {
        name,
        index: Some(index),
    }
}

fn new_bridge(executor: &mut Executor, name: &str) -> LinkRef {
    let name = LinkName::new(name).unwrap();
    let ops = [
        Op::CreateBridge {
            name,
            mac: Mac::derived_from("bench"),
            mtu: None,
            attributes: BridgeAttributes {
                forward_delay: Some(0),
                stp: Some(false),
                ..BridgeAttributes::default()
            },
        },
        Op::DisableIpv6 {
            link: LinkRef { name, index: None },
            disable: true,
        },
        Op::SetLink {
            link: LinkRef { name, index: None },
            change: LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        },
    ];
    let mut made = None;
    executor.run(&ops, |_, outcome| {
        if let Verdict::Created(link) = outcome.verdict {
            made = Some(link.index);
        }
    });
    link(name, made.unwrap())
}

/// The plan of an attach: IPv6 off, master, up.
fn attach_plan(tap: LinkRef, bridge: LinkRef) -> [Op; 3] {
    [
        Op::DisableIpv6 {
            link: tap,
            disable: true,
        },
        Op::SetLink {
            link: tap,
            change: LinkChange {
                master: Some(Master::Set(bridge)),
                ..LinkChange::default()
            },
        },
        Op::SetLink {
            link: tap,
            change: LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        },
    ]
}

/// Persistent and closed: closing for good costs 20 ms each, the namespace takes them all at once.
fn keep(tap: &Tap) {
    tap.set_persistent(true).unwrap();
}

fn operations() {
    println!("attach of a standing tap to a standing bridge ({TAPS} taps each, turn about)");
    let mut executor = Executor::open().unwrap();
    let bridges = [new_bridge(&mut executor, "op0"), new_bridge(&mut executor, "op1")];
    let mut lean = raw::Attacher::open();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut steps: [Vec<Duration>; 3] = Default::default();
    // Turn about, and neither always first: what the tap's creation left in the caches serves whoever comes next.
    for turn in 0..TAPS * 2 {
        let tap = Tap::create(None).unwrap();
        keep(&tap);
        if turn % 4 == 0 || turn % 4 == 3 {
            let plan = attach_plan(link(tap.name(), tap.index()), bridges[0]);
            let mut step = 0;
            let begin = Instant::now();
            executor.run(&plan, |_, outcome| {
                steps[step].push(outcome.elapsed);
                step += 1;
                assert!(outcome.verdict.goes_on());
            });
            ours.push(begin.elapsed());
            assert_eq!(step, 3);
        } else {
            let begin = Instant::now();
            lean.attach(
                &tap.name().to_text(),
                tap.index().get(),
                bridges[1].index.unwrap().get(),
            );
            theirs.push(begin.elapsed());
        }
    }
    let [ipv6, master, up] = &mut steps;
    figures("executor: whole plan", &mut ours);
    figures("  disable_ipv6", ipv6);
    figures("  attach", master);
    figures("  up", up);
    figures("hand-laid bytes, blocking socket, same three steps", &mut theirs);
}

/// One port more under guard, and off again, with none and with 1,000 others: four entries in one transaction.
fn guarding() {
    println!("spoof guard");
    let mut executor = Executor::open().unwrap();
    let entries = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let mac = Mac::new([0xfa, 0x16, 0x3e, 0, high, low]);
        let mut entries = vec![
            Entry::Port,
            Entry::Mac(mac),
            Entry::Address(mac, [10, 0, high, low].into()),
            Entry::Address(mac, [0xfe80, 0, 0, 0, 0, 0, 0, number].into()),
        ];
        entries.sort_unstable();
        entries
    };
    let mut run = |op: Op| {
        let begin = Instant::now();
        executor.run(std::slice::from_ref(&op), |_, outcome| {
            assert!(matches!(outcome.verdict, Verdict::Done), "{:?}", outcome.verdict);
        });
        begin.elapsed()
    };
    let link = link(LinkName::new("lo").unwrap(), Ifindex::new(1).unwrap());
    for others in [0, 1000] {
        let ports = (0..others).map(|n| GuardedPort {
            index: Ifindex::new(10_000 + u32::from(n)).unwrap(),
            entries: entries(n),
        });
        run(Op::GuardTable(GuardTable::Make(ports.collect())));
        let (mut on, mut off) = (Vec::new(), Vec::new());
        for n in 0..TAPS {
            let entries: Box<[Entry]> = entries(u16::try_from(2000 + n).unwrap()).into();
            let (none, all) = (Box::default(), entries.clone());
            on.push(run(Op::Guard {
                link,
                gone: none,
                new: all,
            }));
            off.push(run(Op::Guard {
                link,
                gone: entries,
                new: Box::default(),
            }));
        }
        figures(&format!("one port more, {others} others"), &mut on);
        figures(&format!("one port less, {others} others"), &mut off);
    }
    run(Op::GuardTable(GuardTable::Remove));
}

fn figures(what: &str, spent: &mut [Duration]) {
    spent.sort_unstable();
    let at = |share: usize| spent[spent.len() * share / 100].as_nanos() as f64 / 1000.0;
    println!("  {what:<55} p50 {:>7.1} us   p90 {:>7.1} us", at(50), at(90));
}

/// From the tap's creation to the last acknowledgement: the monitor in tokio and the executor, against a blocking
/// receive and hand-laid bytes. Both wait for the event on a thread of their own, as a daemon does.
async fn whole_attach() {
    println!("from TUNSETIFF to the last acknowledgement ({TAPS} taps each, one at a time)");
    let mut executor = Executor::open().unwrap();
    let bridges = [
        new_bridge(&mut executor, "e2e0"),
        new_bridge(&mut executor, "e2e1"),
    ];
    let mut lean = raw::Attacher::open();
    let maker = Maker::start();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // In blocks, because a second subscriber would cost the first one's events.
    for _ in 0..10 {
        let mut monitor = Monitor::open(Subscription::Links, 64 << 20).unwrap();
        for _ in 0..TAPS / 10 {
            let begin = maker.make();
            let done = attach_next(&mut monitor, &mut executor, bridges[0]).await;
            ours.push(done - begin.recv().unwrap());
            // The echoes of our own operations.
            monitor.drain(usize::MAX, &mut |_| {}).unwrap();
        }
        drop(monitor);
        let mut events = raw::Events::open();
        for _ in 0..TAPS / 10 {
            let begin = maker.make();
            let (name, index) = events.next_tap();
            lean.attach(&name, index, bridges[1].index.unwrap().get());
            theirs.push(Instant::now() - begin.recv().unwrap());
            events.discard();
        }
    }
    figures("monitor in tokio, executor", &mut ours);
    figures("blocking receive, hand-laid bytes", &mut theirs);
}

async fn attach_next(monitor: &mut Monitor, executor: &mut Executor, bridge: LinkRef) -> Instant {
    loop {
        monitor.readable().await.unwrap();
        let mut tap = None;
        monitor
            .drain(256, &mut |event| {
                if let RxEvent::Message {
                    change: Change::Link(link),
                    ..
                } = event
                    && link.kind.name() == "tap"
                    && link.master.is_none()
                    && !link.up
                {
                    tap = Some((link.name, link.index));
                }
            })
            .unwrap();
        if let Some((name, index)) = tap {
            executor.run(&attach_plan(link(name, index), bridge), |_, outcome| {
                assert!(outcome.verdict.goes_on());
            });
            return Instant::now();
        }
    }
}

/// Makes taps on a thread of its own, so that the measured one is asleep when the event comes.
struct Maker {
    orders: std::sync::mpsc::Sender<std::sync::mpsc::Sender<Instant>>,
}

impl Maker {
    fn start() -> Self {
        let (orders, received) = std::sync::mpsc::channel::<std::sync::mpsc::Sender<Instant>>();
        std::thread::spawn(move || {
            for answer in received {
                let source = TapSource::open().unwrap();
                // Long enough for the other side to be asleep in its wait.
                std::thread::sleep(Duration::from_micros(300));
                let begin = Instant::now();
                let tap = source.create(None).unwrap();
                answer.send(begin).unwrap();
                std::thread::sleep(Duration::from_millis(2));
                keep(&tap);
            }
        });
        Self { orders }
    }

    fn make(&self) -> std::sync::mpsc::Receiver<Instant> {
        let (answer, begin) = std::sync::mpsc::channel();
        self.orders.send(answer).unwrap();
        begin
    }
}

async fn dumps() {
    let mut snapshot = Snapshot::open().unwrap();
    let begin = Instant::now();
    let listing = snapshot.links().await.unwrap();
    let spent = begin.elapsed();
    println!(
        "dump of {} links: {:.1} ms, {:.1} us each",
        listing.rows.len(),
        spent.as_secs_f64() * 1e3,
        spent.as_secs_f64() * 1e6 / listing.rows.len() as f64
    );
}

/// The leanest attacher there is: what ours is measured against.
mod raw {
    use super::*;

    pub struct Attacher {
        socket: Socket,
        seq: u32,
    }

    impl Attacher {
        pub fn open() -> Self {
            let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
            socket.bind_auto().unwrap();
            socket.connect(&SocketAddr::new(0, 0)).unwrap();
            Self { socket, seq: 0 }
        }

        pub fn attach(&mut self, name: &str, index: u32, bridge: u32) {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .open(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"))
                .unwrap();
            file.write_all(b"1").unwrap();
            self.set(index, libc::IFLA_MASTER, bridge);
            self.request(index, 1, None);
        }

        pub fn set(&mut self, index: u32, attribute: u16, value: u32) {
            self.request(index, 0, Some((attribute, value)));
        }

        fn request(&mut self, index: u32, up: u32, attribute: Option<(u16, u32)>) {
            self.seq += 1;
            let mut bytes = [0u8; 40];
            let length: u32 = if attribute.is_some() { 40 } else { 32 };
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes[4..6].copy_from_slice(&libc::RTM_SETLINK.to_ne_bytes());
            // NLM_F_REQUEST | NLM_F_ACK
            bytes[6..8].copy_from_slice(&5u16.to_ne_bytes());
            bytes[8..12].copy_from_slice(&self.seq.to_ne_bytes());
            bytes[20..24].copy_from_slice(&index.to_ne_bytes());
            bytes[24..28].copy_from_slice(&up.to_ne_bytes());
            bytes[28..32].copy_from_slice(&up.to_ne_bytes());
            if let Some((kind, value)) = attribute {
                bytes[32..34].copy_from_slice(&8u16.to_ne_bytes());
                bytes[34..36].copy_from_slice(&kind.to_ne_bytes());
                bytes[36..40].copy_from_slice(&value.to_ne_bytes());
            }
            self.socket.send(&bytes[..length as usize], 0).unwrap();
            let mut answer = [0u8; 256];
            self.socket.recv(&mut &mut answer[..], 0).unwrap();
            assert_eq!(answer[16..20], [0; 4]);
        }
    }

    pub struct Events {
        socket: Socket,
        buffer: Vec<u8>,
    }

    impl Events {
        pub fn open() -> Self {
            let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
            socket.set_rx_buf_sz(32_i32 << 20).unwrap();
            socket.bind_auto().unwrap();
            socket.add_membership(libc::RTNLGRP_LINK).unwrap();
            Self {
                socket,
                buffer: vec![0; 65_536],
            }
        }

        /// Blocks for the next link that is not up, has no master and is new (all change bits set).
        pub fn next_tap(&mut self) -> (String, u32) {
            loop {
                let length = self.socket.recv(&mut &mut self.buffer[..], 0).unwrap();
                let bytes = &self.buffer[..length];
                let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
                if kind != libc::RTM_NEWLINK || bytes[16] != 0 || bytes[28..32] != [0xff; 4] {
                    continue;
                }
                let index = u32::from_ne_bytes(bytes[20..24].try_into().unwrap());
                // The name is the first attribute.
                let end = 36 + bytes[36..].iter().position(|byte| *byte == 0).unwrap();
                return (String::from_utf8(bytes[36..end].to_vec()).unwrap(), index);
            }
        }

        pub fn discard(&mut self) {
            while self
                .socket
                .recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT)
                .is_ok()
            {}
        }
    }

    /// Empties the queue sixteen at a time; how many there were.
    pub fn receive_many(socket: &Socket) -> usize {
        const TOGETHER: usize = 16;
        let mut buffers = vec![[0u8; 4096]; TOGETHER];
        let mut count = 0;
        loop {
            let mut parts: Vec<libc::iovec> = buffers
                .iter_mut()
                .map(|buffer| libc::iovec {
                    iov_base: buffer.as_mut_ptr().cast(),
                    iov_len: buffer.len(),
                })
                .collect();
            // SAFETY: mmsghdr is plain data; all zero is a valid value of it.
            let mut headers: [libc::mmsghdr; TOGETHER] = unsafe { std::mem::zeroed() };
            for (header, part) in headers.iter_mut().zip(&mut parts) {
                header.msg_hdr.msg_iov = part;
                header.msg_hdr.msg_iovlen = 1;
            }
            // SAFETY: the headers, their parts and buffers live across the call; no time limit is passed.
            let got = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    TOGETHER as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            match usize::try_from(got) {
                Ok(got) if got > 0 => count += got,
                _ => return count,
            }
        }
    }
}
