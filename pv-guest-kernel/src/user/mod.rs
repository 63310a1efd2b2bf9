//! User programs: at CPL 3 like the kernel, but in user mode, with a root page table that maps nothing of
//! the kernel.

pub mod address_space;
pub mod process;
pub mod program;
mod system_call;
