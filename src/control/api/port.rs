//! Ports and bindings.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A port's state as one word; `reason` beside it says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    Unmanaged,
    Pending,
    Configuring,
    Attached,
    Failed,
    Conflict,
    Denied,
}

impl PortState {
    pub const ALL: [PortState; 7] = [
        PortState::Unmanaged,
        PortState::Pending,
        PortState::Configuring,
        PortState::Attached,
        PortState::Failed,
        PortState::Conflict,
        PortState::Denied,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            PortState::Unmanaged => "unmanaged",
            PortState::Pending => "pending",
            PortState::Configuring => "configuring",
            PortState::Attached => "attached",
            PortState::Failed => "failed",
            PortState::Conflict => "conflict",
            PortState::Denied => "denied",
        }
    }
}

impl std::str::FromStr for PortState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|s| s.as_str()).collect();
            format!("{text:?} is not a port state ({})", known.join(", "))
        })
    }
}

/// One row of `port list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    pub tap: String,
    pub ifindex: u32,
    /// Port id, when the mapping has one.
    pub port: Option<String>,
    pub network: Option<String>,
    pub bridge: Option<String>,
    pub state: PortState,
    pub reason: Option<String>,
    /// As observed, bytes.
    pub mtu: u32,
    /// Microseconds from receiving RTM_NEWLINK to the last ack.
    pub attach_us: Option<u64>,
}

/// `port show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDetail {
    #[serde(flatten)]
    pub row: PortRow,
    pub mac: Option<String>,
    pub up: bool,
    pub carrier: bool,
    /// Where the mapping comes from: "/etc/tapwire/tapwire.toml:12", "port bind".
    pub mapping: Option<String>,
    /// Milliseconds until the next attempt, when one is due.
    pub retry_in_ms: Option<u64>,
    /// What plugins said, in their order.
    pub verdicts: Vec<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub plugin: String,
    pub hook: String,
    /// "mtu 1450", "no opinion", "denied: ..."
    pub verdict: String,
}

/// `PUT /v1/ports/{port}/binding`; `port` comes from the path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindRequest {
    /// Tap name or port id; a port id stands for the tap `tap` + its first 11 characters.
    #[serde(default)]
    pub port: String,
    pub network: String,
    /// Who the machine behind the tap is: the keys of `[[port]]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_security: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_address_pairs: Option<Value>,
}

impl BindRequest {
    /// The keys about the machine that are there.
    pub fn facts(&self) -> Map<String, Value> {
        let keys = [
            ("mac", &self.mac),
            ("addresses", &self.addresses),
            ("hostname", &self.hostname),
            ("port_security", &self.port_security),
            ("allowed_address_pairs", &self.allowed_address_pairs),
        ];
        let present = keys
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.clone()?)));
        present.map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// A binding told over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub port: String,
    /// The tap's name it stands for.
    pub tap: String,
    pub network: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_state_reads_back_from_its_word() {
        for state in PortState::ALL {
            assert_eq!(state.as_str().parse::<PortState>(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert!("atached".parse::<PortState>().unwrap_err().contains("attached"));
    }
}
