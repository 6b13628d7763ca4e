//! `prometheus`: a query and the bounds of what it gives; the lane against the baseline by a second query.
//!
//! The address and its credentials are the operator's. NaN and an empty answer are no data, and an infinity is no
//! measurement: none of them passes by itself.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use graylane_engine::clock::{DURATION_PATTERN, parse_duration};
use graylane_engine::document::Finding;
use graylane_engine::task::{TaskContext, TaskError};
use http_body_util::Full;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::reach::{Answer, HttpClient, fetch};
use super::samples::Sample;
use crate::environment::{Prometheus, Site};
use crate::spec::check_duration;

const TIMEOUT: Duration = Duration::from_secs(30);
/// What Prometheus itself gives at most for one series.
const MAX_POINTS: u128 = 11_000;

/// Asks Prometheus.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PrometheusWith {
    /// The query, in PromQL. Every series that it gives is judged.
    pub query: String,
    /// Every measurement is at least this.
    #[serde(default)]
    pub min: Option<f64>,
    /// Every measurement is at most this.
    #[serde(default)]
    pub max: Option<f64>,
    /// A second query, for `ratio` and `difference`. Both give one series then.
    #[serde(default)]
    pub baseline: Option<String>,
    /// What `query` gives, divided by what `baseline` gives.
    #[serde(default)]
    pub ratio: Option<BoundWith>,
    /// What `query` gives, less what `baseline` gives.
    #[serde(default)]
    pub difference: Option<BoundWith>,
    /// Asks for a span of time rather than for now.
    #[serde(default)]
    pub range: Option<RangeWith>,
    /// How many measurements there must be in all looks together, NaN left out; else it is no data. 1 where nothing is said.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_samples: Option<u32>,
}

/// A lower and an upper bound, one of them at least.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BoundWith {
    /// At least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// At most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// A span of time.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RangeWith {
    /// How long it is; it ends now.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub last: String,
    /// How far its points are apart; 15s where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub step: Option<String>,
    /// What of its points is judged; each of them where nothing is said.
    #[serde(default)]
    pub reduce: Option<Reduce>,
}

/// What of the points of a series is judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reduce {
    /// Each of them.
    #[default]
    Each,
    /// Their mean.
    Avg,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The last one.
    Last,
}

/// A query, ready to be asked. No credential is part of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Planned {
    query: String,
    bound: BoundWith,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    range: Option<Range>,
    pub(super) min_samples: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Against {
    query: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ratio: Option<BoundWith>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    difference: Option<BoundWith>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Range {
    last_ms: u64,
    step_ms: u64,
    reduce: Reduce,
}

const NO_ADDRESS: (&str, &str) = (
    "the environment does not say where Prometheus is",
    "the operator adds `prometheus: { address: ... }` to its file",
);

/// What no schema can say.
pub(super) fn check(prometheus: &Value, site: Option<&Site>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(map) = prometheus.as_object() else { return findings };
    if site.is_some_and(|site| site.environment.prometheus.is_none()) {
        findings.push(Finding::at("", NO_ADDRESS.0).on_key().hint(NO_ADDRESS.1));
    }
    let has = |key: &str| map.contains_key(key);
    let compares = has("ratio") || has("difference");
    if !has("min") && !has("max") && !compares {
        let finding = Finding::at("/query", "nothing is asked of what the query gives").on_key();
        findings.push(finding.label("add `min`, `max`, or `baseline` with `ratio` or `difference`"));
    }
    match (has("baseline"), compares) {
        (true, false) => findings.push(
            Finding::at("/baseline", "nothing is compared with the baseline")
                .on_key()
                .label("add `ratio` or `difference`"),
        ),
        (false, true) => {
            let key = if has("ratio") { "ratio" } else { "difference" };
            let finding = Finding::at(format!("/{key}"), format!("`{key}` compares with nothing")).on_key();
            findings.push(finding.label("add `baseline`, the query to compare with"));
        }
        _ => {}
    }
    for key in ["ratio", "difference"] {
        if map.get(key).and_then(Value::as_object).is_some_and(Map::is_empty) {
            let finding = Finding::at(format!("/{key}"), format!("`{key}` has no bound")).on_key();
            findings.push(finding.label("add `min` or `max`"));
        }
    }
    if compares && has("range") && prometheus.pointer("/range/reduce").is_none_or(|reduce| reduce == "each") {
        let finding = Finding::at("/range", "two spans of time cannot be compared point by point").on_key();
        findings.push(finding.label("add `reduce`: `avg`, `min`, `max` or `last`"));
    }
    for key in ["last", "step"] {
        let at = format!("/range/{key}");
        check_duration(prometheus.pointer(&at), &at, &mut findings);
    }
    findings
}

impl PrometheusWith {
    pub(super) fn plan(&self, site: &Site) -> Result<Planned, String> {
        if site.environment.prometheus.is_none() {
            return Err(format!("{}: {}", NO_ADDRESS.0, NO_ADDRESS.1));
        }
        let range = match &self.range {
            None => None,
            Some(range) => {
                let last = parse_duration(&range.last)?;
                let step = parse_duration(range.step.as_deref().unwrap_or("15s"))?;
                if step.is_zero() || last.as_millis() / step.as_millis().max(1) > MAX_POINTS {
                    return Err(format!("a range has at most {MAX_POINTS} points: use a longer `step`"));
                }
                let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                Some(Range {
                    last_ms: millis(last),
                    step_ms: millis(step),
                    reduce: range.reduce.unwrap_or_default(),
                })
            }
        };
        let against = match (&self.baseline, self.ratio, self.difference) {
            (None, None, None) => None,
            (Some(query), ratio, difference) if ratio.is_some() || difference.is_some() => {
                if range.as_ref().is_some_and(|range| range.reduce == Reduce::Each) {
                    return Err("two spans of time cannot be compared point by point: add `reduce`".into());
                }
                Some(Against { query: query.clone(), ratio, difference })
            }
            _ => return Err("`baseline` goes with `ratio` or `difference`".into()),
        };
        Ok(Planned {
            query: self.query.clone(),
            bound: BoundWith { min: self.min, max: self.max },
            against,
            range,
            min_samples: self.min_samples.unwrap_or(1),
        })
    }
}

impl Planned {
    /// In words.
    pub(super) fn words(&self) -> String {
        match &self.against {
            Some(against) => format!("{} against {}", self.query, against.query),
            None => self.query.clone(),
        }
    }
}

/// Asks once.
pub(super) async fn look(
    cx: &TaskContext,
    client: &HttpClient,
    site: &Site,
    name: &str,
    planned: &Planned,
) -> Result<Sample, TaskError> {
    let Some(at) = &site.environment.prometheus else { return Err(TaskError::permanent(NO_ADDRESS.0)) };
    let range = planned.range.as_ref();
    let found = match told(cx, ask(cx, client, at, &planned.query, range).await?, name) {
        Ok(found) => found,
        Err(why) => return Ok(Sample::nothing(why)),
    };
    let reduce = planned.range.as_ref().map_or(Reduce::Each, |range| range.reduce);
    let Some(against) = &planned.against else { return Ok(judge(&found, reduce, planned.bound)) };
    let other = match told(cx, ask(cx, client, at, &against.query, range).await?, name) {
        Ok(other) => other,
        Err(why) => return Ok(Sample::nothing(format!("baseline: {why}"))),
    };
    compare(&found, &other, reduce, planned.bound, against).map_err(|why| {
        TaskError::permanent(format!("check `{name}`: {why}"))
            .hint("aggregate the query, as with `sum()` or `avg()`")
    })
}

/// The series, after warnings were logged.
fn told(cx: &TaskContext, asked: Asked, name: &str) -> Result<Vec<Series>, String> {
    match asked {
        Asked::Series(series, warnings) => {
            for warning in warnings {
                cx.log(format!("{name}: Prometheus warns: {warning}"));
            }
            Ok(series)
        }
        Asked::Nothing(why) => Err(why),
    }
}

enum Asked {
    Series(Vec<Series>, Vec<String>),
    Nothing(String),
}

/// One series: its labels as PromQL writes them, and its points by time.
#[derive(Debug, Clone, PartialEq)]
struct Series {
    labels: String,
    points: Vec<f64>,
}

async fn ask(
    cx: &TaskContext,
    client: &HttpClient,
    at: &Prometheus,
    query: &str,
    range: Option<&Range>,
) -> Result<Asked, TaskError> {
    let seconds = |millis: u64| format!("{}.{:03}", millis / 1000, millis % 1000);
    let now = cx.clock.now().millis();
    let (path, mut fields) = match range {
        None => ("query", vec![("time", seconds(now))]),
        Some(range) => (
            "query_range",
            vec![
                ("start", seconds(now.saturating_sub(range.last_ms))),
                ("end", seconds(now)),
                ("step", seconds(range.step_ms)),
            ],
        ),
    };
    fields.push(("query", query.to_owned()));
    fields.push(("timeout", "25s".into()));
    let form: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
    let uri = format!("{}/api/v1/{path}", at.address.trim_end_matches('/'));
    let mut request = http::Request::post(uri).header("content-type", "application/x-www-form-urlencoded");
    for (header, value) in &at.headers {
        request = request.header(header, value);
    }
    let secret = |name: &str| {
        cx.secrets.read(name).map_err(|why| TaskError::permanent(format!("secret `{name}`: {why}")))
    };
    if let Some(name) = &at.bearer {
        request = request.header("authorization", format!("Bearer {}", secret(name)?));
    } else if let Some(basic) = &at.basic {
        let pair = format!("{}:{}", basic.user, secret(&basic.password)?);
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        request = request.header("authorization", format!("Basic {encoded}"));
    }
    // The builder's own words could repeat a credential.
    let request = request.body(Full::new(Bytes::from(form.join("&")))).map_err(|_| {
        TaskError::permanent(
            "`prometheus` of the environment is not valid: its address, a header or a secret",
        )
    })?;
    match fetch(client, request, TIMEOUT).await {
        Ok(answer) => read(&answer, query),
        Err(why) => Ok(Asked::Nothing(format!("Prometheus at {}: {why}", at.address))),
    }
}

/// A value as it stands in a form (WHATWG URL, application/x-www-form-urlencoded).
fn escaped(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

/// What Prometheus answered (Prometheus, "HTTP API").
fn read(answer: &Answer, query: &str) -> Result<Asked, TaskError> {
    let parsed: Option<Value> = serde_json::from_str(&answer.body).ok();
    let text =
        |key: &str| parsed.as_ref().and_then(|value| value[key].as_str()).unwrap_or_default().to_owned();
    let said = |words: String| if words.is_empty() { String::new() } else { format!(": {words}") };
    match answer.status {
        200 => {}
        400 | 422 if text("errorType") == "bad_data" => {
            return Err(TaskError::permanent(format!(
                "Prometheus refuses the query `{query}`{}",
                said(text("error"))
            )));
        }
        401 | 403 => {
            return Err(TaskError::permanent(format!(
                "Prometheus answers {}{}",
                answer.status,
                said(text("error"))
            ))
            .hint("see `prometheus.bearer` or `prometheus.basic` in the environment's file"));
        }
        404 => {
            return Err(TaskError::permanent("there is no Prometheus API at that address: it answers 404")
                .hint("see `prometheus.address` in the environment's file, and the path in it"));
        }
        300..400 => {
            let to = answer.location.clone().unwrap_or_default();
            return Err(TaskError::permanent(format!("Prometheus redirects to {to}, which is not followed"))
                .hint("name the address where it answers in `prometheus.address`"));
        }
        status => return Ok(Asked::Nothing(format!("Prometheus answers {status}{}", said(text("error"))))),
    }
    let Some(parsed) = parsed.as_ref().filter(|value| value["status"] == "success") else {
        return Ok(Asked::Nothing(format!("Prometheus answers what is no success{}", said(text("error")))));
    };
    let warnings = parsed["warnings"].as_array().into_iter().flatten();
    let warnings = warnings.filter_map(Value::as_str).map(str::to_owned).collect();
    let result = &parsed["data"]["result"];
    let all = || result.as_array().into_iter().flatten();
    let wrong = |words: String| Err(TaskError::permanent(format!("`{query}` {words}")));
    let mut series = Vec::new();
    match parsed["data"]["resultType"].as_str().unwrap_or_default() {
        "scalar" => series.push(Series { labels: "{}".into(), points: point(result).into_iter().collect() }),
        "vector" | "matrix" => {
            for one in all() {
                if one.get("histogram").or(one.get("histograms")).is_some() {
                    return wrong(
                        "gives histograms: ask for a number, as with `histogram_quantile()`".into(),
                    );
                }
                let single = one.get("value").and_then(point);
                let points = one["values"].as_array().into_iter().flatten().filter_map(point);
                series.push(Series {
                    labels: labels(&one["metric"]),
                    points: single.into_iter().chain(points).collect(),
                });
            }
        }
        other => return wrong(format!("gives a {other}, and numbers are judged")),
    }
    Ok(Asked::Series(series, warnings))
}

/// `[time, "value"]`.
fn point(pair: &Value) -> Option<f64> {
    pair.get(1)?.as_str()?.parse().ok()
}

fn labels(metric: &Value) -> String {
    let pairs = metric.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs
        .filter(|(key, _)| key.as_str() != "__name__")
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("{}{{{}}}", metric["__name__"].as_str().unwrap_or_default(), pairs.join(", "))
}

impl BoundWith {
    /// What is wrong with a number; an infinity fits no bound.
    fn complaint(self, number: f64) -> Option<String> {
        if number.is_infinite() {
            return Some(format!("{} is no measurement: something is divided by nothing", shown(number)));
        }
        if let Some(min) = self.min.filter(|min| number < *min) {
            return Some(format!("{}, {} at least was expected", shown(number), shown(min)));
        }
        let max = self.max.filter(|max| number > *max)?;
        Some(format!("{}, {} at most was expected", shown(number), shown(max)))
    }
}

/// A number for people: six digits that mean something.
fn shown(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    if number == 0.0 || number.abs() >= 1e9 || number.abs() < 1e-6 {
        return format!("{number}");
    }
    let digits = (5 - number.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{number:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// What of a series is judged, NaN left out.
fn reduced(series: &Series, reduce: Reduce) -> Vec<f64> {
    let points: Vec<f64> = series.points.iter().copied().filter(|point| !point.is_nan()).collect();
    let one = match reduce {
        Reduce::Each => return points,
        Reduce::Avg if points.is_empty() => None,
        Reduce::Avg => Some(points.iter().sum::<f64>() / points.len() as f64),
        Reduce::Min => points.iter().copied().reduce(f64::min),
        Reduce::Max => points.iter().copied().reduce(f64::max),
        Reduce::Last => points.last().copied(),
    };
    one.into_iter().collect()
}

fn measured(series: &[Series]) -> u32 {
    let count = series.iter().flat_map(|one| &one.points).filter(|point| !point.is_nan()).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Why there is nothing to judge.
fn nothing(series: &[Series]) -> Option<String> {
    if series.is_empty() {
        return Some("the query gives no series".into());
    }
    if let Some(empty) = series.iter().find(|one| one.points.is_empty()) {
        return Some(format!("{} has no point", empty.labels));
    }
    let nan = series.iter().find(|one| one.points.iter().all(|point| point.is_nan()))?;
    Some(format!("{} is NaN: nothing was measured", nan.labels))
}

/// Every series against the bounds; the first that does not fit is named.
fn judge(series: &[Series], reduce: Reduce, bound: BoundWith) -> Sample {
    let mut fits = Vec::new();
    for one in series {
        let numbers = reduced(one, reduce);
        if let Some(words) = numbers.iter().find_map(|number| bound.complaint(*number)) {
            return Sample::wrong(format!("{} = {words}", one.labels)).measured(measured(series));
        }
        fits.extend(numbers.last().map(|number| format!("{} = {}", one.labels, shown(*number))));
    }
    // One series without data among others is no data: it may be the one that matters.
    if let Some(why) = nothing(series) {
        return Sample::nothing(why);
    }
    let more = fits.len().saturating_sub(3);
    fits.truncate(3);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    Sample::right(format!("{}{more}", fits.join(", "))).measured(measured(series))
}

/// One series against another one.
fn compare(
    found: &[Series],
    other: &[Series],
    reduce: Reduce,
    bound: BoundWith,
    against: &Against,
) -> Result<Sample, String> {
    for (query, series) in [("query", found), ("baseline", other)] {
        if let [one, two, ..] = series {
            return Err(format!(
                "`{query}` gives {} series ({}, {}, ...), and one is compared",
                series.len(),
                one.labels,
                two.labels
            ));
        }
    }
    let first = |series: &[Series]| series.first().and_then(|one| reduced(one, reduce).last().copied());
    let (gray, base) = match (first(found), first(other)) {
        (Some(gray), Some(base)) => (gray, base),
        (None, _) => return Ok(Sample::nothing(nothing(found).unwrap_or_default())),
        (_, None) => return Ok(Sample::nothing(format!("baseline: {}", nothing(other).unwrap_or_default()))),
    };
    let both = format!("{} against {}", shown(gray), shown(base));
    let wrong = |words: String| Ok(Sample::wrong(words).measured(measured(found)));
    for (number, whose) in [(gray, "query"), (base, "baseline")] {
        if number.is_infinite() {
            return wrong(format!("`{whose}` gives {}, which is no measurement", shown(number)));
        }
    }
    if let Some(words) = bound.complaint(gray) {
        return wrong(words);
    }
    if let Some(words) = against.difference.and_then(|bound| bound.complaint(gray - base)) {
        return wrong(format!("{both}: a difference of {words}"));
    }
    if let Some(bound) = against.ratio {
        // Nothing against nothing is the same; something against nothing has no ratio.
        if base == 0.0 && gray != 0.0 {
            return wrong(format!("{both}: there is no ratio to nothing, bound the `difference`"));
        }
        let ratio = if base == 0.0 { 1.0 } else { gray / base };
        if let Some(words) = bound.complaint(ratio) {
            return wrong(format!("{both}: a ratio of {words}"));
        }
    }
    Ok(Sample::right(both).measured(measured(found)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::generic_verify::samples::Said;

    fn answered(status: u16, body: &Value) -> Answer {
        Answer { status, location: None, body: body.to_string() }
    }

    fn told(sample: &Sample) -> String {
        match &sample.said {
            Said::Right(words) => format!("right: {words}"),
            Said::Wrong(words) => format!("wrong: {words}"),
            Said::Nothing(words) => format!("no data: {words}"),
        }
    }

    fn series(result: &Value) -> Vec<Series> {
        let kind =
            if result.get(0).is_some_and(|one| one.get("values").is_some()) { "matrix" } else { "vector" };
        let body = json!({ "status": "success", "data": { "resultType": kind, "result": result } });
        match read(&answered(200, &body), "q").expect("read") {
            Asked::Series(series, _) => series,
            Asked::Nothing(why) => panic!("{why}"),
        }
    }

    fn vector(values: &[(&str, &str)]) -> Value {
        let one = |(pod, value): &(&str, &str)| json!({ "metric": { "__name__": "errors", "pod": pod }, "value": [1.5, value] });
        values.iter().map(one).collect()
    }

    #[test]
    fn every_series_is_judged_and_the_one_that_does_not_fit_is_named() {
        let bound = BoundWith { min: Some(0.0), max: Some(0.1) };
        for (values, expected) in [
            (vec![("a", "0.05")], "right: errors{pod=\"a\"} = 0.05"),
            (vec![("a", "0.05"), ("b", "0.3")], "wrong: errors{pod=\"b\"} = 0.3, 0.1 at most was expected"),
            (vec![("a", "-1")], "wrong: errors{pod=\"a\"} = -1, 0 at least was expected"),
            (vec![], "no data: the query gives no series"),
            (vec![("a", "NaN")], "no data: errors{pod=\"a\"} is NaN: nothing was measured"),
            (vec![("a", "0.05"), ("b", "NaN")], "no data: errors{pod=\"b\"} is NaN: nothing was measured"),
            (
                vec![("a", "+Inf")],
                "wrong: errors{pod=\"a\"} = +Inf is no measurement: something is divided by nothing",
            ),
            (
                vec![("a", "-Inf")],
                "wrong: errors{pod=\"a\"} = -Inf is no measurement: something is divided by nothing",
            ),
            (
                vec![("a", "0"), ("b", "0.01"), ("c", "0.02"), ("d", "0.1"), ("e", "0.1")],
                "right: errors{pod=\"a\"} = 0, errors{pod=\"b\"} = 0.01, errors{pod=\"c\"} = 0.02, and 2 more",
            ),
        ] {
            assert_eq!(told(&judge(&series(&vector(&values)), Reduce::Each, bound)), expected, "{values:?}");
        }
        let open = BoundWith { min: Some(0.0), max: None };
        assert!(
            !judge(&series(&vector(&[("a", "+Inf")])), Reduce::Each, open).is_right(),
            "also without an upper bound"
        );
    }

    #[test]
    fn a_range_is_judged_as_the_file_says() {
        let result = json!([{ "metric": {}, "values": [[1, "0.1"], [2, "0.5"], [3, "NaN"], [4, "0.3"]] }]);
        let found = series(&result);
        let bound = BoundWith { min: None, max: Some(0.4) };
        for (reduce, expected) in [
            (Reduce::Each, "wrong: {} = 0.5, 0.4 at most was expected"),
            (Reduce::Avg, "right: {} = 0.3"),
            (Reduce::Min, "right: {} = 0.1"),
            (Reduce::Max, "wrong: {} = 0.5, 0.4 at most was expected"),
            (Reduce::Last, "right: {} = 0.3"),
        ] {
            let sample = judge(&found, reduce, bound);
            assert_eq!((told(&sample).as_str(), sample.measured), (expected, 3), "{reduce:?}");
        }
    }

    #[test]
    fn the_lane_is_compared_with_the_baseline_and_nothing_has_no_ratio() {
        let ratio = |max: f64| Against {
            query: "b".into(),
            ratio: Some(BoundWith { min: None, max: Some(max) }),
            difference: None,
        };
        let difference = Against {
            query: "b".into(),
            ratio: None,
            difference: Some(BoundWith { min: None, max: Some(0.05) }),
        };
        let none = BoundWith { min: None, max: None };
        for (gray, base, against, expected) in [
            (vec![("a", "0.11")], vec![("b", "0.1")], ratio(1.2), "right: 0.11 against 0.1"),
            (
                vec![("a", "0.3")],
                vec![("b", "0.1")],
                ratio(1.2),
                "wrong: 0.3 against 0.1: a ratio of 3, 1.2 at most was expected",
            ),
            (vec![("a", "0")], vec![("b", "0")], ratio(1.2), "right: 0 against 0"),
            (
                vec![("a", "3")],
                vec![("b", "0")],
                ratio(1.2),
                "wrong: 3 against 0: there is no ratio to nothing, bound the `difference`",
            ),
            (
                vec![("a", "0.3")],
                vec![("b", "0.1")],
                difference.clone(),
                "wrong: 0.3 against 0.1: a difference of 0.2, 0.05 at most was expected",
            ),
            (
                vec![("a", "NaN")],
                vec![("b", "0.1")],
                ratio(2.0),
                "no data: errors{pod=\"a\"} is NaN: nothing was measured",
            ),
            (vec![("a", "1")], vec![], ratio(2.0), "no data: baseline: the query gives no series"),
            (
                vec![("a", "1")],
                vec![("b", "+Inf")],
                ratio(2.0),
                "wrong: `baseline` gives +Inf, which is no measurement",
            ),
            (
                vec![("a", "1"), ("c", "1")],
                vec![("b", "1")],
                ratio(2.0),
                "`query` gives 2 series (errors{pod=\"a\"}, errors{pod=\"c\"}, ...), and one is compared",
            ),
        ] {
            let (gray, base) = (series(&vector(&gray)), series(&vector(&base)));
            let said = compare(&gray, &base, Reduce::Each, none, &against);
            assert_eq!(said.map_or_else(|why| why, |sample| told(&sample)), expected);
        }
    }

    #[test]
    fn an_answer_that_is_no_data_is_told_by_name_and_a_refusal_is_final() {
        let error = |kind: &str, words: &str| json!({ "status": "error", "errorType": kind, "error": words });
        let histogram = json!({ "status": "success", "data": { "resultType": "vector", "result": [{ "metric": {}, "histogram": [1, {}] }] } });
        let string = json!({ "status": "success", "data": { "resultType": "string", "result": [1, "x"] } });
        for (status, body, expected) in [
            (503, error("timeout", "query timed out"), "no data: Prometheus answers 503: query timed out"),
            (
                422,
                error("execution", "too many samples"),
                "no data: Prometheus answers 422: too many samples",
            ),
            (502, json!("<html>"), "no data: Prometheus answers 502"),
            (200, error("", "odd"), "no data: Prometheus answers what is no success: odd"),
            (400, error("bad_data", "parse error"), "final: Prometheus refuses the query `q`: parse error"),
            (401, json!("no"), "final: Prometheus answers 401"),
            (404, json!("no"), "final: there is no Prometheus API at that address: it answers 404"),
            (302, json!("no"), "final: Prometheus redirects to , which is not followed"),
            (200, histogram, "final: `q` gives histograms: ask for a number, as with `histogram_quantile()`"),
            (200, string, "final: `q` gives a string, and numbers are judged"),
        ] {
            let said = match read(&answered(status, &body), "q") {
                Ok(Asked::Nothing(why)) => format!("no data: {why}"),
                Ok(Asked::Series(series, _)) => format!("{series:?}"),
                Err(error) => format!("final: {}", error.message),
            };
            assert_eq!(said, expected, "{status} {body}");
        }
    }

    #[test]
    fn a_query_is_escaped_as_a_form_asks() {
        assert_eq!(escaped("rate(a{v=\"x\"}[5m]) + 1"), "rate%28a%7Bv%3D%22x%22%7D%5B5m%5D%29%20%2B%201");
    }
}
