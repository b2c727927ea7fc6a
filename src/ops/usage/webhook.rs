//! Records as JSON arrays, posted to a web server. Whatever it answers with 2xx is acknowledged.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use axum::http::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::deliver::Failure;
use crate::config::UsageWebhook;

/// Kept for the next delivery.
const IDLE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Webhook {
    client: Client<HttpsConnector<HttpConnector>, String>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl Webhook {
    pub(super) fn new(settings: UsageWebhook) -> Result<Self, String> {
        let uri = settings.url.parse::<Uri>().map_err(|error| error.to_string())?;
        let mut trusted = RootCertStore::empty();
        // Where there are none, an https server is not trusted, and the log says so.
        let authorities = settings.authorities.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs);
        trusted.add_parsable_certificates(authorities);
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(1)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let authorization = settings.token.map(|token| {
            let mut value = b"Bearer ".to_vec();
            value.extend_from_slice(token.text());
            let mut value =
                HeaderValue::from_bytes(&value).map_err(|_| "the token has characters that no header can")?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        Ok(Self { client, uri, authorization: authorization.transpose()?, timeout: settings.timeout })
    }

    pub(super) async fn deliver(&mut self, records: Vec<Box<[u8]>>) -> Result<(), Failure> {
        let lines: Vec<&str> = records.iter().filter_map(|record| str::from_utf8(record).ok()).collect();
        let mut request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("hairpin/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let refused = |error: &dyn std::error::Error| Failure::Refused(in_words(error));
        let request = request.body(format!("[{}]", lines.join(",\n"))).map_err(|error| refused(&error))?;
        let answer = timeout(self.timeout, self.client.request(request)).await;
        let answer = answer.map_err(|_| Failure::Refused("it did not answer in time".to_owned()))?;
        let status = answer.map_err(|error| refused(&error))?.status();
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::PAYLOAD_TOO_LARGE => Err(Failure::TooLarge(format!("it answered {status}"))),
            status => Err(Failure::Refused(format!("it answered {status}"))),
        }
    }
}

/// An error with its causes; URLs are not in them.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}
