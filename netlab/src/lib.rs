//! The lab of Hairpin: NATs, routers and real browsers in network namespaces of one Linux machine.
//!
//! ```text
//!   topologies/*.toml ──► topology ──► lab (patchbay: namespaces, links, NATs)
//!                                        │
//!        web (page, signalling) ── running ── turn (the server under test)
//!                                        │
//!        browser (one file each) ───── call ──► report (what the pages say)
//!                                        │           │
//!                  fault ──► scenario ◄── accounting (browsers against server)
//!                explain (calls that fail, and what the server says about them)
//! ```
//!
//! [`suite::run`] runs them all. A program that uses the lab begins, before it has any thread, with [`Session::enter`]:
//!
//! ```no_run
//! let session = netlab::Session::enter();
//! let tally = netlab::suite::run(&session, &netlab::Options::default(), "relay");
//! assert_eq!(tally.failed, 0);
//! ```

pub mod accounting;
pub mod authority;
pub mod browser;
pub mod call;
pub mod capture;
pub mod delay;
pub mod drawing;
pub mod explain;
pub mod fault;
pub mod impair;
pub mod lab;
pub mod matrix;
pub mod nat;
pub mod options;
pub mod process;
pub mod proxy;
pub mod report;
pub mod results;
pub mod running;
pub mod scenario;
pub mod session;
pub mod sip;
pub mod suite;
pub mod terminal;
pub mod topology;
pub mod turn;
pub mod web;

pub use options::Options;
pub use session::{CannotRun, Session};
