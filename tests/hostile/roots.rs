//! Guests whose root tables come and go under them.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Condition, Guest, Host, Reg, SCRATCH, TABLE, UNMAPPED, check_power_off};
use hypervisor::domain::End;
use iced_x86::code_asm::{eax, r12, r15, rax, rsi};
use libtest_mimic::{Failed, Trial};
use pv_abi::Mfn;
use pv_abi::hypercall::{HypercallNumber as N, MulticallEntry};
use pv_abi::mmu::{MmuExtCommand as Command, MmuExtOp};
use pv_abi::page_table::Level;
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("roots/one that goes away under its user", a_root_that_goes_away),
        kvm_test("roots/two that take turns", roots_that_take_turns),
        kvm_test("roots/two that take turns, ended meanwhile", ended_while_roots_take_turns),
    ]
}

const SELF: u64 = 0x7ff0;
/// Present, writable, for user mode.
const RW: u64 = 7;

/// A second root over the same memory, for pre-start: pinned, and of the guest, but in none of its mappings.
fn second_root(host: &Host, guest: &Guest) -> Result<Mfn, Failed> {
    use hypervisor::paging::{Budget, Progress};
    let mmu = &host.hypervisor.services().mmu;
    let domain = guest.domain.id();
    let root = mmu.allocate(domain).map_err(|error| error.to_string())?;
    let index = Level::L4.index(CODE);
    let entry = mmu.memory().entry(guest.built.root, index)?;
    mmu.memory().exchange_entry(root, index, entry, 0)?;
    let pinned = mmu.pin(domain, root, Level::L4, &mut Budget::unlimited());
    check(matches!(pinned, Ok(Progress::Done)), || format!("{pinned:?}"))?;
    Ok(root)
}

/// Unpinning the root that is in use takes its last name away, not its use: it stays a table.
fn a_root_that_goes_away() -> Result<(), Failed> {
    let host = Host::new()?;
    let mut code = Code::default();
    let at =
        code.data(&[MmuExtOp::new(Command::UNPIN_TABLE, 0), MmuExtOp::new(Command::NEW_USER_BASEPTR, 0)]);
    let entry = code.data(&[0u64]);
    code.hypercall(N::MMUEXT_OP, &[at, 2, 0, SELF]).say();
    code.hypercall(N::MMUEXT_OP, &[at, 1, 0, SELF]).say();
    code.load(Reg::R15, entry).mov(Reg::Rdi, SCRATCH).mov(Reg::Rdx, 2);
    code.asm(|a| a.mov(rsi, r15));
    code.mov(Reg::Rax, N::UPDATE_VA_MAPPING.0).asm(|a| a.syscall()).say();
    // It is still what everything is found by.
    code.load(Reg::Rax, SCRATCH).power_off();
    let guest = host.build(&code)?;
    let root = guest.built.root.0;
    guest.poke(at + 8, &root);
    guest.poke(at + 24 + 8, &root);
    guest.poke(entry, &(root << 12 | RW));
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let said: Vec<i64> = guest.said().iter().map(|&word| word as i64).collect();
    check(said.len() == 3 && said[0] == 0 && said[1] < 0 && said[2] < 0, || format!("{said:?}"))?;
    host.finish()
}

/// Two roots take turns. Within one multicall the kernel leaves the old one, unpins it and maps it for writing; then
/// it fills it with garbage, makes a root of it again, and so on. The pcpu must not need the old root for a moment
/// longer than the hypervisor says it does.
fn roots_that_take_turns() -> Result<(), Failed> {
    const TURNS: u64 = 60;
    let host = Host::new()?;
    let guest = turning(&host, TURNS)?;
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    check(guest.said() == [TURNS], || format!("{:?}", guest.said()))?;
    host.finish()
}

/// Such a kernel is ended from outside at any moment of its work: everything comes back.
fn ended_while_roots_take_turns() -> Result<(), Failed> {
    let host = Host::new()?;
    let free = host.free_frames();
    for microseconds in (0..24).map(|number| number * 150) {
        let guest = turning(&host, 1 << 40)?;
        guest.start()?;
        std::thread::sleep(Duration::from_micros(microseconds));
        let end = guest.destroy()?;
        check(matches!(end, End::Destroyed), || format!("after {microseconds} us: {end}"))?;
        check(host.free_frames() == free, || {
            format!("after {microseconds} us: {} of {free}", host.free_frames())
        })?;
    }
    host.finish()
}

/// A guest whose roots take so many turns.
fn turning(host: &Host, turns: u64) -> Result<Guest, Failed> {
    const WINDOW: u64 = TABLE + 0x8_0000;
    let slot = Level::L4.index(CODE) as u64 * 8;
    let call = |op: N, args: &[u64]| {
        let mut entry = MulticallEntry { op: op.0, result: 0, args: [0; 6] };
        entry.args[..args.len()].copy_from_slice(args);
        entry
    };
    let mut code = Code::default();
    let saved = code.data(&[0u64]);
    code.mov(Reg::R12, turns / 2);
    let again = code.here();
    let mut patches = Vec::new();
    for _ in 0..2 {
        let leave = code.data(&[[0u64; 3]; 2]);
        let pin = code.data(&[[0u64; 3]; 1]);
        let out = code
            .data(&[call(N::MMUEXT_OP, &[leave, 2, 0, SELF]), call(N::UPDATE_VA_MAPPING, &[WINDOW, 0, 2])]);
        let back =
            code.data(&[call(N::UPDATE_VA_MAPPING, &[WINDOW, 0, 2]), call(N::MMUEXT_OP, &[pin, 1, 0, SELF])]);
        code.hypercall(N::MULTICALL, &[out, 2]);
        // The old root is garbage.
        code.mov(Reg::Rdi, WINDOW).mov(Reg::Rcx, 512).mov(Reg::Rax, 0x6161_6161_6161_6161);
        code.asm(|a| a.rep().stosq());
        // Its translations are gone, and those of the new root work.
        code.increment(UNMAPPED - 8).hypercall(N::XEN_VERSION, &[0, 0]);
        // Cleared, with the one entry that it had.
        code.mov(Reg::Rdi, WINDOW).mov(Reg::Rcx, 512).asm(|a| {
            a.xor(eax, eax)?;
            a.rep().stosq()
        });
        code.load(Reg::Rax, saved).store(WINDOW + slot, Reg::Rax);
        code.hypercall(N::MULTICALL, &[back, 2]).load(Reg::Rax, back + 64 + 8);
        code.asm(|a| a.test(rax, rax));
        let fine = code.here() + 6 + 2;
        code.jump(Condition::Zero, fine).asm(|a| a.ud2());
        patches.push((leave, pin, out));
    }
    code.asm(|a| a.dec(r12)).jump(Condition::NotZero, again);
    code.load(Reg::Rax, UNMAPPED - 8).say().power_off();

    let guest = host.build(&code)?;
    let (first, second) = (guest.built.root, second_root(host, &guest)?);
    guest.poke(saved, &(guest.memory().entry(first, Level::L4.index(CODE))?.0));
    for ((leave, pin, out), (old, new)) in patches.into_iter().zip([(first, second), (second, first)]) {
        let operations =
            [MmuExtOp::new(Command::NEW_BASEPTR, new.0), MmuExtOp::new(Command::UNPIN_TABLE, old.0)];
        guest.poke(leave, &operations);
        guest.poke(pin, &MmuExtOp::new(Command::PIN_L4_TABLE, old.0));
        guest.poke(out + 64 + 24, &(old.0 << 12 | RW));
    }
    Ok(guest)
}
