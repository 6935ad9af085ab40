//! Others' rules and their counters, while ours change at random.

use super::*;
use std::fmt::Write as _;

/// Tables of others, some with names close to ours. Nothing that is sent here matches a rule, so what a counter says is what
/// it said, unless somebody makes the table anew.
const OTHERS: &str = r#"
table ip filter {
  set known { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
  counter seen { packets 11 bytes 1111 }
  chain INPUT { type filter hook input priority filter; policy accept; ip saddr 192.0.2.77 counter packets 1 bytes 60 drop; }
  chain FORWARD { type filter hook forward priority filter; policy accept; iifname "other0" counter packets 2 bytes 120 accept; }
}
table ip nat {
  chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; oifname "other0" counter packets 3 bytes 180 masquerade; }
}
table ip tapwire { chain mine { counter packets 4 bytes 240 accept; }; }
table ip6 tapwire_uplink { chain mine { counter packets 5 bytes 300 accept; }; }
table inet tapwire2 { chain mine { counter packets 6 bytes 360 accept; }; }
table bridge tapwire2 { chain mine { counter packets 7 bytes 420 accept; }; }
"#;

/// A small generator of numbers (xorshift), the same for a seed.
struct Dice(u64);

impl Dice {
    fn of(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.of(of.len() as u64)).expect("an index")]
    }
}

/// Up to three networks with whatever a gateway can have.
fn configuration(dice: &mut Dice) -> String {
    let mut text = NOTHING.to_owned();
    let mut rest = String::new();
    for n in 0..3 {
        if dice.of(4) == 0 {
            continue;
        }
        let addresses = dice.pick(&["\"10.N.0.1/24\"", "\"10.N.0.1/24\", \"fd00:0:0:N::1/64\""]);
        let snat = dice.pick(&[
            "",
            "snat = true",
            "snat = { interface = \"nic0\" }",
            "snat = { address = \"198.51.100.7\" }",
        ]);
        let forward = dice.pick(&["", "forward = [\"nic0\"]", "forward = []"]);
        let dmz = dice.pick(&["", "dmz = [\"192.0.2.0/24\"]"]);
        let metadata = dice.pick(&[
            "",
            "metadata = { host = \"127.0.0.1\" }",
            "metadata = { host = \"198.51.100.1\" }",
        ]);
        let network = format!(
            "[[network]]\nid = \"nN\"\nnetwork_type = \"local\"\nprewarm = true\n{metadata}\n\
             [network.gateway]\naddresses = [{addresses}]\n{snat}\n{forward}\n{dmz}\n"
        );
        text += &network.replace('N', &n.to_string());
        for machine in 5..8 {
            if dice.of(3) == 0 {
                let _ = write!(
                    rest,
                    "[[floating_ip]]\naddress = \"198.51.100.{}\"\nfixed_address = \"10.{n}.0.{machine}\"\ninterface = \"nic0\"\n",
                    100 + n * 10 + machine
                );
            }
            if dice.of(4) == 0 {
                let _ = write!(
                    rest,
                    "[[port_forward]]\nprotocol = \"{}\"\naddress = \"198.51.100.7\"\nport = {}\nfixed_address = \"10.{n}.0.{machine}\"\n",
                    dice.pick(&["tcp", "udp"]),
                    1000 + n * 10 + machine
                );
            }
        }
    }
    text + &rest
}

fn wait_settled(daemon: &Daemon) {
    wait_until("nothing is planned", SOON, || {
        daemon.json(&["plan"]).as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn others_rules_and_their_counters_stay_through_a_hundred_changes_of_ours() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat, Feature::Ipv6);
        let (host, _internet) = host_and_internet();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("off");
        let file = std::env::temp_dir().join(format!("others-{}.nft", std::process::id()));
        std::fs::write(&file, OTHERS).expect("write the rules");
        host.run(&format!("nft -f {}", file.display()));
        std::fs::remove_file(&file).expect("remove the file");
        let before = footprint(&host);
        let others = |host: &Host| {
            let tables = host.run("nft list tables");
            let others = tables.lines().filter(|table| {
                !matches!(
                    *table,
                    "table inet tapwire" | "table bridge tapwire" | "table bridge tapwire_uplink"
                )
            });
            others
                .map(|table| host.run(&format!("nft -a list {table}")))
                .collect::<String>()
        };
        let untouched = others(&host);
        assert!(untouched.contains("packets 11 bytes 1111"));
        let mut daemon = host.daemon(NOTHING);
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for change in 1..=100 {
            let text = configuration(&mut dice);
            match dice.of(12) {
                0 => {
                    daemon.kill();
                    daemon.write_configuration(&text);
                    daemon.start();
                    daemon.wait_in_sync();
                }
                1 => {
                    daemon.reload(&text);
                    let ours = host.run("nft list tables").contains("table inet tapwire\n");
                    if ours {
                        host.run("nft delete table inet tapwire");
                    }
                }
                _ => daemon.reload(&text),
            }
            wait_settled(&daemon);
            assert!(
                others(&host) == untouched,
                "change {change}: {text}\n{}",
                others(&host)
            );
        }
        daemon.reload(NOTHING);
        wait_settled(&daemon);
        wait_for(&host, &before);
        assert!(others(&host) == untouched);
    });
}
