//! The program, docs/metrics.md, the dashboards and the alert rules say the same.

use std::collections::BTreeSet;

use super::documents::{Expression, OF_BUCKETS, alerts, documented, exported, metric_of, panels, read, selectors};
use super::load::Served;

/// Labels that Prometheus adds to everything.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

#[test]
fn what_is_exported_is_documented_and_the_reverse() {
    let served = Served::start();
    let (exported, documented) = (exported(&served.metrics()), documented());
    let names = |metrics: &super::documents::Metrics| metrics.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&exported), names(&documented), "left: /metrics, right: docs/metrics.md");
    for (name, metric) in &exported {
        let written = &documented[name];
        assert_eq!(metric.kind, written.kind, "{name}");
        assert_eq!(
            metric.labels.keys().collect::<Vec<_>>(),
            written.labels.keys().collect::<Vec<_>>(),
            "labels of {name}; left: /metrics, right: docs/metrics.md"
        );
        for (label, values) in written.labels.iter().filter(|(_, values)| !values.is_empty()) {
            assert_eq!(&metric.labels[label], values, "{name}, {label}; left: /metrics, right: docs/metrics.md");
        }
        let is_counter = metric.kind == "counter";
        assert_eq!(is_counter, name.ends_with("_total"), "{name} is a {}", metric.kind);
    }
}

#[test]
fn dashboards_and_alerts_name_only_what_there_is() {
    let documented = documented();
    for Expression { place, text } in panels().iter().chain(&alerts()) {
        let selectors = selectors(text);
        assert!(!selectors.is_empty(), "{place}: {text} asks for nothing");
        let mut labels: BTreeSet<&str> = OF_PROMETHEUS.into();
        labels.insert(OF_BUCKETS);
        for selector in selectors.iter().filter(|selector| selector.name != "up") {
            let metric = documented.get(metric_of(&documented, &selector.name));
            let metric = metric.unwrap_or_else(|| panic!("{place}: there is no {}", selector.name));
            labels.extend(metric.labels.keys().map(String::as_str));
            for (label, value) in &selector.matchers {
                if OF_PROMETHEUS.contains(&label.as_str()) {
                    continue;
                }
                let values = metric.labels.get(label).unwrap_or_else(|| panic!("{place}: no label {label}: {text}"));
                for word in value.split('|') {
                    let fits = |value: &String| match word.strip_suffix(".*") {
                        Some(start) => value.starts_with(start),
                        None => value == word,
                    };
                    assert!(values.iter().any(fits), "{place}: {label} is never {word}");
                }
            }
            let is_rate = text.contains(&format!("rate({}", selector.name));
            assert!(!is_rate || metric.kind != "gauge", "{place}: the rate of what is no counter");
        }
        for part in text.split("by (").skip(1).chain(text.split("on (").skip(1)) {
            let part = part.split(')').next().unwrap_or_default();
            for label in part.split(',').map(str::trim) {
                assert!(labels.contains(label), "{place}: sums by {label}, which none of its metrics has");
            }
        }
    }
}

/// Nobody looks at what no dashboard shows. The exceptions are for those who search for a cause.
#[test]
fn every_metric_is_on_a_dashboard_or_meant_for_searching() {
    let (panels, alerts, documented) = (panels(), alerts(), documented());
    let series = panels.iter().chain(&alerts).flat_map(|expression| selectors(&expression.text));
    let shown: BTreeSet<String> = series.map(|series| metric_of(&documented, &series.name).to_owned()).collect();
    let for_searching = [
        "hairpin_configuration_loaded_timestamp_seconds",
        "hairpin_configuration_reloads_total",
        "hairpin_connections_moved_total",
        "hairpin_responses_total",
        "hairpin_shards",
    ];
    let hidden: Vec<String> = documented.into_keys().filter(|name| !shown.contains(name)).collect();
    assert_eq!(hidden, for_searching);
}

#[test]
fn every_alert_has_series_that_make_it_fire_and_series_that_do_not() {
    let text = read("grafana/prometheus/hairpin.rules.test.yml");
    for Expression { place, .. } in alerts() {
        let cases: Vec<&str> = text.split("alertname: ").skip(1).filter(|case| case.starts_with(&place)).collect();
        let cases: Vec<bool> = cases
            .into_iter()
            .filter(|case| case.lines().next() == Some(&*place))
            .map(|case| case.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts:"))
            .collect();
        assert_eq!(cases, [true, false], "{place}: one case that fires, then one that does not");
    }
}
