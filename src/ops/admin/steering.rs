//! Drain, reload and the log level: orders to the server's life, and what became of them.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::answer::{Fault, Refusal, good, read};
use super::{Readiness, Sources};
use crate::ops::orders::Order;

/// Answer to drain and undrain.
#[derive(Serialize)]
pub(super) struct State {
    /// `ready` or `draining`.
    pub state: &'static str,
    /// Allocations that live.
    pub sessions: usize,
}

/// Answer to reload.
#[derive(Serialize)]
pub(super) struct Reloaded {
    /// Keys that have changed and count from now on.
    pub changed: Vec<String>,
    /// Keys that have changed and count from the next start on.
    pub needs_restart: Vec<String>,
    /// What is allowed but probably not meant.
    pub notes: Vec<String>,
}

/// Question and answer about the log level.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevel {
    /// `error`, `warn`, `info`, `debug` or `trace`; `off` only where nothing is written.
    pub level: String,
}

async fn order<T>(sources: &Sources, make: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Refusal> {
    let (answer, answered) = oneshot::channel();
    sources.orders.try_send(make(answer)).map_err(|_| {
        Refusal::unavailable("the server is stopping, or has too much to do", "ask again, unless it is to stop")
    })?;
    answered.await.map_err(|_| Refusal::unavailable("the server is stopping", "start it again to change anything"))
}

pub(super) async fn drain(sources: &Sources, is_draining: bool) -> Result<Response, Refusal> {
    let state: Readiness = order(sources, |answer| Order::Drain(is_draining, answer)).await?;
    Ok(good(&State { state: state.label(), sessions: sources.shards.allocations() }))
}

pub(super) async fn reload(sources: &Sources) -> Result<Response, Refusal> {
    match order(sources, Order::Reload).await? {
        Ok(reloaded) => Ok(good(&Reloaded {
            changed: reloaded.changed.into_iter().collect(),
            needs_restart: reloaded.needs_restart.into_iter().collect(),
            notes: reloaded.notes.iter().map(ToString::to_string).collect(),
        })),
        Err(errors) => Err(Refusal {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            errors: errors.problems().iter().map(Fault::from).collect(),
        }),
    }
}

pub(super) async fn log_level(sources: &Sources, change: Option<Request<Body>>) -> Result<Response, Refusal> {
    const EXAMPLE: &str = "{\"level\": \"debug\"}";
    let level = match change {
        None => None,
        Some(request) => {
            let LogLevel { level } = read(request, EXAMPLE).await?;
            let words = ["error", "warn", "info", "debug", "trace"];
            let known = words.contains(&level.as_str()).then(|| level.parse().ok()).flatten();
            let unknown = || Refusal::bad("body level", "there is no such level", format!("write one of {words:?}"));
            Some(known.ok_or_else(unknown)?)
        }
    };
    let level = order(sources, |answer| Order::LogLevel(level, answer)).await?;
    let level = level.map_or("off".to_owned(), |level| level.as_str().to_ascii_lowercase());
    Ok(good(&LogLevel { level }))
}
