//! Requests without a magic cookie: Binding of RFC 3489, where the operator allows it (RFC 5389 §12).
//!
//! RESPONSE-ADDRESS, by which RFC 3489 let anybody have answers sent to anybody else, is never honoured.

use super::request::method_index;
use super::{Clock, FiveTuple, Reason, ReplyBuffer, Server, Transport, Verdict};
use crate::stun::{AttributeType, Class, CookielessRequest, ErrorCode, MessageWriter, Method, Seal, TransactionId};

/// What becomes of a request without cookie.
enum Fate {
    Answer,
    /// For DTLS, which was not there in RFC 3489's time (STUN-8489-11-01).
    Refuse,
    Drop,
}

/// Unknown attribute types listed in one 420.
const UNKNOWN_MAX: usize = 16;

impl Server {
    pub(super) fn on_cookieless(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        message: &[u8],
        reply: &mut ReplyBuffer,
    ) -> Verdict {
        let compatibility = self.config.compatibility;
        let fate = match path.transport {
            // Such a client cannot show the credentials that Binding needs here (STUN-8489-9.1.3-01).
            Transport::Udp | Transport::Tcp if !self.config.credentials.binding_users.is_empty() => Fate::Drop,
            Transport::Udp if compatibility.classic_udp => Fate::Answer,
            Transport::Tcp if compatibility.classic_tcp => Fate::Answer,
            Transport::Dtls => Fate::Refuse,
            Transport::Udp | Transport::Tcp | Transport::Tls => Fate::Drop,
        };
        match (fate, CookielessRequest::parse(message)) {
            // Never TURN (CLASSIC-3489-02).
            (Fate::Answer, Ok(request)) if request.method() == Method::Binding => {
                let [_, _, _, _, id @ ..] = request.transaction_id();
                if !self.may_answer(clock, &path, TransactionId(id)) {
                    return Verdict::Drop(Reason::AnswerRateLimited);
                }
                Verdict::Reply { len: self.on_classic_binding(path, &request, reply) }
            }
            (Fate::Refuse, Ok(request)) => {
                self.count_error(ErrorCode::ServerError);
                Verdict::Reply { len: refuse(&request, reply) }
            }
            _ => Verdict::Drop(Reason::BadHeader),
        }
    }

    /// No XOR-MAPPED-ADDRESS, no FINGERPRINT: such a client knows neither (CLASSIC-5389-12-02).
    fn on_classic_binding(
        &mut self,
        path: FiveTuple,
        request: &CookielessRequest<'_>,
        reply: &mut ReplyBuffer,
    ) -> usize {
        self.counters.requests[method_index(Method::Binding)] += 1;
        let mut unknown = unknown_attributes(request);
        let class = if unknown.is_empty() { Class::Success } else { Class::Error };
        let mut writer = MessageWriter::without_cookie(reply, Method::Binding, class, request.transaction_id());
        if unknown.is_empty() {
            self.counters.successes[method_index(Method::Binding)] += 1;
            writer.address(AttributeType::MAPPED_ADDRESS, path.client);
        } else {
            self.count_error(ErrorCode::UnknownAttribute);
            writer.error_code(ErrorCode::UnknownAttribute);
            // Attributes had no padding then: of an odd number one stands there twice (RFC 3489 §11.2.10).
            if unknown.len() % 2 == 1 {
                unknown.push(unknown[0]);
            }
            let list: arrayvec::ArrayVec<u8, { 2 * UNKNOWN_MAX }> =
                unknown.iter().flat_map(|kind| kind.0.to_be_bytes()).collect();
            writer.attribute(AttributeType::UNKNOWN_ATTRIBUTES, &list);
        }
        writer.finish(Seal::None, false)
    }
}

/// STUN-8489-11-01: 500, with the id as it came.
fn refuse(request: &CookielessRequest<'_>, reply: &mut [u8]) -> usize {
    let id = request.transaction_id();
    let mut writer = MessageWriter::without_cookie(reply, request.method(), Class::Error, id);
    writer.error_code(ErrorCode::ServerError);
    writer.finish(Seal::None, false)
}

/// The attributes that must be understood and are not, each once. RFC 3489 drew the line at 0x7FFF, like its successors.
fn unknown_attributes(request: &CookielessRequest<'_>) -> arrayvec::ArrayVec<AttributeType, UNKNOWN_MAX> {
    let mut unknown = arrayvec::ArrayVec::new();
    for attribute in request.attributes() {
        let is_known = match attribute.kind {
            // Many a telephone sends it to say that it wants no change (CLASSIC-5389-12-03).
            AttributeType::CHANGE_REQUEST => attribute.value == [0; 4],
            // RFC 3489 §11.2: those that make no sense in a Binding request, and the credentials nobody asked for.
            AttributeType::MAPPED_ADDRESS
            | AttributeType::USERNAME
            | AttributeType::MESSAGE_INTEGRITY
            | AttributeType::ERROR_CODE
            | AttributeType::UNKNOWN_ATTRIBUTES => true,
            kind => !kind.is_comprehension_required(),
        };
        if !is_known && !unknown.contains(&attribute.kind) && unknown.try_push(attribute.kind).is_err() {
            break;
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over DTLS a request without cookie is answered 500, an indication ignored.
    #[test]
    fn stun_8489_11_01_requests_without_cookie_are_refused() {
        let mut bytes = *b"\x00\x01\x00\x00sixteen bytes id";
        let request = CookielessRequest::parse(&bytes).unwrap();
        let mut reply = [0; 100];
        let len = refuse(&request, &mut reply);
        assert_eq!(reply[..len], *b"\x01\x11\x00\x14sixteen bytes id\x00\x09\x00\x10\x00\x00\x05\x00Server Error");
        bytes[1] = 0x11;
        assert!(CookielessRequest::parse(&bytes).is_err());
    }
}
