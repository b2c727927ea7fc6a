//! The keys of the file and their defaults, as the operator writes them: text and numbers, nothing checked.
//!
//! Durations, sizes, addresses and prefixes stay text here, so that `check` can complain about all of them at once and
//! in its own words. Numbers are wider than their bounds for the same reason. Each key is explained in
//! `config.example.toml`, which a test keeps complete and equal to these defaults.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};

/// Declares a section: a struct whose keys each have a default, and which tolerates no others.
macro_rules! section {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $key:ident: $kind:ty = $default:expr,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$inner])* pub $key: $kind,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $name {
            /// The names of its keys.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key)),+];
        }
    };
}

// Below the macro, which it uses.
mod auth;

pub use auth::{Auth, Backend, Realm, User};
#[cfg(test)]
pub use auth::{BindingUser, TokenKey};

fn addresses<const N: usize>(values: [&str; N]) -> Vec<ListenEntry> {
    values.map(|address| ListenEntry::Address(address.into())).into()
}

section! {
    /// The whole file.
    Written {
        /// Shards; 0 is one per core.
        threads: i64 = 0,
        /// The SOFTWARE attribute; empty leaves it out.
        software: String = "hairpin".into(),
        /// Where clients connect.
        listen: Listen = Listen::default(),
        /// What TLS clients get to see.
        tls: Tls = Tls::default(),
        /// Which proxies may say who a client is.
        proxy_protocol: ProxyProtocol = ProxyProtocol::default(),
        /// What happens to TLS clients that are not for us.
        pass_through: PassThrough = PassThrough::default(),
        /// Where relayed addresses come from.
        relay: Relay = Relay::default(),
        /// TCP relays.
        tcp_relay: TcpRelay = TcpRelay::default(),
        /// Who may allocate.
        auth: Auth = Auth::default(),
        /// Tenants with their own users, secrets and limits.
        realms: Vec<Realm> = Vec::new(),
        /// How long allocations live.
        allocations: Allocations = Allocations::default(),
        /// How much there may be.
        limits: Limits = Limits::default(),
        /// Kernel buffers.
        sockets: Sockets = Sockets::default(),
        /// Relaying in the kernel.
        offload: Offload = Offload::default(),
        /// Who may be reached.
        peers: Peers = Peers::default(),
        /// Who may not allocate.
        clients: Clients = Clients::default(),
        /// Who is sent to another server.
        redirect: Redirect = Redirect::default(),
        /// What clients may find out about their NATs.
        nat_discovery: NatDiscovery = NatDiscovery::default(),
        /// What older clients are allowed.
        compatibility: Compatibility = Compatibility::default(),
        /// Metrics and health.
        admin: Admin = Admin::default(),
        /// Usage records.
        usage: Usage = Usage::default(),
        /// Log lines.
        log: Log = Log::default(),
        /// The flight recorder.
        recorder: Recorder = Recorder::default(),
        /// How to stop.
        shutdown: Shutdown = Shutdown::default(),
        /// What the process gives up.
        process: Process = Process::default(),
    }
}

section! {
    /// `[listen]`
    Listen {
        /// UDP addresses with port.
        udp: Vec<ListenEntry> = addresses(["0.0.0.0:3478", "[::]:3478"]),
        /// TCP addresses with port.
        tcp: Vec<ListenEntry> = addresses(["0.0.0.0:3478", "[::]:3478"]),
        /// TLS addresses with port; none, since there is no certificate either.
        tls: Vec<ListenEntry> = Vec::new(),
        /// DTLS addresses with port.
        dtls: Vec<ListenEntry> = Vec::new(),
    }
}

section! {
    /// The long form of an entry of `[listen]`.
    ListenTable {
        /// Address with port.
        address: String = String::new(),
        /// Everything comes through a proxy that says who the client is.
        proxy_protocol: bool = false,
        /// In `listen.tcp`: TLS is spoken as well.
        tls: bool = false,
        /// In `listen.udp`: DTLS is spoken as well.
        dtls: bool = false,
        /// With TLS: the web server that gets what is not for us.
        pass_through: String = String::new(),
    }
}

section! {
    /// `[pass_through]`
    PassThrough {
        /// Names that are ours; empty: those in the certificate.
        names: Vec<String> = Vec::new(),
        /// Tell the web server who the client is.
        proxy_protocol: bool = false,
        /// At the same time.
        connections: i64 = 4_096,
        /// The longest the web server may take to accept.
        connect_timeout: String = "5s".into(),
        /// The longest silence.
        idle: String = "10m".into(),
    }
}

section! {
    /// `[proxy_protocol]`
    ProxyProtocol {
        /// Prefixes of the proxies.
        from: Vec<String> = Vec::new(),
        /// The longest a proxy may take for its header.
        header_timeout: String = "5s".into(),
    }
}

section! {
    /// `[tls]`; empty text means that the key is not there.
    Tls {
        /// A PEM file with the chain.
        certificate: String = String::new(),
        /// A PEM file with the private key.
        key: String = String::new(),
        /// The longest a handshake may take.
        handshake_timeout: String = "10s".into(),
    }
}

section! {
    /// `[relay]`
    Relay {
        /// Empty: found out at start.
        addresses: Vec<RelayAddress> = Vec::new(),
        /// `FIRST-LAST`.
        ports: String = "49152-65535".into(),
        /// Rest of a freed port.
        port_quarantine: String = "2s".into(),
        /// Allow UDP relays.
        udp: bool = true,
        /// Tell clients what ICMP says.
        icmp: bool = true,
        /// Obey DONT-FRAGMENT.
        dont_fragment: bool = true,
        /// `ipv4` or `client`: the family nobody asked for.
        default_family: String = "ipv4".into(),
    }
}

section! {
    /// `[tcp_relay]`
    TcpRelay {
        /// Allow TCP relays.
        enabled: bool = false,
        /// Ports of peers, `PORT` or `FIRST-LAST`, that may be connected to although they are those of services.
        allow_ports: Vec<String> = Vec::new(),
        /// Ports of peers that may not be connected to although they are ordinary.
        deny_ports: Vec<String> = Vec::new(),
        /// The longest wait for a peer.
        connect_timeout: String = "30s".into(),
    }
}

section! {
    /// `[allocations]`
    Allocations {
        /// Granted to who asks for less or nothing.
        lifetime_default: String = "10m".into(),
        /// The most that is granted.
        lifetime_max: String = "1h".into(),
        /// Whether clients get mobility tickets.
        mobility: bool = false,
    }
}

section! {
    /// `[limits]`
    Limits {
        /// On the whole server.
        allocations: i64 = 16_384,
        /// Per account.
        allocations_per_user: i64 = 128,
        /// Per client network; 0 is half of all.
        allocations_per_prefix: i64 = 0,
        /// On the whole server.
        permissions: i64 = 1_000_000,
        /// Per allocation.
        permissions_per_allocation: i64 = 256,
        /// Per account.
        permissions_per_user: i64 = 8_192,
        /// Per client network.
        permissions_per_prefix: i64 = 131_072,
        /// On the whole server.
        channels: i64 = 1_000_000,
        /// Per allocation.
        channels_per_allocation: i64 = 256,
        /// Per account.
        channels_per_user: i64 = 8_192,
        /// Per client network.
        channels_per_prefix: i64 = 131_072,
        /// Per allocation, of what the kernel relays.
        mirrored_flows_per_allocation: i64 = 16,
        /// TCP connections on the whole server.
        connections: i64 = 16_384,
        /// TCP connections per client address.
        connections_per_address: i64 = 1_024,
        /// TCP connections per client network; 0 is half of all.
        connections_per_prefix: i64 = 0,
        /// Bytes waiting for a slow TCP client.
        connection_send_buffer: String = "256KiB".into(),
        /// For TCP connections without an allocation.
        connection_idle: String = "1m".into(),
        /// Unauthenticated answers a second to one network.
        answers_per_prefix: i64 = 500,
        /// Data a second of one allocation, each way; `off` is no limit.
        bandwidth_per_allocation: String = "off".into(),
        /// The same of all allocations of an account.
        bandwidth_per_user: String = "off".into(),
        /// The same of all allocations.
        bandwidth_total: String = "off".into(),
        /// Ports of peers of one allocation, before it is ended; 0 is no limit.
        peer_ports_per_allocation: i64 = 0,
        /// Packets of a hundred that look like no call, before an allocation is ended; 0 is no limit.
        foreign_packets_percent: i64 = 0,
        /// Requests of a thread that wait for keys.
        look_ups_waiting: i64 = 1_024,
        /// Requests a second from one network that may wait for keys.
        look_ups_per_prefix: i64 = 200,
        /// DTLS handshakes at the same time.
        dtls_handshakes: i64 = 1_024,
        /// Connections between TCP relays and peers on the whole server.
        peer_connections: i64 = 4_096,
        /// The same per allocation.
        peer_connections_per_allocation: i64 = 32,
        /// The same per account.
        peer_connections_per_user: i64 = 256,
        /// The same per client network; 0 is half of all.
        peer_connections_per_prefix: i64 = 0,
        /// Work between the protocol machine and its shard.
        pending_effects: i64 = 4_096,
    }
}

section! {
    /// `[sockets]`
    Sockets {
        /// Of each listening UDP socket.
        listen_buffer: String = "4MiB".into(),
        /// Of each relay socket.
        relay_buffer: String = "512KiB".into(),
        /// How long a shard lets packets gather.
        coalesce: String = "0us".into(),
        /// The same where it is busy with streams.
        coalesce_streams: String = "250us".into(),
    }
}

section! {
    /// `[offload]`
    Offload {
        /// `auto`, `tc`, `xdp` or `off`.
        mode: String = "auto".into(),
        /// Where packets come in; empty: those of the addresses that are listened on and relayed from.
        interfaces: Vec<String> = Vec::new(),
        /// Of all threads, at the same time.
        flows: i64 = 65_536,
        /// A directory of a BPF file system; empty keeps nothing there.
        pin: String = String::new(),
    }
}

section! {
    /// `[peers]`
    Peers {
        /// `public`, `enterprise` or `media-server`: what may be reached if nothing else is said.
        profile: String = "public".into(),
        /// Prefixes, and ports of them, that may be reached although the profile refuses them.
        allow: Vec<String> = Vec::new(),
        /// Prefixes, and ports of them, that may not be reached although the profile allows them.
        deny: Vec<String> = Vec::new(),
        /// Prefixes behind which this network has IPv4.
        nat64: Vec<String> = Vec::new(),
    }
}

section! {
    /// `[clients]`
    Clients {
        /// Prefixes whose clients may not allocate.
        deny: Vec<String> = Vec::new(),
    }
}

section! {
    /// `[redirect]`
    Redirect {
        /// `draining`, `full` or `always`.
        when: String = "draining".into(),
        /// Where to.
        alternates: Vec<Alternate> = Vec::new(),
        /// Before authentication, unsigned.
        unauthenticated: bool = false,
        /// Own addresses that other servers have, too.
        anycast: Vec<String> = Vec::new(),
        /// Own addresses that no other server has; empty: the advertised ones of relays.
        unicast: Vec<String> = Vec::new(),
    }
}

section! {
    /// `[[redirect.alternates]]`
    Alternate {
        /// One or two, of different families.
        addresses: Vec<String> = Vec::new(),
        /// For UDP and TCP.
        port: i64 = 3478,
        /// For TLS.
        tls_port: i64 = 5349,
        /// A name in its certificate, if that is another.
        domain: String = String::new(),
    }
}

section! {
    /// `[nat_discovery]`
    NatDiscovery {
        /// Whether there is any of it.
        enabled: bool = false,
        /// Two of each family that is to be probed.
        addresses: Vec<RelayAddress> = Vec::new(),
        /// For UDP, and for TCP if that is wanted.
        ports: Vec<i64> = vec![3478, 3479],
        /// Over TCP as well.
        tcp: bool = false,
        /// Two for TLS, or none.
        tls_ports: Vec<i64> = Vec::new(),
        /// Honour CHANGE-REQUEST.
        change_request: bool = true,
        /// Honour RESPONSE-PORT.
        response_port: bool = false,
        /// Honour PADDING.
        padding: bool = false,
    }
}

section! {
    /// `[compatibility]`
    Compatibility {
        /// Transports over which Binding of RFC 3489 is answered: `udp`, `tcp`.
        classic_stun: Vec<String> = Vec::new(),
        /// Accept channel numbers that RFC 8656 reserves.
        rfc5766_channels: bool = false,
    }
}

section! {
    /// `[admin]`
    Admin {
        /// Address with port, or `off`.
        listen: String = "127.0.0.1:9641".into(),
        /// Path of a Unix socket, `auto` or `off`.
        socket: String = "auto".into(),
        /// For the API over TCP.
        token: String = String::new(),
        /// The same in a file.
        token_file: String = String::new(),
        /// For metrics over TCP.
        metrics_token: String = String::new(),
        /// The same in a file.
        metrics_token_file: String = String::new(),
        /// For web back ends that want credentials.
        credentials_token: String = String::new(),
        /// The same in a file.
        credentials_token_file: String = String::new(),
        /// Another address with port for web back ends.
        credentials_listen: String = String::new(),
        /// What stands in the URIs.
        credentials_host: String = String::new(),
        /// Web pages that may ask.
        credentials_origins: Vec<String> = Vec::new(),
        /// Of credentials for which nobody says.
        credentials_lifetime: String = "1h".into(),
    }
}

section! {
    /// `[usage]`; empty text means that the key is not there.
    Usage {
        /// A file for records.
        file: String = String::new(),
        /// Size at which it is put aside; 0B: never.
        file_rotate: String = "64MiB".into(),
        /// Files put aside that are kept.
        file_keep: i64 = 10,
        /// A URL that records are posted to.
        webhook: String = String::new(),
        /// Shown there.
        webhook_token: String = String::new(),
        /// The same, in a file.
        webhook_token_file: String = String::new(),
        /// A PEM file with authorities.
        webhook_ca: String = String::new(),
        /// The longest a request may take.
        webhook_timeout: String = "10s".into(),
        /// The URL of a Redis or Valkey server.
        redis: String = String::new(),
        /// A file with the same.
        redis_file: String = String::new(),
        /// The key of the stream.
        redis_stream: String = "hairpin:usage".into(),
        /// About how many entries it keeps; 0: all.
        redis_length: i64 = 1_000_000,
        /// The longest that connecting or a command may take.
        redis_timeout: String = "10s".into(),
        /// Between two interim records; 0s: none.
        interim: String = "10m".into(),
        /// Whether records have the client's address.
        client_addresses: bool = true,
        /// Where records wait; empty: below the state directory.
        spool: String = String::new(),
        /// The most that may wait there.
        spool_max: String = "256MiB".into(),
        /// The longest that a record may wait for the disk.
        sync: String = "1s".into(),
        /// What may wait in memory.
        queue: i64 = 65_536,
        /// Records in one delivery.
        batch: i64 = 500,
        /// The longest pause between two attempts.
        retry_max: String = "1m".into(),
    }
}

section! {
    /// `[log]`
    Log {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        level: String = "info".into(),
        /// `text`, `logfmt` or `json`.
        format: String = "text".into(),
        /// `full`, `prefix` or `hashed`.
        addresses: String = "full".into(),
        /// `full`, `short` or `hashed`.
        names: String = "short".into(),
        /// Lines a second of each thread about clients without credentials.
        stranger_lines: i64 = 50,
    }
}

section! {
    /// `[recorder]`
    Recorder {
        /// Entries of each thread; 0 switches it off.
        events: i64 = 16_384,
        /// No data for so long is worth an entry.
        silence: String = "30s".into(),
    }
}

section! {
    /// `[shutdown]`
    Shutdown {
        /// The longest wait for allocations to end.
        drain: String = "30s".into(),
    }
}

section! {
    /// `[process]`
    Process {
        /// Whom to become once all sockets are open; empty stays who it is.
        user: String = String::new(),
        /// The group; empty is that of the user.
        group: String = String::new(),
        /// Whether the kernel refuses system calls that a running server does not make.
        filter_system_calls: bool = true,
    }
}

section! {
    /// The long form of a relay address.
    Mapped {
        /// On an interface of this machine.
        bind: String = String::new(),
        /// What peers see.
        advertise: String = String::new(),
    }
}

/// An entry of `relay.addresses`: one address for both, or a pair.
#[derive(Clone, PartialEq)]
pub enum RelayAddress {
    /// `"203.0.113.5"`
    Same(String),
    /// `{ bind = "10.0.0.5", advertise = "203.0.113.5" }`
    Mapped(Mapped),
}

/// An entry of `listen.udp` and the like: an address alone, or with options.
#[derive(Clone, PartialEq)]
pub enum ListenEntry {
    /// `"0.0.0.0:3478"`
    Address(String),
    /// `{ address = "0.0.0.0:3478", proxy_protocol = true }`
    Table(ListenTable),
}

impl<'de> Deserialize<'de> for RelayAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EitherForm {
            expecting: "an address in quotes, or a table { bind = \"…\", advertise = \"…\" }",
            text: Self::Same,
            table: Self::Mapped,
        })
    }
}

impl<'de> Deserialize<'de> for ListenEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EitherForm {
            expecting: "an address with port in quotes, or a table { address = \"…\", … }",
            text: Self::Address,
            table: Self::Table,
        })
    }
}

/// Text, or a table. Not `#[serde(untagged)]`: that forgets which key inside the table was wrong.
struct EitherForm<T, Table> {
    expecting: &'static str,
    text: fn(String) -> T,
    table: fn(Table) -> T,
}

impl<'de, T, Table: Deserialize<'de>> Visitor<'de> for EitherForm<T, Table> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E>(self, value: &str) -> Result<T, E> {
        Ok((self.text)(value.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        Table::deserialize(MapAccessDeserializer::new(map)).map(self.table)
    }
}
