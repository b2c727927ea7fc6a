//! From what was written to what may be relied on. Goes on after a mistake, so that one run finds them all.

mod admin;
mod auth;
mod clients;
mod limits;
mod listen;
mod nat_discovery;
mod offload;
mod peers;
mod redirect;
mod relay;
mod tcp_relay;
mod tls;
mod usage;

pub(super) use auth::password_forms;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::document::Document;
use super::error::{Errors, Note, Problem};
use super::values::{self, Mistake};
use super::{Config, Confinement, Log, LogFormat, Machine, Written};
use crate::shard;
use crate::turn;

/// Checks the text of a file. `file` is for messages, and for relative paths in it.
///
/// # Errors
/// Everything wrong with it that could be found at once.
pub fn check_text(text: &str, file: Option<&Path>, machine: &Machine) -> Result<Config, Errors> {
    let document = Document::parse(text).map_err(|problem| Errors::new(file, vec![problem]))?;
    let mut checker = Checker { document: &document, file, machine, problems: Vec::new(), notes: Vec::new() };
    let written = document.read(&mut checker.problems);
    let config = Config { digests: document.digests(), ..checker.config(&written) };
    if checker.problems.is_empty() { Ok(config) } else { Err(Errors::new(file, checker.problems)) }
}

/// Gathers what is wrong. Where a value is unusable its methods return a stand-in, which nobody gets to see: with a
/// problem there is no configuration.
struct Checker<'a> {
    document: &'a Document<'a>,
    file: Option<&'a Path>,
    machine: &'a Machine,
    problems: Vec<Problem>,
    notes: Vec<Note>,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// No more threads than this. More than any machine today has cores; a larger number is a slip of the finger.
const THREADS_MAX: i64 = 1_024;
/// What one thread can still keep in memory; a larger number is a slip of the finger.
const TABLE_MAX: i64 = 1_000_000;
/// Channel numbers are 0x4000 to 0x4FFF (RFC 8656 §12).
const CHANNELS_MAX: i64 = 4_096;
/// SOFTWARE is read by people in packet dumps; more would only make responses larger.
const SOFTWARE_BYTES_MAX: usize = 127;

impl Checker<'_> {
    fn config(&mut self, written: &Written) -> Config {
        let ports = self.ports(&written.relay);
        let relays = self.relays(&written.relay);
        let mut listen = self.listen(written, &relays, &ports);
        let behavior_discovery = self.nat_discovery(written, &relays, &ports, &mut listen);
        let allocations = self.count("limits.allocations", written.limits.allocations, 1..=TABLE_MAX);
        let threads = self.threads(written.threads, &ports);
        let (credentials, secret_is_made_up, key_backend) =
            self.credentials(&written.auth, &written.limits, threads, !written.realms.is_empty());
        let mut turn = turn::Config {
            realm: self.realm(&written.auth.realm),
            software: self.software(&written.software),
            nonces: self.nonces(&written.auth),
            // Fresh at every start, as the allocations are.
            session_key: turn::SessionKey(auth::random_bytes()),
            credentials,
            realms: Vec::new(),
            peers: self.peers(&written.peers, &relays, &listen, &written.admin),
            redirect: self.redirect(written, &relays, &listen),
            relays,
            ports,
            relay_transports: self.relay_transports(written, &listen),
            icmp: written.relay.icmp,
            dont_fragment: written.relay.dont_fragment,
            denied_clients: self.denied_clients(&written.clients),
            behavior_discovery,
            compatibility: self.compatibility(&written.compatibility, &written.relay.default_family, &listen),
            mobility: written.allocations.mobility.then(|| turn::MobilityKey(auth::random_bytes())),
            lifetimes: self.lifetimes(&written.allocations),
            limits: self.table_limits(&written.limits, allocations, threads),
        };
        turn.realms = self.realms(written, &turn, &listen);
        let (tls, certificate) = self.tls(&written.tls, &written.limits, &listen);
        if let Some(tls) = &tls {
            self.realms_fit_certificate(&turn.realms, &tls.identity);
        }
        let (rules, pass_through) = self.pass_through(&written.pass_through, &listen);
        let peer_connections = self.count("limits.peer_connections", written.limits.peer_connections, 1..=TABLE_MAX);
        let shards = shard::Settings {
            count: threads,
            connections: self.connection_limits(&written.limits),
            privacy: self.privacy(&written.log),
            stranger_lines_per_sec: self.count("log.stranger_lines", written.log.stranger_lines, 0..=100_000),
            recorder: self.recorder(&written.recorder),
            socket_buffer_bytes: self.socket_buffer("sockets.listen_buffer", &written.sockets.listen_buffer),
            peer_connections,
            relay_socket_buffer_bytes: self.socket_buffer("sockets.relay_buffer", &written.sockets.relay_buffer),
            coalesce: self.coalesce("sockets.coalesce", &written.sockets.coalesce),
            coalesce_streams: self.coalesce("sockets.coalesce_streams", &written.sockets.coalesce_streams),
            quotas: self.quotas(&written.limits, allocations, peer_connections),
            turn: Arc::new(turn),
            tls,
            proxies: self.proxies(&written.proxy_protocol, &listen),
            pass_through: rules,
            listen,
        };
        Config {
            admin: self.admin(&written.admin, &shards.listen, &shards.turn),
            usage: self.usage(&written.usage, allocations),
            log: self.log(&written.log),
            offload: self.offload(&written.offload),
            drain: Duration::from_secs(self.duration("shutdown.drain", &written.shutdown.drain, 0..=DAY).into()),
            confinement: self.confinement(&written.process),
            certificate,
            key_backend,
            digests: BTreeMap::new(),
            pass_through,
            secret_is_made_up,
            notes: std::mem::take(&mut self.notes),
            shards,
        }
    }

    fn problem(&mut self, key: impl Into<String>, mistake: Mistake) {
        let key = key.into();
        self.problems.push(Problem {
            position: self.document.position(&key),
            key,
            wrong: mistake.wrong,
            fix: mistake.fix,
        });
    }

    fn note(&mut self, key: &'static str, text: impl Into<String>) {
        self.notes.push(Note { key, text: text.into() });
    }

    /// The value, or a problem.
    fn accept<T>(&mut self, key: impl Into<String>, result: Result<T, Mistake>) -> Option<T> {
        result.map_err(|mistake| self.problem(key, mistake)).ok()
    }

    fn count(&mut self, key: &str, value: i64, range: RangeInclusive<i64>) -> usize {
        let (least, most) = (*range.start(), *range.end());
        if !range.contains(&value) {
            let wrong = format!("{value} is out of bounds");
            self.problem(key, Mistake::new(wrong, format!("write a whole number from {least} to {most}")));
        }
        value.clamp(least, most) as usize
    }

    /// In seconds.
    fn coalesce(&mut self, key: &str, text: &str) -> Duration {
        Duration::from_micros(self.amount(key, text, &(0..=2_000), values::duration_micros, values::show_micros))
    }

    fn duration(&mut self, key: &str, text: &str, range: RangeInclusive<u64>) -> u32 {
        let secs = self.amount(key, text, &range, values::duration_secs, values::show_duration);
        u32::try_from(secs).unwrap_or(u32::MAX)
    }

    /// In bytes.
    fn size(&mut self, key: &str, text: &str, range: RangeInclusive<u64>) -> usize {
        self.amount(key, text, &range, values::size_bytes, values::show_size) as usize
    }

    fn amount(
        &mut self,
        key: &str,
        text: &str,
        range: &RangeInclusive<u64>,
        parse: fn(&str) -> Result<u64, Mistake>,
        show: fn(u64) -> String,
    ) -> u64 {
        let (least, most) = (show(*range.start()), show(*range.end()));
        let in_bounds = parse(text).and_then(|value| {
            let wrong =
                || Mistake::new(format!("\"{text}\" is out of bounds"), format!("write \"{least}\" to \"{most}\""));
            range.contains(&value).then_some(value).ok_or_else(wrong)
        });
        self.accept(key, in_bounds).unwrap_or(*range.start())
    }

    /// One of a few words.
    fn word<T: Copy>(&mut self, key: &str, text: &str, words: &[(&str, T)]) -> T {
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return *meaning;
        }
        let choices: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let fix = format!("write one of {}", choices.join(", "));
        self.problem(key, Mistake::new(format!("\"{text}\" is not known here"), fix));
        words[0].1
    }

    fn software(&mut self, text: &str) -> Option<String> {
        if text.len() > SOFTWARE_BYTES_MAX || text.chars().any(char::is_control) {
            self.problem(
                "software",
                Mistake::new(
                    "this is too long, or has control characters",
                    format!("write at most {SOFTWARE_BYTES_MAX} bytes of plain text, or \"\" to send none"),
                ),
            );
        }
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn lifetimes(&mut self, written: &super::written::Allocations) -> turn::Lifetimes {
        // TURN-8656-7.2-29 has the default as the floor of what is granted, and clients count on ten minutes.
        let allocation_default_secs =
            self.duration("allocations.lifetime_default", &written.lifetime_default, 10 * MINUTE..=DAY);
        let allocation_max_secs = self.duration("allocations.lifetime_max", &written.lifetime_max, 10 * MINUTE..=DAY);
        if allocation_max_secs < allocation_default_secs {
            self.problem(
                "allocations.lifetime_max",
                Mistake::new(
                    "the longest lifetime is shorter than the default one",
                    format!("write \"{}\" or more", values::show_duration(allocation_default_secs.into())),
                ),
            );
        }
        if u64::from(allocation_max_secs) > HOUR {
            self.note(
                "allocations.lifetime_max",
                "RFC 8656 recommends at most 1h: clients that vanish hold their ports until then.",
            );
        }
        turn::Lifetimes { allocation_default_secs, allocation_max_secs }
    }

    fn socket_buffer(&mut self, key: &str, text: &str) -> usize {
        self.size(key, text, 16 * KIB..=GIB)
    }

    fn threads(&mut self, written: i64, ports: &turn::PortRange) -> u16 {
        if written == 0 {
            // As many as there are cores and every one of which has ports.
            let cores = u16::try_from(self.machine.cores).unwrap_or(u16::MAX).clamp(1, THREADS_MAX as u16);
            return (1..=cores).rev().find(|count| every_shard_has_ports(*count, ports)).unwrap_or(1);
        }
        let count = self.count("threads", written, 0..=THREADS_MAX).max(1) as u16;
        if !every_shard_has_ports(count, ports) {
            self.problem(
                "relay.ports",
                Mistake::new(
                    format!("with {count} threads there are too few ports for each to have a pair of its own"),
                    format!("write a range of at least {} ports, or threads = 0", 2 * u32::from(count) + 2),
                ),
            );
        }
        count
    }

    fn confinement(&mut self, written: &super::written::Process) -> Confinement {
        let name = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        if written.user.is_empty() && !written.group.is_empty() {
            self.problem(
                "process.group",
                Mistake::new("a group without a user", "write process.user as well, or neither"),
            );
        }
        Confinement {
            user: name(&written.user),
            group: name(&written.group),
            filter_system_calls: written.filter_system_calls,
        }
    }

    fn log(&mut self, written: &super::written::Log) -> Log {
        use tracing::Level;
        let levels = [
            ("info", Level::INFO),
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        let formats = [("text", LogFormat::Text), ("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)];
        Log {
            level: self.word("log.level", &written.level, &levels),
            format: self.word("log.format", &written.format, &formats),
        }
    }
}

impl Checker<'_> {
    fn privacy(&mut self, written: &super::written::Log) -> shard::Privacy {
        use shard::{ShownAddresses, ShownNames};
        let addresses =
            [("full", ShownAddresses::Full), ("prefix", ShownAddresses::Prefix), ("hashed", ShownAddresses::Hashed)];
        let names = [("short", ShownNames::Short), ("full", ShownNames::Full), ("hashed", ShownNames::Hashed)];
        shard::Privacy {
            addresses: self.word("log.addresses", &written.addresses, &addresses),
            names: self.word("log.names", &written.names, &names),
        }
    }

    fn recorder(&mut self, written: &super::written::Recorder) -> shard::RecorderSettings {
        shard::RecorderSettings {
            events: self.count("recorder.events", written.events, 0..=1_048_576),
            silence_secs: self.duration("recorder.silence", &written.silence, 1..=HOUR),
        }
    }
}

/// Whether each of `count` shards owns both ports of at least one pair. A single shard does with a single port.
fn every_shard_has_ports(count: u16, ports: &turn::PortRange) -> bool {
    let first_pair = u32::from(ports.first).div_ceil(2);
    let pairs_end = u32::from(ports.last).div_ceil(2);
    // Neighbouring pairs belong to neighbouring shards in turn.
    count == 1 || pairs_end.saturating_sub(first_pair) >= u32::from(count)
}

#[cfg(test)]
mod tests;
