//! "Did you mean": the nearest known word, and words of other tools that mean one of our keys.

use super::report::Findings;

/// The candidate that differs least from `word`, if it differs little.
pub(super) fn nearest<'a>(
    findings: &mut Findings,
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = word.chars().count();
    // A third of the word, but never so much that one id passes for another.
    let limit = (length / 3).clamp(1, 4);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate.chars().count().abs_diff(length) > limit {
            continue;
        }
        if findings.comparisons_left == 0 {
            return None;
        }
        findings.comparisons_left -= 1;
        let distance = strsim::osa_distance(&word.to_ascii_lowercase(), &candidate.to_ascii_lowercase());
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Keys that operators bring along from elsewhere (Neutron's agent, other tools' words), with what to do here.
pub(super) fn foreign_key(key: &str) -> Option<&'static str> {
    Some(match key {
        "physical_interface_mappings" => {
            "write each mapping as a line of [physical_networks]: physnet1 = { interface = \"eth1\" }"
        }
        "bridge_mappings" => {
            "write each mapping as a line of [physical_networks]: physnet1 = { bridge = \"br-ext\" }"
        }
        "enable_vxlan" => "leave it out: VXLAN is on when a network asks for it",
        "polling_interval" | "report_interval" => {
            "leave it out: nothing is polled, the kernel's events are followed"
        }
        "firewall_driver" | "enable_security_group" | "enable_ipset" => {
            "leave it out: tapwire has no security groups; what a port may send from is `port_security` of its [[port]]"
        }
        "vni" | "vid" | "vlan" | "vlan_id" | "tag" | "provider:segmentation_id" => {
            "it is called `segmentation_id` here"
        }
        "type" | "provider:network_type" => "it is called `network_type` here",
        "physnet" | "provider:physical_network" => "it is called `physical_network` here",
        "network_id" => "it is called `network` here (and `id` in a [[network]])",
        "mac_address" => "it is called `mac` here",
        "ip_address" => "it is called `ip` here",
        "port_security_enabled" => "it is called `port_security` here",
        "dns_nameservers" | "dns_server" => "it is called `dns_servers` here, in [network.dhcp]",
        "gateway_ip" => "write [network.gateway] with addresses = [\"10.0.0.1/24\"]",
        "host_routes" => "it is called `routes` here, in [network.dhcp]",
        "allocation_pools" => "it is called `range` here, in [network.dhcp]",
        "dhcp_domain" | "dns_domain" => "it is called `domain` here, in [network.dhcp]",
        "dhcp_lease_time" | "dhcp_lease_duration" => "it is called `lease_time` here, in [network.dhcp]",
        "dmz_cidr" => "it is called `dmz` here, in [network.gateway]",
        "forward_bridge_interface" => "it is called `forward` here, in [network.gateway]",
        "routing_source_ip" => "write snat = { address = \"203.0.113.5\" } in [network.gateway]",
        "metadata_host" | "metadata_port" => "write metadata = { host = \"192.0.2.1\", port = 8775 }",
        "floating_ip_address" => "it is called `address` here",
        "fixed_ip" | "fixed_ip_address" | "internal_ip_address" => "it is called `fixed_address` here",
        "external_port" => "it is called `port` here",
        "internal_port" => "it is called `fixed_port` here",
        "floating_ips" => "it is called [[floating_ip]], one table for each",
        "port_forwards" | "port_forwarding" => "it is called [[port_forward]], one table for each",
        "fixed_ips" | "ip_addresses" => "it is called `addresses` here: addresses = [\"10.0.0.5\"]",
        "device" | "ifname" => "it is called `tap` here",
        "networks" => "it is called [[network]], one table for each",
        "ports" => "it is called [[port]], one table for each",
        "dstport" | "port" => "it is called `udp_dstport` here",
        _ => return None,
    })
}

/// "a, b or c" with back quotes.
pub(super) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_slip_finds_its_word_and_another_word_does_not() {
        let keys = ["mtu", "bridge", "network_type", "segmentation_id"];
        let near = |word| nearest(&mut Findings::default(), word, keys);
        assert_eq!(near("mut"), Some("mtu"));
        assert_eq!(near("network_typ"), Some("network_type"));
        assert_eq!(near("Bridge"), Some("bridge"));
        assert_eq!(near("colour"), None);
    }

    #[test]
    fn suggestions_stop_when_their_budget_is_spent() {
        let mut findings = Findings::default();
        findings.comparisons_left = 1;
        assert_eq!(nearest(&mut findings, "aaaa", ["zzzz", "aaab"]), None);
    }
}
