//! SQL databases, through one library. The query is the operator's, its parameters are bound and never written into it.

use std::str::FromStr;

use sqlx::{AssertSqlSafe, Column, Pool, Row};

use super::{Finding, KeySource};
use crate::config::{KeyBackend, KeyRecord, QueryPart};

/// The query as the database wants it, and which value goes where.
struct Query {
    text: String,
    parameters: Vec<QueryPart>,
}

impl Query {
    /// Numbered parameters (`$1`) or not (`?`).
    fn new(backend: &KeyBackend, is_numbered: bool) -> Self {
        let (mut text, mut parameters) = (String::new(), Vec::new());
        for part in &backend.query {
            match part {
                QueryPart::Text(sql) => text.push_str(sql),
                part => {
                    parameters.push(part.clone());
                    if is_numbered {
                        text.push_str(&format!("${}", parameters.len()));
                    } else {
                        text.push('?');
                    }
                }
            }
        }
        Self { text, parameters }
    }
}

/// One kind of database: its pool, made without connecting, and the look-up.
macro_rules! database {
    ($make:ident, $source:ident, $database:ty, $options:ty, $pool:ty, $numbered:literal, $adjust:expr) => {
        pub(super) struct $source {
            pool: Pool<$database>,
            query: Query,
        }

        pub(super) fn $make(backend: &KeyBackend) -> Result<$source, String> {
            let options = <$options>::from_str(&backend.url).map_err(|_| "auth.backend.url is not understood")?;
            let adjust: fn($options) -> $options = $adjust;
            let pool = <$pool>::new()
                .max_connections(u32::try_from(backend.concurrent).unwrap_or(u32::MAX))
                .acquire_timeout(backend.timeout)
                .connect_lazy_with(adjust(options));
            Ok($source { pool, query: Query::new(backend, $numbered) })
        }

        impl KeySource for $source {
            fn find<'f>(&'f self, realm: &'f str, name: &'f str) -> Finding<'f> {
                Box::pin(async move {
                    // What the operator wrote, with places for parameters.
                    let mut query = sqlx::query::<$database>(AssertSqlSafe(self.query.text.as_str()));
                    for part in &self.query.parameters {
                        query = query.bind(if *part == QueryPart::Realm { realm } else { name });
                    }
                    let row = query.fetch_optional(&self.pool).await.map_err(|error| error.to_string())?;
                    let Some(row) = row else { return Ok(None) };
                    let mut record = KeyRecord::default();
                    for column in row.columns() {
                        let Some(field) = record.field(column.name()) else { continue };
                        let text: Option<String> = row.try_get(column.ordinal()).map_err(|error| error.to_string())?;
                        *field = text.unwrap_or_default();
                    }
                    Ok(Some(record))
                })
            }
        }
    };
}

#[cfg(feature = "sqlite")]
database!(
    sqlite,
    SqliteSource,
    sqlx::Sqlite,
    sqlx::sqlite::SqliteConnectOptions,
    sqlx::sqlite::SqlitePoolOptions,
    false,
    |options| options.read_only(true)
);

#[cfg(feature = "postgres")]
database!(
    postgres,
    PostgresSource,
    sqlx::Postgres,
    sqlx::postgres::PgConnectOptions,
    sqlx::postgres::PgPoolOptions,
    true,
    |options| options
);

#[cfg(feature = "mysql")]
database!(
    mysql,
    MysqlSource,
    sqlx::MySql,
    sqlx::mysql::MySqlConnectOptions,
    sqlx::mysql::MySqlPoolOptions,
    false,
    |options| options
);
