//! Answers of the API: JSON, and refusals that name place and remedy.

use axum::body::{Body, to_bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Problem;

/// Bytes of a request's body.
pub(super) const BODY_BYTES_MAX: usize = 8 * 1024;

/// What is sent instead of an answer.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    #[serde(skip)]
    pub status: StatusCode,
    pub errors: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub(super) struct Fault {
    /// Part of the request, or key of the configuration.
    #[serde(rename = "where")]
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub fix: String,
    /// Of the configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Of the configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
}

impl From<&Problem> for Fault {
    fn from(problem: &Problem) -> Self {
        let Problem { position, key, wrong, fix } = problem;
        Self {
            place: key.clone(),
            what: wrong.clone(),
            fix: fix.clone(),
            line: position.map(|position| position.line),
            column: position.map(|position| position.column),
        }
    }
}

impl Refusal {
    pub fn new(status: StatusCode, place: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        let fault = Fault { place: place.into(), what: what.into(), fix: fix.into(), line: None, column: None };
        Self { status, errors: vec![fault] }
    }

    pub fn bad(place: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, place, what, fix)
    }

    /// The server has no answer now.
    pub fn unavailable(what: &str, fix: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server", what, fix)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = json(status, &self);
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("60"));
        }
        response
    }
}

/// Nothing of this is for a cache: it is about now, or about secrets.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("text keys, and numbers that JSON has");
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, format!("{text}\n")).into_response()
}

pub(super) fn good(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}

/// The body, which must be a JSON document of this form.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Body>, example: &str) -> Result<T, Refusal> {
    let bytes = to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body",
            format!("it is longer than {BODY_BYTES_MAX} bytes, or was cut off"),
            format!("send a small document, like {example}"),
        )
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::bad("body", error.to_string(), format!("send JSON, like {example}")))
}
