//! The machine against strangers: arbitrary bytes from arbitrary 5-tuples.
//!
//! Input: messages, each with a byte that says who sends and how, two bytes of length, and the bytes. What it proves:
//! nobody without credentials gets more than a Binding response or an error, has anything kept for him, costs memory,
//! or has old bytes of a buffer sent to him (abuse S5, S18).

#![no_main]
#![allow(unsafe_code, reason = "a global allocator that counts is the only way to see memory grow")]

use arbitrary::Unstructured;
use hairpin::turn::{Effect, Event, FiveTuple, Transport};
use hairpin_fuzz::machine::{Answer, Machine, server_address};
use hairpin_fuzz::memory::{self, live_bytes};
use hairpin_fuzz::wire::{self, Class, Parsed};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

const MESSAGES_MAX: usize = 16;

struct Message {
    path: FiveTuple,
    bytes: Vec<u8>,
}

/// Bits of the first byte: 0–1 transport, 2–4 client, 5 IPv6, 6 a step of time, 7 the message gets a good nonce and a
/// MAC by somebody who does not know the password.
fn next_message(input: &mut Unstructured<'_>, machine: &mut Machine) -> Option<Message> {
    let head = input.arbitrary::<u8>().ok().filter(|_| !input.is_empty())?;
    let len = usize::from(input.arbitrary::<u16>().ok()?).min(input.len());
    let mut bytes = input.bytes(len).ok()?.to_vec();
    let transport = Transport::ALL[usize::from(head & 3) % Transport::ALL.len()];
    let number = head >> 2 & 7;
    let client = match head & 0x20 {
        0 => format!("198.18.0.{number}:{}", 2000 + u16::from(number)),
        _ => format!("[2001:db8::{number}]:3000"),
    };
    let path =
        FiveTuple { transport, client: client.parse().expect("an address"), server: server_address(head & 0x20 != 0) };
    if head & 0x40 != 0 {
        machine.pass(u32::from(number) * 100);
    }
    if head & 0x80 != 0 && bytes.len() >= 20 && bytes.len().is_multiple_of(4) {
        let nonce = machine.nonce(0, path);
        bytes = wire::Builder::resume(bytes)
            .attribute(wire::USERNAME, b"alice")
            .attribute(wire::REALM, b"fuzz.example")
            .attribute(wire::NONCE, &nonce)
            .sign(wire::MESSAGE_INTEGRITY, b"not the key")
            .finish();
    }
    Some(Message { path, bytes })
}

/// What may be told of a stranger: it ends in tables of fixed size.
fn is_harmless(effect: &Effect) -> bool {
    use Event::{AuthenticationFailed, Challenged, RequestRefused};
    matches!(effect, Effect::Record(AuthenticationFailed { .. } | Challenged { .. } | RequestRefused { .. }))
}

fn send(machine: &mut Machine, message: &Message) {
    match machine.client_says(0, message.path, &message.bytes) {
        Answer::Drop => {}
        // Requests without cookie are Binding, or refused.
        Answer::Reply(reply) if message.bytes[4..8] != [0x21, 0x12, 0xA4, 0x42] => assert!(reply.len() <= 100),
        // From another address or port (RFC 5780).
        Answer::Later => {
            let sent = std::iter::from_fn(|| machine.servers[0].next_effect()).find(|effect| !is_harmless(effect));
            let Some(Effect::Send { to, bytes }) = sent else { panic!("{sent:?} for a stranger") };
            let response = Parsed::parse(&bytes).expect("a response must parse");
            assert!(response.method == wire::BINDING && to.client.ip() == message.path.client.ip());
            assert!(bytes.len() <= 400.max(message.bytes.len() + 150), "{} bytes for a stranger", bytes.len());
        }
        Answer::Reply(reply) => {
            let response = Parsed::parse(&reply).expect("a response must parse");
            let is_binding = response.method == wire::BINDING;
            assert!(response.class == Class::Error || is_binding && response.class == Class::Success, "{response:?}");
            // No amplifier: what a stranger gets is bounded, whatever he sends.
            assert!(reply.len() <= 400.max(message.bytes.len() + 150), "{} bytes for a stranger", reply.len());
        }
        other => panic!("{other:?} for a stranger"),
    }
    while let Some(effect) = machine.servers[0].next_effect() {
        assert!(is_harmless(&effect), "{effect:?} for a stranger");
    }
    assert_eq!(machine.servers[0].allocations(), 0);
    assert_eq!(machine.servers[0].next_timeout(), None);
}

fuzz_target!(init: hairpin_fuzz::prepare(), |bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let mut machine = Machine::new(1);
    let mut messages = Vec::new();
    while messages.len() < MESSAGES_MAX
        && let Some(message) = next_message(&mut input, &mut machine)
    {
        send(&mut machine, &message);
        messages.push(message);
    }
    // Queues have their room now. The same from other ports, from strangers never seen, may not cost a byte more.
    let before = live_bytes();
    for (port, message) in (40_000..).zip(&mut messages) {
        message.path.client.set_port(port);
        send(&mut machine, message);
    }
    assert_eq!(live_bytes() - before, 0, "bytes are kept for strangers");
    machine.servers[0].check_invariants();
});
