//! Reads what is written about metrics: docs/metrics.md, dashboards, alert rules, and what a server exports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The label that the buckets of histograms have.
pub const OF_BUCKETS: &str = "le";

/// The values of a label; without any, it may have all.
pub type Labels = BTreeMap<String, BTreeSet<String>>;

/// Metrics by name.
pub type Metrics = BTreeMap<String, Metric>;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metric {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    pub labels: Labels,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands in backquotes.
pub fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The cells of a row of a table.
pub fn cells(line: &str) -> Option<Vec<&str>> {
    line.starts_with("| `").then(|| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// The tables of docs/metrics.md: one row a metric; long lists of values have tables of their own.
pub fn documented() -> Metrics {
    let text = read("docs/metrics.md");
    let mut metrics = Metrics::new();
    let mut values_of = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            let names = quoted(title);
            values_of = Some((names[0].to_owned(), names[1].to_owned()));
        }
        let Some(cells) = cells(line) else { continue };
        let first = quoted(cells[0])[0].to_owned();
        if let Some((metric, label)) = &values_of {
            let metric = metrics.get_mut(metric).unwrap_or_else(|| panic!("{metric} has values and no row"));
            let values = metric.labels.get_mut(label).unwrap_or_else(|| panic!("no label {label}"));
            assert!(values.insert(first), "{line}: twice");
            assert!(!cells[1].is_empty(), "{line}: what does it mean?");
            continue;
        }
        assert_eq!(cells.len(), 5, "{line}");
        assert!(!cells[3].is_empty() && !cells[4].is_empty(), "{first}: what does it tell, what is to be done?");
        let label = |part: &str| {
            let mut names = quoted(part).into_iter().map(str::to_owned);
            (names.next().expect("a label"), names.collect())
        };
        let labels = cells[2].split(';').filter(|part| part.contains('`')).map(label).collect();
        let kind = cells[1].split(',').next().unwrap_or_default().to_owned();
        assert!(metrics.insert(first.clone(), Metric { kind, labels }).is_none(), "{first} has two rows");
    }
    metrics
}

/// What a series belongs to: those of a histogram have names of their own.
pub fn metric_of<'n>(metrics: &Metrics, series: &'n str) -> &'n str {
    let is_histogram = |name: &&str| metrics.get(*name).is_some_and(|metric| metric.kind == "histogram");
    let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end).filter(is_histogram));
    name.unwrap_or(series)
}

/// A page of `/metrics`.
pub fn exported(page: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            metrics.insert(name.to_owned(), Metric { kind: kind.to_owned(), ..Metric::default() });
        } else if !line.starts_with('#') && !line.is_empty() {
            for Selector { name, matchers } in selectors(line) {
                let name = metric_of(&metrics, &name).to_owned();
                let metric = metrics.get_mut(&name).unwrap_or_else(|| panic!("no type of {name}"));
                for (label, value) in matchers.into_iter().filter(|(label, _)| label != OF_BUCKETS) {
                    metric.labels.entry(label).or_default().insert(value);
                }
            }
        }
    }
    metrics
}

/// A metric as it is named in an expression.
#[derive(Debug)]
pub struct Selector {
    pub name: String,
    /// Labels, and values or regular expressions.
    pub matchers: Vec<(String, String)>,
}

impl Selector {
    /// As text, without what Grafana fills in.
    pub fn any(&self) -> &str {
        &self.name
    }
}

/// Every metric that an expression names. Enough of PromQL for what this repository has; Prometheus itself judges the
/// rest.
pub fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|character| !is_word(character)).map_or(rest.len(), |end| start + end);
        let (word, after) = (&rest[start..end], &rest[end..]);
        rest = after;
        if !(word.starts_with("hairpin_") || word.starts_with("process_") || word == "up") {
            continue;
        }
        let mut matchers = Vec::new();
        if let Some(inside) = after.strip_prefix('{') {
            let (inside, after) = inside.split_once('}').expect("a closing brace");
            rest = after;
            let mut parts = inside.split('"');
            while let (Some(label), Some(value)) = (parts.next(), parts.next()) {
                let label = label.trim_matches(|character: char| !is_word(character));
                matchers.push((label.to_owned(), value.to_owned()));
            }
        }
        found.push(Selector { name: word.to_owned(), matchers });
    }
    found
}

/// Every file of this kind in a folder of grafana/.
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("grafana").join(folder)).expect("a folder of grafana/");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(extension)).collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} has no {extension}");
    files
}

/// An expression and where it stands.
#[derive(Debug)]
pub struct Expression {
    pub place: String,
    pub text: String,
}

/// The queries of all dashboards.
pub fn panels() -> Vec<Expression> {
    let mut expressions = Vec::new();
    for path in files("dashboards", ".json") {
        let dashboard: Value = serde_json::from_str(&read(&path)).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{path:?}: an id is there twice");
            let title = panel["title"].as_str().expect("a title");
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}: what for?");
            for target in panel["targets"].as_array().expect("targets") {
                let text = target["expr"].as_str().expect("an expression").to_owned();
                let place = format!("{}: {title}", dashboard["title"].as_str().expect("a title"));
                expressions.push(Expression { place, text });
            }
        }
    }
    expressions
}

/// The expressions of all alert rules.
pub fn alerts() -> Vec<Expression> {
    let text = read("grafana/prometheus/hairpin.rules.yml");
    let mut expressions = Vec::new();
    let mut place = String::new();
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            name.clone_into(&mut place);
        } else if let Some(expression) = line.trim().strip_prefix("expr: ") {
            expressions.push(Expression { place: place.clone(), text: expression.to_owned() });
        }
    }
    assert_eq!(expressions.len(), text.matches("expr:").count(), "an expression was not understood");
    expressions
}
