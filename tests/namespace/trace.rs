//! `tapwire trace` on a real kernel: expected lines, agreement with iproute2 and tshark, losses with their number.

use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::{in_namespace, slowness};
use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tapwire::kernel::watch::{Objects, RECEIVE_BUFFER};
use tapwire::telemetry::record::{Direction, Reader, Recorder};
use tapwire::telemetry::trace::live::{Format, LiveError, Settings, Summary, follow};
use tapwire::telemetry::trace::{Filter, text::Style};
use tokio::sync::oneshot;

/// Taps at once.
const BURST: usize = 2_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// Output that the test reads while it grows.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }
}

struct Options {
    filter: &'static str,
    format: Format,
    receive_buffer: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            filter: "*",
            format: Format::Text(Style::default()),
            receive_buffer: RECEIVE_BUFFER,
        }
    }
}

/// A trace that runs on a thread of its own until stopped.
struct Trace {
    out: Shared,
    record: Shared,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<Summary, LiveError>>,
}

impl Trace {
    /// Returns once no event can be missed.
    fn start(options: Options) -> Self {
        let (out, record) = (Shared::default(), Shared::default());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (lines, recording) = (out.clone(), record.clone());
        let thread = std::thread::spawn(move || {
            let mut recorder = Recorder::start(recording, 1_700_000_000_000_000, 0).unwrap();
            let settings = Settings {
                objects: Objects::ALL,
                receive_buffer: options.receive_buffer,
                filter: Filter::parse(options.filter).unwrap(),
                format: options.format,
                missed: &|| {},
                record: Some(&mut recorder),
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(follow(
                settings,
                lines,
                None,
                |granted| ready.send(granted).unwrap(),
                async {
                    let _dropped_or_told = stopped.await;
                },
            ))
        });
        is_ready.recv().expect("the trace starts");
        Self {
            out,
            record,
            stop,
            thread,
        }
    }

    /// What the kernel says on its own time (carrier, operational state) has its place in the order too.
    fn wait_for(&self, part: &str) {
        let begin = Instant::now();
        while !self.out.text().contains(part) {
            let waited = begin.elapsed();
            assert!(
                waited < PATIENCE * slowness(),
                "{part:?} is not told:\n{}",
                self.out.text()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything the kernel has sent by now is in.
    fn finish(self) -> (String, Summary, Vec<u8>) {
        self.stop.send(()).expect("the trace is still running");
        let summary = self.thread.join().unwrap().unwrap();
        (self.out.text(), summary, self.record.bytes())
    }
}

/// Lines without stamps, sequence numbers and requesters' port ids.
fn stable(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let rest = line.splitn(3, ' ').nth(2).unwrap_or_default();
        let rest = match rest.rsplit_once("(foreign ") {
            Some((before, _)) => format!("{before}(foreign N)"),
            None => rest.to_owned(),
        };
        let words = rest.split(' ').map(|word| match word.trim_end_matches(',') {
            mac if mac.len() == 17 && mac.matches(':').count() == 5 && !mac.starts_with("02:00:00:") => {
                word.replace(mac, "RANDOM")
            }
            _ => word.to_owned(),
        });
        out.push_str(&words.collect::<Vec<_>>().join(" "));
        out.push('\n');
    }
    out
}

/// No IPv6 on anything made from now on: its timers would make the order of lines a matter of luck.
fn without_ipv6() {
    for file in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{file}/disable_ipv6"), "1").unwrap();
    }
}

/// A bit of everything, deterministic.
fn life(host: &Host, trace: &Trace) {
    host.ip("link add br0 address 02:00:00:00:00:01 mtu 1500 type bridge mcast_snooping 0");
    host.ip("link set br0 up");
    let tap = host.tap("tap0");
    host.ip("link set tap0 address 02:00:00:00:00:02");
    host.ip("link set tap0 mtu 1400");
    host.ip("link set tap0 master br0");
    host.ip("link set tap0 up");
    // From down, or (6.1) from unknown.
    trace.wait_for(" -> up (foreign)");
    host.run("bridge link set dev tap0 isolated on");
    host.run("bridge fdb add 02:00:00:00:00:07 dev tap0 master static");
    host.run("bridge fdb del 02:00:00:00:00:07 dev tap0 master");
    host.ip("link set tap0 alias blue");
    host.rename("tap0", "tap9");
    host.ip("link set tap9 nomaster");
    trace.wait_for("operstate up -> ");
    host.ip("address add 10.9.0.1/24 dev br0");
    host.ip("route add 10.10.0.0/16 via 10.9.0.2");
    host.ip("route replace 10.10.0.0/16 via 10.9.0.3");
    host.ip("route del 10.10.0.0/16");
    host.ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:08 dev br0 nud permanent");
    host.ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:09 dev br0 nud permanent");
    host.ip("neigh del 10.9.0.2 dev br0");
    host.ip("address del 10.9.0.1/24 dev br0");
    drop(tap);
    // Its index is taken again at once, by a device of another kind.
    host.ip("link add index 3 name vx0 address 02:00:00:00:00:0a type vxlan id 7 dstport 4789");
    let other = Host::new();
    let mut inhabitant = other.command("sleep").arg("60").spawn().unwrap();
    host.ip(&format!("link set vx0 netns {}", inhabitant.id()));
    inhabitant.kill().unwrap();
    inhabitant.wait().unwrap();
    host.ip("link del br0");
}

#[test]
fn a_life_of_taps_bridges_addresses_routes_and_entries_is_told_line_by_line() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan);
        without_ipv6();
        let host = Host::here();
        let trace = Trace::start(Options::default());
        life(&host, &trace);
        let (text, summary, _) = trace.finish();
        match Feature::VlanFiltering.probe() {
            Err(_) => assert_eq!(stable(&text), include_str!("trace/life.txt"), "\n{text}"),
            // 6.1 with VLAN filtering: another order, entries for VLAN 1, and a bridge's carrier when it pleases.
            Ok(()) => assert_eq!(
                without_carrier(&stable(&text)),
                without_carrier(include_str!("trace/life-6.1.txt")),
                "\n{text}"
            ),
        }
        assert_eq!((summary.losses, summary.undecodable), (0, 0));
    });
}

/// Without what the kernel says of a bridge's carrier: a worker of its own tells it, late, in a message of its own or in
/// somebody else's, or not at all where the carrier is back by then (6.1 renames only what is down).
fn without_carrier(text: &str) -> String {
    let kept = |line: &str| match line.strip_prefix("change link br0#2 bridge ") {
        Some(difference) => {
            let difference = difference.trim_end_matches(" (foreign)");
            let parts: Vec<_> = difference
                .split(", ")
                .map(|part| part.replace(" +running", "").replace(" -running", ""))
                .map(|part| part.replace(" +lower_up", "").replace(" -lower_up", ""))
                .filter(|part| !part.starts_with("operstate ") && part != "flags" && part != "no difference")
                .collect();
            (!parts.is_empty()).then(|| format!("bridge {}\n", parts.join(", ")))
        }
        None => Some(format!("{line}\n")),
    };
    text.lines().filter_map(kept).collect()
}

#[test]
fn a_bridges_carrier_makes_no_difference_whenever_it_is_told() {
    let told = "change link br0#2 bridge flags -running -lower_up, operstate up -> down (foreign)\n\
                change link tap9#3 tap name tap0 -> tap9 (foreign)\n\
                change link br0#2 bridge mtu 1400 -> 1500 (foreign)\n\
                change link br0#2 bridge flags -up (foreign)\n";
    let coalesced = "change link tap9#3 tap name tap0 -> tap9 (foreign)\n\
                     change link br0#2 bridge flags -lower_up, mtu 1400 -> 1500 (foreign)\n\
                     change link br0#2 bridge no difference (foreign)\n\
                     change link br0#2 bridge flags -up -running (foreign)\n";
    let expected =
        "change link tap9#3 tap name tap0 -> tap9 (foreign)\nbridge mtu 1400 -> 1500\nbridge flags -up\n";
    assert_eq!(without_carrier(told), expected);
    assert_eq!(without_carrier(coalesced), expected);
}

/// Object, whether it is a removal, device.
type Essence = (String, bool, String);

/// Of a line of ours.
fn essence(line: &str) -> Essence {
    let words: Vec<_> = line.split(' ').collect();
    let object = match words[1] {
        "link" | "port" => "LINK",
        "address" => "ADDR",
        "route" => "ROUTE",
        "neighbour" | "fdb" => "NEIGH",
        other => panic!("{other}: {line}"),
    };
    let removal = words[0] == "gone" || (words[0] == "released" && words[1] == "port");
    let device = words[2].split('#').next().unwrap();
    (object.to_owned(), removal, device.to_owned())
}

/// The same of a line of `ip -o -d monitor`.
fn essence_of_ip(line: &str) -> Essence {
    let (object, rest) = line
        .strip_prefix('[')
        .and_then(|l| l.split_once(']'))
        .expect(line);
    let removal = rest.starts_with("Deleted ");
    let rest = rest.trim_start_matches("Deleted ");
    let device = match object {
        "LINK" | "ADDR" => rest.split_whitespace().nth(1),
        _ => rest
            .split_once("dev ")
            .and_then(|(_, behind)| behind.split_whitespace().next()),
    };
    let device = device.expect(line).trim_end_matches(':');
    (object.to_owned(), removal, device.to_owned())
}

/// A process that does not outlive its test.
struct Running(std::process::Child);

impl Running {
    /// Ends it; what it has printed.
    fn output(&mut self) -> String {
        self.0.kill().unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn every_line_agrees_with_iproute2_beside_it() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Program("ip"));
        without_ipv6();
        let host = Host::here();
        // The receive queue of the socket of process `pid` that is in some group.
        let queue = |pid: u32| -> Option<u64> {
            let table = std::fs::read_to_string("/proc/self/net/netlink").unwrap();
            table.lines().skip(1).find_map(|line| {
                let columns: Vec<_> = line.split_whitespace().collect();
                let mine = columns[2] == pid.to_string() && columns[1] == "0" && columns[3] != "00000000";
                mine.then(|| columns[4].parse().unwrap())
            })
        };
        let ip = host
            .command("ip")
            .args([
                "-o", "-d", "monitor", "label", "link", "address", "route", "neigh",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ip = Running(ip);
        wait_until("ip monitor listens", PATIENCE, || queue(ip.0.id()).is_some());
        let trace = Trace::start(Options::default());
        life(&host, &trace);
        let (text, ..) = trace.finish();
        let ours: Vec<_> = stable(&text).lines().map(essence).collect();
        wait_until("ip monitor has read everything", PATIENCE, || {
            queue(ip.0.id()) == Some(0)
        });
        let printed = ip.output();
        let theirs: Vec<_> = printed.lines().map(essence_of_ip).collect();
        // Before a device's first own message we know its index only; ip asks the kernel for the name.
        let agree = |(a, b): (&Essence, &Essence)| a.0 == b.0 && a.1 == b.1 && (a.2 == b.2 || a.2.is_empty());
        assert!(
            ours.len() == theirs.len() && ours.iter().zip(&theirs).all(agree),
            "{ours:?}\n{theirs:?}"
        );
    });
}

#[test]
fn tshark_dissects_every_packet_of_a_recording_as_rtnetlink() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Program("tshark"));
        without_ipv6();
        let host = Host::here();
        let trace = Trace::start(Options::default());
        life(&host, &trace);
        let (_, summary, recording) = trace.finish();
        let packets: Vec<_> = Reader::open(recording.as_slice())
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(packets.len() as u64 > summary.events);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("life.pcapng");
        std::fs::write(&file, &recording).unwrap();
        let output = host
            .command("tshark")
            .env("HOME", folder.path())
            .args(["-n", "-r", file.to_str().unwrap(), "-T", "fields"])
            .args([
                "-e",
                "frame.protocols",
                "-e",
                "_ws.malformed",
                "-e",
                "frame.packet_flags_direction",
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let lines: Vec<_> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        assert_eq!(lines.len(), packets.len());
        for (line, packet) in lines.iter().zip(&packets) {
            let expected = match packet.direction {
                Direction::FromKernel => "netlink:netlink-route\t\t0x00000001",
                Direction::ToKernel => "netlink:netlink-route\t\t0x00000002",
            };
            assert_eq!(line, expected, "{packet:?}");
        }
    });
}

#[test]
fn a_burst_of_2000_taps_is_shown_or_marked_as_lost_with_the_right_number() {
    in_namespace(|| {
        require!(Feature::Tap);
        without_ipv6();
        let host = Host::here();
        let reading = Trace::start(Options::default());
        let tiny = Trace::start(Options {
            receive_buffer: 4096,
            format: Format::Json,
            ..Options::default()
        });
        // Its reader does not read: it blocks in the first line it prints.
        let blocked = tiny.out.clone();
        let blocked = blocked.0.lock().unwrap();
        for nth in 0..BURST {
            // They go with the namespace: closing them one by one takes the kernel 20 ms each.
            host.tap(&format!("tap{nth}")).set_persistent(true).unwrap();
        }
        drop(blocked);
        let (shown, all, _) = reading.finish();
        let (text, few, recording) = tiny.finish();
        assert!(few.losses > 0 && few.lost > 0, "{few:?}");
        assert_eq!(few.events + few.lost, all.events + all.lost);
        let new = shown
            .lines()
            .filter(|line| line.contains(" new link tap"))
            .count();
        assert_eq!(new, BURST, "{all:?}");
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let told: u64 = lines
            .iter()
            .filter(|l| l["event"] == "loss")
            .map(|l| l["lost"].as_u64().unwrap_or(0))
            .sum();
        assert_eq!(told, few.lost);
        // What was lost was found by the resync: every tap is told of, as an event or after it.
        let new = lines
            .iter()
            .filter(|l| l["event"] == "new" && l["object"] == "link")
            .count();
        assert_eq!(new, BURST);
        let recorded: u64 = Reader::open(recording.as_slice())
            .unwrap()
            .filter_map(|packet| packet.unwrap().lost_before)
            .sum();
        assert_eq!(recorded, few.lost);
    });
}
