//! Why there is no measurement, and what to do about it.

use std::fmt;

use super::CostError;

/// Why there is no measurement.
#[derive(Debug)]
pub enum BenchError {
    /// A system call of this side failed.
    Socket(&'static str, std::io::Error),
    /// The server did not answer this request in time.
    Silence(&'static str),
    /// The server refused: method and error code.
    Refused(&'static str, u16),
    /// The server answered with something that makes no sense.
    Nonsense(&'static str),
    /// The server closed a connection.
    Closed,
    /// TLS came to nothing, in rustls' words.
    Tls(String),
    /// More files are needed than this process may open: wanted and granted.
    Descriptors(u64, u64),
    /// Allocations do not come in pairs, or not in as many as there are threads.
    Uneven(usize),
    /// The cost could not be read.
    Cost(CostError),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(what, error) => write!(f, "cannot {what}: {error}"),
            Self::Silence(what) => write!(
                f,
                "no answer to {what}: is the server running, is the transport let through, and does it limit answers to \
                 one address (hairpin: limits.answers_per_prefix)?"
            ),
            Self::Refused(what, 401) => write!(f, "{what} was refused with 401: wrong user name or password"),
            Self::Refused(what, 403) => write!(
                f,
                "{what} was refused with 403: the server's policy must allow the peers' address (hairpin: peers.allow; \
                 coturn: --allow-loopback-peers, --allowed-peer-ip), or choose another one with --peer-address"
            ),
            Self::Refused(what, 486) => write!(
                f,
                "{what} was refused with 486: raise the server's quotas (hairpin: limits.allocations_per_user; \
                 coturn: --user-quota), or ask for fewer --allocations"
            ),
            Self::Refused(what, 508) => write!(
                f,
                "{what} was refused with 508: the server has no ports or no room left (hairpin: relay.ports, \
                 relay.port_quarantine, limits.allocations; coturn: --min-port, --max-port, --total-quota), or ask for fewer --allocations"
            ),
            Self::Refused(what, code) => write!(f, "{what} was refused with {code}"),
            Self::Nonsense(what) => write!(f, "the answer to {what} is not what the standard says"),
            Self::Closed => f.write_str(
                "the server closed a connection: does it limit them (hairpin: limits.connections_per_address), or does \
                 it expect another transport at this port?",
            ),
            Self::Tls(why) => write!(
                f,
                "TLS: {why}; name the issuer's certificate with --ca FILE, write the host that the certificate is for, \
                 or believe anybody with --insecure"
            ),
            Self::Descriptors(wanted, granted) => write!(
                f,
                "{wanted} sockets are needed and this process may have {granted} files open: raise the hard limit \
                 (ulimit -Hn, systemd: LimitNOFILE), or ask for fewer --allocations"
            ),
            Self::Uneven(allocations) => write!(
                f,
                "{allocations} allocations cannot be shared among the threads: with --relay-to-relay they go in pairs, \
                 and each of the --threads needs at least one (pair)"
            ),
            Self::Cost(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BenchError {}
