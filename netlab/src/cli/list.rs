//! `netlab list` and `netlab show TOPOLOGY`

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use netlab::nat::Nat;
use netlab::topology::Topology;
use netlab::{drawing, say, suite};

use super::control::running_labs;

/// Prints what there is: topologies, scenarios, and labs that run now.
pub fn list() -> Result<ExitCode> {
    say!("Topologies:");
    for name in Topology::shipped() {
        say!("  {name:22} {}", Topology::load(name)?.description);
    }
    say!("Scenarios:");
    for scenario in suite::all() {
        let mark = if scenario.representative() { ' ' } else { '*' };
        say!("{mark} {:22} {}", scenario.name(), scenario.sentence());
    }
    for pair in netlab::matrix::representative() {
        say!(
            "  {:22}\n  {:22} {} and {}, the first of many in `netlab matrix`",
            pair.name(),
            "",
            pair.nats[0],
            pair.nats[1]
        );
    }
    say!("* only by name or with --all");
    say!("NATs:");
    for nat in Nat::PRESETS.into_iter().chain([Nat::OneToOne]) {
        say!(
            "  {nat:26} {}",
            match nat.behaviour() {
                Some(behaviour) => behaviour.to_string(),
                None if nat == Nat::OneToOne => "one address for the one host behind it (not in the grid)".to_owned(),
                None => "no translation".to_owned(),
            }
        );
    }
    say!("Running labs:");
    let labs = running_labs();
    for lab in &labs {
        say!("  {:<22} {}", lab.process, lab.topology);
    }
    if labs.is_empty() {
        say!("  none (`netlab up internet` starts one)");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a topology as a tree, and draws it into a file where one is named.
pub fn show(name: &str, svg: Option<&Path>) -> Result<ExitCode> {
    let topology = Topology::load(name)?;
    say!("{}", topology.description);
    say!("{}", drawing::text(&topology, |_| None).trim_end());
    if let Some(file) = svg {
        std::fs::write(file, drawing::svg(&topology)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
