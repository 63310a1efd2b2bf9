//! vCPUs of one domain that race each other: for a page against a table, and for each other's lives.

use super::{
    COUNTS, NOTHING, PAGES, RO, RW, SELF, again_if_refused, again_until_zero, check_said, context_of,
    extended, further, map, place, start, update,
};
use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Condition, Guest, Host, Reg, UNMAPPED, check_power_off};
use hypervisor::domain::End;
use iced_x86::code_asm::{eax, qword_ptr, r10, r14, rax, rbx, rcx};
use libtest_mimic::{Failed, Trial};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::mmu::{MmuExtCommand as Command, MmuExtOp, MmuUpdate};
use pv_abi::page_table::Level;
use pv_abi::vcpu::VcpuOp as Op;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("vcpus/racing a store against a pin", store_against_pin),
        kvm_test("vcpus/racing a store against a descriptor table", store_against_gdt),
        kvm_test("vcpus/racing pins and unpins of one table", pins_and_unpins),
        kvm_test("vcpus/racing updates of one entry", updates_of_one_entry),
        kvm_test("vcpus/racing ups and downs", ups_and_downs),
        kvm_test("vcpus/racing a rewritten instruction against its emulation", rewritten_instruction),
        kvm_test("vcpus/one crashes while another is in a long operation", crash_in_a_long_operation),
    ]
}

const MAPPED: u64 = COUNTS;
const STALE: u64 = COUNTS + 8;
const LEAKED: u64 = COUNTS + 16;
/// The entry that maps the page of the race for writing, and what is stored there.
const ENTRY: u64 = COUNTS + 24;
const EVIL: u64 = COUNTS + 40;
/// Which word of the page that is.
const PLACE: u64 = 100 * 8;

/// Maps the page, stores the evil word and takes it away again, unmaps the page, and stores it once more: that must
/// fault, and the fault begins it anew.
fn storing() -> Code {
    let mut code = further(1);
    let again = code.here();
    map(&mut code, PAGES, ENTRY);
    again_if_refused(&mut code, again);
    code.increment(MAPPED).load(Reg::Rax, EVIL).store(PAGES + PLACE, Reg::Rax).set(PAGES + PLACE, 0);
    map(&mut code, PAGES, NOTHING);
    again_if_refused(&mut code, again);
    code.load(Reg::Rax, EVIL).store(PAGES + PLACE, Reg::Rax);
    code.increment(STALE).jump(Condition::Always, again);
    code
}

/// As [`again_until_zero`], counted once the other vCPU has got to the page often enough; and leaves it an opening.
fn again_until_raced(code: &mut Code, to: u64) {
    const ENOUGH: u64 = 50;
    code.hypercall(N::SCHED_OP, &[0]).load(Reg::Rax, MAPPED).mov(Reg::Rcx, ENOUGH);
    code.asm(|a| a.cmp(rax, rcx)).jump(Condition::Below, to);
    again_until_zero(code, to);
}

/// Plays such a race to its end.
fn race(host: &Host, code: &Code, evil: u64, prepare: impl Fn(&Guest)) -> Result<(), Failed> {
    let guest = host.build(code)?;
    place(&guest, 1, &storing());
    guest.poke(ENTRY, &(guest.mfn(PAGES).0 << 12 | RW));
    guest.poke(EVIL, &evil);
    prepare(&guest);
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    check_said(&guest, 3)?;
    let [mapped, stale, leaked] = [MAPPED, STALE, LEAKED].map(|count| guest.peek(count));
    check(stale == 0 && leaked == 0, || {
        format!("mapped {mapped} times, {stale} stores too late, {leaked} words slipped in")
    })
}

/// One vCPU stores an entry that maps the canary's memory to a page that it may write; the other one has the page
/// validated as a table at any moment, and looks through it. Either the page is writable, or it is a table.
fn store_against_pin() -> Result<(), Failed> {
    const ROUNDS: u64 = 200;
    let host = Host::with_pcpus(2)?;
    let mut code = Code::default();
    let [pin, unpin] =
        [Command::PIN_L1_TABLE, Command::UNPIN_TABLE].map(|command| code.data(&MmuExtOp::new(command, 0)));
    let [hook, unhook] = [0; 2].map(|word| code.data(&MmuUpdate { ptr: word, val: 0 }));
    code.catch_faults();
    map(&mut code, PAGES, NOTHING);
    code.say();
    start(&mut code, 1);
    code.mov(Reg::R12, ROUNDS);
    let again = code.here();
    extended(&mut code, pin);
    again_if_refused(&mut code, again);
    update(&mut code, hook);
    // What the evil entry would map; it must not be there.
    let behind = code.here() + 10 + 8 + 8 + 8;
    code.resume_at(behind).load(Reg::Rbx, UNMAPPED + PLACE / 8 * 4096).increment(LEAKED);
    assert_eq!(code.here(), behind);
    update(&mut code, unhook);
    extended(&mut code, unpin);
    again_until_raced(&mut code, again);
    code.power_off();
    let evil = host.canary().mfn(CODE).0 << 12 | RW;
    race(&host, &code, evil, |guest| {
        let (table, l2) = (guest.mfn(PAGES).0, guest.table(Level::L2, CODE).0);
        let slot = (l2 << 12) + Level::L2.index(UNMAPPED) as u64 * 8;
        [pin, unpin].iter().for_each(|at| guest.poke(at + 8, &table));
        [hook, unhook].iter().for_each(|&at| guest.poke(at, &slot));
        guest.poke(hook + 8, &(table << 12 | RW));
    })?;
    host.finish()
}

/// The same with a call gate, and a page that is validated as a descriptor table.
fn store_against_gdt() -> Result<(), Failed> {
    const ROUNDS: u64 = 200;
    const GATE: u64 = 0x0000_ec00_0008_0000;
    /// Another address of the page, for reading.
    const VIEW: u64 = PAGES + 4096;
    let host = Host::with_pcpus(2)?;
    let mut code = Code::default();
    let [frame, view] = [0; 2].map(|_| code.data(&[0u64]));
    map(&mut code, PAGES, NOTHING);
    code.say();
    map(&mut code, VIEW, view);
    start(&mut code, 1);
    code.mov(Reg::R12, ROUNDS);
    let again = code.here();
    code.hypercall(N::SET_GDT, &[frame, 512]);
    again_if_refused(&mut code, again);
    code.load(Reg::Rax, VIEW + PLACE).compare(EVIL);
    let behind = code.here() + 6 + 8;
    code.jump(Condition::NotZero, behind).increment(LEAKED);
    code.hypercall(N::SET_GDT, &[frame, 0]);
    again_until_raced(&mut code, again);
    code.power_off();
    race(&host, &code, GATE, |guest| {
        let mfn = guest.mfn(PAGES).0;
        guest.poke(frame, &mfn);
        guest.poke(view, &(mfn << 12 | RO));
    })?;
    host.finish()
}

/// Three vCPUs pin one table, as what it is and as what it is not, unpin it and make it their root, in any order.
fn pins_and_unpins() -> Result<(), Failed> {
    const ROUNDS: u64 = 400;
    let host = Host::with_pcpus(2)?;
    let commands = [
        Command::PIN_L1_TABLE,
        Command::UNPIN_TABLE,
        Command::PIN_L2_TABLE,
        Command::UNPIN_TABLE,
        Command::NEW_USER_BASEPTR,
        Command::NEW_USER_BASEPTR,
    ];
    let mut code = Code::default();
    let operations = commands.map(|command| code.data(&MmuExtOp::new(command, 0)));
    map(&mut code, PAGES, NOTHING);
    code.say();
    start(&mut code, 1);
    start(&mut code, 2);
    code.mov(Reg::R12, ROUNDS);
    let again = code.here();
    operations.iter().for_each(|&at| extended(&mut code, at));
    again_until_zero(&mut code, again);
    code.power_off();
    let mut other = Code::default();
    let again = other.here();
    extended(&mut other, operations[0]);
    again_if_refused(&mut other, again);
    other.increment(COUNTS);
    operations.iter().for_each(|&at| extended(&mut other, at));
    other.jump(Condition::Always, again);
    let guest = host.build(&code)?;
    (1..3).for_each(|vcpu| place(&guest, vcpu, &other));
    // The last one is no frame: user mode's root is given up.
    operations[..5].iter().for_each(|at| guest.poke(at + 8, &guest.mfn(PAGES).0));
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    check_said(&guest, 5)?;
    check(guest.peek(COUNTS) > 0, || "the others never got to it".into())?;
    host.finish()
}

/// Two vCPUs set and clear a bit each of the entry of one page, by stores to the table, while the processor marks it as
/// used. Neither ever finds its bit otherwise than it left it.
fn updates_of_one_entry() -> Result<(), Failed> {
    const ROUNDS: u64 = 300;
    const LOST: u64 = COUNTS + 8;
    let host = Host::with_pcpus(2)?;
    let probe = host.build(&Code::default())?;
    let table = probe.plan.address(probe.pfn(probe.table(Level::L1, CODE)));
    probe.destroy()?;
    let entry = table + Level::L1.index(PAGES) as u64 * 8;
    let toggle = |code: &mut Code, bit: u32| {
        code.asm(|a| a.lock().bts(qword_ptr(r14), bit));
        code.unless(Condition::NotBelow, |code| {
            code.increment(LOST);
        });
        code.store(PAGES, Reg::R12);
        code.asm(|a| a.lock().btr(qword_ptr(r14), bit));
        code.unless(Condition::Below, |code| {
            code.increment(LOST);
        });
    };
    let mut code = Code::default();
    code.catch_faults().hypercall(N::VM_ASSIST, &[0, 2]).say();
    start(&mut code, 1);
    code.mov(Reg::R14, entry).mov(Reg::R12, ROUNDS);
    let again = code.here();
    toggle(&mut code, 63);
    // The other one gets to it, too.
    code.hypercall(N::SCHED_OP, &[0]).load(Reg::Rax, COUNTS).mov(Reg::Rcx, 50);
    code.asm(|a| a.cmp(rax, rcx)).jump(Condition::Below, again);
    again_until_zero(&mut code, again);
    code.power_off();
    let mut other = further(1);
    other.mov(Reg::R14, entry);
    let again = other.here();
    toggle(&mut other, 9);
    other.increment(COUNTS).jump(Condition::Always, again);
    let guest = host.build(&code)?;
    place(&guest, 1, &other);
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    check_said(&guest, 3)?;
    let (raced, lost) = (guest.peek(COUNTS), guest.peek(LOST));
    check(raced >= 50 && lost == 0, || format!("{raced} rounds of the other, {lost} updates lost"))?;
    host.finish()
}

/// Two vCPUs start and stop a third one, initialise it once more and move its `vcpu_info`, while it runs.
fn ups_and_downs() -> Result<(), Failed> {
    const ROUNDS: u64 = 400;
    let host = Host::with_pcpus(2)?;
    let mut code = Code::default();
    let info = code.data(&[0u64, 0]);
    let race = |code: &mut Code| {
        code.hypercall(N::VCPU_OP, &[Op::UP.0, 2]);
        code.hypercall(N::VCPU_OP, &[Op::INITIALISE.0, 2, context_of(2)]);
        code.hypercall(N::VCPU_OP, &[Op::REGISTER_VCPU_INFO.0, 2, info]);
        code.hypercall(N::VCPU_OP, &[Op::DOWN.0, 2]);
        code.hypercall(N::VCPU_OP, &[Op::IS_UP.0, 2]);
    };
    // The third first: what races initialises it, too.
    start(&mut code, 2);
    start(&mut code, 1);
    code.mov(Reg::R12, ROUNDS);
    let again = code.here();
    race(&mut code);
    again_until_zero(&mut code, again);
    // Each up puts it behind the others, which run for a slice and stop it meanwhile. When nobody stops it any more, it runs.
    code.hypercall(N::VCPU_OP, &[Op::DOWN.0, 1]).set(COUNTS, 0);
    let again = code.here();
    code.hypercall(N::VCPU_OP, &[Op::UP.0, 2]).hypercall(N::SCHED_OP, &[0]).load(Reg::Rax, COUNTS);
    code.asm(|a| a.test(rax, rax)).jump(Condition::Zero, again);
    code.power_off();
    let mut racing = Code::default();
    race(&mut racing);
    racing.jump(Condition::Always, CODE);
    let mut counting = Code::default();
    counting.increment(COUNTS).hypercall(N::SCHED_OP, &[0]);
    counting.jump(Condition::Always, CODE);
    let guest = host.build(&code)?;
    place(&guest, 1, &racing);
    place(&guest, 2, &counting);
    guest.poke(info, &guest.mfn(PAGES).0);
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    check_said(&guest, 4)?;
    check(guest.peek(COUNTS) > 0, || "the third one never ran".into())?;
    host.finish()
}

/// One vCPU pins and unpins the whole tree and flushes it, in calls that are interrupted and gone on with; the other
/// one executes what it has no handler for, at any moment of that. Everything comes back.
fn crash_in_a_long_operation() -> Result<(), Failed> {
    let host = Host::with_pcpus(2)?;
    let free = host.free_frames();
    for round in 0..24 {
        let mut code = Code::default();
        let operations: Vec<MmuExtOp> = (0..512)
            .map(|n| MmuExtOp::new([Command::PIN_L1_TABLE, Command::UNPIN_TABLE][n % 2], 0))
            .collect();
        let at = code.data(operations.as_slice());
        map(&mut code, PAGES, NOTHING);
        code.say();
        start(&mut code, 1);
        let again = code.here();
        code.hypercall(N::MMUEXT_OP, &[at, operations.len() as u64, 0, SELF]).increment(COUNTS);
        code.jump(Condition::Always, again);
        let mut crashing = Code::default();
        crashing.mov(Reg::R12, 1 + round * 200_000);
        let again = crashing.here();
        again_until_zero(&mut crashing, again);
        crashing.asm(|a| a.ud2());
        let guest = host.build(&code)?;
        place(&guest, 1, &crashing);
        for n in 0..operations.len() as u64 {
            guest.poke(at + n * size_of::<MmuExtOp>() as u64 + 8, &guest.mfn(PAGES).0);
        }
        guest.start()?;
        let end = guest.wait()?;
        check(matches!(end, End::Crashed(_)), || format!("round {round}: {end}"))?;
        check(host.free_frames() == free, || format!("round {round}: {} of {free}", host.free_frames()))?;
    }
    host.finish()
}

/// One vCPU executes what another one rewrites: instructions that are carried out for kernels, and one that is refused. Each
/// time it is one of them, whole. All have three bytes: what follows one of another length would not be its own.
fn rewritten_instruction() -> Result<(), Failed> {
    const MARK: u64 = 0x1122_3344_5566_7788;
    const EFER: u64 = 0xd01;
    const GP: u64 = 13;
    /// What was seen: RAX behind the instruction, or the exception.
    const SEEN: u64 = COUNTS;
    /// How often each was seen, and what it is; and how often anything else.
    const KINDS: [u64; 4] = [COUNTS + 0x10, COUNTS + 0x20, COUNTS + 0x30, COUNTS + 0x40];
    const ODD: u64 = COUNTS + 0x50;
    let executing = |arrived_at: u64| {
        let mut code = Code::default();
        code.catch_faults();
        start(&mut code, 1);
        code.resume_at(arrived_at);
        let again = code.here();
        code.mov(Reg::Rcx, 0xc000_0080).mov(Reg::R10, PAGES).mov(Reg::Rax, MARK);
        code.asm(|a| a.call(r10)).store(SEEN, Reg::Rax);
        let mut arrived_at = 0;
        code.asm(|a| a.xor(eax, eax)).unless(Condition::Zero, |code| {
            arrived_at = code.here();
            code.load_arrived().store(SEEN, Reg::Rax);
        });
        code.mov(Reg::Rbx, 0);
        for kind in KINDS {
            code.load(Reg::Rax, SEEN).compare(kind + 8);
            code.unless(Condition::NotZero, |code| {
                code.increment(kind).mov(Reg::Rbx, 1);
            });
        }
        code.asm(|a| a.test(rbx, rbx)).unless(Condition::NotZero, |code| {
            code.increment(ODD);
        });
        code.jump(Condition::Always, again);
        (code, arrived_at)
    };
    let (_, arrived_at) = executing(0);
    let (code, _) = executing(arrived_at);
    let mut rewriting = further(1);
    let again = rewriting.here();
    for instruction in [
        [0x0f, 0x22, 0xd0, 0xc3], // mov cr2, rax; ret
        [0x40, 0x0f, 0x32, 0xc3], // rdmsr, with a prefix that does nothing; ret
        [0x0f, 0x20, 0xd8, 0xc3], // mov rax, cr3; ret
        [0x40, 0x0f, 0x09, 0xc3], // wbinvd; ret
        [0x0f, 0x22, 0xd8, 0xc3], // mov cr3, rax; ret
    ] {
        rewriting.set(PAGES, u64::from(u32::from_le_bytes(instruction))).mov(Reg::Rcx, 2000);
        let again = rewriting.here();
        rewriting.asm(|a| a.dec(rcx)).jump(Condition::NotZero, again);
    }
    rewriting.jump(Condition::Always, again);
    let host = Host::with_pcpus(2)?;
    let guest = host.build(&code)?;
    place(&guest, 1, &rewriting);
    guest.poke(PAGES, &[0x40, 0x0f, 0x09, 0xc3]);
    for (kind, value) in KINDS.into_iter().zip([MARK, EFER, guest.built.root.address(), GP]) {
        guest.poke(kind + 8, &value);
    }
    guest.start()?;
    let seen = || KINDS.map(|kind| guest.peek(kind));
    guest
        .wait_for(|| seen().iter().all(|&count| count >= 10))
        .map_err(|failed| format!("{:?}; seen {:?}", failed.message(), seen()))?;
    host.canary_goes_on()?;
    check(guest.peek(ODD) == 0, || {
        format!("{} times anything else, last {:#x}", guest.peek(ODD), guest.peek(SEEN))
    })?;
    check(matches!(guest.destroy()?, End::Destroyed), || "it ended otherwise".into())?;
    host.finish()
}
