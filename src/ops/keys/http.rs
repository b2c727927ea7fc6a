//! A web server that is asked for each user: POST with `{"realm": …, "user": …}`, answered with 404, or with 200 and
//! `{"password": …}` or `{"key_md5": …, "key_sha256": …}`.

use axum::body::{Body, to_bytes};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::{Finding, KeySource};
use crate::config::{KeyBackend, KeyRecord};

/// An answer has a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Connections are kept and used again.
pub(super) struct HttpSource {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl HttpSource {
    pub(super) fn new(backend: &KeyBackend) -> Result<Self, String> {
        let uri: Uri = backend.url.parse().map_err(|_| "auth.backend.url is not understood")?;
        let authorization = match backend.authorization.as_str() {
            "" => None,
            text => {
                let mut value = HeaderValue::from_str(text).map_err(|_| "auth.backend.authorization is no header")?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
            .map_err(|error| format!("the certificates that this machine trusts cannot be read: {error}"))?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), uri, authorization })
    }
}

impl KeySource for HttpSource {
    fn find<'f>(&'f self, realm: &'f str, name: &'f str) -> Finding<'f> {
        Box::pin(async move {
            let question = serde_json::json!({ "realm": realm, "user": name }).to_string();
            let mut request = Request::post(self.uri.clone())
                .header(CONTENT_TYPE, "application/json")
                .body(Body::from(question))
                .map_err(|error| error.to_string())?;
            if let Some(authorization) = &self.authorization {
                request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            }
            let response = self.client.request(request).await.map_err(|error| error.to_string())?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                status => return Err(format!("it answered {status}")),
            }
            let body = to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
            let body = body.map_err(|error| error.to_string())?;
            // What stands there is secret: not repeated.
            let record: KeyRecord =
                serde_json::from_slice(&body).map_err(|_| "its answer is not the JSON that is expected".to_owned())?;
            Ok(Some(record))
        })
    }
}
