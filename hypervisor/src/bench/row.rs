//! A row: what was measured, and what it comes to.

use super::statistics::{interval, median};
use serde::Serialize;

/// What is measured in, unless a row says otherwise.
pub const NANOSECONDS: &str = "ns";

/// The result of one measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// `suite/row/variant`.
    pub name: String,
    /// What `value` and `floor` are in.
    pub unit: &'static str,
    /// The median of ours.
    pub value: f64,
    /// The median of the floor's, where there is one.
    pub floor: Option<f64>,
    /// The median of the paired ratios: one of ours to the floor measured next to it.
    pub ratio: Option<f64>,
    /// Where the ratio's 95 % bootstrap interval starts; the value's, in a row without a floor.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
    /// Pairs, or samples where there is no floor.
    pub samples: usize,
    /// What the value, or the ratio where there is one, should not exceed.
    #[serde(skip)]
    pub aim: Option<f64>,
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
        }
    }

    /// With an aim: for the ratio, or for the value of a row without a floor.
    pub fn aiming_at(mut self, aim: f64) -> Self {
        self.aim = Some(aim);
        self
    }

    /// Whether it is as good as it should be; none where nobody said how good that is.
    pub fn meets_its_aim(&self) -> Option<bool> {
        self.aim.map(|aim| self.ratio.unwrap_or(self.value) <= aim)
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
    fn json_has_the_fields_that_programs_rely_on() {
        let json = serde_json::to_value(Row::alone("core/b", &[3.0; 30]).aiming_at(1.0)).unwrap();
        let fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        let mut wanted = ["name", "unit", "value", "floor", "ratio", "low", "high", "samples"];
        wanted.sort_unstable();
        assert_eq!(fields, wanted);
        assert!(json["floor"].is_null() && json["ratio"].is_null());
    }
}
