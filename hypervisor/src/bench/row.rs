//! A row: what was measured, and what it comes to.

use super::statistics::{interval, median};
use serde::Serialize;

/// What is measured in, unless a row says otherwise.
pub const NANOSECONDS: &str = "ns";

/// The unit of rates: operations per second.
pub const PER_SECOND: &str = "op/s";

/// The unit of what there is of something for each operation.
pub const EACH: &str = "per op";

/// How good a row should be. Of a ratio, or of the value in a row without a floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// The ratio or value is no more than this.
    AtMost(f64),
    /// The ratio or value is no less than this.
    AtLeast(f64),
    /// The value is no more than this above the floor.
    Adds(f64),
}

/// The result of one measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The row's name, which starts with its suite: `suite/row/variant`.
    pub name: String,
    /// What `value` and `floor` are in.
    pub unit: &'static str,
    /// The median of ours; no number (in JSON: null) where it could not be measured.
    pub value: f64,
    /// The median of the floor's, where there is one.
    pub floor: Option<f64>,
    /// The median of the paired ratios: one of ours to the floor measured next to it.
    pub ratio: Option<f64>,
    /// Where the ratio's 95 % bootstrap interval starts; the value's, in a row without a floor.
    pub low: f64,
    /// Where that interval ends.
    pub high: f64,
    /// Pairs, or samples where there is no floor.
    pub samples: usize,
    /// How good it should be.
    #[serde(skip)]
    pub aim: Option<Aim>,
    /// Why it could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// What else there is to know about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    /// From pairs of one of ours and one of the floor's.
    pub fn paired(name: impl Into<String>, pairs: &[(f64, f64)]) -> Self {
        let (ours, floors): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let ratios: Vec<f64> = pairs.iter().map(|(ours, floor)| ours / floor).collect();
        let (low, high) = interval(&ratios);
        Self {
            floor: Some(median(&floors)),
            ratio: Some(median(&ratios)),
            low,
            high,
            ..Self::alone(name, &ours)
        }
    }

    /// From samples of something that has no floor.
    pub fn alone(name: impl Into<String>, samples: &[f64]) -> Self {
        let (low, high) = interval(samples);
        let value = median(samples);
        let samples = samples.len();
        Self {
            name: name.into(),
            unit: NANOSECONDS,
            value,
            floor: None,
            ratio: None,
            low,
            high,
            samples,
            aim: None,
            skipped: None,
            note: None,
        }
    }

    /// One that could not be measured, and why.
    pub fn skipped(name: impl Into<String>, reason: impl Into<String>) -> Self {
        let (value, low, high) = (f64::NAN, f64::NAN, f64::NAN);
        Self { value, low, high, skipped: Some(reason.into()), ..Self::alone(name, &[]) }
    }

    /// With something else to know about it.
    pub fn noting(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }

    /// In another unit than nanoseconds.
    pub fn in_unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// With an aim: what the ratio, or the value of a row without a floor, should not exceed.
    pub fn aiming_at(self, most: f64) -> Self {
        self.aiming(Aim::AtMost(most))
    }

    /// With an aim for the ratio, or for the value of a row without a floor.
    pub fn aiming(self, aim: Aim) -> Self {
        Self { aim: Some(aim), ..self }
    }

    /// Whether it is as good as it should be; none where nobody said how good that is.
    pub fn meets_its_aim(&self) -> Option<bool> {
        let measured = self.ratio.unwrap_or(self.value);
        self.aim.map(|aim| match aim {
            Aim::AtMost(most) => measured <= most,
            Aim::AtLeast(least) => measured >= least,
            Aim::Adds(most) => self.value - self.floor.unwrap_or(0.0) <= most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_of_neighbours() {
        // A host that gets slower meanwhile: each pair says 2, the medians by themselves would, too; the third
        // pair is disturbed and does not count.
        let row = Row::paired("core/a", &[(20.0, 10.0), (40.0, 20.0), (900.0, 30.0), (80.0, 40.0)]);
        assert_eq!((row.value, row.floor, row.ratio), (60.0, Some(25.0), Some(2.0)));
        assert_eq!((row.samples, row.unit), (4, "ns"));
        assert_eq!(row.clone().aiming_at(2.0).meets_its_aim(), Some(true));
        assert_eq!(row.aiming_at(1.9).meets_its_aim(), Some(false));
    }

    #[test]
    fn without_a_floor_the_interval_is_the_values() {
        let row = Row::alone("core/b", &[3.0; 30]);
        assert_eq!((row.floor, row.ratio, row.low, row.high), (None, None, 3.0, 3.0));
        assert_eq!(row.meets_its_aim(), None);
    }

    #[test]
    fn an_aim_has_a_direction() {
        let row = Row::paired("block/a", &[(90.0, 100.0)]).in_unit(PER_SECOND);
        assert_eq!(row.clone().aiming(Aim::AtLeast(0.85)).meets_its_aim(), Some(true));
        assert_eq!(row.aiming(Aim::AtLeast(0.95)).meets_its_aim(), Some(false));
        let row = Row::paired("block/b", &[(2400.0, 1000.0)]);
        assert_eq!(row.clone().aiming(Aim::Adds(1500.0)).meets_its_aim(), Some(true));
        assert_eq!(row.aiming(Aim::Adds(1300.0)).meets_its_aim(), Some(false));
    }

    #[test]
    fn what_was_not_measured_is_null_and_says_why() {
        let json = serde_json::to_value(Row::skipped("block/c", "no such thing")).unwrap();
        assert!(json["value"].is_null() && json["low"].is_null() && json["ratio"].is_null());
        assert_eq!((&json["skipped"], &json["samples"]), (&"no such thing".into(), &0.into()));
    }

    #[test]
    fn json_has_the_fields_that_programs_rely_on() {
        let json = serde_json::to_value(Row::alone("core/b", &[3.0; 30]).aiming_at(1.0)).unwrap();
        let fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        let mut wanted = ["name", "unit", "value", "floor", "ratio", "low", "high", "samples"];
        wanted.sort_unstable();
        assert_eq!(fields, wanted);
        assert!(json["floor"].is_null() && json["ratio"].is_null());
    }
}
