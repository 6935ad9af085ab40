//! The whole corpus of hostile plugins (`tests/hostile`, see `tests/policy/hostile.rs` for what each of them comes to)
//! against a running daemon: each is put into force by a reload and asked about taps of its own, while taps of another
//! network, in the same chain of plugins, appear.

use super::policy;
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::{crowd, in_namespace};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The default ones, on an emulated machine too: none of these plugins is to be waited for longer.
const LIMITS: &str = "deadline_ms = 20\nabandon_ms = 500";
/// The corpus asks to be asked about `evil*` only.
const NETWORKS: &str = r#"
[daemon]
prune_after = "never"
[taps]
match = ["tap*", "evil*"]
[[network]]
id = "black"
network_type = "local"
prewarm = true
[[network]]
id = "green"
network_type = "local"
prewarm = true
[[port]]
tap = "evil*"
network = "black"
[[port]]
tap = "tap*"
network = "green"
"#;
/// Has a say about every tap.
const INNOCENT: &str =
    "return { api = 1, port = function(ctx) return { tags = { seen = ctx.link.name } } end }";
const EVIL_TAPS: usize = 2;
const GOOD_TAPS: usize = 3;
/// What a call may compute before it is stopped, microseconds: whoever waited behind one took longer.
const DEADLINE_US: u64 = 20_000;
/// Requests of an attach, each of which may have to wait for a processor and for the kernel's one lock of all links.
const STEPS: u64 = 4;
/// How often a plugin is measured whose neighbours were held up.
const ATTEMPTS: usize = 3;
/// Growth of the daemon's memory that counts as level, KiB: threads' stacks, the allocator's arenas.
const LEVEL_KIB: u64 = 8 << 10;
const SOON: Duration = Duration::from_secs(20);

/// The corpus in parts, by the first word of a file's name: each part ends long before a test's alarm, on a slow machine too.
const PARTS: [&[&str]; 6] = [
    &["load", "host", "error"],
    &["escape", "metatable"],
    &["result"],
    &["memory", "recursion"],
    &["c", "coroutine", "metamethod"],
    &["loop", "pattern", "pcall", "xpcall"],
];

#[test]
fn every_hostile_plugin_is_in_one_part() {
    let corpus = corpus();
    assert!(corpus.len() >= 60);
    for path in corpus {
        let parts = PARTS.iter().filter(|part| is_in(part, &path)).count();
        assert_eq!(parts, 1, "{}", path.display());
    }
}

#[test]
fn files_that_do_not_load_and_misuse_of_host_hold_up_nobody() {
    in_namespace(|| hold_up_nobody(PARTS[0]));
}

#[test]
fn escapes_from_the_sandbox_hold_up_nobody() {
    in_namespace(|| hold_up_nobody(PARTS[1]));
}

#[test]
fn impossible_results_hold_up_nobody() {
    in_namespace(|| hold_up_nobody(PARTS[2]));
}

#[test]
fn memory_and_stack_bombs_hold_up_nobody() {
    in_namespace(|| hold_up_nobody(PARTS[3]));
}

#[test]
fn coroutines_and_long_library_calls_hold_up_nobody() {
    in_namespace(|| hold_up_nobody(PARTS[4]));
}

#[test]
fn loops_that_swallow_their_errors_hold_up_nobody() {
    in_namespace(|| hold_up_nobody(PARTS[5]));
}

/// No plugin of these families holds up another network's taps or costs the daemon anything.
fn hold_up_nobody(families: &[&str]) {
    require!(Feature::Tap);
    let corpus: Vec<PathBuf> = corpus()
        .into_iter()
        .filter(|path| is_in(families, path))
        .collect();
    let host = Host::here();
    let mut daemon = Daemon::spawn(&host, NETWORKS);
    // What a script logs as an error, and a reload that is refused.
    daemon.expect_error("\"plugin\":\"hostile\"");
    daemon.wait_in_sync();
    daemon.write_file("innocent.lua", INNOCENT);
    daemon.write_file("hostile.lua", "return { api = 1 }");
    let files = ["hostile.lua", "innocent.lua"].map(|f| daemon.path(f).to_string_lossy().into_owned());
    daemon.reload(&format!("{NETWORKS}{}", policy(&files, LIMITS)));
    wait_until("the plugins are loaded", SOON, || {
        daemon.json(&["policy", "status"])["plugins"]
            .as_array()
            .map(Vec::len)
            == Some(2)
    });
    attach_times(&host, &daemon, GOOD_TAPS);
    let before = resident(&daemon);
    let (mut normal, mut beside, mut stalls) = (Vec::new(), Vec::new(), Vec::new());
    let mut failures = Vec::new();
    // A slow machine takes a part of it, of every family.
    let step = corpus.len() / crowd(corpus.len()).max(1);
    for path in corpus.iter().step_by(step.max(1)) {
        match run_again_if_held_up(&host, &daemon, path) {
            Ok(times) => {
                if times.held_up() {
                    failures.push(format!("{}: {times:?}", path.display()));
                }
                stalls.push(times.stall);
                normal.extend(times.alone);
                beside.extend(times.beside);
            }
            Err(problem) => failures.push(format!("{}: {problem}", path.display())),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let (normal, beside, stall) = (median(normal), median(beside), median(stalls));
    println!(
        "innocent taps: {normal} us alone, {beside} us beside taps of hostile plugins, others held up for {stall} us (medians)"
    );
    // One processor that has ticks of 10 ms makes few taps wait one, two or no ticks for each step, whoever is there.
    assert!(
        beside <= 3 * normal + STEPS * stall,
        "{beside} us beside hostile plugins, {normal} us alone, the kernel held others up for {stall} us"
    );
    // The last hostile one is kept for a rollback until the second reload.
    daemon.write_file("hostile.lua", "return { api = 1 }");
    for _ in 0..2 {
        daemon.json(&["policy", "reload"]);
    }
    wait_until("the daemon's memory is back at its level", SOON, || {
        resident(&daemon) < before + LEVEL_KIB
    });
    println!("memory: {before} KiB before, {} KiB after", resident(&daemon));
    let status = daemon.json(&["policy", "status"]);
    assert!(
        status["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .all(|p| p["health"] == "ok"),
        "{status}"
    );
    assert!(daemon.is_running());
    daemon.assert_nothing_planned();
}

fn is_in(families: &[&str], path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    families.contains(&name.split('_').next().unwrap_or_default())
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times[times.len() / 2]
}

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files
}

/// What innocent taps' attach took, microseconds.
#[derive(Debug)]
struct Times {
    /// With nobody else there: normal is what this machine does at this moment.
    alone: Vec<u64>,
    /// With taps of the hostile plugin; the fastest first.
    beside: Vec<u64>,
    /// For how long the kernel held others up meanwhile, at worst.
    stall: u64,
}

impl Times {
    /// Whether even the fastest of the innocent taps waited for a hostile one.
    fn held_up(&self) -> bool {
        let slowest_alone = self.alone.iter().max().copied().unwrap_or_default();
        self.beside[0] > DEADLINE_US.max(4 * slowest_alone) + STEPS * self.stall
    }
}

/// As `run`, again when an innocent tap was held up: whom the plugin holds up it holds up each time, the machine does not.
fn run_again_if_held_up(host: &Host, daemon: &Daemon, path: &Path) -> Result<Times, String> {
    let mut times = run(host, daemon, path)?;
    for _ in 1..ATTEMPTS {
        if !times.held_up() {
            break;
        }
        times = run(host, daemon, path)?;
    }
    Ok(times)
}

/// Puts one plugin into force and lets it meet its taps.
fn run(host: &Host, daemon: &Daemon, path: &Path) -> Result<Times, String> {
    daemon.write_file("hostile.lua", &std::fs::read_to_string(path).unwrap());
    let output = daemon.output(&["policy", "reload", "--max-changes", "1000"]);
    let refused = path.file_name().unwrap().to_string_lossy().starts_with("load_");
    if output.status.success() == refused {
        return Err(format!(
            "the reload ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let stalls = Stalls::watch();
    let alone = attach_times(host, daemon, GOOD_TAPS);
    let evil = host.taps("evil", EVIL_TAPS);
    let mut beside = attach_times(host, daemon, GOOD_TAPS);
    beside.sort_unstable();
    for tap in &evil {
        let name = tap.name().to_string();
        wait_until(&format!("{name} has its answer"), SOON, || {
            let port = daemon.port(&name).unwrap_or_default();
            let attached = port["state"] == "attached";
            let denied = port["state"] == "denied"
                && port["reason"]
                    .as_str()
                    .is_some_and(|reason| reason.contains("hook port"));
            attached || denied
        });
        let state = daemon.port(&name).unwrap_or_default();
        if (state["state"] == "attached") != host.is_attached(&name, "brqblack") {
            return Err(format!("{state} is not what the kernel has"));
        }
    }
    let stall = stalls.longest_us();
    drop(evil);
    wait_until("the taps are forgotten", SOON, || {
        daemon
            .json(&["port", "list"])
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    if daemon.is_running() {
        Ok(Times { alone, beside, stall })
    } else {
        Err("the daemon ended".to_owned())
    }
}

/// Makes innocent taps, waits for them, lets them go: what the daemon says their attach took.
fn attach_times(host: &Host, daemon: &Daemon, count: usize) -> Vec<u64> {
    wait_until("earlier taps are forgotten", SOON, || {
        let ports = daemon.json(&["port", "list"]);
        !ports.as_array().unwrap().iter().any(|p| p["network"] == "green")
    });
    let taps = host.taps("tap", count);
    for tap in &taps {
        daemon.wait_port(&tap.name().to_string(), "attached");
    }
    let ports = daemon.json(&["port", "list"]);
    let times = ports
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["network"] == "green");
    times.filter_map(|p| p["attach_us"].as_u64()).collect()
}

/// How long a request that takes the kernel's lock of all links (of every namespace on the machine) takes at worst while
/// it is watched, waking up for it included: what no daemon can be faster than.
struct Stalls {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Stalls {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            const PAUSE: Duration = Duration::from_millis(1);
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let started = Instant::now();
                std::thread::sleep(PAUSE);
                take_link_lock(&socket);
                longest = longest.max(started.elapsed().saturating_sub(PAUSE));
            }
            longest
        });
        Self { stop, thread }
    }

    fn longest_us(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.thread.join().expect("the watching thread ends");
        u64::try_from(longest.as_micros()).expect("less than ages")
    }
}

/// Gives `lo` the flags that it has.
fn take_link_lock(socket: &UdpSocket) {
    // SAFETY: all zeros is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    for code in [libc::SIOCGIFFLAGS, libc::SIOCSIFFLAGS] {
        // SAFETY: the request is alive and of the type that both calls take.
        let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), code as _, &mut request) };
        assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    }
}

/// Resident memory of the daemon, KiB.
fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
