//! The README's plugin, followed to the letter by somebody with a running daemon.

use super::super::detail;
use super::{has_static, port_flag};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::time::Duration;

const SITE: &str = r#"
[taps]
match = ["vnet*"]
[[network]]
id = "6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11"
name = "storage"
network_type = "local"
[[network]]
id = "other"
network_type = "local"
[[port]]
tap = "vnet0"
network = "6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11"
mac = "52:54:00:12:34:56"
[[port]]
tap = "vnet1"
network = "other"
"#;

/// The block of this language after the mark.
fn block<'a>(readme: &'a str, language: &str) -> &'a str {
    let (_, after) = readme.split_once("<!-- example: storage -->").unwrap();
    let (_, block) = after.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0
}

#[test]
fn the_readmes_fifteen_lines_do_on_the_kernel_what_the_readme_says() {
    in_namespace(|| {
        require!(Feature::Tap);
        let readme = include_str!("../../../../README.md");
        let plugin = block(readme, "lua");
        assert!(plugin.lines().count() <= 15, "{plugin}");
        let host = Host::here();
        let daemon = host.daemon(SITE);
        let _taps = [host.tap("vnet0"), host.tap("vnet1")];
        daemon.wait_port("vnet0", "attached");
        daemon.wait_port("vnet1", "attached");
        let bridge = "brq6f0c2f5e-7d";
        assert_eq!(detail(&host, "vnet0", "mtu"), 1500);
        // The file and the lines of the configuration; then the commands, in the README's order.
        daemon.write_file("plugins/storage.lua", plugin);
        daemon.write_configuration(&format!("{SITE}{}", block(readme, "toml")));
        let checked = daemon.output(&["policy", "check"]);
        assert!(checked.status.success(), "{checked:?}");
        wait_until("the daemon has seen its file", Duration::from_secs(10), || {
            let output = daemon.output(&["policy", "eval", "--tap", "vnet0"]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            output.status.success() && said.contains("9000") && said.contains("storage.lua")
        });
        let reloaded = daemon.output(&["policy", "reload"]);
        assert!(reloaded.status.success(), "{reloaded:?}");
        wait_until("the plugin is in force", Duration::from_secs(10), || {
            detail(&host, "vnet0", "mtu") == 9000
                && detail(&host, bridge, "mtu") == 9000
                && !port_flag(&host, "vnet0", "learning")
                && has_static(&host, "vnet0", "52:54:00:12:34:56")
        });
        assert_eq!(detail(&host, "vnet1", "mtu"), 1500);
        assert!(port_flag(&host, "vnet1", "learning"));
        daemon.assert_nothing_planned();
    });
}
