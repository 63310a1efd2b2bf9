//! Steps as they are decided: no machine, no memory.

use crate::cpuid::CpuidPolicy;
use crate::emulate::decode::decode;
use crate::emulate::step::{Effect, Trapped};
use crate::emulate::table::{Rule, TABLE, find};
use crate::machine::Registers;
use crate::vcpu::{Mode, Vcpu};
use pv_abi::trap::{TrapInfo, Vector};
use pv_abi::{DomId, Mfn, VcpuId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A processor with XSAVE, AVX-512 and FSGSBASE.
#[derive(Debug)]
struct Processor(&'static [u8; 4]);

impl CpuidPolicy for Processor {
    fn cpuid(&self, leaf: u32, _: u32) -> [u32; 4] {
        match leaf {
            0 => [0xd, u32::from_le_bytes(*self.0), 0, 0],
            1 => [0, 0, 1 << 26, 0],
            7 => [0, 1, 0, 0],
            0xd => [0xe7, 0, 0, 0],
            _ => [0; 4],
        }
    }
}

const INTEL: Processor = Processor(b"Genu");
const AMD: Processor = Processor(b"Auth");
const CR0: u64 = 0x8005_0033;
const TS: u64 = 8;
const OSXSAVE: u64 = 1 << 18;
const EFER: u64 = 0xc000_0080;

fn vcpu() -> Vcpu {
    let mut vcpu = Vcpu::new(DomId(1), VcpuId(0), 1, Arc::default());
    vcpu.context.registers.rflags = 0x202;
    vcpu
}

fn program() -> Vcpu {
    let mut vcpu = vcpu();
    vcpu.mode = Mode::User;
    vcpu
}

/// What comes of `code` after #GP, on that processor.
fn on(policy: &Processor, vcpu: &Vcpu, code: &[u8]) -> Option<(Registers, Effect)> {
    let instruction = decode(code, &vcpu.context)?;
    assert_eq!(instruction.len(), code.len(), "{code:x?}");
    let vector = Vector::GENERAL_PROTECTION;
    Trapped { instruction: &instruction, vector, vcpu, cr2: 0xdead_b000, policy, raises_nm: true }.step()
}

fn step(vcpu: &Vcpu, code: &[u8]) -> Option<(Registers, Effect)> {
    on(&INTEL, vcpu, code)
}

/// `mov rbx, crN` or `mov rbx, drN`: RBX, where only that changes.
fn moved(vcpu: &Vcpu, code: [u8; 3]) -> Option<u64> {
    let (after, effect) = step(vcpu, &code)?;
    assert_eq!(effect, Effect::Registers);
    assert_eq!(after, Registers { rbx: after.rbx, ..vcpu.context.registers }, "{code:x?}");
    Some(after.rbx)
}

fn read_cr(vcpu: &Vcpu, number: u8) -> Option<u64> {
    moved(vcpu, [0x0f, 0x20, 0xc3 | number << 3])
}

/// The effect of an instruction with RBX as it is, which leaves all registers alone.
fn written(vcpu: &mut Vcpu, rbx: u64, code: &[u8]) -> Option<Effect> {
    vcpu.context.registers.rbx = rbx;
    let (after, effect) = step(vcpu, code)?;
    assert_eq!(after, vcpu.context.registers, "{code:x?}");
    Some(effect)
}

fn write_cr(vcpu: &mut Vcpu, number: u8, value: u64) -> Option<Effect> {
    written(vcpu, value, &[0x0f, 0x22, 0xc3 | number << 3])
}

fn write_dr(vcpu: &mut Vcpu, number: u8, value: u64) -> Option<Effect> {
    written(vcpu, value, &[0x0f, 0x23, 0xc3 | number << 3])
}

fn with_rcx_and_value(vcpu: &mut Vcpu, rcx: u64, value: u64) {
    // The upper halves do not matter.
    let registers = &mut vcpu.context.registers;
    registers.rcx = rcx | 0x1111 << 32;
    (registers.rax, registers.rdx) = (value & 0xffff_ffff | 0x2222 << 32, value >> 32 | 0x3333 << 32);
}

fn rdmsr(policy: &Processor, vcpu: &mut Vcpu, number: u64) -> Option<u64> {
    with_rcx_and_value(vcpu, number, 0x5555_5555_5555_5555);
    let (after, effect) = on(policy, vcpu, &[0x0f, 0x32])?;
    assert_eq!(effect, Effect::Registers);
    let (rax, rdx) = (after.rax, after.rdx);
    assert_eq!(after, Registers { rax, rdx, ..vcpu.context.registers });
    assert_eq!((rax >> 32, rdx >> 32), (0, 0), "all of RAX and RDX is written");
    Some(rdx << 32 | rax)
}

fn wrmsr(vcpu: &mut Vcpu, number: u64, value: u64) -> Option<Effect> {
    with_rcx_and_value(vcpu, number, value);
    let (after, effect) = step(vcpu, &[0x0f, 0x30])?;
    assert_eq!(after, vcpu.context.registers);
    Some(effect)
}

fn xsetbv(vcpu: &mut Vcpu, index: u64, value: u64) -> Option<Effect> {
    with_rcx_and_value(vcpu, index, value);
    step(vcpu, &[0x0f, 0x01, 0xd1]).map(|(_, effect)| effect)
}

/// One encoding of each row's first code, and one of each other code.
const ENCODINGS: &[&[u8]] = &[
    &[0xcd, 0x80],
    &[0x0f, 0x05],
    &[0x0f, 0x34],
    &[0x0f, 0xa2],
    &[0xfa],
    &[0xfb],
    &[0xe4, 0x10],
    &[0x66, 0xe5, 0x10],
    &[0xe5, 0x10],
    &[0xec],
    &[0x66, 0xed],
    &[0xed],
    &[0xe6, 0x10],
    &[0x66, 0xe7, 0x10],
    &[0xe7, 0x10],
    &[0xee],
    &[0x66, 0xef],
    &[0xef],
    &[0x6c],
    &[0x66, 0x6d],
    &[0x6d],
    &[0x6e],
    &[0x66, 0x6f],
    &[0x6f],
    &[0x0f, 0x20, 0xc3],
    &[0x0f, 0x22, 0xd3],
    &[0x0f, 0x21, 0xc3],
    &[0x0f, 0x23, 0xc3],
    &[0x0f, 0x01, 0xd1],
    &[0x0f, 0x06],
    &[0x0f, 0x09],
    &[0xf3, 0x0f, 0x09],
    &[0x0f, 0x08],
    &[0x0f, 0x32],
    &[0x0f, 0x30],
];

#[test]
fn every_code_has_one_row_and_an_encoding_here() {
    let all: Vec<_> = TABLE.iter().flat_map(|row| row.codes).collect();
    for code in &all {
        assert_eq!(all.iter().filter(|other| *other == code).count(), 1, "{code:?}");
        assert!(find(**code).is_some_and(|row| row.codes.contains(code)));
    }
    let context = vcpu().context;
    let here = ENCODINGS.iter().map(|bytes| decode(bytes, &context).unwrap().code());
    let here: Vec<_> = here.collect();
    assert!(all.iter().all(|code| here.contains(code)) && here.len() == all.len(), "{all:?} {here:?}");
}

/// Whatever a program's registers hold, what is for its kernel stays the fault that it was.
#[test]
fn programs_get_nothing_of_the_kernels() {
    let mut asked = 0;
    for &code in ENCODINGS {
        let mut vcpu = program();
        vcpu.cr4 = OSXSAVE;
        vcpu.context.registers.rbx = CR0;
        let rule = find(decode(code, &vcpu.context).unwrap().code()).unwrap().rule;
        for index in [0, EFER, 0xc000_0101] {
            with_rcx_and_value(&mut vcpu, index, 0xd01);
            if rule != Rule::Anybody {
                assert_eq!(step(&vcpu, code), None, "{code:x?}");
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 3 * (ENCODINGS.len() - 4));
}

/// The virtual privilege level: 1 for the kernel, or 0 where it asked for that, and 3 for its programs.
#[test]
fn io_is_for_whom_the_virtual_privilege_level_lets() {
    for (mode, architectural, allowed_from) in
        [(Mode::Kernel, false, 1), (Mode::Kernel, true, 0), (Mode::User, false, 3), (Mode::User, true, 3)]
    {
        for iopl in 0..=3 {
            let mut vcpu = vcpu();
            (vcpu.mode, vcpu.iopl) = (mode, iopl);
            vcpu.assists.store(u64::from(architectural) << 4, Ordering::Relaxed);
            for code in [&[0xfa][..], &[0xfb], &[0xe4, 0x10], &[0xee], &[0x6c], &[0x6e], &[0xed]] {
                let allowed = iopl >= allowed_from;
                assert_eq!(step(&vcpu, code).is_some(), allowed, "{mode:?} {architectural} {iopl} {code:x?}");
            }
        }
    }
}

#[test]
fn software_interrupts_ask_the_same_level() {
    for (mode, architectural, lowest) in
        [(Mode::Kernel, false, 1), (Mode::Kernel, true, 0), (Mode::User, true, 3)]
    {
        for dpl in 0..=3 {
            let mut vcpu =
                Vcpu::new(DomId(1), VcpuId(0), 1, Arc::new(AtomicU64::new(u64::from(architectural) << 4)));
            vcpu.mode = mode;
            vcpu.traps.set(TrapInfo { vector: 0x80, flags: dpl, address: 1, ..TrapInfo::default() });
            let refused = Effect::Fault { vector: Vector::GENERAL_PROTECTION, error_code: 0x402 };
            let expected = if dpl >= lowest { Effect::Interrupt(0x80) } else { refused };
            assert_eq!(step(&vcpu, &[0xcd, 0x80]).unwrap().1, expected, "{mode:?} {architectural} {dpl}");
        }
    }
}

#[test]
fn control_registers_read_as_a_pv_guest_has_them() {
    let mut vcpu = vcpu();
    assert_eq!(read_cr(&vcpu, 0), Some(CR0));
    assert_eq!(read_cr(&vcpu, 2), Some(0xdead_b000));
    assert_eq!(read_cr(&vcpu, 3), None, "no root yet");
    assert_eq!(read_cr(&vcpu, 4), Some(0x660));
    for number in [1, 5, 6, 7] {
        assert_eq!(read_cr(&vcpu, number), None, "CR{number}");
    }
    assert_eq!(step(&vcpu, &[0x44, 0x0f, 0x20, 0xc0]), None, "mov rax, cr8");
    vcpu.cr4 = !0;
    assert_eq!(read_cr(&vcpu, 4), Some(0x660 | 1 << 3 | 1 << 16 | OSXSAVE));
}

/// Neither paging nor protection is switched off, and TS cannot be set.
#[test]
fn cr0_is_what_it_was() {
    let mut vcpu = vcpu();
    for ts in [0, TS] {
        assert_eq!(write_cr(&mut vcpu, 0, CR0 | ts), Some(Effect::TaskSwitched(ts != 0)));
        for bit in (0..64).filter(|&bit| 1 << bit != TS) {
            assert_eq!(write_cr(&mut vcpu, 0, (CR0 | ts) ^ 1 << bit), None, "bit {bit}");
        }
    }
    for value in [0, TS, u64::MAX, 1] {
        assert_eq!(write_cr(&mut vcpu, 0, value), None);
    }
}

/// A kernel that was not told of the FPU's next use would mix up the states of its programs.
#[test]
fn ts_is_the_kernels_own_where_the_machine_raises_nm() {
    for task_switched in [false, true] {
        let mut vcpu = vcpu();
        vcpu.context.task_switched = task_switched;
        assert_eq!(read_cr(&vcpu, 0), Some(CR0 | if task_switched { TS } else { 0 }));
        let clts = step(&vcpu, &[0x0f, 0x06]);
        assert_eq!(clts, Some((vcpu.context.registers, Effect::TaskSwitched(false))));
        for (value, raises_nm, expected) in [
            (CR0 | TS, true, Some(Effect::TaskSwitched(true))),
            (CR0 | TS, false, None),
            (CR0, true, Some(Effect::TaskSwitched(false))),
            (CR0, false, Some(Effect::TaskSwitched(false))),
        ] {
            vcpu.context.registers.rbx = value;
            let instruction = decode(&[0x0f, 0x22, 0xc3], &vcpu.context).unwrap(); // mov cr0, rbx
            let (vector, policy) = (Vector::GENERAL_PROTECTION, &INTEL);
            let trapped =
                Trapped { instruction: &instruction, vector, vcpu: &vcpu, cr2: 0, policy, raises_nm };
            assert_eq!(trapped.step().map(|(_, effect)| effect), expected, "{value:#x} {raises_nm}");
        }
    }
}

#[test]
fn other_control_registers_are_written_or_refused() {
    let mut vcpu = vcpu();
    assert_eq!(write_cr(&mut vcpu, 2, 0x1234), Some(Effect::Cr2(0x1234)));
    // The lowest bits are about caches.
    assert_eq!(write_cr(&mut vcpu, 3, 0x7018), Some(Effect::Root(Mfn(7))));
    assert_eq!(write_cr(&mut vcpu, 4, !0), Some(Effect::Cr4(!0)));
    for number in [1, 5, 6, 7] {
        assert_eq!(write_cr(&mut vcpu, number, 0), None, "CR{number}");
    }
    assert_eq!(written(&mut vcpu, 0, &[0x44, 0x0f, 0x22, 0xc3]), None, "mov cr8, rbx");
}

#[test]
fn debug_registers_are_those_of_the_hypercalls() {
    let mut vcpu = vcpu();
    for (number, address) in (0..).zip([1, 2, 3, 4]) {
        vcpu.set_debug_register(number, address).unwrap();
    }
    let unset = vcpu.breakpoints();
    let set = |number, value| {
        let mut set = unset;
        set.set(number, value, !0).unwrap();
        Some(Effect::Breakpoints(set))
    };
    let read = |vcpu: &Vcpu, number: u8| moved(vcpu, [0x0f, 0x21, 0xc3 | number << 3]);
    for (number, value) in [(0, 1), (1, 2), (2, 3), (3, 4), (6, 0xffff_0ff0), (7, 0x400)] {
        assert_eq!(read(&vcpu, number), Some(value), "DR{number}");
    }
    for (number, meant) in [(4, 6), (5, 7)] {
        assert_eq!(read(&vcpu, number), read(&vcpu, meant), "DR{number}");
        assert_eq!(write_dr(&mut vcpu, number, 1), write_dr(&mut vcpu, meant, 1), "DR{number}");
    }
    assert_eq!(write_dr(&mut vcpu, 2, 0x5000), set(2, 0x5000));
    assert_eq!(write_dr(&mut vcpu, 6, 0x4000), set(6, 0x4000));
    const ON_IO: u64 = 0x0002_0401;
    let refused = [(0, 1 << 47), (3, 0xffff_8080_0000_0000), (6, 1 << 32), (7, 1 << 32), (7, 1 << 13)];
    for (number, value) in refused.into_iter().chain([(7, ON_IO)]) {
        assert_eq!(write_dr(&mut vcpu, number, value), None, "DR{number} {value:#x}");
    }
    vcpu.cr4 = 1 << 3; // DE
    let undefined = Some(Effect::Fault { vector: Vector::INVALID_OPCODE, error_code: 0 });
    assert_eq!(step(&vcpu, &[0x0f, 0x21, 0xe3]).map(|(_, effect)| effect), undefined, "mov rbx, dr4");
    assert_eq!(write_dr(&mut vcpu, 5, 0x400), undefined);
    assert_eq!(write_dr(&mut vcpu, 7, ON_IO), set(7, ON_IO));
    assert_eq!(write_dr(&mut vcpu, 7, ON_IO | 1 << 13), None);
}

#[test]
fn xcr0_is_among_what_the_machine_offers() {
    let mut vcpu = vcpu();
    assert_eq!(xsetbv(&mut vcpu, 0, 7), None, "before CR4.OSXSAVE");
    vcpu.cr4 = OSXSAVE;
    for value in [1, 3, 7, 0xe7] {
        assert_eq!(xsetbv(&mut vcpu, 0, value), Some(Effect::Xcr0(value)), "{value:#x}");
        assert_eq!(xsetbv(&mut vcpu, 1, value), None, "no other register");
    }
    for value in [0, 2, 5, 6, 0x17, 0x1f, 0x27, 0xe3, 0x207, 1 << 63 | 7, u64::MAX] {
        assert_eq!(xsetbv(&mut vcpu, 0, value), None, "{value:#x}");
    }
}

#[test]
fn segment_bases_are_those_of_their_mode() {
    let mut vcpu = vcpu();
    (vcpu.context.fs_base, vcpu.context.gs_base, vcpu.other_gs_base) = (1 << 40, 2 << 40, 3 << 40);
    for (number, old, effect) in [
        (0xc000_0100, 1 << 40, Effect::FsBase as fn(u64) -> Effect),
        (0xc000_0101, 2 << 40, Effect::GsBase),
        (0xc000_0102, 3 << 40, Effect::KernelGsBase),
    ] {
        assert_eq!(rdmsr(&INTEL, &mut vcpu, number), Some(old), "{number:#x}");
        for base in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
            assert_eq!(wrmsr(&mut vcpu, number, base), Some(effect(base)), "{number:#x} {base:#x}");
        }
        for base in [1 << 47, 1 << 63, 0x7fff_8000_0000_0000] {
            assert_eq!(wrmsr(&mut vcpu, number, base), None, "{number:#x} {base:#x}");
        }
    }
}

#[test]
fn other_msrs_read_as_for_a_pv_guest() {
    let mut vcpu = vcpu();
    for (number, intel, amd) in [
        (0x17, Some(0), None),
        (0x1b, Some(0xfee0_0900), Some(0xfee0_0900)),
        (0x8b, Some(1 << 32), Some(1)),
        (0x179, Some(0), Some(0)),
        (0x1a0, Some(0x1801), None),
        (0x277, Some(0x0501_0007_0406), Some(0x0501_0007_0406)),
        (EFER, Some(0xd01), Some(0xd01)),
        (0xc001_0015, None, Some(1 << 24)),
        (0xc001_1029, None, Some(2)),
    ] {
        assert_eq!(rdmsr(&INTEL, &mut vcpu, number), intel, "{number:#x}");
        assert_eq!(rdmsr(&AMD, &mut vcpu, number), amd, "{number:#x}");
    }
    vcpu.id = VcpuId(1);
    assert_eq!(rdmsr(&INTEL, &mut vcpu, 0x1b), Some(0xfee0_0800), "not the first");
}

/// The host's MSRs are none of a guest's: not the TSC's, those of entries, of mitigations, of KVM.
#[test]
fn msrs_of_the_host_are_refused() {
    let mut vcpu = vcpu();
    let hosts = [
        0,
        0x10,
        0x3a,
        0x3b,
        0x48,
        0x49,
        0xce,
        0xfe,
        0x10a,
        0x10b,
        0x174,
        0x175,
        0x176,
        0x200,
        0x2ff,
        0x400,
        0x6e0,
        0x800,
        0xda0,
        0x4b56_4d00,
        0x4b56_4d01,
        0x4000_0000,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0103,
        0xc001_0010,
        0xc001_0117,
        0xffff_ffff,
    ];
    for number in hosts {
        assert_eq!(rdmsr(&INTEL, &mut vcpu, number), None, "{number:#x}");
        assert_eq!(wrmsr(&mut vcpu, number, 0), None, "{number:#x}");
    }
}

#[test]
fn msrs_without_anything_behind_them_take_their_own_value_at_most() {
    let mut vcpu = vcpu();
    for (number, value) in
        [(EFER, 0xd01), (0x277, 0x0501_0007_0406), (0x1a0, 0x1801), (0x8b, 0), (0x17a, 0), (0x1d9, 0)]
    {
        assert_eq!(wrmsr(&mut vcpu, number, value), Some(Effect::Registers), "{number:#x}");
        for bit in 0..64 {
            assert_eq!(wrmsr(&mut vcpu, number, value ^ 1 << bit), None, "{number:#x} bit {bit}");
        }
    }
    for number in [0x17, 0x1b, 0x179] {
        let value = rdmsr(&INTEL, &mut vcpu, number).unwrap();
        assert_eq!(wrmsr(&mut vcpu, number, value), None, "{number:#x} cannot be written");
    }
}

/// Of the elements that an `in` reads, those at the timer chip are 0.
#[test]
fn ports_read_all_ones_but_the_timer_chips() {
    let mut vcpu = vcpu();
    vcpu.iopl = 1;
    for (port, read) in [
        (0x3f, 0x0000_00ff),
        (0x40, 0),
        (0x41, 0xff00_0000),
        (0x43, 0xffff_ff00),
        (0x44, u32::MAX),
        (0, u32::MAX),
        (0xffff, u32::MAX),
    ] {
        vcpu.context.registers.rdx = port | 0x1234_0000;
        vcpu.context.registers.rax = 0x1122_3344_5566_7788;
        for (code, size, rax) in [
            (&[0xed][..], 4, u64::from(read)),
            (&[0x66, 0xed], 2, 0x1122_3344_5566_0000 | u64::from(read & 0xffff)),
            (&[0xec], 1, 0x1122_3344_5566_7700 | u64::from(read & 0xff)),
        ] {
            let (after, effect) = step(&vcpu, code).unwrap();
            let ports = Effect::Ports { port: port as u16, size };
            assert_eq!((after.rax, effect), (rax, ports), "{port:#x} {code:x?}");
        }
        for (code, size) in [(&[0xef][..], 4), (&[0x66, 0xef], 2), (&[0xee], 1)] {
            let ports = Effect::Ports { port: port as u16, size };
            assert_eq!(step(&vcpu, code), Some((vcpu.context.registers, ports)), "{port:#x} {code:x?}");
        }
    }
    let of_immediate = Effect::Ports { port: 0x42, size: 1 };
    assert_eq!(step(&vcpu, &[0xe6, 0x42]), Some((vcpu.context.registers, of_immediate)), "out 0x42, al");
    assert_eq!(step(&vcpu, &[0xe4, 0x42]).unwrap().0.rax & 0xff, 0, "in al, 0x42");
}

#[test]
fn what_has_nothing_behind_it_changes_nothing() {
    let mut vcpu = vcpu();
    vcpu.iopl = 1;
    for code in [&[0xfa][..], &[0xfb], &[0x0f, 0x09], &[0x0f, 0x08]] {
        assert_eq!(step(&vcpu, code), Some((vcpu.context.registers, Effect::Registers)), "{code:x?}");
    }
}

/// What Xen refuses: loads of descriptor tables and tasks, gates, counters, and what ends or waits.
#[test]
fn everything_else_is_the_guests_own() {
    let mut vcpu = vcpu();
    vcpu.iopl = 3;
    for code in [
        &[0xf4][..],                     // hlt
        &[0x0f, 0x01, 0x17],             // lgdt [rdi]
        &[0x0f, 0x01, 0x1f],             // lidt [rdi]
        &[0x0f, 0x00, 0xd0],             // lldt ax
        &[0x0f, 0x00, 0xd8],             // ltr ax
        &[0x0f, 0x01, 0xf0],             // lmsw ax
        &[0x0f, 0x01, 0x3f],             // invlpg [rdi]
        &[0x0f, 0x01, 0xf8],             // swapgs
        &[0x48, 0xcf],                   // iretq
        &[0x48, 0x0f, 0x07],             // sysretq
        &[0x0f, 0x33],                   // rdpmc
        &[0x0f, 0x01, 0xd0],             // xgetbv, of a register that there is not
        &[0x0f, 0x01, 0xc8],             // monitor
        &[0x0f, 0x01, 0xc9],             // mwait
        &[0x48, 0xff, 0x1f],             // call far [rdi], a gate, say
        &[0x48, 0xff, 0x2f],             // jmp far [rdi]
        &[0x66, 0x0f, 0x38, 0x82, 0x07], // invpcid rax, [rdi]
    ] {
        assert_eq!(step(&vcpu, code), None, "{code:x?}");
    }
}

/// The kernel has them without the I/O privilege, and its programs have them by none.
#[test]
fn caches_and_ts_are_the_kernels_whatever_the_io_privilege() {
    for (code, effect) in [
        (&[0x0f, 0x06][..], Effect::TaskSwitched(false)),
        (&[0x0f, 0x09], Effect::Registers),
        (&[0xf3, 0x0f, 0x09], Effect::Registers),
        (&[0x0f, 0x08], Effect::Registers),
    ] {
        for iopl in [0, 3] {
            let (mut kernel, mut program) = (vcpu(), program());
            (kernel.iopl, program.iopl) = (iopl, iopl);
            let registers = kernel.context.registers;
            assert_eq!(step(&kernel, code), Some((registers, effect)), "{code:x?} {iopl}");
            assert_eq!(step(&program, code), None, "{code:x?} {iopl}");
        }
    }
}

#[test]
fn hygons_processors_have_the_msrs_of_amds() {
    let mut vcpu = vcpu();
    for number in [0x17, 0x8b, 0x1a0, EFER, 0xc001_0015, 0xc001_1029] {
        let amd = rdmsr(&AMD, &mut vcpu, number);
        assert_eq!(rdmsr(&Processor(b"Hygo"), &mut vcpu, number), amd, "{number:#x}");
    }
}

/// A processor with BMI1, and none of what bits of CR4 are about.
#[derive(Debug)]
struct WithoutFsgsbase;

impl CpuidPolicy for WithoutFsgsbase {
    fn cpuid(&self, leaf: u32, _: u32) -> [u32; 4] {
        if leaf == 7 { [0, 1 << 3, 0, 0] } else { [0; 4] }
    }
}

#[test]
fn cr4_has_no_bit_of_what_the_processor_has_not() {
    let mut vcpu = vcpu();
    vcpu.cr4 = !0;
    let instruction = decode(&[0x0f, 0x20, 0xe3], &vcpu.context).unwrap(); // mov rbx, cr4
    let (vector, policy) = (Vector::GENERAL_PROTECTION, &WithoutFsgsbase);
    let trapped = Trapped { instruction: &instruction, vector, vcpu: &vcpu, cr2: 0, policy, raises_nm: true };
    assert_eq!(trapped.step().unwrap().0.rbx, 0x660 | 1 << 3);
}
