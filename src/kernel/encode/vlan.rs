//! VLANs of bridge ports and VNIs of VXLAN devices, attribute by attribute: the builders know neither.

use super::super::decode::vlan as bits;
use super::super::error::Error;
use super::super::request::Batch;
use crate::model::record::Attribute;
use crate::model::{Ifindex, VlanRow, VniRow};
use crate::plan::op::ListAction;
use std::net::IpAddr;

const NESTED: u16 = netlink_packet_core::NLA_F_NESTED;

/// RTM_SETLINK or RTM_DELLINK of AF_BRIDGE: the port's bridge is asked (no `BRIDGE_FLAGS_SELF`). With a VNI the VLAN comes
/// first, since the kernel gives one only to a VLAN that is there; deleting a VLAN takes its VNI along.
pub fn push_vlan(
    op: &'static str,
    action: ListAction,
    port: Ifindex,
    row: &VlanRow,
    batch: &mut Batch,
) -> Result<(), Error> {
    let mut fixed = [0_u8; 16];
    fixed[0] = libc::AF_BRIDGE as u8;
    fixed[4..8].copy_from_slice(&port.get().to_ne_bytes());
    let delete = action == ListAction::Delete;
    let pvid = if row.pvid && !delete { bits::PVID } else { 0 };
    let untagged = if row.untagged && !delete {
        bits::UNTAGGED
    } else {
        0
    };
    let vid = row.vid.get().to_ne_bytes();
    let mut spec = attribute(bits::VLAN_INFO, &[(pvid | untagged).to_ne_bytes(), vid].concat());
    if let Some(vni) = row.vni.filter(|_| !delete) {
        let tunnel = [
            attribute(bits::TUNNEL_ID, &vni.get().to_ne_bytes()),
            attribute(bits::TUNNEL_VID, &vid),
            attribute(bits::TUNNEL_FLAGS, &[0, 0]),
        ];
        spec.extend(attribute(bits::VLAN_TUNNEL_INFO | NESTED, &tunnel.concat()));
    }
    let kind = if delete {
        libc::RTM_DELLINK
    } else {
        libc::RTM_SETLINK
    };
    let attributes = [Attribute {
        kind: libc::IFLA_AF_SPEC | NESTED,
        value: spec,
    }];
    batch.push_record(op, kind, 0, &fixed, &attributes)
}

/// `struct tunnel_msg`: family u8, flags u8, reserved u16, index u32.
pub fn push_vni(
    op: &'static str,
    action: ListAction,
    device: Ifindex,
    row: &VniRow,
    batch: &mut Batch,
) -> Result<(), Error> {
    let mut fixed = [0_u8; 8];
    fixed[0] = libc::AF_BRIDGE as u8;
    fixed[4..].copy_from_slice(&device.get().to_ne_bytes());
    let mut entry = attribute(bits::VNI_START, &row.vni.get().to_ne_bytes());
    match row.group.filter(|_| action != ListAction::Delete) {
        Some(IpAddr::V4(group)) => entry.extend(attribute(bits::VNI_GROUP, &group.octets())),
        Some(IpAddr::V6(group)) => entry.extend(attribute(bits::VNI_GROUP6, &group.octets())),
        None => {}
    }
    let kind = match action {
        ListAction::Delete => bits::RTM_DELTUNNEL,
        _ => bits::RTM_NEWTUNNEL,
    };
    let attributes = [Attribute {
        kind: bits::VNI_ENTRY | NESTED,
        value: entry,
    }];
    batch.push_record(op, kind, 0, &fixed, &attributes)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(super::super::wire::align(bytes.len()), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::decode::vlan::port_vlans;
    use crate::kernel::wire::{Attributes, Messages};
    use crate::model::{Vid, Vni};

    #[test]
    fn what_is_told_of_a_port_reads_back_the_same() {
        let rows = [
            VlanRow::access(Vid::new(100).unwrap()),
            VlanRow::tagged(Vid::new(101).unwrap()),
            VlanRow::tunnel(Vid::new(102).unwrap(), Vni::new(5000).unwrap()),
        ];
        for row in rows {
            let mut batch = Batch::default();
            push_vlan(
                "vlan",
                ListAction::Add,
                Ifindex::new(7).unwrap(),
                &row,
                &mut batch,
            )
            .unwrap();
            let message = Messages::new(batch.bytes()).next().unwrap().unwrap();
            let (kind, spec) = Attributes::behind(message.payload, 16)
                .unwrap()
                .next()
                .unwrap()
                .unwrap();
            assert_eq!(kind, libc::IFLA_AF_SPEC);
            assert_eq!(port_vlans(spec).unwrap().rows().collect::<Vec<_>>(), [&row]);
        }
    }
}
