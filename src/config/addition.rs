//! Whether a network told over the control socket fits beside those that are there: the same rules as for files,
//! without places to point at.
//!
//! Length: nearly half of it is tests.

use super::Config;
use crate::model::gateway::PortForward;
use crate::model::{Cidr, Gateway, InvalidValue, LinkName, Network, PhysicalName, Segment, owned};

/// Why a network can't be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("network {id} is there already")]
    SameId { id: String },
    #[error("physical network {0} is not in the configuration")]
    UnknownPhysicalNetwork(PhysicalName),
    #[error("vxlan networks need local_ip in [vxlan]")]
    NoLocalIp,
    #[error(
        "there is no way to other hosts: no vxlan_group, no multicast_ranges term with {vni}, no l2_population and no peer"
    )]
    Unreachable { vni: u32 },
    #[error("only vxlan networks have peers")]
    Peers,
    #[error("its taps go to {mapped} of physical network {physical}: it can't have a bridge of its own")]
    MappedBridge {
        physical: PhysicalName,
        mapped: LinkName,
    },
    #[error("it can't have a bridge of its own: all networks are on {0}")]
    SharedBridge(LinkName),
    #[error(
        "it can't have a gateway: all networks are on {0} (gateways need mode = \"per-network\" in [bridge])"
    )]
    SharedGateway(LinkName),
    #[error("it can't be flat on {0}, which is a trunk of the VLAN-aware bridge")]
    FlatOnTrunk(PhysicalName),
    #[error("its segment ({segment}) belongs to network {other}")]
    SameSegment { segment: String, other: String },
    #[error("device {name} belongs to {owner}")]
    DeviceTaken { name: LinkName, owner: String },
    #[error("its range {range} belongs to network {other}")]
    SameRange { range: Cidr, other: String },
    #[error("{what} leads to a machine of network {other}")]
    AddressTaken { what: String, other: String },
    #[error(transparent)]
    Name(#[from] InvalidValue),
}

/// Judges `new` against the configuration and against `told`, the networks told earlier. Takes time in proportion to
/// the number of networks, which is right for a command by hand.
pub fn fits<'a>(
    config: &'a Config,
    told: impl IntoIterator<Item = &'a Network>,
    new: &Network,
) -> Result<(), Unfit> {
    let mine = Devices::of(config, new)?;
    underlay(config, new)?;
    for (name, physical) in &config.physical_networks {
        for device in [physical.interface, physical.bridge].into_iter().flatten() {
            if mine.made().any(|name| name == device) {
                let owner = format!("physical network {name}");
                return Err(Unfit::DeviceTaken { name: device, owner });
            }
        }
    }
    for other in config.networks.iter().map(|n| &n.value).chain(told) {
        if other.id == new.id {
            return Err(Unfit::SameId {
                id: new.id.to_string(),
            });
        }
        gateways(other, new)?;
        // One that was told before a reload took away what it needs has no devices to collide with.
        let Ok(theirs) = Devices::of(config, other) else {
            continue;
        };
        if mine.carrier.is_some() && mine.carrier == theirs.carrier {
            return Err(Unfit::SameSegment {
                segment: mine.segment(),
                other: other.label().to_owned(),
            });
        }
        if let Some(name) = mine.made().find(|name| theirs.made().any(|other| other == *name)) {
            let owner = format!("network {}", other.label());
            return Err(Unfit::DeviceTaken { name, owner });
        }
    }
    Ok(())
}

/// The devices of one network.
struct Devices {
    /// Its own bridge; none if it uses a mapped one.
    bridge: Option<LinkName>,
    /// A sub-interface or VXLAN device.
    uplink: Option<LinkName>,
    carrier: Option<Carrier>,
}

/// What only one network can have.
#[derive(Debug, PartialEq, Eq)]
enum Carrier {
    Untagged(LinkName),
    Tagged(LinkName, u16),
    /// On whatever trunk of the VLAN-aware bridge.
    Trunk(u16),
    Vni(u32),
}

impl Devices {
    fn of(config: &Config, network: &Network) -> Result<Self, Unfit> {
        let shared = config
            .bridge
            .shared()
            .filter(|_| !matches!(network.segment, Segment::Flat { .. }));
        if let (Some(shared), Some(_)) = (shared, network.bridge) {
            return Err(Unfit::SharedBridge(shared.name));
        }
        if let (Some(shared), Some(_)) = (shared, &network.gateway) {
            return Err(Unfit::SharedGateway(shared.name));
        }
        let own = || match shared {
            Some(_) => Ok(None),
            None => network
                .bridge
                .map_or_else(|| owned::bridge_name(&network.id), Ok)
                .map(Some),
        };
        let physical = |name: &PhysicalName| {
            let found = config.physical_networks.get(name);
            found.ok_or_else(|| Unfit::UnknownPhysicalNetwork(name.clone()))
        };
        Ok(match &network.segment {
            Segment::Local => Self {
                bridge: own()?,
                uplink: None,
                carrier: None,
            },
            Segment::Flat { physical: name } => {
                let physical = physical(name)?;
                if config.bridge.shared().is_some() && physical.trunk && physical.bridge.is_none() {
                    return Err(Unfit::FlatOnTrunk(name.clone()));
                }
                if let (Some(mapped), Some(own)) = (physical.bridge, network.bridge)
                    && mapped != own
                {
                    let physical = name.clone();
                    return Err(Unfit::MappedBridge { physical, mapped });
                }
                Self {
                    bridge: if physical.bridge.is_some() { None } else { own()? },
                    uplink: None,
                    carrier: physical.bridge.or(physical.interface).map(Carrier::Untagged),
                }
            }
            Segment::Vlan { physical: name, vid } => {
                let physical = physical(name)?;
                let parent = physical.interface.or(physical.bridge);
                if shared.is_some() && physical.trunk {
                    return Ok(Self {
                        bridge: None,
                        uplink: None,
                        carrier: Some(Carrier::Trunk(vid.get())),
                    });
                }
                Self {
                    bridge: own()?,
                    uplink: parent.map(|parent| owned::vlan_name(&parent, *vid)).transpose()?,
                    carrier: parent.map(|parent| Carrier::Tagged(parent, vid.get())),
                }
            }
            Segment::Vxlan { vni } => Self {
                bridge: own()?,
                uplink: match shared {
                    Some(_) => None,
                    None => Some(owned::vxlan_name(*vni)?),
                },
                carrier: Some(Carrier::Vni(vni.get())),
            },
        })
    }

    /// Names of the devices that are made for it.
    fn made(&self) -> impl Iterator<Item = LinkName> {
        self.bridge.into_iter().chain(self.uplink)
    }

    fn segment(&self) -> String {
        match &self.carrier {
            None => "local".to_owned(),
            Some(Carrier::Untagged(device)) => format!("untagged on {device}"),
            Some(Carrier::Tagged(device, vid)) => format!("vlan {vid} on {device}"),
            Some(Carrier::Trunk(vid)) => format!("vlan {vid} on a trunk"),
            Some(Carrier::Vni(vni)) => format!("VNI {vni}"),
        }
    }
}

/// One namespace routes a range to one bridge, and an address or port of the outside leads to one machine.
fn gateways(other: &Network, new: &Network) -> Result<(), Unfit> {
    let (Some(theirs), Some(mine)) = (other.gateway.as_deref(), new.gateway.as_deref()) else {
        return Ok(());
    };
    let name = || other.label().to_owned();
    let shared = |a: &&Cidr| theirs.addresses.iter().any(|b| a.overlaps(b));
    if let Some(range) = mine.addresses.iter().find(shared) {
        return Err(Unfit::SameRange {
            range: range.network(),
            other: name(),
        });
    }
    let floats = |gateway: &Gateway, address| gateway.floating_ips.iter().any(|f| f.address == address);
    let forwards = |gateway: &Gateway, address| gateway.port_forwards.iter().any(|f| f.address == address);
    let taken = |what: String| Err(Unfit::AddressTaken { what, other: name() });
    for floating in &mine.floating_ips {
        if floats(theirs, floating.address) || forwards(theirs, floating.address) {
            return taken(floating.address.to_string());
        }
    }
    for forward in &mine.port_forwards {
        let same = |f: &PortForward| {
            (f.protocol, f.address, f.port) == (forward.protocol, forward.address, forward.port)
        };
        if floats(theirs, forward.address) || theirs.port_forwards.iter().any(same) {
            return taken(format!(
                "{} port {} of {}",
                forward.protocol.name(),
                forward.port,
                forward.address
            ));
        }
    }
    Ok(())
}

fn underlay(config: &Config, network: &Network) -> Result<(), Unfit> {
    let Segment::Vxlan { vni } = network.segment else {
        return if network.peers.is_empty() {
            Ok(())
        } else {
            Err(Unfit::Peers)
        };
    };
    let vxlan = &config.vxlan;
    if vxlan.local_ip.is_none() {
        return Err(Unfit::NoLocalIp);
    }
    if !vxlan.l2_population && vxlan.group_for(vni).is_none() && network.peers.is_empty() {
        return Err(Unfit::Unreachable { vni: vni.get() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NetworkId;
    use std::path::Path;

    fn config() -> Config {
        let text = r#"
            [physical_networks]
            physnet1 = { interface = "eth1" }
            physnet2 = { bridge = "br-ext" }
            [vxlan]
            local_ip = "192.0.2.11"
            multicast_ranges = ["239.1.1.0:1:100"]
            [[network]]
            id = "6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11"
            network_type = "vlan"
            physical_network = "physnet1"
            segmentation_id = 100
            [[network]]
            id = "ext"
            network_type = "flat"
            physical_network = "physnet2"
            [[network]]
            id = "tunnel"
            network_type = "vxlan"
            segmentation_id = 7
        "#;
        super::super::load_str(text, Path::new("a.toml")).unwrap_or_else(|report| panic!("{report}"))
    }

    fn network(id: &str, segment: Segment) -> Network {
        Network::new(NetworkId::new(id).unwrap(), segment)
    }

    fn vlan(id: &str, physical: &str, vid: i64) -> Network {
        let physical = PhysicalName::new(physical).unwrap();
        network(
            id,
            Segment::Vlan {
                physical,
                vid: crate::model::Vid::new(vid).unwrap(),
            },
        )
    }

    fn vxlan(id: &str, vni: i64) -> Network {
        network(
            id,
            Segment::Vxlan {
                vni: crate::model::Vni::new(vni).unwrap(),
            },
        )
    }

    #[test]
    fn a_network_with_devices_of_its_own_fits() {
        let config = config();
        let told = [vlan("told", "physnet1", 101)];
        for new in [
            network("n", Segment::Local),
            vlan("n", "physnet1", 102),
            vlan("n", "physnet2", 100),
            vxlan("n", 8),
        ] {
            assert_eq!(fits(&config, &told, &new), Ok(()), "{new:?}");
        }
    }

    #[test]
    fn a_network_that_collides_is_refused_with_the_other_named() {
        let config = config();
        let told = [vlan("told", "physnet1", 101)];
        let refusal = |new: Network| fits(&config, &told, &new).unwrap_err().to_string();
        assert_eq!(
            refusal(network("told", Segment::Local)),
            "network told is there already"
        );
        assert_eq!(
            refusal(vlan("n", "physnet1", 100)),
            "its segment (vlan 100 on eth1) belongs to network 6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11"
        );
        assert_eq!(
            refusal(vlan("n", "physnet1", 101)),
            "its segment (vlan 101 on eth1) belongs to network told"
        );
        assert_eq!(
            refusal(vxlan("n", 7)),
            "its segment (VNI 7) belongs to network tunnel"
        );
        let ext = Segment::Flat {
            physical: PhysicalName::new("physnet2").unwrap(),
        };
        assert_eq!(
            refusal(network("n", ext)),
            "its segment (untagged on br-ext) belongs to network ext"
        );
        assert_eq!(
            refusal(network("6f0c2f5e-7d22", Segment::Local)),
            "device brq6f0c2f5e-7d belongs to network 6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11"
        );
        let named = |name: &str| Network {
            bridge: Some(LinkName::new(name).unwrap()),
            ..network("n", Segment::Local)
        };
        assert_eq!(
            refusal(named("eth1")),
            "device eth1 belongs to physical network physnet1"
        );
        assert_eq!(
            refusal(named("vxlan-7")),
            "device vxlan-7 belongs to network tunnel"
        );
    }

    #[test]
    fn a_gateway_that_another_network_has_is_refused() {
        let config = config();
        let gateway = |id: &str, keys: serde_json::Value| {
            let mut network = network(id, Segment::Local);
            let serde_json::Value::Object(keys) = keys else {
                panic!("{keys}");
            };
            network.gateway =
                super::super::gateway_from_json(&keys, &network).unwrap_or_else(|r| panic!("{r}"));
            network
        };
        let floating = |address: &str, fixed: &str| serde_json::json!([{ "address": address, "fixed_address": fixed, "interface": "eth0" }]);
        let told = [gateway(
            "told",
            serde_json::json!({ "gateway": { "addresses": ["10.0.0.1/16"] }, "floating_ip": floating("203.0.113.7", "10.0.0.5") }),
        )];
        let refusal = |new: Network| fits(&config, &told, &new).unwrap_err().to_string();
        let inside = gateway(
            "n",
            serde_json::json!({ "gateway": { "addresses": ["10.0.7.1/24"] } }),
        );
        assert_eq!(refusal(inside), "its range 10.0.7.0/24 belongs to network told");
        let own = serde_json::json!({ "addresses": ["10.1.0.1/24"] });
        let same = serde_json::json!({ "gateway": own, "floating_ip": floating("203.0.113.7", "10.1.0.5") });
        assert_eq!(
            refusal(gateway("n", same)),
            "203.0.113.7 leads to a machine of network told"
        );
        let other = serde_json::json!({ "gateway": own, "floating_ip": floating("203.0.113.8", "10.1.0.5") });
        assert_eq!(fits(&config, &told, &gateway("n", other)), Ok(()));
    }

    #[test]
    fn where_networks_share_a_bridge_only_a_flat_one_has_a_gateway() {
        let text =
            "[bridge]\nmode = \"vlan-aware\"\n[physical_networks]\nphysnet1 = { interface = \"eth1\" }\n";
        let config =
            super::super::load_str(text, Path::new("a.toml")).unwrap_or_else(|report| panic!("{report}"));
        let keys = serde_json::json!({ "gateway": { "addresses": ["10.0.0.1/24"] } });
        let with_gateway = |segment: Segment| {
            let mut network = network("n", segment);
            let keys = keys.as_object().unwrap();
            network.gateway =
                super::super::gateway_from_json(keys, &network).unwrap_or_else(|r| panic!("{r}"));
            network
        };
        assert_eq!(
            fits(&config, [], &with_gateway(Segment::Local))
                .unwrap_err()
                .to_string(),
            "it can't have a gateway: all networks are on brvlan (gateways need mode = \"per-network\" in [bridge])"
        );
        let physical = PhysicalName::new("physnet1").unwrap();
        assert_eq!(
            fits(&config, [], &with_gateway(Segment::Flat { physical })),
            Ok(())
        );
    }

    #[test]
    fn a_network_that_lacks_something_is_refused() {
        let config = config();
        let refusal = |new: Network| fits(&config, [], &new).unwrap_err().to_string();
        assert_eq!(
            refusal(vlan("n", "physnet3", 1)),
            "physical network physnet3 is not in the configuration"
        );
        assert!(refusal(vxlan("n", 101)).starts_with("there is no way to other hosts"));
        let mut bare = config.clone();
        bare.vxlan.local_ip = None;
        assert_eq!(fits(&bare, [], &vxlan("n", 8)), Err(Unfit::NoLocalIp));
    }
}
