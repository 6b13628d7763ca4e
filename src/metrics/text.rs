//! Numbers by name and labels, and the text that Prometheus reads of them (exposition format 0.0.4).
//!
//! Nothing here knows what is counted. Values of labels are bounded: what is one too many is counted under `other`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// The most values that one label has.
const MAX_VALUES: usize = 200;

/// Where what is one too many is counted.
const OTHER: &str = "other";

/// A family of numbers: the same thing, counted by labels.
#[derive(Debug)]
pub(crate) struct Family<T> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    seen: Vec<BTreeSet<String>>,
    values: BTreeMap<Vec<String>, T>,
}

impl<T: Default> Family<T> {
    pub(crate) fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<T> {
        Family { name, help, labels, seen: vec![BTreeSet::new(); labels.len()], values: BTreeMap::new() }
    }

    /// The value with these labels, in the family's order of them.
    pub(crate) fn with(&mut self, labels: &[&str]) -> &mut T {
        let bounded = labels.iter().zip(&mut self.seen).map(|(value, seen)| {
            if !seen.contains(*value) {
                if seen.len() >= MAX_VALUES {
                    return OTHER.to_owned();
                }
                seen.insert((*value).to_owned());
            }
            (*value).to_owned()
        });
        let labels: Vec<String> = bounded.collect();
        self.values.entry(labels).or_default()
    }

    /// Takes a value away: what is not known is not said.
    pub(crate) fn forget(&mut self, labels: &[&str]) {
        self.values.retain(|known, _| known != labels);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.values.len()
    }
}

/// What only grows.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counter(pub(crate) u64);

/// What goes up and down.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Gauge(pub(crate) f64);

/// How long things took.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    sum: f64,
    count: u64,
}

/// Upper bounds for what is waited for: writes, calls.
pub(crate) const SHORT: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// Upper bounds for what is followed: attempts, runs.
pub(crate) const LONG: [f64; 12] =
    [0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];

impl Histogram {
    /// Counts one.
    pub(crate) fn observe(&mut self, took: Duration, bounds: &[f64]) {
        let seconds = took.as_secs_f64();
        self.buckets.resize(bounds.len(), 0);
        if let Some(at) = bounds.iter().position(|bound| seconds <= *bound) {
            self.buckets[at] += 1;
        }
        self.sum += seconds;
        self.count += 1;
    }
}

/// The text, family by family.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    pub(crate) fn counters(&mut self, family: &Family<Counter>) {
        self.begin(family.name, family.help, "counter");
        for (labels, value) in &family.values {
            self.line(family.name, family.labels, labels, None, &value.0.to_string());
        }
    }

    pub(crate) fn gauges(&mut self, family: &Family<Gauge>) {
        self.begin(family.name, family.help, "gauge");
        for (labels, value) in &family.values {
            self.line(family.name, family.labels, labels, None, &value.0.to_string());
        }
    }

    pub(crate) fn histograms(&mut self, family: &Family<Histogram>, bounds: &[f64]) {
        self.begin(family.name, family.help, "histogram");
        let bucket = format!("{}_bucket", family.name);
        for (labels, value) in &family.values {
            let mut below = 0;
            for (at, bound) in bounds.iter().enumerate() {
                below += value.buckets.get(at).copied().unwrap_or(0);
                self.line(&bucket, family.labels, labels, Some(&bound.to_string()), &below.to_string());
            }
            self.line(&bucket, family.labels, labels, Some("+Inf"), &value.count.to_string());
            self.line(&format!("{}_sum", family.name), family.labels, labels, None, &value.sum.to_string());
            self.line(
                &format!("{}_count", family.name),
                family.labels,
                labels,
                None,
                &value.count.to_string(),
            );
        }
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }

    fn begin(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, names: &[&str], values: &[String], bound: Option<&str>, value: &str) {
        let mut labels: Vec<String> =
            names.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        labels.extend(bound.map(|bound| format!("le=\"{bound}\"")));
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_the_format_says() {
        let mut runs = Family::<Counter>::new("runs_total", "Runs.", &["workflow"]);
        runs.with(&["a\"b\\c\nd"]).0 += 2;
        let mut took = Family::<Histogram>::new("took_seconds", "Took.", &[]);
        took.with(&[]).observe(Duration::from_millis(500), &[0.1, 1.0]);
        took.with(&[]).observe(Duration::from_secs(9), &[0.1, 1.0]);
        let mut text = Text::default();
        text.counters(&runs);
        text.histograms(&took, &[0.1, 1.0]);
        let expected = r#"# HELP runs_total Runs.
# TYPE runs_total counter
runs_total{workflow="a\"b\\c\nd"} 2
# HELP took_seconds Took.
# TYPE took_seconds histogram
took_seconds_bucket{le="0.1"} 0
took_seconds_bucket{le="1"} 1
took_seconds_bucket{le="+Inf"} 2
took_seconds_sum 9.5
took_seconds_count 2
"#;
        assert_eq!(text.into_string(), expected);
    }

    #[test]
    fn what_is_one_label_too_many_is_counted_under_other() {
        let mut family = Family::<Counter>::new("x_total", "X.", &["workflow"]);
        for number in 0..10_000 {
            family.with(&[&format!("w{number}")]).0 += 1;
        }
        assert_eq!(family.len(), MAX_VALUES + 1);
        assert_eq!(family.with(&["w9999"]).0, 10_000 - MAX_VALUES as u64);
        assert_eq!(family.with(&["w0"]).0, 1);
    }
}
