//! SplitMix64: short, and good enough to choose samples and places by.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of numbers, from its state on.
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `bound`, which is small.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// The number that a number stands for, whichever was asked for before.
pub const fn scatter(number: u64) -> u64 {
    mix(number.wrapping_mul(STEP))
}

const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
