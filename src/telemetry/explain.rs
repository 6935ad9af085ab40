//! The story of one tap: what happened, in order, and in the last line why it is as it is and what would change that.
//!
//! Pure: from the flight recorder's steps of the tap and where it stands now. The last line never depends on the
//! recorder alone, because that forgets: it comes from the present state; steps only add the kernel's own words.

use super::flight::{Kind, Step};
use crate::desired::segment::Waiting;

/// Where a tap stands now, with what is needed to say why. The daemon fills it from the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing<'a> {
    /// No link of that name.
    NoSuchLink,
    /// `patterns` as in `taps.match`.
    NameNotMatched {
        patterns: &'a str,
    },
    /// `kind` as the kernel spells it; empty for a physical device.
    KindNotMatched {
        kind: &'a str,
    },
    /// A plugin said `ignore`.
    IgnoredByPolicy,
    WaitsForPolicy,
    NoMapping,
    UnknownNetwork {
        network: &'a str,
    },
    /// `reason` with hook, file and line where the plugin failed rather than spoke.
    Denied {
        plugin: &'a str,
        reason: &'a str,
    },
    /// The network waits for something outside.
    NetworkWaits {
        network: &'a str,
        waiting: &'a Waiting,
    },
    /// The kernel refuses something the network needs; `error` with its extended-ack text.
    NetworkFailed {
        network: &'a str,
        error: &'a str,
    },
    /// One of the network's devices exists and is somebody else's.
    NetworkConflict {
        network: &'a str,
        reason: &'a str,
    },
    Configuring,
    Attached {
        network: &'a str,
        bridge: &'a str,
        up: bool,
        /// As mapped.
        admin_state_up: bool,
        /// Something true of it that an operator should know: a refused MTU, trouble of its network.
        remark: Option<&'a str>,
    },
    /// The kernel refuses something the tap needs. `retry_s`: seconds to the next try.
    Failed {
        network: &'a str,
        bridge: &'a str,
        error: &'a str,
        retry_s: Option<u64>,
    },
    /// A port of a bridge that is not ours.
    ForeignBridge {
        bridge: &'a str,
    },
    /// Somebody else undoes our work again and again; `reason` says what. `retry_s`: seconds to the next repair.
    Fight {
        reason: &'a str,
        retry_s: Option<u64>,
    },
}

/// One line of the story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoryLine {
    /// As in the flight recorder; absent in the last line.
    pub at_us: Option<u64>,
    pub cause: Option<u64>,
    pub kind: Kind,
    pub text: String,
    pub elapsed_us: Option<u64>,
    /// Absent where there is nothing to succeed.
    pub ok: Option<bool>,
}

/// The whole story, oldest first; the last line is the reason of the present state and the remedy.
pub fn story(steps: &[Step<'_>], standing: &Standing<'_>) -> Vec<StoryLine> {
    let mut lines: Vec<_> = steps.iter().map(line).collect();
    lines.push(StoryLine {
        at_us: None,
        cause: None,
        kind: Kind::State,
        text: conclusion(steps, standing),
        elapsed_us: None,
        ok: None,
    });
    lines
}

fn line(step: &Step<'_>) -> StoryLine {
    let joined = |lead: &str| match (lead.is_empty(), step.text.is_empty()) {
        (_, true) => lead.to_owned(),
        (true, false) => step.text.to_owned(),
        (false, false) => format!("{lead}: {}", step.text),
    };
    let text = match step.kind {
        Kind::Event | Kind::State => joined(step.word),
        Kind::Mapping => joined(&format!("mapped by {}", step.word)),
        Kind::Policy => joined(&format!("plugin {}", step.word)),
        Kind::Op => {
            let answer = if step.errno == 0 { "done" } else { "refused" };
            // Without an index it was done for the tap's network.
            match step.ifindex {
                0 => joined(&format!("{} of network {} {answer}", step.word, step.name)),
                _ => joined(&format!("{} {answer}", step.word)),
            }
        }
        Kind::Resync => joined(&format!("full pass ({})", step.word)),
        Kind::Overrun => joined("events lost"),
        Kind::Lease => joined(&format!("lease {}", step.word)),
    };
    StoryLine {
        at_us: Some(step.at_us),
        cause: (step.cause != 0).then_some(step.cause),
        kind: step.kind,
        text,
        elapsed_us: (step.elapsed_us != 0).then_some(step.elapsed_us.into()),
        ok: (step.kind == Kind::Op).then_some(step.errno == 0),
    }
}

/// The reason, "; ", the remedy.
fn conclusion(steps: &[Step<'_>], standing: &Standing<'_>) -> String {
    let later = |retry_s: Option<u64>| match retry_s {
        Some(seconds) => format!("tried again in {seconds} s"),
        None => "tried again with the next full pass (`tapwire resync`)".to_owned(),
    };
    match standing {
        Standing::NoSuchLink => "there is no such link; it is looked at the moment it appears".to_owned(),
        Standing::NameNotMatched { patterns } => {
            format!("unmanaged: its name matches none of taps.match ({patterns}); rename it or add a pattern")
        }
        Standing::KindNotMatched { kind } => {
            let kind = if kind.is_empty() {
                "a physical device"
            } else {
                kind
            };
            format!(
                "unmanaged: it is no tap (kind: {kind}); kinds other than tap must be named in taps.other_kinds"
            )
        }
        Standing::IgnoredByPolicy => {
            "pending: a plugin told us to leave it alone; `tapwire policy eval` says which".to_owned()
        }
        Standing::WaitsForPolicy => {
            "pending: a plugin has not answered yet; its verdict or its time limit ends this".to_owned()
        }
        Standing::NoMapping => {
            "pending: no mapping says which network it belongs to; add a [[port]] or `tapwire port bind` it"
                .to_owned()
        }
        Standing::UnknownNetwork { network } => format!(
            "pending: it is mapped to network {network}, which nobody has told of; add the [[network]] or correct the mapping"
        ),
        Standing::Denied { plugin, reason } => {
            format!(
                "denied by plugin {plugin}: {reason}; the plugin, its input or its on_error decides otherwise"
            )
        }
        Standing::NetworkWaits { network, waiting } => {
            format!(
                "pending: network {network} {}; {}",
                waits(waiting),
                remedy_of_waiting(waiting)
            )
        }
        Standing::NetworkFailed { network, error } => {
            let remedy = refusal(steps, error, None)
                .unwrap_or_else(|| "the network is tried again with growing pauses".to_owned());
            format!("failed: network {network} cannot be made: {error}; {remedy}")
        }
        Standing::NetworkConflict { network, reason } => format!(
            "pending: network {network} is in conflict: {reason}; {}",
            remedy_of_conflict(reason)
        ),
        Standing::Configuring => "configuring: operations are under way; their answers end this".to_owned(),
        Standing::Attached {
            network,
            bridge,
            up: true,
            admin_state_up: true,
            remark: None,
        } => format!("attached to network {network} on bridge {bridge} and up; nothing is to be done"),
        Standing::Attached {
            network,
            bridge,
            up: true,
            remark: Some(remark),
            ..
        } => {
            let remedy = refusal(steps, remark, Some(bridge)).unwrap_or_else(|| {
                format!("it forwards all the same; `tapwire network show {network}` tells of the network")
            });
            format!("attached to network {network} on bridge {bridge} and up, but {remark}; {remedy}")
        }
        Standing::Attached {
            network,
            bridge,
            up: false,
            admin_state_up: false,
            ..
        } => format!(
            "attached to network {network} on bridge {bridge}, down because its mapping says admin_state_up = false"
        ),
        Standing::Attached {
            network,
            bridge,
            up: false,
            ..
        } => format!(
            "attached to network {network} on bridge {bridge}, but somebody else set it down; \
             it is left down until it is set up by hand or attached anew"
        ),
        Standing::Attached { network, bridge, .. } => format!(
            "attached to network {network} on bridge {bridge} and up, although its mapping says \
             admin_state_up = false: somebody else set it up; it is left so until the mapping changes"
        ),
        Standing::Failed {
            network,
            bridge,
            error,
            retry_s,
        } => match refusal(steps, error, Some(bridge)) {
            Some(remedy) => format!("failed: {error}; {remedy}; {}", later(*retry_s)),
            None => format!(
                "failed: it cannot be attached to network {network}: {error}; {}",
                later(*retry_s)
            ),
        },
        Standing::ForeignBridge { bridge } => format!(
            "conflict: it is a port of bridge {bridge}, which is not ours; take it out there, or set taps.adopt = true"
        ),
        Standing::Fight { reason, retry_s } => format!(
            "conflict: {reason}; find out who (`tapwire trace`) and stop it; {}",
            later(*retry_s)
        ),
    }
}

/// The wait, as said of a network.
fn waits(waiting: &Waiting) -> String {
    match waiting {
        Waiting::UnknownPhysical(name) => format!("is on physical network {name}, which is not configured"),
        Waiting::NoLocalAddress => "is a VXLAN and no local_ip is configured".to_owned(),
        Waiting::BadName(problem) => format!("has no usable device name: {problem}"),
        Waiting::Interface { .. }
        | Waiting::Bridge { .. }
        | Waiting::LocalAddress(_)
        | Waiting::Policy { .. } => waiting.to_string(),
        Waiting::NoVid(bridge) => format!("has no VLAN on {bridge}: all of them are taken"),
    }
}

fn remedy_of_waiting(waiting: &Waiting) -> String {
    match waiting {
        Waiting::Interface { interface, .. } => {
            format!("it goes on the moment {interface} appears; is the name right, the driver loaded?")
        }
        Waiting::Bridge { bridge, .. } => format!("it goes on the moment {bridge} appears"),
        Waiting::UnknownPhysical(name) => format!("add {name} to [physical_networks]"),
        Waiting::LocalAddress(address) => format!("it goes on the moment {address} is on a link that is up"),
        Waiting::NoLocalAddress => "set vxlan.local_ip".to_owned(),
        Waiting::NoVid(_) => "take networks out that nobody uses; a bridge has 4,094 VLANs".to_owned(),
        Waiting::BadName(_) => "give the network another `bridge`".to_owned(),
        Waiting::Policy { .. } => {
            "it is asked again by itself; `tapwire policy status` says how the plugin does".to_owned()
        }
    }
}

/// By the words of `plan` and `engine` for what is in the way.
fn remedy_of_conflict(reason: &str) -> &'static str {
    const REMEDIES: [(&str, &str); 5] = [
        (
            "not a bridge",
            "remove the other device, or give the network another name with `bridge`",
        ),
        (
            "is in use by",
            "remove that device, or give the network another segmentation_id",
        ),
        (
            "not ours to make anew",
            "remove it, or tell the network as the device is",
        ),
        ("which is not ours", "take it out there"),
        (
            "somebody else keeps",
            "find out who (`tapwire trace`) and stop it; it is tried again with growing pauses",
        ),
    ];
    REMEDIES
        .into_iter()
        .find(|(words, _)| reason.contains(words))
        .map_or("it goes on by itself once that is resolved", |(_, remedy)| remedy)
}

/// What helps against a refusal of the kernel, by its errno where a step tells it, else by its words: `error` is the
/// command line that was refused, ": ", and those.
fn refusal(steps: &[Step<'_>], error: &str, bridge: Option<&str>) -> Option<String> {
    let failed = steps.iter().rev().find(|step| {
        step.kind == Kind::Op && step.errno != 0 && !step.text.is_empty() && error.contains(step.text)
    });
    let errno = failed.map_or(0, |step| i32::from(step.errno));
    let op = failed.map_or("", |step| step.word);
    let (command, words) = error.split_once(": ").unwrap_or(("", error));
    let words = words.to_ascii_lowercase();
    let is = |wanted: i32, word: &str| errno == wanted || (errno == 0 && words.contains(word));
    if is(libc::EXFULL, "exchange full") {
        let bridge = bridge.unwrap_or("the bridge");
        return Some(format!(
            "bridge {bridge} has all the 1,023 ports a bridge can have; take some off or split the network"
        ));
    }
    if words.contains("mtu") {
        return Some(
            "the MTU asked for is outside what the device takes; change the network's mtu or the plugin's"
                .into(),
        );
    }
    if is(libc::EOPNOTSUPP, "not supported") {
        let what = match op {
            "create_vlan" => "802.1Q devices (module 8021q)",
            "create_vxlan" => "VXLAN devices (module vxlan)",
            "create_bridge" => "bridges (module bridge)",
            _ if command.contains(" type vlan ") => "802.1Q devices (module 8021q)",
            _ if command.contains(" type vxlan ") => "VXLAN devices (module vxlan)",
            _ if command.contains(" type bridge") => "bridges (module bridge)",
            _ => "this operation",
        };
        return Some(format!(
            "this kernel lacks {what}; load the module or use a kernel that has it"
        ));
    }
    if is(libc::EPERM, "not permitted") {
        return Some("the daemon lacks CAP_NET_ADMIN; start it with the capability".into());
    }
    if is(libc::EEXIST, "already exists") {
        return Some("somebody else has made such a device; remove it".into());
    }
    None
}

#[cfg(test)]
mod tests;
