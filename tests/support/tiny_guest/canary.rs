//! The canary: a domain that wants nothing but to go on counting, with what it holds where it left it.

use super::code::{Code, Condition, Reg, SCRATCH};
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
    code.mov(Reg::Rax, PATTERN).raw(&[0x66, 0x48, 0x0f, 0x6e, 0xc0]); // movq xmm0, rax
    let start = code.here();
    code.jump(Condition::Always, start + 5 + 2);
    let bad = code.here();
    code.raw(&[0x0f, 0x0b]); // ud2
    let outer = code.here();
    code.mov(Reg::R14, ROUNDS);
    let round = code.here();
    code.increment(COUNTER);
    for register in HELD {
        let number = register as u8;
        code.mov(Reg::Rax, pattern(register));
        code.raw(&[0x48 | number >> 3, 0x39, 0xc0 | number & 7]); // cmp register, rax
        code.jump(Condition::NotZero, bad);
    }
    code.mov(Reg::Rcx, PATTERN);
    code.raw(&[0x66, 0x48, 0x0f, 0x7e, 0xc0, 0x48, 0x39, 0xc8]); // movq rax, xmm0; cmp rax, rcx
    code.jump(Condition::NotZero, bad);
    code.raw(&[0x65, 0x48, 0x3b, 0x0c, 0x25, 0, 0, 0, 0]); // cmp rcx, gs:[0]
    code.jump(Condition::NotZero, bad);
    code.raw(&[0x49, 0xff, 0xce]).jump(Condition::NotZero, round); // dec r14
    code.mov(Reg::Rax, N::XEN_VERSION.0).raw(&[0x31, 0xff, 0x0f, 0x05]); // xor edi, edi; syscall
    code.raw(&[0x48, 0x85, 0xc0]).jump(Condition::Negative, bad); // test rax, rax
    code.jump(Condition::Always, outer);
    code
}
