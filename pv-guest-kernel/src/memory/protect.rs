//! The image's rights: the domain builder maps everything writable and executable.

use pv_abi::Pfn;
use pv_abi::page_table::PteFlags;

use super::linear;
use super::update::{self, Batch};
use super::{KERNEL_CODE, KERNEL_DATA, KERNEL_READ_ONLY};

// Symbols of the linker script, each at a page boundary; only their addresses mean anything.
unsafe extern "C" {
    #[link_name = "image_start"]
    static IMAGE_START: u8;
    #[link_name = "text_end"]
    static TEXT_END: u8;
    #[link_name = "rodata_end"]
    static RODATA_END: u8;
    #[link_name = "image_end"]
    static IMAGE_END: u8;
    #[link_name = "kernel_stack"]
    static KERNEL_STACK: u8;
}

/// The image's first pfn.
pub fn image_start() -> u64 {
    linear::pfn_of(&raw const IMAGE_START as u64).0
}

/// The first pfn behind the image.
pub fn image_end() -> u64 {
    linear::pfn_of(&raw const IMAGE_END as u64).0
}

/// Text loses write, the rest of the image and the frames below it lose execute, and the lowest page of
/// the stack loses everything.
pub fn image() {
    let text_end = linear::pfn_of(&raw const TEXT_END as u64).0;
    let rodata_end = linear::pfn_of(&raw const RODATA_END as u64).0;
    let stack = linear::pfn_of(&raw const KERNEL_STACK as u64).0;
    let shared = crate::shared_info::page_address();
    let shared = linear::pfn_of(shared).0;
    let mut batch = Batch::new();
    let mut apply = |range: core::ops::Range<u64>, flags: PteFlags| {
        for pfn in range.filter(|pfn| *pfn != shared).map(Pfn) {
            linear::set_flags(&mut batch, pfn, flags).expect("protecting the image");
        }
    };
    apply(0..image_start(), KERNEL_DATA);
    apply(image_start()..text_end, KERNEL_CODE);
    apply(text_end..rodata_end, KERNEL_READ_ONLY);
    apply(rodata_end..image_end(), KERNEL_DATA);
    apply(stack..stack + 1, PteFlags::empty());
    batch.flush().expect("protecting the image");
    update::flush_translations().expect("flush");
}
