//! The whole suite, one line a scenario: what `netlab test` prints, and `cargo test` of a package that uses the lab.
//!
//! After the scenarios come a few pairs of the grid ([`crate::matrix::representative`]).

use std::fmt;
use std::time::{Instant, SystemTime};

use crate::explain::ExplainScenario;
use crate::fault::{self, Recovery};
use crate::matrix::{self, Pair};
use crate::options::Options;
use crate::results::{self, Record, Verdict, files_in};
use crate::say;
use crate::scenario::{self, Outcome, Scenario};
use crate::session::{CannotRun, Session};
use crate::sip::scenario::SipScenario;

/// A scenario of any kind.
#[derive(Clone, Debug)]
pub enum Case {
    /// Browsers call each other.
    Browsers(Scenario),
    /// A browser calls a phone.
    Phone(SipScenario),
    /// A call fails, and the server says why.
    Explain(ExplainScenario),
}

/// All of them, in the order they are run.
pub fn all() -> Vec<Case> {
    let browsers = scenario::all().into_iter().map(Case::Browsers);
    let phones = crate::sip::scenario::all().into_iter().map(Case::Phone);
    browsers.chain(phones).chain(crate::explain::all().into_iter().map(Case::Explain)).collect()
}

impl Case {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Case::Browsers(scenario) => scenario.name,
            Case::Phone(scenario) => scenario.name,
            Case::Explain(scenario) => scenario.name,
        }
    }

    /// What it shows.
    pub fn sentence(&self) -> &'static str {
        match self {
            Case::Browsers(scenario) => scenario.sentence,
            Case::Phone(scenario) => scenario.sentence,
            Case::Explain(scenario) => scenario.sentence,
        }
    }

    /// Whether it belongs to the set that runs when nothing in particular is asked for.
    pub fn representative(&self) -> bool {
        match self {
            Case::Browsers(scenario) => scenario.representative(),
            Case::Phone(_) | Case::Explain(_) => true,
        }
    }

    /// Runs it: how it ended, in one line, and, if well, the path, when it was connected and how it got over a fault.
    fn run(&self, session: &Session, options: &Options) -> Ended {
        match self {
            Case::Browsers(scenario) => Ended::of(scenario.run(session, options), |report| {
                (Some(results::Outcome::of(report)), report.connected_milliseconds(), report.recovery.clone())
            }),
            Case::Phone(scenario) => Ended::of(scenario.run(session, options), |report| {
                (Some(results::Outcome::of_pages(&[&report.page.page])), report.connected_milliseconds(), None)
            }),
            Case::Explain(scenario) => Ended::of(scenario.run(session, options), |_| (None, None, None)),
        }
    }
}

/// How a scenario of any kind ended.
struct Ended {
    verdict: Verdict,
    line: String,
    path: Option<results::Outcome>,
    connected_milliseconds: Option<i64>,
    recovery: Option<Recovery>,
}

impl Ended {
    fn of<M>(
        outcome: Outcome<M>,
        measured: impl Fn(&M) -> (Option<results::Outcome>, Option<i64>, Option<Recovery>),
    ) -> Ended {
        let without = |verdict, line| Ended { verdict, line, path: None, connected_milliseconds: None, recovery: None };
        match outcome {
            Outcome::Passed { summary, measurements } => {
                let (path, connected_milliseconds, recovery) = measured(&measurements);
                Ended { verdict: Verdict::Passed, line: summary, path, connected_milliseconds, recovery }
            }
            Outcome::Skipped(reason) => without(Verdict::Skipped, reason),
            Outcome::Failed(problem) => without(Verdict::Failed, problem),
        }
    }
}

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

impl Tally {
    /// Counts them.
    pub fn of(records: &[Record]) -> Tally {
        let count = |verdict| records.iter().filter(|record| record.verdict == verdict).count();
        Tally { passed: count(Verdict::Passed), failed: count(Verdict::Failed), skipped: count(Verdict::Skipped) }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
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
    Tally::of(&run_recorded(session, options, filter))
}

/// As [`run`], and brings what is known of each.
pub fn run_recorded(session: &Result<Session, CannotRun>, options: &Options, filter: &str) -> Vec<Record> {
    run_cases(session, options, filter, all(), matrix::representative())
}

/// As [`run`], of these scenarios instead of the suite's.
pub fn run_these(
    session: &Result<Session, CannotRun>,
    options: &Options,
    filter: &str,
    scenarios: Vec<Scenario>,
) -> Tally {
    Tally::of(&run_cases(session, options, filter, scenarios.into_iter().map(Case::Browsers).collect(), Vec::new()))
}

fn run_cases(
    session: &Result<Session, CannotRun>,
    options: &Options,
    filter: &str,
    scenarios: Vec<Case>,
    pairs: Vec<Pair>,
) -> Vec<Record> {
    let everything = options.all || !filter.is_empty();
    let wanted = |case: &Case| case.name().contains(filter) && (everything || case.representative());
    let scenarios: Vec<_> = scenarios.into_iter().filter(wanted).collect();
    let pairs: Vec<_> = pairs.into_iter().filter(|pair| pair.name().contains(filter)).collect();
    let names =
        scenarios.iter().map(|scenario| scenario.name().len()).chain(pairs.iter().map(|pair| pair.name().len()));
    let width = names.max().unwrap_or_default();
    let mut records = Vec::new();
    for scenario in scenarios {
        let record = run_scenario(&scenario, session, options);
        print(&record, width, "");
        records.push(record);
    }
    for pair in pairs {
        records.extend(run_pair(&pair, session, options, width, ""));
    }
    let recoveries: Vec<_> =
        records.iter().filter_map(|record| Some((&*record.name, record.recovery.as_ref()?))).collect();
    if !recoveries.is_empty() {
        say!("\n{}", fault::table(&recoveries));
    }
    say!("{}", Tally::of(&records));
    records
}

/// Runs a pair of the grid, printing a line a call; `progress` goes in front.
pub fn run_pair(
    pair: &Pair,
    session: &Result<Session, CannotRun>,
    options: &Options,
    width: usize,
    progress: &str,
) -> Vec<Record> {
    let records = pair.run(session, options);
    for record in &records {
        print(record, width, progress);
    }
    records
}

fn run_scenario(scenario: &Case, session: &Result<Session, CannotRun>, options: &Options) -> Record {
    let (since, started) = (SystemTime::now(), Instant::now());
    let ended = match session {
        Ok(session) => scenario.run(session, options),
        Err(reason) => Ended::of(Outcome::<()>::Skipped(reason.to_string()), |()| (None, None, None)),
    };
    let files = match ended.verdict {
        Verdict::Skipped => Vec::new(),
        verdict => files_in(&options.output.join(scenario.name()), since, verdict == Verdict::Failed),
    };
    Record {
        name: scenario.name().to_owned(),
        sentence: scenario.sentence().to_owned(),
        verdict: ended.verdict,
        path: ended.path,
        seconds: started.elapsed().as_secs_f64(),
        connected_milliseconds: ended.connected_milliseconds,
        line: ended.line,
        recovery: ended.recovery,
        cell: None,
        files,
    }
}

fn print(record: &Record, width: usize, progress: &str) {
    let word = match record.verdict {
        Verdict::Passed => "PASS",
        Verdict::Failed => "FAIL",
        Verdict::Skipped => "SKIP",
    };
    say!("{progress}{word}  {:width$}  {:4.1} s  {}", record.name, record.seconds, record.line);
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
