//! A host over plugins written in the test.

use serde_json::{Value as Json, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tapwire::config::PolicySettings;
use tapwire::policy::api::context::{Link, Network, NetworkType, Uplink};
use tapwire::policy::api::{Context, Hook, Reply, Request, Subject};
use tapwire::policy::{Asked, Host, LoadReport};

/// Plugin files in a temporary directory, and the configuration that names them.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub config: PolicySettings,
}

impl Bench {
    /// `plugins`: file name and source, in chain order.
    pub fn new(plugins: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = PolicySettings {
            base: dir.path().to_owned(),
            ..PolicySettings::default()
        };
        for (name, text) in plugins {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            config.plugins.push(path);
        }
        Self { dir, config }
    }
    /// `[policy]` keys.
    pub fn with(mut self, settings: Json) -> Self {
        self.config.settings = settings.as_object().unwrap().clone();
        self
    }
    /// `[policy.plugin.NAME]`.
    pub fn configured(mut self, plugin: &str, options: Json) -> Self {
        self.config.plugin.insert(plugin.into(), options);
        self
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub fn host(&self) -> Host {
        self.try_host().unwrap()
    }
    pub fn try_host(&self) -> Result<Host, LoadReport> {
        Host::load(&self.config)
    }
    /// The first problem, with the temporary directory cut off.
    pub fn problem(&self) -> String {
        let report = self.try_host().err().expect("the plugins must be refused");
        report
            .to_string()
            .replace(&format!("{}/", self.dir.path().display()), "")
    }
}

/// A `port` function as a whole plugin.
pub fn port(body: &str) -> String {
    format!("return {{ api = 1, port = function(ctx)\n{body}\nend }}")
}

pub fn network(id: &str, network_type: NetworkType) -> Arc<Network> {
    Arc::new(Network {
        id: id.into(),
        name: Some(format!("{id}-name")),
        network_type,
        segmentation_id: Some(70),
        mtu: Some(1450),
        ..Network::default()
    })
}

pub fn context(tap: &str, ifindex: u32, network_id: &str) -> Context {
    Context {
        link: Some(Link {
            ifindex,
            name: tap.into(),
            mac: Some("fa:16:3e:00:00:05".into()),
            mtu: 1500,
            kind: "tap".into(),
            ..Link::default()
        }),
        network: Some(network(network_id, NetworkType::Vxlan)),
        uplink: Some(Arc::new(Uplink {
            name: "eth0".into(),
            mtu: 9000,
            up: true,
            ..Uplink::default()
        })),
        ..Context::default()
    }
}

pub fn request(hook: Hook, seq: u64, context: Context) -> Request {
    let key = Subject::Tap(context.link.as_ref().map_or(0, |l| l.ifindex));
    Request {
        r#gen: 7,
        seq,
        key,
        hook,
        context,
    }
}

/// Nothing in these tests takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for the next reply.
pub fn receive(host: &mut Host) -> Reply {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, host.recv())
            .await
            .expect("no reply")
    })
}

pub fn ask(host: &mut Host, request: Request) -> Reply {
    match host.ask(request) {
        Asked::Answered(reply) => *reply,
        Asked::Pending => receive(host),
    }
}

pub fn ask_port(host: &mut Host, tap: &str, network_id: &str) -> Reply {
    let ifindex = tap.bytes().map(u32::from).sum();
    ask(host, request(Hook::Port, 1, context(tap, ifindex, network_id)))
}

/// The decision as people see it.
pub fn decision(reply: &Reply) -> Json {
    let value = tapwire::policy::without_nulls(serde_json::to_value(&reply.decision).unwrap());
    if value.is_object() { value } else { json!({}) }
}

/// Waits until something became true.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}
