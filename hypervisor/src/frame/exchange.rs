//! A step of a frame's word, where all threads see it.
//!
//! Guarded by `tests/concurrency`: of two threads that want different types one gets its own, and the last reference
//! is the last exactly once.

use super::{Effect, Operation, Word, step};
use crate::error::Refusal;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Carries out one operation in one compare-exchange: what [`step`] decided holds of the word that is replaced.
///
/// # Errors
/// As [`step`] refuses it; the word is as it was.
#[inline] // see `step`
pub fn exchange(word: &AtomicU64, operation: Operation) -> Result<Effect, Refusal> {
    change(word, |word| step(word, operation))
}

/// The same for what is made of several [`step`]s: nobody sees one without the others.
///
/// # Errors
/// As `steps` refuses it; the word is as it was.
#[inline]
pub fn change(
    word: &AtomicU64,
    steps: impl Fn(Word) -> Result<(Word, Effect), Refusal>,
) -> Result<Effect, Refusal> {
    let mut seen = word.load(Ordering::SeqCst);
    loop {
        let (next, effect) = steps(Word::unpack(seen))?;
        #[cfg(test)]
        crate::testing::was_looked_at();
        match word.compare_exchange_weak(seen, next.pack(), Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return Ok(effect),
            Err(now) => seen = now,
        }
    }
}
