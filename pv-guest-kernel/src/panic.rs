//! The end of a kernel that cannot go on: says why and where, then tells the hypervisor that it crashed.

use core::fmt;
use core::panic::PanicInfo;

use pv_abi::sched::ShutdownReason;
use pv_abi::trap::Vector;

use crate::arch::trap::Frame;
use crate::arch::{guard, hypercall, processor};
use crate::driver::console;
use crate::shared_info;

/// A trap in the kernel that no guarded call expected.
pub fn unexpected_trap(frame: &Frame) -> ! {
    emergency!("kernel panic: {} in the kernel\n{}", Cause(frame), Registers(frame));
    end(frame.rbp)
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    match info.location() {
        Some(place) => emergency!("kernel panic: {} ({place})\n", info.message()),
        None => emergency!("kernel panic: {}\n", info.message()),
    }
    end(processor::frame_pointer())
}

fn end(frame_pointer: u64) -> ! {
    back_trace(frame_pointer);
    console::drain();
    hypercall::shutdown(ShutdownReason::CRASH)
}

/// Return addresses along the chain of frame pointers; the symbol table of the image names them.
fn back_trace(mut frame_pointer: u64) {
    emergency!("back trace:\n");
    for _ in 0..32 {
        let mut saved = [0u64; 2];
        // SAFETY: reads into a local; a bad frame pointer is an error.
        #[allow(unsafe_code, reason = "follows pointers that may be broken")]
        let copied = unsafe { guard::copy(saved.as_mut_ptr() as u64, frame_pointer, size_of_val(&saved)) };
        if frame_pointer == 0 || copied.is_err() || saved[1] == 0 {
            return;
        }
        emergency!("  {:#018x}\n", saved[1]);
        frame_pointer = saved[0];
    }
}

/// What a trap was, in words.
pub struct Cause<'a>(pub &'a Frame);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = self.0;
        let vector = Vector(frame.vector as u8);
        match vector {
            Vector::PAGE_FAULT => write!(
                f,
                "page fault at {:#x} ({}, {})",
                shared_info::fault_address(),
                match (frame.error & 16 != 0, frame.error & 2 != 0) {
                    (true, _) => "execute",
                    (_, true) => "write",
                    _ => "read",
                },
                if frame.error & 1 != 0 { "no right" } else { "not mapped" },
            ),
            _ => match vector.name() {
                Some(name) => {
                    name.chars()
                        .map(|c| if c == '_' { ' ' } else { c.to_ascii_lowercase() })
                        .try_for_each(|c| fmt::Write::write_char(f, c))?;
                    write!(f, " (vector {}, error code {:#x})", frame.vector, frame.error)
                }
                None => write!(f, "trap {:#x} (error code {:#x})", frame.vector, frame.error),
            },
        }
    }
}

/// The registers of a frame.
pub struct Registers<'a>(pub &'a Frame);

impl fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.0;
        writeln!(f, "rip {:016x}  rsp {:016x}  rflags {:08x}", r.rip, r.rsp, r.rflags)?;
        writeln!(f, "rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx)?;
        writeln!(f, "rsi {:016x}  rdi {:016x}  rbp {:016x}  r8  {:016x}", r.rsi, r.rdi, r.rbp, r.r8)?;
        writeln!(f, "r9  {:016x}  r10 {:016x}  r11 {:016x}  r12 {:016x}", r.r9, r.r10, r.r11, r.r12)?;
        writeln!(f, "r13 {:016x}  r14 {:016x}  r15 {:016x}", r.r13, r.r14, r.r15)
    }
}
