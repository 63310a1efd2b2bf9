//! A place for experiments: frames of one's own, and machine code that is data of the image.
//!
//! The image must not contain the instructions that are tried here, so they are bytes, copied to an
//! executable page when they are wanted.

use pv_abi::mmu::UpdateVaMappingFlags;
use pv_abi::page_table::{Pte, PteFlags};
use pv_abi::{Errno, Mfn, PAGE_SIZE, Pfn};

use crate::arch::{guard, hypercall};
use crate::memory::{self, KERNEL_CODE, KERNEL_DATA, linear, translation};

/// Instructions that the experiments share.
pub mod code {
    /// `mov rax, [rdi]; ret`
    pub const READ: &[u8] = &[0x48, 0x8b, 0x07, 0xc3];
    /// `mov [rdi], rsi; ret`
    pub const WRITE: &[u8] = &[0x48, 0x89, 0x37, 0xc3];
    /// `mov eax, 42; ret`
    pub const ANSWER: &[u8] = &[0xb8, 42, 0, 0, 0, 0xc3];
    /// `hlt; ret`
    pub const HALT: &[u8] = &[0xf4, 0xc3];
}

/// A frame in the linear map, cleared, given back when dropped.
pub struct Page {
    pfn: Pfn,
}

impl Page {
    /// Takes a frame. Panics without one: then nothing can be tested.
    pub fn new() -> Self {
        let pfn = memory::allocate().expect("a frame for an experiment");
        linear::clear(pfn);
        Self { pfn }
    }

    /// Where it is mapped.
    pub fn address(&self) -> u64 {
        linear::address(self.pfn)
    }

    /// Its own frame number.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Its machine frame.
    pub fn mfn(&self) -> Mfn {
        translation::mfn(self.pfn)
    }

    /// Writes an entry, while it is writable.
    pub fn set(&self, index: usize, value: u64) {
        linear::write(self.pfn, index, Pte(value));
    }

    /// Reads an entry.
    pub fn get(&self, index: usize) -> u64 {
        linear::read(self.pfn, index).0
    }

    /// Changes its linear mapping to `frame` with `flags`.
    pub fn map(&self, frame: Mfn, flags: PteFlags, flush: UpdateVaMappingFlags) -> Result<u64, Errno> {
        // SAFETY: the page is this experiment's alone.
        unsafe { hypercall::update_va_mapping(self.address(), Pte::new(frame, flags), flush) }
    }

    /// Changes the rights of its linear mapping.
    pub fn protect(&self, flags: PteFlags) -> Result<u64, Errno> {
        self.map(self.mfn(), flags, UpdateVaMappingFlags::INVLPG)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        match self.protect(KERNEL_DATA) {
            Ok(_) => memory::free(self.pfn),
            Err(error) => println!("{:?} is lost: {error}", self.pfn),
        }
    }
}

/// Runs machine code in kernel mode, and gives back its RAX or the trap that ended it.
pub fn run(code: &[u8], first: u64, second: u64) -> Result<u64, guard::Trap> {
    let page = Page::new();
    assert!(code.len() <= PAGE_SIZE);
    linear::store(page.pfn(), code);
    page.protect(KERNEL_CODE).expect("an executable page");
    // SAFETY: hand-made code without a stack frame; what it does is the experiment.
    unsafe { guard::call(page.address(), first, second, 0) }
}

/// Reads a word that may be absent.
pub fn read(address: u64) -> Result<u64, guard::Trap> {
    run(code::READ, address, 0)
}

/// Writes a word that may be absent or read-only.
pub fn write(address: u64, value: u64) -> Result<u64, guard::Trap> {
    run(code::WRITE, address, value)
}
