//! Guests that take every way from CPL3 to CPL0 that a CPU has, in 64-bit and 32-bit code of both of their modes, with
//! address 0 mapped: what an MSR that is not set leads to. `docs/security.md`, "Ways to CPL0", has the list.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Guest, Host, Reg, TABLE, check_power_off, handler, trap};
use crate::ways::WAYS;
use hypervisor::paging::{Budget, Progress};
use libtest_mimic::{Failed, Trial};
use pv_abi::Mfn;
use pv_abi::callback::{CallbackFlags, CallbackRegister, CallbackType};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::mmu::{MmuExtCommand as Command, MmuExtOp};
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::segment::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::IretContext;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("entries/syscall and sysenter of 32-bit programs", syscall_of_32_bit_programs),
        kvm_test("entries/callbacks of 32-bit programs", callbacks_of_32_bit_programs),
        kvm_test("entries/all other ways", all_other_ways),
    ]
}

const SELF: u64 = 0x7ff0;
const SYSCALL: &[u8] = &[0x0f, 0x05];
const SYSENTER: &[u8] = &[0x0f, 0x34];
const UD: u64 = 6;
const GP: u64 = 13;

/// Address 0, where code is that reads CR3, and notes it.
const LANDING: u64 = TABLE;
/// Where it is noted, as an offset from [`LANDING`] and as an address.
const NOTED: u64 = 0x800;
/// The page at 0x1000 holds what is attempted, the one behind it is a stack.
const LOW_CODE: u64 = 0x1000;
const LOW_STACK: u64 = 0x3000;
/// Bytes for each attempt.
const STRIDE: u64 = 32;

/// The kinds of code that a guest can be in: CS as an `iret` frame has it, whose lowest bits say which mode.
const KINDS: [(&str, u16); 4] = [
    ("64-bit program", FLAT_RING3_CS64),
    ("32-bit program", FLAT_RING3_CS32),
    ("64-bit kernel code", FLAT_RING3_CS64 & !3),
    ("32-bit kernel code", FLAT_RING3_CS32 & !3),
];

/// A kernel that makes the root of [`with_low_memory`] its own and its programs'; where the root goes.
fn start(code: &mut Code) -> u64 {
    code.catch_faults();
    let roots =
        code.data(&[MmuExtOp::new(Command::NEW_BASEPTR, 0), MmuExtOp::new(Command::NEW_USER_BASEPTR, 0)]);
    code.hypercall(N::MMUEXT_OP, &[roots, 2, 0, SELF]).say();
    roots
}

/// Goes on at `rip` by `iret`, and says what arrived.
fn attempt(code: &mut Code, cs: u16, rip: u64) {
    let frame = IretContext {
        rax: 0,
        r11: 0,
        rcx: 0,
        flags: 0,
        rip,
        cs: cs.into(),
        rflags: 2,
        rsp: LOW_STACK,
        ss: FLAT_RING3_SS64.into(),
    };
    let at = code.data(&frame);
    code.mov(Reg::Rsp, at).attempt(N::IRET.0, SYSCALL);
}

/// A root that maps three pages of the guest's at address 0 as well, before it starts.
fn with_low_memory(host: &Host, guest: &Guest, roots: u64) -> Result<(), Failed> {
    let mmu = &host.hypervisor.services().mmu;
    let domain = guest.domain.id();
    let mut tables = [Mfn(0); 4];
    for table in &mut tables {
        *table = mmu.allocate(domain).map_err(|error| error.to_string())?;
    }
    let [root, l3, l2, l1] = tables;
    let all = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER;
    let set = |table, index, pte| mmu.memory().exchange_entry(table, index, pte, 0).map(|_| ());
    let kernel = Level::L4.index(CODE);
    set(root, kernel, mmu.memory().entry(guest.built.root, kernel)?)?;
    for (table, below) in [(root, l3), (l3, l2), (l2, l1)] {
        set(table, 0, Pte::new(below, all))?;
    }
    for page in 0..3 {
        set(l1, page, Pte::new(guest.mfn(LANDING + page as u64 * 4096), all))?;
    }
    let pinned = mmu.pin(domain, root, Level::L4, &mut Budget::unlimited());
    check(matches!(pinned, Ok(Progress::Done)), || format!("{pinned:?}"))?;
    guest.poke(roots + 8, &root.0);
    guest.poke(roots + 24 + 8, &root.0);
    // mov rax, cr3; mov [NOTED], rax; ud2
    guest.poke(LANDING, &[0x0fu8, 0x20, 0xd8, 0x48, 0x89, 0x04, 0x25, 0, 8, 0, 0, 0x0f, 0x0b]);
    Ok(())
}

/// Runs it to its end; what it said.
fn run(host: Host, code: &Code, roots: u64, attempts: &[&[u8]]) -> Result<Vec<u64>, Failed> {
    let guest = host.build(code)?;
    with_low_memory(&host, &guest, roots)?;
    for (number, attempt) in (0..).zip(attempts) {
        // What does nothing goes on to `ud2`.
        guest.poke(LANDING + LOW_CODE + number * STRIDE, [attempt, &[0x0f, 0x0b][..]].concat().as_slice());
    }
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let read = guest.peek(LANDING + NOTED);
    check(read == 0, || format!("the guest read CR3 ({read:#x}) at CPL0"))?;
    let mut said = guest.said();
    check(said.first() == Some(&0), || format!("its roots were refused: {said:x?}"))?;
    said.remove(0);
    drop(guest);
    host.finish()?;
    Ok(said)
}

/// As XSA-class "privileged entry": neither lands anywhere but at the kernel's callback, or is refused where it stands.
fn syscall_of_32_bit_programs() -> Result<(), Failed> {
    let mut code = Code::default();
    let roots = start(&mut code);
    for _ in 0..3 {
        for cs in [FLAT_RING3_CS32, FLAT_RING3_CS32 & !3] {
            attempt(&mut code, cs, LOW_CODE);
            attempt(&mut code, cs, LOW_CODE + STRIDE);
        }
    }
    code.power_off();
    let said = run(Host::new()?, &code, roots, &[SYSCALL, SYSENTER])?;
    let refused = said.chunks(2).all(|pair| pair[0] == UD && matches!(pair[1], UD | GP));
    check(said.len() == 12 && refused, || format!("{said:x?}"))
}

/// The same with callbacks registered: programs get there, the kernel's own code does not.
fn callbacks_of_32_bit_programs() -> Result<(), Failed> {
    let mut code = Code::default();
    let roots = start(&mut code);
    for (kind, what) in [(CallbackType::SYSCALL32, trap::SYSCALL32), (CallbackType::SYSENTER, trap::SYSENTER)]
    {
        let flags = CallbackFlags::empty().bits();
        let at = code.data(&CallbackRegister { kind, flags, padding: 0, address: handler(what) });
        code.hypercall(N::CALLBACK_OP, &[0, at]).say();
    }
    for cs in [FLAT_RING3_CS32, FLAT_RING3_CS32 & !3] {
        attempt(&mut code, cs, LOW_CODE);
        attempt(&mut code, cs, LOW_CODE + STRIDE);
    }
    code.power_off();
    let said = run(Host::new()?, &code, roots, &[SYSCALL, SYSENTER])?;
    let programs = [0, 0, trap::SYSCALL32, trap::SYSENTER];
    let kernels_own = said.len() == 6 && said[4] == UD && matches!(said[5], UD | GP);
    check(said.starts_with(&programs) && kernels_own, || format!("{said:x?}"))
}

fn all_other_ways() -> Result<(), Failed> {
    for (kind, cs) in KINDS {
        let bits = if cs | 3 == FLAT_RING3_CS32 { 32 } else { 64 };
        let ways: Vec<_> = WAYS.iter().filter(|way| way.exists_in(bits)).collect();
        let mut code = Code::default();
        let roots = start(&mut code);
        for number in 0..ways.len() as u64 {
            attempt(&mut code, cs, LOW_CODE + number * STRIDE);
        }
        code.power_off();
        let attempts: Vec<&[u8]> = ways.iter().map(|way| way.code).collect();
        let said = run(Host::new()?, &code, roots, &attempts)?;
        check(said.len() == ways.len(), || format!("{kind}: not all were tried: {said:x?}"))?;
        for (way, arrived) in ways.iter().zip(said) {
            check(way.arrives_as(arrived), || format!("{}, {kind}: {arrived:#x}", way.name))?;
        }
    }
    Ok(())
}

const _: () = assert!(WAYS.len() as u64 * STRIDE <= 4096);
