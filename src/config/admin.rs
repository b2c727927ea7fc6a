//! What the admin API may rely on, and where its socket is by default.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Token;

/// The admin API, and who may use it.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The TCP address, if there is one.
    pub listen: Option<SocketAddr>,
    /// The Unix socket.
    pub socket: AdminSocket,
    /// For everything that shows sessions or changes something, over TCP. Without one that is refused there.
    pub token: Option<Token>,
    /// For `/metrics` over TCP, if it needs one.
    pub metrics_token: Option<Token>,
    /// For web back ends.
    pub credentials: CredentialsApi,
}

/// Where the Unix socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminSocket {
    /// Nowhere.
    Off,
    /// At the place that the system provides; to go on without one is fine.
    Default(PathBuf),
    /// Here, or the server does not start.
    At(PathBuf),
}

/// `POST /v1/credentials`.
#[derive(Clone, Debug)]
pub struct CredentialsApi {
    /// What back ends show. Without one there is nothing to be had over TCP.
    pub token: Option<Token>,
    /// An address of its own, where nothing else is served.
    pub listen: Option<SocketAddr>,
    /// The name or address in the URIs; otherwise the first of the configuration that means anything to others.
    pub host: Option<String>,
    /// Origins of web pages that may ask; `*` means all.
    pub origins: Vec<String>,
    /// How long credentials are good for if nobody says.
    pub lifetime_secs: u32,
}

/// Below the directory of this user's running programs: what systemd says, or the XDG base directory.
pub fn default_admin_socket() -> Option<PathBuf> {
    below_runtime_directory(|name| std::env::var_os(name))
}

fn below_runtime_directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let given = |name| {
        let paths = variable(name)?.into_string().ok()?;
        // systemd lists several with colons.
        let path = PathBuf::from(paths.split(':').next()?);
        path.is_absolute().then_some(path)
    };
    given("RUNTIME_DIRECTORY")
        .map(|path| path.join("admin.sock"))
        .or_else(|| given("XDG_RUNTIME_DIR").map(|path| path.join("hairpin/admin.sock")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_where_the_system_wants_it() {
        let at = |known: &[(&str, &str)]| {
            let known: Vec<(String, String)> = known.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
            below_runtime_directory(|name| known.iter().find(|(key, _)| key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(at(&[("RUNTIME_DIRECTORY", "/run/hairpin:/run/b")]), Some("/run/hairpin/admin.sock".into()));
        assert_eq!(at(&[("XDG_RUNTIME_DIR", "/run/user/5")]), Some("/run/user/5/hairpin/admin.sock".into()));
        assert_eq!(at(&[("XDG_RUNTIME_DIR", "run")]), None);
        assert_eq!(at(&[]), None);
    }
}
