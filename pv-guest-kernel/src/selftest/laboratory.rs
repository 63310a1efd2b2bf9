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
    /// `mov rax, [rdi]; ret`: the word at the address in RDI is the result.
    pub const READ: &[u8] = &[0x48, 0x8b, 0x07, 0xc3];
    /// `mov [rdi], rsi; ret`: the word in RSI is stored at the address in RDI.
    pub const WRITE: &[u8] = &[0x48, 0x89, 0x37, 0xc3];
    /// `mov eax, 42; ret`: the result tells that the code has run.
    pub const ANSWER: &[u8] = &[0xb8, 42, 0, 0, 0, 0xc3];
    /// `hlt; ret`: #GP, because a PV kernel runs at CPL3.
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

    /// Where the linear map has the page.
    pub fn address(&self) -> u64 {
        linear::address(self.pfn)
    }

    /// The page's frame number in the domain (pfn).
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The page's machine frame number, as entries of page tables have it.
    pub fn mfn(&self) -> Mfn {
        translation::mfn(self.pfn)
    }

    /// Writes an entry, while it is writable.
    pub fn set(&self, index: usize, value: u64) {
        linear::write(self.pfn, index, Pte(value));
    }

    /// Reads the page's word number `index`, an entry where the page is a table.
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
