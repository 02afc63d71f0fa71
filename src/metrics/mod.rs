//! What the gateway counts, in the text format of OpenMetrics, which Prometheus reads.
//!
//! Two processes count: the front ([`front`]) and the model relay ([`relay`]), each in memory and from its start. The
//! front shows both on a socket of its own ([`server`]); it asks the relay ([`scrape`]) on the socket that it has for
//! images. What a label says is a word of the program's own text, a route's pattern, or a model of the operator's list:
//! nothing that a caller says becomes one, so there is a bound on how many series there are, and no user's name in them.
//!
//! docs/metrics.md lists all of them; a test compares.

pub mod front;
pub mod relay;
pub mod scrape;
pub mod server;

use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

/// The media type of what is shown.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels with values out of the program's text.
pub type Words<const N: usize> = [(&'static str, &'static str); N];
/// A counter for each combination of such labels.
pub type Counters<const N: usize> = Family<Words<N>, Counter>;
/// Times for each combination of such labels.
pub type Times<L> = Family<L, Histogram, fn() -> Histogram>;

/// A metric as it is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its whole name, without what samples add (`_total`, `_bucket`, `_sum`, `_count`, `_info`).
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: &'static str,
    /// What it says.
    pub help: &'static str,
}

/// A registry that remembers what is in it.
#[derive(Debug)]
pub struct Book {
    prefix: &'static str,
    registry: Registry,
    described: Vec<Described>,
}

impl Book {
    /// An empty one; all names begin with `prefix`.
    fn new(prefix: &'static str) -> Self {
        Book { prefix, registry: Registry::with_prefix(prefix), described: Vec::new() }
    }

    fn describe(&mut self, name: String, help: &'static str, metric: &impl Metric) {
        let kind = match metric.metric_type() {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::Info => "info",
            MetricType::Unknown => "unknown",
        };
        self.described.push(Described { name: format!("{}_{name}", self.prefix), kind, help });
    }

    /// Takes a metric in.
    fn add<M: Metric + Clone>(&mut self, name: &'static str, help: &'static str, metric: M) -> M {
        self.describe(name.to_owned(), help, &metric);
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// Takes a metric in that is in seconds or bytes; its name gets that at its end.
    fn add_in<M: Metric + Clone>(&mut self, name: &'static str, unit: Unit, help: &'static str, metric: M) -> M {
        self.describe(format!("{name}_{}", unit.as_str()), help, &metric);
        self.registry.register_with_unit(name, help, unit, metric.clone());
        metric
    }

    /// What is in it.
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// All of it as text, without the mark of the end.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = prometheus_client::encoding::text::encode_registry(&mut text, &self.registry);
        text
    }
}

/// Times of what is done at once: 5 ms to 40 s.
fn short() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 40.0])
}

/// Times of what takes its time: half a second to an hour.
fn long() -> Histogram {
    Histogram::new([0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_described_is_what_is_shown() {
        for book in [&front::metrics().book, &relay::metrics().book] {
            let described = book.described();
            for line in book.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
                let (name, kind) = line.split_once(' ').unwrap();
                assert!(described.iter().any(|one| one.name == name && one.kind == kind), "{line}");
            }
            let mut names: Vec<_> = described.iter().map(|one| &one.name).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), described.len());
        }
    }
}
