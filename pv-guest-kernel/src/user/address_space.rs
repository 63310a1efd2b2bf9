//! A program's address space: two roots, because user mode and kernel mode share a privilege level.
//!
//! The user root maps the program alone; the kernel root maps the same program (through the same
//! third-level table) and the kernel. The hypervisor switches between them with the mode.
//!
//! Invariants:
//! - A program lives in the first GiB: one table of each upper level, shared by both roots.
//! - Until `activate` the tables are ordinary frames and filled by plain stores. From then on they are
//!   read-only, and change by hypercall.
//! - No vCPU but the one that takes an address space down has its roots loaded (see `sched::vcpus`).
//! - Frames come back to the allocator only after both roots are unpinned, when no table refers to them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use pv_abi::page_table::{ENTRIES, LAST_HYPERVISOR_SLOT, Level, Pte, PteFlags};
use pv_abi::{Errno, Mfn, PAGE_SIZE, Pfn};

use crate::arch::vcpu;
use crate::memory::update::{self, Batch};
use crate::memory::{self, TABLE, linear, translation};
use crate::sched::vcpus::MOST;
use crate::sync::Local;

/// The end of what a program may map.
pub const USER_END: u64 = 1 << 30;

/// Frames that programs leave to the kernel.
const RESERVE: u64 = 256;

/// Flags of a page of code: a program reads and executes it, and cannot write it.
pub const CODE: PteFlags = PteFlags::PRESENT.union(PteFlags::USER).union(PteFlags::ACCESSED);
/// Flags of a page of data, of the stack or of the heap: a program reads and writes it, and cannot execute it.
pub const DATA: PteFlags = CODE.union(PteFlags::WRITABLE).union(PteFlags::DIRTY).union(PteFlags::NO_EXECUTE);

/// The roots that each vCPU has loaded; none are those that it began with.
static LOADED: Local<[Option<(Mfn, Mfn)>; MOST]> = Local::new([None; MOST]);

pub struct AddressSpace {
    kernel_root: Pfn,
    user_root: Pfn,
    level3: Pfn,
    level2: Pfn,
    /// First-level tables by their index in `level2`.
    level1: BTreeMap<usize, Pfn>,
    pages: Vec<Pfn>,
    active: bool,
}

impl AddressSpace {
    /// An address space that maps nothing yet.
    pub fn new() -> Result<Self, Errno> {
        let mut frames = [Pfn::INVALID; 4];
        for index in 0..frames.len() {
            match allocate_cleared() {
                Ok(frame) => frames[index] = frame,
                Err(error) => {
                    frames[..index].iter().for_each(|frame| memory::free(*frame));
                    return Err(error);
                }
            }
        }
        let [kernel_root, user_root, level3, level2] = frames;
        linear::write(level3, 0, table_entry(level2));
        linear::write(user_root, 0, table_entry(level3));
        linear::write(kernel_root, 0, table_entry(level3));
        for slot in LAST_HYPERVISOR_SLOT + 1..ENTRIES {
            linear::write(kernel_root, slot, linear::read(linear::root(), slot));
        }
        let (level1, pages) = (BTreeMap::new(), Vec::new());
        Ok(Self { kernel_root, user_root, level3, level2, level1, pages, active: false })
    }

    /// Maps a cleared page at `address` and gives its frame.
    pub fn map(&mut self, address: u64, flags: PteFlags) -> Result<Pfn, Errno> {
        let mut batch = Batch::new();
        let frame = self.map_in_batch(&mut batch, address, flags)?;
        batch.flush()?;
        Ok(frame)
    }

    /// Maps `count` cleared pages from `address` on.
    pub fn map_pages(&mut self, address: u64, count: u64, flags: PteFlags) -> Result<(), Errno> {
        let mut batch = Batch::new();
        for page in 0..count {
            if let Err(error) = self.map_in_batch(&mut batch, address + page * PAGE_SIZE as u64, flags) {
                batch.flush()?;
                return Err(error);
            }
        }
        batch.flush()
    }

    fn map_in_batch(&mut self, batch: &mut Batch, address: u64, flags: PteFlags) -> Result<Pfn, Errno> {
        if address >= USER_END {
            return Err(Errno::EINVAL);
        }
        let table = self.level1_for(batch, address)?;
        let frame = allocate_cleared()?;
        self.pages.push(frame);
        let entry = Pte::new(translation::mfn(frame), flags);
        if self.active {
            // SAFETY: a user address, which nothing of the kernel uses.
            unsafe { batch.set(linear::entry_address(table, Level::L1, address), entry)? };
        } else {
            linear::write(table, Level::L1.index(address), entry);
        }
        Ok(frame)
    }

    /// The first-level table for an address, made if need be.
    fn level1_for(&mut self, batch: &mut Batch, address: u64) -> Result<Pfn, Errno> {
        let index = Level::L2.index(address);
        if let Some(table) = self.level1.get(&index) {
            return Ok(*table);
        }
        let table = allocate_cleared()?;
        self.level1.insert(index, table);
        if self.active {
            linear::make_read_only(batch, table)?;
            // SAFETY: as above.
            unsafe {
                batch.set(linear::entry_address(self.level2, Level::L2, address), table_entry(table))?;
            }
        } else {
            linear::write(self.level2, index, table_entry(table));
        }
        Ok(table)
    }

    /// Hands the tables over to the hypervisor.
    pub fn activate(&mut self) -> Result<(), Errno> {
        // From here on the hypervisor may hold some of the tables, whatever fails.
        self.active = true;
        let mut batch = Batch::new();
        for table in self.tables() {
            linear::make_read_only(&mut batch, table)?;
        }
        batch.flush()?;
        update::pin_roots(self.roots())
    }

    /// Makes this the address space of user mode, and its kernel root the kernel's.
    pub fn load(&self) -> Result<(), Errno> {
        load(self.roots())
    }

    /// The machine frames of the roots: kernel mode's, user mode's.
    fn roots(&self) -> (Mfn, Mfn) {
        (translation::mfn(self.kernel_root), translation::mfn(self.user_root))
    }

    fn tables(&self) -> Vec<Pfn> {
        let upper = [self.kernel_root, self.user_root, self.level3, self.level2];
        upper.into_iter().chain(self.level1.values().copied()).collect()
    }

    /// Takes the tables back from the hypervisor.
    fn deactivate(&mut self) -> Result<(), Errno> {
        load_kernel()?;
        update::unpin_roots(self.roots())?;
        let mut batch = Batch::new();
        for table in self.tables() {
            linear::make_writable(&mut batch, table)?;
        }
        batch.flush()
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        if self.active
            && let Err(error) = self.deactivate()
        {
            // The frames may still be tables: losing them is the safe choice.
            println!("an address space could not be taken down: {error}");
            return;
        }
        self.tables().into_iter().chain(self.pages.drain(..)).for_each(memory::free);
    }
}

/// Loads the kernel's own root, and no user root.
pub fn load_kernel() -> Result<(), Errno> {
    load(kernel_roots())
}

fn kernel_roots() -> (Mfn, Mfn) {
    (translation::mfn(linear::root()), Mfn(0))
}

fn load(roots: (Mfn, Mfn)) -> Result<(), Errno> {
    let vcpu = vcpu::number() as usize;
    if LOADED.with(|loaded| loaded[vcpu].unwrap_or(kernel_roots()) == roots) {
        return Ok(());
    }
    update::load_roots(roots.0, roots.1)?;
    LOADED.with(|loaded| loaded[vcpu] = Some(roots));
    Ok(())
}

fn table_entry(table: Pfn) -> Pte {
    Pte::new(translation::mfn(table), TABLE)
}

fn allocate_cleared() -> Result<Pfn, Errno> {
    if memory::free_frames() <= RESERVE {
        return Err(Errno::ENOMEM);
    }
    let frame = memory::allocate().ok_or(Errno::ENOMEM)?;
    linear::clear(frame);
    Ok(frame)
}
