//! `netlab test [FILTER]`

use std::process::ExitCode;
use std::time::Instant;

use netlab::scenario::{self, Outcome};
use netlab::{Options, Session};

/// Runs the scenarios; the exit code is 1 if any failed and 2 if there was nothing to run.
pub fn test(filter: Option<&str>, options: &Options) -> ExitCode {
    let scenarios: Vec<_> = scenario::all()
        .into_iter()
        .filter(|scenario| scenario.name.contains(filter.unwrap_or_default()))
        .collect();
    if scenarios.is_empty() {
        eprintln!(
            "netlab: no scenario's name contains {:?}; `netlab list` shows them",
            filter.unwrap_or_default()
        );
        return ExitCode::from(2);
    }
    let session = Session::enter();
    if let Ok(session) = &session
        && let Err(error) = super::clean_up_when_interrupted(session)
    {
        eprintln!("netlab: {error:#}");
        return ExitCode::FAILURE;
    }
    let width = scenarios
        .iter()
        .map(|scenario| scenario.name.len())
        .max()
        .unwrap_or_default();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for scenario in scenarios {
        let started = Instant::now();
        let outcome = match &session {
            Ok(session) => scenario.run(session, options),
            Err(reason) => Outcome::Skipped(reason.to_string()),
        };
        let (word, line) = match outcome {
            Outcome::Passed { summary, .. } => {
                passed += 1;
                ("PASS", summary)
            }
            Outcome::Skipped(reason) => {
                skipped += 1;
                ("SKIP", reason)
            }
            Outcome::Failed(report) => {
                failed += 1;
                ("FAIL", report)
            }
        };
        println!(
            "{word}  {:width$}  {:4.1} s  {line}",
            scenario.name,
            started.elapsed().as_secs_f64()
        );
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
