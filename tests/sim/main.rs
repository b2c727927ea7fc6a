//! Deterministic simulation of whole deployments: three shards, clients, peers, a bad network, a shell that fails.
//!
//! What it proves, for every seed: each verdict, response and effect of `turn::Server` is exactly what a naive model of
//! RFC 8656 and RFC 8016, written independently, expects at that moment (permissions, channels, lifetimes, ownership,
//! nonces, quotas, ports, reservations, both families, ICMP, tickets); data crosses the relay unmodified and rightly framed; bytes counted are bytes moved; every relay
//! socket that was opened is closed once; after all lifetimes nothing is left; the invariants and the law of
//! `next_timeout` hold after every step. A mirror relays by itself what the servers have told it, forgets and refuses; what
//! it delivers is what the model expects, and it says what the model's tables say. In calm runs, where nothing is lost and all clients are `turn-client-proto`,
//! every packet arrives at the application.
//!
//! Time is virtual and every choice comes from one generator; a run without polite clients (every fourth seed) repeats
//! to the last byte. Polite clients draw their transaction ids elsewhere and order retransmissions by them, so that
//! roughly one mixed run in two hundred takes another turn; a replay therefore runs its seed several times.
//!
//! A failure prints its seed; replay it with `HAIRPIN_SIM_SEED=<seed> cargo test --test sim`.
//! `HAIRPIN_SIM_SEEDS=<count>` runs more seeds, or fewer.
//!
//! Shards agree by letters, which arrive at once here: `tests/rfc/storm.rs` lets them wait, and shards die.
//!
//! Reading order: `world/` (what happens), `shell/` (the servers and what is compared), `mirror.rs`, `model.rs`, `allocating.rs` and
//! `requests.rs` (the oracle), `expect.rs`, then the clients `polite.rs` and `rude.rs`.

mod allocating;
mod dice;
mod expect;
mod ledger;
mod mirror;
mod model;
mod network;
mod polite;
mod requests;
mod rude;
mod rules;
mod shell;
mod statistics;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use statistics::Statistics;
use world::Kind;

/// So many that a dev build takes a few seconds.
const SEEDS_DEFAULT: u64 = 600;

/// How often a seed is replayed.
const REPLAYS: u32 = 20;

fn kind_of(seed: u64) -> Kind {
    match seed % 4 {
        0 => Kind::Rude,
        3 => Kind::Calm,
        _ => Kind::Mixed,
    }
}

fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

fn run_or_name_the_seed(seed: u64) -> Statistics {
    let run = AssertUnwindSafe(|| world::run(seed, kind_of(seed)));
    catch_unwind(run).unwrap_or_else(|_| {
        panic!("seed {seed} failed; replay it with: HAIRPIN_SIM_SEED={seed} cargo test --test sim seeds -- --nocapture")
    })
}

#[test]
fn seeds_hold_every_oracle() {
    if let Some(seed) = number_from_environment("HAIRPIN_SIM_SEED") {
        for _ in 0..REPLAYS {
            println!("seed {seed}: {:?}", run_or_name_the_seed(seed));
        }
        return;
    }
    let seeds = number_from_environment("HAIRPIN_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let next = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
    let total = std::thread::scope(|scope| {
        let work = || {
            let mut sum = Statistics::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return sum;
                }
                sum.add(run_or_name_the_seed(seed));
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut total = Statistics::default();
        for worker in workers {
            total.add(worker.join().expect("a seed failed, see above"));
        }
        total
    });
    println!("{seeds} seeds: {total:?}");
    if seeds >= SEEDS_DEFAULT {
        // A simulation in which nothing happens proves nothing.
        for (what, count) in total.named() {
            assert!(count >= seeds / 40, "{what}: only {count} in {seeds} seeds");
        }
    }
}

/// The seed is the run.
#[test]
fn the_same_seed_is_the_same_run() {
    for seed in (0..40).filter(|seed| kind_of(*seed) == Kind::Rude) {
        assert_eq!(run_or_name_the_seed(seed), run_or_name_the_seed(seed), "seed {seed}");
    }
}
