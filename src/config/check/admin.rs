//! `[admin]`: where the admin API is, and who may use it.

use std::net::SocketAddr;

use super::{Checker, DAY, MINUTE};
use crate::config::values::Mistake;
use crate::config::{Admin, AdminSocket, CredentialsApi, Token, default_admin_socket, written};
use crate::shard::ListenAddress;
use crate::turn;

/// What the kernel has room for in the address of a Unix socket.
const SOCKET_BYTES_MAX: usize = 107;
const ORIGINS_MAX: usize = 64;

impl Checker<'_> {
    pub(super) fn admin(&mut self, written: &written::Admin, listen: &[ListenAddress], turn: &turn::Config) -> Admin {
        let address = self.admin_address(&written.listen, listen);
        let admin = Admin {
            listen: address,
            socket: self.admin_socket(&written.socket),
            token: self.token("admin.token", &written.token, &written.token_file),
            metrics_token: self.token("admin.metrics_token", &written.metrics_token, &written.metrics_token_file),
            credentials: self.credentials_api(written, listen, address),
        };
        let mut credentials = turn.realms.iter().map(|realm| &realm.credentials).chain([&turn.credentials]);
        if admin.credentials.token.is_some() && credentials.all(|credentials| credentials.secrets.is_empty()) {
            let wrong = "there is no shared secret to make credentials from";
            self.problem(
                "admin.credentials_token",
                Mistake::new(wrong, "add one to auth.secrets or auth.secret_files, or to a realm"),
            );
        }
        if let Some(address) = address
            && !address.ip().is_loopback()
        {
            let who = if admin.metrics_token.is_some() { "it" } else { "it, and can read the metrics" };
            let text = format!(
                "{address} is not a loopback address: whoever knows a token can use {who}, and nothing is encrypted; \
                 let a firewall decide who gets there."
            );
            self.note("admin.listen", text);
        }
        admin
    }

    fn admin_socket(&mut self, text: &str) -> AdminSocket {
        let socket = match text {
            "" | "off" => return AdminSocket::Off,
            "auto" => return default_admin_socket().map_or(AdminSocket::Off, AdminSocket::Default),
            path => self.relative(path),
        };
        if socket.as_os_str().len() > SOCKET_BYTES_MAX {
            let wrong = format!("the path is longer than the {SOCKET_BYTES_MAX} bytes that a socket's may have");
            self.problem("admin.socket", Mistake::new(wrong, "take a shorter one, like \"/run/hairpin/admin.sock\""));
        }
        AdminSocket::At(socket)
    }

    pub(super) fn token(&mut self, key: &str, text: &str, file: &str) -> Option<Token> {
        let token = match (text.is_empty(), file.is_empty()) {
            (true, true) => return None,
            (false, true) => self.secret(key, text.as_bytes(), &[]),
            (true, false) => self.secret_file(&format!("{key}_file"), file, &[]),
            (false, false) => {
                let wrong = format!("there is a token here and another one in {key}_file");
                self.problem(key, Mistake::new(wrong, "keep one of the two"));
                None
            }
        }?;
        Some(Token::new(&token.0))
    }

    fn credentials_api(
        &mut self,
        written: &written::Admin,
        listen: &[ListenAddress],
        admin: Option<SocketAddr>,
    ) -> CredentialsApi {
        let address = Some(&written.credentials_listen).filter(|text| !matches!(text.as_str(), "" | "off"));
        let address = address.and_then(|text| {
            let address = self.http_address("admin.credentials_listen", text, listen)?;
            if Some(address) == admin && address.port() != 0 {
                let wrong = "this is admin.listen, where credentials are to be had anyway";
                self.problem("admin.credentials_listen", Mistake::new(wrong, "take another port, or leave it out"));
            }
            Some(address)
        });
        let token = self.token("admin.credentials_token", &written.credentials_token, &written.credentials_token_file);
        if address.is_some() && token.is_none() {
            let wrong = "without a token nobody gets credentials here";
            self.problem("admin.credentials_listen", Mistake::new(wrong, "set admin.credentials_token as well"));
        }
        for (index, origin) in written.credentials_origins.iter().enumerate() {
            if !is_origin(origin) {
                let wrong = format!("\"{origin}\" is not the origin of a web page");
                let fix = "write scheme, name and port as browsers send them, like \"https://example.org\", or \"*\"";
                self.problem(format!("admin.credentials_origins[{index}]"), Mistake::new(wrong, fix));
            }
        }
        if written.credentials_origins.len() > ORIGINS_MAX {
            let wrong = format!("there are more than {ORIGINS_MAX} origins");
            self.problem("admin.credentials_origins", Mistake::new(wrong, "list fewer"));
        }
        let host = Some(&written.credentials_host).filter(|host| !host.is_empty());
        if let Some(host) = host
            && let Err(fix) = crate::config::ice_servers::host(host)
        {
            let wrong = format!("\"{host}\" is neither a name nor an address");
            self.problem("admin.credentials_host", Mistake::new(wrong, fix));
        }
        CredentialsApi {
            token,
            listen: address,
            host: host.cloned(),
            origins: written.credentials_origins.clone(),
            lifetime_secs: self.duration(
                "admin.credentials_lifetime",
                &written.credentials_lifetime,
                MINUTE..=366 * DAY,
            ),
        }
    }

    fn admin_address(&mut self, text: &str, listen: &[ListenAddress]) -> Option<SocketAddr> {
        if text.is_empty() || text == "off" {
            return None;
        }
        self.http_address("admin.listen", text, listen)
    }
}

/// As browsers write it: no path, no user, no upper case.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | ':' | '[' | ']');
    text == "*" || host.is_some_and(|host| !host.is_empty() && host.chars().all(allowed))
}

#[cfg(test)]
mod tests {
    use super::is_origin;

    #[test]
    fn origins_are_what_browsers_send() {
        for good in ["*", "https://example.org", "http://localhost:8080", "https://[::1]:3000"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in ["", "example.org", "https://", "https://example.org/", "https://Example.org", "null", "https://a b"]
        {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
