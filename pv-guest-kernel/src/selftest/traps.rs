//! Exceptions of kernel code, and what their frames show.

use pv_abi::segment::{FLAT_KERNEL_CS64, FLAT_RING3_SS64};
use pv_abi::trap::rflags;

use super::WILD;
use super::laboratory::{self, code, read, run as execute};
use super::report::Report;

/// `ud2`: #UD.
const UNDEFINED: &[u8] = &[0x0f, 0x0b];
/// `int3; ret`: #BP.
const BREAKPOINT: &[u8] = &[0xcc, 0xc3];
/// `int 0x80; ret`: arrives at the gate 0x80 of the trap table.
const INT_80: &[u8] = &[0xcd, 0x80, 0xc3];
/// `int 0x21; ret`: arrives at the gate 0x21 of the trap table.
const INT_21: &[u8] = &[0xcd, 0x21, 0xc3];
/// `xor edx, edx; xor ecx, ecx; div ecx`
const DIVIDE: &[u8] = &[0x31, 0xd2, 0x31, 0xc9, 0xf7, 0xf1];
/// `mov ecx, 0x1111; mov r11d, 0x2222; ud2`
const REGISTERS: &[u8] = &[0xb9, 0x11, 0x11, 0, 0, 0x41, 0xbb, 0x22, 0x22, 0, 0, 0x0f, 0x0b];
/// `std; ud2`: #UD while RFLAGS.DF is set, which the frame has to show.
const DIRECTION: &[u8] = &[0xfd, 0x0f, 0x0b];

pub fn run(report: &mut Report) {
    report.traps("a breakpoint", &execute(BREAKPOINT, 0, 0), 3, 0);
    report.traps("an undefined instruction", &execute(UNDEFINED, 0, 0), 6, 0);
    report.traps("a division by zero", &execute(DIVIDE, 0, 0), 0, 0);
    report.traps("hlt", &execute(code::HALT, 0, 0), 13, 0);
    report.traps("reading a non-canonical address", &read(1 << 63), 13, 0);
    report.traps("reading an unmapped address", &read(WILD), 14, 0);
    report.traps("writing an unmapped address", &laboratory::write(WILD, 0), 14, 2);
    report.traps("int 0x80 from the kernel", &execute(INT_80, 0, 0), 0x80, 0);
    int_21(report);
    frame(report);
}

/// A processor that QEMU emulates puts a wrong error code into the exception that the hypervisor
/// recognises `int n` by (twice the index), so that it cannot: it passes the exception on.
fn int_21(report: &mut Report) {
    const MISREPORTED: u64 = 0x21 << 4 | 2;
    match execute(INT_21, 0, 0) {
        Err(trap) if (trap.vector, trap.error) == (13, MISREPORTED) => {
            report.check("int 0x21 from the kernel", true, "misreported by an emulated processor");
        }
        result => report.traps("int 0x21 from the kernel", &result, 0x21, 0),
    }
}

fn frame(report: &mut Report) {
    let Err(trap) = execute(REGISTERS, 0, 0) else {
        return report.check("a frame", false, "no trap");
    };
    let frame = trap;
    report.equal("RCX and R11 in a frame", (frame.rcx, frame.r11), (0x1111, 0x2222));
    report.equal("the code selector in it", frame.cs as u16, FLAT_KERNEL_CS64);
    report.equal("the event mask in it", frame.cs >> 32 & 0xff, 1);
    report.equal("the interrupt flag in it", frame.rflags & rflags::IF, 0);
    report.equal("the stack selector in it", frame.ss as u16, FLAT_RING3_SS64);
    let direction = execute(DIRECTION, 0, 0).map_err(|trap| trap.rflags & rflags::DF);
    report.equal("the direction flag in it", direction.err(), Some(rflags::DF));
}
