//! A frame that is a table of one level and then of another, while another vCPU uses what it maps.

use super::{
    COUNTS, NOTHING, PAGES, RO, RW, again_until_zero, check_said, context, context_of, extended, further,
    map, place, start, update,
};
use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Condition, Host, Reg, UNMAPPED, check_power_off};
use iced_x86::code_asm::{qword_ptr, r13, rax, rbx};
use libtest_mimic::{Failed, Trial};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::mmu::{MmuExtCommand as Command, MmuExtOp, MmuUpdate};
use pv_abi::page_table::Level;

pub fn tests() -> Vec<Trial> {
    vec![kvm_test("vcpus/touching a table that becomes one of another level", level_changes)]
}

const TICKET: u64 = COUNTS;
const PASSES: u64 = COUNTS + 8;
/// What was found where a ticket belongs, added up: through the L1 table, and through the L2 table.
const BY_L1: u64 = COUNTS + 16;
const BY_L2: u64 = COUNTS + 24;
/// Where a ticket was found that does not belong there: in a table, or in a page that is not mapped any more.
const ASTRAY: u64 = COUNTS + 32;

/// The frame that is a table of one level and then of another.
const FRAME: u64 = PAGES;
/// What it maps as an L1 table, by turns.
const PAGE: [u64; 2] = [PAGES + 4096, PAGES + 6 * 4096];
/// What it names as an L2 table, by turns, and what those map.
const LOWER: [u64; 2] = [PAGES + 2 * 4096, PAGES + 3 * 4096];
const BELOW: [u64; 2] = [PAGES + 4 * 4096, PAGES + 5 * 4096];

/// Where it is an L1 table, and where an L2 table; both for the second word of a page.
const AS_L1: u64 = UNMAPPED + 8;
const AS_L2: u64 = 0xffff_ffff_c000_0008;

/// Stores the ticket through the L1 table, through the L2 table, and so on; a fault goes on with the other one.
fn touching() -> Code {
    let mut code = further(1);
    code.increment(PASSES).mov(Reg::Rax, AS_L1 ^ AS_L2).asm(|a| a.xor(r13, rax));
    code.load(Reg::Rax, TICKET).asm(|a| a.mov(qword_ptr(r13), rax)).jump(Condition::Always, CODE);
    code
}

/// The operations of one turn of the frame: what is written into it, and where it is put.
struct Turn {
    /// Its first entry, which the hypervisor writes while it is no table: KVM does not see that.
    fill: u64,
    pin: u64,
    hook: u64,
    unhook: u64,
    /// Where the ticket arrives, and what that is added to.
    found: (u64, u64),
}

/// One vCPU makes an L1 table of a frame, then an L2 table, then an L1 table again, while another one never stops to
/// store through it. It reaches what the table maps now. Who still took it for a table of the other level, or for what
/// it was before, would store into a table, or into another page.
fn level_changes() -> Result<(), Failed> {
    const ROUNDS: u64 = 25;
    let host = Host::with_pcpus(2)?;
    let mut code = Code::default();
    let word = |code: &mut Code| code.data(&[0u64; 3]);
    let unpin = word(&mut code);
    let readable = LOWER.map(|_| [(); 2].map(|()| word(&mut code)));
    let turns =
        [(PAGE[0], BY_L1), (BELOW[0], BY_L2), (PAGE[1], BY_L1), (BELOW[1], BY_L2)].map(|(page, sum)| Turn {
            fill: word(&mut code),
            pin: word(&mut code),
            hook: word(&mut code),
            unhook: word(&mut code),
            found: (page + 8, sum),
        });
    map(&mut code, FRAME, NOTHING);
    code.say();
    for (lower, [entry, pin]) in LOWER.into_iter().zip(readable) {
        map(&mut code, lower, entry);
        code.say();
        extended(&mut code, pin);
        code.say();
    }
    start(&mut code, 1);
    code.mov(Reg::R12, ROUNDS);
    let again = code.here();
    turns.iter().for_each(|turn| take(&mut code, turn, unpin));
    again_until_zero(&mut code, again);
    code.power_off();

    let guest = host.build(&code)?;
    place(&guest, 1, &touching());
    let mut first = context(&guest, 1);
    first.user_regs.r13 = AS_L1;
    guest.poke(context_of(1), &*first);
    let entry = |address: u64, flags: u64| guest.mfn(address).0 << 12 | flags;
    let slot = |level: Level, address| (guest.table(level, CODE).0 << 12) + level.index(address) as u64 * 8;
    guest.poke(unpin, &MmuExtOp::new(Command::UNPIN_TABLE, guest.mfn(FRAME).0));
    for ((lower, below), [view, pin]) in LOWER.into_iter().zip(BELOW).zip(readable) {
        guest.poke(lower, &entry(below, RW));
        guest.poke(view, &entry(lower, RO));
        guest.poke(pin, &MmuExtOp::new(Command::PIN_L1_TABLE, guest.mfn(lower).0));
    }
    let l1 = (Command::PIN_L1_TABLE, slot(Level::L2, AS_L1));
    let l2 = (Command::PIN_L2_TABLE, slot(Level::L3, AS_L2));
    let kinds = [(l1, PAGE[0]), (l2, LOWER[0]), (l1, PAGE[1]), (l2, LOWER[1])];
    for (turn, ((command, ptr), names)) in turns.iter().zip(kinds) {
        guest.poke(turn.fill, &MmuUpdate { ptr: entry(FRAME, 0), val: entry(names, RW) });
        guest.poke(turn.pin, &MmuExtOp::new(command, guest.mfn(FRAME).0));
        guest.poke(turn.hook, &MmuUpdate { ptr, val: entry(FRAME, RW) });
        guest.poke(turn.unhook, &MmuUpdate { ptr, val: 0 });
    }
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    check_said(&guest, 7)?;
    // Tickets 1, 3, 5 and so on by the L1 table, the even ones by the L2 table.
    let half = 2 * ROUNDS;
    let found = [BY_L1, BY_L2, ASTRAY].map(|sum| guest.peek(sum));
    check(found == [half * half, half * (half + 1), 0], || format!("{found:?} is not what was to be found"))?;
    host.finish()
}

/// The frame becomes a table, is used as one, and ceases to be one. All that is asked for is granted: a refusal would
/// crash the domain.
fn take(code: &mut Code, turn: &Turn, unpin: u64) {
    let granted = |code: &mut Code| {
        let behind = code.here() + 3 + 6 + 2;
        code.asm(|a| a.test(rax, rax)).jump(Condition::Zero, behind).asm(|a| a.ud2());
    };
    update(code, turn.fill);
    granted(code);
    extended(code, turn.pin);
    granted(code);
    update(code, turn.hook);
    granted(code);
    // A new ticket, and at least one pass of the other one by each table.
    code.increment(TICKET).load(Reg::Rbx, PASSES).asm(|a| a.add(rbx, 4));
    let wait = code.here();
    code.hypercall(N::SCHED_OP, &[0]).load(Reg::Rax, PASSES);
    code.asm(|a| a.cmp(rax, rbx)).jump(Condition::Below, wait);
    let (page, sum) = turn.found;
    code.load(Reg::Rax, page).asm(|a| a.add(qword_ptr(sum), rax));
    for other in [PAGE, BELOW, LOWER].into_iter().flatten().filter(|&other| other + 8 != page) {
        code.load(Reg::Rax, other + 8).compare(TICKET);
        let behind = code.here() + 6 + 8;
        code.jump(Condition::NotZero, behind).increment(ASTRAY);
    }
    update(code, turn.unhook);
    granted(code);
    extended(code, unpin);
    granted(code);
}
