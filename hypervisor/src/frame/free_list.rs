//! Frames that nobody has.

use pv_abi::Mfn;

/// Where a frame to be allocated comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreeFrame {
    /// Never used: it is zero, and takes no host memory yet.
    Untouched(Mfn),
    /// Somebody had it: it must be scrubbed.
    Used(Mfn),
}

/// The frames behind the last one ever used, and those that came back.
#[derive(Clone, Debug)]
pub(super) struct FreeList {
    untouched: std::ops::Range<u64>,
    used: Vec<Mfn>,
}

impl FreeList {
    pub(super) fn new(untouched: std::ops::Range<u64>) -> Self {
        Self { untouched, used: Vec::new() }
    }

    pub(super) fn len(&self) -> u64 {
        let untouched = self.untouched.end.saturating_sub(self.untouched.start);
        untouched.saturating_add(self.used.len() as u64)
    }

    /// Frames that came back first: they have host memory already.
    pub(super) fn take(&mut self) -> Option<FreeFrame> {
        let used = self.used.pop().map(FreeFrame::Used);
        used.or_else(|| self.untouched.next().map(|frame| FreeFrame::Untouched(Mfn(frame))))
    }

    pub(super) fn give_back(&mut self, mfn: Mfn) {
        self.used.push(mfn);
    }

    pub(super) fn contains(&self, mfn: Mfn) -> bool {
        self.untouched.contains(&mfn.0) || self.used.contains(&mfn)
    }
}
