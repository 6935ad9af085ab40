//! The corpus of configuration files: `tests/config/valid/*` load, `tests/config/doubtful/*` load with exactly the
//! warnings in the file beside them, `tests/config/invalid/*` are refused with exactly the report there.
//!
//! A case is a file `NAME.toml`, or a folder `NAME` with `main.toml` and what it includes. Its report is `NAME.stderr`.
//! `TAPWIRE_BLESS=1 cargo test --test config` writes the reports anew; read the difference before committing it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the lints' test exemption stops at helper functions"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;
use tapwire::config::{self, Config, Report};
use tapwire::model::gateway::{Dhcp, Forward, Snat, SnatTo};
use tapwire::model::{LinkName, Network, PhysicalName, Segment, TapSelector, Vni, VxlanSettings};

/// Relative, so that no machine's path gets into a report; tests run in the package's directory.
const CORPUS: &str = "tests/config";

/// Main files of all cases of one kind, sorted.
fn cases(kind: &str) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(Path::new(CORPUS).join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| match path.extension() {
            Some(extension) => (extension == "toml").then_some(path),
            None => Some(path.join("main.toml")),
        })
        .collect();
    cases.sort();
    cases
}

fn report_path(main: &Path) -> PathBuf {
    match main.file_name() {
        Some(name) if name == "main.toml" => main.parent().unwrap().with_extension("stderr"),
        _ => main.with_extension("stderr"),
    }
}

#[test]
fn every_valid_file_loads() {
    let cases = cases("valid");
    assert!(cases.len() >= 8, "only {} cases", cases.len());
    for case in cases {
        match config::load(&case) {
            Err(report) => panic!("{} is refused:\n{report}", case.display()),
            Ok(config) => assert!(
                config.warnings.is_empty(),
                "{}: {}",
                case.display(),
                config.warnings
            ),
        }
    }
}

#[test]
fn every_invalid_file_is_refused_with_exactly_its_report() {
    let cases = cases("invalid");
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    compare_reports(cases, |case| match config::load(case) {
        Err(report) => Ok(report),
        Ok(_) => Err("loads"),
    });
}

#[test]
fn every_doubtful_file_loads_with_exactly_its_warnings() {
    let cases = cases("doubtful");
    assert!(!cases.is_empty());
    compare_reports(cases, |case| match config::load(case) {
        Err(_) => Err("is refused"),
        Ok(config) => Ok(config.warnings),
    });
}

/// Each report with the file beside its case.
fn compare_reports(cases: Vec<PathBuf>, load: impl Fn(&Path) -> Result<Report, &'static str>) {
    let bless = std::env::var_os("TAPWIRE_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases {
        let report = match load(&case) {
            Ok(report) => report.render(false),
            Err(word) => {
                wrong.push(format!("{} {word}", case.display()));
                continue;
            }
        };
        let golden = report_path(&case);
        if bless {
            std::fs::write(&golden, &report).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if report != expected {
            wrong.push(format!("{}: expected\n{expected}\ngot\n{report}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_mistake_has_a_line_a_column_and_a_hint() {
    for case in cases("invalid") {
        let report = refused(config::load(&case));
        assert!(!report.diagnostics().is_empty(), "{}", case.display());
        for diagnostic in report.diagnostics() {
            let about_a_line = diagnostic.line.is_some() && diagnostic.column.is_some();
            assert!(about_a_line, "{}: {}", case.display(), diagnostic.message);
            assert!(
                diagnostic.hint.is_some(),
                "{}: {}",
                case.display(),
                diagnostic.message
            );
        }
    }
}

fn refused(result: Result<Config, Report>) -> Report {
    match result {
        Err(report) => report,
        Ok(_) => panic!("the configuration loads"),
    }
}

/// A valid case by name.
fn valid(name: &str) -> Config {
    config::load(&Path::new(CORPUS).join("valid").join(name)).unwrap_or_else(|report| panic!("{report}"))
}

fn network<'a>(config: &'a Config, id: &str) -> &'a Network {
    let found = config.networks.iter().find(|n| n.value.id.as_str() == id);
    &found.unwrap_or_else(|| panic!("no network {id}")).value
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = valid("empty.toml");
    assert_eq!(config.daemon.socket, Path::new("/run/tapwire/tapwire.sock"));
    assert_eq!(config.daemon.socket_group, None);
    assert_eq!(config.daemon.state_directory, Path::new("/var/lib/tapwire"));
    assert_eq!(config.daemon.prune_after, Some(Duration::from_secs(300)));
    assert_eq!(config.daemon.max_detach_percent, 25);
    assert_eq!(config.daemon.receive_buffer, 64 << 20);
    assert_eq!(config.daemon.metrics_listen, None);
    let patterns: Vec<&str> = config.taps.patterns.iter().map(|p| p.as_str()).collect();
    assert_eq!(patterns, ["tap*", "vnet*"]);
    assert!(config.taps.other_kinds.is_empty() && !config.taps.adopt);
    assert_eq!(config.vxlan, VxlanSettings::default());
    assert!(config.networks.is_empty() && config.ports.is_empty());
}

#[test]
fn every_key_ends_up_in_its_place() {
    let config = valid("everything.toml");
    assert_eq!(config.daemon.prune_after, None);
    assert_eq!(config.daemon.socket_group.as_deref(), Some("tapwire"));
    assert_eq!(config.daemon.receive_buffer, 8 << 20);
    assert_eq!(config.daemon.flight_recorder, 1 << 20);
    assert_eq!(config.daemon.metrics_listen, Some("[::1]:9478".parse().unwrap()));
    assert!(config.taps.adopt);
    assert_eq!(config.vxlan.dstport(), 4789);
    assert_eq!(config.vxlan.srcport, Some((49152, 65535)));
    assert_eq!(
        (config.vxlan.ttl, config.vxlan.dscp, config.vxlan.dscp_inherit),
        (Some(64), Some(46), true)
    );
    let physnet1 = &config.physical_networks[&PhysicalName::new("physnet1").unwrap()];
    assert!(physnet1.adopt && physnet1.bridge.is_none());

    let blue = network(&config, "6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11");
    assert_eq!(blue.label(), "blue");
    assert_eq!(
        blue.segment,
        Segment::Vxlan {
            vni: Vni::new(100).unwrap()
        }
    );
    assert_eq!(blue.mtu.map(|m| m.get()), Some(1450));
    assert_eq!(blue.bridge.map(|b| b.to_string()), Some("br100".to_owned()));
    assert!(blue.prewarm);
    assert_eq!(blue.bridge_options.multicast_snooping, Some(true));
    assert_eq!(blue.bridge_options.ageing_time, Some(30_000));
    let alone = network(&config, "alone");
    assert_eq!(alone.bridge_options.multicast_snooping, Some(false));

    let [first, derived, pattern] = &config.ports[..] else {
        panic!("{:?}", config.ports);
    };
    assert_eq!(first.value.addresses.len(), 2);
    assert!(!first.value.admin_state_up && derived.value.admin_state_up);
    assert_eq!(
        derived.value.tap,
        TapSelector::Exact(LinkName::new("tap7d5f6a80-3c").unwrap())
    );
    assert!(matches!(&pattern.value.tap, TapSelector::Pattern(p) if p.as_str() == "vnet*"));
    assert_eq!(first.origin, "tests/config/valid/everything.toml:105");
}

#[test]
fn a_gateway_half_ends_up_in_its_network() {
    let config = valid("gateway.toml");
    let blue = network(&config, "blue").gateway.as_deref().unwrap();
    assert_eq!(blue.addresses.len(), 2);
    assert_eq!(
        blue.snat,
        Some(Snat {
            interface: Some(LinkName::new("eth0").unwrap()),
            v4: Some(SnatTo::Address("203.0.113.5".parse().unwrap())),
            v6: Some(SnatTo::Masquerade),
        })
    );
    assert_eq!(blue.forward, Forward::Only(vec![LinkName::new("eth0").unwrap()]));
    assert_eq!(blue.metadata, Some("192.0.2.1:8775".parse().unwrap()));
    assert!(blue.share_dhcp_address && blue.has_external_router());
    let dhcp = blue.dhcp.as_ref().unwrap();
    assert_eq!((dhcp.ranges.len(), dhcp.routes.len()), (2, 1));
    assert_eq!(dhcp.lease_time, Some(Duration::from_secs(3600)));
    assert_eq!(dhcp.dns_servers.as_deref(), Some(&[][..]));
    assert_eq!(blue.ra.unwrap().lifetime, Duration::from_secs(30));
    // Told inside the network, told at the top with its name, and found by the address.
    let floating: Vec<String> = blue.floating_ips.iter().map(|f| f.address.to_string()).collect();
    assert_eq!(floating, ["203.0.113.6", "203.0.113.7", "2001:db8::7"]);
    assert!(
        blue.floating_ips
            .iter()
            .all(|f| f.interface.to_string() == "eth0")
    );
    assert_eq!(blue.port_forwards.len(), 1);
    assert_eq!(blue.port_forwards[0].fixed_port, 1194);

    let plain = network(&config, "plain").gateway.as_deref().unwrap();
    assert_eq!(plain.snat.as_ref().map(|s| s.v4), Some(Some(SnatTo::Masquerade)));
    assert_eq!(
        (&plain.forward, plain.dhcp.clone()),
        (&Forward::All, Some(Dhcp::default()))
    );
    assert!(network(&config, "nothing").gateway.is_none());

    let [web, router, open] = &config.ports[..] else {
        panic!("{:?}", config.ports);
    };
    assert_eq!(web.value.hostname.as_ref().map(|h| h.as_str()), Some("web-1"));
    assert!(web.value.is_guarded() && router.value.is_guarded() && !open.value.is_guarded());
    assert_eq!(router.value.allowed_address_pairs.len(), 2);
}

#[test]
fn peers_are_sorted_and_neither_repeated_nor_ourselves() {
    let config = valid("everything.toml");
    let blue = network(&config, "6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11");
    let vteps: Vec<String> = blue.peers.iter().map(|p| p.vtep.to_string()).collect();
    assert_eq!(vteps, ["192.0.2.12", "192.0.2.13"]);
    assert_eq!(
        blue.peers[1].mac.map(|m| m.to_string()).as_deref(),
        Some("fa:16:3e:00:00:07")
    );
}

#[test]
fn policy_settings_pass_through_as_json() {
    let config = valid("everything.toml");
    assert_eq!(config.policy.plugins.len(), 1);
    assert!(config.policy.plugins[0].is_absolute() && config.policy.plugins[0].ends_with("plugins/mtu.lua"));
    assert!(config.policy.base.is_absolute());
    assert_eq!(config.policy.settings["deadline_ms"], 20);
    let expected = serde_json::json!({
        "headroom": 50, "list": [1, 2.5, "three", { "four": true }], "when": "1979-05-27"
    });
    assert_eq!(config.policy.plugin["mtu"], expected);
}

#[test]
fn included_files_add_to_the_main_file() {
    let config = valid("included/main.toml");
    assert_eq!(config.daemon.prune_after, Some(Duration::from_secs(30)));
    assert_eq!(config.daemon.max_detach_percent, 100);
    assert_eq!(config.networks.len(), 2);
    assert_eq!(
        config.networks[1].origin,
        "tests/config/valid/included/networks.d/b.toml:2"
    );
    let names = |paths: &[PathBuf]| -> Vec<String> {
        assert!(paths.iter().all(|p| p.is_absolute()));
        paths
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(
        names(&config.files),
        ["main.toml", "a.toml", "b.toml", "physical.toml"]
    );
    assert_eq!(
        names(&config.directories),
        ["networks.d", "included", "no-such-directory"]
    );
}

#[test]
fn a_configuration_that_is_not_there_says_how_to_make_one() {
    let report = refused(config::load(Path::new("/nonexistent/tapwire.toml")));
    assert!(
        report
            .to_string()
            .contains("there is no file /nonexistent/tapwire.toml"),
        "{report}"
    );
    let report = refused(config::load(Path::new("tests")));
    assert!(report.to_string().contains("tests is a directory"), "{report}");
    let report = refused(config::load(Path::new("/dev/null")));
    assert!(report.to_string().contains("not a regular file"), "{report}");
    for diagnostic in report.diagnostics() {
        assert!(diagnostic.hint.is_some() && diagnostic.line.is_none());
    }
}

#[test]
fn a_report_is_also_data() {
    let text = "[daemon]\nprune_afer = \"5m\"\n";
    let report = refused(config::load_str(text, Path::new("/etc/tapwire/tapwire.toml")));
    let expected = serde_json::json!([{
        "file": "/etc/tapwire/tapwire.toml", "line": 2, "column": 1,
        "message": "unknown key `prune_afer` in [daemon]",
        "hint": "did you mean `prune_after`?",
        "related": null
    }]);
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
}

#[test]
fn colours_are_the_callers_decision() {
    let report = refused(config::load_str("x = 1\n", Path::new("a.toml")));
    assert!(!report.render(false).contains('\u{1b}'));
    assert!(report.render(true).contains('\u{1b}'));
}

#[test]
fn a_hundred_thousand_networks_load() {
    let mut text = String::from(
        "[vxlan]\nlocal_ip = \"192.0.2.11\"\nvxlan_group = \"239.0.0.0/8\"\n[physical_networks]\np = { interface = \"eth1\" }\n",
    );
    for n in 1..=100_000 {
        let id = format!("{n:08x}-7d1b-4c39-9a35-0b7f6f0b1c11");
        text.push_str(&format!(
            "[[network]]\nid = \"{id}\"\nnetwork_type = \"vxlan\"\nsegmentation_id = {n}\nmtu = 1450\n"
        ));
        if n % 10 == 0 {
            text.push_str(&format!(
                "[[port]]\nid = \"{id}\"\nnetwork = \"{id}\"\naddresses = [\"10.0.0.5\"]\n"
            ));
        }
    }
    let config = config::load_str(&text, Path::new("many.toml")).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!((config.networks.len(), config.ports.len()), (100_000, 10_000));
}

#[test]
fn thousands_of_mistakes_are_refused_without_ado() {
    let mut text = String::new();
    for n in 0..20_000 {
        text.push_str(&format!(
            "[[network]]\nid = \"network-{n}\"\nnetwork_type = \"local\"\n[[port]]\nid = \"port-{n:08}\"\nnetwork = \"netwrk-{n}x\"\n"
        ));
    }
    let report = refused(config::load_str(&text, Path::new("many.toml")));
    assert!(
        report.diagnostics().len() >= 20_000,
        "{}",
        report.diagnostics().len()
    );
}

const SHIPPED: &str = "config/tapwire.toml";
const SHIPPED_NETWORKS: &str = "config/networks.d/example.toml";

/// A shipped file with every "#key = value" and "#[table]" made effective; prose begins with "# ".
fn uncommented(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_configuration_loads_as_it_is_and_changes_no_default() {
    let shipped = config::load(Path::new(SHIPPED)).unwrap_or_else(|report| panic!("{report}"));
    let mut default = valid("empty.toml");
    default.policy.base = shipped.policy.base.clone();
    assert!(config::difference(&default, &shipped).is_empty());
    assert_eq!(shipped.files.len(), 2);
}

#[test]
fn every_line_of_the_shipped_files_is_right_when_its_mark_is_taken_away() {
    let text = uncommented(SHIPPED).replace("include =", "#include =") + &uncommented(SHIPPED_NETWORKS);
    let config = config::load_str(&text, Path::new(SHIPPED)).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!((config.networks.len(), config.ports.len()), (2, 1));
    // What is shown as a default is the default.
    let default = valid("empty.toml");
    assert_eq!(config.daemon.socket, default.daemon.socket);
    assert_eq!(config.daemon.state_directory, default.daemon.state_directory);
    assert_eq!(config.daemon.prune_after, default.daemon.prune_after);
    assert_eq!(
        config.daemon.max_detach_percent,
        default.daemon.max_detach_percent
    );
    assert_eq!(config.daemon.receive_buffer, default.daemon.receive_buffer);
    assert_eq!(config.taps, default.taps);
    assert_eq!(config.vxlan.dstport(), default.vxlan.dstport());
    assert_eq!(config.vxlan.srcport, default.vxlan.srcport);
    assert_eq!(config.vxlan.effective_tos(), default.vxlan.effective_tos());
    assert_eq!(config.vxlan.l2_population, default.vxlan.l2_population);
}

#[test]
fn the_shipped_files_show_every_key_there_is() {
    let text = uncommented(SHIPPED) + &uncommented(SHIPPED_NETWORKS);
    let tables = [
        "",
        "[daemon]\n",
        "[taps]\n",
        "[bridge]\n",
        "[vxlan]\n",
        "[physical_networks.physnet1]\n",
        "[[network]]\n",
        "[[network]]\n[[network.peer]]\n",
        "[[network]]\n[network.gateway]\n",
        "[[network]]\n[network.dhcp]\n",
        "[[network]]\n[network.ra]\n",
        "[[port]]\n",
        "[[port]]\n[[port.allowed_address_pairs]]\n",
        "[[floating_ip]]\n",
        "[[port_forward]]\n",
        "[[port]]\n[[port.sub_port]]\n",
    ];
    for table in tables {
        let report = refused(config::load_str(
            &format!("{table}no-such-key-anywhere = 1\n"),
            Path::new("a.toml"),
        ));
        let hints = report
            .diagnostics()
            .iter()
            .filter(|d| d.message.starts_with("unknown key"));
        let hints: Vec<&str> = hints.filter_map(|d| d.hint.as_deref()).collect();
        let [hint] = hints[..] else {
            panic!("{table}: {report}");
        };
        let keys = hint
            .strip_prefix("known here: ")
            .unwrap_or_else(|| panic!("{hint}"));
        for key in keys
            .split([',', ' '])
            .filter_map(|word| word.strip_prefix('`')?.strip_suffix('`'))
        {
            let shown = [
                format!("{key} = "),
                format!("[{key}]"),
                format!("[[{key}]]"),
                format!(".{key}]]"),
                format!(".{key}]"),
            ];
            assert!(
                shown.iter().any(|form| text.contains(form)),
                "{table} `{key}` is not shown"
            );
        }
    }
}

/// Texts that are nearly right: every line of the corpus left out once, every file cut anywhere.
#[test]
fn no_text_makes_the_reader_panic() {
    for case in cases("valid").into_iter().chain(cases("invalid")) {
        let text = std::fs::read_to_string(&case).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for left_out in 0..lines.len() {
            let rest: Vec<&str> = [&lines[..left_out], &lines[left_out + 1..]].concat();
            let _ = config::load_str(&rest.join("\n"), &case).map_err(|report| report.render(true));
        }
        for end in (0..text.len())
            .filter(|end| text.is_char_boundary(*end))
            .step_by(7)
        {
            let _ = config::load_str(&text[..end], &case).map_err(|report| report.to_string());
        }
    }
}
