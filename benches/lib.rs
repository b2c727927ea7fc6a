//! What Hairpin costs, measured three ways.
//!
//! * `make bench`: `compare/`, real servers under load in namespaces, beside coturn and a bare forwarder.
//! * `cargo bench -p benches`: `micro.rs`, nanoseconds of the parser and of the machine.
//! * `make instructions`: `instructions.rs`, instructions of the same, which have no noise.
//!
//! A crate of its own, so that an optimised build of it does not build what the tests need. Here is only what the last two
//! share: [`machine`].

#![forbid(unsafe_code)]

pub mod machine;
