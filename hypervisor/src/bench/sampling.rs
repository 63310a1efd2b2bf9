//! Who is measured when.

use super::BenchError;

/// One measurement, in nanoseconds.
pub type Sample = Result<f64, BenchError>;

/// Measures both in turns, so that whatever disturbs the host disturbs both. Who comes first changes from pair to
/// pair. A first round, in which caches fill, does not count.
pub fn pairs(
    count: usize,
    mut ours: impl FnMut() -> Sample,
    mut floor: impl FnMut() -> Sample,
) -> Result<Vec<(f64, f64)>, BenchError> {
    ours()?;
    floor()?;
    let mut pair = |n| {
        if n % 2 == 0 {
            let ours = ours()?;
            return Ok((ours, floor()?));
        }
        let floor = floor()?;
        Ok((ours()?, floor))
    };
    (0..count).map(&mut pair).collect()
}

/// Measures one thing that has no floor, after a first round that does not count.
pub fn samples(count: usize, mut ours: impl FnMut() -> Sample) -> Result<Vec<f64>, BenchError> {
    ours()?;
    (0..count).map(|_| ours()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn both_are_measured_in_turns_and_first_in_turns() {
        let order = RefCell::new(String::new());
        let log = |name, value| {
            order.borrow_mut().push(name);
            Ok(value)
        };
        let pairs = pairs(3, || log('o', 2.0), || log('f', 1.0)).unwrap();
        assert_eq!(pairs, [(2.0, 1.0); 3]);
        assert_eq!(*order.borrow(), "ofoffoof");
    }

    #[test]
    fn a_measurement_that_fails_ends_the_row() {
        assert!(samples(3, || Err(BenchError::Guest("is gone".into()))).is_err());
        assert_eq!(samples(3, || Ok(5.0)).unwrap(), [5.0; 3]);
    }
}
