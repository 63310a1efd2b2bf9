//! The canary: a domain that wants nothing but to go on counting, with what it holds where it left it.

use super::code::{Code, Condition, Reg, SCRATCH};
use iced_x86::code_asm::{AsmRegister64, edi, qword_ptr, r14, rax, rcx, xmm0};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::segment::SegmentBase;

/// How often it went round.
pub(super) const COUNTER: u64 = SCRATCH;
/// Where its GS base points.
const GS: u64 = SCRATCH + 8;
/// What each register holds, but for its number.
const PATTERN: u64 = 0x0123_4567_89ab_cd00;
/// Goes round between two hypercalls.
const ROUNDS: u64 = 1000;

const HELD: [Reg; 8] = [Reg::Rbx, Reg::Rbp, Reg::Rsi, Reg::R8, Reg::R9, Reg::R12, Reg::R13, Reg::R15];

const fn pattern(register: Reg) -> u64 {
    PATTERN + register as u64
}

/// Counts, and checks after each round that nobody has touched its registers, its vector registers or its GS base;
/// makes a hypercall now and then. Where something is wrong it runs into `ud2`, for which it has no handler.
pub(super) fn code() -> Code {
    let mut code = Code::default();
    code.set(GS, PATTERN);
    code.hypercall(N::SET_SEGMENT_BASE, &[SegmentBase::GS_KERNEL.0, GS]);
    for register in HELD {
        code.mov(register, pattern(register));
    }
    code.mov(Reg::Rax, PATTERN).asm(|a| a.movq(xmm0, rax));
    let start = code.here();
    code.jump(Condition::Always, start + 5 + 2);
    let bad = code.here();
    code.asm(|a| a.ud2());
    let outer = code.here();
    code.mov(Reg::R14, ROUNDS);
    let round = code.here();
    code.increment(COUNTER);
    for register in HELD {
        code.mov(Reg::Rax, pattern(register)).asm(|a| a.cmp(AsmRegister64::from(register), rax));
        code.jump(Condition::NotZero, bad);
    }
    code.mov(Reg::Rcx, PATTERN);
    code.asm(|a| {
        a.movq(rax, xmm0)?;
        a.cmp(rax, rcx)
    });
    code.jump(Condition::NotZero, bad);
    code.asm(|a| a.cmp(rcx, qword_ptr(0u64).gs()));
    code.jump(Condition::NotZero, bad);
    code.asm(|a| a.dec(r14)).jump(Condition::NotZero, round);
    code.mov(Reg::Rax, N::XEN_VERSION.0).asm(|a| {
        a.xor(edi, edi)?;
        a.syscall()
    });
    code.asm(|a| a.test(rax, rax)).jump(Condition::Negative, bad);
    code.jump(Condition::Always, outer);
    code
}
