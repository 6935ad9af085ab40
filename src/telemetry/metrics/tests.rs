use super::*;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

fn page() -> String {
    let metrics = Metrics::new();
    metrics.attached(412);
    metrics.op("attach", 0, 71);
    metrics.op("attach", libc::EXFULL, 40);
    metrics.hook("port", "ok", 12);
    metrics.lease("added");
    metrics.service_started();
    metrics.service_failed();
    metrics
        .encode(&Snapshot {
            in_sync: true,
            config_ok: true,
            uptime_seconds: 61,
            links: 5,
            ports: vec![("attached", 3), ("pending", 1)],
            gateways: vec![("ready", 1)],
            services: vec![("running", 1)],
            leases: 2,
            guard_drops: vec![("spoofed_mac", 4)],
            networks: vec![("ready", 1)],
            events: 90,
            overruns: 1,
            resyncs: 2,
            decode_errors: 0,
            queues: vec![("dirty", 0)],
            sockets: vec![SocketState {
                socket: "links",
                drops: 7,
                queued_bytes: 2304,
            }],
            flight_records: 40,
            flight_overwritten: 0,
            policy: policy(),
        })
        .unwrap()
}

fn policy() -> PolicySnapshot {
    let own = |name: &str, value| OwnMetric {
        name: name.into(),
        labels: [("tap".to_owned(), "a\"b\\c\nd".to_owned())].into(),
        value,
    };
    let plugin = |name: &str, own| PluginSnapshot {
        name: name.into(),
        calls: vec![("port", "ok", 3), ("port", "error", 1)],
        seconds: 0.25,
        remembered: 40,
        memory_bytes: 500_000,
        queue: 1,
        healthy: true,
        own,
        ..PluginSnapshot::default()
    };
    let counter = own("denied", OwnValue::Counter(2.0));
    let gauge = own("mtu_bytes", OwnValue::Gauge(1450.0));
    let summary = own("rows", OwnValue::Summary { sum: 7.5, count: 2 });
    PolicySnapshot {
        generation: Some((3, "00ff".into())),
        plugins: vec![
            plugin("mtu", vec![counter.clone(), gauge, summary]),
            // The second of two kinds of one name is left out; the same kind stands beside the first's.
            plugin(
                "site",
                vec![
                    counter,
                    own("mtu_bytes", OwnValue::Summary { sum: 1.0, count: 1 }),
                ],
            ),
        ],
        conflicts: vec![("mtu".into(), 1)],
        reloads: vec![("ok", 2), ("refused", 1)],
    }
}

/// Names of the samples, and of the families.
fn names(page: &str) -> BTreeSet<String> {
    page.lines()
        .map(|line| match line.strip_prefix("# TYPE ") {
            Some(rest) => rest.split(' ').next().unwrap(),
            None => line.split(['{', ' ']).next().unwrap(),
        })
        .filter(|name| *name != "#")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_names_are_these_and_a_change_of_one_is_a_change_of_the_contract() {
    let page = page();
    let families: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    assert_eq!(
        families,
        [
            "tapwire_build_info gauge",
            "tapwire_in_sync gauge",
            "tapwire_config_ok gauge",
            "tapwire_uptime_seconds gauge",
            "tapwire_links gauge",
            "tapwire_ports gauge",
            "tapwire_networks gauge",
            "tapwire_gateways gauge",
            "tapwire_services gauge",
            "tapwire_service_starts_total counter",
            "tapwire_service_failures_total counter",
            "tapwire_leases_active gauge",
            "tapwire_leases_total counter",
            "tapwire_guard_drops_total counter",
            "tapwire_attach_seconds histogram",
            "tapwire_events_total counter",
            "tapwire_overruns_total counter",
            "tapwire_resyncs_total counter",
            "tapwire_decode_errors_total counter",
            "tapwire_ops_total counter",
            "tapwire_op_seconds histogram",
            "tapwire_hook_calls_total counter",
            "tapwire_hook_seconds histogram",
            "tapwire_queue_depth gauge",
            "tapwire_socket_drops_total counter",
            "tapwire_socket_queued_bytes gauge",
            "tapwire_flight_recorder_records gauge",
            "tapwire_flight_recorder_overwritten_total counter",
            "tapwire_policy_generation_info gauge",
            "tapwire_policy_hook_total counter",
            "tapwire_policy_hook_seconds_total counter",
            "tapwire_policy_remembered_total counter",
            "tapwire_policy_memory_bytes gauge",
            "tapwire_policy_queue_depth gauge",
            "tapwire_policy_threads_abandoned_total counter",
            "tapwire_policy_healthy gauge",
            "tapwire_policy_log_lines_dropped_total counter",
            "tapwire_policy_metrics_dropped_total counter",
            "tapwire_policy_conflicts_total counter",
            "tapwire_policy_reload_total counter",
            "tapwire_policy_user_denied_total counter",
            "tapwire_policy_user_mtu_bytes gauge",
            "tapwire_policy_user_rows summary",
        ]
    );
    for sample in [
        "tapwire_ports{state=\"attached\"} 3\n",
        "tapwire_guard_drops_total{reason=\"spoofed_mac\"} 4\n",
        "tapwire_ops_total{op=\"attach\",outcome=\"EXFULL\"} 1\n",
        "tapwire_socket_drops_total{socket=\"links\"} 7\n",
        "tapwire_attach_seconds_bucket{le=\"0.0005\"} 1\n",
        "tapwire_policy_hook_total{plugin=\"mtu\",hook=\"port\",outcome=\"error\"} 1\n",
        "tapwire_policy_user_denied_total{plugin=\"site\",tap=\"a\\\"b\\\\c\\nd\"} 2\n",
        "tapwire_policy_user_rows_sum{plugin=\"mtu\",tap=\"a\\\"b\\\\c\\nd\"} 7.5\n",
    ] {
        assert!(page.contains(sample), "{sample}\n{page}");
    }
}

/// Nothing of it without plugins.
#[test]
fn without_plugins_the_page_has_no_line_about_them() {
    let page = Metrics::new().encode(&Snapshot::default()).unwrap();
    assert!(!page.contains("policy"), "{page}");
}

#[test]
fn promtool_accepts_the_page() {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        assert!(
            std::env::var("TAPWIRE_REQUIRE_ALL").as_deref() != Ok("1"),
            "promtool (Debian's package prometheus) must be there"
        );
        eprintln!("skipped: no promtool in PATH");
        return;
    };
    child.stdin.take().unwrap().write_all(page().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && complaint.is_empty(),
        "{complaint}\n{}",
        page()
    );
}

/// Every word of a query that starts with our prefix.
fn queried(value: &serde_json::Value, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                if let (true, Some(text)) = (key == "expr" || key == "query", value.as_str()) {
                    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                    into.extend(words.filter(|w| w.starts_with("tapwire_")).map(str::to_owned));
                }
                queried(value, into);
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| queried(value, into)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_only_for_metrics_that_exist() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut asked = BTreeSet::new();
    queried(&dashboard, &mut asked);
    let existing = names(&page());
    let missing: Vec<_> = asked.difference(&existing).collect();
    assert!(missing.is_empty(), "no such metrics: {missing:?}");
    assert!(
        asked.len() > 20,
        "the dashboard shows most of what there is: {asked:?}"
    );
}
