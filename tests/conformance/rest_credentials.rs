//! User names that expire, and the passwords that go with them (draft-uberti-behave-turn-rest).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::client::Credentials;
use crate::wire::hmac_sha1;

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs()
}

/// A user name that is good for an hour.
pub fn in_an_hour(userid: &str) -> String {
    format!("{}:{userid}", now() + 3_600)
}

/// The credentials for a user name, whatever it says.
pub fn time_limited(secret: &str, username: &str) -> Credentials {
    let password = STANDARD.encode(hmac_sha1(secret.as_bytes(), username.as_bytes()));
    Credentials::new(username, password)
}
