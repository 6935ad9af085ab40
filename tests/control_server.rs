//! The control server against a backend that only answers what each test needs: hostile, clumsy and silent clients.

#![allow(
    clippy::unwrap_used,
    reason = "a test that fails may panic, its helper functions too"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tapwire::control::api::{
    Command, Failure, FailureKind, PortRow, PortState, Request, Sink, Status, WaitCondition, WaitReport,
};
use tapwire::control::client::{Client, Error};
use tapwire::control::server::{Handle, Limits, Server, Settings};
use tokio::sync::mpsc;

/// A server with a backend thread; both end when it is dropped.
struct Rig {
    path: PathBuf,
    handle: Option<Handle>,
    metrics: Option<std::net::SocketAddr>,
    _dir: tempfile::TempDir,
}

fn limits() -> Limits {
    Limits {
        connections: 512,
        head: Duration::from_secs(20),
        body: Duration::from_secs(20),
        stall: Duration::from_secs(20),
        answer: Duration::from_secs(20),
    }
}

fn rig(limits: Limits, backend: impl FnMut(Command) + Send + 'static) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tapwire.sock");
    let server = Server::bind(&Settings {
        socket: path.clone(),
        group: None,
        metrics_listen: Some("127.0.0.1:0".parse().unwrap()),
        limits,
    })
    .unwrap();
    let metrics = server.metrics_address();
    let (sender, mut requests) = mpsc::channel::<Request>(tapwire::control::api::QUEUE);
    let mut backend = backend;
    std::thread::spawn(move || {
        while let Some(request) = requests.blocking_recv() {
            backend(request.command);
        }
    });
    let handle = server.start(sender).unwrap();
    Rig {
        path,
        handle: Some(handle),
        metrics,
        _dir: dir,
    }
}

/// Answers `Status` and knows one port.
fn small_world(command: Command) {
    match command {
        Command::Status(reply) => {
            let _ = reply.send(Ok(Status {
                version: "test".into(),
                in_sync: true,
                ..Status::default()
            }));
        }
        Command::PortShow { port, reply } => {
            let failure = Failure::new(FailureKind::NotFound, format!("no tap or port {port:?}"));
            let _ = reply.send(Err(failure.hint("`tapwire port list --all` shows every link")));
        }
        Command::Wait { condition, reply } => match condition {
            WaitCondition::InSync => {
                let _ = reply.send(Ok(WaitReport::default()));
            }
            // Never true: keep the sender as the real daemon would.
            WaitCondition::Port { .. } => std::mem::forget(reply),
        },
        Command::Metrics(reply) => {
            let _ = reply.send(Ok("tapwire_events_total 1\n# EOF\n".into()));
        }
        Command::NetworkAdd { spec, reply } => {
            let failure = Failure::new(FailureKind::Conflict, format!("network {} exists", spec.id));
            let _ = reply.send(Err(failure));
        }
        other => drop(other),
    }
}

impl Rig {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }
    /// Sends bytes, reads to the end of the connection.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
    fn request(&self, head: &str, body: &[u8]) -> (u16, serde_json::Value) {
        let mut bytes = format!(
            "{head} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        let answer = self.exchange(&bytes);
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap())
    }
    fn assert_serves(&self) {
        let started = Instant::now();
        assert_eq!(self.request("GET /v1/status", b"").0, 200);
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "status took {:?}",
            started.elapsed()
        );
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn garbage_is_answered_400_and_the_server_goes_on() {
    let rig = rig(limits(), small_world);
    for garbage in [
        &b"\x00\xff\xfegarbage\r\n\r\n"[..],
        b"GET /v1/status SPDY/9\r\n\r\n",
        b"\r\n\r\nhello\r\n\r\n",
    ] {
        let answer = rig.exchange(garbage);
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(
            answer.ends_with(r#"{"kind":"invalid","error":"this is not an HTTP request"}"#),
            "{answer}"
        );
    }
    let (status, body) = rig.request("POST /v1/networks", b"{\"id\": nonsense");
    assert_eq!(status, 400);
    assert_eq!(body["kind"], "invalid");
    assert!(body["error"].as_str().unwrap().starts_with("bad request body"));
    let (status, body) = rig.request(
        "POST /v1/networks",
        b"{\"id\":\"a\",\"network_type\":\"local\",\"vni\":1}",
    );
    assert_eq!(status, 400);
    assert!(
        body["error"].as_str().unwrap().contains("unknown field `vni`"),
        "{body}"
    );
    assert_eq!(rig.request("GET /v1/ports?everything=1", b"").0, 400);
    assert_eq!(rig.request("GET /v1/wait?timeout=-1", b"").0, 400);
    assert_eq!(rig.request("GET /v1/wait?port=tap0&state=atached", b"").0, 400);
    rig.assert_serves();
}

#[test]
fn an_oversized_body_is_answered_413_after_it_was_read() {
    let rig = rig(limits(), small_world);
    let (status, body) = rig.request("POST /v1/networks", &vec![b' '; 2 * 1024 * 1024]);
    assert_eq!(status, 413);
    assert_eq!(body["kind"], "too_large");
    // One byte below the limit is read and judged.
    let mut largest = br#"{"id":"a","network_type":"local"}"#.to_vec();
    largest.resize(1024 * 1024, b' ');
    assert_eq!(rig.request("POST /v1/networks", &largest).0, 409);
    rig.assert_serves();
}

#[test]
fn a_head_without_end_is_refused() {
    let rig = rig(limits(), small_world);
    let mut stream = rig.connect();
    let line = vec![b'a'; 256 * 1024];
    // The server may close while we still write.
    let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nx: ");
    let _ = stream.write_all(&line);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(
        answer.starts_with(b"HTTP/1.1 431"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    rig.assert_serves();
}

#[test]
fn unknown_paths_and_methods_are_answered_in_json() {
    let rig = rig(limits(), small_world);
    let (status, body) = rig.request("GET /v2/status", b"");
    assert_eq!((status, body["kind"].as_str()), (404, Some("not_found")));
    let (status, body) = rig.request("DELETE /v1/status", b"");
    assert_eq!((status, body["kind"].as_str()), (405, Some("method")));
    let (status, body) = rig.request("GET /v1/ports/tap%20x", b"");
    assert_eq!(status, 404);
    assert_eq!(body["error"], "no tap or port \"tap x\"");
    assert_eq!(body["hint"], "`tapwire port list --all` shows every link");
}

#[test]
fn half_sent_requests_time_out() {
    let short = Duration::from_millis(100);
    let rig = rig(
        Limits {
            head: short,
            body: short,
            ..limits()
        },
        small_world,
    );
    // Silence and half a head: closed. Half a body: told, then closed.
    let mut silent = rig.connect();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert!(!rig.exchange(b"GET /v1/status HTTP/1.1\r\nhos").contains("200"));
    let half = rig.exchange(b"POST /v1/networks HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{");
    assert!(half.starts_with("HTTP/1.1 504"), "{half}");
    assert!(half.contains("timed_out"), "{half}");
    rig.assert_serves();
}

#[test]
fn a_hundred_silent_connections_delay_nobody() {
    let rig = rig(limits(), small_world);
    let silent: Vec<_> = (0..100).map(|_| rig.connect()).collect();
    for _ in 0..50 {
        rig.assert_serves();
    }
    drop(silent);
}

#[test]
fn when_places_run_out_the_oldest_silent_connection_gives_its_own() {
    let rig = rig(
        Limits {
            connections: 8,
            ..limits()
        },
        small_world,
    );
    let mut silent: Vec<_> = (0..8).map(|_| rig.connect()).collect();
    rig.assert_serves();
    let mut byte = [0];
    assert_eq!(silent[0].read(&mut byte).unwrap(), 0, "the oldest is closed");
    rig.assert_serves();
}

#[test]
fn a_request_under_way_keeps_its_place() {
    let (heard, asked) = std::sync::mpsc::channel();
    let few = Limits {
        connections: 4,
        ..limits()
    };
    let rig = rig(few, move |command| {
        let _ = heard.send(());
        small_world(command);
    });
    let mut waiting: Vec<_> = (0..4).map(|_| rig.connect()).collect();
    for stream in &mut waiting {
        stream
            .write_all(b"GET /v1/wait?port=tap0&timeout=2 HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
            .unwrap();
    }
    for _ in 0..4 {
        asked.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    // Served or closed unread, never hanging; and the four are answered in the end.
    let mut late = rig.connect();
    let _ = late.write_all(b"GET /v1/status HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
    let _ = late.read_to_end(&mut Vec::new());
    for stream in &mut waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        assert!(answer.contains("not tap0 attached within 2.000 s"), "{answer}");
    }
    rig.assert_serves();
}

#[test]
fn one_connection_serves_several_requests() {
    let rig = rig(limits(), small_world);
    let two = "GET /v1/status HTTP/1.1\r\nhost: t\r\n\r\n\
               GET /v1/status HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
    assert_eq!(rig.exchange(two.as_bytes()).matches("HTTP/1.1 200").count(), 2);
}

#[test]
fn a_reader_that_stops_reading_loses_lines_and_is_let_go() {
    let (give, take) = std::sync::mpsc::channel::<Sink>();
    let short = Limits {
        stall: Duration::from_millis(200),
        ..limits()
    };
    let rig = rig(short, move |command| match command {
        Command::TraceSubscribe { sink, reply, .. } => {
            reply.send(Ok(())).unwrap();
            give.send(sink).unwrap();
        }
        other => small_world(other),
    });
    let mut reader = rig.connect();
    reader
        .write_all(b"GET /v1/trace HTTP/1.1\r\nhost: t\r\n\r\n")
        .unwrap();
    let mut sink = take.recv_timeout(Duration::from_secs(20)).unwrap();
    // More than the socket buffer and the queue take together.
    let line: Arc<str> = format!("{{\"pad\":\"{}\"}}", "x".repeat(1000)).into();
    let mut lost = 0;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match sink.push(Arc::clone(&line)) {
            tapwire::control::api::Delivery::Queued => {}
            tapwire::control::api::Delivery::Lost => {
                lost += 1;
                std::thread::yield_now();
            }
            tapwire::control::api::Delivery::Closed => break,
        }
        assert!(Instant::now() < deadline, "the stuck reader was never let go");
    }
    assert!(lost > 0);
    rig.assert_serves();
}

#[test]
fn a_stream_ends_for_the_daemon_when_its_reader_goes() {
    let (give, take) = std::sync::mpsc::channel::<Sink>();
    let rig = rig(limits(), move |command| match command {
        Command::TraceSubscribe { filter, sink, reply } => {
            assert_eq!(filter.as_deref(), Some("tap*"));
            reply.send(Ok(())).unwrap();
            give.send(sink).unwrap();
        }
        other => small_world(other),
    });
    block_on(async {
        let client = Client::new(&rig.path);
        let mut lines = client.stream("/v1/trace?filter=tap%2A").await.unwrap();
        let mut sink = take.recv().unwrap();
        sink.push("{\"seq\":1}".into());
        sink.push("{\"seq\":2}".into());
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("{\"seq\":1}"));
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("{\"seq\":2}"));
        drop(lines);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !sink.is_closed() {
            assert!(Instant::now() < deadline, "the server kept a dead stream");
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_stream_ends_for_the_reader_when_the_daemon_drops_it() {
    let rig = rig(limits(), |command| {
        if let Command::PolicyRecord { mut sink, reply } = command {
            reply.send(Ok(())).unwrap();
            sink.push("{}".into());
        }
    });
    block_on(async {
        let mut lines = Client::new(&rig.path).stream("/v1/policy/record").await.unwrap();
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("{}"));
        assert_eq!(lines.next().await.unwrap(), None);
    });
}

#[test]
fn a_busy_daemon_loop_is_a_timeout_and_a_stopping_one_says_so() {
    let quick = Limits {
        answer: Duration::from_millis(50),
        ..limits()
    };
    let stuck = rig(quick, std::mem::forget);
    let (status, body) = stuck.request("GET /v1/status", b"");
    assert_eq!((status, body["kind"].as_str()), (504, Some("timed_out")));
    let stopping = rig(limits(), drop);
    let (status, body) = stopping.request("GET /v1/status", b"");
    assert_eq!((status, body["kind"].as_str()), (503, Some("unavailable")));
}

#[test]
fn the_client_reads_answers_and_refusals() {
    let rig = rig(limits(), |command| match command {
        Command::PortList { all, reply } => {
            let row = PortRow {
                tap: "tap0".into(),
                ifindex: 7,
                port: None,
                network: Some("blue".into()),
                bridge: Some("brqblue".into()),
                state: if all {
                    PortState::Unmanaged
                } else {
                    PortState::Attached
                },
                reason: None,
                mtu: 1450,
                attach_us: Some(412),
            };
            let _ = reply.send(Ok(vec![row]));
        }
        Command::PortBind { request, reply } => {
            assert_eq!(request.port, "tap 1");
            let _ = reply.send(Err(
                Failure::new(FailureKind::NotFound, "no network \"red\"").hint("known: blue")
            ));
        }
        other => small_world(other),
    });
    block_on(async {
        let client = Client::new(&rig.path);
        let rows: Vec<PortRow> = client.get("/v1/ports").await.unwrap();
        assert_eq!(rows[0].state, PortState::Attached);
        let rows: Vec<PortRow> = client.get("/v1/ports?all=true").await.unwrap();
        assert_eq!(rows[0].state, PortState::Unmanaged);
        let error = client
            .put::<serde_json::Value>(
                "/v1/ports/tap%201/binding",
                &serde_json::json!({"network": "red"}),
            )
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "no network \"red\"");
        assert_eq!(error.hint().as_deref(), Some("known: blue"));
        let error = client
            .get::<WaitReport>("/v1/wait?port=tap9&timeout=0.05")
            .await
            .unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert!(client.text("/v1/metrics").await.unwrap().ends_with("# EOF\n"));
    });
}

#[test]
fn the_loopback_listener_serves_metrics_and_nothing_else() {
    let rig = rig(limits(), small_world);
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(rig.metrics.unwrap()).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get("/metrics").contains("tapwire_events_total 1"));
    assert!(get("/v1/status").starts_with("HTTP/1.1 404"));
}

#[test]
fn nobody_there_is_told_apart_from_somebody_who_broke_off() {
    let mut rig = rig(limits(), small_world);
    drop(rig.handle.take());
    assert!(!rig.path.exists(), "the socket file goes with the server");
    block_on(async {
        let error = Client::new(&rig.path)
            .get::<Status>("/v1/status")
            .await
            .unwrap_err();
        assert!(error.is_unreachable());
        assert!(error.hint().unwrap().contains("is tapwire running?"));
        // A listener that closes at once.
        let listener = tokio::net::UnixListener::bind(&rig.path).unwrap();
        let close = async { drop(listener.accept().await.unwrap()) };
        let client = Client::new(&rig.path);
        let (answer, ()) = tokio::join!(client.get::<Status>("/v1/status"), close);
        assert!(matches!(answer, Err(Error::Broken(_))), "{answer:?}");
    });
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        cases: 200, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(0x7461_7077), ..Default::default() })]

    /// One server for all cases would hide which one hurt it; a case is cheap.
    #[test]
    fn any_bytes_at_all_leave_the_server_serving(
        head in proptest::sample::select(vec!["", "GET ", "POST /v1/networks HTTP/1.1\r\n", "GET /v1/trace?filter=",
            "PUT /v1/ports/%ff/binding HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"]),
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        end in proptest::sample::select(vec!["", "\r\n\r\n", " HTTP/1.1\r\nhost: t\r\n\r\n"]),
    ) {
        let rig = rig(limits(), small_world);
        let mut stream = rig.connect();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&bytes);
        let _ = stream.write_all(end.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        rig.assert_serves();
    }
}
