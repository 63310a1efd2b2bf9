//! The linear map: the kernel's one mapping of each of its frames, and access to frames through it.

use pv_abi::page_table::{ENTRIES, Level, Pte, PteFlags};
use pv_abi::{Errno, PAGE_SIZE, Pfn};

use super::update::{self, Batch};
use super::{HIGH_BASE, KERNEL_DATA, KERNEL_READ_ONLY, LOW_FRAMES, TABLE, VIRT_BASE, frames, translation};
use crate::start_info;

/// Where a frame is mapped.
pub const fn address(pfn: Pfn) -> u64 {
    let base = if pfn.0 < LOW_FRAMES { VIRT_BASE } else { HIGH_BASE };
    base + pfn.0 * PAGE_SIZE as u64
}

/// The frame of an address in the linear map.
pub const fn pfn_of(address: u64) -> Pfn {
    let base = if address >= VIRT_BASE { VIRT_BASE } else { HIGH_BASE };
    Pfn((address - base) / PAGE_SIZE as u64)
}

/// The root that the domain builder made: the kernel's own, without any user part.
pub fn root() -> Pfn {
    pfn_of(start_info::with(|info| info.pt_base))
}

/// Reads an entry of a table.
pub fn read(table: Pfn, index: usize) -> Pte {
    assert!(index < ENTRIES && table.0 < translation::frames());
    // SAFETY: inside a frame of the linear map; the hypervisor may write it meanwhile, hence volatile.
    Pte(unsafe { (address(table) as *const u64).add(index).read_volatile() })
}

/// Writes an entry of a table that the hypervisor has not validated yet, so that it is still writable.
pub fn write(table: Pfn, index: usize, entry: Pte) {
    assert!(index < ENTRIES && table.0 < translation::frames());
    // SAFETY: the caller took the frame from the allocator, so nothing else uses it.
    unsafe { (address(table) as *mut u64).add(index).write_volatile(entry.0) }
}

/// Clears a frame taken from the allocator.
pub fn clear(pfn: Pfn) {
    assert!(pfn.0 < translation::frames());
    // SAFETY: the caller took the frame from the allocator, so nothing else uses it.
    unsafe { (address(pfn) as *mut u8).write_bytes(0, PAGE_SIZE) };
}

/// Copies bytes into a frame taken from the allocator.
pub fn store(pfn: Pfn, bytes: &[u8]) {
    store_at(pfn, 0, bytes);
}

/// The same from a place in the frame on.
pub fn store_at(pfn: Pfn, offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= PAGE_SIZE && pfn.0 < translation::frames());
    let place = address(pfn) + offset as u64;
    // SAFETY: inside the frame, which nothing else uses.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), place as *mut u8, bytes.len()) }
}

/// Copies bytes out of a frame taken from the allocator.
pub fn load(pfn: Pfn, offset: usize, bytes: &mut [u8]) {
    assert!(offset + bytes.len() <= PAGE_SIZE && pfn.0 < translation::frames());
    let place = address(pfn) + offset as u64;
    // SAFETY: inside the frame, which nothing else uses.
    unsafe { core::ptr::copy_nonoverlapping(place as *const u8, bytes.as_mut_ptr(), bytes.len()) }
}

/// The table of `level` that is responsible for `virtual_address` under `root`.
pub fn table(root: Pfn, level: Level, virtual_address: u64) -> Option<Pfn> {
    let mut table = root;
    for above in [Level::L4, Level::L3, Level::L2] {
        if above == level {
            break;
        }
        let entry = read(table, above.index(virtual_address));
        table = entry.is_present().then(|| translation::pfn(entry.mfn()))??;
    }
    Some(table)
}

/// The machine address of the entry for `virtual_address` in a table.
pub fn entry_address(table: Pfn, level: Level, virtual_address: u64) -> u64 {
    translation::mfn(table).address() + level.index(virtual_address) as u64 * 8
}

/// Adds to `batch` that the linear mapping of a frame gets these flags.
pub fn set_flags(batch: &mut Batch, pfn: Pfn, flags: PteFlags) -> Result<(), Errno> {
    let table = table(root(), Level::L1, address(pfn)).expect("the linear map has no holes");
    let place = entry_address(table, Level::L1, address(pfn));
    update::changed();
    // SAFETY: the frame stays where it is; who takes rights away has given up using them.
    unsafe { batch.set(place, Pte::new(translation::mfn(pfn), flags)) }
}

/// Makes a frame read-only, so that it can become a page table.
pub fn make_read_only(batch: &mut Batch, pfn: Pfn) -> Result<(), Errno> {
    set_flags(batch, pfn, KERNEL_READ_ONLY)
}

/// Makes a frame writable again that is no page table any more.
pub fn make_writable(batch: &mut Batch, pfn: Pfn) -> Result<(), Errno> {
    set_flags(batch, pfn, KERNEL_DATA)
}

/// Tables that are handed over together.
const ROUND: usize = 32;

/// Maps the frames from `next` up to, not including, `last`, which the domain builder left unmapped, some L1 tables (2 MiB
/// each) at a time: each round releases the frames that the next takes its tables from.
pub fn extend(mut next: u64, last: u64) {
    while next < last {
        let start = next;
        let mut batch = Batch::new();
        for _ in 0..ROUND {
            let behind = ((next / ENTRIES as u64 + 1) * ENTRIES as u64).min(last);
            let mapped = match table(root(), Level::L1, address(Pfn(next))) {
                Some(table) => fill(&mut batch, table, next, behind),
                None => add_table(&mut batch, next, behind),
            };
            mapped.expect("extending the linear map");
            next = behind;
            if next == last || frames::free_frames() == 0 {
                break;
            }
        }
        batch.flush().expect("extending the linear map");
        frames::release(start, next);
    }
}

/// Makes the processor see what was mapped.
pub fn flush() {
    update::flush_translations().expect("flush");
}

/// Completes a table that is in use: the domain builder may have left its end empty.
fn fill(batch: &mut Batch, table: Pfn, first: u64, behind: u64) -> Result<(), Errno> {
    for pfn in (first..behind).map(Pfn) {
        if !read(table, Level::L1.index(address(pfn))).is_present() {
            let place = entry_address(table, Level::L1, address(pfn));
            // SAFETY: nothing is mapped there yet.
            unsafe { batch.set(place, Pte::new(translation::mfn(pfn), KERNEL_DATA))? };
        }
    }
    Ok(())
}

/// Fills a new table by plain stores, then hands it over: read-only first, then in use.
fn add_table(batch: &mut Batch, first: u64, behind: u64) -> Result<(), Errno> {
    let new = frames::allocate().ok_or(Errno::ENOMEM)?;
    clear(new);
    for pfn in (first..behind).map(Pfn) {
        write(new, Level::L1.index(address(pfn)), Pte::new(translation::mfn(pfn), KERNEL_DATA));
    }
    let first = address(Pfn(first));
    let above = second_level(first)?;
    make_read_only(batch, new)?;
    let entry = Pte::new(translation::mfn(new), TABLE);
    // SAFETY: nothing is mapped there yet.
    unsafe { batch.set(entry_address(above, Level::L2, first), entry) }
}

/// The second-level table for an address, made if need be, and the one above it.
fn second_level(address: u64) -> Result<Pfn, Errno> {
    let mut above = root();
    for (level_above, level) in [(Level::L4, Level::L3), (Level::L3, Level::L2)] {
        above = match table(root(), level, address) {
            Some(table) => table,
            None => {
                let new = frames::allocate().ok_or(Errno::ENOMEM)?;
                clear(new);
                let mut batch = Batch::new();
                make_read_only(&mut batch, new)?;
                let entry = Pte::new(translation::mfn(new), TABLE);
                // SAFETY: nothing is mapped there yet.
                unsafe { batch.set(entry_address(above, level_above, address), entry)? };
                batch.flush()?;
                new
            }
        };
    }
    Ok(above)
}
