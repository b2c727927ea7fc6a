//! The machine and its clients: scripts of requests with good and bad credentials, relayed data, ICMP, time, answers of
//! the shell, letters between shards, and shards that die. `src/script.rs` says how input becomes a script, and what
//! has to hold after every step.

#![no_main]

use hairpin_fuzz::script;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: hairpin_fuzz::prepare(), |bytes: &[u8]| script::run(bytes));
