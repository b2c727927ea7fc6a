//! SQL databases: SQLite from a file, PostgreSQL and MariaDB from Debian's packages, each with its own data in the
//! directory of the test, and reached by a socket there.

use std::path::PathBuf;
use std::process::Command;

use nix::unistd::{User, geteuid};

use super::harness::Place;
use super::processes::{Process, eventually, find};
use super::scenario::{BackEnd, all_is_told_apart, who_was_known_goes_on};

const TABLE: &str = "CREATE TABLE turn_users (realm VARCHAR(128) NOT NULL, name VARCHAR(509) NOT NULL, \
                     password TEXT, key_md5 CHAR(32), key_sha256 CHAR(64), PRIMARY KEY (realm, name))";

/// For statements of the tests themselves.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn insert(name: &str, password: &str) -> String {
    // One user with keys, the others with passwords.
    let (password, key) = if name == "carol" {
        let key = hairpin::stun::integrity::long_term_key_md5(name, "hairpin", password);
        ("NULL".to_owned(), quoted(&hex::encode(key)))
    } else {
        (quoted(password), "NULL".to_owned())
    };
    format!(
        "INSERT INTO turn_users (realm, name, password, key_md5) VALUES ('hairpin', {}, {password}, {key})",
        quoted(name)
    )
}

fn delete(name: &str) -> String {
    format!("DELETE FROM turn_users WHERE name = {}", quoted(name))
}

macro_rules! execute {
    ($connection:ty, $url:expr, $sql:expr) => {
        block_on(async {
            use sqlx::{AssertSqlSafe, Connection, Executor};
            let mut connection = <$connection>::connect(&$url).await?;
            connection.execute(sqlx::raw_sql(AssertSqlSafe($sql))).await?;
            connection.close().await
        })
    };
}

struct Sqlite {
    file: PathBuf,
}

impl Sqlite {
    fn new(place: &Place) -> Self {
        let back_end = Self { file: place.path().join("users.db") };
        back_end.execute(TABLE.to_owned());
        back_end
    }

    fn execute(&self, sql: String) {
        let url = format!("sqlite:{}?mode=rwc", self.file.display());
        execute!(sqlx::SqliteConnection, url, sql).unwrap();
    }

    fn aside(&self) -> PathBuf {
        self.file.with_extension("away")
    }
}

impl BackEnd for Sqlite {
    fn settings(&self) -> String {
        // A relative path starts at the folder of the configuration.
        "url = \"sqlite:users.db\"".to_owned()
    }

    fn add(&mut self, name: &str, password: &str) {
        self.execute(insert(name, password));
    }

    fn remove(&mut self, name: &str) {
        self.execute(delete(name));
    }

    /// What was a database is none any more.
    fn stop(&mut self) {
        std::fs::copy(&self.file, self.aside()).unwrap();
        std::fs::write(&self.file, [0x55; 8192]).unwrap();
    }

    fn start(&mut self) {
        let bytes = std::fs::read(self.aside()).unwrap();
        std::fs::write(&self.file, bytes).unwrap();
    }
}

#[test]
fn sqlite_tells_users_apart_breaks_and_comes_back() {
    let place = Place::new();
    all_is_told_apart(&place, &mut Sqlite::new(&place));
}

#[test]
fn sqlite_broken_who_was_known_goes_on() {
    let place = Place::new();
    who_was_known_goes_on(&place, &mut Sqlite::new(&place));
}

/// A database server with its data and its socket in a directory of its own, below /tmp because the path of a socket is
/// short, and under a user of its own if the tests run as root, as both insist.
struct Database {
    folder: PathBuf,
    server: PathBuf,
    kind: Kind,
    user: Option<User>,
    process: Option<Process>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Postgres,
    Mariadb,
}

impl Database {
    fn new(kind: Kind) -> Option<Self> {
        let (server, setup) = match kind {
            Kind::Postgres => ("postgres", "initdb"),
            Kind::Mariadb => ("mariadbd", "mariadb-install-db"),
        };
        let (Some(server), Some(setup)) = (find(server), find(setup)) else {
            println!("SKIP: {server} is not installed");
            return None;
        };
        let user = geteuid().is_root().then(|| User::from_name("nobody").ok().flatten()).flatten();
        let folder =
            std::env::temp_dir().join(format!("hairpin-{}-{}", setup.file_name()?.display(), std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        if let Some(user) = &user {
            nix::unistd::chown(&folder, Some(user.uid), Some(user.gid)).unwrap();
        }
        let mut database = Self { folder, server, kind, user, process: None };
        let data = database.folder.join("data");
        let mut command = database.command(&setup);
        match kind {
            Kind::Postgres => {
                command.args(["--auth=trust", "--username=hairpin", "--encoding=UTF8", "--no-sync", "-D"]).arg(&data)
            }
            Kind::Mariadb => command
                .arg("--no-defaults")
                .arg(format!("--datadir={}", data.display()))
                .args(["--auth-root-authentication-method=normal", "--skip-test-db"]),
        };
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        database.start();
        database.execute(TABLE.to_owned());
        Some(database)
    }

    fn command(&self, program: &PathBuf) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("HOME", &self.folder);
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    fn url(&self) -> String {
        let folder = self.folder.display();
        match self.kind {
            Kind::Postgres => format!("postgres://hairpin@localhost/postgres?host={folder}"),
            Kind::Mariadb => format!("mysql://root@localhost/mysql?socket={folder}/socket"),
        }
    }

    fn try_execute(&self, sql: String) -> Result<(), sqlx::Error> {
        match self.kind {
            Kind::Postgres => execute!(sqlx::PgConnection, self.url(), sql),
            Kind::Mariadb => execute!(sqlx::MySqlConnection, self.url(), sql),
        }
    }

    fn execute(&self, sql: String) {
        self.try_execute(sql).unwrap();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl BackEnd for Database {
    fn settings(&self) -> String {
        format!("url = \"{}\"", self.url())
    }

    fn add(&mut self, name: &str, password: &str) {
        self.execute(insert(name, password));
    }

    fn remove(&mut self, name: &str) {
        self.execute(delete(name));
    }

    fn stop(&mut self) {
        self.process = None;
    }

    fn start(&mut self) {
        let data = self.folder.join("data");
        // What a killed PostgreSQL has left behind.
        let _ = std::fs::remove_file(data.join("postmaster.pid"));
        let mut command = self.command(&self.server);
        match self.kind {
            Kind::Postgres => command.arg("-D").arg(&data).arg("-k").arg(&self.folder).args(["-h", "", "-F"]),
            Kind::Mariadb => command
                .arg("--no-defaults")
                .arg(format!("--datadir={}", data.display()))
                .arg(format!("--socket={}/socket", self.folder.display()))
                .args(["--skip-networking", "--pid-file=pid"]),
        };
        self.process = Some(Process::start(&mut command));
        eventually("the database answers", || self.try_execute("SELECT 1".to_owned()).is_ok());
    }
}

#[test]
fn postgresql_tells_users_apart_dies_and_comes_back() {
    if let Some(mut database) = Database::new(Kind::Postgres) {
        all_is_told_apart(&Place::new(), &mut database);
        who_was_known_goes_on(&Place::new(), &mut database);
    }
}

#[test]
fn mariadb_tells_users_apart_dies_and_comes_back() {
    if let Some(mut database) = Database::new(Kind::Mariadb) {
        all_is_told_apart(&Place::new(), &mut database);
        who_was_known_goes_on(&Place::new(), &mut database);
    }
}
