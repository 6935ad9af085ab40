//! Where the daemon's story goes beside stderr: the journal, and (feature `otlp`) a collector of spans.

use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::world::in_namespace;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

const PLUGIN: &str = "return { api = 1, port = function(ctx) return { mtu = 1400 } end }\n";

/// A daemon with one network, blue, for every tap; its stderr is the file `log` in the folder.
fn daemon(host: &Host, folder: &Path, set: impl FnOnce(&mut Command, &File)) -> Child {
    let path = |name: &str| folder.join(name).display().to_string();
    fs::write(path("plugin.lua"), PLUGIN).unwrap();
    let configuration = format!(
        "[daemon]\nsocket = {:?}\nstate_directory = {:?}\n[taps]\nmatch = [\"tap*\"]\n[policy]\nplugins = [{:?}]\n\
         [[network]]\nid = \"blue\"\nnetwork_type = \"local\"\n[[port]]\ntap = \"tap*\"\nnetwork = \"blue\"\n",
        path("socket"),
        path("state"),
        path("plugin.lua")
    );
    fs::write(path("tapwire.toml"), configuration).unwrap();
    let log = File::create(path("log")).unwrap();
    let mut command = host.command(env!("CARGO_BIN_EXE_tapwire"));
    command
        .args(["run", "--config", &path("tapwire.toml")])
        .stdout(Stdio::null());
    set(&mut command, &log);
    command.stderr(log).spawn().unwrap()
}

fn stop(mut daemon: Child) {
    let pid = libc::pid_t::try_from(daemon.id()).unwrap();
    // SAFETY: takes no pointers; the pid is our own child's, not yet waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn under_systemd_each_field_reaches_the_journal_on_its_own() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        // The test's own /run.
        fs::create_dir_all("/run/systemd/journal").unwrap();
        let journald = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
        journald.set_read_timeout(Some(SOON)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let daemon = daemon(&host, folder.path(), |command, log| {
            let stream = log.metadata().unwrap();
            command.env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino()));
        });
        let next = || {
            let mut buffer = [0; 4096];
            let length = journald.recv(&mut buffer).expect("an entry in time");
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        while !next().contains("MESSAGE=in sync ") {}
        let _tap = host.tap("tap0");
        let attached = loop {
            let entry = next();
            if entry.contains("MESSAGE=port attached ") {
                break entry;
            }
        };
        for field in [
            "PRIORITY=6\n",
            "SYSLOG_IDENTIFIER=tapwire\n",
            "TAPWIRE_TARGET=engine\n",
            "TAPWIRE_IFNAME=tap0\n",
            "TAPWIRE_NETWORK=blue\n",
            "TAPWIRE_CAUSE=",
        ] {
            assert!(attached.contains(field), "{attached}");
        }
        stop(daemon);
        assert_eq!(
            fs::read_to_string(folder.path().join("log")).unwrap(),
            "",
            "nothing twice"
        );
    });
}

#[cfg(feature = "otlp")]
#[test]
fn the_way_of_an_event_arrives_at_a_collector_as_one_trace() {
    use serde_json::Value;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;

    /// Takes one request; its spans.
    fn collect(listener: &TcpListener) -> Vec<Value> {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            .unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        body["resourceSpans"][0]["scopeSpans"][0]["spans"]
            .as_array()
            .unwrap()
            .clone()
    }

    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        host.ip("link set lo up");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let daemon = daemon(&host, folder.path(), |command, _| {
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        });
        // The first pass ends with "in sync".
        let mut spans = Vec::new();
        while !spans.iter().any(|span: &Value| span["name"] == "in sync") {
            spans.extend(collect(&listener));
        }
        let _tap = host.tap("tap0");
        while !spans.iter().any(|span: &Value| span["name"] == "port attached") {
            spans.extend(collect(&listener));
        }
        let attached = spans.iter().find(|span| span["name"] == "port attached").unwrap();
        let mut names: Vec<&str> = spans
            .iter()
            .filter(|span| span["traceId"] == attached["traceId"])
            .map(|span| span["name"].as_str().unwrap())
            .collect();
        names.sort_unstable();
        names.dedup();
        for name in ["receive", "hook", "decide", "operations", "op", "acknowledge"] {
            let told = spans.iter().any(|span| span["name"] == name);
            assert!(told, "no span {name}: {spans:#?}");
        }
        for name in ["receive", "decide", "operations", "op", "acknowledge"] {
            assert!(
                names.contains(&name),
                "{name} is not in the trace of the attach: {names:?}"
            );
        }
        stop(daemon);
    });
}
