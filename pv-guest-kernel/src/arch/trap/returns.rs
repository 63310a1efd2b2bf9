//! Returns by the hypercall `iret` that the self-test and the attack ask for.

use core::arch::{asm, naked_asm};

use pv_abi::hypercall::HypercallNumber;
use pv_abi::segment::{FLAT_KERNEL_CS64, FLAT_RING3_SS64};

use super::Frame;
use crate::arch::guard;

/// An `iret` from the kernel to itself with these flags words. Gives back RAX, RCX and R11, for which
/// 0xa, 0xc and 0xb were asked.
pub fn return_to_self(flags: u64, rflags: u64) -> [u64; 3] {
    let (rax, rcx, r11);
    // SAFETY: goes on behind the jump with the stack as before; the clobbers are those of a call, for an
    // event may be taken in between.
    unsafe {
        asm!(
            "mov r8, rsp",
            "push {ss}",
            "push r8",
            "push rsi",
            "push {cs}",
            "lea rax, [rip + 2f]",
            "push rax",
            "push rdi",
            "mov eax, 0xa",
            "mov ecx, 0xc",
            "mov r11d, 0xb",
            "jmp hypercall_page + {iret} * 32",
            "2:",
            ss = const FLAT_RING3_SS64,
            cs = const FLAT_KERNEL_CS64,
            iret = const HypercallNumber::IRET.0,
            in("rdi") flags,
            in("rsi") rflags,
            lateout("rax") rax,
            lateout("rcx") rcx,
            lateout("r11") r11,
            clobber_abi("C"),
        );
    }
    [rax, rcx, r11]
}

/// An `iret` to `frame`'s RIP, CS, SS and RFLAGS, on the current stack, as a guarded call: if the place
/// can be reached, it returns from there.
pub fn guarded_return(frame: &Frame) -> Result<u64, guard::Trap> {
    let function = return_to as *const () as u64;
    // SAFETY: naked, and it leaves nothing behind that has to be dropped.
    unsafe { guard::call(function, &raw const *frame as u64, 0, 0) }
}

/// Leaves by `iret` to the frame in RDI, with RSP as on entry.
#[unsafe(naked)]
unsafe extern "C" fn return_to() {
    naked_asm!(
        "mov rax, rsp",
        "push qword ptr [rdi + {ss}]",
        "push rax",
        "push qword ptr [rdi + {rflags}]",
        "push qword ptr [rdi + {cs}]",
        "push qword ptr [rdi + {rip}]",
        "push 0",
        "jmp hypercall_page + {iret} * 32",
        ss = const core::mem::offset_of!(Frame, ss),
        rflags = const core::mem::offset_of!(Frame, rflags),
        cs = const core::mem::offset_of!(Frame, cs),
        rip = const core::mem::offset_of!(Frame, rip),
        iret = const HypercallNumber::IRET.0,
    )
}
