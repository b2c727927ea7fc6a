//! What came out: samples of all rounds as they are kept, medians and ratios as they are shown.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::rows::{self, Goal, Row};

/// Everything that is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Document {
    /// What the rows were measured on, the last of them at least.
    pub machine: Machine,
    /// Rows by name.
    pub rows: BTreeMap<String, Measured>,
}

/// A row's samples.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Seconds since 1970.
    pub measured_at: u64,
    /// In each round every server once.
    pub rounds: Vec<Vec<Sample>>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Whose.
    pub server: String,
    /// What it was.
    pub figures: Figures,
    /// Of the machine, before.
    pub load_average: f64,
    /// What else ran meanwhile, if it was too much.
    pub disturbed: Option<String>,
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// In the row's unit.
    pub value: f64,
    /// Units a second.
    pub per_second: Option<f64>,
    /// Units that never arrived.
    pub lost: Option<f64>,
    /// The part of `value` in interrupts.
    pub softirq_share: Option<f64>,
    /// Microseconds.
    pub median_latency: Option<f64>,
    /// Microseconds that one in a hundred exceeds.
    pub tail_latency: Option<f64>,
    /// The part of the time that the load itself was busy.
    pub generator_busy: Option<f64>,
}

impl Sample {
    /// For whoever watches.
    pub fn line(&self, row: &Row) -> String {
        let Figures { value, per_second, lost, softirq_share, median_latency, tail_latency, generator_busy } =
            self.figures;
        let mut line = format!("{:<10}{value:>8.2} {}", self.server, row.what.unit());
        let mut say = |text: Option<String>| line.extend(text);
        say(per_second.map(|rate| format!("  {rate:>8.0}/s")));
        say(softirq_share.map(|share| format!("  softirq {:>2.0} %", share * 100.0)));
        say(median_latency.zip(tail_latency).map(|(half, tail)| format!("  latency {half:.0}, p99 {tail:.0} µs")));
        say(lost.filter(|lost| *lost > 0.0).map(|lost| format!("  {lost:.0} lost")));
        say(generator_busy.filter(|busy| *busy > 0.95).map(|_| "  (the load is at its limit)".to_owned()));
        say(self.disturbed.as_ref().map(|why| format!("  DISTURBED: {why}")));
        line
    }
}

/// The middle of some figures, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half are below.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// Of no figures there is none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut all: Vec<f64> = figures.into_iter().collect();
        all.sort_by(f64::total_cmp);
        let (min, max) = (*all.first()?, *all.last()?);
        let middle = all.len() / 2;
        let median = if all.len() % 2 == 1 { all[middle] } else { (all[middle - 1] + all[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

impl Measured {
    /// A figure of one server, in all rounds. Disturbed measurements count only where there are no others.
    pub fn spread(&self, server: &str, figure: impl Fn(&Figures) -> Option<f64>) -> Option<Spread> {
        let of_server = || self.rounds.iter().flatten().filter(|sample| sample.server == server);
        let quiet = || of_server().filter(|sample| sample.disturbed.is_none());
        Spread::of(quiet().filter_map(|sample| figure(&sample.figures)))
            .or_else(|| Spread::of(of_server().filter_map(|sample| figure(&sample.figures))))
    }

    /// What a unit takes one server.
    pub fn value(&self, server: &str) -> Option<Spread> {
        self.spread(server, |figures| Some(figures.value))
    }

    /// One server's value by the other's, each time in the same round. Disturbed rounds count only where there are no
    /// others.
    pub fn ratio(&self, server: &str, other: &str) -> Option<Spread> {
        let ratios = |may_be_disturbed: bool| {
            Spread::of(self.rounds.iter().filter_map(|round| {
                let of = |name: &str| {
                    let found = round.iter().find(|sample| sample.server == name)?;
                    (may_be_disturbed || found.disturbed.is_none()).then_some(found.figures.value)
                };
                Some(of(server)? / of(other)?)
            }))
        };
        ratios(false).or_else(|| ratios(true))
    }

    /// Samples, and those of them that were disturbed.
    pub fn disturbed(&self) -> (usize, usize) {
        let samples = || self.rounds.iter().flatten();
        (samples().count(), samples().filter(|sample| sample.disturbed.is_some()).count())
    }
}

impl Document {
    /// Reads what earlier runs have kept; nothing, if there were none.
    ///
    /// # Errors
    /// When the file is something else.
    pub fn read(path: &Path) -> Result<Self, String> {
        match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Keeps everything.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).expect("plain data is always JSON");
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Takes a row in, in place of what there was.
    pub fn put(&mut self, row: &Row, rounds: Vec<Vec<Sample>>) {
        let measured_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        self.rows.insert(row.name.to_owned(), Measured { measured_at, rounds });
    }

    /// The rows that are kept, in the order of the tables.
    pub fn in_order(&self) -> Vec<(Row, &Measured)> {
        rows::all()
            .into_iter()
            .filter_map(|row| Some((self.rows.get(row.name)?, row)))
            .map(|(m, row)| (row, m))
            .collect()
    }

    /// What Hairpin needs by what it is compared with, and whether that is the goal; `None` if there is nothing to
    /// compare it with.
    pub fn against_goal(&self, row: &Row, measured: &Measured) -> Option<(f64, bool)> {
        use crate::contestants::names::{COTURN, HAIRPIN};
        let (got, most) = match row.goal {
            Goal::None => return None,
            Goal::OfCoturn(most) => (measured.ratio(HAIRPIN, COTURN)?.median, most),
            Goal::OfRow(other, most) => {
                let other = self.rows.get(other)?.value(HAIRPIN)?;
                (measured.value(HAIRPIN)?.median / other.median, most)
            }
            Goal::Absolute(most) => (measured.value(HAIRPIN)?.median, most),
        };
        Some((got, got <= most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(server: &str, value: f64, disturbed: bool) -> Sample {
        let figures = Figures { value, ..Figures::default() };
        let disturbed = disturbed.then(|| "a build".to_owned());
        Sample { server: server.into(), figures, load_average: 0.0, disturbed }
    }

    #[test]
    fn ratios_are_those_of_the_same_round_and_disturbed_ones_do_not_count() {
        let rounds = vec![
            vec![sample("hairpin", 2.0, false), sample("coturn", 4.0, false)],
            vec![sample("coturn", 8.0, false), sample("hairpin", 6.0, false)],
            vec![sample("hairpin", 90.0, true), sample("coturn", 1.0, false)],
        ];
        let measured = Measured { measured_at: 0, rounds };
        assert_eq!(measured.ratio("hairpin", "coturn"), Some(Spread { median: 0.625, min: 0.5, max: 0.75 }));
        assert_eq!(measured.value("hairpin"), Some(Spread { median: 4.0, min: 2.0, max: 6.0 }));
        assert_eq!(measured.value("nobody"), None);
        assert_eq!(measured.disturbed(), (6, 1));
    }
}
