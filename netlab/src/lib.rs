//! The lab of Hairpin: NATs, routers and real browsers in network namespaces of one Linux machine.
//!
//! ```text
//!   topologies/*.toml ──► topology ──► lab (patchbay: namespaces, links, NATs)
//!                                        │
//!        web (page, signalling) ── running ── turn (the server under test)
//!                                        │
//!        browser (Chromium) ────────── call ──► report (what the pages say)
//!                                        │           │
//!                                     scenario ◄── accounting (browsers against server)
//! ```
//!
//! A program that wants to run scenarios begins, before it has any thread, with [`Session::enter`], and then:
//!
//! ```no_run
//! let session = netlab::Session::enter().expect("namespaces");
//! let options = netlab::Options::default();
//! for scenario in netlab::scenario::all() {
//!     println!("{}: {:?}", scenario.name, scenario.run(&session, &options));
//! }
//! ```

pub mod accounting;
pub mod browser;
pub mod call;
pub mod lab;
pub mod options;
pub mod process;
pub mod report;
pub mod running;
pub mod scenario;
pub mod session;
pub mod topology;
pub mod turn;
pub mod web;

pub use options::Options;
pub use session::{CannotRun, Session};
