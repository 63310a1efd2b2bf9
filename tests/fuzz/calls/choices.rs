//! What decides between the things that a guest may do next: a seed, or a fuzzer's bytes.

/// Answers each question of what a guest does next by a number.
pub trait Choices {
    /// A word of 64 bits, of any value.
    fn word(&mut self) -> u64;

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: u64) -> u64;

    /// One of the words in `from`, which is not empty.
    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.below(from.len() as u64) as usize]
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Numbers that look random and are the same in every run (xorshift).
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
}

impl Choices for Random {
    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }
}

/// A fuzzer's bytes, as few of them a choice as possible, so that changing one changes little else. Zeros follow.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    fn take(&mut self, count: usize) -> u64 {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }
}

impl Choices for Bytes<'_> {
    fn word(&mut self) -> u64 {
        self.take(8)
    }

    fn below(&mut self, limit: u64) -> u64 {
        let bytes = (u64::BITS - (limit - 1).leading_zeros()).div_ceil(8);
        self.take(bytes as usize) % limit
    }
}
