//! Binding: from the addresses an operator asked for to one set of sockets for each shard.

use std::error::Error;
use std::fmt;
use std::io;

use mio::net::TcpListener;

use super::listeners::Kind;
use super::{ListenAddress, ListenOptions};
use crate::net::{UdpSocket, tcp};
use crate::turn::Transport;

/// Why the shards did not start. Says what to do about it.
#[derive(Debug)]
pub enum StartError {
    /// A required address could not be bound.
    Bind {
        /// Which.
        listen: ListenAddress,
        /// What the system said.
        source: io::Error,
    },
    /// No address was asked for, or none of the optional ones could be bound.
    NothingToListenOn {
        /// Those that could not be bound.
        skipped: Vec<Skipped>,
    },
    /// The system refused something else.
    System {
        /// What was wanted.
        wanted: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// An optional address that could not be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Which.
    pub listen: ListenAddress,
    /// Why, for people.
    pub why: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { listen, source } => write!(f, "cannot listen on {listen}: {}", explain(source)),
            Self::NothingToListenOn { skipped } if skipped.is_empty() => {
                f.write_str("there is no address to listen on; give at least one")
            }
            Self::NothingToListenOn { skipped } => {
                f.write_str("none of the addresses to listen on could be used")?;
                skipped.iter().try_for_each(|skipped| write!(f, "; {}: {}", skipped.listen, skipped.why))
            }
            Self::System { wanted, source } => write!(f, "the system refused {wanted}: {}", explain(source)),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::System { source, .. } => Some(source),
            Self::NothingToListenOn { .. } => None,
        }
    }
}

impl StartError {
    /// For `map_err`.
    pub(super) fn system(wanted: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { wanted, source }
    }
}

/// The system's words, and what to do about them where that is known.
pub(super) fn explain(error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "another program has this port; find it with `ss -lnptu`, or choose another port",
        Some(libc::EACCES | libc::EPERM) => {
            "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE, for example \
             AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit"
        }
        Some(libc::EADDRNOTAVAIL) => "no interface of this machine has this address; see `ip address`",
        Some(libc::EAFNOSUPPORT) => "this machine does not speak this IP version",
        Some(libc::EMFILE) => {
            "out of file descriptors; raise the limit (LimitNOFILE= in the systemd unit, `ulimit -n`)"
        }
        Some(libc::ENFILE) => "the machine is out of file descriptors; raise the sysctl fs.file-max",
        Some(libc::ENOMEM | libc::ENOBUFS) => "out of memory for sockets; see the sysctls net.ipv4.udp_mem and tcp_mem",
        _ => return error.to_string(),
    };
    format!("{advice} ({error})")
}

/// What was bound.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// With actual ports.
    pub(super) listening: Vec<ListenAddress>,
    pub(super) skipped: Vec<Skipped>,
    /// For each shard a socket for each address in `listening`.
    pub(super) shards: Vec<Vec<(ListenAddress, Kind)>>,
    /// Listeners whose connections begin with something else than messages, one for each address, for the thread of the
    /// handshakes.
    pub(super) openings: Vec<(ListenAddress, TcpListener)>,
}

/// Binds every address once for each shard, and those for the thread of the handshakes once.
pub(super) fn bind(listen: &[ListenAddress], shards: u16, buffer_bytes: usize) -> Result<Bound, StartError> {
    let mut bound = Bound::default();
    bound.shards.resize_with(usize::from(shards), Vec::new);
    for &listen in listen {
        let is_plain = listen.options == ListenOptions::default();
        if listen.transport == Transport::Tls || (listen.transport == Transport::Tcp && !is_plain) {
            let result = tcp::listen(listen.address).and_then(|listener| Ok((listener.local_addr()?, listener)));
            match result {
                Ok((address, listener)) => {
                    let listen = ListenAddress { address, ..listen };
                    bound.listening.push(listen);
                    bound.openings.push((listen, listener));
                }
                Err(source) if listen.required => return Err(StartError::Bind { listen, source }),
                Err(error) => bound.skipped.push(Skipped { listen, why: explain(&error) }),
            }
            continue;
        }
        match bind_group(listen, shards, buffer_bytes) {
            Ok((address, sockets)) => {
                bound.listening.push(address);
                for (shard, socket) in bound.shards.iter_mut().zip(sockets) {
                    shard.push((address, socket));
                }
            }
            Err(source) if listen.required => return Err(StartError::Bind { listen, source }),
            Err(error) => bound.skipped.push(Skipped { listen, why: explain(&error) }),
        }
    }
    if bound.listening.is_empty() {
        return Err(StartError::NothingToListenOn { skipped: bound.skipped });
    }
    Ok(bound)
}

/// One SO_REUSEPORT group. The first socket finds the port if that is left open, the others follow it.
fn bind_group(listen: ListenAddress, shards: u16, buffer_bytes: usize) -> io::Result<(ListenAddress, Vec<Kind>)> {
    let mut sockets = Vec::with_capacity(usize::from(shards));
    let address = match listen.transport {
        Transport::Udp | Transport::Dtls => {
            let first = UdpSocket::listener(listen.address, buffer_bytes)?;
            let address = first.local_address();
            for _ in 1..shards {
                sockets.push(Kind::Udp(UdpSocket::join(&first, buffer_bytes)?));
            }
            sockets.push(Kind::Udp(first));
            address
        }
        Transport::Tcp | Transport::Tls => {
            let first = tcp::listen(listen.address)?;
            let address = first.local_addr()?;
            for _ in 1..shards {
                sockets.push(Kind::Tcp(tcp::join(&first)?));
            }
            sockets.push(Kind::Tcp(first));
            address
        }
    };
    Ok((ListenAddress { address, ..listen }, sockets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(address: &str, required: bool) -> ListenAddress {
        ListenAddress {
            transport: Transport::Udp,
            address: address.parse().unwrap(),
            required,
            options: ListenOptions::default(),
        }
    }

    #[test]
    fn a_required_address_that_is_taken_is_named_with_the_fix() {
        let taken = UdpSocket::listener("127.0.0.1:0".parse().unwrap(), 4096).unwrap();
        let address = taken.local_address().to_string();
        let error = bind(&[udp("127.0.0.1:0", true), udp(&address, true)], 2, 4096).expect_err("taken");
        let text = error.to_string();
        assert!(text.contains(&address) && text.contains("udp") && text.contains("ss -lnptu"), "{text}");
    }

    #[test]
    fn optional_addresses_are_skipped_and_reported() {
        // TEST-NET-1 is on no interface.
        let bound = bind(&[udp("192.0.2.1:0", false), udp("127.0.0.1:0", true)], 3, 4096).unwrap();
        assert_eq!(bound.skipped.len(), 1);
        assert!(bound.skipped[0].why.contains("ip address"), "{}", bound.skipped[0].why);
        assert_eq!(bound.listening.len(), 1);
        assert_ne!(bound.listening[0].address.port(), 0);
        assert!(bound.shards.iter().all(|sockets| sockets.len() == 1));

        let error = bind(&[udp("192.0.2.1:0", false)], 1, 4096).expect_err("nothing left");
        assert!(error.to_string().contains("192.0.2.1"), "{error}");
        assert!(bind(&[], 1, 4096).is_err());
    }
}
