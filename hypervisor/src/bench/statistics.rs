//! What samples come to: medians, and how far they can be trusted.

use super::split_mix::SplitMix64;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;
/// Where every bootstrap starts, so that the same samples always give the same interval.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The median; 0 of nothing.
pub fn median(samples: &[f64]) -> f64 {
    median_of(&mut samples.to_vec())
}

fn median_of(samples: &mut [f64]) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    let has_two_middles = samples.len().is_multiple_of(2);
    let (below, &mut upper, _) = samples.select_nth_unstable_by(samples.len() / 2, f64::total_cmp);
    match below.iter().copied().max_by(f64::total_cmp) {
        Some(lower) if has_two_middles => f64::midpoint(lower, upper),
        _ => upper,
    }
}

/// The interval in which the median lies in 95 of 100 resamples of `samples` (percentile bootstrap).
pub fn interval(samples: &[f64]) -> (f64, f64) {
    if samples.is_empty() {
        return (0.0, 0.0);
    }
    let mut random = SplitMix64(SEED);
    let mut resample = vec![0.0; samples.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            resample.fill_with(|| samples[random.below(samples.len())]);
            median_of(&mut resample)
        })
        .collect();
    medians.sort_unstable_by(f64::total_cmp);
    (medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[7.0]), 7.0);
        assert_eq!(median(&[1.0, 9.0]), 5.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 1000.0, 2.0]), 3.0);
    }

    #[test]
    fn the_interval_encloses_the_median_and_ignores_outliers() {
        let mut samples: Vec<f64> = (0..60).map(|n| 1.0 + f64::from(n % 10) / 100.0).collect();
        samples[17] = 500.0;
        let (low, high) = interval(&samples);
        assert!(low <= median(&samples) && median(&samples) <= high);
        assert!((1.0..1.1).contains(&low) && (1.0..1.1).contains(&high), "{low} {high}");
    }

    #[test]
    fn the_same_samples_give_the_same_interval() {
        let samples: Vec<f64> = (0..31).map(|n| f64::from(n * n % 17)).collect();
        assert_eq!(interval(&samples), interval(&samples));
        assert_eq!(interval(&[2.0; 30]), (2.0, 2.0));
        assert_eq!(interval(&[]), (0.0, 0.0));
    }
}
