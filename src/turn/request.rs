//! What happens to a STUN message from a client: parse, authenticate, dispatch, answer.

use super::allocation::Told;
use super::attributes::{UNKNOWN_ATTRIBUTES_MAX, UnknownAttributes, unknown_attributes};
use super::authenticate::{Denial, Keys, Refusal, Sealing, authenticate, authenticate_binding};
use super::mobility::{Ticket, Whose, presumed_owner, shown_ticket};
use super::{Clock, ConnectionId, Event, FiveTuple, Limit, Packet, Reason, Rejection, ReplyBuffer, Server, Verdict};
use crate::stun::{
    AttributeType, Class, ErrorCode, Header, Message, MessageWriter, Method, ParseError, Seal, TransactionId,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a method handler decided. Only [`Server::respond`] turns it into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success(Success),
    /// The connection it came on is a client data connection now.
    Bound(ConnectionId),
    Failure(ErrorCode),
    /// An effect will answer.
    Later,
    Drop(Reason),
}

impl From<Result<Success, ErrorCode>> for Outcome {
    fn from(result: Result<Success, ErrorCode>) -> Self {
        result.map_or_else(Self::Failure, Self::Success)
    }
}

/// The attributes of a success response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Success {
    Binding {
        mapped: SocketAddr,
    },
    Allocate {
        relayed: [Option<SocketAddr>; 2],
        mapped: SocketAddr,
        lifetime_secs: u32,
        told: Told,
        ticket: Option<Ticket>,
    },
    Refresh {
        lifetime_secs: u32,
        ticket: Option<Ticket>,
    },
    CreatePermission,
    ChannelBind,
    Connect {
        connection: ConnectionId,
    },
    ConnectionBind,
}

/// What a response must take over from its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answering {
    pub(super) method: Method,
    pub(super) transaction_id: TransactionId,
    /// Responses have FINGERPRINT when the request had it (STUN-8489-7-03).
    pub(super) fingerprint: bool,
}

impl Answering {
    pub(super) fn to(message: &Message<'_>) -> Self {
        Self {
            method: message.method(),
            transaction_id: message.transaction_id(),
            fingerprint: message.has_fingerprint(),
        }
    }
}

impl Server {
    /// Counts a bound that was reached, and says what its client is told.
    pub(super) fn no_capacity(&mut self, limit: Limit) -> ErrorCode {
        self.reached(limit);
        ErrorCode::InsufficientCapacity
    }

    /// Counts a bound that was reached.
    pub(super) fn reached(&mut self, limit: Limit) {
        self.counters.limits[limit as usize] += 1;
        self.reached = Some(limit);
    }

    pub(super) fn on_stun(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        packet: &mut Packet<'_>,
        reply: &mut ReplyBuffer,
    ) -> Verdict {
        let message = match Message::parse(packet.message()) {
            Ok(message) => message,
            Err(ParseError::MalformedAttribute(header)) => return self.on_malformed(clock, path, header, reply),
            Err(ParseError::WrongCookie) => return self.on_cookieless(clock, path, packet.message(), reply),
            Err(_) => return Verdict::Drop(Reason::BadHeader),
        };
        if !message.fingerprint_holds() {
            return Verdict::Drop(Reason::BadFingerprint);
        }
        match (message.class(), message.method()) {
            (Class::Request, method) if !method.is_requested() => Verdict::Drop(Reason::UnexpectedClass),
            (Class::Request, _) => self.on_request(clock, path, &message, reply),
            (Class::Indication, Method::Send) => {
                let sent = super::send::read_send_indication(&self.config, &message, packet.range().start);
                self.on_send(clock, path, packet, sent)
            }
            _ => Verdict::Drop(Reason::UnexpectedClass),
        }
    }

    /// STUN-8489-14-03: a request with a sound header and broken attributes is told so; anything else is dropped.
    fn on_malformed(&mut self, clock: Clock, path: FiveTuple, header: Header, reply: &mut ReplyBuffer) -> Verdict {
        if header.class != Class::Request || !header.method.is_requested() {
            return Verdict::Drop(Reason::MalformedAttribute);
        }
        self.counters.requests[method_index(header.method)] += 1;
        if !self.may_answer(clock, &path, header.transaction_id) {
            return Verdict::Drop(Reason::AnswerRateLimited);
        }
        let answering = Answering { method: header.method, transaction_id: header.transaction_id, fingerprint: false };
        self.request_refused(clock, path, header.method, ErrorCode::BadRequest, None);
        Verdict::Reply { len: self.respond(reply, answering, Err(ErrorCode::BadRequest), None) }
    }

    fn on_request(&mut self, clock: Clock, path: FiveTuple, message: &Message<'_>, reply: &mut ReplyBuffer) -> Verdict {
        if let Some(shard) = self.shard_of_connection(clock, &path, message) {
            return Verdict::NotMine { shard };
        }
        self.counters.requests[method_index(message.method())] += 1;
        let answering = Answering::to(message);
        let has_credentials = message.has_integrity() || message.has_integrity_sha256();
        let is_unauthenticated = message.method() == Method::Binding || !has_credentials;
        if is_unauthenticated && !self.may_answer(clock, &path, message.transaction_id()) {
            return Verdict::Drop(Reason::AnswerRateLimited);
        }
        if message.method() == Method::Binding {
            // Binding needs no credentials, and looks at none (STUN-8489-12-01), unless the configuration says so.
            let sealing = match authenticate_binding(&self.config.credentials, message) {
                Ok(sealing) => sealing,
                Err(denial) => {
                    return Verdict::Reply { len: self.challenge(clock, path, reply, answering, denial, message) };
                }
            };
            return self.on_binding(path, message, answering, sealing.as_ref(), reply);
        }
        if self.redirects_unauthenticated(clock, &path, message) {
            self.request_refused(clock, path, message.method(), ErrorCode::TryAlternate, None);
            return Verdict::Reply { len: self.redirect(clock, path, reply, answering, None) };
        }
        self.serve_request(clock, path, message, reply)
    }

    /// Authenticates a request, now or when its key has come, and has its method answer it.
    pub(super) fn serve_request(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        message: &Message<'_>,
        reply: &mut ReplyBuffer,
    ) -> Verdict {
        let answering = Answering::to(message);
        let has_credentials = message.has_integrity() || message.has_integrity_sha256();
        let shown = shown_ticket(&self.config, message);
        let whose = self.whose(clock, &path, shown);
        let live_owner = match whose {
            Whose::Ours if message.method() == Method::ConnectionBind => self.owner_of_connection(message).cloned(),
            Whose::Ours => self.live_owner(clock, &path, shown).cloned(),
            Whose::Carried(shard) => return Verdict::NotMine { shard },
            Whose::Shown(_) => presumed_owner(self.config.scope(&path, &self.places), message),
        };
        let scope = self.config.scope(&path, &self.places);
        let keys = Keys { look_ups: &mut self.look_ups, counts: &mut self.counters.look_ups };
        let request = match authenticate(scope, keys, clock, &path, message, live_owner.as_ref()) {
            Ok(request) => {
                self.counters.authenticated += 1;
                request
            }
            Err(Refusal::KeyWanted(name)) => return self.wait_for_key(clock, path, message, name, reply),
            // The key may be in an access token that only the allocation's shard has seen.
            Err(_)
                if self.config.credentials.tokens.is_some()
                    && let Whose::Shown(shard) = whose =>
            {
                return Verdict::NotMine { shard };
            }
            Err(_) if has_credentials && !self.may_answer(clock, &path, message.transaction_id()) => {
                return Verdict::Drop(Reason::AnswerRateLimited);
            }
            Err(Refusal::Denied(denial)) => {
                return Verdict::Reply { len: self.challenge(clock, path, reply, answering, denial, message) };
            }
        };
        let method = message.method();
        let account = || Some(Arc::clone(&request.owner().account));
        self.reached = None;
        if let Some(unknown) = unknown_attributes(message, |kind| self.config.knows(kind)) {
            self.request_refused(clock, path, method, ErrorCode::UnknownAttribute, account());
            let len = self.refuse_unknown(reply, answering, unknown, Some(request.sealing()));
            return Verdict::Reply { len };
        }
        if let Whose::Shown(shard) = whose {
            let code = match self.pass_on(clock, path, shard, &request) {
                Ok(verdict) => return verdict,
                Err(code) => code,
            };
            self.request_refused(clock, path, method, code, account());
            return Verdict::Reply { len: self.respond(reply, answering, Err(code), Some(request.sealing())) };
        }
        let outcome = match message.method() {
            Method::Allocate => self.on_allocate(clock, path, &request, answering),
            Method::Refresh => self.on_refresh(clock, path, &request).into(),
            Method::CreatePermission => self.on_create_permission(clock, path, &request).into(),
            Method::ChannelBind => self.on_channel_bind(clock, path, &request).into(),
            Method::Connect => self.on_connect(clock, path, &request, answering),
            Method::ConnectionBind => match self.on_connection_bind(clock, path, &request) {
                Ok(connection) => Outcome::Bound(connection),
                Err(code) => Outcome::Failure(code),
            },
            Method::Binding | Method::Send | Method::Data | Method::ConnectionAttempt => {
                unreachable!("handled above")
            }
        };
        self.remirror_at(clock, &path);
        let result = match outcome {
            Outcome::Success(success) => Ok(success),
            Outcome::Failure(ErrorCode::TryAlternate) => {
                self.request_refused(clock, path, method, ErrorCode::TryAlternate, account());
                let len = self.redirect(clock, path, reply, answering, Some(request.sealing()));
                return Verdict::Reply { len };
            }
            Outcome::Bound(connection) => {
                let success = Success::ConnectionBind;
                let len = self.respond(reply, answering, Ok(success), Some(request.sealing()));
                return Verdict::Bound { len, connection };
            }
            Outcome::Failure(code) => {
                self.request_refused(clock, path, method, code, account());
                Err(code)
            }
            Outcome::Later => return Verdict::Later,
            Outcome::Drop(reason) => return Verdict::Drop(reason),
        };
        Verdict::Reply { len: self.respond(reply, answering, result, Some(request.sealing())) }
    }

    /// Whether somebody who has not shown that his address is his may have an answer ([`super::answer_limit`]).
    pub(super) fn may_answer(&mut self, clock: Clock, path: &FiveTuple, transaction_id: TransactionId) -> bool {
        self.answer_limit.allows(clock.now, self.config.limits.answers_per_prefix, path, transaction_id)
            || self.allocations.live_by_path(clock.now, path).is_some()
            || self.elsewhere.get(clock.now, path).is_some()
    }

    /// Writes a response and counts it. With `sealing` it is an answer to somebody who was authenticated.
    pub(super) fn respond(
        &mut self,
        reply: &mut ReplyBuffer,
        answering: Answering,
        result: Result<Success, ErrorCode>,
        sealing: Option<&Sealing>,
    ) -> usize {
        let class = if result.is_ok() { Class::Success } else { Class::Error };
        let mut writer = MessageWriter::new(reply, answering.method, class, answering.transaction_id);
        match result {
            Ok(success) => {
                self.counters.successes[method_index(answering.method)] += 1;
                success.write(&mut writer);
            }
            Err(code) => {
                self.count_error(code);
                writer.error_code(code);
            }
        }
        self.finish(writer, answering, sealing)
    }

    pub(super) fn refuse_unknown(
        &mut self,
        reply: &mut ReplyBuffer,
        answering: Answering,
        unknown: UnknownAttributes,
        sealing: Option<&Sealing>,
    ) -> usize {
        self.count_error(ErrorCode::UnknownAttribute);
        let mut writer = MessageWriter::new(reply, answering.method, Class::Error, answering.transaction_id);
        writer.error_code(ErrorCode::UnknownAttribute);
        let list: arrayvec::ArrayVec<u8, { 2 * UNKNOWN_ATTRIBUTES_MAX }> =
            unknown.iter().flat_map(|kind| kind.0.to_be_bytes()).collect();
        writer.attribute(AttributeType::UNKNOWN_ATTRIBUTES, &list);
        self.finish(writer, answering, sealing)
    }

    /// Answers a request that is not authenticated: never sealed, and no larger than it must be (abuse S4).
    fn challenge(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        reply: &mut ReplyBuffer,
        answering: Answering,
        denial: Denial,
        message: &Message<'_>,
    ) -> usize {
        self.count_error(denial.code);
        self.counters.rejections[denial.why as usize] += 1;
        let session = self.session_of(clock, &path);
        if denial.why == Rejection::NoCredentials {
            self.record(Event::Challenged { session, path });
        } else {
            let scope = self.config.scope(&path, &self.places);
            let claimed = message.first(AttributeType::USERNAME).and_then(|name| scope.claimed(name));
            self.record(Event::AuthenticationFailed { session, path, why: denial.why, claimed });
        }
        let mut writer = MessageWriter::new(reply, answering.method, Class::Error, answering.transaction_id);
        writer.error_code(denial.code);
        // 400 goes without REALM and NONCE (STUN-8489-9.2.4-07), and so does 500; 401 and 438 have all three, whatever the cause, so
        // that they do not tell an unknown name from a wrong password (A06). Short-term credentials, which only Binding
        // has, know neither realm nor nonce (STUN-8489-9.1.3-02).
        let is_challenge = matches!(denial.code, ErrorCode::Unauthenticated | ErrorCode::StaleNonce);
        if is_challenge && answering.method != Method::Binding {
            let scope = self.config.scope(&path, &self.places);
            writer.attribute(AttributeType::REALM, scope.name().as_bytes());
            let nonce = self.config.nonces.issue(scope.offer(), clock.unix_secs, &path);
            writer.attribute(AttributeType::NONCE, nonce.as_bytes());
            writer.attribute(AttributeType::PASSWORD_ALGORITHMS, scope.offer().algorithms());
            if let Some(tokens) = &scope.credentials().tokens {
                // OAUTH-7635-6.1-01: for whom a client must have its token made.
                writer.attribute(AttributeType::THIRD_PARTY_AUTHORIZATION, tokens.server_name.as_bytes());
            }
        }
        writer.finish(Seal::None, answering.fingerprint)
    }

    pub(super) fn finish(
        &self,
        mut writer: MessageWriter<'_>,
        answering: Answering,
        sealing: Option<&Sealing>,
    ) -> usize {
        let Some(sealing) = sealing else {
            return writer.finish(Seal::None, answering.fingerprint);
        };
        if let Some(software) = &self.config.software {
            writer.attribute(AttributeType::SOFTWARE, software.as_bytes());
        }
        writer.finish(sealing.seal(), answering.fingerprint)
    }

    /// Puts on record that a request was refused. Refused peers have an event of their own.
    pub(super) fn request_refused(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        method: Method,
        code: ErrorCode,
        account: Option<Arc<str>>,
    ) {
        let limit = self.reached.take();
        if code != ErrorCode::Forbidden || method == Method::Allocate {
            let session = self.session_of(clock, &path);
            self.record(Event::RequestRefused { session, path, method, code, limit, account });
        }
    }

    pub(super) fn count_error(&mut self, code: ErrorCode) {
        let place = ErrorCode::ALL.iter().position(|known| *known == code).expect("ALL has every code");
        self.counters.errors[place] += 1;
    }
}

impl Success {
    fn write(self, writer: &mut MessageWriter<'_>) {
        match self {
            Self::Binding { mapped } => writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, mapped),
            // L06: browsers stall in silence when one of the three is missing.
            Self::Allocate { relayed, mapped, lifetime_secs, told, ticket } => {
                for relayed in relayed.into_iter().flatten() {
                    writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed);
                }
                writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, mapped);
                writer.u32(AttributeType::LIFETIME, lifetime_secs);
                if let Some((family, code)) = told.refused {
                    writer.address_error_code(family, code);
                }
                if let Some(token) = told.token {
                    writer.attribute(AttributeType::RESERVATION_TOKEN, &token.to_be_bytes());
                }
                if let Some(ticket) = ticket {
                    writer.attribute(AttributeType::MOBILITY_TICKET, ticket.bytes());
                }
            }
            Self::Refresh { lifetime_secs, ticket } => {
                writer.u32(AttributeType::LIFETIME, lifetime_secs);
                if let Some(ticket) = ticket {
                    writer.attribute(AttributeType::MOBILITY_TICKET, ticket.bytes());
                }
            }
            Self::Connect { connection } => writer.u32(AttributeType::CONNECTION_ID, connection.0),
            Self::CreatePermission | Self::ChannelBind | Self::ConnectionBind => {}
        }
    }
}

pub(super) fn method_index(method: Method) -> usize {
    Method::ALL.iter().position(|known| *known == method).expect("ALL has every method")
}
