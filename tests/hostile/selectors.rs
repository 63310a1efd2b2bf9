//! Guests that load selectors, and go on with frames, that no processor would take.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{
    CODE, Code, Condition, Host, NONE, Random, Reg, SCRATCH, STACK, TABLE, UNMAPPED, check_power_off, trap,
};
use hypervisor::domain::End;
use iced_x86::code_asm::{eax, rax, rcx, rsp};
use libtest_mimic::{Failed, Trial};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::IretContext;
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("selectors/by mov", by_mov),
        kvm_test("selectors/by far transfers", by_far_transfers),
        kvm_test("selectors/by iret", by_iret),
        kvm_test("selectors/of user mode's GS", of_user_modes_gs),
        kvm_test("selectors/random frames", random_frames),
        kvm_test("selectors/descriptors of the guest's own", own_descriptors),
    ]
}

/// The hypervisor's descriptors, those of nobody, and those of an LDT that there is none.
const BAD: [u64; 12] =
    [0x0008, 0x0010, 0x0018, 0x0007, 0x000c, 0xe008, 0xe010, 0xe040, 0xe048, 0x7ff8, 0xfff8, 0xffff];

/// General protection, or one of the more special refusals.
fn is_refusal(vector: u64) -> bool {
    matches!(vector, 6 | 10..=13)
}

fn by_mov() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    // mov ds, eax; es; fs; gs; ss; cs
    for instruction in [[0x8e, 0xd8], [0x8e, 0xc0], [0x8e, 0xe0], [0x8e, 0xe8], [0x8e, 0xd0], [0x8e, 0xc8]] {
        for selector in BAD {
            code.attempt(selector, &instruction);
        }
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    check(said.len() == 72 && said.iter().all(|&vector| is_refusal(vector)), || format!("{said:x?}"))?;
    host.finish()
}

/// `retfq` and `iretq`, as instructions.
fn by_far_transfers() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    for selector in BAD {
        // push rax; push CODE; retfq
        code.attempt(selector, &[0x50, 0x68, 0, 0, 0x10, 0x80, 0x48, 0xcb]);
        // push ss; push rsp; push flags; push cs; push rip, of which SS and then CS is bad
        code.attempt(
            selector,
            &[0x50, 0x54, 0x6a, 2, 0x68, 0x33, 0xe0, 0, 0, 0x68, 0, 0, 0x10, 0x80, 0x48, 0xcf],
        );
        code.attempt(
            selector,
            &[0x68, 0x2b, 0xe0, 0, 0, 0x54, 0x6a, 2, 0x50, 0x68, 0, 0, 0x10, 0x80, 0x48, 0xcf],
        );
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    check(said.len() == 36 && said.iter().all(|&vector| is_refusal(vector)), || format!("{said:x?}"))?;
    host.finish()
}

/// A frame that would go on in the kernel, and end it there by power-off.
fn frame(rip: u64) -> IretContext {
    let (cs, ss) = (u64::from(FLAT_RING3_CS64 & !3), u64::from(FLAT_RING3_SS64));
    IretContext { rax: 0, r11: 0, rcx: 0, flags: 0, rip, cs, rflags: 2, rsp: STACK, ss }
}

/// The hypercall goes through, and what it asks for cannot be loaded: the failsafe callback is called.
fn by_iret() -> Result<(), Failed> {
    let mut code = Code::default();
    code.catch_faults();
    let mut tried = 0;
    for selector in BAD {
        // The lowest bits say which mode to go on in; user mode has no root here.
        let in_kernel = selector & !3;
        for frame in
            [IretContext { cs: in_kernel, ..frame(CODE) }, IretContext { ss: selector, ..frame(CODE) }]
        {
            let at = code.data(&frame);
            code.mov(Reg::Rsp, at).attempt(N::IRET.0, &[0x0f, 0x05]);
            tried += 1;
        }
    }
    for rip in [0x8000_0000_0000, 0x7000_0000_0000_0000] {
        let at = code.data(&frame(rip));
        code.mov(Reg::Rsp, at).attempt(N::IRET.0, &[0x0f, 0x05]);
        tried += 1;
    }
    code.power_off();
    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    check(said == vec![trap::FAILSAFE; tried], || format!("{said:x?}"))?;
    host.finish()
}

/// User mode has the kernel's own root here, so that its code is mapped.
fn with_user_mode(code: &mut Code) -> u64 {
    code.catch_faults();
    let operation = code.data(&MmuExtOp::new(MmuExtCommand::NEW_USER_BASEPTR, 0));
    code.hypercall(N::MMUEXT_OP, &[operation, 1, 0, 0x7ff0]).say();
    operation + 8
}

/// `set_segment_base` takes any selector, and user mode starts with one that can be loaded.
fn of_user_modes_gs() -> Result<(), Failed> {
    let mut code = Code::default();
    let root = with_user_mode(&mut code);
    for selector in BAD {
        code.hypercall(N::SET_SEGMENT_BASE, &[3, selector]);
        // In user mode it comes back by a system call.
        let at = code.data(&IretContext { cs: FLAT_RING3_CS64.into(), ..frame(SCRATCH + 0x100) });
        code.mov(Reg::Rsp, at).attempt(N::IRET.0, &[0x0f, 0x05]);
    }
    code.power_off();
    let host = Host::new()?;
    let guest = host.build(&code)?;
    guest.poke(root, &guest.built.root.0);
    guest.poke(SCRATCH + 0x100, &[0x65u8, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x0f, 0x05]); // mov rax, gs:[0]; syscall
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let said = guest.said();
    check(said.len() == 13 && said[1..].iter().all(|vector| matches!(vector, 14)), || format!("{said:x?}"))?;
    host.finish()
}

/// Frames of random words, to kernel and to user mode, with every flag: each leads to some code of the guest's, to
/// one of its handlers, or ends it; with all that the next guest on the pcpu has its own.
fn random_frames() -> Result<(), Failed> {
    const FRAMES: u64 = 2000;
    const SIZE: u64 = 72;
    const CURSOR: u64 = SCRATCH + 0x800;
    let mut code = Code::default();
    let root = with_user_mode(&mut code);
    code.set(CURSOR, TABLE);
    let again = code.here() + 18;
    code.resume_at(again);
    assert_eq!(code.here(), again);
    // Registers may be anything here, and the mode may be user mode: then the hypercall is a system call, whose
    // handler comes back to here.
    code.load(Reg::Rax, CURSOR).asm(|a| a.mov(rsp, rax));
    code.asm(|a| a.add(rax, SIZE as i32)).store(CURSOR, Reg::Rax);
    code.mov(Reg::Rcx, TABLE + FRAMES * SIZE + SIZE).asm(|a| a.cmp(rax, rcx));
    let done = code.here() + 6 + 5 + 2;
    code.jump(Condition::NotBelow, done);
    code.asm(|a| {
        a.mov(eax, N::IRET.0 as u32)?;
        a.syscall()
    });
    assert_eq!(code.here(), done);
    code.power_off();

    let host = Host::new()?;
    let mut powered_off = 0;
    for seed in 0..4 {
        let guest = host.build(&code)?;
        guest.poke(root, &guest.built.root.0);
        let mut random = Random::new(seed);
        let frames: Vec<IretContext> = (0..FRAMES).map(|_| random_frame(&mut random, again)).collect();
        guest.poke(TABLE, frames.as_slice());
        guest.start()?;
        let end = guest.wait_or_destroy(Duration::from_secs(10))?;
        powered_off += u64::from(matches!(end, End::Shutdown(_)));
        check(!matches!(end, End::Destroyed), || format!("seed {seed} got stuck"))?;
        host.canary_goes_on().map_err(|error| format!("seed {seed}: {error:?}"))?;
    }
    check(powered_off != 0, || "none got through all its frames".into())?;
    host.finish()
}

fn random_frame(random: &mut Random, good: u64) -> IretContext {
    let selectors =
        [0xe033, 0xe030, 0xe033, 0xe030, 0xe02b, 0xe023, 0xe008, 0xe010, 0xe040, 0, 3, 0x0f, 0xffff];
    // Where `syscall` lands is left out: a kernel that goes there may go round for ever.
    let rips = [good, good, UNMAPPED, 0xffff_8080_0000_0000, 0x8000_0000_0000, 0x7fff_ffff_ffff];
    let stacks = [STACK, SCRATCH, 0, UNMAPPED, 0x8000_0000_0000, 0xffff_8080_0000_0000];
    let wild = random.next();
    let mut choose =
        |choices: &[u64]| if random.below(8) == 0 { random.next() } else { random.choose(choices) };
    let (cs, stack) = (choose(&selectors), choose(&stacks));
    IretContext {
        rax: wild,
        r11: wild,
        rcx: wild,
        flags: choose(&[0, 0x100]),
        rip: choose(&rips),
        cs,
        // The trap flag would only make it slow.
        rflags: choose(&[2, 0x202, 0x3002, 0x4_4002]) & !0x100,
        // A kernel that goes on with a bad stack ends at once: that is seen elsewhere.
        rsp: if cs & 3 == 3 { stack } else { STACK },
        ss: choose(&[0xe02b, 0xe02b, 0xe033, 0xe010, 0, 0xffff]),
    }
}

/// A descriptor, whether it may be in a GDT, and its name.
const DESCRIPTORS: [(u64, bool, &str); 18] = [
    (0x00af_fb00_0000_ffff, true, "64-bit code"),
    (0x00cf_fb00_0000_ffff, true, "32-bit code"),
    (0x00af_f900_0000_ffff, true, "code that cannot be read"),
    (0x00af_9b00_0000_ffff, true, "64-bit code of level 0, which becomes level 3"),
    (0x00cf_f300_0000_ffff, true, "data"),
    (0x00cf_9300_0000_ffff, true, "data of level 0, which becomes level 3"),
    (0x00cf_f100_0000_ffff, true, "data that cannot be written"),
    (0xffcf_f7ff_ffff_0000, true, "data that grows down, far away"),
    (0x00af_7b00_0000_ffff, true, "code that is not present"),
    (0x0000_6c00_0008_0000, true, "a gate that is not present"),
    (0x00ef_fb00_0000_ffff, false, "code of 64 and of 32 bits"),
    (0x00af_ff00_0000_ffff, false, "conforming code"),
    (0x00af_9f00_0000_ffff, false, "conforming code of level 0"),
    (0x0000_ec00_0008_0000, false, "a call gate"),
    (0x0000_ee00_0008_0000, false, "an interrupt gate"),
    (0x0000_e900_0000_0067, false, "a task"),
    (0x0000_eb00_0000_0067, false, "a busy task"),
    (0x0000_e200_0000_ffff, false, "an LDT"),
];

/// A guest fills a GDT of its own with every kind of descriptor, and loads each into FS, SS and CS. None lets it do
/// what CPL3 must not: `mov rax, cr0` behind the `iret` faults, or the code is not reached.
fn own_descriptors() -> Result<(), Failed> {
    const GDT: u64 = TABLE;
    const FIRST: u64 = 8;
    const PROBE: u64 = SCRATCH + 0x100;
    let mut code = Code::default();
    let root = with_user_mode(&mut code);
    let frame_of_gdt = code.data(&[0u64]);
    let entry = code.data(&[0u64]);
    code.mov(Reg::Rdi, GDT).load(Reg::Rsi, entry).mov(Reg::Rdx, 2);
    code.mov(Reg::Rax, N::UPDATE_VA_MAPPING.0).asm(|a| a.syscall()).say();
    code.hypercall(N::SET_GDT, &[frame_of_gdt, 512]).say();
    let addresses = code.data(&[0u64; DESCRIPTORS.len()]);
    for (index, (descriptor, ..)) in (0..).zip(DESCRIPTORS) {
        code.load(Reg::Rdi, addresses + index * 8).mov(Reg::Rsi, descriptor);
        code.mov(Reg::Rax, N::UPDATE_DESCRIPTOR.0).asm(|a| a.syscall()).say();
        let selector = (FIRST + index) * 8 + 3;
        code.attempt(selector, &[0x8e, 0xe0]).attempt(selector, &[0x8e, 0xd0]); // mov fs, eax; mov ss, eax
        // In user mode: a trap from 32-bit code would find half a stack pointer in the kernel.
        let at = code.data(&IretContext { cs: selector, ..frame(PROBE) });
        code.mov(Reg::Rsp, at).attempt(N::IRET.0, &[0x0f, 0x05]);
    }
    code.power_off();

    let host = Host::new()?;
    let guest = host.build(&code)?;
    guest.poke(root, &guest.built.root.0);
    let gdt = guest.mfn(GDT).0;
    guest.poke(frame_of_gdt, &gdt);
    guest.poke(entry, &(gdt << 12 | 5));
    let of_entries: Vec<u64> =
        (0..DESCRIPTORS.len() as u64).map(|index| (gdt << 12) + (FIRST + index) * 8).collect();
    guest.poke(addresses, of_entries.as_slice());
    guest.poke(PROBE, &[0x0fu8, 0x20, 0xc0, 0xeb, 0xfe]); // mov rax, cr0
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let said = guest.said();
    check(said.len() == 3 + 4 * DESCRIPTORS.len() && said[..3] == [0, 0, 0], || format!("{said:x?}"))?;
    for ((_, allowed, what), said) in DESCRIPTORS.iter().zip(said[3..].chunks(4)) {
        let expected = if *allowed { 0 } else { -22i64 as u64 };
        check(said[0] == expected, || format!("{what}: {said:x?}"))?;
        let harmless = |vector: u64| vector == NONE || is_refusal(vector);
        check(harmless(said[1]) && harmless(said[2]), || format!("{what} in FS and SS: {said:x?}"))?;
        check(is_refusal(said[3]) || matches!(said[3], 14 | trap::FAILSAFE), || {
            format!("{what} in CS: {said:x?}")
        })?;
    }
    host.finish()
}
