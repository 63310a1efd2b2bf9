//! System calls: number in RAX, arguments in RDI and RSI, result in RAX, errors negated as in a
//! hypercall. `syscall` and `int 0x80` are the same.

use alloc::string::String;
use alloc::vec;

use pv_abi::{Errno, PAGE_SIZE};

use super::address_space::{DATA, USER_END};
use super::process::{Outcome, Running};
use crate::arch::guard;
use crate::sched::future::{race, yield_now};
use crate::time;

/// The vector of `int 0x80`.
pub const LEGACY_VECTOR: u64 = 0x80;

/// Numbers of the calls, also known to the programs' assembly.
pub mod number {
    /// exit(code): the program ends with the outcome `Exited`.
    pub const EXIT: u64 = 0;
    /// write(address, length)
    pub const WRITE: u64 = 1;
    /// clock() -> nanoseconds
    pub const CLOCK: u64 = 2;
    /// sleep(nanoseconds): other tasks run meanwhile. It ends earlier where the program is killed.
    pub const SLEEP: u64 = 3;
    /// allocate(pages) -> address
    pub const ALLOCATE: u64 = 4;
    /// yield(): other tasks that are ready have their turn first.
    pub const YIELD: u64 = 5;
}

/// Bytes that one write may have.
const WRITE_LIMIT: u64 = 4096;

/// Does what the program asks for. An outcome ends the program.
pub async fn handle(running: &mut Running) -> Option<Outcome> {
    let frame = &running.context.frame;
    let (first, second) = (frame.rdi, frame.rsi);
    let result = match frame.rax {
        number::EXIT => return Some(Outcome::Exited(first)),
        number::WRITE => write(running, first, second),
        number::CLOCK => Ok(time::now()),
        number::SLEEP => {
            race(time::sleep(first), running.process.killed()).await;
            Ok(0)
        }
        number::ALLOCATE => allocate(running, first),
        number::YIELD => {
            yield_now().await;
            Ok(0)
        }
        _ => Err(Errno::ENOSYS),
    };
    running.context.frame.rax = result.unwrap_or_else(Errno::to_return);
    None
}

fn write(running: &mut Running, address: u64, length: u64) -> Result<u64, Errno> {
    let end = address.checked_add(length).ok_or(Errno::EFAULT)?;
    if length > WRITE_LIMIT || end > USER_END {
        return Err(Errno::EFAULT);
    }
    let mut buffer = vec![0u8; length as usize];
    // SAFETY: the source lies in user memory of the loaded address space; absent pages are an error.
    unsafe { guard::copy(buffer.as_mut_ptr() as u64, address, buffer.len()) }.map_err(|_| Errno::EFAULT)?;
    running.process.write(&String::from_utf8_lossy(&buffer));
    Ok(length)
}

fn allocate(running: &mut Running, pages: u64) -> Result<u64, Errno> {
    let start = running.heap_end;
    let bytes = pages.checked_mul(PAGE_SIZE as u64).ok_or(Errno::EINVAL)?;
    let end = start.checked_add(bytes).filter(|end| *end <= USER_END).ok_or(Errno::ENOMEM)?;
    // Pages that were mapped before memory ran out stay the program's, so its end moves in any case.
    running.heap_end = end;
    running.space.map_pages(start, pages, DATA)?;
    Ok(start)
}
