//! Direct paging: page tables hold machine frames, and every change of one is a request.
//!
//! The kernel has one mapping of each of its frames, the linear map: pfn n at `VIRT_BASE` + n pages. So
//! a frame is read-only everywhere (as a page table must be) when its linear mapping is, and no user
//! mapping of it exists.

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

pub use frames::{allocate, free, free_frames};
pub use page::Page;
pub use shared::SharedPage;
pub use translation::init as init_translation;
pub use window::Window;

/// Where pfn 0 is mapped: the note VIRT_BASE.
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// The linear map's slot of the third level reaches no further; memory above stays unused.
pub const LINEAR_FRAMES: u64 = 1 << 18;

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
    linear::extend();
    heap::init();
    window::init();
}

/// One line about memory.
pub fn summary() -> String {
    let given = translation::all_frames();
    let used = translation::frames();
    let mib = |frames: u64| frames / 256;
    let (heap_used, heap_bytes) = heap::used_of();
    let unused =
        if used < given { format!(", {} MiB beyond reach", mib(given - used)) } else { String::new() };
    format!(
        "memory: {} MiB, {} MiB free, heap {} KiB of {} KiB in use{unused}",
        mib(used),
        mib(free_frames()),
        heap_used / 1024,
        heap_bytes / 1024,
    )
}
