//! Guests with several vCPUs, which work against each other and against whoever has to keep up with them. Here is what
//! they all begin with.

mod contexts;
mod levels;
mod races;

use crate::support::check;
use crate::tiny_guest::{Code, Condition, Guest, Reg, SCRATCH, STACK, TABLE};
use iced_x86::code_asm::{r12, rax};
use libtest_mimic::{Failed, Trial};
use pv_abi::guest_context::{GuestContext, GuestContextFlags as F};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::Vector;
use pv_abi::vcpu::VcpuOp as Op;
use zerocopy::FromZeros;

pub fn tests() -> Vec<Trial> {
    [contexts::tests(), races::tests(), levels::tests()].into_iter().flatten().collect()
}

const SELF: u64 = 0x7ff0;
/// Present, writable, for user mode; and without writable.
const RW: u64 = 7;
const RO: u64 = 5;

/// Where the code of further vCPUs lies.
const CODES: u64 = TABLE + 0x2_0000;
/// Where their first contexts lie.
const CONTEXTS: u64 = TABLE + 0x4_0000;
/// What the vCPUs of a test count together.
const COUNTS: u64 = SCRATCH + 0x100;
/// A word of zeros, until a test counts there: an entry that maps nothing.
const NOTHING: u64 = COUNTS + 32;
/// Pages that a test may take out of the initial mapping.
const PAGES: u64 = TABLE + 0x8_0000;

const fn code_of(vcpu: u64) -> u64 {
    CODES + vcpu * 0x1000
}

const fn context_of(vcpu: u64) -> u64 {
    CONTEXTS + vcpu * 0x2000
}

const fn stack_of(vcpu: u64) -> u64 {
    STACK - vcpu * 0x2000
}

/// A context that starts vCPU `vcpu` at its code, whose faults begin it anew.
fn context(guest: &Guest, vcpu: u64) -> Box<GuestContext> {
    let mut first = GuestContext::new_box_zeroed().expect("memory");
    first.flags = F::IN_KERNEL.bits();
    (first.user_regs.rip, first.user_regs.rsp) = (code_of(vcpu), stack_of(vcpu));
    (first.user_regs.cs, first.user_regs.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
    first.trap_ctxt[usize::from(Vector::PAGE_FAULT.0)].address = code_of(vcpu);
    first.trap_ctxt[usize::from(Vector::PAGE_FAULT.0)].cs = FLAT_RING3_CS64;
    first.ctrlreg[3] = guest.built.root.0 << 12;
    first
}

/// The code of a further vCPU begins; it is gone back to after a fault, whose frame is dropped here.
fn further(vcpu: u64) -> Code {
    let mut code = Code::default();
    code.mov(Reg::Rsp, stack_of(vcpu));
    code
}

/// Before the guest starts: the code of a further vCPU, and its context.
fn place(guest: &Guest, vcpu: u64, code: &Code) {
    guest.poke(code_of(vcpu), code.text());
    guest.poke(context_of(vcpu), &*context(guest, vcpu));
}

/// Starts a vCPU that was [placed](place).
fn start(code: &mut Code, vcpu: u64) {
    code.hypercall(N::VCPU_OP, &[Op::INITIALISE.0, vcpu, context_of(vcpu)]).say();
    code.hypercall(N::VCPU_OP, &[Op::UP.0, vcpu]).say();
}

/// `test rax, rax`, and back to `to` where the last hypercall was refused.
fn again_if_refused(code: &mut Code, to: u64) {
    code.asm(|a| a.test(rax, rax)).jump(Condition::NotZero, to);
}

/// `dec r12`, and back to `to` until it is zero.
fn again_until_zero(code: &mut Code, to: u64) {
    code.asm(|a| a.dec(r12)).jump(Condition::NotZero, to);
}

/// `update_va_mapping` of an entry that lies at `entry`.
fn map(code: &mut Code, address: u64, entry: u64) {
    code.mov(Reg::Rdi, address).load(Reg::Rsi, entry).mov(Reg::Rdx, 2);
    code.mov(Reg::Rax, N::UPDATE_VA_MAPPING.0).asm(|a| a.syscall());
}

fn extended(code: &mut Code, at: u64) {
    code.hypercall(N::MMUEXT_OP, &[at, 1, 0, SELF]);
}

fn update(code: &mut Code, at: u64) {
    code.hypercall(N::MMU_UPDATE, &[at, 1, 0, SELF]);
}

/// All that vCPU 0 said is that its calls were carried out.
fn check_said(guest: &Guest, calls: usize) -> Result<(), Failed> {
    check(guest.said() == vec![0; calls], || format!("{:x?}", guest.said()))
}
