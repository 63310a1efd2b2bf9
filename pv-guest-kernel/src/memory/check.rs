//! A look at all memory that nobody uses: whether each frame is a frame of its own, which keeps what is written to it.

use pv_abi::Pfn;

use super::{frames, linear};
use crate::sched::future::yield_now;

/// Frames that are left to others meanwhile.
const RESERVE: u64 = 1024;
/// Frames after which others have their turn.
const STEP: u64 = 4096;

/// Frames that were taken. Each holds its own number, and that of the frame which was taken before it.
struct Taken {
    last: Pfn,
    count: u64,
}

impl Taken {
    fn push(&mut self, pfn: Pfn) {
        linear::store(pfn, &pfn.0.to_le_bytes());
        linear::store_at(pfn, 8, &self.last.0.to_le_bytes());
        (self.last, self.count) = (pfn, self.count + 1);
    }

    /// Gives the last one back; its number if it holds another.
    fn pop(&mut self) -> Result<(), Pfn> {
        let pfn = self.last;
        let word = |offset| {
            let mut bytes = [0; 8];
            linear::load(pfn, offset, &mut bytes);
            Pfn(u64::from_le_bytes(bytes))
        };
        if word(0) != pfn {
            // Where the others are is not known either.
            self.count = 0;
            return Err(pfn);
        }
        (self.last, self.count) = (word(8), self.count - 1);
        frames::free(pfn);
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        while self.count > 0 && self.pop().is_ok() {}
    }
}

/// Writes to every free frame, then reads them all. The number of them, or the first that was not as it was written.
pub async fn check() -> Result<u64, Pfn> {
    let mut taken = Taken { last: Pfn::INVALID, count: 0 };
    while frames::free_frames() > RESERVE
        && let Some(pfn) = frames::allocate()
    {
        taken.push(pfn);
        if taken.count.is_multiple_of(STEP) {
            yield_now().await;
        }
    }
    let count = taken.count;
    while taken.count > 0 {
        taken.pop()?;
        if taken.count.is_multiple_of(STEP) {
            yield_now().await;
        }
    }
    Ok(count)
}
