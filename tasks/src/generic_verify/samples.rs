//! What the looks of a check said, and whether that is enough. Plain data: nothing is asked or waited for here.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What one look said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// As it should be.
    Right(String),
    /// Not as it should be.
    Wrong(String),
    /// Nothing that could be judged.
    Nothing(String),
}

/// One look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub said: Said,
    /// How long an answer took, where that means something.
    pub took: Option<Duration>,
    /// How many measurements it holds.
    pub measured: u32,
}

impl Sample {
    pub(super) fn right(words: impl Into<String>) -> Sample {
        Sample { said: Said::Right(words.into()), took: None, measured: 1 }
    }

    pub(super) fn wrong(words: impl Into<String>) -> Sample {
        Sample { said: Said::Wrong(words.into()), took: None, measured: 1 }
    }

    pub(super) fn nothing(words: impl Into<String>) -> Sample {
        Sample { said: Said::Nothing(words.into()), took: None, measured: 0 }
    }

    pub(super) fn took(self, took: Duration) -> Sample {
        Sample { took: Some(took), ..self }
    }

    pub(super) fn measured(self, measured: u32) -> Sample {
        Sample { measured, ..self }
    }

    pub(super) fn is_right(&self) -> bool {
        matches!(self.said, Said::Right(_))
    }
}

/// What it means that there was nothing to judge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnNoData {
    /// It counts as wrong.
    #[default]
    Fail,
    /// A person looks.
    Hold,
    /// It is left out.
    Pass,
}

/// How long answers may take, by the share of them that must not take longer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct LatencyBounds {
    pub p50_ms: Option<u64>,
    pub p95_ms: Option<u64>,
    pub p99_ms: Option<u64>,
}

/// What is asked of all looks together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bounds<'b> {
    pub success_rate: f64,
    pub on_no_data: OnNoData,
    pub min_samples: u32,
    pub latency: Option<&'b LatencyBounds>,
}

/// Whether a check passed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    Passed,
    Failed(String),
    /// A person is to look: there was nothing to judge.
    Held(String),
}

/// What came of a check.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub taken: u32,
    right: u32,
    nothing: u32,
    measured: u32,
    right_said: Vec<Answer>,
    wrong_said: Vec<Answer>,
    nothing_said: Vec<Answer>,
    latencies_ms: Vec<u64>,
}

/// Something that looks said, in which of them first, and how often.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub text: String,
    pub count: u32,
    pub first: u32,
}

/// How many different answers are kept, of each sort.
const KEPT: usize = 10;

impl Looked {
    /// Takes the look of this number, from 1.
    pub(super) fn add(&mut self, number: u32, sample: Sample) {
        self.taken += 1;
        self.measured += sample.measured;
        if let Some(took) = sample.took {
            self.latencies_ms.push(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
        let (list, text) = match sample.said {
            Said::Right(text) => {
                self.right += 1;
                (&mut self.right_said, text)
            }
            Said::Wrong(text) => (&mut self.wrong_said, text),
            Said::Nothing(text) => {
                self.nothing += 1;
                (&mut self.nothing_said, text)
            }
        };
        match list.iter().position(|known| known.text == text) {
            Some(at) => {
                list[at].count += 1;
                list[at].first = list[at].first.min(number);
            }
            None if list.len() < KEPT => list.push(Answer { text, count: 1, first: number }),
            None => {}
        }
    }

    /// Judges all looks together.
    pub(super) fn verdict(&self, bounds: &Bounds<'_>) -> Verdict {
        let nothing = self.nothing > 0 || self.measured < bounds.min_samples;
        let counted = match bounds.on_no_data {
            OnNoData::Fail => self.taken,
            OnNoData::Hold | OnNoData::Pass => self.taken - self.nothing,
        };
        // A small mistake of fractions must not fail what people count as right.
        if counted > 0 && f64::from(self.right) / f64::from(counted) + 1e-9 < bounds.success_rate {
            let share = match bounds.success_rate {
                all if all >= 1.0 => String::new(),
                share => format!(", {} of all must be", percent(share)),
            };
            return Verdict::Failed(format!("{} of {counted} were right{share}", self.right));
        }
        if let Some(words) = bounds.latency.and_then(|latency| self.too_slow(latency)) {
            return Verdict::Failed(words);
        }
        let words = || match self.nothing_said.first() {
            Some(said) => format!("no data in {} of {} looks: {}", self.nothing, self.taken, said.text),
            None => format!("{} measurements, {} are needed", self.measured, bounds.min_samples),
        };
        match bounds.on_no_data {
            OnNoData::Fail if nothing => Verdict::Failed(words()),
            OnNoData::Hold if nothing => Verdict::Held(words()),
            OnNoData::Fail | OnNoData::Hold | OnNoData::Pass => Verdict::Passed,
        }
    }

    fn too_slow(&self, bounds: &LatencyBounds) -> Option<String> {
        let all = [(0.5, "p50", bounds.p50_ms), (0.95, "p95", bounds.p95_ms), (0.99, "p99", bounds.p99_ms)];
        let slow = |(share, name, bound): (f64, &str, Option<u64>)| {
            let (bound, is) = (bound?, self.percentile(share)?);
            (is > bound).then(|| format!("{name} is {is} ms, {bound} ms at most was expected"))
        };
        let slow: Vec<String> = all.into_iter().filter_map(slow).collect();
        (!slow.is_empty()).then(|| slow.join("; "))
    }

    /// The nearest rank: the smallest latency that at least this share of all answers do not exceed.
    fn percentile(&self, share: f64) -> Option<u64> {
        let mut sorted = self.latencies_ms.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied()
    }

    /// An answer that was right.
    pub(super) fn example(&self) -> Option<&str> {
        self.right_said.first().map(|said| said.text.as_str())
    }

    /// What was not right, in the order in which it first came.
    pub(super) fn complaints(&self) -> Vec<Answer> {
        let mut all: Vec<Answer> = self.wrong_said.iter().chain(&self.nothing_said).cloned().collect();
        all.sort_by_key(|said| said.first);
        all
    }

    /// How many were right, in words.
    pub(super) fn words(&self) -> String {
        format!("{} of {}", self.right, self.taken)
    }

    /// As it is kept with the run; of each sort of answers as many as `keep`.
    pub(super) fn value(&self, name: &str, kind: &str, verdict: &Verdict, keep: usize) -> Value {
        let list = |answers: &[Answer]| -> Vec<Value> {
            let kept = answers.iter().take(keep);
            kept.map(|said| json!({ "answer": said.text, "count": said.count, "first": said.first }))
                .collect()
        };
        let mut value = json!({
            "name": name, "kind": kind, "samples": self.taken, "right": self.right,
            "passed": *verdict == Verdict::Passed,
            "answers": list(&self.right_said), "wrong": list(&self.wrong_said),
        });
        if self.nothing > 0 {
            value["no_data"] = json!({ "samples": self.nothing, "answers": list(&self.nothing_said) });
        }
        if let Verdict::Failed(why) | Verdict::Held(why) = verdict {
            value["why"] = why.clone().into();
        }
        for (share, key) in [(0.5, "p50_ms"), (0.95, "p95_ms"), (0.99, "p99_ms")] {
            if let Some(latency) = self.percentile(share) {
                value[key] = latency.into();
            }
        }
        value
    }
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 10_000.0).round() / 100.0)
}

/// How much of a run's record checks may take.
const VALUE_BYTES: usize = 40 * 1024;

/// All checks as they are kept with the run: with fewer answers where they would not fit.
pub(super) fn values(of: impl Fn(usize) -> Vec<Value>) -> Vec<Value> {
    let mut keep = KEPT;
    loop {
        let values = of(keep);
        let bytes = serde_json::to_string(&values).map_or(0, |text| text.len());
        if bytes <= VALUE_BYTES || keep == 0 {
            return values;
        }
        keep /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(said: &[Sample]) -> Looked {
        let mut looked = Looked::default();
        for (number, sample) in (1..).zip(said) {
            looked.add(number, sample.clone());
        }
        looked
    }

    #[test]
    fn what_was_said_decides_and_nothing_said_is_decided_by_the_file() {
        use OnNoData::{Fail, Hold, Pass};
        let (right, wrong, nothing) = (Sample::right("A"), Sample::wrong("B"), Sample::nothing("empty"));
        let passed = "passed";
        for (said, rate, on_no_data, min, expected) in [
            (vec![&right, &right], 1.0, Fail, 1, passed),
            (vec![&right, &wrong], 1.0, Fail, 1, "failed: 1 of 2 were right"),
            (vec![&right, &wrong], 0.5, Fail, 1, passed),
            (vec![&right, &wrong, &wrong], 0.5, Fail, 1, "failed: 1 of 3 were right, 50 % of all must be"),
            (vec![&right; 9], 0.9, Fail, 10, "failed: 9 measurements, 10 are needed"),
            (vec![&right; 9], 0.9, Hold, 10, "held: 9 measurements, 10 are needed"),
            (vec![&right; 9], 0.9, Pass, 10, passed),
            (vec![&nothing], 1.0, Fail, 1, "failed: 0 of 1 were right"),
            (vec![&nothing], 0.0, Fail, 1, "failed: no data in 1 of 1 looks: empty"),
            (vec![&nothing], 1.0, Hold, 1, "held: no data in 1 of 1 looks: empty"),
            (vec![&nothing], 1.0, Pass, 1, passed),
            (vec![&right, &nothing], 1.0, Pass, 1, passed),
            (vec![&right, &nothing], 1.0, Hold, 1, "held: no data in 1 of 2 looks: empty"),
            (vec![&wrong, &nothing], 1.0, Pass, 1, "failed: 0 of 1 were right"),
            (vec![&wrong, &nothing], 1.0, Hold, 1, "failed: 0 of 1 were right"),
        ] {
            let said: Vec<Sample> = said.into_iter().cloned().collect();
            let bounds = Bounds { success_rate: rate, on_no_data, min_samples: min, latency: None };
            let verdict = match looked(&said).verdict(&bounds) {
                Verdict::Passed => passed.to_owned(),
                Verdict::Failed(why) => format!("failed: {why}"),
                Verdict::Held(why) => format!("held: {why}"),
            };
            assert_eq!(verdict, expected, "{said:?} {rate} {on_no_data:?}");
        }
    }

    #[test]
    fn a_percentile_is_the_smallest_latency_that_enough_answers_do_not_exceed() {
        let all: Vec<Sample> =
            (1..=100).map(|ms| Sample::right("A").took(Duration::from_millis(ms))).collect();
        let looked = looked(&all);
        for (share, expected) in [(0.5, 50), (0.95, 95), (0.99, 99)] {
            assert_eq!(looked.percentile(share), Some(expected), "{share}");
        }
        for (bounds, expected) in [
            (LatencyBounds { p50_ms: Some(50), p95_ms: Some(95), p99_ms: Some(99) }, Verdict::Passed),
            (
                LatencyBounds { p50_ms: Some(50), p95_ms: Some(90), p99_ms: Some(98) },
                Verdict::Failed(
                    "p95 is 95 ms, 90 ms at most was expected; p99 is 99 ms, 98 ms at most was expected"
                        .into(),
                ),
            ),
        ] {
            let bounds = Bounds {
                success_rate: 1.0,
                on_no_data: OnNoData::Fail,
                min_samples: 1,
                latency: Some(&bounds),
            };
            assert_eq!(looked.verdict(&bounds), expected);
        }
        let one = super::tests::looked(&[Sample::right("A").took(Duration::from_millis(7))]);
        assert_eq!((one.percentile(0.5), one.percentile(0.99)), (Some(7), Some(7)));
        assert_eq!(Looked::default().percentile(0.5), None);
    }

    #[test]
    fn the_same_answer_is_told_once_with_its_first_look_and_much_of_it_still_fits() {
        let looked = looked(&[
            Sample::right("A"),
            Sample::wrong("B"),
            Sample::wrong("C"),
            Sample::wrong("B"),
            Sample::nothing("empty"),
        ]);
        let told: Vec<String> = looked
            .complaints()
            .iter()
            .map(|said| format!("{} x {} from {}", said.count, said.text, said.first))
            .collect();
        assert_eq!(told, ["2 x B from 2", "1 x C from 3", "1 x empty from 5"]);
        let large = Looked {
            right_said: (0..10).map(|n| Answer { text: "灰".repeat(300 + n), count: 1, first: 1 }).collect(),
            ..Looked::default()
        };
        let values =
            values(|keep| (0..50).map(|_| large.value("large", "http", &Verdict::Passed, keep)).collect());
        assert!(serde_json::to_string(&values).expect("json").len() <= VALUE_BYTES);
    }
}
