//! What can be asked, as a table; and the way of a request from its line to its answer.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use axum::{Extension, Router};
use prometheus::{TEXT_FORMAT, TextEncoder};

use super::access::{self, Caller, Right};
use super::answer::Refusal;
use super::{Desk, Readiness, credentials, figures, sessions, steering, stories};

/// The description of the API, OpenAPI 3.1.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// Something that can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Metrics,
    Live,
    Ready,
    OpenApi,
    ListSessions,
    EndSessions,
    EndSession,
    Drain,
    Undrain,
    Reload,
    LogLevel,
    SetLogLevel,
    Limits,
    Stats,
    Explain,
    Credentials,
    CredentialsPreflight,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub endpoint: Endpoint,
    pub right: Right,
}

const fn route(method: &'static str, path: &'static str, endpoint: Endpoint, right: Right) -> Route {
    Route { method, path, endpoint, right }
}

/// Everything.
pub(super) const ROUTES: &[Route] = &[
    route("GET", "/metrics", Endpoint::Metrics, Right::Metrics),
    route("GET", "/livez", Endpoint::Live, Right::Nothing),
    route("GET", "/readyz", Endpoint::Ready, Right::Nothing),
    route("GET", "/v1/openapi.json", Endpoint::OpenApi, Right::Nothing),
    route("GET", "/v1/sessions", Endpoint::ListSessions, Right::Operate),
    route("DELETE", "/v1/sessions", Endpoint::EndSessions, Right::Operate),
    route("DELETE", "/v1/sessions/{id}", Endpoint::EndSession, Right::Operate),
    route("POST", "/v1/drain", Endpoint::Drain, Right::Operate),
    route("POST", "/v1/undrain", Endpoint::Undrain, Right::Operate),
    route("POST", "/v1/reload", Endpoint::Reload, Right::Operate),
    route("GET", "/v1/log-level", Endpoint::LogLevel, Right::Operate),
    route("PUT", "/v1/log-level", Endpoint::SetLogLevel, Right::Operate),
    route("GET", "/v1/limits", Endpoint::Limits, Right::Operate),
    route("GET", "/v1/stats", Endpoint::Stats, Right::Operate),
    route("GET", "/v1/explain", Endpoint::Explain, Right::Operate),
    route("POST", "/v1/credentials", Endpoint::Credentials, Right::MakeCredentials),
    route("OPTIONS", "/v1/credentials", Endpoint::CredentialsPreflight, Right::Nothing),
];

pub(super) fn all(desk: &Desk) -> Router {
    router(desk, ROUTES.iter())
}

/// Where web back ends get credentials, and nothing else.
pub(super) fn for_back_ends(desk: &Desk) -> Router {
    use Endpoint::{Credentials, CredentialsPreflight, Live};
    router(desk, ROUTES.iter().filter(|route| matches!(route.endpoint, Credentials | CredentialsPreflight | Live)))
}

fn router<'r>(desk: &Desk, routes: impl Iterator<Item = &'r Route>) -> Router {
    let mut router = Router::new();
    for route in routes.copied() {
        let method: Method = route.method.parse().expect("a method of HTTP");
        let filter = MethodFilter::try_from(method).expect("a method that axum knows");
        let handler = async move |State(desk): State<Desk>, Extension(caller): Extension<Caller>, request| {
            serve(route, &desk, caller, request).await
        };
        router = router.route(route.path, on(filter, handler));
    }
    router
        .fallback(async || {
            let fix = "the paths are described at /v1/openapi.json";
            Refusal::new(StatusCode::NOT_FOUND, "path", "there is nothing here", fix)
        })
        .method_not_allowed_fallback(async || {
            let fix = "the methods are described at /v1/openapi.json";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this cannot be done here", fix)
        })
        .with_state(desk.clone())
}

async fn serve(route: Route, desk: &Desk, caller: Caller, request: Request<Body>) -> Response {
    let config = desk.sources.config.borrow().clone();
    let origin = match route.right {
        Right::MakeCredentials => match credentials::origin(&config.admin, request.headers()) {
            Ok(origin) => origin,
            Err(refusal) => return refusal.into_response(),
        },
        _ => None,
    };
    let checked = access::check(route.right, caller, request.headers(), &config.admin, &desk.guesses);
    let answered = match checked {
        Ok(()) => answer(route.endpoint, desk, caller, request).await,
        Err(refusal) => Err(refusal),
    };
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    // Refusals as well, so that a page's script can read what is wrong.
    if let Some(origin) = origin {
        credentials::allow_origin(response.headers_mut(), origin);
    }
    response
}

async fn answer(endpoint: Endpoint, desk: &Desk, caller: Caller, request: Request<Body>) -> Result<Response, Refusal> {
    let sources = &desk.sources;
    match endpoint {
        Endpoint::Metrics => Ok(metrics(desk)),
        Endpoint::Live => Ok("alive\n".into_response()),
        Endpoint::Ready => {
            let readiness = *sources.readiness.borrow();
            let is_ready = readiness == Readiness::Ready;
            let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            Ok((status, format!("{}\n", readiness.label())).into_response())
        }
        Endpoint::OpenApi => {
            Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI).into_response())
        }
        Endpoint::ListSessions => sessions::list(sources, request.uri().query()).await,
        Endpoint::EndSessions => sessions::end(sources, request.uri().query(), caller).await,
        Endpoint::EndSession => {
            let id = request.uri().path().rsplit('/').next().unwrap_or_default();
            sessions::end_one(sources, id, caller).await
        }
        Endpoint::Drain => steering::drain(sources, true).await,
        Endpoint::Undrain => steering::drain(sources, false).await,
        Endpoint::Reload => steering::reload(sources).await,
        Endpoint::LogLevel => steering::log_level(sources, None).await,
        Endpoint::SetLogLevel => steering::log_level(sources, Some(request)).await,
        Endpoint::Limits => Ok(figures::limits(sources)),
        Endpoint::Stats => Ok(figures::stats(sources)),
        Endpoint::Explain => stories::explain(sources, request.uri().query()).await,
        Endpoint::Credentials => credentials::make(sources, request).await,
        Endpoint::CredentialsPreflight => {
            let config = sources.config.borrow().clone();
            credentials::preflight(&config.admin, request.headers())
        }
    }
}

fn metrics(desk: &Desk) -> Response {
    match TextEncoder::new().encode_to_string(&desk.sources.registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
