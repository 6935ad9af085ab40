//! What plugins and operators are told: of taps that left, of drift, of plugins that disagree, of what a reload changes.

use super::super::detail;
use super::policy;
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const SITE: &str = r#"
[daemon]
prune_after = "never"
[taps]
match = ["tap*"]
[[network]]
id = "blue"
network_type = "local"
[[port]]
tap = "tap*-blue"
network = "blue"
"#;

/// `keys` are of `[policy]`.
fn site(daemon: &Daemon, plugins: &[(&str, &str)], keys: &str) -> String {
    let files: Vec<String> = plugins
        .iter()
        .map(|(name, text)| {
            daemon.write_file(name, text);
            daemon.path(name).to_string_lossy().into_owned()
        })
        .collect();
    format!("{SITE}{}", policy(&files, keys))
}

fn with_plugins(host: &Host, plugins: &[(&str, &str)]) -> Daemon {
    with_policy(host, plugins, "")
}

fn with_policy(host: &Host, plugins: &[(&str, &str)], keys: &str) -> Daemon {
    let daemon = host.daemon(SITE);
    daemon.reload(&site(&daemon, plugins, keys));
    wait_until("the plugins are loaded", SOON, || {
        let status = daemon.json(&["policy", "status"]);
        status["plugins"].as_array().map(Vec::len) == Some(plugins.len())
    });
    daemon
}

fn output(daemon: &Daemon, args: &[&str]) -> (Option<i32>, String, String) {
    let output = daemon.output(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn said(daemon: &Daemon, words: &str) -> usize {
    daemon.log_text().matches(words).count()
}

#[test]
fn detached_is_told_once_with_the_link_and_the_network_and_only_of_what_was_attached() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = with_plugins(
            &host,
            &[(
                "site.lua",
                "return { api = 1, observe = function(ctx) host.log.debug(ctx.link.name) end, detached = function(ctx)\n\
                 host.log.info('DETACHED ' .. ctx.link.name .. ' mtu ' .. ctx.link.mtu .. ' of ' .. ctx.network.id .. ' on ' .. ctx.host.name)\n\
                 end }",
            )],
        );
        let gone = host.tap("tap1-blue");
        let _unbound = host.tap("tap2");
        let stray = host.tap("tap3");
        daemon.wait_port("tap1-blue", "attached");
        assert_eq!(output(&daemon, &["port", "bind", "tap2", "blue"]).0, Some(0));
        daemon.wait_port("tap2", "attached");
        // On and off its bridge, by a mapping: the link stays.
        assert_eq!(output(&daemon, &["port", "unbind", "tap2"]).0, Some(0));
        wait_until("tap2 was told", SOON, || {
            said(&daemon, "DETACHED tap2 mtu 1500 of blue on") == 1
        });
        // A repair is none.
        host.ip("link set tap1-blue nomaster");
        host.wait_attached("tap1-blue", "brqblue");
        drop(stray);
        drop(gone);
        wait_until("tap1-blue was told", SOON, || {
            said(&daemon, "DETACHED tap1-blue mtu 1500 of blue on") == 1
        });
        assert_eq!(said(&daemon, "DETACHED"), 2, "{}", daemon.log_text());
        // Many at once: some were set down, as the last of it, by the time they are gone already.
        let names: Vec<String> = (0..20).map(|i| format!("tap{i}x-blue")).collect();
        let many: Vec<_> = names.iter().map(|name| host.tap(name)).collect();
        names.iter().for_each(|name| daemon.wait_port(name, "attached"));
        drop(many);
        wait_until("all were told", SOON, || said(&daemon, "DETACHED") == 22);
        let errors = daemon.json(&["policy", "status"])["plugins"][0]["errors"].clone();
        assert_eq!(errors, 0);
    });
}

#[test]
fn a_tap_has_nothing_of_what_was_said_of_the_one_that_had_its_index() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let plugin =
            "return { api = 1, detached = function(ctx) host.log.info('DETACHED ' .. ctx.link.name) end }";
        let daemon = with_plugins(&host, &[("site.lua", plugin)]);
        let gone = host.tap("tap1-blue");
        daemon.wait_port("tap1-blue", "attached");
        let index = gone.index().get();
        drop(gone);
        wait_until("it was told", SOON, || said(&daemon, "DETACHED tap1-blue") == 1);
        let calls = || daemon.json(&["status"])["counters"]["hook_calls"].clone();
        wait_until("its answer was heard", SOON, || calls() == 1);
        let _next = tap_of_index("tap2-blue", index);
        daemon.wait_port("tap2-blue", "attached");
        let shown = daemon.json(&["port", "show", "tap2-blue"]);
        assert_eq!(shown["ifindex"], index);
        assert_eq!(shown["verdicts"], serde_json::json!([]));
    });
}

/// The kernel gives an index a second time to who asks for it (`TUNSETIFINDEX`).
fn tap_of_index(name: &str, index: u32) -> File {
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: an `ifreq` of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: both arguments are alive through the calls, and of the types that the requests take.
    let failed = unsafe {
        libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFINDEX, &raw const index)
            | libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request)
    };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    tun
}

#[test]
fn drift_says_which_plugin_wants_the_mtu_and_keeps_to_what_is_put_right() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = with_plugins(
            &host,
            &[(
                "site.lua",
                "return { api = 1, port = function(ctx)\n\
                 if ctx.link.name == 'tap1-blue' then return { mtu = 1400 } end end,\n\
                 drift = function(ctx, diff) for _, row in ipairs(diff) do\n\
                 host.log.info('DRIFT ' .. ctx.link.name .. ' ' .. row.field .. ' ' .. row.have .. ' not ' .. row.want .. ' by ' .. tostring(row.by))\n\
                 end end }",
            )],
        );
        let _taps = [host.tap("tap1-blue"), host.tap("tap2-blue")];
        daemon.wait_port("tap1-blue", "attached");
        daemon.wait_port("tap2-blue", "attached");
        host.ip("link set tap1-blue mtu 1300");
        wait_until("drift was told", SOON, || {
            let log = daemon.log_text();
            let line = log
                .lines()
                .find(|line| line.contains("DRIFT tap1-blue mtu 1300 not 1400 by site "));
            line.is_some_and(|line| line.contains("site.lua:2"))
        });
        host.ip("link set tap2-blue nomaster");
        wait_until("the other one's too", SOON, || {
            said(&daemon, "DRIFT tap2-blue master none not brqblue by nil") > 0
        });
    });
}

#[test]
fn who_disagrees_is_in_explain_status_and_once_in_the_log() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = with_plugins(
            &host,
            &[
                (
                    "a.lua",
                    "return { api = 1, port = function(ctx) return { mtu = 1400 } end }",
                ),
                (
                    "b.lua",
                    "return { api = 1, port = function(ctx) return { mtu = 1300 } end }",
                ),
            ],
        );
        let _taps = [host.tap("tap1-blue"), host.tap("tap2-blue")];
        daemon.wait_port("tap1-blue", "attached");
        daemon.wait_port("tap2-blue", "attached");
        let both = |text: &str| {
            let line = text
                .lines()
                .find(|line| line.contains("conflict in mtu"))
                .unwrap_or_default();
            line.contains("a.lua:1 = 1400 stands, b ") && line.contains("b.lua:1 = 1300 does not")
        };
        for args in [&["explain", "tap1-blue"][..], &["status"], &["policy", "status"]] {
            let (_, text, _) = output(&daemon, args);
            assert!(both(&text), "{args:?}: {text}");
        }
        assert_eq!(said(&daemon, "plugins disagree"), 1, "{}", daemon.log_text());
        // It ends with the generation.
        daemon.write_file("b.lua", "return { api = 1, port = function(ctx) return nil end }");
        assert_eq!(output(&daemon, &["policy", "reload"]).0, Some(0));
        let (_, text, _) = output(&daemon, &["policy", "status"]);
        assert!(!text.contains("conflict"), "{text}");
    });
}

#[test]
fn a_reload_counts_ports_and_a_dry_run_shows_what_would_be_refused() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let plugin = |mtu: u32| {
            format!(
                "return {{ api = 1, port = function(ctx)\nhost.log.info('ASKED')\nreturn {{ mtu = {mtu}, port = {{ learning = {} }} }} end }}",
                mtu == 1400
            )
        };
        let daemon = with_plugins(&host, &[("a.lua", &plugin(1400))]);
        let _taps = [host.tap("tap1-blue"), host.tap("tap2-blue")];
        daemon.wait_port("tap1-blue", "attached");
        daemon.wait_port("tap2-blue", "attached");
        daemon.write_file("a.lua", &plugin(1300));
        let asked = said(&daemon, "ASKED");
        let (code, shown, error) = output(&daemon, &["policy", "reload", "--dry-run", "--max-changes", "1"]);
        assert_eq!(code, Some(1), "{shown}{error}");
        assert!(shown.contains("tap2-blue mtu 1400 -> 1300 (a "), "{shown}");
        assert!(shown.contains("2 ports would change"), "{shown}");
        assert!(
            error.contains("2 of 2 answers would change, at most 1 may"),
            "{error}"
        );
        // What is only tried is not told in the log.
        assert_eq!(said(&daemon, "ASKED"), asked);
        let (code, shown, error) = output(&daemon, &["policy", "reload"]);
        assert_eq!(code, Some(0), "{error}");
        assert!(shown.ends_with("2 ports changed\n"), "{shown}");
        let (code, shown, _) = output(&daemon, &["policy", "rollback"]);
        assert_eq!(code, Some(0));
        assert!(
            shown.starts_with("generation ") && !shown.contains("changed"),
            "{shown}"
        );
    });
}

/// A plugin that fails already must not stand in the way of the one that is being mended, nor of its own removal.
#[test]
fn what_fails_already_is_no_reason_against_a_reload() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let broken =
            "return { api = 1, on_error = 'skip', port = function(ctx) error('broken as ever') end }";
        let good = "return { api = 1, port = function(ctx) return { mtu = 1400 } end }";
        let daemon = with_plugins(&host, &[("broken.lua", broken), ("good.lua", good)]);
        let _tap = host.tap("tap1-blue");
        daemon.wait_port("tap1-blue", "attached");
        daemon.write_file("good.lua", &good.replace("1400", "1300"));
        let (code, shown, error) = output(&daemon, &["policy", "reload"]);
        assert_eq!(code, Some(0), "{shown}{error}");
        wait_until("the new answer holds", SOON, || {
            daemon.port("tap1-blue").is_some_and(|port| port["mtu"] == 1300)
        });
        // A new failure is one.
        daemon.write_file(
            "good.lua",
            "return { api = 1, port = function(ctx) error('new') end }",
        );
        let (code, _, error) = output(&daemon, &["policy", "reload"]);
        assert_eq!(code, Some(1));
        assert!(
            error.contains("the new plugins fail: good port tap1-blue: ") && error.contains(": new"),
            "{error}"
        );
    });
}

#[test]
fn eval_of_a_live_tap_reads_like_eval_of_a_file() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = with_plugins(
            &host,
            &[(
                "a.lua",
                "return { api = 1, port = function(ctx) return { mtu = 1400 } end }",
            )],
        );
        let _tap = host.tap("tap1-blue");
        daemon.wait_port("tap1-blue", "attached");
        let (code, shown, _) = output(&daemon, &["policy", "eval", "--tap", "tap1-blue"]);
        assert_eq!(code, Some(0));
        assert!(
            shown.starts_with("mtu = 1400  by a ") && shown.ends_with("a.lua:1\n"),
            "{shown}"
        );
        // A file that fails now fails here too, with the code of a failure.
        daemon.write_file(
            "a.lua",
            "return { api = 1, port = function(ctx) error('later') end }",
        );
        let (code, shown, _) = output(&daemon, &["policy", "eval", "--tap", "tap1-blue"]);
        assert_eq!(code, Some(1), "{shown}");
        assert!(shown.contains("a failed (error), fallback deny: "), "{shown}");
    });
}

/// With its network, its MTU and its mapping: also what `resolve` said.
#[test]
fn answers_outlive_a_daemon_that_is_killed_and_a_plugin_that_fails_after_it() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = with_plugins(
            &host,
            &[(
                "site.lua",
                "return { api = 1, schema = { broken = { type = 'boolean', default = false } },\n\
                 resolve = function() assert(not host.config.broken, 'broken') return { network = 'blue' } end,\n\
                 network = function() assert(not host.config.broken, 'broken') return { bridge = { ageing = 100 } } end,\n\
                 port = function() assert(not host.config.broken, 'broken') return { mtu = 1400 } end }",
            )],
        );
        let _taps = [host.tap("tap1-blue"), host.tap("tap2")];
        for tap in ["tap1-blue", "tap2"] {
            daemon.wait_port(tap, "attached");
        }
        let kept = daemon.path("state/policy/answers.jsonl");
        wait_until("the answers are kept", SOON, || {
            std::fs::read_to_string(&kept).is_ok_and(|text| text.matches("\"mtu\":1400").count() == 2)
        });
        daemon.kill();
        for tap in ["tap1-blue", "tap2"] {
            host.ip(&format!("link set {tap} nomaster"));
            host.ip(&format!("link set {tap} mtu 1500"));
        }
        let plugins = [daemon.path("site.lua").to_string_lossy().into_owned()];
        let broken = "[policy.plugin.site]\nbroken = true\n";
        daemon.write_configuration(&format!("{SITE}{}", policy(&plugins, broken)));
        daemon.start();
        daemon.wait_in_sync();
        for tap in ["tap1-blue", "tap2"] {
            daemon.wait_port(tap, "attached");
            host.wait_attached(tap, "brqblue");
            assert_eq!(daemon.port(tap).unwrap()["mtu"], 1400);
        }
        // Who was never answered for waits, or is denied.
        let _new = [host.tap("tap3-blue"), host.tap("tap4")];
        daemon.wait_port("tap3-blue", "denied");
        daemon.wait_port("tap4", "pending");
    });
}

/// A tap whose plugins think for a while says so where somebody asks; the log has no line for that. An answer from
/// memory is there before anybody could wait.
#[test]
fn waiting_for_policy_is_in_explain_and_not_in_the_log() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = with_policy(
            &host,
            &[(
                "slow.lua",
                // Longer than one processor gives it before the loop has its turn again.
                "return { api = 1, reads = { 'network' }, port = function(ctx)\n\
                 local n = 0\nfor i = 1, 5e6 do n = n + i end\nreturn ctx.network and n > 0 and { mtu = 1400 } end }",
            )],
            "deadline_ms = 10000\nabandon_ms = 10000\n",
        );
        let states = |tap: &str| -> Vec<String> {
            daemon.wait_port(tap, "attached");
            let (_, story, _) = output(&daemon, &["explain", tap]);
            let state = |line: &str| Some(line.split_once("  state    ")?.1.to_owned());
            story.lines().filter_map(state).collect()
        };
        let _first = host.tap("tap1-blue");
        let first = states("tap1-blue");
        assert_eq!(first[0], "pending: waits for policy", "{first:?}");
        assert!(
            first.iter().any(|state| state.starts_with("attached")),
            "{first:?}"
        );
        // One with the bridge as it is now, then one that is answered from memory.
        let _second = host.tap("tap2-blue");
        states("tap2-blue");
        let _third = host.tap("tap3-blue");
        let third = states("tap3-blue");
        assert!(
            third.iter().all(|state| !state.contains("waits for policy")),
            "{third:?}"
        );
        assert!(
            !daemon.log_text().contains("waits for policy"),
            "{}",
            daemon.log_text()
        );
    });
}

#[test]
fn a_watched_plugin_follows_its_modules_and_tables() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = host.daemon(SITE);
        daemon.write_file("plugins/lib/sizes.lua", "return { mtu = 1400 }");
        daemon.write_file("names.json", r#"{"alias": "first"}"#);
        daemon.write_file(
            "plugins/site.lua",
            "local sizes = require('sizes')\n\
             return { api = 1, port = function() return { mtu = sizes.mtu, alias = host.map('names').alias } end }",
        );
        let plugins = [daemon.path("plugins").to_string_lossy().into_owned()];
        daemon.reload(&format!(
            "{SITE}{}",
            policy(&plugins, "watch = true\nmaps = { names = \"names.json\" }")
        ));
        let _tap = host.tap("tap1-blue");
        let has = |what: &str, word: &str| {
            wait_until(&format!("{what} {word}"), SOON, || {
                detail(&host, "tap1-blue", what) == word
            });
        };
        has("ifalias", "first");
        daemon.write_file("names.json", r#"{"alias": "second"}"#);
        has("ifalias", "second");
        daemon.write_file("plugins/lib/sizes.lua", "return { mtu = 1300 }");
        wait_until("the module's MTU", SOON, || {
            detail(&host, "tap1-blue", "mtu") == 1300
        });
    });
}
