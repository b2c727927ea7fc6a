//! Records as entries of a stream of Redis or Valkey: `id`, `kind` and the whole `record`.

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Pipeline};

use crate::config::UsageRedis;

pub(super) struct RedisSink {
    settings: UsageRedis,
    client: Client,
    connection: Option<MultiplexedConnection>,
}

impl RedisSink {
    pub(super) fn new(settings: UsageRedis) -> Result<Self, String> {
        // Which library the TLS underneath uses is asked of the process. Another's choice would do as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::open(settings.url.as_str()).map_err(|error| error.category().to_owned())?;
        Ok(Self { settings, client, connection: None })
    }

    pub(super) async fn deliver(&mut self, records: Vec<Box<[u8]>>) -> Result<(), String> {
        // After an error it is not known what the connection still has to say.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(self.settings.timeout))
                    .set_response_timeout(Some(self.settings.timeout));
                let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
                connecting.await.map_err(|error| in_words(&error))?
            }
        };
        let commands = commands(&self.settings, &records);
        commands.exec_async(&mut connection).await.map_err(|error| in_words(&error))?;
        self.connection = Some(connection);
        Ok(())
    }
}

fn commands(settings: &UsageRedis, records: &[Box<[u8]>]) -> Pipeline {
    /// What readers of the stream want to see without parsing the whole.
    #[derive(serde::Deserialize)]
    struct Head {
        id: String,
        kind: String,
    }
    let mut commands = ::redis::pipe();
    for record in records {
        let head = serde_json::from_slice(record).unwrap_or(Head { id: String::new(), kind: String::new() });
        let command = commands.cmd("XADD").arg(&settings.stream);
        if let Some(length) = settings.length_max {
            command.arg("MAXLEN").arg("~").arg(length);
        }
        command.arg("*").arg("id").arg(head.id).arg("kind").arg(head.kind).arg("record").arg(&record[..]).ignore();
    }
    commands
}

fn in_words(error: &::redis::RedisError) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.category()),
        None => error.to_string(),
    }
}
