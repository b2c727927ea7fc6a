//! The whole suite, one line a scenario: what `netlab test` prints, and `cargo test` of a package that uses the lab.

use std::fmt;
use std::time::Instant;

use crate::fault;
use crate::options::Options;
use crate::scenario::{self, Outcome, Scenario};
use crate::session::{CannotRun, Session};

/// How many scenarios ended how. Its `Display` is the last line of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// As expected.
    pub passed: usize,
    /// Not as expected.
    pub failed: usize,
    /// Not run.
    pub skipped: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Runs the scenarios whose name contains `filter`, one after the other, printing a line for each and a last one. Without
/// a filter it is the representative set, or all of them if the options say so.
///
/// `session` is what [`Session::enter`] gave: without one, everything is skipped for the reason it gave.
pub fn run(session: &Result<Session, CannotRun>, options: &Options, filter: &str) -> Tally {
    let everything = options.all || !filter.is_empty();
    let wanted = |scenario: &Scenario| scenario.name.contains(filter) && (everything || scenario.representative());
    let scenarios: Vec<_> = scenario::all().into_iter().filter(wanted).collect();
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or_default();
    let mut tally = Tally::default();
    let mut recoveries = Vec::new();
    for scenario in scenarios {
        let started = Instant::now();
        let outcome = match session {
            Ok(session) => scenario.run(session, options),
            Err(reason) => Outcome::Skipped(reason.to_string()),
        };
        let (word, count, line) = match outcome {
            Outcome::Passed { summary, measurements } => {
                recoveries.extend(measurements.recovery.map(|recovery| (scenario.name, recovery)));
                ("PASS", &mut tally.passed, summary)
            }
            Outcome::Skipped(reason) => ("SKIP", &mut tally.skipped, reason),
            Outcome::Failed(report) => ("FAIL", &mut tally.failed, report),
        };
        *count += 1;
        println!("{word}  {:width$}  {:4.1} s  {line}", scenario.name, started.elapsed().as_secs_f64());
    }
    if !recoveries.is_empty() {
        print!("\n{}\n", fault::table(&recoveries));
    }
    println!("{tally}");
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_namespaces_everything_is_skipped_and_nothing_fails() {
        let forbidden = Err(CannotRun { reason: "forbidden".into(), advice: "allow it".into() });
        let tally = run(&forbidden, &Options::default(), "relay");
        assert_eq!(tally.failed + tally.passed, 0);
        assert!(tally.skipped > 1);
        assert_eq!(tally.to_string(), format!("0 passed, 0 failed, {} skipped", tally.skipped));
    }
}
