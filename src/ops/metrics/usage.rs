//! What is told about usage records. The series are there whether there are any or not.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::{counter, describe, gauge};
use crate::ops::usage::{Drop, Figures, Kind, SINKS};

pub(in crate::ops) struct UsageCollector {
    figures: Arc<Figures>,
    descriptions: Vec<Desc>,
}

impl UsageCollector {
    pub(in crate::ops) fn new(figures: Arc<Figures>) -> Self {
        let descriptions = describe(families(&figures));
        Self { figures, descriptions }
    }
}

impl Collector for UsageCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&self.figures)
    }
}

fn families(figures: &Figures) -> Vec<MetricFamily> {
    let written = Kind::WRITTEN.iter().enumerate();
    vec![
        counter(
            "hairpin_usage_records_total",
            "Usage records written to the spool, by kind.",
            written.map(|(place, kind)| ([("kind", kind.label())], figures.count_written(place))),
        ),
        counter(
            "hairpin_usage_records_delivered_total",
            "Usage records that a receiver has acknowledged, those it got twice counted twice.",
            SINKS.map(|sink| ([("sink", sink.label())], figures.count_delivered(sink))),
        ),
        gauge(
            "hairpin_usage_records_waiting",
            "Usage records in the spool that a receiver has not acknowledged.",
            SINKS.map(|sink| ([("sink", sink.label())], figures.count_waiting(sink) as f64)),
        ),
        counter(
            "hairpin_usage_delivery_failures_total",
            "Attempts to deliver usage records that failed; each is repeated.",
            SINKS.map(|sink| ([("sink", sink.label())], figures.count_failures(sink))),
        ),
        counter(
            "hairpin_usage_records_dropped_total",
            "Usage records, and beginnings and ends of allocations, that were lost, by reason.",
            Drop::ALL.map(|why| ([("reason", why.label())], figures.count_dropped(why))),
        ),
    ]
}
