//! The web server of the lab: the call page and, over the same HTTPS, its signalling.
//!
//! `GET /call` is the page. `/api/rooms/ROOM/SIDE/…` is what it talks to, SIDE being `caller` or `callee`:
//! `POST messages?number=N` leaves a message for the other side (once, however often it is sent),
//! `GET messages?after=N` waits for one (long poll), `POST stage` and `POST result` tell the lab how the call goes.
//! `GET /sip` is the page that calls phones.

mod rooms;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_server::tls_rustls::RustlsConfig;
use serde::Deserialize;
use serde_json::Value;

use crate::authority::Authority;
use crate::lab::{Lab, WEB_HOST};
use crate::topology::Service;

pub use rooms::{Progress, Rooms, Side};

/// How long a long poll is held when there is nothing to say. The page gives up a little later: a connection that does
/// not survive a change of address must not cost a call more than that.
const POLL_PATIENCE: Duration = Duration::from_secs(4);

/// A running web server.
pub struct WebServer {
    rooms: Arc<Rooms>,
    handle: axum_server::Handle<SocketAddr>,
}

impl WebServer {
    /// Starts it on port 443 of the lab's web node; `jssip` is the library of the page that calls phones.
    ///
    /// # Errors
    /// The certificate cannot be made, the port cannot be bound, or JsSIP cannot be read.
    pub async fn start(lab: &Lab, authority: &Authority, jssip: Option<&std::path::Path>) -> Result<WebServer> {
        let (device, address) = lab.server(Service::Web)?;
        let config = RustlsConfig::from_config(Arc::new(authority.certify(WEB_HOST)?.https()?));
        let rooms = Arc::new(Rooms::default());
        let handle = axum_server::Handle::new();
        let server = axum_server::bind_rustls(SocketAddr::from((address, 443)), config).handle(handle.clone());
        let jssip =
            jssip.map(|file| std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())));
        let service = routes(Arc::clone(&rooms), jssip.transpose()?.unwrap_or_default()).into_make_service();
        let serving = device.spawn(move |_| server.serve(service))?;
        if handle.listening().await.is_none() {
            serving.await.context("the web server panicked")?.context("the web server cannot bind port 443")?;
        }
        Ok(WebServer { rooms, handle })
    }

    /// The rooms its pages meet in.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

fn routes(rooms: Arc<Rooms>, jssip: String) -> Router {
    const PAGE: &str = include_str!("../../web/call.html");
    let script = |text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, "text/javascript")], text) });
    let style = || async { ([(header::CONTENT_TYPE, "text/css")], include_str!("../../web/call.css")) };
    let page = || async { Html(PAGE) };
    // The same page to look at, with another script behind it.
    let sip_page = || async { Html(PAGE.replace("/call.js", "/sip.js")) };
    let jssip = move || async move { ([(header::CONTENT_TYPE, "text/javascript")], jssip) };
    Router::new()
        .route("/", get(page))
        .route("/call", get(page))
        .route("/call.js", script(include_str!("../../web/call.js")))
        .route("/page.js", script(include_str!("../../web/page.js")))
        .route("/sip", get(sip_page))
        .route("/sip.js", script(include_str!("../../web/sip.js")))
        .route("/jssip.js", get(jssip))
        .route("/call.css", get(style))
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
        .route("/api/rooms/{room}/{side}/messages", post(post_message).get(get_messages))
        .route("/api/rooms/{room}/{side}/stage", post(post_stage))
        .route("/api/rooms/{room}/{side}/result", post(post_result))
        .with_state(rooms)
}

type Place = Path<(String, Side)>;

#[derive(Deserialize)]
struct Numbered {
    number: usize,
}

async fn post_message(
    State(rooms): State<Arc<Rooms>>,
    Path((room, side)): Place,
    Query(Numbered { number }): Query<Numbered>,
    Json(message): Json<Value>,
) -> StatusCode {
    if rooms.post_numbered(&room, side.other(), number, message) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::INSUFFICIENT_STORAGE
    }
}

#[derive(Deserialize)]
struct After {
    after: usize,
}

async fn get_messages(
    State(rooms): State<Arc<Rooms>>,
    Path((room, side)): Place,
    Query(After { after }): Query<After>,
) -> impl IntoResponse {
    let messages = rooms.receive(&room, side, after, POLL_PATIENCE).await;
    ([(header::CACHE_CONTROL, "no-store")], Json(messages))
}

async fn post_stage(
    State(rooms): State<Arc<Rooms>>,
    Path((room, side)): Place,
    Json(stage): Json<String>,
) -> StatusCode {
    rooms.set_stage(&room, side, stage);
    StatusCode::NO_CONTENT
}

async fn post_result(
    State(rooms): State<Arc<Rooms>>,
    Path((room, side)): Place,
    Json(result): Json<Value>,
) -> StatusCode {
    rooms.set_result(&room, side, result);
    StatusCode::NO_CONTENT
}
