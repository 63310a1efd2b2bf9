//! Batches of page-table updates: a hypercall costs far more than an update.

use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::mmu::{MmuExtCommand, MmuExtOp, MmuUpdate, MmuUpdateKind};
use pv_abi::page_table::Pte;
use pv_abi::{Errno, Mfn};

use crate::arch::{hypercall, vcpu};

/// Updates are handed over when this many have come together.
const CAPACITY: usize = 128;

/// Updates that have not been made yet. They are made in order.
pub struct Batch {
    updates: [MmuUpdate; CAPACITY],
    length: usize,
}

impl Batch {
    /// An empty batch. What is added to it takes effect at the latest with [`Self::flush`].
    pub const fn new() -> Self {
        Self { updates: [MmuUpdate { ptr: 0, val: 0 }; CAPACITY], length: 0 }
    }

    /// Adds "the entry at machine address `address` becomes `entry`".
    ///
    /// # Safety
    ///
    /// No mapping that is in use may change under it.
    pub unsafe fn set(&mut self, address: u64, entry: Pte) -> Result<(), Errno> {
        if self.length == CAPACITY {
            self.flush()?;
        }
        self.updates[self.length] =
            MmuUpdate { ptr: address | MmuUpdateKind::NORMAL_PT_UPDATE.0, val: entry.0 };
        self.length += 1;
        Ok(())
    }

    /// Hands over what has come together.
    pub fn flush(&mut self) -> Result<(), Errno> {
        let updates = &self.updates[..self.length];
        self.length = 0;
        if updates.is_empty() {
            return Ok(());
        }
        // SAFETY: each update was vouched for when it was added.
        unsafe { hypercall::mmu_update(updates) }.map(|_| ())
    }
}

/// Has two L4 tables and all below them validated, and kept so. They must be mapped read-only.
pub fn pin_roots(roots: (Mfn, Mfn)) -> Result<(), Errno> {
    operate_on_both(MmuExtCommand::PIN_L4_TABLE, roots)
}

/// Gives up the pins of `roots`, which no vCPU uses.
pub fn unpin_roots(roots: (Mfn, Mfn)) -> Result<(), Errno> {
    operate_on_both(MmuExtCommand::UNPIN_TABLE, roots)
}

fn operate_on_both(command: MmuExtCommand, roots: (Mfn, Mfn)) -> Result<(), Errno> {
    operate(&[MmuExtOp::new(command, roots.0.0), MmuExtOp::new(command, roots.1.0)])
}

/// Loads the roots of kernel and user mode. `kernel` must map the kernel; a `user` of 0 is none.
pub fn load_roots(kernel: Mfn, user: Mfn) -> Result<(), Errno> {
    operate(&[
        MmuExtOp::new(MmuExtCommand::NEW_BASEPTR, kernel.0),
        MmuExtOp::new(MmuExtCommand::NEW_USER_BASEPTR, user.0),
    ])
}

/// How often rights of the kernel's own mappings have changed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Tells the other vCPUs, when they next get the kernel, that their translations of the kernel's mappings may be old.
pub fn changed() {
    CHANGES.fetch_add(1, Ordering::Relaxed);
}

/// What has been changed until now, this vCPU has changed, or has caught up with.
pub fn note_own() {
    vcpu::see_changes(CHANGES.load(Ordering::Relaxed));
}

/// Forgets the translations that others have changed.
pub fn catch_up() {
    let changes = CHANGES.load(Ordering::Relaxed);
    if vcpu::see_changes(changes) != changes {
        flush_translations().expect("flush");
    }
}

/// Forgets every cached translation.
pub fn flush_translations() -> Result<(), Errno> {
    operate(&[MmuExtOp::new(MmuExtCommand::TLB_FLUSH_LOCAL, 0)])
}

fn operate(operations: &[MmuExtOp]) -> Result<(), Errno> {
    // SAFETY: pins change no mapping, and every root in this kernel shares the kernel's part.
    unsafe { hypercall::mmuext_op(operations) }.map(|_| ())
}
