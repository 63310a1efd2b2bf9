//! The token without which no pcpu loads a table.

use pv_abi::Mfn;

/// A table that a pcpu may load into CR3: a guest reaches whatever it leads to. Paging makes one for each table that a
/// vCPU loads: a valid L4 table which a reference keeps valid for as long as the vCPU has it. The probe makes one for its
/// own guest, before there are domains. `tests/architecture.rs` sees to it that nobody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root(Mfn);

impl Root {
    /// No table: what a vCPU has that was not initialised. It is not entered.
    pub const NONE: Self = Self(Mfn(u64::MAX));

    /// That of a valid L4 table. The caller keeps it valid until no pcpu is entered with the root any more, and has left the
    /// root where it was.
    pub const fn of_valid_l4(table: Mfn) -> Self {
        Self(table)
    }

    /// The table's frame. Of [`Self::NONE`] a number that no frame has.
    pub const fn mfn(self) -> Mfn {
        self.0
    }

    /// Its machine address: what CR3 holds.
    pub const fn address(self) -> u64 {
        self.0.address()
    }
}
