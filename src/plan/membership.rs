//! From the VLANs that a port is in to those it should be in.
//!
//! Exactly those: a VLAN too many on a guest's port is another network's traffic. What is wrong goes first, then comes
//! what is missing, so that a port is at no moment in two networks that it should not be in together.

use super::op::{LinkRef, ListAction, Op};
use crate::model::{PortVlans, VlanRow};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership<'a> {
    pub want: &'a PortVlans,
    /// As the mirror has it; absent: not heard of, in none.
    pub have: Option<&'a PortVlans>,
}

impl Membership<'_> {
    /// `joins`: it becomes a port in this plan, and what it is in elsewhere ends with that.
    pub fn plan(&self, link: LinkRef, joins: bool, ops: &mut Vec<Op>) {
        let none = PortVlans::default();
        let have = self.have.filter(|_| !joins).unwrap_or(&none);
        let vlan = |action, row: &VlanRow| Op::Vlan {
            action,
            link,
            row: *row,
        };
        let surplus = have.rows().filter(|row| self.want.get(row.vid).is_none());
        ops.extend(surplus.map(|row| vlan(ListAction::Delete, row)));
        let missing = self.want.rows().filter(|row| have.get(row.vid) != Some(row));
        ops.extend(missing.map(|row| vlan(ListAction::Add, row)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LinkName, Vid};

    fn lines(want: &[VlanRow], have: &[VlanRow], joins: bool) -> Vec<String> {
        let link = LinkRef {
            name: LinkName::new("tap0").unwrap(),
            index: None,
        };
        let (want, have): (PortVlans, PortVlans) =
            (want.iter().copied().collect(), have.iter().copied().collect());
        let mut ops = Vec::new();
        let membership = Membership {
            want: &want,
            have: Some(&have),
        };
        membership.plan(link, joins, &mut ops);
        ops.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_goes_before_what_is_missing_comes() {
        let vid = |raw| Vid::new(raw).unwrap();
        assert_eq!(
            lines(
                &[VlanRow::access(vid(20)), VlanRow::tagged(vid(30))],
                &[VlanRow::access(vid(10)), VlanRow::tagged(vid(20))],
                false
            ),
            [
                "bridge vlan del dev tap0 vid 10",
                "bridge vlan add dev tap0 vid 20 pvid untagged",
                "bridge vlan add dev tap0 vid 30"
            ]
        );
        let right = [VlanRow::access(vid(20))];
        assert_eq!(lines(&right, &right, false), [""; 0]);
        assert_eq!(
            lines(&right, &right, true),
            ["bridge vlan add dev tap0 vid 20 pvid untagged"]
        );
    }
}
