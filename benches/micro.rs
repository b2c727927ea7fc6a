//! What the parser and the machine take for each thing they do, in nanoseconds: `cargo bench -p benches`.
//!
//! For comparing two builds on one quiet machine. `make instructions` counts the same without noise.

use benches::machine::{Machine, application_data, binding_request, channel_data_message, send_indication};
use divan::{Bencher, black_box};
use hairpin::stun::{ChannelData, Message};

const ALLOCATIONS: [u32; 2] = [100, 15_000];

fn main() {
    divan::main();
}

#[divan::bench]
fn parse_binding(bencher: Bencher<'_, '_>) {
    let request = binding_request();
    bencher.bench_local(|| Message::parse(black_box(request.bytes())).is_ok());
}

#[divan::bench]
fn parse_send_indication(bencher: Bencher<'_, '_>) {
    let indication = send_indication(160);
    bencher.bench_local(|| Message::parse(black_box(indication.bytes())).is_ok());
}

#[divan::bench]
fn parse_channel_data(bencher: Bencher<'_, '_>) {
    let message = channel_data_message(160);
    bencher.bench_local(|| ChannelData::parse(black_box(message.bytes())).is_some());
}

/// Clients in turn.
fn rounds(machine: &Machine) -> impl FnMut() -> u32 + use<> {
    let (allocations, mut client) = (machine.allocations(), 0);
    move || {
        client = (client + 1) % allocations;
        client
    }
}

#[divan::bench(args = ALLOCATIONS)]
fn channel_data_to_peer(bencher: Bencher<'_, '_>, allocations: u32) {
    let (mut machine, mut message) = (Machine::new(allocations), channel_data_message(160));
    let mut next = rounds(&machine);
    bencher.bench_local(|| machine.to_peer(next(), &mut message));
}

#[divan::bench(args = ALLOCATIONS)]
fn channel_data_to_client(bencher: Bencher<'_, '_>, allocations: u32) {
    let (mut machine, mut data) = (Machine::new(allocations), application_data(160));
    let mut next = rounds(&machine);
    bencher.bench_local(|| machine.to_client(next(), &mut data));
}

#[divan::bench(args = ALLOCATIONS)]
fn send_indication_to_peer(bencher: Bencher<'_, '_>, allocations: u32) {
    let (mut machine, mut message) = (Machine::new(allocations), send_indication(160));
    let mut next = rounds(&machine);
    bencher.bench_local(|| machine.to_peer(next(), &mut message));
}

#[divan::bench]
fn binding(bencher: Bencher<'_, '_>) {
    let (mut machine, mut request) = (Machine::new(0), binding_request());
    bencher.bench_local(|| machine.binding(&mut request));
}

/// Allocate, CreatePermission and ChannelBind with credentials, beside so many that are there already.
#[divan::bench(args = ALLOCATIONS, sample_count = 20, sample_size = 100)]
fn authenticated_set_up(bencher: Bencher<'_, '_>, allocations: u32) {
    let machine = std::cell::RefCell::new(Machine::new(allocations));
    bencher
        .with_inputs(|| machine.borrow_mut().write_set_up())
        .bench_local_refs(|set_up| machine.borrow_mut().set_up(set_up));
}
