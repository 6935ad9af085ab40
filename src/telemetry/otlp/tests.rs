use super::*;
use std::io::Read;
use std::net::TcpListener;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;

/// Takes one request; its body.
fn collect(listener: &TcpListener, answer: &str) -> Value {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn start_at(listener: &TcpListener) -> (Spans, Flush) {
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    start(Endpoint::parse(&url).unwrap()).unwrap()
}

#[test]
fn spans_of_one_cause_arrive_as_one_trace() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (spans, flush) = start_at(&listener);
    let subscriber = Registry::default().with(spans);
    tracing::subscriber::with_default(subscriber, || {
        let receive = tracing::debug_span!("receive", cause = tracing::field::Empty);
        receive.record("cause", 7);
        drop(receive);
        tracing::debug_span!("decide", ifname = "tap0").in_scope(|| {});
        tracing::debug_span!("operations", cause = 7).in_scope(|| {
            tracing::debug_span!("op", op = "attach", elapsed_us = 80, error = "Exchange full")
                .in_scope(|| {});
        });
        tracing::info!(cause = 7, elapsed_us = 400, "port attached");
    });
    let sender = std::thread::spawn(move || drop(flush));
    let body = collect(&listener, "200 OK");
    sender.join().unwrap();
    let resource = &body["resourceSpans"][0];
    assert_eq!(
        resource["resource"]["attributes"][0],
        json!({"key": "service.name", "value": {"stringValue": "tapwire"}})
    );
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    let names: Vec<_> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    // "decide" has no cause.
    assert_eq!(names, ["receive", "op", "operations", "port attached"]);
    let [receive, op, operations, attached] = &spans[..] else {
        panic!("{body}");
    };
    assert!(spans.iter().all(|span| span["traceId"] == receive["traceId"]));
    assert_eq!(receive["traceId"].as_str().unwrap()[16..], format!("{:016x}", 7));
    assert_eq!(receive["parentSpanId"], "");
    assert_eq!(operations["parentSpanId"], receive["spanId"]);
    assert_eq!(attached["parentSpanId"], receive["spanId"]);
    assert_eq!(op["parentSpanId"], operations["spanId"]);
    assert_eq!(op["status"], json!({"code": 2, "message": "Exchange full"}));
    let at = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(at(op, "endTimeUnixNano") - at(op, "startTimeUnixNano"), 80_000);
    assert_eq!(
        attached["attributes"],
        json!([{"key": "cause", "value": {"intValue": "7"}}, {"key": "attach_us", "value": {"intValue": "400"}}])
    );
}

#[test]
fn a_collector_that_is_gone_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (spans, flush) = start_at(&listener);
    drop(listener);
    let subscriber = Registry::default().with(spans);
    let begin = Instant::now();
    tracing::subscriber::with_default(subscriber, || {
        for cause in 0..3 * QUEUE as u64 {
            tracing::info!(cause, "port attached");
        }
    });
    drop(flush);
    assert!(begin.elapsed() < LAST_PATIENCE + Duration::from_secs(8));
}

#[test]
fn endpoints_are_as_the_specification_has_them() {
    let of = |set: &[(&str, &str)]| {
        Endpoint::from_variables(|name| {
            set.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, v)| (*v).to_owned())
        })
    };
    let (all, traces) = (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    );
    assert_eq!(of(&[]).unwrap(), None);
    assert_eq!(of(&[(all, "")]).unwrap(), None);
    let endpoint = |authority: &str, path: &str| {
        Some(Endpoint {
            authority: authority.to_owned(),
            path: path.to_owned(),
        })
    };
    assert_eq!(
        of(&[(all, "http://127.0.0.1:4318/")]).unwrap(),
        endpoint("127.0.0.1:4318", "/v1/traces")
    );
    assert_eq!(
        of(&[(all, "http://a"), (traces, "http://collector/x")]).unwrap(),
        endpoint("collector:4318", "/x")
    );
    let error = of(&[(all, "https://a:4318")]).unwrap_err().to_string();
    assert!(error.contains("only http://"), "{error}");
}
