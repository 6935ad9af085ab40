//! The demo's little host: stand-in NICs, the networks, the configuration file that says so.

use super::meddle::Hand;
use crate::cli::failure::{Exit, Failure};
use crate::kernel::tuntap::Tap;
use crate::model::LinkName;
use crate::plan::op::LinkRef;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Everything is below here: the namespace's own empty tmpfs, which goes with the namespace.
const FOLDER: &str = "/run/tapwire-demo";
const WIRE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const NIC_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Documentation addresses (RFC 5737) of hosts that are not there; a flood entry needs no answer.
const PEERS: [&str; 2] = ["192.0.2.12", "192.0.2.13"];

/// One network of the demo.
#[derive(Debug, Clone)]
pub struct DemoNetwork {
    pub id: String,
    /// "vxlan 100 to 2 peers".
    pub what: String,
    toml: String,
}

#[derive(Debug)]
pub struct World {
    pub networks: Vec<DemoNetwork>,
    pub config: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
    /// Why there is no VLAN network, if there is none.
    pub left_out: Option<&'static str>,
    /// Held open: a NIC that goes is another story.
    _nics: Vec<Tap>,
}

impl World {
    /// Makes the NICs and writes the configuration.
    pub fn build(hand: &mut Hand, networks: usize) -> Result<Self, Failure> {
        let folder = Path::new(FOLDER);
        let fail = |what: &str, e: std::io::Error| Failure::failed(format!("cannot {what}: {e}"));
        std::fs::create_dir_all(folder).map_err(|e| fail("make a folder in /run", e))?;
        let wire = nic("wire0")?;
        let nic = nic("nic0")?;
        for (device, address) in [(&wire, WIRE_ADDRESS), (&nic, NIC_ADDRESS)] {
            hand.address(reference(device), address).map_err(|e| {
                let name = device.name();
                Failure::from_error(Exit::Failed, &e).context(&format!("cannot give {name} an address"))
            })?;
        }
        let vlans = hand.knows_vlans(reference(&nic));
        let networks = choose(networks, vlans);
        let world = Self {
            config: folder.join("tapwire.toml"),
            socket: folder.join("tapwire.sock"),
            log: folder.join("daemon.log"),
            left_out: (!vlans).then_some("no VLAN network: this kernel has no 802.1Q"),
            networks,
            _nics: vec![wire, nic],
        };
        std::fs::write(&world.config, world.configuration())
            .map_err(|e| fail("write the configuration", e))?;
        Ok(world)
    }

    /// The name of a tap; the number of its network is in it, and the mapping goes by that.
    pub fn tap_name(&self, number: usize) -> (String, usize) {
        let network = number % self.networks.len();
        (format!("tap{network}-{number:04}"), network)
    }

    fn configuration(&self) -> String {
        let mut text = format!(
            "# What `tapwire demo` runs with.\n[daemon]\nsocket = {:?}\nstate_directory = \"{FOLDER}/state\"\n\n\
             [taps]\nmatch = [\"tap*\"]\n\n\
             [physical_networks]\nphysnet1 = {{ interface = \"nic0\" }}\n\n\
             [vxlan]\nlocal_ip = \"{WIRE_ADDRESS}\"\nmulticast_ranges = [\"239.1.1.1:300:399\"]\n",
            self.socket.display().to_string()
        );
        for (at, network) in self.networks.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n[[network]]\nid = {:?}\n{}\n[[port]]\ntap = \"tap{at}-*\"\nnetwork = {:?}\n",
                network.id, network.toml, network.id
            );
        }
        text
    }
}

/// A tap plays the network card: it needs no kernel module but the one that the demo needs anyway.
fn nic(name: &str) -> Result<Tap, Failure> {
    let name = LinkName::new(name).map_err(|e| Failure::failed(e.to_string()))?;
    Tap::create(Some(&name)).map_err(|e| Failure::from_error(Exit::Failed, &e))
}

fn reference(tap: &Tap) -> LinkRef {
    LinkRef {
        name: tap.name(),
        index: Some(tap.index()),
    }
}

/// One of each type first, then more VXLANs.
fn choose(count: usize, vlans: bool) -> Vec<DemoNetwork> {
    let peers: String = PEERS
        .iter()
        .map(|vtep| format!("[[network.peer]]\nvtep = \"{vtep}\"\n"))
        .collect();
    let vxlan = |id: String, vni: usize| DemoNetwork {
        id,
        what: format!("vxlan {vni}, unicast to {} hosts", PEERS.len()),
        toml: format!("network_type = \"vxlan\"\nsegmentation_id = {vni}\nmtu = 1450\n{peers}"),
    };
    let mut networks = vec![
        DemoNetwork {
            id: "local".into(),
            what: "local".into(),
            toml: "network_type = \"local\"\n".into(),
        },
        DemoNetwork {
            id: "flat".into(),
            what: format!("flat on nic0, whose address {NIC_ADDRESS} moves to the bridge"),
            toml: "network_type = \"flat\"\nphysical_network = \"physnet1\"\n".into(),
        },
        vxlan("vxlan100".into(), 100),
        DemoNetwork {
            id: "vxlan300".into(),
            what: "vxlan 300, multicast 239.1.1.1".into(),
            toml: "network_type = \"vxlan\"\nsegmentation_id = 300\nmtu = 1450\n".into(),
        },
    ];
    if vlans {
        networks.push(DemoNetwork {
            id: "vlan10".into(),
            what: "vlan 10 on nic0".into(),
            toml: "network_type = \"vlan\"\nphysical_network = \"physnet1\"\nsegmentation_id = 10\n".into(),
        });
    }
    // 1000 and up: clear of 100 and of the multicast range.
    for vni in (1000..).take(count.saturating_sub(networks.len())) {
        networks.push(vxlan(format!("vxlan{vni}"), vni));
    }
    networks.truncate(count);
    networks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(count: usize, vlans: bool) -> World {
        World {
            networks: choose(count, vlans),
            config: PathBuf::from("/run/c"),
            socket: PathBuf::from("/run/s"),
            log: PathBuf::from("/run/l"),
            left_out: None,
            _nics: Vec::new(),
        }
    }

    #[test]
    fn the_demos_configuration_passes_the_checks_at_every_size() {
        for (count, vlans) in [(1, false), (4, false), (5, true), (40, true)] {
            let world = world(count, vlans);
            let config = crate::config::load_str(
                &world.configuration(),
                Path::new("/run/tapwire-demo/tapwire.toml"),
            );
            let config = config.unwrap_or_else(|report| panic!("{report}"));
            assert_eq!(config.networks.len(), count);
        }
    }

    #[test]
    fn a_tap_belongs_to_the_network_whose_number_it_carries() {
        let world = world(5, true);
        assert_eq!(world.tap_name(13), ("tap3-0013".to_owned(), 3));
        let longest = world.tap_name(9_999).0;
        assert!(LinkName::new(&longest).is_ok());
    }

    #[test]
    fn five_networks_are_of_at_least_three_types() {
        let types: std::collections::BTreeSet<_> = choose(5, false)
            .iter()
            .filter_map(|n| n.what.split([' ', ',']).next().map(str::to_owned))
            .collect();
        assert!(types.len() >= 3, "{types:?}");
    }
}
