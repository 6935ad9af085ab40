//! Paths to commands, failures to HTTP. No decision is taken here.
//!
//! | method and path | command |
//! |---|---|
//! | GET `/v1/status` | `Status` |
//! | GET `/v1/ports?all=true`, `/v1/ports/{port}` | `PortList`, `PortShow` |
//! | PUT, DELETE `/v1/ports/{port}/binding` | `PortBind` `{"network": ID}`, `PortUnbind` |
//! | GET, POST `/v1/networks`; GET, DELETE `/v1/networks/{network}?force=true` | `NetworkList`, `NetworkAdd`, `NetworkShow`, `NetworkDelete` |
//! | GET `/v1/plan`; POST `/v1/resync`; POST `/v1/reload?force=true` | `Plan`, `Resync`, `Reload` |
//! | GET `/v1/wait?timeout=S` (in sync), `/v1/wait?port=TAP&state=attached&timeout=S` | `Wait` |
//! | GET `/v1/explain/{port}`, `/v1/history?limit=N` | `Explain`, `History` |
//! | POST `/v1/history/save` | `HistorySave` |
//! | GET `/v1/trace?filter=F` | `TraceSubscribe` (server-sent events, one JSON object each) |
//! | GET `/v1/account` | `AccountSubscribe` (server-sent events) |
//! | GET `/v1/metrics` (`/metrics` on the loopback listener) | `Metrics` |
//! | GET `/v1/policy`, `/v1/policy/eval/{port}`, `/v1/policy/record` (stream) | `PolicyStatus`, `PolicyEval`, `PolicyRecord` |
//! | POST `/v1/policy/reload`, `/v1/policy/rollback` | `PolicyReload`, `PolicyRollback` |
//!
//! Length: one flat table of routes and a handler of a few lines for each.

use super::api::{
    ACCOUNT_QUEUE, BindRequest, Command, Failure, FailureKind, NetworkSpec, Peer, PolicyReloadRequest,
    PortState, Reply, Request, STREAM_QUEUE, Sink, WAIT_DEFAULT, WAIT_MAX, WaitCondition,
};
use super::extract::{Asked, Sent};
use super::server::{Caller, Limits};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// `History` answers at most this many records.
const MAX_HISTORY: usize = 100_000;

#[derive(Debug, Clone)]
pub(super) struct App {
    requests: mpsc::Sender<Request>,
    pub(super) limits: Limits,
}

type Answer<T> = Result<Json<T>, Failure>;

pub fn all(requests: mpsc::Sender<Request>, limits: Limits) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/ports", get(port_list))
        .route("/v1/ports/{port}", get(port_show))
        .route("/v1/ports/{port}/binding", put(port_bind).delete(port_unbind))
        .route("/v1/networks", get(network_list).post(network_add))
        .route("/v1/networks/{network}", get(network_show).delete(network_delete))
        .route("/v1/plan", get(plan))
        .route("/v1/resync", post(resync))
        .route("/v1/reload", post(reload))
        .route("/v1/wait", get(wait))
        .route("/v1/explain/{port}", get(explain))
        .route("/v1/history", get(history))
        .route("/v1/history/save", post(history_save))
        .route("/v1/trace", get(trace))
        .route("/v1/account", get(account))
        .route("/v1/metrics", get(metrics))
        .route("/v1/policy", get(policy_status))
        .route("/v1/policy/eval/{port}", get(policy_eval))
        .route("/v1/policy/record", get(policy_record))
        .route("/v1/policy/reload", post(policy_reload))
        .route("/v1/policy/rollback", post(policy_rollback))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(App { requests, limits })
}

pub fn metrics_only(requests: mpsc::Sender<Request>, limits: Limits) -> Router {
    Router::new()
        .route("/metrics", get(metrics_loopback))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(App { requests, limits })
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

impl App {
    async fn ask<T>(&self, caller: Caller, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Failure> {
        self.ask_within(self.limits.answer, caller, command)
            .await?
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::TimedOut,
                    format!("the daemon did not answer within {:?}", self.limits.answer),
                )
            })
    }

    /// `None` when it took too long.
    async fn ask_within<T>(
        &self,
        patience: Duration,
        caller: Caller,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<Option<T>, Failure> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        if command.changes() {
            let Peer { uid, gid, pid } = caller.peer;
            if !caller.may_change {
                return Err(Failure::new(
                    FailureKind::Denied,
                    format!("user {uid} may read here but not change anything"),
                )
                .hint("run it as root, or as a member of the control socket's group"));
            }
            tracing::info!(target: "control", command = command.name(), uid, gid, pid, "command received");
        }
        let stopping = |_| Failure::new(FailureKind::Unavailable, "the daemon is stopping");
        let asked = async {
            let request = Request {
                command,
                peer: caller.peer,
            };
            self.requests.send(request).await.map_err(|_| stopping(()))?;
            answer.await.map_err(|_| stopping(()))?
        };
        match timeout(patience, asked).await {
            Ok(result) => result.map(Some),
            Err(_) => Ok(None),
        }
    }

    async fn stream(
        &self,
        caller: Caller,
        queue: usize,
        command: impl FnOnce(Sink, Reply<()>) -> Command,
    ) -> Result<Response, Failure> {
        let (sink, lines) = Sink::pair(queue);
        self.ask(caller, |reply| command(sink, reply)).await?;
        let events = futures_util::stream::unfold(lines, |mut lines| async move {
            let line = lines.recv().await?;
            Some((Ok::<_, Infallible>(Event::default().data(&*line)), lines))
        });
        Ok(Sse::new(events).into_response())
    }
}

type Who = Extension<Caller>;
type Daemon = State<App>;

async fn status(State(app): Daemon, Extension(who): Who) -> Answer<super::api::Status> {
    app.ask(who, Command::Status).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortListQuery {
    #[serde(default)]
    all: bool,
}

async fn port_list(
    State(app): Daemon,
    Extension(who): Who,
    Asked(query): Asked<PortListQuery>,
) -> Answer<Vec<super::api::PortRow>> {
    app.ask(who, |reply| Command::PortList {
        all: query.all,
        reply,
    })
    .await
    .map(Json)
}

async fn port_show(
    State(app): Daemon,
    Extension(who): Who,
    Path(port): Path<String>,
) -> Answer<super::api::PortDetail> {
    app.ask(who, |reply| Command::PortShow { port, reply })
        .await
        .map(Json)
}

async fn port_bind(
    State(app): Daemon,
    Extension(who): Who,
    Path(port): Path<String>,
    Sent(mut request): Sent<BindRequest>,
) -> Answer<super::api::Binding> {
    request.port = port;
    app.ask(who, |reply| Command::PortBind { request, reply })
        .await
        .map(Json)
}

async fn port_unbind(
    State(app): Daemon,
    Extension(who): Who,
    Path(port): Path<String>,
) -> Answer<super::api::Binding> {
    app.ask(who, |reply| Command::PortUnbind { port, reply })
        .await
        .map(Json)
}

async fn network_list(State(app): Daemon, Extension(who): Who) -> Answer<Vec<super::api::NetworkRow>> {
    app.ask(who, Command::NetworkList).await.map(Json)
}

async fn network_show(
    State(app): Daemon,
    Extension(who): Who,
    Path(network): Path<String>,
) -> Answer<super::api::NetworkDetail> {
    app.ask(who, |reply| Command::NetworkShow { network, reply })
        .await
        .map(Json)
}

async fn network_add(
    State(app): Daemon,
    Extension(who): Who,
    Sent(spec): Sent<NetworkSpec>,
) -> Result<(StatusCode, Json<super::api::NetworkRow>), Failure> {
    let row = app.ask(who, |reply| Command::NetworkAdd { spec, reply }).await?;
    Ok((StatusCode::CREATED, Json(row)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForceQuery {
    #[serde(default)]
    force: bool,
}

async fn network_delete(
    State(app): Daemon,
    Extension(who): Who,
    Path(network): Path<String>,
    Asked(ForceQuery { force }): Asked<ForceQuery>,
) -> Answer<super::api::NetworkRow> {
    app.ask(who, |reply| Command::NetworkDelete {
        network,
        force,
        reply,
    })
    .await
    .map(Json)
}

async fn plan(State(app): Daemon, Extension(who): Who) -> Answer<Vec<super::api::PlanRow>> {
    app.ask(who, Command::Plan).await.map(Json)
}

async fn resync(State(app): Daemon, Extension(who): Who) -> Answer<super::api::ResyncReport> {
    app.ask(who, Command::Resync).await.map(Json)
}

async fn reload(
    State(app): Daemon,
    Extension(who): Who,
    Asked(ForceQuery { force }): Asked<ForceQuery>,
) -> Answer<super::api::ReloadReport> {
    app.ask(who, |reply| Command::Reload { force, reply })
        .await
        .map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    /// Accepted for readability; it is what a wait without port means.
    #[serde(default)]
    in_sync: Option<bool>,
    port: Option<String>,
    state: Option<String>,
    /// Seconds.
    timeout: Option<f64>,
}

impl WaitQuery {
    fn check(self) -> Result<(WaitCondition, Duration), Failure> {
        let invalid = |text: String| Failure::new(FailureKind::Invalid, text);
        let patience = match self.timeout {
            None => WAIT_DEFAULT,
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .map_err(|_| invalid(format!("timeout {seconds} is not a number of seconds")))?
                .min(WAIT_MAX),
        };
        let condition = match (self.port, self.state, self.in_sync) {
            (Some(port), state, None | Some(false)) => WaitCondition::Port {
                port,
                state: match state {
                    None => PortState::Attached,
                    Some(word) => word.parse().map_err(invalid)?,
                },
            },
            (None, None, None | Some(true)) => WaitCondition::InSync,
            (None, Some(_), _) => return Err(invalid("state needs a port".into())),
            (Some(_), _, Some(true)) => return Err(invalid("in_sync and port exclude each other".into())),
            (None, None, Some(false)) => return Err(invalid("nothing to wait for".into())),
        };
        Ok((condition, patience))
    }
}

async fn wait(
    State(app): Daemon,
    Extension(who): Who,
    Asked(query): Asked<WaitQuery>,
) -> Answer<super::api::WaitReport> {
    let (condition, patience) = query.check()?;
    let (what, why) = match &condition {
        WaitCondition::InSync => (
            "in sync".to_owned(),
            "`tapwire plan` shows what is left to do".to_owned(),
        ),
        WaitCondition::Port { port, state } => (
            format!("{port} {}", state.as_str()),
            format!("`tapwire explain {port}` says why"),
        ),
    };
    app.ask_within(patience, who, |reply| Command::Wait { condition, reply })
        .await?
        .map(Json)
        .ok_or_else(|| {
            Failure::new(
                FailureKind::TimedOut,
                format!("not {what} within {:.3} s", patience.as_secs_f64()),
            )
            .hint(why)
        })
}

async fn explain(
    State(app): Daemon,
    Extension(who): Who,
    Path(port): Path<String>,
) -> Answer<super::api::Story> {
    app.ask(who, |reply| Command::Explain { port, reply })
        .await
        .map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    limit: Option<usize>,
}

async fn history(
    State(app): Daemon,
    Extension(who): Who,
    Asked(query): Asked<HistoryQuery>,
) -> Answer<Vec<serde_json::Value>> {
    let limit = query.limit.unwrap_or(1000).min(MAX_HISTORY);
    app.ask(who, |reply| Command::History { limit, reply })
        .await
        .map(Json)
}

async fn history_save(State(app): Daemon, Extension(who): Who) -> Answer<serde_json::Value> {
    let path = app.ask(who, Command::HistorySave).await?;
    Ok(Json(serde_json::json!({ "path": path })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceQuery {
    filter: Option<String>,
}

async fn trace(
    State(app): Daemon,
    Extension(who): Who,
    Asked(TraceQuery { filter }): Asked<TraceQuery>,
) -> Result<Response, Failure> {
    app.stream(who, STREAM_QUEUE, |sink, reply| Command::TraceSubscribe {
        filter,
        sink,
        reply,
    })
    .await
}

async fn account(State(app): Daemon, Extension(who): Who) -> Result<Response, Failure> {
    app.stream(who, ACCOUNT_QUEUE, |sink, reply| Command::AccountSubscribe {
        sink,
        reply,
    })
    .await
}

async fn metrics(State(app): Daemon, Extension(who): Who) -> Result<Response, Failure> {
    let text = app.ask(who, Command::Metrics).await?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// A scraper on the loopback listener has no credentials; reading metrics needs none.
async fn metrics_loopback(app: Daemon) -> Result<Response, Failure> {
    const NOBODY: u32 = 65_534;
    let peer = Peer {
        uid: NOBODY,
        gid: NOBODY,
        pid: None,
    };
    metrics(
        app,
        Extension(Caller {
            peer,
            may_change: false,
        }),
    )
    .await
}

async fn policy_status(State(app): Daemon, Extension(who): Who) -> Answer<super::api::PolicyStatus> {
    app.ask(who, Command::PolicyStatus).await.map(Json)
}

async fn policy_eval(
    State(app): Daemon,
    Extension(who): Who,
    Path(port): Path<String>,
) -> Answer<serde_json::Value> {
    app.ask(who, |reply| Command::PolicyEval { port, reply })
        .await
        .map(Json)
}

async fn policy_record(State(app): Daemon, Extension(who): Who) -> Result<Response, Failure> {
    app.stream(who, STREAM_QUEUE, |sink, reply| Command::PolicyRecord {
        sink,
        reply,
    })
    .await
}

async fn policy_reload(
    State(app): Daemon,
    Extension(who): Who,
    Sent(request): Sent<PolicyReloadRequest>,
) -> Answer<super::api::PolicyReloadReport> {
    app.ask(who, |reply| Command::PolicyReload { request, reply })
        .await
        .map(Json)
}

async fn policy_rollback(State(app): Daemon, Extension(who): Who) -> Answer<super::api::PolicyReloadReport> {
    app.ask(who, Command::PolicyRollback).await.map(Json)
}

async fn unknown_path(uri: axum::http::Uri) -> Failure {
    Failure::new(FailureKind::NotFound, format!("no such path: {}", uri.path()))
}

async fn unknown_method(method: axum::http::Method, uri: axum::http::Uri) -> Failure {
    Failure::new(
        FailureKind::Method,
        format!("{method} is not possible on {}", uri.path()),
    )
}
