//! Kernels that are no kernels: random bytes, and instructions that mean something to a hypervisor.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Condition, Host, NONE, Random, Reg, SCRATCH, Via, check_power_off};
use iced_x86::code_asm::{
    eax, ecx, r11, rax, rcx, ss, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11,
    xmm12, xmm13, xmm14, xmm15, xmmword_ptr,
};
use libtest_mimic::{Failed, Trial};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::segment::FLAT_RING3_CS64;
use pv_abi::trap::TrapInfo;
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("garbage/random bytes", random_bytes),
        kvm_test("garbage/instructions for hypervisors", instructions_for_hypervisors),
        kvm_test("garbage/of others in the registers", registers_of_others),
        kvm_test("garbage/debug registers", debug_registers),
        kvm_test("garbage/single steps through everything", single_steps),
    ]
}

/// Most seeds crash within microseconds; those that loop are ended. Half of them have handlers for their faults,
/// which go on in the garbage.
fn random_bytes() -> Result<(), Failed> {
    let host = Host::new()?;
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let mut code = Code::default();
        if seed % 2 == 1 {
            code.catch_faults();
            let garbage = code.here() + 64;
            code.resume_at(garbage);
        }
        let length = 0x7000;
        code.raw(&random.bytes(length));
        let guest = host.build(&code)?;
        guest.start()?;
        guest.wait_or_destroy(Duration::from_millis(30))?;
        host.canary_goes_on().map_err(|error| format!("seed {seed}: {error:?}"))?;
    }
    host.finish()
}

/// `vmcall` and its kin do nothing, or raise an exception; none of them ends anything.
fn instructions_for_hypervisors() -> Result<(), Failed> {
    let instructions: [(&str, &[u8]); 14] = [
        ("vmcall", &[0x0f, 0x01, 0xc1]),
        ("vmmcall", &[0x0f, 0x01, 0xd9]),
        ("vmlaunch", &[0x0f, 0x01, 0xc2]),
        ("vmxoff", &[0x0f, 0x01, 0xc4]),
        ("vmrun", &[0x0f, 0x01, 0xd8]),
        ("vmload", &[0x0f, 0x01, 0xda]),
        ("stgi", &[0x0f, 0x01, 0xdc]),
        ("vmread rax, rax", &[0x0f, 0x78, 0xc0]),
        ("rsm", &[0x0f, 0xaa]),
        ("monitor", &[0x0f, 0x01, 0xc8]),
        ("mwait", &[0x0f, 0x01, 0xc9]),
        ("sysenter", &[0x0f, 0x34]),
        ("hlt", &[0xf4]),
        ("mov cr8, rax", &[0x44, 0x0f, 0x22, 0xc0]),
    ];
    let mut code = Code::default();
    code.catch_faults();
    for (_, instruction) in instructions {
        for value in [0, u64::MAX, CODE] {
            code.attempt(value, instruction);
        }
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    check(said.len() == 3 * instructions.len(), || format!("not all were tried: {said:x?}"))?;
    for ((name, _), arrived) in instructions.iter().zip(said.chunks(3)) {
        let harmless = name.starts_with("vm") && name.ends_with("call");
        let refused = |vector: &u64| matches!(vector, 6 | 13) || harmless && *vector == NONE;
        check(arrived.iter().all(refused), || format!("{name}: {arrived:x?}"))?;
    }
    host.finish()
}

/// No breakpoint is armed that code at CPL0 could meet: at the hypervisor's addresses, on I/O, on the registers.
fn debug_registers() -> Result<(), Failed> {
    const EPERM: i64 = -1;
    const EINVAL: i64 = -22;
    let cases = [
        (0, 0xffff_8080_0000_1000, EPERM),
        (3, 0x8000_0000_0000, EPERM),
        (7, 0x2400, EPERM),
        (7, 0x0002_0402, EPERM),
        (7, 0xffff_ffff_0000_0400, EINVAL),
        (6, 0x1_0000_0000, EINVAL),
        (0, SCRATCH, 0),
        (7, 0, 0),
    ];
    let mut code = Code::default();
    code.catch_faults();
    for (register, value, _) in cases {
        code.hypercall(N::SET_DEBUGREG, &[register, value]).say();
    }
    // The instructions ask the same check: mov dr0, rax; mov dr7, rax; mov rax, dr7
    let by_mov = [([0x0f, 0x23, 0xc0], NONE), ([0x0f, 0x23, 0xf8], 13), ([0x0f, 0x21, 0xf8], NONE)];
    for (instruction, _) in by_mov {
        code.attempt(u64::MAX, &instruction);
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    let expected = cases.iter().map(|case| case.2 as u64).chain(by_mov.map(|(_, arrives)| arrives));
    check(said.iter().copied().eq(expected), || {
        format!("{:?}", said.iter().map(|&w| w as i64).collect::<Vec<_>>())
    })?;
    host.finish()
}

/// A kernel that traps after every instruction, hypercalls by both gates and faults among them: it gets as far as
/// any other, and each step arrives in its own handler and nowhere else.
fn single_steps() -> Result<(), Failed> {
    const STEPS: u64 = SCRATCH;
    let mut code = Code::default();
    // The handler comes first: its address must be known.
    let skip = code.here();
    code.jump(Condition::Always, skip + 5 + 29);
    let handler = code.here();
    code.increment(STEPS);
    // The frame has RCX and R11 on top, and an iret frame wants RAX, R11, RCX and flags there.
    code.asm(|a| {
        a.pop(rcx)?;
        a.pop(r11)?;
        a.push(0)?;
        a.push(rcx)?;
        a.push(r11)?;
        a.push(rax)?;
        a.mov(eax, N::IRET.0 as u32)?;
        a.syscall()
    });
    code.raw(&[0x90; 5]);
    assert_eq!(code.here(), handler + 29);
    code.catch_faults();
    let debug = TrapInfo { vector: 1, flags: 0, cs: FLAT_RING3_CS64, padding: 0, address: handler };
    let debug = code.data([debug, TrapInfo::default()].as_slice());
    code.hypercall(N::SET_TRAP_TABLE, &[debug]);
    code.asm(|a| {
        a.push(0x302)?;
        a.popfq()
    });
    for _ in 0..10 {
        code.asm(|a| {
            a.nop()?;
            a.mov(eax, ss)?;
            a.mov(ss, eax)?;
            a.xor(ecx, ecx)
        });
        for gate in [Via::Syscall, Via::Doorbell] {
            code.hypercall_via(gate, N::XEN_VERSION.0, &[0, 0]);
        }
        code.asm(|a| {
            a.xor(eax, eax)?;
            a.cpuid()
        });
    }
    code.asm(|a| {
        a.push(2)?;
        a.popfq()
    });
    code.load(Reg::Rax, STEPS).say().power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    check(said.len() == 1 && (100..200).contains(&said[0]), || format!("steps: {said:?}"))?;
    host.finish()
}

/// A domain starts with nothing in its registers but what the ABI puts there, though the canary has just filled them.
fn registers_of_others() -> Result<(), Failed> {
    const SAVED: u64 = SCRATCH + 0x800;
    use Reg::{R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx};
    let registers = [Rax, Rcx, Rdx, Rbx, Rbp, Rdi, R8, R9, R10, R11, R12, R13, R14, R15];
    let mut code = Code::default();
    for (index, register) in (0..).zip(registers) {
        code.store(SAVED + 8 * index, register);
    }
    let vectors = SAVED + 8 * registers.len() as u64;
    let registers = [
        xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14, xmm15,
    ];
    for (register, number) in registers.into_iter().zip(0..) {
        code.asm(|a| a.movups(xmmword_ptr(vectors + 16 * number), register));
    }
    code.park();
    let host = Host::new()?;
    let guest = host.build(&code)?;
    guest.start()?;
    guest.wait_until_parked()?;
    let words: Vec<u64> =
        (0..registers.len() as u64 + 32).map(|index| guest.peek(SAVED + 8 * index)).collect();
    check(words.iter().all(|&word| word == 0), || format!("{words:x?}"))?;
    guest.destroy()?;
    host.finish()
}
