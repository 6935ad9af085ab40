//! What a test needs of this machine, and how to find out. A probe works in a network namespace of its own, so that
//! the test's observer sees nothing of it.

use super::host::Host;
use super::world::Elsewhere;
use std::path::{Path, PathBuf};

/// Something a kernel or a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `/dev/net/tun`, open to this user.
    Tap,
    /// 802.1Q devices.
    Vlan,
    /// Bridges that filter by VLAN.
    VlanFiltering,
    Vxlan,
    Veth,
    Dummy,
    Ipv6,
    /// nftables of the bridge family.
    BridgeFilter,
    /// nftables with address translation, and the program `nft`.
    Nat,
    /// A program in `PATH`.
    Program(&'static str),
}

/// Ends the test's body when this machine lacks one of the features.
macro_rules! require {
    ($($feature:expr),+ $(,)?) => {
        $(if let Err(reason) = $crate::support::feature::Feature::probe($feature) {
            $crate::support::world::lack(&reason, $feature.elsewhere());
            return;
        })+
    };
}
pub(crate) use require;

impl Feature {
    /// Why it is missing.
    pub fn probe(self) -> Result<(), String> {
        match self {
            Feature::Tap => tapwire::kernel::tuntap::TapSource::open()
                .map(drop)
                .map_err(|e| format!("{:#}", anyhow::Error::new(e))),
            Feature::Vlan => links("802.1Q", &["p0 type bridge", "link p0 name p1 type vlan id 7"]),
            Feature::VlanFiltering => links("VLAN filtering", &["p0 type bridge vlan_filtering 1"]),
            Feature::Vxlan => links("VXLAN", &["p0 type vxlan id 7 dstport 4789"]),
            Feature::Veth => links("veth", &["p0 type veth peer name p1"]),
            Feature::Dummy => links("dummy", &["p0 type dummy"]),
            Feature::Ipv6 if Path::new("/proc/net/if_inet6").exists() => Ok(()),
            Feature::BridgeFilter => bridge_filter(),
            Feature::Ipv6 => Err("this kernel has no IPv6".to_owned()),
            Feature::Nat => nat(),
            Feature::Program(name) => program(name)
                .map(drop)
                .ok_or_else(|| format!("no program {name} in PATH")),
        }
    }

    /// Who makes up for it.
    pub fn elsewhere(self) -> Elsewhere {
        match self {
            Feature::Tap | Feature::Program(_) => Elsewhere::Nobody,
            // User-mode Linux has nftables of the bridge family only.
            Feature::Nat => Elsewhere::Machine,
            _ => Elsewhere::VirtualMachine,
        }
    }
}

/// Where a program is, if it is in `PATH` (or where administrators' programs are).
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

fn bridge_filter() -> Result<(), String> {
    let table = tapwire::plan::op::Op::GuardTable(tapwire::plan::op::GuardTable::Make(Box::default()));
    let mut answer = Ok(());
    Host::new().within(|| {
        let mut executor = tapwire::kernel::Executor::open().map_err(|e| e.to_string())?;
        executor.run(&[table], |_, outcome| {
            if let tapwire::kernel::Verdict::Failed(error) = outcome.verdict {
                answer = Err(format!(
                    "this kernel has no nftables of the bridge family ({error})"
                ));
            }
        });
        answer
    })
}

fn nat() -> Result<(), String> {
    let table = "add table inet p0; add chain inet p0 c { type nat hook postrouting priority 100; }";
    let output = Host::new()
        .command("nft")
        .arg(table)
        .output()
        .map_err(|e| format!("cannot run nft: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "this kernel has no address translation in nftables ({})",
        text.trim()
    ))
}

fn links(what: &str, additions: &[&str]) -> Result<(), String> {
    let elsewhere = Host::new();
    for addition in additions {
        let output = elsewhere
            .command("ip")
            .args(["link", "add"])
            .args(addition.split_whitespace())
            .output()
            .map_err(|e| format!("cannot run ip: {e}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("this kernel has no {what} ({})", text.trim()));
        }
    }
    Ok(())
}
