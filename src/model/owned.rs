//! The only place that makes **and recognises** our devices' names and marks.
//!
//! Recognition decides deletion, and the two mistakes are not equal: leaving one of ours behind costs a line in
//! `status`, deleting somebody else's device costs an outage. So a device is ours to delete only if its `ifalias`
//! says that we *made* it; a device we found under the name the mapping derives and took over says "adopted" and is
//! configured but never deleted. A name alone proves nothing.

use super::ids::{InvalidValue, NetworkId, PortId, Vid, Vni};
use super::name::LinkName;

/// `NDA_PROTOCOL`/`RTA_PROTOCOL`/`IFA_PROTO` value that marks entries made by tapwire (iproute2's rt_protos has none
/// at 0x74 = 't'). Rows carrying it are ours after a restart too; all others are somebody else's. VXLAN forwarding entries
/// cannot carry it and have a mark of their own (`kernel::mark`).
pub const PROTOCOL: u8 = 0x74;

const MADE: &str = "tapwire:";
const ADOPTED: &str = "tapwire-adopted:";

const UPLINK: &str = " uplink=";
const TRUNK: &str = " trunk=";

/// Stands where a network's id would, on devices that all networks share. No id has this character.
const ALL: &str = "*";

/// What an `ifalias` says of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark<'a> {
    /// Made by tapwire: ours to delete.
    Made(Owner<'a>),
    /// Found and taken over: configured, never deleted.
    Adopted(Owner<'a>),
    /// Somebody else's text, or none.
    Foreign,
}

/// For whom a device was made or taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner<'a> {
    pub network: &'a str,
    /// On a flat network's bridge: the interface whose addresses it carries, the only one they go back to.
    pub uplink: Option<&'a str>,
    /// On a sub-interface of a trunk port: the tap.
    pub trunk: Option<&'a str>,
}

impl<'a> Mark<'a> {
    pub fn read(alias: Option<&'a str>) -> Mark<'a> {
        let owner = |text: &'a str| match (text.split_once(UPLINK), text.split_once(TRUNK)) {
            (Some((network, uplink)), _) => Owner {
                network,
                uplink: Some(uplink),
                trunk: None,
            },
            (None, Some((network, tap))) => Owner {
                network,
                uplink: None,
                trunk: Some(tap),
            },
            (None, None) => Owner {
                network: text,
                uplink: None,
                trunk: None,
            },
        };
        match alias {
            Some(a) if a.starts_with(MADE) => Mark::Made(owner(&a[MADE.len()..])),
            Some(a) if a.starts_with(ADOPTED) => Mark::Adopted(owner(&a[ADOPTED.len()..])),
            _ => Mark::Foreign,
        }
    }
    pub fn owner(&self) -> Option<Owner<'a>> {
        match self {
            Mark::Made(owner) | Mark::Adopted(owner) => Some(*owner),
            Mark::Foreign => None,
        }
    }
    pub fn is_made(&self) -> bool {
        matches!(self, Mark::Made(_))
    }
    pub fn is_foreign(&self) -> bool {
        matches!(self, Mark::Foreign)
    }
}

/// The `ifalias` of a device made for a network.
pub fn alias_made(network: &NetworkId, uplink: Option<&LinkName>) -> Box<str> {
    alias(MADE, network, uplink)
}

/// The `ifalias` of a device found under the derived name and taken over.
pub fn alias_adopted(network: &NetworkId, uplink: Option<&LinkName>) -> Box<str> {
    alias(ADOPTED, network, uplink)
}

/// The `ifalias` of a sub-interface of a trunk port.
pub fn alias_sub_port(network: &NetworkId, tap: &LinkName) -> Box<str> {
    format!("{MADE}{network}{TRUNK}{tap}").into()
}

/// The `ifalias` of a device that all networks share.
pub fn alias_shared() -> Box<str> {
    format!("{MADE}{ALL}").into()
}

/// Does this `ifalias` say so?
pub fn is_shared(alias: Option<&str>) -> bool {
    Mark::read(alias)
        .owner()
        .is_some_and(|owner| owner.network == ALL)
}

/// The same on one that was found.
pub fn alias_shared_adopted() -> Box<str> {
    format!("{ADOPTED}{ALL}").into()
}

fn alias(prefix: &str, network: &NetworkId, uplink: Option<&LinkName>) -> Box<str> {
    match uplink {
        Some(uplink) => format!("{prefix}{network}{UPLINK}{uplink}").into(),
        None => format!("{prefix}{network}").into(),
    }
}

/// `brq` + first 11 characters of the network's id (PEERS 1.1).
pub fn bridge_name(id: &NetworkId) -> Result<LinkName, InvalidValue> {
    LinkName::new(&format!("brq{}", id.short()))
}

/// `tap` + first 11 characters of the port's id (PEERS 1.1).
pub fn tap_name(id: &PortId) -> Result<LinkName, InvalidValue> {
    LinkName::new(&format!("tap{}", id.short()))
}

/// `vxlan-<vni>`: at most 14 bytes.
pub fn vxlan_name(vni: Vni) -> Result<LinkName, InvalidValue> {
    LinkName::new(&format!("vxlan-{vni}"))
}

/// The VLAN-aware bridge, when `[bridge] name` does not say otherwise.
pub const SHARED_BRIDGE: &str = "brvlan";

/// The VXLAN device of all networks. No VNI makes this name.
pub fn shared_vxlan_name() -> Result<LinkName, InvalidValue> {
    LinkName::new("vxlan-shared")
}

/// `<interface>.<vid>`; when that is longer than 15 bytes the interface shrinks to 10 characters, its first four and
/// six hexadecimal digits of its SHA-1 (Neutron's `get_interface_name`), the same for every VID.
pub fn vlan_name(interface: &LinkName, vid: Vid) -> Result<LinkName, InvalidValue> {
    let plain = format!("{interface}.{vid}");
    if plain.len() <= LinkName::MAX {
        return LinkName::new(&plain);
    }
    let digest = sha1_smol::Sha1::from(interface.as_bytes()).digest().to_string();
    let head = String::from_utf8_lossy(&interface.as_bytes()[..4]).into_owned();
    LinkName::new(&format!("{head}{}.{vid}", &digest[..6]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_neutrons_rules() {
        let id = NetworkId::new("6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11").unwrap();
        assert_eq!(bridge_name(&id).unwrap().to_string(), "brq6f0c2f5e-7d");
        let vid = |v| Vid::new(v).unwrap();
        assert_eq!(
            vlan_name(&LinkName::new("eth0").unwrap(), vid(100))
                .unwrap()
                .to_string(),
            "eth0.100"
        );
        assert_eq!(
            vlan_name(&LinkName::new("abcdefghijklmno").unwrap(), vid(1))
                .unwrap()
                .to_string(),
            "abcd2938dc.1"
        );
        assert_eq!(
            vxlan_name(Vni::new(16_777_215).unwrap()).unwrap().to_string(),
            "vxlan-16777215"
        );
    }

    #[test]
    fn only_the_made_mark_makes_a_device_ours() {
        let id = NetworkId::new("blue").unwrap();
        assert!(Mark::read(Some(&alias_made(&id, None))).is_made());
        let adopted = alias_adopted(&id, None);
        assert!(!Mark::read(Some(&adopted)).is_made());
        assert_eq!(
            Mark::read(Some(&adopted)).owner().map(|o| o.network),
            Some("blue")
        );
        assert_eq!(Mark::read(Some("uplink to tapwire: rack 3")), Mark::Foreign);
        assert_eq!(Mark::read(None), Mark::Foreign);
    }

    #[test]
    fn a_shared_device_is_made_and_a_sub_port_remembers_its_tap() {
        assert!(Mark::read(Some(&alias_shared())).is_made());
        assert!(!Mark::read(Some(&alias_shared_adopted())).is_made());
        let id = NetworkId::new("blue").unwrap();
        let alias = alias_sub_port(&id, &LinkName::new("tap0").unwrap());
        let owner = Mark::read(Some(&alias)).owner().unwrap();
        assert_eq!(
            (owner.network, owner.uplink, owner.trunk),
            ("blue", None, Some("tap0"))
        );
    }

    #[test]
    fn a_flat_networks_bridge_remembers_its_uplink() {
        let id = NetworkId::new("blue").unwrap();
        let alias = alias_made(&id, Some(&LinkName::new("eth1").unwrap()));
        let owner = Mark::read(Some(&alias)).owner().unwrap();
        assert_eq!((owner.network, owner.uplink), ("blue", Some("eth1")));
    }
}
