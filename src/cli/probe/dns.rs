//! Look-ups in DNS, one at a time.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::runtime::Runtime;

/// How long one server may take, each of two times.
const PATIENCE: Duration = Duration::from_secs(2);

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// Empty: the service is decidedly not offered.
    pub target: String,
}

/// A NAPTR record as S-NAPTR has them (RFC 3958): without regular expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naptr {
    pub order: u16,
    pub preference: u16,
    /// In lower case: `s` leads to SRV, `a` to addresses, nothing to more NAPTR.
    pub flags: String,
    /// Like `RELAY:turn.udp:turn.tcp`.
    pub services: String,
    pub replacement: String,
}

/// This machine's DNS, or one server.
pub struct Dns {
    runtime: Runtime,
    /// None: this machine does not say which servers to ask.
    resolver: Result<TokioResolver, String>,
    /// A server was named: nothing else is asked, not even the file of hosts.
    is_chosen: bool,
}

impl Dns {
    /// Asks the named server, or those of this machine.
    ///
    /// # Errors
    /// The operating system gives no means to wait for sockets.
    pub fn new(server: Option<SocketAddr>) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no event loop: {error}"))?;
        let resolver = runtime.block_on(async { resolver(server) }).map_err(|error| error.to_string());
        Ok(Self { runtime, resolver, is_chosen: server.is_some() })
    }

    /// In the order to be tried. Of equal priority the heaviest comes first, not a random one: a probe should say the
    /// same twice.
    ///
    /// # Errors
    /// No answer, or one that says nothing about the name. That there is no such record is no error.
    pub fn srv(&self, name: &str) -> Result<Vec<Srv>, String> {
        let mut found: Vec<Srv> = self.records(name, RecordType::SRV, |data| match data {
            RData::SRV(srv) => {
                Some(Srv { priority: srv.priority, weight: srv.weight, port: srv.port, target: plain(&srv.target) })
            }
            _ => None,
        })?;
        found.sort_by_key(|srv| (srv.priority, Reverse(srv.weight), srv.port, srv.target.clone()));
        Ok(found)
    }

    /// In the order to be tried.
    ///
    /// # Errors
    /// As [`Dns::srv`].
    pub fn naptr(&self, name: &str) -> Result<Vec<Naptr>, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut found: Vec<Naptr> = self.records(name, RecordType::NAPTR, |data| match data {
            RData::NAPTR(naptr) if naptr.regexp.is_empty() => Some(Naptr {
                order: naptr.order,
                preference: naptr.preference,
                flags: text(&naptr.flags).to_ascii_lowercase(),
                services: text(&naptr.services),
                replacement: plain(&naptr.replacement),
            }),
            _ => None,
        })?;
        found.sort_by_key(|naptr| (naptr.order, naptr.preference));
        Ok(found)
    }

    /// IPv4 and IPv6 addresses. Without a chosen server it is this machine's own way to look them up, which knows its
    /// file of hosts and whatever else it is set up with.
    ///
    /// # Errors
    /// As [`Dns::srv`]; and that there is none is one, too.
    pub fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let found: Vec<IpAddr> = if self.is_chosen {
            let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
            let found = self.runtime.block_on(resolver.lookup_ip(whole(name)?));
            found.map_err(|error| error.to_string())?.iter().collect()
        } else {
            let found = (name, 0).to_socket_addrs().map_err(|error| error.to_string())?;
            found.map(|address| address.ip()).collect()
        };
        if found.is_empty() { Err(format!("{name} has no address")) } else { Ok(found) }
    }

    fn records<T>(&self, name: &str, kind: RecordType, read: impl Fn(&RData) -> Option<T>) -> Result<Vec<T>, String> {
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        match self.runtime.block_on(resolver.lookup(whole(name)?, kind)) {
            Ok(found) => Ok(found.answers().iter().filter_map(|record: &Record| read(&record.data)).collect()),
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let mut named = NameServerConfig::udp_and_tcp(server.ip());
            named.connections.iter_mut().for_each(|connection| connection.port = server.port());
            let config = ResolverConfig::from_name_servers(vec![named]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        }
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = 2;
    builder.build()
}

/// A name to which nothing is added.
fn whole(name: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(name).map_err(|error| format!("{name}: {error}"))?;
    name.set_fqdn(true);
    Ok(name)
}

/// Without the dot at the end.
fn plain(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}
