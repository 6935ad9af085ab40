//! Others' rules: never read, never written, whatever happens to ours.

use super::{GUARDED, Pair};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::net::UdpSocket;
use std::time::Duration;

const CHANGES: usize = 100;

/// SplitMix64: the same run each time, and another for each seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// What others have: tables of their own in every family that this kernel has, one named as ours in another family.
fn make_foreign(host: &Host) {
    let bridge = "add table bridge others\nadd set bridge others macs { type ether_addr; }\n\
        add chain bridge others in { type filter hook prerouting priority -400; }\n\
        add rule bridge others in counter\nadd element bridge others macs { fa:16:3e:00:00:05 }\n";
    let ip = "add table ip tapwire\nadd chain ip tapwire out { type filter hook output priority 0; }\n\
        add rule ip tapwire out meta l4proto udp counter\n";
    let iptables = host
        .command("iptables")
        .args(["-A", "OUTPUT", "-p", "udp"])
        .output();
    let has_ip = iptables.is_ok_and(|output| output.status.success());
    let text = if has_ip {
        format!("{bridge}{ip}")
    } else {
        bridge.to_owned()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    host.run(&format!("nft -f {}", file.path().display()));
    // Something to count.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..7 {
        socket.send_to(b"?", "127.0.0.1:9").unwrap();
    }
}

/// Everything but `table bridge tapwire`, counters and handles included.
fn foreign(host: &Host) -> String {
    let text = host.run("nft -a list ruleset");
    let mut kept = Vec::new();
    let mut ours = false;
    for line in text.lines() {
        ours |= line.starts_with("table bridge tapwire {");
        if !ours {
            kept.push(line);
        }
        ours &= line != "}";
    }
    kept.join("\n")
}

fn configuration(random: &mut Random) -> String {
    let mut text = GUARDED.replace("10.0.0.5", &format!("10.0.{}.5", random.below(250)));
    if random.below(4) == 0 {
        text = text.replace("addresses", "port_security = false\naddresses");
    }
    for pair in 0..random.below(3) {
        // No bits behind the prefix.
        let length = 20 + random.below(5);
        let third = 16 * random.below(16);
        text += &format!(
            "[[port.allowed_address_pairs]]\nip = \"10.{}.{third}.0/{length}\"\n",
            pair + 1
        );
    }
    text
}

#[test]
fn others_rules_and_counters_are_as_they_were_after_a_hundred_changes_of_ours() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::Program("nft"));
        let host = Host::here();
        let mut daemon = host.daemon(GUARDED);
        let mut pair = Some(Pair::attached(&host, &daemon));
        make_foreign(&host);
        let before = foreign(&host);
        assert!(before.contains("table bridge others"), "{before}");
        let mut random = Random(6);
        for change in 0..CHANGES {
            match random.below(8) {
                0 => {
                    pair = match pair {
                        Some(_) => None,
                        None => Some(Pair {
                            guest: host.tap("tap0"),
                            neighbour: host.tap("tap1"),
                        }),
                    }
                }
                1 => {
                    // Somebody's mistake is ours to mend, and nobody else's.
                    let _absent = host
                        .command("nft")
                        .args(["delete", "table", "bridge", "tapwire"])
                        .output();
                }
                2 => {
                    daemon.kill();
                    daemon.start();
                    daemon.wait_in_sync();
                }
                _ => daemon.reload(&configuration(&mut random)),
            }
            assert_eq!(foreign(&host), before, "after change {change}");
        }
        daemon.write_configuration("");
        wait_until("nothing of ours is left", Duration::from_secs(5), || {
            !host.run("nft list ruleset").contains("table bridge tapwire")
        });
        assert_eq!(foreign(&host), before);
    });
}
