//! Runs cases, several at a time, and remembers how each ended over each transport.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bench::{Bench, Target, Transcript};
use crate::case::{Case, Need, Section, Stop};
use crate::link::Transport;

/// How one case ended over one transport.
pub struct Ending {
    pub case: Case,
    pub section: &'static str,
    pub transport: Transport,
    pub result: Result<(), Stop>,
    /// What was said, for a case that failed.
    pub transcript: Vec<String>,
}

/// Which cases, and how.
pub struct Plan<'t> {
    pub targets: Vec<&'t Target>,
    pub only: Option<String>,
    pub slow: bool,
    pub jobs: usize,
}

/// Runs what the plan says; endings come in the order of the sections.
pub fn run(sections: &[Section], plan: &Plan<'_>) -> Vec<Ending> {
    let mut work: Vec<(&'static str, &Case, Transport)> = Vec::new();
    for section in sections {
        let cases = section.cases.iter().filter(|case| plan.only.as_deref().is_none_or(|id| case.id.starts_with(id)));
        work.extend(cases.flat_map(|case| case.transports.iter().map(move |over| (section.title, case, *over))));
    }
    let next = AtomicUsize::new(0);
    let endings = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(section, case, transport)) = work.get(place) else {
                        return;
                    };
                    let ending = end(plan, section, case, transport);
                    endings.lock().expect("no case panics while it holds this").push((place, ending));
                }
            });
        }
    });
    let mut endings = endings.into_inner().expect("as before");
    endings.sort_by_key(|(place, _)| *place);
    endings.into_iter().map(|(_, ending)| ending).collect()
}

fn end(plan: &Plan<'_>, section: &'static str, case: &Case, transport: Transport) -> Ending {
    let ending = |result, transcript| Ending { case: case.clone(), section, transport, result, transcript };
    let inapplicable = |why: String| ending(Err(Stop::NotApplicable(why)), Vec::new());
    let meets = |target: &&&Target| case.needs.iter().all(|need| target.has.contains(need));
    let Some(target) = plan.targets.iter().find(meets) else {
        let missing = |need: &&Need| !plan.targets.iter().any(|target| target.has.contains(need));
        let labels = |needs: Vec<&Need>| needs.into_iter().map(|need| need.label()).collect::<Vec<_>>().join(", ");
        let missing: Vec<&Need> = case.needs.iter().filter(missing).collect();
        return inapplicable(match missing.is_empty() {
            true => format!("needs {} in one configuration", labels(case.needs.iter().collect())),
            false => format!("needs {}", labels(missing)),
        });
    };
    if target.address(transport).is_none() {
        return inapplicable(format!("needs {transport}"));
    }
    if case.slow && !plan.slow {
        return inapplicable("takes minutes: run with --slow; tests/rfc has it in virtual time".to_owned());
    }
    let _turn = target.turn.as_ref().map(|turn| turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    let transcript = Transcript::default();
    transcript.note(format!("the server, configuration \"{}\"", target.profile));
    let bench = Bench { target, transport, transcript: transcript.clone() };
    let result = catch_unwind(AssertUnwindSafe(|| (case.test)(&bench)))
        .unwrap_or_else(|_| Err(Stop::Failed("the case itself panicked".to_owned())));
    let lines = if matches!(result, Err(Stop::Failed(_))) { transcript.take() } else { Vec::new() };
    ending(result, lines)
}
