//! Entries, neighbours and suppression that a plugin asks for, on the kernel: there, put right, and gone again.

use super::super::detail;
use super::super::fabric::vlans;
use super::{fdb, policy, port_flag};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const SITE: &str = r#"
[taps]
match = ["tap*"]
[vxlan]
local_ip = "192.0.2.11"
l2_population = true
arp_responder = true
[[network]]
id = "red"
network_type = "vxlan"
segmentation_id = 7
[[port]]
tap = "tap*"
network = "red"
"#;
const PLUGIN: &str = r#"
return {
  api = 1,
  network = function(ctx)
    return {
      bridge = { mtu = 1400, ageing = 60, mcast_snooping = false },
      vxlan = { ttl = 9 },
      fdb = { { dst = "192.0.2.13" } },
    }
  end,
  port = function(ctx)
    if ctx.link.name ~= "tap0" then return nil end
    return {
      port = { neigh_suppress = true },
      fdb = { { mac = "fa:16:3e:00:00:07", dst = "192.0.2.12" } },
      neigh = { { ip = "10.0.0.7", mac = "fa:16:3e:00:00:07" } },
    }
  end,
}
"#;

#[test]
fn neighbours_entries_and_suppression_are_kept_and_undone() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("eth0", &other, "eth0");
        host.ip("address add 192.0.2.11/24 dev eth0");
        let daemon = host.daemon(SITE);
        daemon.write_file("site.lua", PLUGIN);
        let file = daemon.path("site.lua").to_string_lossy().into_owned();
        daemon.reload(&format!("{SITE}{}", policy(&[file], "")));
        let tap = host.tap("tap0");
        let _other = host.tap("tap1");
        daemon.wait_port("tap1", "attached");
        let neighbour = || {
            host.ip("neigh show dev vxlan-7 nud permanent")
                .contains("10.0.0.7 lladdr fa:16:3e:00:00:07")
        };
        let entry = |mac: &str, dst: &str| {
            fdb(&host, "vxlan-7")
                .iter()
                .any(|row| row["mac"] == mac && row["dst"] == dst)
        };
        let all = || {
            neighbour()
                && entry("fa:16:3e:00:00:07", "192.0.2.12")
                && entry("00:00:00:00:00:00", "192.0.2.13")
                && port_flag(&host, "tap0", "neigh_suppress")
        };
        wait_until("all of it is there", SOON, all);
        assert!(!port_flag(&host, "tap1", "neigh_suppress"));
        let bridge = |field: &str| detail(&host, "brqred", &format!("linkinfo/info_data/{field}"));
        assert_eq!(detail(&host, "brqred", "mtu"), 1400);
        assert_eq!(
            (bridge("ageing_time"), bridge("mcast_snooping")),
            (6000.into(), 0.into())
        );
        assert_eq!(detail(&host, "vxlan-7", "linkinfo/info_data/ttl"), 9);
        // Others meddle; entries heal with a full pass.
        host.ip("neigh del 10.0.0.7 dev vxlan-7");
        host.run("bridge fdb del fa:16:3e:00:00:07 dev vxlan-7 dst 192.0.2.12");
        host.run("bridge link set dev tap0 neigh_suppress off");
        daemon.output(&["resync"]);
        wait_until("all of it is there again", SOON, all);
        // A tap that goes takes its own along.
        drop(tap);
        wait_until("nothing of the tap is left", SOON, || {
            !neighbour() && !entry("fa:16:3e:00:00:07", "192.0.2.12")
        });
        let _tap = host.tap("tap0");
        wait_until("it is back with the tap", SOON, all);
        // The plugin goes.
        daemon.reload(SITE);
        wait_until("nothing of it is left", SOON, || {
            !neighbour()
                && !entry("fa:16:3e:00:00:07", "192.0.2.12")
                && !entry("00:00:00:00:00:00", "192.0.2.13")
                && !port_flag(&host, "tap0", "neigh_suppress")
                && detail(&host, "brqred", "mtu") == 1450
                && bridge("ageing_time") == 30000
                && bridge("mcast_snooping") == 1
                && detail(&host, "vxlan-7", "linkinfo/info_data/ttl") != 9
        });
        daemon.assert_nothing_planned();
    });
}

#[test]
fn vlans_of_other_networks_come_and_go_on_the_vlan_aware_bridge() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::VlanFiltering, Feature::Dummy);
        let host = Host::here();
        host.ip("link add nic0 type dummy");
        let site = r#"
[bridge]
mode = "vlan-aware"
[taps]
match = ["tap*"]
[physical_networks]
trunk = { interface = "nic0", trunk = true }
[[network]]
id = "blue"
network_type = "local"
[[network]]
id = "tagged"
network_type = "vlan"
physical_network = "trunk"
segmentation_id = 101
[[port]]
tap = "tap*"
network = "blue"
"#;
        let daemon = host.daemon(site);
        daemon.write_file(
            "site.lua",
            "return { api = 1, port = function(ctx)\n\
             if ctx.link.name == 'tap0' then return { vlans = { 101, 999 } } end end }",
        );
        let file = daemon.path("site.lua").to_string_lossy().into_owned();
        daemon.reload(&format!("{site}{}", policy(&[file], "")));
        let _taps = [host.tap("tap0"), host.tap("tap1")];
        daemon.wait_port("tap1", "attached");
        let tagged = |link: &str| vlans(&host, link).contains(&(101, String::new()));
        wait_until("tap0 carries the tag", SOON, || tagged("tap0") && tagged("nic0"));
        assert_eq!((vlans(&host, "tap0").len(), vlans(&host, "tap1").len()), (2, 1));
        // Somebody takes it out; then the plugin goes.
        host.run("bridge vlan del dev tap0 vid 101");
        wait_until("it is put back", SOON, || tagged("tap0"));
        daemon.reload(site);
        wait_until("it is gone", SOON, || vlans(&host, "tap0").len() == 1);
        daemon.assert_nothing_planned();
    });
}

#[test]
fn an_interface_raised_for_a_plugins_mtu_goes_back_with_it() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("eth1", &other, "eth1");
        let site = SITE.replace(
            "network_type = \"vxlan\"\nsegmentation_id = 7",
            "network_type = \"flat\"\nphysical_network = \"physnet1\"",
        );
        let site = format!("{site}[physical_networks]\nphysnet1 = {{ interface = \"eth1\" }}\n");
        let daemon = host.daemon(&site);
        let _tap = host.tap("tap0");
        daemon.wait_port("tap0", "attached");
        daemon.write_file(
            "site.lua",
            "return { api = 1, network = function() return { bridge = { mtu = 9000 } } end }",
        );
        let file = daemon.path("site.lua").to_string_lossy().into_owned();
        daemon.reload(&format!("{site}{}", policy(&[file], "")));
        let mtus = |bytes: u32| {
            ["eth1", "brqred", "tap0"]
                .iter()
                .all(|link| detail(&host, link, "mtu") == bytes)
        };
        wait_until("all are 9000", SOON, || mtus(9000));
        daemon.reload(&site);
        wait_until("all are as before", SOON, || mtus(1500));
        daemon.assert_nothing_planned();
    });
}
