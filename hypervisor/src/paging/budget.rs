//! How much one call may do before it must let others run.

/// Whether a call did what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a call that was interrupted must be made again"]
pub enum Progress {
    /// The call did what it was asked for.
    Done,
    /// Its budget ran out. Nothing that the guest can see has happened; the same call, made again with the same
    /// arguments, goes on.
    Preempted,
}

/// Steps left: entries to check, references to give back.
///
/// A step is paid for after it is made, and a call stops *before* a step that it cannot pay for. So every call with
/// a budget above zero gets on by one step at least, however deep in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(u32);

impl AsMut<Self> for Budget {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl Budget {
    /// A budget of so many steps.
    pub const fn new(steps: u32) -> Self {
        Self(steps)
    }

    /// For work that nobody waits for: the domain builder's, and tests'.
    pub const fn unlimited() -> Self {
        Self(u32::MAX)
    }

    /// How many steps are left.
    pub const fn left(self) -> u32 {
        self.0
    }

    /// Whether the call must stop now.
    pub const fn is_exhausted(self) -> bool {
        self.0 == 0
    }

    /// Takes one step off the budget. An unlimited budget stays as it is, and an exhausted one stays at 0.
    pub(super) const fn spend(&mut self) {
        if self.0 != u32::MAX {
            self.0 = self.0.saturating_sub(1);
        }
    }
}
