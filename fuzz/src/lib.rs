//! What the fuzz targets share: machines with everything switched on, and seeds to start from.
//!
//! Each target says at its top what its input means. Only the fronts of inputs are read, field after field, so that
//! [`seeds`] can write good ones by hand.

pub mod machine;
pub mod requests;
pub mod script;
pub mod seeds;
pub mod step;

// The independent reader and writer, the counting allocator and the valid messages are those of the tests.
#[allow(missing_docs, dead_code, reason = "the hostile tests use more of it")]
#[path = "../../tests/hostile/corpus.rs"]
mod corpus;
#[allow(missing_docs, dead_code, reason = "the hostile tests use more of it")]
#[path = "../../tests/hostile/fixture.rs"]
mod fixture;
#[allow(missing_docs, unsafe_code, reason = "as in the hostile tests")]
#[path = "../../tests/hostile/memory.rs"]
pub mod memory;
#[allow(missing_docs, dead_code, reason = "the simulation documents it")]
#[path = "../../tests/sim/wire.rs"]
pub mod wire;

/// Makes what is made once, so that no run is charged for it.
pub fn prepare() {
    machine::config();
}
