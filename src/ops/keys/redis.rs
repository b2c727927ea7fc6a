//! Redis and Valkey: a hash for each user.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tokio::sync::Mutex;

use super::{Finding, KeySource};
use crate::config::{KeyBackend, KeyRecord, QueryPart};

/// One connection, on which many questions are under way at the same time.
pub(super) struct RedisSource {
    client: Client,
    settings: AsyncConnectionConfig,
    key: Vec<QueryPart>,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisSource {
    pub(super) fn new(backend: &KeyBackend) -> Result<Self, String> {
        let client = Client::open(backend.url.as_str()).map_err(|_| "auth.backend.url is not understood")?;
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(backend.timeout))
            .set_response_timeout(Some(backend.timeout));
        Ok(Self { client, settings, key: backend.query.clone(), connection: Mutex::new(None) })
    }

    async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let connection = self.client.get_multiplexed_async_connection_with_config(&self.settings).await?;
        Ok(kept.insert(connection).clone())
    }

    async fn ask(&self, key: &str) -> redis::RedisResult<[Option<String>; 3]> {
        let mut connection = self.connection().await?;
        let command = redis::cmd("HMGET").arg(key).arg(KeyRecord::FIELDS).to_owned();
        let (password, key_md5, key_sha256) = command.query_async(&mut connection).await?;
        Ok([password, key_md5, key_sha256])
    }
}

impl KeySource for RedisSource {
    fn find<'f>(&'f self, realm: &'f str, name: &'f str) -> Finding<'f> {
        Box::pin(async move {
            let key: String = self.key.iter().map(|part| part.filled_in(realm, name)).collect();
            let mut values = self.ask(&key).await;
            // A connection that was kept may have ended since, and a new one works: once more.
            if values.as_ref().is_err_and(|error| error.is_io_error() || error.is_connection_dropped()) {
                *self.connection.lock().await = None;
                values = self.ask(&key).await;
            }
            let values = values.map_err(|error| error.to_string())?;
            if values.iter().all(Option::is_none) {
                return Ok(None);
            }
            let [password, key_md5, key_sha256] = values.map(Option::unwrap_or_default);
            Ok(Some(KeyRecord { password, key_md5, key_sha256 }))
        })
    }
}
