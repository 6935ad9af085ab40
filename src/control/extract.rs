//! What a request carries, read within limits and refused in JSON.

use super::api::{Failure, FailureKind, MAX_BODY};
use super::routes::App;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query};
use axum::http::request::Parts;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// A body too large is read to here and thrown away, so that the client gets to read why.
const MAX_DISCARD: usize = 16 * MAX_BODY;

/// A query string; what does not fit is answered in JSON like everything else.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Asked<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Failure> {
        Query::<T>::try_from_uri(&parts.uri)
            .map(|Query(value)| Asked(value))
            .map_err(|e| Failure::new(FailureKind::Invalid, e.body_text().to_lowercase()))
    }
}

/// A JSON body of at most `MAX_BODY` bytes, within `Limits::body`. An empty one counts as `{}`. The content type does
/// not matter.
pub struct Sent<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Sent<T> {
    type Rejection = Failure;
    async fn from_request(request: axum::extract::Request, app: &App) -> Result<Self, Failure> {
        let limit = app.limits.body;
        let bytes = timeout(limit, read_body(request.into_body()))
            .await
            .map_err(|_| {
                Failure::new(
                    FailureKind::TimedOut,
                    format!("the request did not end within {limit:?}"),
                )
            })??;
        let text: &[u8] = if bytes.iter().all(u8::is_ascii_whitespace) {
            b"{}"
        } else {
            &bytes
        };
        serde_json::from_slice(text)
            .map(Sent)
            .map_err(|e| Failure::new(FailureKind::Invalid, format!("bad request body: {e}")))
    }
}

async fn read_body(mut body: Body) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|e| Failure::new(FailureKind::Invalid, format!("the request body broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total <= MAX_BODY {
            bytes.extend_from_slice(&data);
        } else if total > MAX_DISCARD {
            break;
        }
    }
    if total > MAX_BODY {
        return Err(Failure::new(
            FailureKind::TooLarge,
            format!("the request body is larger than {MAX_BODY} bytes"),
        ));
    }
    Ok(bytes)
}
