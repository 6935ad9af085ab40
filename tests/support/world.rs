//! `in_namespace`: the test's body in a process of its own, in a namespace of its own.
//!
//! libtest is multi-threaded, so the kernel lets no test enter a user namespace. Instead the test runs its own
//! binary again for itself alone (`--exact NAME`), the child enters the namespace between fork and exec, and the body
//! runs there. The parent passes on what the child printed and how it ended. `#[should_panic]` does not work.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tapwire::daemon::namespace::{Entry, explain};

/// Which test a child process is there for.
const CHILD: &str = "TAPWIRE_TEST_CHILD";
/// Set to 1: a skip is a failure (continuous integration).
const REQUIRE_ALL: &str = "TAPWIRE_REQUIRE_ALL";
/// Set by `tests/rigs/vmrun` in the guest, to the machine's kind.
const VM: &str = "TAPWIRE_VM";
/// The whole suite in a virtual machine: 10 minutes on an idle processor, three times that on a shared one.
const SUITE_SECONDS: &str = "2400";
/// A test that hangs is killed by its own alarm after this many seconds, times `slowness`.
const ALARM_SECONDS: u32 = 120;
const SKIP_MARK: &str = "tapwire-test skip: ";
const VM_MARK: &str = "tapwire-test needs another kernel: ";
const MACHINE_MARK: &str = "tapwire-test needs the machine's own kernel: ";

/// How much longer things may take here: a virtual machine without hardware help is several times slower.
pub fn slowness() -> u32 {
    if in_vm() { 5 } else { 1 }
}

/// How many of a crowd are enough here: a virtual machine gets a tenth.
pub fn crowd(count: usize) -> usize {
    if in_vm() { count / 10 } else { count }
}

fn in_vm() -> bool {
    std::env::var_os(VM).is_some()
}

/// Runs `body` as root of a fresh user + network + mount namespace. Call it directly in a `#[test]` function.
pub fn in_namespace<F: FnOnce()>(body: F) {
    let name = test_name(std::any::type_name_of_val(&body));
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        return body();
    }
    match Verdict::read(name, &run_child(name)) {
        Verdict::Passed => {}
        Verdict::Skip(reason) => skip(name, &reason),
        Verdict::Machine(reason) => say_skipped(name, &reason),
        Verdict::AnotherKernel(reason) => match vmrun() {
            Some(vmrun) if !in_vm() => match Verdict::read(name, &run_in_vm(vmrun, name)) {
                Verdict::Passed => {}
                Verdict::Skip(reason) | Verdict::Machine(reason) | Verdict::AnotherKernel(reason) => {
                    skip(name, &reason);
                }
            },
            _ => skip(
                name,
                &format!("{reason}; with user-mode-linux installed it would run in a virtual machine"),
            ),
        },
    }
}

/// Who has what a kernel or machine lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// A virtual machine with a kernel of its own.
    VirtualMachine,
    /// Not the virtual machine, but the machine that it runs on, where the same test runs too.
    Machine,
    Nobody,
}

/// Ends the body early: this machine lacks something. Called by `require!`.
pub fn lack(reason: &str, elsewhere: Elsewhere) {
    let mark = match elsewhere {
        Elsewhere::VirtualMachine => VM_MARK,
        Elsewhere::Machine if in_vm() => MACHINE_MARK,
        Elsewhere::Machine | Elsewhere::Nobody => SKIP_MARK,
    };
    println!("\n{mark}{reason}");
}

enum Verdict {
    Passed,
    Skip(String),
    AnotherKernel(String),
    /// Lacking in the virtual machine, proven outside of it.
    Machine(String),
}

impl Verdict {
    /// Passes on the child's output; panics when the child failed.
    fn read(name: &str, output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        // Without libtest's own words, which whoever sums up results would count twice.
        for line in text
            .lines()
            .filter(|l| !l.starts_with("test result: ") && *l != "running 1 test")
        {
            println!("{line}");
        }
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "{name} failed in its namespace: {}",
            output.status
        );
        // `--exact` with a name that is none runs nothing, and succeeds.
        assert!(
            text.contains("test result: ok. 1 passed"),
            "{name} did not run: call in_namespace directly in a #[test] function"
        );
        let marked = |mark| {
            text.lines()
                .find_map(|line| line.strip_prefix(mark))
                .map(str::to_owned)
        };
        let skipped = marked(SKIP_MARK).map(Verdict::Skip);
        marked(VM_MARK)
            .map(Verdict::AnotherKernel)
            .or_else(|| marked(MACHINE_MARK).map(Verdict::Machine))
            .or(skipped)
            .unwrap_or(Verdict::Passed)
    }
}

/// `namespace::attach::a_tap_is_attached::{{closure}}` is libtest's `attach::a_tap_is_attached`.
fn test_name(closure: &'static str) -> &'static str {
    let path = closure.strip_suffix("::{{closure}}").unwrap_or(closure);
    path.split_once("::").map_or(path, |(_crate, rest)| rest)
}

fn arguments(name: &str) -> [&str; 4] {
    ["--exact", name, "--nocapture", "--test-threads=1"]
}

fn run_child(name: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("the test binary's own path"));
    command
        .args(arguments(name))
        .env(CHILD, name)
        .stdin(Stdio::null());
    let entry = Entry::prepare();
    let alarm = ALARM_SECONDS * slowness();
    // SAFETY: between fork and exec only system calls: `Entry::enter` is made for it, alarm and prctl are system calls.
    unsafe {
        command.pre_exec(move || {
            entry.enter()?;
            libc::alarm(alarm);
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    command
        .output()
        .unwrap_or_else(|e| panic!("{}", anyhow::Error::new(explain(e))))
}

fn run_in_vm(vmrun: &Path, name: &str) -> Output {
    Command::new(vmrun)
        .args(["-k", "uml", "-t", "300", "--"])
        .arg(std::env::current_exe().expect("the test binary's own path"))
        .args(arguments(name))
        .stdin(Stdio::null())
        .output()
        .expect("run tests/rigs/vmrun")
}

/// Runs all tests of this binary but those of `module` in one virtual machine. Nothing to do inside of it.
pub fn all_in_vm(module: &str) {
    let name = module.split_once("::").map_or(module, |(_crate, rest)| rest);
    if in_vm() {
        return;
    }
    let Some(vmrun) = vmrun() else {
        return skip(
            name,
            "user-mode-linux is not installed (with kmod: apt-get install user-mode-linux kmod)",
        );
    };
    let output = Command::new(vmrun)
        .args(["-k", "uml", "-m", "1500", "-t", SUITE_SECONDS, "--"])
        .arg(std::env::current_exe().expect("the test binary's own path"))
        .args(["--skip", name])
        .stdin(Stdio::null())
        .output()
        .expect("run tests/rigs/vmrun");
    let text = String::from_utf8_lossy(&output.stdout);
    // Libtest's own summary would be counted twice.
    let summary = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("test result: "));
    let summary = summary.unwrap_or("no result");
    assert!(
        output.status.success(),
        "under the other kernel: {summary}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    // Not through `println!`, which libtest captures.
    let _ = writeln!(io::stderr(), "under the other kernel: {summary}");
}

/// The virtual machine's runner, if the machine is installed.
fn vmrun() -> Option<&'static Path> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rigs/vmrun"));
    super::feature::program("linux.uml").map(|_| path)
}

fn skip(name: &str, reason: &str) {
    assert!(
        std::env::var(REQUIRE_ALL).as_deref() != Ok("1"),
        "{name} must not be skipped ({REQUIRE_ALL}=1): {reason}"
    );
    say_skipped(name, reason);
}

/// Not through `eprint!`, which libtest captures: a skip must be seen.
fn say_skipped(name: &str, reason: &str) {
    let _ = writeln!(io::stderr(), "skipped {name}: {reason}");
}
