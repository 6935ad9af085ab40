//! What the kernel counts of our own netlink sockets (`/proc/net/netlink`): the cheapest overrun metric there is.

/// NETLINK_ROUTE in the `Eth` column.
const ROUTE: &str = "0";

/// Messages dropped since the socket was opened, and bytes queued in it now. Nothing when the file cannot be read or
/// does not list the socket.
pub fn socket_usage(portid: u32) -> Option<(u64, u64)> {
    find(
        &std::fs::read_to_string("/proc/thread-self/net/netlink").ok()?,
        portid,
    )
}

/// Columns: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode.
fn find(table: &str, portid: u32) -> Option<(u64, u64)> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (eth, pid) = (columns.get(1)?, columns.get(2)?);
        if *eth != ROUTE || pid.parse() != Ok(portid) {
            return None;
        }
        Some((columns.get(8)?.parse().ok()?, columns.get(4)?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_the_port_id_is_read_and_other_families_are_not() {
        let table = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
                     0000000000000000 9   77         00000000 1        0        0     2        5        100\n\
                     0000000000000000 0   77         00000001 4608     0        0     2        3        101\n";
        assert_eq!(find(table, 77), Some((3, 4608)));
        assert_eq!(find(table, 78), None);
        assert_eq!(find("", 77), None);
    }
}
