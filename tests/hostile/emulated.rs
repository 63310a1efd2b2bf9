//! Kernels and programs that execute what is carried out for kernels: as honest ones do, and to get at what is not theirs.

use crate::support::{check, kvm_test, skippable_kvm_test};
use crate::tiny_guest::{
    CODE, Code, Condition, Host, NONE, Reg, SCRATCH, STACK, TABLE, UNMAPPED, Via, check_power_off,
};
use hypervisor::domain::End;
use hypervisor::machine::kvm::KvmKind;
use iced_x86::code_asm::{byte_ptr, qword_ptr, rax, rbx};
use libtest_mimic::{Completion, Failed, Trial};
use pv_abi::Errno;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use pv_abi::page_table::Level;
use pv_abi::physdev::PhysdevOp;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::IretContext;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("emulated/what an honest kernel reads and writes", honest_kernel),
        kvm_test("emulated/control registers", control_registers),
        kvm_test("emulated/the FPU's next use", task_switched),
        skippable_kvm_test("emulated/a misaligned access", misaligned),
        kvm_test("emulated/states that XCR0 lets it use", extended_state),
        kvm_test("emulated/MSRs of the host", msrs),
        kvm_test("emulated/roots that are none", roots),
        kvm_test("emulated/by programs", by_programs),
        kvm_test("emulated/string output without end", endless_output),
        kvm_test("emulated/string input over everything", input_over_everything),
        kvm_test("emulated/instructions whose second page is gone", cut_off),
    ]
}

const PF: u64 = 14;
const GP: u64 = 13;
const NM: u64 = 7;
const AC: u64 = 17;

// One instruction each; those with a register have RAX.
const MOV_FROM_CR0: &[u8] = &[0x0f, 0x20, 0xc0];
const MOV_TO_CR0: &[u8] = &[0x0f, 0x22, 0xc0];
const MOV_FROM_CR2: &[u8] = &[0x0f, 0x20, 0xd0];
const MOV_TO_CR2: &[u8] = &[0x0f, 0x22, 0xd0];
const MOV_FROM_CR3: &[u8] = &[0x0f, 0x20, 0xd8];
const MOV_TO_CR3: &[u8] = &[0x0f, 0x22, 0xd8];
const MOV_FROM_CR4: &[u8] = &[0x0f, 0x20, 0xe0];
const MOV_TO_CR4: &[u8] = &[0x0f, 0x22, 0xe0];
const MOV_FROM_DR2: &[u8] = &[0x0f, 0x21, 0xd0];
const MOV_TO_DR2: &[u8] = &[0x0f, 0x23, 0xd0];
const RDMSR: &[u8] = &[0x0f, 0x32];
const WRMSR: &[u8] = &[0x0f, 0x30];
const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
const CLTS: &[u8] = &[0x0f, 0x06];
const WBINVD: &[u8] = &[0x0f, 0x09];
const INVD: &[u8] = &[0x0f, 0x08];
const CLI: &[u8] = &[0xfa];
const IN_EAX: &[u8] = &[0xed];
const OUT_AL: &[u8] = &[0xee];
const REP_INSB: &[u8] = &[0xf3, 0x6c];
const REP_OUTSB: &[u8] = &[0xf3, 0x6e];

const CR0: u64 = 0x8005_0033;
const TS: u64 = 1 << 3;

/// Takes the I/O privilege.
fn take_io_privilege(code: &mut Code) {
    let level = code.data(&1u32);
    code.hypercall(N::PHYSDEV_OP, &[PhysdevOp::SET_IOPL.0, level]).say();
}

/// `instruction` with RAX and RCX as given; says what it leaves in RAX.
fn value_of(code: &mut Code, in_rax: u64, in_rcx: u64, instruction: &[u8]) {
    code.mov(Reg::Rcx, in_rcx).mov(Reg::Rax, in_rax).raw(instruction).say();
}

fn honest_kernel() -> Result<(), Failed> {
    const MARK: u64 = 0x1122_3344_5566_7788;
    let mut code = Code::default();
    code.catch_faults();
    take_io_privilege(&mut code);
    value_of(&mut code, 0, 0, MOV_FROM_CR0);
    value_of(&mut code, CR0, 0, MOV_TO_CR0);
    code.mov(Reg::Rax, MARK).raw(MOV_TO_CR2);
    value_of(&mut code, 0, 0, MOV_FROM_CR2);
    // The same root once more.
    value_of(&mut code, 0, 0, MOV_FROM_CR3);
    code.raw(MOV_FROM_CR3).raw(MOV_TO_CR3);
    code.mov(Reg::Rax, 1 << 3).raw(MOV_TO_CR4);
    value_of(&mut code, 0, 0, MOV_FROM_CR4);
    code.mov(Reg::Rax, SCRATCH).raw(MOV_TO_DR2);
    value_of(&mut code, 0, 0, MOV_FROM_DR2);
    value_of(&mut code, MARK, 0xc000_0080, RDMSR);
    value_of(&mut code, MARK, 0x277, RDMSR);
    // GS base, whose lower half is read back, and through which a word is.
    let word = code.data(&MARK);
    code.mov(Reg::Rdx, word >> 32).mov(Reg::Rcx, 0xc000_0101).mov(Reg::Rax, word).raw(WRMSR);
    value_of(&mut code, 0, 0xc000_0101, RDMSR);
    code.asm(|a| a.mov(rax, qword_ptr(0u64).gs())).say();
    // The programs' is another one.
    code.mov(Reg::Rdx, 0).mov(Reg::Rcx, 0xc000_0102).mov(Reg::Rax, 0x5000).raw(WRMSR);
    value_of(&mut code, 0, 0xc000_0102, RDMSR);
    code.asm(|a| a.mov(rax, qword_ptr(0u64).gs())).say();
    for instruction in [CLTS, WBINVD, INVD, CLI] {
        code.attempt(0, instruction);
    }
    code.mov(Reg::Rdx, 0x43);
    value_of(&mut code, MARK, 0, IN_EAX);
    // String input, over the word in scratch.
    code.mov(Reg::Rdx, 0x60).mov(Reg::Rdi, SCRATCH + 8).mov(Reg::Rcx, 5).raw(REP_INSB);
    code.load(Reg::Rax, SCRATCH + 8).say();
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let root = guest.built.root.address();
    let bases = [word & 0xffff_ffff, MARK, 0x5000, MARK];
    let expected: Vec<u64> = [0, CR0, CR0, MARK, root, 0x668, SCRATCH, 0xd01, 0x0007_0406]
        .into_iter()
        .chain(bases)
        .chain([NONE; 4])
        .chain([0xffff_ff00, 0xff_ffff_ffff])
        .collect();
    check(guest.said() == expected, || format!("{:x?} and not {expected:x?}", guest.said()))?;
    host.finish()
}

/// While TS is set the FPU's next use is #NM, and then no more; the canary, on the same pcpu, never gets one. Where the host
/// raises none, TS cannot be set.
fn task_switched() -> Result<(), Failed> {
    const FNOP: &[u8] = &[0xd9, 0xd0];
    let mut code = Code::default();
    code.catch_faults();
    // By the hypercall and by the instruction; used at once, and when the canary has had the pcpu.
    for _ in 0..3 {
        code.hypercall(N::FPU_TASKSWITCH, &[1]).say();
        value_of(&mut code, 0, 0, MOV_FROM_CR0);
        code.attempt(0, FNOP);
        value_of(&mut code, 0, 0, MOV_FROM_CR0);
        code.attempt(0, FNOP);
        code.attempt(CR0 | TS, MOV_TO_CR0);
        code.hypercall(N::SCHED_OP, &[0]);
        code.attempt(0, FNOP);
        code.attempt(CR0 | TS, MOV_TO_CR0).attempt(0, CLTS).attempt(0, FNOP);
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let expected = match host.kvm {
        KvmKind::Hardware => [0, CR0 | TS, NM, CR0, NONE, NONE, NM, NONE, NONE, NONE],
        KvmKind::Software => [Errno::ENOSYS.to_return(), CR0, NONE, CR0, NONE, GP, NONE, GP, NONE, NONE],
    };
    check(guest.said() == expected.repeat(3), || format!("{:x?} and not {expected:x?}", guest.said()))?;
    host.finish()
}

/// As CR0.AM says, which the kernel sees: #AC is for whoever sets AC.
fn misaligned() -> Result<Completion, Failed> {
    const LOAD: &[u8] = &[0x48, 0x8b, 0x47, 0x01]; // mov rax, [rdi + 1]
    const FLIP_AC: &[u8] = &[0x9c, 0x81, 0x34, 0x24, 0, 0, 4, 0, 0x9d]; // pushf; xor dword [rsp], 1 << 18; popf
    let mut code = Code::default();
    code.catch_faults();
    code.mov(Reg::Rdi, SCRATCH).attempt(0, LOAD);
    code.raw(FLIP_AC).mov(Reg::Rdi, SCRATCH).attempt(0, LOAD);
    // Whoever handles it has AC clear.
    code.mov(Reg::Rdi, SCRATCH).attempt(0, LOAD);
    code.power_off();
    let host = Host::new()?;
    let kvm = host.kvm;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    host.finish()?;
    if kvm == KvmKind::Hardware && said == [NONE; 3] {
        return Ok(Completion::ignored_with("QEMU's processor raises no #AC"));
    }
    check(said == [NONE, AC, NONE], || format!("{said:x?}"))?;
    Ok(Completion::Completed)
}

/// Nothing switches paging off, or protection, or what guards the stub; and the kernel goes on as before.
fn control_registers() -> Result<(), Failed> {
    const ALL: [u64; 2] = [0, u64::MAX];
    let mut code = Code::default();
    code.catch_faults();
    let mut attempts = 0;
    for bit in [0, 1, 2, 4, 5, 16, 17, 18, 29, 30, 31, 32, 63] {
        code.attempt(CR0 ^ 1 << bit, MOV_TO_CR0);
        attempts += 1;
    }
    for value in ALL {
        code.attempt(value, MOV_TO_CR0);
        code.attempt(value, &[0x44, 0x0f, 0x22, 0xc0]); // mov cr8, rax
        attempts += 2;
    }
    // Of XCR0 and its like, without CR4.OSXSAVE and with.
    for cr4 in [0, 1 << 18] {
        code.mov(Reg::Rax, cr4).raw(MOV_TO_CR4);
        for (index, value) in [(0, 0), (0, 2), (0, u64::MAX), (1, 3), (u64::from(u32::MAX), 3)] {
            code.mov(Reg::Rcx, index).mov(Reg::Rdx, value >> 32).attempt(value, XSETBV);
            attempts += 1;
        }
    }
    // What is ignored: all of CR4 that is not the kernel's to choose.
    for value in ALL {
        code.mov(Reg::Rax, value).raw(MOV_TO_CR4);
        value_of(&mut code, 0, 0, MOV_FROM_CR4);
    }
    // The kernel still runs at CPL3 on its own tables.
    code.attempt(0, &[0xf4]).attempt(0, &[0x0f, 0x01, 0x17]); // hlt; lgdt [rdi]
    code.mov(Reg::Rax, 7).store(SCRATCH, Reg::Rax).load(Reg::Rax, SCRATCH).say().power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    let (refused, rest) = said.split_at(attempts);
    // #UD where the processor has no XSAVE.
    check(refused.iter().all(|vector| matches!(*vector, GP | 6)), || format!("{refused:x?}"))?;
    let chosen = 1 << 3 | 1 << 16 | 1 << 18;
    check(rest[0] == 0x660 && rest[1] & !chosen == 0x660, || format!("CR4: {rest:x?}"))?;
    check(rest[2..] == [GP, GP, 7], || format!("{rest:x?}"))?;
    host.finish()
}

/// A vCPU without the vector registers' upper halves, and one that changes its mind all the time: where the processor has
/// XSAVE, both are carried out, and the canary keeps what it has in its registers.
fn extended_state() -> Result<(), Failed> {
    const ROUNDS: u64 = 50;
    let mut code = Code::default();
    code.catch_faults();
    code.mov(Reg::Rax, 1 << 18).raw(MOV_TO_CR4).mov(Reg::Rbx, ROUNDS);
    let again = code.here();
    for value in [3, 1, 7, 3] {
        code.mov(Reg::Rcx, 0).mov(Reg::Rdx, 0).attempt(value, XSETBV);
        code.hypercall(N::SCHED_OP, &[0]);
    }
    code.asm(|a| a.dec(rbx)).jump(Condition::NotZero, again);
    code.power_off();
    let host = Host::new()?;
    let policy = &host.hypervisor.services().cpuid;
    let (has_xsave, has_avx) = (policy.cpuid(1, 0)[2] >> 26 & 1 == 1, policy.cpuid(0xd, 0)[0] & 4 != 0);
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    check(said.len() as u64 == 4 * ROUNDS, || format!("{} said", said.len()))?;
    for four in said.chunks(4) {
        let taken = [0, 1, 3].iter().all(|&index| (four[index] == NONE) == has_xsave);
        check(taken && (four[2] == NONE) == (has_xsave && has_avx), || format!("{four:x?}"))?;
    }
    host.finish()
}

/// Reading and writing each is #GP: entries, the TSC, microcode, mitigations, SMM, KVM's and Hyper-V's own, and what lies
/// behind them.
fn msrs() -> Result<(), Failed> {
    let hosts = [
        0,
        0x10,
        0x3a,
        0x3b,
        0x48,
        0x49,
        0x79,
        0x9b,
        0x10a,
        0x10b,
        0x122,
        0x174,
        0x175,
        0x176,
        0x200,
        0x2ff,
        0x400,
        0x480,
        0x600,
        0x6e0,
        0x802,
        0xda0,
        0x4000_0000,
        0x4b56_4d00,
        0x4b56_4d01,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0103,
        0xc001_0010,
        0xc001_0111,
        0xc001_0114,
        0xc001_0117,
        0xffff_ffff,
    ];
    let mut code = Code::default();
    code.catch_faults();
    for msr in hosts {
        code.mov(Reg::Rcx, msr).attempt(0, RDMSR);
        code.mov(Reg::Rcx, msr).mov(Reg::Rdx, 0).attempt(0, WRMSR);
    }
    // EFER without LMA, and with SVM; bases that are no addresses.
    for (msr, value) in [
        (0xc000_0080, 0x901),
        (0xc000_0080, 0x1d01),
        (0xc000_0100, 1 << 47),
        (0xc000_0101, 0xdead_beef_0000_0000),
        (0xc000_0102, 1 << 63),
    ] {
        code.mov(Reg::Rcx, msr).mov(Reg::Rdx, value >> 32).attempt(value & 0xffff_ffff, WRMSR);
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    check(said == vec![GP; hosts.len() * 2 + 5], || format!("{said:x?}"))?;
    host.finish()
}

/// CR3 takes no frame that is not a root of the guest's own, and goes on with the old one.
fn roots() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    let place = code.data(&[0u64; 4]);
    let fixed = [0, 1 << 12, u64::MAX, 1 << 63, 1 << 52, 0x7fff_ffff_f000];
    for value in fixed {
        code.attempt(value, MOV_TO_CR3);
    }
    for index in 0..4 {
        // mov rax, [at]; mov cr3, rax
        let at = (place + 8 * index) as u32;
        code.attempt(0, &[&[0x48, 0x8b, 0x04, 0x25][..], &at.to_le_bytes(), MOV_TO_CR3].concat());
    }
    code.raw(MOV_FROM_CR3).say().power_off();
    let host = Host::new()?;
    let guest = host.build(&code)?;
    let canary = host.canary();
    let wild = [canary.built.root, canary.mfn(CODE), guest.mfn(SCRATCH), guest.table(Level::L1, CODE)];
    for (index, mfn) in (0..).zip(wild) {
        guest.poke(place + 8 * index, &mfn.address());
    }
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let refused = vec![GP; fixed.len() + wild.len()];
    let expected: Vec<u64> = refused.into_iter().chain([guest.built.root.address()]).collect();
    check(guest.said() == expected, || format!("{:x?}", guest.said()))?;
    drop(guest);
    host.finish()
}

/// A program of a kernel that has the privilege gets none of what its kernel gets.
fn by_programs() -> Result<(), Failed> {
    let attempts = [
        MOV_FROM_CR0,
        MOV_TO_CR0,
        MOV_FROM_CR2,
        MOV_FROM_CR3,
        MOV_TO_CR3,
        MOV_FROM_CR4,
        MOV_TO_CR4,
        MOV_FROM_DR2,
        MOV_TO_DR2,
        RDMSR,
        WRMSR,
        CLTS,
        WBINVD,
        INVD,
        CLI,
        IN_EAX,
        OUT_AL,
        REP_INSB,
        REP_OUTSB,
        XSETBV,
    ];
    let mut code = Code::default();
    code.catch_faults();
    take_io_privilege(&mut code);
    let operation = code.data(&MmuExtOp::new(MmuExtCommand::NEW_USER_BASEPTR, 0));
    code.hypercall(N::MMUEXT_OP, &[operation, 1, 0, 0x7ff0]).say();
    for instruction in attempts {
        // What does nothing goes on to `int3`.
        let program = code.data([instruction, &[0xcc]].concat().as_slice());
        let (cs, ss) = (u64::from(FLAT_RING3_CS64), u64::from(FLAT_RING3_SS64));
        let (rip, rsp, rcx) = (program, STACK - 0x800, 0xc000_0101);
        let frame = IretContext { rax: CR0, r11: 0, rcx, flags: 0, rip, cs, rflags: 2, rsp, ss };
        let frame = code.data(&frame);
        code.mov(Reg::Rsi, SCRATCH).mov(Reg::Rdi, SCRATCH).mov(Reg::Rsp, frame);
        code.attempt(N::IRET.0, &Via::Syscall.bytes());
    }
    code.power_off();
    let host = Host::new()?;
    let guest = host.build(&code)?;
    guest.poke(operation + 8, &guest.built.root.0);
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let said = guest.said();
    let (calls, arrived) = said.split_at(2);
    check(calls == [0, 0] && arrived.len() == attempts.len(), || format!("{said:x?}"))?;
    check(arrived.iter().all(|vector| matches!(*vector, GP | 6)), || format!("{arrived:x?}"))?;
    drop(guest);
    host.finish()
}

/// 2^63 bytes are written to a port, out of a page that goes on for ever: the canary gets its share, and the guest can
/// be ended.
fn endless_output() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    take_io_privilege(&mut code);
    let again = code.here();
    code.resume_at(again).increment(SCRATCH);
    code.mov(Reg::Rcx, 1 << 63).mov(Reg::Rsi, TABLE).raw(REP_OUTSB).jump(Condition::Always, again);
    let host = Host::new()?;
    let guest = host.build(&code)?;
    guest.start()?;
    guest.wait_for(|| guest.peek(SCRATCH) >= 2)?;
    for _ in 0..3 {
        host.canary_goes_on()?;
    }
    check(!guest.domain.life().has_ended(), || "it has ended".into())?;
    let end = guest.destroy()?;
    check(matches!(end, End::Destroyed), || format!("it ended otherwise: {end}"))?;
    host.finish()
}

/// Input is stored up to where memory ends, and nowhere in tables, in the hypervisor's range or at what is no address.
fn input_over_everything() -> Result<(), Failed> {
    let host = Host::new()?;
    let probe = host.build(&Code::default())?;
    let tables = probe.plan.address(probe.plan.table_frames.start);
    probe.destroy()?;
    let mut code = Code::default();
    code.catch_faults();
    take_io_privilege(&mut code);
    let wild = [
        (tables, PF),
        (UNMAPPED, PF),
        (0, PF),
        (0xffff_8080_0000_0000, PF),
        (0xffff_8000_0000_0000, PF),
        (1 << 47, GP),
        (0xffff_7fff_ffff_fff8, GP),
        (UNMAPPED - 0x1800, PF),
    ];
    for (address, _) in wild {
        code.mov(Reg::Rcx, 1 << 63).mov(Reg::Rdx, 0x60).mov(Reg::Rdi, address).attempt(0, REP_INSB);
    }
    code.power_off();
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    let expected: Vec<u64> = [0].into_iter().chain(wild.map(|(_, vector)| vector)).collect();
    check(said == expected, || format!("{said:x?}"))?;
    drop(guest);
    host.finish()
}

/// The guest's last page ends within an instruction: whatever of it is missing, it is not carried out.
fn cut_off() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    for cut in 1..3 {
        let at = UNMAPPED - cut;
        let (first, _) = MOV_TO_CR2.split_at(cut as usize);
        for (offset, byte) in (0..).zip(first) {
            code.asm(|a| a.mov(byte_ptr(at + offset), u32::from(*byte)));
        }
        code.attempt(at, &[0xff, 0xe0]); // jmp rax
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    // A processor may see that an instruction is privileged before it has fetched all of it.
    let said = guest.said();
    check(said.len() == 2 && said.iter().all(|&vector| matches!(vector, PF | GP)), || format!("{said:x?}"))?;
    host.finish()
}
