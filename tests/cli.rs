//! The command line as a shell sees it: help, exit codes, text and JSON, against no daemon or a made-up one.

#![allow(
    clippy::unwrap_used,
    reason = "a test that fails may panic, its helper functions too"
)]

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Process, Output, Stdio};
use std::time::{Duration, Instant};
use tapwire::control::api::{
    Binding, Command, ConfigState, Counters, Failure, FailureKind, LeaseRow, NetworkDetail, NetworkRow,
    PeerRow, PlanRow, PluginRow, PolicyReloadReport, PolicyStatus, PortCounts, PortDetail, PortRow,
    PortState, ReloadReport, Request, ResyncReport, ServerRow, Status, StepKind, Story, StoryStep, Verdict,
    WaitCondition, WaitReport,
};
use tapwire::control::server::{Handle, Limits, Server, Settings};
use tokio::sync::mpsc;

#[path = "cli/replay.rs"]
mod replay;
#[path = "cli/tools.rs"]
mod tools;

const TAPWIRE: &str = env!("CARGO_BIN_EXE_tapwire");

fn tapwire(args: &[impl AsRef<OsStr>]) -> Process {
    let mut process = Process::new(TAPWIRE);
    process
        .args(args)
        .env_remove("TAPWIRE_SOCKET")
        .env_remove("TAPWIRE_CONFIG")
        .env_remove("TAPWIRE_LOG")
        .env_remove("COLUMNS")
        .stdin(Stdio::null());
    process
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

// ------------------------------------------------------------------------------------------- without a daemon

/// The names below "Commands:" of a help text.
fn commands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // A long description goes on, further to the right.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_has_a_help_text() {
    let mut left = vec![Vec::<String>::new()];
    while let Some(path) = left.pop() {
        let mut args = path.clone();
        args.push("--help".into());
        let output = tapwire(&args).output().unwrap();
        assert_exit(&output, 0);
        let help = text(&output.stdout);
        for inner in commands(&help) {
            let mut longer = path.clone();
            longer.push(inner);
            left.push(longer);
        }
        let name = if path.is_empty() {
            "help".to_owned()
        } else {
            format!("help-{}", path.join("-"))
        };
        // The options that all commands share are in the first text.
        let own = match help.split_once("\nGlobal options:") {
            Some((own, _)) if !path.is_empty() => own.to_owned(),
            _ => help,
        };
        insta::assert_snapshot!(name, own);
    }
}

#[test]
fn bad_usage_is_exit_2() {
    for args in [
        &["nonsense"][..],
        &["status", "--nonsense"],
        &["port"],
        &["port", "bind", "tap0"],
        &["port", "bind", "a/b", "blue"],
        &["port", "show"],
        &["wait"],
        &["wait", "--in-sync", "--port", "tap0"],
        &["wait", "--port", "tap0", "--state", "atached"],
        &["wait", "--in-sync", "--timeout", "-1"],
        &["wait", "--in-sync", "--timeout", "soon"],
        &["--log-format", "xml", "status"],
        &["demo", "--taps", "0"],
        &["policy", "eval"],
        &["completions", "cobol"],
        &["network", "add", "blue"],
        &["network", "add", "blue", "--network-type", "vxlan"],
    ] {
        let output = tapwire(args).output().unwrap();
        assert_exit(&output, 2);
        // A command that lacks its subcommand shows its help instead of complaining.
        let stderr = text(&output.stderr);
        assert!(
            stderr.starts_with("error: ") || stderr.contains("Usage:"),
            "{args:?}: {stderr}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_network_that_cannot_be_is_refused_with_all_reasons_before_anybody_is_asked() {
    let args = [
        "network",
        "add",
        "a b",
        "--network-type",
        "vlan",
        "--segmentation-id",
        "4095",
        "--mtu",
        "9",
    ];
    let output = tapwire(&args).output().unwrap();
    assert_exit(&output, 2);
    insta::assert_snapshot!("network-add-refused", text(&output.stderr));
}

#[test]
fn no_daemon_is_exit_3_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let asks = [
        &["status"][..],
        &["port", "list"],
        &["network", "list"],
        &["plan"],
        &["resync"],
        &["explain", "tap0"],
        &["metrics"],
        &["wait", "--in-sync", "--timeout", "0.1"],
    ];
    for args in asks {
        let output = tapwire(args).arg("--socket").arg(&socket).output().unwrap();
        assert_exit(&output, 3);
        let stderr = text(&output.stderr);
        assert!(stderr.contains("cannot reach the daemon at"), "{stderr}");
        assert!(stderr.contains("is tapwire running?"), "{stderr}");
    }
    let output = tapwire(&["--json", "status"])
        .env("TAPWIRE_SOCKET", &socket)
        .output()
        .unwrap();
    assert_exit(&output, 3);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["exit_code"], 3);
    assert!(error["hint"].as_str().unwrap().contains("is tapwire running?"));
}

#[test]
fn a_named_configuration_says_where_the_daemon_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("tapwire.toml");
    std::fs::write(&config, "[daemon]\nsocket = \"/nonexistent/named.sock\"\n").unwrap();
    let output = tapwire(&["status", "--config"]).arg(&config).output().unwrap();
    assert_exit(&output, 3);
    assert!(text(&output.stderr).contains("/nonexistent/named.sock"));
    let output = tapwire(&["status", "--socket", "/nonexistent/other.sock"])
        .env("TAPWIRE_CONFIG", &config)
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("/nonexistent/other.sock"));
    let output = tapwire(&["status", "--config", "/nonexistent.toml"])
        .output()
        .unwrap();
    assert_exit(&output, 2);
}

#[test]
fn check_shows_every_mistake_and_exits_2() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("tapwire.toml");
    std::fs::write(
        &config,
        "[taps]\nmach = []\n[[network]]\nid = \"a\"\nnetwork_type = \"vlam\"\n",
    )
    .unwrap();
    let output = tapwire(&["check", "--config"]).arg(&config).output().unwrap();
    assert_exit(&output, 2);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("mach") && stderr.contains("vlam"), "{stderr}");
    let output = tapwire(&["--json", "check", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_exit(&output, 2);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["errors"].as_array().unwrap().len(), 2, "{report}");
    std::fs::write(&config, "[[network]]\nid = \"a\"\nnetwork_type = \"local\"\n").unwrap();
    let output = tapwire(&["check", "--config"]).arg(&config).output().unwrap();
    assert_exit(&output, 0);
    assert!(text(&output.stdout).ends_with("ok (1 file, 1 network, 0 ports)\n"));
}

#[test]
fn check_warns_of_what_can_hardly_be_meant() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("tapwire.toml");
    std::fs::write(
        &config,
        "[[network]]\nid = \"a\"\nnetwork_type = \"local\"\n[[port]]\ntap = \"vm*\"\nnetwork = \"a\"\n",
    )
    .unwrap();
    let output = tapwire(&["check", "--config"]).arg(&config).output().unwrap();
    assert_exit(&output, 0);
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with("warning: tap `vm*` will never"), "{stdout}");
    assert!(stdout.contains("tapwire.toml:5:7\n"), "{stdout}");
    assert!(stdout.ends_with("ok (1 file, 1 network, 1 port)\n"), "{stdout}");
    let output = tapwire(&["--json", "check", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_exit(&output, 0);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["warnings"][0]["line"], 5, "{report}");
}

#[test]
fn completions_and_manual_pages_come_for_every_shell_and_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = tapwire(&["completions", shell]).output().unwrap();
        assert_exit(&output, 0);
        assert!(text(&output.stdout).contains("network"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = tapwire(&["man", "--directory"]).arg(dir.path()).output().unwrap();
    assert_exit(&output, 0);
    let page = std::fs::read_to_string(dir.path().join("tapwire-port-bind.1")).unwrap();
    assert!(page.contains(".TH tapwire-port-bind 1"), "{page}");
    let output = tapwire(&["man"]).output().unwrap();
    assert!(text(&output.stdout).contains("tapwire demo"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = tapwire(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
    assert_eq!(stderr, "");
}

// ------------------------------------------------------------------------------------------- with a made-up daemon

struct FakeDaemon {
    socket: PathBuf,
    _server: Handle,
    dir: tempfile::TempDir,
}

impl FakeDaemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("tapwire.sock");
        let server = Server::bind(&Settings {
            socket: socket.clone(),
            group: None,
            metrics_listen: None,
            limits: Limits::default(),
        })
        .unwrap();
        let (sender, mut requests) = mpsc::channel::<Request>(8);
        std::thread::spawn(move || {
            // Waiters stay, as in the real daemon.
            let mut waiting = Vec::new();
            while let Some(request) = requests.blocking_recv() {
                if let Some(waiter) = answer(request.command) {
                    waiting.push(waiter);
                }
            }
        });
        Self {
            socket,
            _server: server.start(sender).unwrap(),
            dir,
        }
    }

    fn ask(&self, args: &[&str]) -> Output {
        tapwire(args).arg("--socket").arg(&self.socket).output().unwrap()
    }

    #[track_caller]
    fn says(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert_exit(&output, 0);
        assert_eq!(text(&output.stderr), "");
        text(&output.stdout)
    }
}

fn row(tap: &str, ifindex: u32, state: PortState) -> PortRow {
    let attached = state == PortState::Attached;
    PortRow {
        tap: tap.into(),
        ifindex,
        port: (ifindex == 7).then(|| "0f3a9c6e-1b22-4f5d-8d7e-aa0102030405".into()),
        network: (state != PortState::Pending).then(|| "blue".into()),
        bridge: attached.then(|| "brqblue".into()),
        state,
        reason: (!attached).then(|| "no mapping\u{1b}[31m".into()),
        mtu: 1450,
        attach_us: attached.then_some(412),
    }
}

fn network() -> NetworkRow {
    NetworkRow {
        id: "blue".into(),
        name: Some("the blue one".into()),
        network_type: "vlan".into(),
        segmentation_id: Some(100),
        physical_network: Some("physnet1".into()),
        bridge: Some("brvlan".into()),
        vid: Some(100),
        uplink: Some("eth1".into()),
        mtu: Some(1500),
        ports: 1,
        state: "ready".into(),
        reason: None,
    }
}

fn plugin() -> PluginRow {
    PluginRow {
        name: "mtu".into(),
        path: "/etc/tapwire/plugins/mtu.lua".into(),
        health: "ok".into(),
        hooks: vec!["port".into(), "network".into()],
        calls: 12,
        errors: 0,
        last_error: None,
        memory_bytes: 524_288,
    }
}

/// Answers at once, or gives back what must be kept for the client to go on waiting.
fn answer(command: Command) -> Option<tapwire::control::api::Reply<WaitReport>> {
    match command {
        Command::Status(reply) => drop(reply.send(Ok(Status {
            version: "0.1.0".into(),
            in_sync: true,
            since: "2026-01-02T03:04:05Z".into(),
            uptime_s: 273_600,
            ports: PortCounts {
                attached: 24,
                pending: 1,
                ..PortCounts::default()
            },
            networks: 4,
            links: 61,
            counters: Counters {
                events: 1234,
                ops: 96,
                op_errors: 1,
                ..Counters::default()
            },
            config: ConfigState {
                path: "/etc/tapwire/tapwire.toml".into(),
                ok: false,
                error: Some("line 3: unknown key `mach`".into()),
            },
            plugins: vec![plugin()],
            conflicts: Vec::new(),
        }))),
        Command::PortList { all, reply } => {
            let mut rows = vec![
                row("tap0", 7, PortState::Attached),
                row("tap10", 123, PortState::Pending),
            ];
            if all {
                rows.push(row("eth0", 2, PortState::Unmanaged));
            }
            drop(reply.send(Ok(rows)));
        }
        Command::PortShow { port, reply } => drop(reply.send(Ok(PortDetail {
            row: row(&port, 7, PortState::Attached),
            mac: Some("fa:16:3e:00:00:05".into()),
            up: true,
            carrier: false,
            mapping: Some("/etc/tapwire/tapwire.toml:12".into()),
            retry_in_ms: None,
            verdicts: vec![Verdict {
                plugin: "mtu".into(),
                hook: "port".into(),
                verdict: "mtu 1450".into(),
            }],
        }))),
        Command::PortBind { request, reply } => drop(reply.send(Ok(Binding {
            tap: request.port.clone(),
            port: request.port,
            network: request.network,
        }))),
        Command::PortUnbind { port, reply } => {
            let failure = Failure::new(FailureKind::NotFound, format!("{port} was not bound by command"));
            drop(reply.send(Err(failure.hint("its mapping is at tapwire.toml:12"))));
        }
        Command::NetworkList(reply) => drop(reply.send(Ok(vec![network()]))),
        Command::NetworkShow { reply, .. } => drop(
            reply.send(Ok(NetworkDetail {
                row: network(),
                origin: "/etc/tapwire/networks.d/blue.toml:3".into(),
                taps: vec![row("tap0", 7, PortState::Attached)],
                peers: vec![PeerRow {
                    vtep: "192.0.2.12".into(),
                    mac: Some("fa:16:3e:00:00:07".into()),
                    ip: None,
                }],
                services: serde_json::json!({
                    "gateway": { "addresses": ["10.0.0.1/24"], "snat": { "interface": "eth0" } },
                    "dhcp": { "domain": "blue.example", "dns_servers": [] },
                })
                .as_object()
                .cloned()
                .unwrap(),
                server: Some(ServerRow {
                    state: "running".into(),
                    pid: Some(4711),
                    reason: None,
                }),
                leases: vec![LeaseRow {
                    address: "10.0.0.5".into(),
                    mac: Some("fa:16:3e:00:00:05".into()),
                    hostname: Some("web-1".into()),
                    expires_in_s: Some(86_000),
                }],
            })),
        ),
        Command::NetworkAdd { spec, reply } => drop(reply.send(Ok(NetworkRow {
            id: spec.id,
            network_type: spec.network_type,
            segmentation_id: spec.segmentation_id.and_then(|n| u32::try_from(n).ok()),
            physical_network: None,
            ..network()
        }))),
        Command::NetworkDelete { force, reply, .. } => drop(reply.send(if force {
            Ok(network())
        } else {
            Err(Failure::new(FailureKind::Conflict, "1 tap is attached to blue").hint("--force detaches it"))
        })),
        Command::Plan(reply) => drop(reply.send(Ok(vec![PlanRow {
            op: "attach".into(),
            args: serde_json::json!({"link": "tap0", "master": "brqblue"}),
            cause: "resync".into(),
            line: "ip link set dev tap0 master brqblue".into(),
        }]))),
        Command::Resync(reply) => drop(reply.send(Ok(ResyncReport {
            links: 61,
            ops: 2,
            op_errors: 0,
            elapsed_us: 3_207,
        }))),
        Command::Reload { reply, .. } => drop(reply.send(Ok(ReloadReport {
            files: 2,
            changes: vec!["network blue added (networks.d/blue.toml:3)".into()],
            warnings: vec!["ports.toml:7: tap `vm*` will never be looked at".into()],
        }))),
        Command::Wait { condition, reply } => match condition {
            WaitCondition::InSync => drop(reply.send(Ok(WaitReport::default()))),
            WaitCondition::Port {
                state: PortState::Attached,
                port,
            } if port == "tap0" => drop(reply.send(Ok(WaitReport {
                port: Some(row("tap0", 7, PortState::Attached)),
            }))),
            WaitCondition::Port { .. } => return Some(reply),
        },
        Command::Explain { port, reply } => drop(reply.send(Ok(story(port)))),
        Command::History { limit, reply } => {
            let records = (1..=limit.min(3)).map(|seq| serde_json::json!({"seq": seq}));
            drop(reply.send(Ok(records.collect())));
        }
        Command::HistorySave(reply) => {
            drop(reply.send(Ok("/var/lib/tapwire/flight-1-request.jsonl".into())));
        }
        Command::PolicyRecord { mut sink, reply } => {
            drop(reply.send(Ok(())));
            for tap in 1..=5 {
                sink.push(tools::recorded(tap, 1400).into());
            }
        }
        Command::TraceSubscribe { reply, .. } | Command::AccountSubscribe { reply, .. } => {
            drop(reply.send(Ok(())));
        }
        Command::Metrics(reply) => drop(reply.send(Ok("tapwire_events_total 1234\n# EOF\n".into()))),
        Command::PolicyStatus(reply) => drop(reply.send(Ok(PolicyStatus {
            generation: Some("9f3c".into()),
            previous: None,
            plugins: vec![plugin()],
            conflicts: vec!["mtu: mtu plugins/mtu.lua:14 = 1450 stands, jumbo plugins/jumbo.lua:3 = 9000 does not (tap0)".into()],
        }))),
        Command::PolicyReload { reply, .. } | Command::PolicyRollback(reply) => {
            drop(reply.send(Ok(PolicyReloadReport {
                generation: Some("a001".into()),
                changes: vec!["tap0 mtu 1500 -> 1450 (mtu)".into()],
                ports: Some(1),
                networks: Some(1),
                refused: None,
            })));
        }
        Command::PolicyEval { port, reply } => {
            drop(reply.send(Ok(serde_json::json!({
                "hook": "port",
                "decision": {"alias": port, "mtu": 1450, "by": {"mtu": "mtu plugins/mtu.lua:14"}},
                "steps": [{"plugin": "mtu", "outcome": "ok", "fallback": "none"}],
            }))));
        }
    }
    None
}

fn story(tap: String) -> Story {
    let step = |at_us, cause, kind, text: &str, elapsed_us, ok| StoryStep {
        at_us,
        cause,
        kind,
        text: text.into(),
        elapsed_us,
        ok,
    };
    Story {
        tap,
        ifindex: Some(7),
        state: PortState::Attached,
        reason: None,
        network: Some("blue".into()),
        steps: vec![
            step(
                1_000_100,
                Some(41),
                StepKind::Event,
                "new tap, down, no master",
                None,
                None,
            ),
            step(
                1_000_120,
                Some(41),
                StepKind::Mapping,
                "network blue, by tapwire.toml:12",
                Some(20),
                None,
            ),
            step(
                1_000_160,
                Some(41),
                StepKind::Policy,
                "mtu: mtu 1450",
                Some(60),
                Some(true),
            ),
            step(
                1_000_170,
                Some(41),
                StepKind::Op,
                "ip link set dev tap0 master brqblue",
                Some(70),
                None,
            ),
            step(
                1_000_240,
                Some(41),
                StepKind::Answer,
                "done",
                Some(140),
                Some(true),
            ),
            step(1_000_512, Some(41), StepKind::State, "attached", Some(412), None),
            step(
                9_000_000,
                Some(77),
                StepKind::Event,
                "released by somebody else",
                None,
                None,
            ),
            step(
                9_000_080,
                Some(77),
                StepKind::Answer,
                "device or resource busy",
                Some(80),
                Some(false),
            ),
        ],
    }
}

#[test]
fn people_get_aligned_text() {
    let daemon = FakeDaemon::start();
    let cases: &[&[&str]] = &[
        &["status"],
        &["port", "list"],
        &["port", "list", "--all"],
        &["port", "show", "tap0"],
        &["port", "bind", "tap3", "blue"],
        &["network", "list"],
        &["network", "show", "blue"],
        &[
            "network",
            "add",
            "red",
            "--network-type",
            "vxlan",
            "--segmentation-id",
            "7",
        ],
        &["network", "delete", "blue", "--force"],
        &["plan"],
        &["resync"],
        &["reload"],
        &["wait", "--in-sync"],
        &["wait", "--port", "tap0"],
        &["explain", "tap0"],
        &["metrics"],
        &["policy", "status"],
        &["policy", "reload"],
        &["policy", "eval", "--tap", "tap0"],
        &["policy", "record", "--count", "2"],
    ];
    let mut all = String::new();
    for args in cases {
        all.push_str(&format!("$ tapwire {}\n{}\n", args.join(" "), daemon.says(args)));
    }
    insta::assert_snapshot!("text", all);
}

#[test]
fn machines_get_the_stable_keys_on_one_line() {
    let daemon = FakeDaemon::start();
    let json = |args: &[&str]| -> serde_json::Value {
        let mut all = vec!["--json"];
        all.extend_from_slice(args);
        let stdout = daemon.says(&all);
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        serde_json::from_str(&stdout).unwrap()
    };
    assert_eq!(json(&["status"])["ports"]["attached"], 24);
    assert_eq!(
        json(&["port", "list"])[0],
        serde_json::json!({
            "tap": "tap0", "ifindex": 7, "port": "0f3a9c6e-1b22-4f5d-8d7e-aa0102030405", "network": "blue",
            "bridge": "brqblue", "state": "attached", "reason": null, "mtu": 1450, "attach_us": 412,
        })
    );
    assert_eq!(
        json(&["network", "list"])[0],
        serde_json::json!({
            "id": "blue", "name": "the blue one", "network_type": "vlan", "segmentation_id": 100,
            "physical_network": "physnet1", "bridge": "brvlan", "vid": 100, "uplink": "eth1", "mtu": 1500, "ports": 1,
            "state": "ready", "reason": null,
        })
    );
    assert_eq!(json(&["plan"])[0]["op"], "attach");
    assert_eq!(json(&["port", "show", "tap0"])["mac"], "fa:16:3e:00:00:05");
    assert_eq!(json(&["explain", "tap0"])["steps"][0]["kind"], "event");
}

#[test]
fn refusals_are_exit_1_and_a_wait_in_vain_is_exit_4() {
    let daemon = FakeDaemon::start();
    let output = daemon.ask(&["port", "unbind", "tap0"]);
    assert_exit(&output, 1);
    assert_eq!(
        text(&output.stderr),
        "error: tap0 was not bound by command\nhint: its mapping is at tapwire.toml:12\n"
    );
    assert_exit(&daemon.ask(&["network", "delete", "blue"]), 1);
    let started = Instant::now();
    let output = daemon.ask(&["wait", "--port", "tap9", "--timeout", "0.2"]);
    assert_exit(&output, 4);
    let stderr = text(&output.stderr);
    assert!(
        stderr.starts_with("error: not tap9 attached within 0."),
        "{stderr}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn wait_outlasts_a_daemon_that_is_still_starting() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("late.sock");
    let mut waiting = tapwire(&["wait", "--in-sync", "--timeout", "20", "--socket"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let daemon = FakeDaemon::start();
    std::fs::rename(&daemon.socket, &socket).unwrap();
    assert!(waiting.wait().unwrap().success());
}

/// Runs a command as a user who is neither root nor in the socket's group; `None` where that cannot be done.
fn as_nobody(args: &[&str], socket: &std::path::Path) -> Option<Output> {
    const NOBODY: u32 = 65_534;
    tapwire(args)
        .arg("--socket")
        .arg(socket)
        .gid(NOBODY)
        .uid(NOBODY)
        .output()
        .ok()
}

#[test]
fn strangers_are_told_about_the_group_and_never_change_anything() {
    let daemon = FakeDaemon::start();
    std::fs::set_permissions(daemon.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let Some(output) = as_nobody(&["status"], &daemon.socket) else {
        println!("skipped: needs root, and a build folder that others may read");
        return;
    };
    assert_exit(&output, 3);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("join the group that owns it"), "{stderr}");
    // A mode widened for a monitoring agent lets it look, no more.
    std::fs::set_permissions(&daemon.socket, PermissionsExt::from_mode(0o666)).unwrap();
    assert_exit(&as_nobody(&["status"], &daemon.socket).unwrap(), 0);
    let output = as_nobody(&["resync"], &daemon.socket).unwrap();
    assert_exit(&output, 1);
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("user 65534 may read here but not change anything"),
        "{stderr}"
    );
}
