//! Credentials for the users of a web back end: the same as `hairpin credentials` makes, over HTTP.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Sources;
use super::answer::{Refusal, good, read};
use crate::config::ice_servers::{IceServer, configuration, uris_for};
use crate::config::{Admin, TimeLimited, user_name};

const EXAMPLE: &str = "{\"user\": \"alice\", \"ttl_seconds\": 3600}";

/// For whom.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// Whatever tells users apart in quotas and logs.
    pub user: String,
    /// To which of the configuration's realms it belongs, if not to the server's own.
    pub realm: Option<String>,
    /// How long they are to be good for.
    pub ttl_seconds: Option<u64>,
}

/// What the back end passes on; `iceServers` is for `new RTCPeerConnection(…)`.
#[derive(Serialize)]
pub(super) struct Credentials<'c> {
    #[serde(rename = "iceServers")]
    pub ice_servers: [IceServer<'c>; 1],
    /// How long they are good for.
    pub ttl_seconds: u64,
}

pub(super) async fn make(sources: &Sources, request: Request<Body>) -> Result<Response, Refusal> {
    let wish: Wish = read(request, EXAMPLE).await?;
    let config = sources.config.borrow().clone();
    let user = user_name(&wish.user).map_err(|what| {
        Refusal::bad("body user", what, "write 1 to 487 bytes without control characters: an id of your own")
    })?;
    let auth = config.credentials_for(wish.realm.as_deref(), &user).map_err(|what| {
        Refusal::bad(
            "body realm",
            what,
            "write the name of one of [[realms]] that this user belongs to, or leave it out",
        )
    })?;
    let secret = auth.secrets.first().ok_or_else(|| {
        let fix = "add one to auth.secrets or auth.secret_files of the server";
        Refusal::new(StatusCode::CONFLICT, "auth.secrets", "there is no shared secret to make credentials from", fix)
    })?;
    let longest = auth.ttl_secs_max;
    let ttl_seconds = wish.ttl_seconds.unwrap_or_else(|| longest.min(config.admin.credentials.lifetime_secs.into()));
    if !(1..=longest).contains(&ttl_seconds) {
        let fix = format!("write 1 to {longest} (auth.credential_lifetime_max)");
        return Err(Refusal::bad("body ttl_seconds", "the server would refuse such credentials", fix));
    }
    let identity = config.shards.tls.as_ref().map(|tls| &*tls.identity);
    let host = config.admin.credentials.host.as_deref();
    let uris = uris_for(&config, wish.realm.as_deref(), host, &sources.listening, identity).ok_or_else(|| {
        let fix = "set admin.credentials_host of the server; a realm needs a server name without a wildcard";
        Refusal::new(StatusCode::CONFLICT, "admin.credentials_host", "the server does not know its own name", fix)
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let credential = TimeLimited::derive(auth.time_limited, secret, &user, now + ttl_seconds);
    let ice_servers = configuration(uris, &credential).ice_servers;
    Ok(good(&Credentials { ice_servers, ttl_seconds }))
}

/// The page whose script asks, if one does.
///
/// # Errors
/// It is none of those that may.
pub(super) fn origin(admin: &Admin, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(None) };
    let is_listed = |listed: &String| listed == "*" || listed.as_bytes() == origin.as_bytes();
    if admin.credentials.origins.iter().any(is_listed) {
        return Ok(Some(origin.clone()));
    }
    let fix = "ask from your back end, or list the origin in admin.credentials_origins";
    Err(Refusal::new(StatusCode::FORBIDDEN, "origin", "scripts of this page may not ask", fix))
}

pub(super) fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(VARY, HeaderValue::from_static("origin"));
}

/// What a browser asks before it asks.
pub(super) fn preflight(admin: &Admin, headers: &HeaderMap) -> Result<Response, Refusal> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(origin) = origin(admin, headers)? {
        let headers = response.headers_mut();
        allow_origin(headers, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    Ok(response)
}
