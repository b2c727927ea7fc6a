//! Binding (RFC 8489 §12), when whatever credentials it needs have been checked.

use super::attributes::unknown_attributes;
use super::authenticate::Sealing;
use super::request::{Answering, Success};
use super::{FiveTuple, ReplyBuffer, Server, Verdict};
use crate::stun::Message;

impl Server {
    pub(super) fn on_binding(
        &mut self,
        path: FiveTuple,
        message: &Message<'_>,
        answering: Answering,
        sealing: Option<&Sealing>,
        reply: &mut ReplyBuffer,
    ) -> Verdict {
        if self.config.behavior_discovery.is_some() {
            return self.on_behavior_discovery(path, message, answering, sealing, reply);
        }
        let len = match unknown_attributes(message, |kind| self.config.knows(kind)) {
            Some(unknown) => self.refuse_unknown(reply, answering, unknown, sealing),
            None => self.respond(reply, answering, Ok(Success::Binding { mapped: path.client }), sealing),
        };
        Verdict::Reply { len }
    }
}
