//! Direct paging: page tables hold machine frames, and every change of one is a request.
//!
//! The kernel has one mapping of each of its frames, the linear map: pfn n at `VIRT_BASE` + n pages for the first GiB,
//! which holds the image, and at `HIGH_BASE` + n pages for the others. So a frame is read-only everywhere (as a page table
//! must be) when its linear mapping is, and no user mapping of it exists.

mod check;
mod frames;
#[allow(unsafe_code, reason = "the global allocator")]
mod heap;
#[allow(unsafe_code, reason = "reads and writes frames by number")]
pub mod linear;
#[allow(unsafe_code, reason = "frames by address")]
mod page;
#[allow(unsafe_code, reason = "symbols of the linker script")]
mod protect;
#[allow(unsafe_code, reason = "memory that others write")]
mod shared;
#[allow(unsafe_code, reason = "tables made by the domain builder and the hypervisor")]
pub mod translation;
#[allow(unsafe_code, reason = "changes mappings")]
pub mod update;
#[allow(unsafe_code, reason = "changes mappings")]
mod window;

use alloc::format;
use alloc::string::String;

use pv_abi::page_table::PteFlags;
use pv_abi::{Errno, PAGE_SIZE};

use crate::arch::vcpu::STACK_BYTES;
use update::Batch;

pub use check::check;
pub use frames::{allocate, free, free_frames};
pub use page::Page;
pub use shared::SharedPage;
pub use translation::init as init_translation;
pub use window::Window;

/// Where pfn 0 is mapped: the note VIRT_BASE.
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Frames that are mapped there: one slot of the third level.
pub const LOW_FRAMES: u64 = 1 << 18;
/// Where pfn 0 would be mapped for the frames behind: the first slot of a root behind the hypervisor's.
pub const HIGH_BASE: u64 = 0xffff_8800_0000_0000;

/// Flags of tables above the first level.
pub const TABLE: PteFlags = PteFlags::PRESENT
    .union(PteFlags::WRITABLE)
    .union(PteFlags::USER)
    .union(PteFlags::ACCESSED)
    .union(PteFlags::DIRTY);
/// Flags of the kernel's code.
pub const KERNEL_CODE: PteFlags = PteFlags::PRESENT.union(PteFlags::ACCESSED);
/// Flags of what the kernel only reads, page tables among it.
pub const KERNEL_READ_ONLY: PteFlags = KERNEL_CODE.union(PteFlags::NO_EXECUTE);
/// Flags of the kernel's data.
pub const KERNEL_DATA: PteFlags = KERNEL_READ_ONLY.union(PteFlags::WRITABLE).union(PteFlags::DIRTY);

/// Takes rights away from the image, then makes all memory usable: frames, the linear map, the heap, windows.
pub fn init() {
    protect::image();
    frames::init();
    linear::extend(frames::first_unplaced(), translation::frames().min(LOW_FRAMES));
    heap::init();
    window::init();
    frames::make_room();
    linear::extend(LOW_FRAMES, translation::frames());
    linear::flush();
}

/// A stack for a vCPU: its lowest address, at which a page lies that is mapped nowhere. It is never given back.
pub fn allocate_stack() -> Result<u64, Errno> {
    let frames = (STACK_BYTES / PAGE_SIZE) as u64;
    let first = frames::allocate_run(frames, frames).ok_or(Errno::ENOMEM)?;
    let mut batch = Batch::new();
    linear::set_flags(&mut batch, first, PteFlags::empty())?;
    batch.flush()?;
    update::flush_translations()?;
    Ok(linear::address(first))
}

/// One line about memory.
pub fn summary() -> String {
    let mib = |frames: u64| frames / 256;
    let (heap_used, heap_bytes) = heap::used_of();
    format!(
        "memory: {} MiB, {} MiB free, heap {} KiB of {} KiB in use",
        mib(translation::frames()),
        mib(free_frames()),
        heap_used / 1024,
        heap_bytes / 1024,
    )
}
