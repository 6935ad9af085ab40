//! VLANs of bridge ports (`IFLA_AF_SPEC` of an AF_BRIDGE link message, or one by one: RTM_NEWVLAN) and VNIs of VXLAN devices
//! (RTM_NEWTUNNEL).

use super::super::wire::{Attributes, Malformed, u16_at, u16_value, u32_at, u32_value};
use super::kind::ip_address;
use crate::model::{Ifindex, PortVlans, Vid, VlanRow, Vni, VniRow};

/// `IFLA_BRIDGE_VLAN_INFO` and `IFLA_BRIDGE_VLAN_TUNNEL_INFO` (linux/if_bridge.h).
pub const VLAN_INFO: u16 = 2;
pub const VLAN_TUNNEL_INFO: u16 = 3;
/// `IFLA_BRIDGE_VLAN_TUNNEL_*`.
pub const TUNNEL_ID: u16 = 1;
pub const TUNNEL_VID: u16 = 2;
pub const TUNNEL_FLAGS: u16 = 3;
/// `BRIDGE_VLAN_INFO_*`.
pub const PVID: u16 = 1 << 1;
pub const UNTAGGED: u16 = 1 << 2;
const RANGE_BEGIN: u16 = 1 << 3;
const RANGE_END: u16 = 1 << 4;

/// All VLANs of the port; ranges of equal ones are told by their ends.
pub fn port_vlans(af_spec: &[u8]) -> Result<PortVlans, Malformed> {
    let mut rows: Vec<VlanRow> = Vec::new();
    let (mut begin, mut tunnel_begin) = (None, None);
    for attribute in Attributes::new(af_spec) {
        match attribute? {
            (VLAN_INFO, value) => {
                // `struct bridge_vlan_info`: flags u16, vid u16.
                let short = Malformed("VLAN of a port shorter than its structure");
                let (flags, raw) = (u16_at(value, 0).ok_or(short)?, u16_at(value, 2).ok_or(short)?);
                if flags & RANGE_BEGIN != 0 {
                    begin = Some(raw);
                    continue;
                }
                let first = begin.take().filter(|_| flags & RANGE_END != 0).unwrap_or(raw);
                rows.extend((first..=raw).filter_map(|raw| {
                    Some(VlanRow {
                        vid: vid(raw)?,
                        pvid: flags & PVID != 0,
                        untagged: flags & UNTAGGED != 0,
                        vni: None,
                    })
                }));
            }
            (VLAN_TUNNEL_INFO, value) => {
                let (raw, vni, flags) = tunnel(value)?;
                if flags & RANGE_BEGIN != 0 {
                    tunnel_begin = Some((raw, vni));
                    continue;
                }
                let begin = tunnel_begin.take().filter(|_| flags & RANGE_END != 0);
                let (first, first_vni) = begin.unwrap_or((raw, vni));
                for (raw, vni) in (first..=raw).zip(first_vni..) {
                    // Told behind all VLANs, which come in order.
                    let at = rows.binary_search_by_key(&raw, |row| row.vid.get());
                    if let Some(row) = at.ok().and_then(|at| rows.get_mut(at)) {
                        row.vni = Vni::new(i64::from(vni)).ok();
                    }
                }
            }
            _ => {}
        }
    }
    Ok(rows.into_iter().collect())
}

fn vid(raw: u16) -> Option<Vid> {
    Vid::new(i64::from(raw)).ok()
}

/// VID, VNI, flags.
fn tunnel(nested: &[u8]) -> Result<(u16, u32, u16), Malformed> {
    let (mut raw, mut vni, mut flags) = (0, 0, 0);
    for attribute in Attributes::new(nested) {
        match attribute? {
            (TUNNEL_ID, value) => vni = u32_value(value)?,
            (TUNNEL_VID, value) => raw = u16_value(value)?,
            (TUNNEL_FLAGS, value) => flags = u16_value(value)?,
            _ => {}
        }
    }
    Ok((raw, vni, flags))
}

/// linux/rtnetlink.h; not in libc.
pub const RTM_NEWVLAN: u16 = 112;
pub const RTM_DELVLAN: u16 = 113;
/// `BRIDGE_VLANDB_ENTRY` and what is in it (linux/if_bridge.h).
const VLANDB_ENTRY: u16 = 1;
const VLANDB_INFO: u16 = 1;
const VLANDB_RANGE: u16 = 2;
const VLANDB_TUNNEL_INFO: u16 = 4;
const VLANDB_TUNNEL_ID: u16 = 1;

/// One RTM_NEWVLAN or RTM_DELVLAN: `struct br_vlan_msg` (family u8, reserved u8 and u16, index u32) and entries.
pub fn told_vlans(payload: &[u8]) -> Result<(Ifindex, Vec<VlanRow>), Malformed> {
    const HEADER: usize = 8;
    let index = u32_at(payload, 4)
        .and_then(Ifindex::new)
        .ok_or(Malformed("VLAN message without an index"))?;
    let mut rows = Vec::new();
    for attribute in Attributes::behind(payload, HEADER)? {
        let (VLANDB_ENTRY, entry) = attribute? else {
            continue;
        };
        let (mut info, mut last, mut vni) = (None, None, None);
        for attribute in Attributes::new(entry) {
            match attribute? {
                (VLANDB_INFO, value) => {
                    let short = Malformed("VLAN of a port shorter than its structure");
                    info = Some((u16_at(value, 0).ok_or(short)?, u16_at(value, 2).ok_or(short)?));
                }
                (VLANDB_RANGE, value) => last = Some(u16_value(value)?),
                (VLANDB_TUNNEL_INFO, value) => {
                    for attribute in Attributes::new(value) {
                        if let (VLANDB_TUNNEL_ID, value) = attribute? {
                            vni = Some(u32_value(value)?);
                        }
                    }
                }
                _ => {}
            }
        }
        let (flags, first) = info.ok_or(Malformed("VLAN entry without a VLAN"))?;
        let vnis = std::iter::successors(vni, |vni| Some(vni + 1)).map(Some);
        let vnis = vnis.chain(std::iter::repeat(None));
        rows.extend(
            (first..=last.unwrap_or(first))
                .zip(vnis)
                .filter_map(|(raw, vni)| {
                    Some(VlanRow {
                        vid: vid(raw)?,
                        pvid: flags & PVID != 0,
                        untagged: flags & UNTAGGED != 0,
                        vni: vni.and_then(|vni| Vni::new(i64::from(vni)).ok()),
                    })
                }),
        );
    }
    Ok((index, rows))
}

pub const RTM_NEWTUNNEL: u16 = 120;
pub const RTM_DELTUNNEL: u16 = 121;
/// `VXLAN_VNIFILTER_ENTRY` and what is in it (linux/if_link.h).
pub const VNI_ENTRY: u16 = 1;
pub const VNI_START: u16 = 1;
pub const VNI_END: u16 = 2;
pub const VNI_GROUP: u16 = 3;
pub const VNI_GROUP6: u16 = 4;

/// One RTM_NEWTUNNEL or RTM_DELTUNNEL: `struct tunnel_msg` (family u8, flags u8, reserved u16, index u32) and entries.
pub fn vnis(payload: &[u8]) -> Result<(Ifindex, Vec<VniRow>), Malformed> {
    const HEADER: usize = 8;
    let index = u32_at(payload, 4)
        .and_then(Ifindex::new)
        .ok_or(Malformed("tunnel message without an index"))?;
    let mut rows = Vec::new();
    for attribute in Attributes::behind(payload, HEADER)? {
        let (VNI_ENTRY, entry) = attribute? else {
            continue;
        };
        let (mut start, mut end, mut group) = (None, None, None);
        for attribute in Attributes::new(entry) {
            match attribute? {
                (VNI_START, value) => start = Some(u32_value(value)?),
                (VNI_END, value) => end = Some(u32_value(value)?),
                (VNI_GROUP | VNI_GROUP6, value) => {
                    group = ip_address(value).filter(|ip| !ip.is_unspecified())
                }
                _ => {}
            }
        }
        let first = start.ok_or(Malformed("VNI entry without a VNI"))?;
        let last = end.unwrap_or(first).min(Vni::MAX);
        rows.extend((first..=last).filter_map(|raw| {
            let vni = Vni::new(i64::from(raw)).ok()?;
            Some(VniRow { vni, group })
        }));
    }
    Ok((index, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn info(flags: u16, vid: u16) -> Vec<u8> {
        attribute(VLAN_INFO, &[flags.to_ne_bytes(), vid.to_ne_bytes()].concat())
    }

    fn tunnel_info(vni: u32, vid: u16, flags: u16) -> Vec<u8> {
        let nested = [
            attribute(TUNNEL_ID, &vni.to_ne_bytes()),
            attribute(TUNNEL_VID, &vid.to_ne_bytes()),
            attribute(TUNNEL_FLAGS, &flags.to_ne_bytes()),
        ];
        attribute(VLAN_TUNNEL_INFO, &nested.concat())
    }

    #[test]
    fn ranges_are_told_by_their_ends() {
        let spec = [
            info(PVID | UNTAGGED, 5),
            info(RANGE_BEGIN, 10),
            info(RANGE_END, 12),
            tunnel_info(1000, 10, RANGE_BEGIN),
            tunnel_info(1001, 11, RANGE_END),
        ]
        .concat();
        let vlans = port_vlans(&spec).unwrap();
        let told: Vec<(u16, bool, Option<u32>)> = vlans
            .rows()
            .map(|row| (row.vid.get(), row.pvid, row.vni.map(Vni::get)))
            .collect();
        assert_eq!(
            told,
            [
                (5, true, None),
                (10, false, Some(1000)),
                (11, false, Some(1001)),
                (12, false, None)
            ]
        );
    }

    #[test]
    fn a_told_range_is_all_its_vlans_with_vnis_in_order() {
        let header = [&[7, 0, 0, 0][..], &9_u32.to_ne_bytes()].concat();
        let tunnel = attribute(VLANDB_TUNNEL_ID, &1000_u32.to_ne_bytes());
        let entry = |range: &[u8], tunnel: &[u8]| {
            let inner = [
                attribute(
                    VLANDB_INFO,
                    &[UNTAGGED.to_ne_bytes(), 10_u16.to_ne_bytes()].concat(),
                ),
                range.to_vec(),
                tunnel.to_vec(),
            ];
            attribute(VLANDB_ENTRY, &inner.concat())
        };
        let range = attribute(VLANDB_RANGE, &11_u16.to_ne_bytes());
        let told = |entry: Vec<u8>| {
            let (index, rows) = told_vlans(&[header.clone(), entry].concat()).unwrap();
            assert_eq!(index.get(), 9);
            let rows = rows.iter();
            rows.map(|row| (row.vid.get(), row.pvid, row.untagged, row.vni.map(Vni::get)))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(entry(&[], &[])), [(10, false, true, None)]);
        assert_eq!(
            told(entry(&range, &attribute(VLANDB_TUNNEL_INFO, &tunnel))),
            [(10, false, true, Some(1000)), (11, false, true, Some(1001))]
        );
        assert!(told_vlans(&[header.clone(), attribute(VLANDB_ENTRY, &[])].concat()).is_err());
        assert!(told_vlans(&header[..6]).is_err());
    }

    #[test]
    fn a_vlan_cut_short_is_malformed_and_a_range_from_nowhere_is_one_vlan() {
        assert!(port_vlans(&attribute(VLAN_INFO, &[1])).is_err());
        assert!(port_vlans(&[9, 0, 2, 0]).is_err());
        let vlans = port_vlans(&info(RANGE_END, 7)).unwrap();
        assert_eq!(vlans.rows().count(), 1);
    }
}
