//! Windows: addresses outside the linear map, for frames that are not the domain's own.
//!
//! They lie in the GiB above the linear map's lower part, in a first-level table that all address spaces share. A free window maps
//! nothing.

use alloc::vec::Vec;

use pv_abi::mmu::UpdateVaMappingFlags;
use pv_abi::page_table::{ENTRIES, Level, Pte, PteFlags};
use pv_abi::{Errno, Mfn, PAGE_SIZE};

use super::update::{self, Batch};
use super::{TABLE, frames, linear, translation};
use crate::arch::hypercall;
use crate::sync::Local;

/// The address of the first window: right above the linear map's lower part.
const BASE: u64 = super::VIRT_BASE + super::LOW_FRAMES * PAGE_SIZE as u64;

static FREE: Local<Vec<u64>> = Local::new(Vec::new());

/// Makes the tables that windows are mapped by, one of level 1 and one of level 2. Every window is free then.
pub fn init() {
    make_tables().expect("tables for windows");
    FREE.with(|free| {
        *free = (0..ENTRIES as u64).rev().map(|index| BASE + index * PAGE_SIZE as u64).collect()
    });
}

fn make_tables() -> Result<(), Errno> {
    let allocate = || frames::allocate().inspect(|frame| linear::clear(*frame)).ok_or(Errno::ENOMEM);
    let (level1, level2) = (allocate()?, allocate()?);
    let above = linear::table(linear::root(), Level::L3, BASE).ok_or(Errno::ENOENT)?;
    linear::write(level2, Level::L2.index(BASE), Pte::new(translation::mfn(level1), TABLE));
    let mut batch = Batch::new();
    linear::make_read_only(&mut batch, level1)?;
    linear::make_read_only(&mut batch, level2)?;
    let entry = Pte::new(translation::mfn(level2), TABLE);
    // SAFETY: nothing is mapped there yet.
    unsafe { batch.set(linear::entry_address(above, Level::L3, BASE), entry)? };
    batch.flush()
}

/// The right to map something at an address. Whoever drops it has unmapped that.
pub struct Window(u64);

impl Window {
    /// Takes a free window. None where all are in use.
    pub fn take() -> Option<Self> {
        FREE.with(Vec::pop).map(Self)
    }

    /// The linear address of the window's page.
    pub fn address(&self) -> u64 {
        self.0
    }

    /// Maps a frame, or with flags of 0 nothing.
    pub fn show(&self, frame: Mfn, flags: PteFlags) -> Result<(), Errno> {
        update::changed();
        // SAFETY: the window is the caller's, and nothing else is there.
        unsafe { hypercall::update_va_mapping(self.0, Pte::new(frame, flags), UpdateVaMappingFlags::INVLPG) }
            .map(|_| ())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        FREE.with(|free| free.push(self.0));
    }
}
