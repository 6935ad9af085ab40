//! What others do to the host meanwhile, and what a restart does: as little as possible.

use super::*;
use std::process::{Child, Stdio};

const FLOATING: &str = "[[floating_ip]]\naddress = \"198.51.100.20\"\nfixed_address = \"10.0.0.5\"\n";
const SNAT: &str = "snat = { interface = \"nic0\" }";

/// `nft monitor`: who changed what, a line each.
struct Changes {
    monitor: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Changes {
    fn watch(host: &Host) -> Self {
        let mut command = host.command("stdbuf");
        let command = command.args(["-oL", "nft", "monitor"]).stdout(Stdio::piped());
        let mut monitor = command.spawn().expect("nft monitor");
        let out = BufReader::new(monitor.stdout.take().expect("stdout is piped"));
        let (tell, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let changes = Self { monitor, lines };
        // It listens from some moment on.
        wait_until("nft monitor listens", SOON, || {
            host.run("nft add table ip probe");
            host.run("nft delete table ip probe");
            changes.lines.try_iter().any(|line| line.contains("probe"))
        });
        changes.until_mark(host);
        changes
    }

    /// Everything that was changed until now.
    fn until_mark(&self, host: &Host) -> Vec<String> {
        host.run("nft add table ip marker");
        let mut changes = Vec::new();
        loop {
            let line = self.lines.recv_timeout(SOON).expect("the mark's change");
            if line.contains("add table ip marker") {
                break;
            }
            changes.push(line);
        }
        host.run("nft delete table ip marker");
        // "# new generation 7 by process 99 (nft)"
        let own =
            |line: &String| line.contains("ip marker") || line.contains("ip probe") || line.starts_with('#');
        changes.retain(|line| !own(line) && !line.is_empty());
        changes
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

#[test]
fn flows_go_on_over_a_restart_that_writes_nothing() {
    in_namespace(|| {
        require!(
            Feature::Veth,
            Feature::Nat,
            Feature::Program("conntrack"),
            Feature::Program("stdbuf")
        );
        let (host, internet) = host_and_internet();
        let mut daemon = Daemon::spawn(&host, &blue("", SNAT, FLOATING));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        let neighbour = machine(&host, "tap0-2", "10.0.0.6");
        for tap in ["tap0-1", "tap0-2"] {
            daemon.wait_port(tap, "attached");
        }
        daemon.wait_network("blue", "ready");
        serve(&guest, "10.0.0.5:80");
        serve(&internet, "198.51.100.1:80");
        let mut flows_of_all = [
            (&internet, "198.51.100.20:80", "198.51.100.1"),
            (&guest, "198.51.100.1:80", "198.51.100.20"),
            (&neighbour, "198.51.100.1:80", "198.51.100.7"),
            (&host, "198.51.100.20:80", "198.51.100.20"),
        ]
        .map(|(from, to, seen)| {
            let flow = Flow::begin(from, to).expect("a connection");
            assert_eq!(Some(flow.seen), ip(seen));
            flow
        });
        let is_all_alive = |flows: &mut [Flow]| flows.iter_mut().all(Flow::lives);
        assert!(is_all_alive(&mut flows_of_all));
        let known = |host: &Host| -> Vec<String> {
            let established = flows(host)
                .into_iter()
                .filter(|flow| flow.contains("ESTABLISHED"));
            // Without the seconds left and the packets so far.
            let mut known: Vec<String> = established
                .map(|flow| {
                    let words = flow
                        .split_whitespace()
                        .filter(|word| word.contains("src=") || word.contains("port="));
                    words.collect::<Vec<_>>().join(" ")
                })
                .collect();
            known.sort();
            known
        };
        let before = (known(&host), footprint(&host), host.run("nft -a list ruleset"));
        let changes = Changes::watch(&host);
        let links = host.observer();
        for gracefully in [false, true] {
            if gracefully {
                daemon.stop();
            } else {
                daemon.kill();
            }
            assert!(is_all_alive(&mut flows_of_all), "without a daemon");
            daemon.start();
            daemon.wait_in_sync();
            daemon.wait_network("blue", "ready");
            assert!(is_all_alive(&mut flows_of_all), "with a new daemon");
        }
        daemon.assert_nothing_planned();
        assert_eq!(
            changes.until_mark(&host),
            Vec::<String>::new(),
            "changes of nftables"
        );
        assert_eq!(links.take().len(), 0, "link events");
        let after = (known(&host), footprint(&host), host.run("nft -a list ruleset"));
        assert_eq!(after.0, before.0);
        pretty_eq(&after.1, &before.1);
        pretty_eq(&after.2, &before.2);
        // A reload that changes something else writes none either.
        daemon.reload(&blue(
            "",
            SNAT,
            &format!("{FLOATING}[[network]]\nid = \"green\"\nnetwork_type = \"local\"\nprewarm = true\n"),
        ));
        daemon.wait_network("green", "ready");
        assert_eq!(
            changes.until_mark(&host),
            Vec::<String>::new(),
            "changes of nftables"
        );
        assert!(is_all_alive(&mut flows_of_all));
    });
}

#[test]
fn rules_that_somebody_takes_away_are_back_at_once() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, internet) = host_and_internet();
        let uplink = "share_dhcp_address = true";
        let text = blue(uplink, SNAT, FLOATING).replace(
            "network_type = \"local\"",
            "network_type = \"vxlan\"\nsegmentation_id = 100",
        );
        let text = format!("{text}\n[vxlan]\nlocal_ip = \"198.51.100.7\"\nl2_population = true\n");
        let daemon = host.daemon(&text);
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        serve(&internet, "198.51.100.1:80");
        // Handles and the numbers of unnamed sets are new; all else is as before.
        let rules = || host.run("nft list ruleset");
        let before = rules();
        assert!(before.contains("table bridge tapwire_uplink"));
        let handle = |chain: &str| {
            let listed = host.run(&format!("nft -a list chain inet tapwire {chain}"));
            let line = listed
                .lines()
                .find(|line| line.contains("jump") || line.contains("dnat"))
                .expect("a rule");
            line.rsplit(' ').next().expect("a handle").to_owned()
        };
        let acts: [&dyn Fn() -> String; 6] = [
            &|| "flush ruleset".to_owned(),
            &|| {
                format!(
                    "delete rule inet tapwire postrouting handle {}",
                    handle("postrouting")
                )
            },
            &|| {
                format!(
                    "delete rule inet tapwire prerouting handle {}",
                    handle("prerouting")
                )
            },
            &|| "delete table bridge tapwire_uplink".to_owned(),
            &|| "insert rule inet tapwire postrouting accept".to_owned(),
            &|| "add chain inet tapwire mine".to_owned(),
        ];
        let mut slowest = Duration::ZERO;
        for act in acts {
            let act = act();
            host.run(&format!("nft {act}"));
            let begin = Instant::now();
            wait_until(&format!("repaired after {act}"), SOON, || rules() == before);
            slowest = slowest.max(begin.elapsed());
            assert_eq!(
                seen_by(&guest, "198.51.100.1:80"),
                ip("198.51.100.20"),
                "after {act}"
            );
        }
        eprintln!("repaired within {slowest:?}");
        assert!(slowest < Duration::from_secs(2) * crate::support::world::slowness());
        // The rules are seen before the daemon is told that they are in force.
        wait_until("nothing is planned", SOON, || {
            daemon.json(&["plan"]).as_array().is_some_and(Vec::is_empty)
        });
        assert!(daemon.log_text().contains("nftables"));
    });
}

#[test]
fn an_address_that_somebody_keeps_taking_away_is_put_back_with_growing_pauses() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, _internet) = host_and_internet();
        let daemon = host.daemon(&blue("prewarm = true", SNAT, FLOATING));
        daemon.wait_network("blue", "ready");
        let there = || host.ip("-o address show dev nic0").contains("198.51.100.20/32");
        host.ip("address del 198.51.100.20/32 dev nic0");
        wait_until("the address is back", SOON, there);
        // Somebody who does it all the time is not worth all of a processor.
        let end = Instant::now() + Duration::from_secs(3);
        let mut taken = 0;
        while Instant::now() < end {
            taken += u32::from(
                super::super::try_ip(&host, "address del 198.51.100.20/32 dev nic0")
                    .status
                    .success(),
            );
        }
        assert!((3..=25).contains(&taken), "taken {taken} times");
        let state = daemon.network("blue");
        assert!(
            state["state"] == "failed" && state["reason"].as_str().unwrap().contains("198.51.100.20"),
            "{state}"
        );
    });
}
