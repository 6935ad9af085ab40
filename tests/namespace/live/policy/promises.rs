//! What plugin authors are promised beyond verdicts: timers, tags, being told of drift, being asked again.

use super::super::detail;
use super::policy;
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
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
tap = "tap*"
network = "blue"
"#;

fn with_plugin(host: &Host, text: &str) -> Daemon {
    let daemon = host.daemon(SITE);
    daemon.write_file("site.lua", text);
    let file = daemon.path("site.lua").to_string_lossy().into_owned();
    daemon.reload(&format!("{SITE}{}", policy(&[file], "")));
    wait_until("the plugin is loaded", SOON, || {
        daemon.json(&["policy", "status"])["plugins"]
            .as_array()
            .map(Vec::len)
            == Some(1)
    });
    daemon
}

#[test]
fn tags_of_a_network_reach_its_ports() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = with_plugin(
            &host,
            "return { api = 1, network = function() return { tags = { tier = 'gold' } } end,\n\
             port = function(ctx) return { alias = ctx.network.tags.tier } end }",
        );
        let _tap = host.tap("tap0");
        daemon.wait_port("tap0", "attached");
        wait_until("the alias is the tag", SOON, || {
            detail(&host, "tap0", "ifalias") == "gold"
        });
    });
}

#[test]
fn drift_is_told_with_what_is_and_what_shall_be() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = with_plugin(
            &host,
            "return { api = 1, drift = function(ctx, diff)\n\
             for _, row in ipairs(diff) do\n\
             host.log.info('drift of ' .. ctx.link.name .. ': ' .. row.field .. ' ' .. row.have .. ' not ' .. row.want)\n\
             end end }",
        );
        let _tap = host.tap("tap0");
        daemon.wait_port("tap0", "attached");
        host.ip("link set tap0 nomaster");
        wait_until("the plugin was told", SOON, || {
            daemon
                .log_text()
                .contains("drift of tap0: master none not brqblue")
        });
        // With the line of the script that says so.
        let log = daemon.log_text();
        let told = log.lines().find(|line| line.contains("drift of tap0"));
        assert!(told.is_some_and(|line| line.contains("site.lua:3\"")), "{log}");
        host.wait_attached("tap0", "brqblue");
    });
}

#[test]
fn timers_run_from_the_start_and_can_have_taps_asked_about_again() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = with_plugin(
            &host,
            "return { api = 1, every = '1s', tick = function() return { invalidate = { taps = { 'tap*' } } } end,\n\
             port = function(ctx) return { alias = ctx.reason } end }",
        );
        // A start, not a reload: what runs from the beginning.
        daemon.stop();
        daemon.start();
        daemon.wait_in_sync();
        let _tap = host.tap("tap0");
        daemon.wait_port("tap0", "attached");
        wait_until("the tap was asked about again", SOON, || {
            detail(&host, "tap0", "ifalias") == "invalidate"
        });
    });
}

#[test]
fn a_network_whose_plugin_fails_waits_and_is_asked_about_again() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        // The plugin fails, so a rehearsal would be refused with an error; the written file is noticed a moment later,
        // and there is nothing new in it.
        let daemon = with_plugin(
            &host,
            "return { api = 1, network = function(ctx)\n\
             host.log.info(('asked: %s, %s'):format(ctx.reason, ctx.bridge and 'bridge' or 'no bridge'))\n\
             if ctx.reason == 'invalidate' then return nil end\n\
             error('not yet')\nend }",
        );
        let _tap = host.tap("tap0");
        // After a second it is asked again, and the answer is none: the network is made.
        daemon.wait_port("tap0", "attached");
        assert!(host.is_attached("tap0", "brqblue"));
        // How it was until then is over when a slow machine looks; what was said of it stays.
        for text in [
            "network blue: waits for plugin site: hook network: ",
            "site.lua:4: not yet",
            "asked: invalidate, no bridge",
        ] {
            wait_until(text, SOON, || daemon.log_text().contains(text));
        }
        let log = daemon.log_text();
        assert!(
            log.find("waits for plugin site") < log.find("asked: invalidate"),
            "{log}"
        );
    });
}

/// A signal, or a file written with what stood in it: nothing about the plugins is done anew. What changed in the
/// configuration is asked about all the same.
#[test]
fn plugins_that_did_not_change_are_left_alone_by_a_reload() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let text =
            "return { api = 1, port = function(ctx) return { alias = 'for ' .. ctx.network.name } end }";
        let daemon = host.daemon(SITE);
        daemon.write_file("site.lua", text);
        let file = daemon.path("site.lua").to_string_lossy().into_owned();
        let site = |name: &str| {
            let network = format!("id = \"blue\"\nname = \"{name}\"");
            format!(
                "{}{}",
                SITE.replace("id = \"blue\"", &network),
                policy(std::slice::from_ref(&file), "watch = true")
            )
        };
        daemon.reload(&site("first"));
        let _tap = host.tap("tap0");
        wait_until("the alias names the network", SOON, || {
            detail(&host, "tap0", "ifalias") == "for first"
        });
        let generation = || daemon.json(&["policy", "status"])["generation"].clone();
        let before = generation();
        let loads = || daemon.log_text().matches("plugins reloaded").count();
        let (loaded, reloads) = (loads(), || {
            daemon.log_text().matches("configuration reloaded").count()
        });
        let done = reloads();
        daemon.write_file("site.lua", text);
        wait_until("the written file was noticed", SOON, || reloads() > done);
        daemon.reload(&site("second"));
        wait_until("the new name was asked about", SOON, || {
            detail(&host, "tap0", "ifalias") == "for second"
        });
        assert_eq!(generation(), before);
        assert_eq!(loads(), loaded);
        daemon.write_file("site.lua", &text.replace("for", "now"));
        // The loads go one after the other: the one that has something to do is the last.
        wait_until("the changed file is in force", SOON, || {
            detail(&host, "tap0", "ifalias") == "now second"
        });
        assert_ne!(generation(), before);
    });
}

#[test]
fn admit_is_given_what_would_change_and_who_wants_it() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = with_plugin(
            &host,
            "return { api = 1,\n\
             port = function(ctx) return { mtu = 1400, port = { learning = false }, fdb = { { mac = 'fa:16:3e:00:00:05' } } } end,\n\
             admit = function(ctx, plan)\n\
             for _, row in ipairs(plan.changes) do\n\
             host.log.info(('%s %s -> %s by %s'):format(row.field, tostring(row.have), tostring(row.want), tostring(row.by):match('^[a-z]+')))\n\
             end\n\
             host.log.info('operstate ' .. ctx.link.operstate)\n\
             end }",
        );
        let _tap = host.tap("tap0");
        daemon.wait_port("tap0", "attached");
        // A script's lines are written after its answer is out.
        wait_until("the last line is written", SOON, || {
            daemon.log_text().contains("operstate")
        });
        let log = daemon.log_text();
        for line in [
            "master nil -> brqblue by nil",
            "mtu 1500 -> 1400 by site",
            "port.learning nil -> false by site",
            "fdb[fa:16:3e:00:00:05] nil -> fa:16:3e:00:00:05 by site",
            "up false -> true by nil",
            "operstate down",
        ] {
            assert!(log.contains(line), "{line}\n{log}");
        }
    });
}

#[test]
fn what_a_plugin_counts_is_on_the_metrics_page() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let daemon = with_plugin(
            &host,
            "return { api = 1, port = function(ctx)\n\
             host.metric.inc('taps', nil, { network = ctx.network.id })\n\
             host.metric.set('mtu_bytes', 1400)\n\
             host.metric.observe('length', #ctx.link.name)\n\
             return { mtu = 1400 } end }",
        );
        let _taps = [host.tap("tap0"), host.tap("tap1")];
        daemon.wait_port("tap0", "attached");
        daemon.wait_port("tap1", "attached");
        let page = String::from_utf8_lossy(&daemon.output(&["metrics"]).stdout).into_owned();
        let number = |series: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(series));
            line.and_then(|n| n.trim().parse::<f64>().ok())
                .unwrap_or_else(|| panic!("no {series}\n{page}"))
        };
        // Once for each tap, and again when the new bridge's MTU changed.
        let calls = number("tapwire_policy_hook_total{plugin=\"site\",hook=\"port\",outcome=\"ok\"}");
        assert!(calls >= 2.0, "{page}");
        assert_eq!(
            number("tapwire_policy_user_taps_total{plugin=\"site\",network=\"blue\"}"),
            calls
        );
        assert_eq!(
            number("tapwire_policy_user_length_sum{plugin=\"site\"}"),
            4.0 * calls
        );
        for line in [
            "tapwire_policy_user_mtu_bytes{plugin=\"site\"} 1400",
            "tapwire_policy_healthy{plugin=\"site\"} 1",
            "tapwire_policy_reload_total{result=\"ok\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
    });
}

#[test]
fn a_broken_file_at_the_start_and_a_rollback_after_it() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = with_plugin(
            &host,
            "return { api = 1, port = function() return { alias = 'first' } end }",
        );
        let _tap = host.tap("tap0");
        daemon.wait_port("tap0", "attached");
        let alias = |word: &str| {
            wait_until(&format!("the alias is {word}"), SOON, || {
                detail(&host, "tap0", "ifalias") == word
            });
        };
        alias("first");
        daemon.write_file(
            "site.lua",
            "return { api = 1, port = function() return { alias = 'second' } end }",
        );
        super::reload_plugins(&daemon);
        alias("second");
        daemon.stop();
        // Somebody saves half a file, and the host is started again.
        daemon.write_file("site.lua", "return { api = 1, port = function() return {");
        daemon.start();
        daemon.wait_in_sync();
        daemon.expect_error("it runs as it last was");
        let status = daemon.status();
        assert_eq!(status["plugins"][0]["health"], "last_good", "{status}");
        let error = status["config"]["error"].as_str().unwrap_or_default();
        assert!(error.contains("site runs its last good version"), "{error}");
        let _next = host.tap("tap1");
        daemon.wait_port("tap1", "attached");
        assert_eq!(detail(&host, "tap1", "ifalias"), "second");
        // What ran before that is known too.
        daemon.json(&["policy", "rollback"]);
        alias("first");
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_start_without_a_good_version_of_a_broken_plugin_ends_with_two() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let mut daemon = host.daemon(SITE);
        daemon.stop();
        daemon.write_file("site.lua", "return {");
        let file = daemon.path("site.lua").to_string_lossy().into_owned();
        daemon.write_configuration(&format!("{SITE}{}", policy(&[file], "")));
        daemon.start();
        assert_eq!(daemon.ended().code(), Some(2));
        assert!(
            daemon.log_text().contains("site.lua:1: "),
            "{}",
            daemon.log_text()
        );
    });
}
