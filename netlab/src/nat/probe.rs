//! NAT behaviour discovery (RFC 5780), as a client: what the NATs between here and a server with two addresses and two
//! ports do.
//!
//! The tests are those of RFC 5780, section 4: mapping (4.3) and filtering (4.4) with a socket each, since what the one
//! sends would change what the other finds; hairpinning between two sockets; and, if asked for, how long a mapping
//! lives (4.6).

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use patchbay::Device;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

use super::stun::{self, Answer, Wish};
use super::{Behaviour, Filtering, Mapping, PortAssignment};

/// How long to wait for an answer before asking again.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often to ask before no answer is taken for a filter. In the lab nothing else loses packets.
const ATTEMPTS: u32 = 3;

/// How many sockets are looked at to tell preserved ports from luck.
const PORT_SAMPLES: usize = 4;

/// What has been found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address here.
    pub local: SocketAddr,
    /// The address that the server sees.
    pub mapped: SocketAddr,
    /// How ports depend on destinations; `None`: the address is not translated.
    pub mapping: Option<Mapping>,
    /// Whose packets come in.
    pub filtering: Filtering,
    /// Whether ports stay what they are.
    pub ports: PortAssignment,
    /// Whether a packet to one's own external address comes back.
    pub hairpinning: bool,
    /// How long a mapping lives: at least the first, and less than the second, if it was seen to end.
    pub lifetime: Option<(Duration, Option<Duration>)>,
}

/// Asks the server, which must know RFC 5780. `lifetime`: how long to wait, in all, to see a mapping end; without it
/// that is not tried.
///
/// # Errors
/// The server does not answer, or has no other address.
pub async fn discover(server: SocketAddr, lifetime: Option<Duration>) -> Result<Found> {
    let socket = bind().await?;
    let first = ask(&socket, server, Wish::default()).await?;
    let first = first.with_context(|| format!("{server} answers no STUN Binding over UDP"))?;
    let other = first.other.with_context(|| {
        format!("{server} has no other address (RFC 5780); Hairpin has one with [nat_discovery] in its configuration")
    })?;
    let local = SocketAddr::new(local_address(server).await?, socket.local_addr()?.port());

    let filtering = filtering(server).await?;
    let mapping = if first.mapped == local { None } else { Some(mapping(&socket, server, other, first).await?) };
    Ok(Found {
        local,
        mapped: first.mapped,
        mapping,
        filtering,
        ports: port_assignment(server).await?,
        hairpinning: hairpinning(server).await?,
        lifetime: match lifetime {
            Some(limit) => Some(mapping_lifetime(server, limit).await?),
            None => None,
        },
    })
}

/// RFC 5780, section 4.3.
async fn mapping(socket: &UdpSocket, server: SocketAddr, other: SocketAddr, first: Answer) -> Result<Mapping> {
    let mapped = async |target: SocketAddr| -> Result<SocketAddr> {
        let answer = ask(socket, target, Wish::default()).await?;
        Ok(answer.with_context(|| format!("{target}, the server's other address, does not answer"))?.mapped)
    };
    let second = mapped(SocketAddr::new(other.ip(), server.port())).await?;
    if second == first.mapped {
        return Ok(Mapping::EndpointIndependent);
    }
    let third = mapped(other).await?;
    Ok(if third == second { Mapping::AddressDependent } else { Mapping::AddressAndPortDependent })
}

/// RFC 5780, section 4.4.
async fn filtering(server: SocketAddr) -> Result<Filtering> {
    let socket = bind().await?;
    ask(&socket, server, Wish::default()).await?.context("the server has stopped answering")?;
    let elsewhere = Wish { change_address: true, change_port: true, response_port: None };
    if ask(&socket, server, elsewhere).await?.is_some() {
        return Ok(Filtering::EndpointIndependent);
    }
    let other_port = Wish { change_port: true, ..Wish::default() };
    let heard = ask(&socket, server, other_port).await?.is_some();
    Ok(if heard { Filtering::AddressDependent } else { Filtering::AddressAndPortDependent })
}

async fn port_assignment(server: SocketAddr) -> Result<PortAssignment> {
    for _ in 0..PORT_SAMPLES {
        let socket = bind().await?;
        let answer = ask(&socket, server, Wish::default()).await?.context("the server has stopped answering")?;
        if answer.mapped.port() != socket.local_addr()?.port() {
            return Ok(PortAssignment::Random);
        }
    }
    Ok(PortAssignment::Preserving)
}

/// Two sockets send to each other's external address, so that what filters by address lets them.
async fn hairpinning(server: SocketAddr) -> Result<bool> {
    let sockets = [bind().await?, bind().await?];
    let mut mapped = Vec::new();
    for socket in &sockets {
        mapped.push(ask(socket, server, Wish::default()).await?.context("the server has stopped answering")?.mapped);
    }
    let transaction = stun::new_transaction();
    let greeting = stun::request(transaction, Wish::default());
    for _ in 0..ATTEMPTS {
        // An address of the other socket that nobody answers at may be reported as an error: that is an answer, too.
        let _ = sockets[0].send_to(&greeting, mapped[1]).await;
        let _ = sockets[1].send_to(&greeting, mapped[0]).await;
        let deadline = Instant::now() + PATIENCE;
        while let Some(message) = receive(&sockets[0], deadline).await? {
            if message == greeting {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether two hosts behind the same NATs hear each other at their external addresses. What one host alone cannot
/// always find out: where source and destination are the same host, Linux may drop a packet that it has translated.
///
/// # Errors
/// The server does not answer.
pub async fn hairpinning_between(hosts: [&Device; 2], server: SocketAddr) -> Result<bool> {
    let mut sides = Vec::new();
    for host in hosts {
        let side = host.spawn(move |_| async move {
            let socket = bind().await?;
            let answer = ask(&socket, server, Wish::default()).await?;
            anyhow::Ok((socket, answer.with_context(|| format!("{server} does not answer"))?.mapped))
        })?;
        sides.push(side.await??);
    }
    let [(first, first_mapped), (second, second_mapped)] =
        <[_; 2]>::try_from(sides).ok().context("there are two hosts")?;
    let first = hosts[0].spawn(move |_| greets(first, second_mapped))?;
    let second = hosts[1].spawn(move |_| greets(second, first_mapped))?;
    Ok(first.await?? && second.await??)
}

/// Sends to an address and waits for somebody who does the same.
async fn greets(socket: UdpSocket, to: SocketAddr) -> Result<bool> {
    let mut heard = false;
    for _ in 0..ATTEMPTS {
        let _ = socket.send_to(b"hairpin", to).await;
        let deadline = Instant::now() + PATIENCE;
        while let Some(message) = receive(&socket, deadline).await? {
            heard |= message == b"hairpin";
        }
    }
    Ok(heard)
}

/// RFC 5780, section 4.6: how long one socket may be silent and still hear what another one has the server send to its
/// port. Every round takes a new socket, and twice as long.
async fn mapping_lifetime(server: SocketAddr, limit: Duration) -> Result<(Duration, Option<Duration>)> {
    let (mut alive, mut silence) = (Duration::ZERO, Duration::from_secs(1));
    let mut left = limit;
    while silence <= left {
        let (silent, asking) = (bind().await?, bind().await?);
        let mapped = ask(&silent, server, Wish::default()).await?.context("the server has stopped answering")?.mapped;
        // Waiting is what is measured: the NAT has no event for a mapping that it forgets.
        sleep(silence).await;
        left -= silence;
        let wish = Wish { response_port: Some(mapped.port()), ..Wish::default() };
        if !comes_to(&silent, &asking, server, wish).await? {
            return Ok((alive, Some(silence)));
        }
        (alive, silence) = (silence, silence * 2);
    }
    Ok((alive, None))
}

/// Whether the answer to a request of one socket arrives at another.
async fn comes_to(listening: &UdpSocket, asking: &UdpSocket, server: SocketAddr, wish: Wish) -> Result<bool> {
    for _ in 0..ATTEMPTS {
        let transaction = stun::new_transaction();
        send(asking, server, &stun::request(transaction, wish)).await?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(message) = receive(listening, deadline).await? {
            if stun::answer(&message, transaction).is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Sends a request until it is answered, or is not.
pub(super) async fn ask(socket: &UdpSocket, server: SocketAddr, wish: Wish) -> Result<Option<Answer>> {
    for _ in 0..ATTEMPTS {
        let transaction = stun::new_transaction();
        send(socket, server, &stun::request(transaction, wish)).await?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(message) = receive(socket, deadline).await? {
            if let Some(answer) = stun::answer(&message, transaction) {
                return Ok(Some(answer));
            }
        }
    }
    Ok(None)
}

/// The next packet before the deadline. ICMP errors are no packets.
async fn receive(socket: &UdpSocket, deadline: Instant) -> Result<Option<Vec<u8>>> {
    let mut bytes = [0; 1500];
    loop {
        match timeout(deadline.saturating_duration_since(Instant::now()), socket.recv_from(&mut bytes)).await {
            Err(_) => return Ok(None),
            Ok(Ok((length, _))) => return Ok(Some(bytes[..length].to_vec())),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
            Ok(Err(error)) => return Err(error).context("cannot receive"),
        }
    }
}

async fn send(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> Result<()> {
    socket.send_to(bytes, to).await.with_context(|| format!("cannot send to {to}"))?;
    Ok(())
}

pub(super) async fn bind() -> Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("cannot open a UDP socket")
}

/// Which address packets to the server leave from.
async fn local_address(server: SocketAddr) -> Result<IpAddr> {
    let socket = bind().await?;
    socket.connect(server).await.with_context(|| format!("there is no way to {server}"))?;
    Ok(socket.local_addr()?.ip())
}

impl Found {
    /// Whether this is what a NAT (or none) promises.
    ///
    /// # Errors
    /// The first promise that is not kept.
    pub fn holds(&self, promised: Option<Behaviour>) -> Result<()> {
        let Some(promised) = promised else {
            let open = self.filtering == Filtering::EndpointIndependent;
            return match (self.mapping, open) {
                (None, true) => Ok(()),
                _ => bail!("expected no NAT, found {self}"),
            };
        };
        for (what, found, expected) in [
            ("mapping", self.mapping.map(|found| found.to_string()), promised.mapping.to_string()),
            ("filtering", Some(self.filtering.to_string()), promised.filtering.to_string()),
            ("ports", Some(self.ports.to_string()), promised.ports.to_string()),
            ("hairpinning", Some(self.hairpinning.to_string()), promised.hairpinning.to_string()),
        ] {
            if found.as_deref() != Some(&expected) {
                bail!("expected {what}: {expected}, found {}", found.as_deref().unwrap_or("no NAT"));
            }
        }
        if let Some((alive, dead)) = self.lifetime {
            let timeout = Duration::from_secs(promised.udp_timeout_seconds.into());
            if timeout < alive || dead.is_some_and(|dead| dead <= timeout) {
                bail!("expected mappings that live for {} s, found {}", timeout.as_secs(), lifetime_words(alive, dead));
            }
        }
        Ok(())
    }
}

fn lifetime_words(alive: Duration, dead: Option<Duration>) -> String {
    match dead {
        Some(dead) => format!("between {} and {} s", alive.as_secs(), dead.as_secs()),
        None => format!("at least {} s", alive.as_secs()),
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mapping {
            None => write!(f, "no NAT at {}; filtering: {}", self.local, self.filtering)?,
            Some(mapping) => {
                writeln!(f, "NAT between {} and {}", self.local, self.mapped)?;
                writeln!(f, "  mapping      {mapping}")?;
                writeln!(f, "  filtering    {}", self.filtering)?;
                writeln!(f, "  ports        {}", self.ports)?;
                write!(f, "  hairpinning  {}", if self.hairpinning { "yes" } else { "no" })?;
            }
        }
        if let Some((alive, dead)) = self.lifetime {
            write!(f, "\n  lifetime     {}", lifetime_words(alive, dead))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Nat;

    fn found(behaviour: Behaviour) -> Found {
        Found {
            local: "192.168.1.2:5000".parse().unwrap(),
            mapped: "198.18.0.2:5000".parse().unwrap(),
            mapping: Some(behaviour.mapping),
            filtering: behaviour.filtering,
            ports: behaviour.ports,
            hairpinning: behaviour.hairpinning,
            lifetime: None,
        }
    }

    #[test]
    fn a_promise_is_kept_in_all_its_parts_or_not() {
        let promised = Nat::PortRestrictedShort.behaviour().unwrap();
        assert!(found(promised).holds(Some(promised)).is_ok());
        for broken in [
            Behaviour { mapping: Mapping::AddressDependent, ..promised },
            Behaviour { filtering: Filtering::AddressDependent, ..promised },
            Behaviour { ports: PortAssignment::Random, ..promised },
            Behaviour { hairpinning: true, ..promised },
        ] {
            assert!(found(broken).holds(Some(promised)).is_err(), "{broken}");
        }
        let lived = |alive, dead: Option<u64>| Found {
            lifetime: Some((Duration::from_secs(alive), dead.map(Duration::from_secs))),
            ..found(promised)
        };
        assert!(lived(2, Some(4)).holds(Some(promised)).is_ok());
        assert!(lived(4, Some(8)).holds(Some(promised)).is_err());
        assert!(lived(1, Some(2)).holds(Some(promised)).is_err());
        assert!(lived(4, None).holds(Some(promised)).is_err());
        assert!(found(promised).holds(None).is_err());
        assert!(Found { mapping: None, ..found(Nat::FullCone.behaviour().unwrap()) }.holds(None).is_ok());
    }
}
