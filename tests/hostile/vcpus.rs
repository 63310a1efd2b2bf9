//! Guests with several vCPUs, which work against each other and against whoever has to keep up with them.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{
    CODE, Code, Condition, Guest, Host, Random, Reg, SCRATCH, STACK, TABLE, UNMAPPED, Via, check_power_off,
};
use hypervisor::domain::End;
use libtest_mimic::{Failed, Trial};
use pv_abi::Mfn;
use pv_abi::guest_context::{GuestContext, GuestContextFlags as F};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::mmu::{MmuExtCommand as Command, MmuExtOp, MmuUpdate};
use pv_abi::page_table::Level;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::Vector;
use pv_abi::vcpu::VcpuOp as Op;
use std::time::Duration;
use zerocopy::FromZeros;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("vcpus/first contexts that are refused", contexts_that_are_refused),
        kvm_test("vcpus/first contexts that are wild", contexts_that_are_wild),
        kvm_test("vcpus/racing a store against a pin", store_against_pin),
        kvm_test("vcpus/racing a store against a descriptor table", store_against_gdt),
        kvm_test("vcpus/racing pins and unpins of one table", pins_and_unpins),
        kvm_test("vcpus/racing ups and downs", ups_and_downs),
        kvm_test("vcpus/one crashes while another is in a long operation", crash_in_a_long_operation),
        kvm_test("vcpus/touching a table that becomes one of another level", level_changes),
    ]
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
    code.raw(&[0x48, 0x85, 0xc0]).jump(Condition::NotZero, to);
}

/// `dec r12`, and back to `to` until it is zero.
fn again_until_zero(code: &mut Code, to: u64) {
    code.raw(&[0x49, 0xff, 0xcc]).jump(Condition::NotZero, to);
}

/// `update_va_mapping` of an entry that lies at `entry`.
fn map(code: &mut Code, address: u64, entry: u64) {
    code.mov(Reg::Rdi, address).load(Reg::Rsi, entry).mov(Reg::Rdx, 2);
    code.mov(Reg::Rax, N::UPDATE_VA_MAPPING.0).raw(&Via::Syscall.bytes());
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

/// Contexts that name what is not the guest's, or what no processor can start with: none starts a vCPU.
fn contexts_that_are_refused() -> Result<(), Failed> {
    const CALLS: u64 = 2;
    let host = Host::new()?;
    let canary = host.canary();
    let frames = host.hypervisor.services().mmu.layout().frames;
    let foreign = [
        canary.built.root,
        canary.mfn(CODE),
        canary.domain.shared().frame(),
        Mfn(0),
        Mfn(9),
        Mfn(frames),
        Mfn(u64::MAX >> 12),
    ];
    let spoilt = |guest: &Guest| {
        let own = [guest.mfn(TABLE), guest.table(Level::L1, CODE), guest.table(Level::L3, CODE)];
        let mut all: Vec<Box<GuestContext>> = Vec::new();
        let mut with = |spoil: &dyn Fn(&mut GuestContext)| {
            let mut first = context(guest, 1);
            spoil(&mut first);
            all.push(first);
        };
        for mfn in foreign.into_iter().chain(own) {
            with(&|first| first.ctrlreg[3] = mfn.0 << 12);
            if mfn.0 != 0 {
                with(&|first| first.ctrlreg[1] = mfn.0 << 12);
            }
            // A page of the guest's that is mapped writable cannot hold descriptors, nor can a table.
            with(&|first| (first.gdt_ents, first.gdt_frames[0]) = (512, mfn));
        }
        for wild in [1 << 47, 0x7000_0000_0000_0000] {
            with(&|first| first.user_regs.rip = wild);
            with(&|first| first.user_regs.rsp = wild);
            with(&|first| first.kernel_sp = wild);
            with(&|first| first.fs_base = wild);
            with(&|first| first.gs_base_kernel = wild);
            with(&|first| first.gs_base_user = wild);
            with(&|first| first.event_callback_eip = wild);
            with(&|first| first.failsafe_callback_eip = wild);
            with(&|first| first.syscall_callback_eip = wild);
            with(&|first| first.trap_ctxt[255].address = wild);
        }
        with(&|first| (first.ldt_base, first.ldt_ents) = (TABLE, 1));
        with(&|first| first.gdt_ents = u64::MAX);
        with(&|first| first.flags = 0);
        all
    };
    let probe = host.build(&Code::default())?;
    let count = spoilt(&probe).len() as u64;
    probe.destroy()?;

    let mut code = Code::default();
    for row in 0..count {
        code.hypercall(N::VCPU_OP, &[Op::INITIALISE.0, 1, CONTEXTS + row * 0x1800]).say();
        code.hypercall(N::VCPU_OP, &[Op::UP.0, 1]).say();
    }
    code.power_off();
    let guest = host.build(&code)?;
    for (row, first) in (0..).zip(spoilt(&guest)) {
        guest.poke(CONTEXTS + row * 0x1800, &*first);
    }
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let said = guest.said();
    let refused = said.iter().all(|&result| (-4095..0).contains(&(result as i64)));
    check(said.len() as u64 == CALLS * count && refused, || format!("{said:x?}"))?;
    host.finish()
}

/// Contexts that are accepted, as Xen does, and are wild all the same: selectors of the hypervisor, all flags, a
/// stack nowhere, RIP in the hypervisor's pages. Whatever starts there starts at CPL3: `mov rax, cr0`, where it is
/// reached, is never carried out.
fn contexts_that_are_wild() -> Result<(), Failed> {
    let host = Host::with_pcpus(2)?;
    let mut privileged = Code::default();
    privileged.raw(&[0x0f, 0x20, 0xc0]).increment(COUNTS).stay(); // mov rax, cr0
    let mut code = Code::default();
    (1..4).for_each(|vcpu| start(&mut code, vcpu));
    code.park();
    let mut started = 0;
    for seed in 0..24 {
        let guest = host.build(&code)?;
        let mut random = Random::new(seed);
        for vcpu in 1..4 {
            place(&guest, vcpu, &privileged);
            guest.poke(context_of(vcpu), &*wild(&guest, vcpu, &mut random));
        }
        guest.start()?;
        let end = guest.wait_or_destroy(Duration::from_millis(40))?;
        check(!matches!(end, End::Shutdown(_)), || format!("seed {seed}: {end}"))?;
        started += guest.said().iter().filter(|&&result| result == 0).count();
        check(guest.peek(COUNTS) == 0, || format!("seed {seed}: a vCPU ran at CPL0"))?;
        host.canary_goes_on().map_err(|error| format!("seed {seed}: {error:?}"))?;
    }
    check(started > 48, || format!("only {started} calls were accepted: the contexts are too wild"))?;
    host.finish()
}

fn wild(guest: &Guest, vcpu: u64, random: &mut Random) -> Box<GuestContext> {
    let mut first = context(guest, vcpu);
    let selectors = [0, 3, 0x08, 0x10, 0xe008, 0xe010, 0xe030, 0xe033, 0xe02b, 0xe040, 0xfff8, 0xffff];
    let places = [code_of(vcpu), UNMAPPED, 0xffff_8080_0000_0000, 0xffff_8080_0000_3000, 0, TABLE];
    let mut selector = || random.choose(&selectors) as u16;
    let regs = &mut first.user_regs;
    (regs.cs, regs.ss, regs.ds) = (selector(), selector(), selector());
    (regs.es, regs.fs, regs.gs) = (selector(), selector(), selector());
    if random.below(2) == 0 {
        (first.user_regs.cs, first.user_regs.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
    }
    if random.below(2) == 0 {
        first.user_regs.rip = random.choose(&places);
    }
    first.user_regs.rsp = random.choose(&places);
    // All of them, NT, IOPL, VM and AC included; and nothing, not even what is always set.
    first.user_regs.rflags = random.choose(&[u64::MAX, 0, 0x3_7fd7, 0x4000, 0x2_0000]);
    first.fs_base = random.choose(&places);
    first.gs_base_kernel = random.choose(&places);
    first.kernel_sp = random.choose(&places);
    first.failsafe_callback_eip = random.choose(&places);
    first.trap_ctxt.iter_mut().for_each(|entry| entry.cs = random.next() as u16);
    // Other control registers than the roots are not a guest's to choose.
    [0, 2, 4, 5, 6, 7].iter().for_each(|&number: &usize| first.ctrlreg[number] = u64::MAX);
    first.debugreg = [u64::MAX, 0, CODE, 0, 0, 0, u64::MAX, u64::MAX];
    first.floating_point = [0xff; 512];
    first
}

const MAPPED: u64 = COUNTS;
const STALE: u64 = COUNTS + 8;
const LEAKED: u64 = COUNTS + 16;
/// The entry that maps the page of the race for writing, nothing, and what is stored there.
const ENTRY: u64 = COUNTS + 24;
const NOTHING: u64 = COUNTS + 32;
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
    code.raw(&[0x48, 0x39, 0xc8]).jump(Condition::Below, to); // cmp rax, rcx
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
        crashing.raw(&[0x0f, 0x0b]);
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
    code.increment(PASSES).mov(Reg::Rax, AS_L1 ^ AS_L2).raw(&[0x49, 0x31, 0xc5]); // xor r13, rax
    code.load(Reg::Rax, TICKET).raw(&[0x49, 0x89, 0x45, 0]).jump(Condition::Always, CODE); // mov [r13], rax
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
        code.raw(&[0x48, 0x85, 0xc0]).jump(Condition::Zero, behind).raw(&[0x0f, 0x0b]); // test rax, rax; ud2
    };
    update(code, turn.fill);
    granted(code);
    extended(code, turn.pin);
    granted(code);
    update(code, turn.hook);
    granted(code);
    // A new ticket, and at least one pass of the other one by each table.
    code.increment(TICKET).load(Reg::Rbx, PASSES).raw(&[0x48, 0x83, 0xc3, 4]); // add rbx, 4
    let wait = code.here();
    code.hypercall(N::SCHED_OP, &[0]).load(Reg::Rax, PASSES);
    code.raw(&[0x48, 0x39, 0xd8]).jump(Condition::Below, wait); // cmp rax, rbx
    let (page, sum) = turn.found;
    code.load(Reg::Rax, page).raw(&[0x48, 0x01, 0x04, 0x25]).raw(&(sum as u32).to_le_bytes()); // add [sum], rax
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
