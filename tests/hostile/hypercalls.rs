//! Guests that make hypercalls nobody would: every number, by both gates, with pointers to everywhere.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{
    CODE, Code, Condition, Guest, Host, Random, Reg, SCRATCH, STACK, TABLE, UNMAPPED, Via, check_power_off,
    trap,
};
use hypervisor::domain::End;
use iced_x86::code_asm::{qword_ptr, r8, r9, r10, r12, rax, rbx, rdi, rdx, rsi};
use libtest_mimic::{Failed, Trial};
use pv_abi::hypercall::{HypercallNumber as N, MulticallEntry};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use pv_abi::page_table::Level;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::IretContext;
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("hypercalls/unknown numbers", unknown_numbers),
        kvm_test("hypercalls/wild pointers", wild_pointers),
        kvm_test("hypercalls/results into a page table", results_into_a_page_table),
        kvm_test("hypercalls/random arguments by syscall", || random_arguments(Via::Syscall)),
        kvm_test("hypercalls/random arguments by the doorbell", || random_arguments(Via::Doorbell)),
        kvm_test("hypercalls/random arguments of a crowd on two pcpus", a_crowd),
        kvm_test("hypercalls/iret to nowhere", iret_to_nowhere),
        kvm_test("hypercalls/multicalls", multicalls),
        kvm_test("hypercalls/from user mode", from_user_mode),
    ]
}

const EFAULT: i64 = -14;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;

/// A hypercall as the guests below read it: its number, which its result replaces, and its arguments.
pub type Row = [u64; 7];

pub fn row(number: u64, arguments: &[u64]) -> Row {
    let mut row = [0; 7];
    row[0] = number;
    row[1..=arguments.len()].copy_from_slice(arguments);
    row
}

/// A kernel that makes the hypercalls in its table, stores each result over the number, and parks.
pub fn caller(gate: Via, rows: usize) -> Code {
    let mut code = Code::default();
    code.mov(Reg::Rbx, TABLE).mov(Reg::R12, rows as u64);
    let again = code.here();
    code.asm(|a| {
        [rax, rdi, rsi, rdx, r10, r8, r9]
            .into_iter()
            .zip(0..)
            .try_for_each(|(register, word)| a.mov(register, qword_ptr(rbx + 8 * word)))
    });
    code.raw(&gate.bytes());
    code.asm(|a| {
        a.mov(qword_ptr(rbx), rax)?;
        a.add(rbx, 56)?;
        a.dec(r12)
    });
    code.jump(Condition::NotZero, again).park();
    code
}

/// Has a guest make these hypercalls, and gives their results.
fn results(host: &Host, gate: Via, rows: &[Row]) -> Result<Vec<i64>, Failed> {
    let guest = host.build(&caller(gate, rows.len()))?;
    guest.poke(TABLE, rows);
    guest.start()?;
    guest.wait_until_parked()?;
    let results = (0..rows.len() as u64).map(|index| guest.peek(TABLE + index * 56) as i64).collect();
    guest.destroy()?;
    Ok(results)
}

/// Numbers that are nobody's, up to the largest, by both gates. The doorbell carries 32 bits.
fn unknown_numbers() -> Result<(), Failed> {
    let numbers: Vec<u64> = [6, 11, 16, 19, 22, 27, 28, 31, 34, 37, 38].into_iter().chain(41..=127).collect();
    let unknown = |number| (number != pv_abi::extension::HYPERCALL_NUMBER).then(|| row(number, &[0; 6]));
    let mut rows: Vec<Row> = numbers.into_iter().filter_map(unknown).collect();
    rows.extend([128, 4096, 1 << 31, 1 << 32 | 128, 1 << 63, u64::MAX].map(|number| row(number, &[CODE; 6])));
    let host = Host::new()?;
    for gate in [Via::Syscall, Via::Doorbell] {
        let results = results(&host, gate, &rows)?;
        let wrong = rows.iter().zip(results).find(|(_, result)| *result != ENOSYS);
        check(wrong.is_none(), || format!("{gate:?}: {wrong:x?}"))?;
    }
    host.finish()
}

/// Where no argument of a guest can be.
const WILD: [u64; 8] = [
    0xdead_0000,
    UNMAPPED,
    UNMAPPED - 1,
    0x8000_0000_0000,
    0xffff_7fff_ffff_fffc,
    0xffff_8080_0000_0000,
    0xffff_8180_0000_0000,
    u64::MAX - 1,
];

/// Every hypercall that takes a pointer, in every place where it takes one.
fn with_pointer(wild: u64) -> Vec<Row> {
    const SELF: u64 = 0x7ff0;
    let call = |number: N, arguments: &[u64]| row(number.0, arguments);
    let mut rows = vec![
        call(N::SET_TRAP_TABLE, &[wild]),
        call(N::MMU_UPDATE, &[wild, 1, 0, SELF]),
        call(N::MMU_UPDATE, &[SCRATCH, 0, wild, SELF]),
        call(N::SET_GDT, &[wild, 512]),
        call(N::MULTICALL, &[wild, 1]),
        call(N::MULTICALL, &[wild, u64::MAX]),
        call(N::CONSOLE_IO, &[0, 8, wild]),
        call(N::CONSOLE_IO, &[1, 8, wild]),
        call(N::VCPU_OP, &[8, 0, wild]),
        call(N::MMUEXT_OP, &[wild, 1, 0, SELF]),
        call(N::MMUEXT_OP, &[SCRATCH, 0, wild, SELF]),
        call(N::UPDATE_VA_MAPPING, &[SCRATCH, 0, wild & !3 | 1]),
        call(N::PHYSDEV_OP, &[6, wild]),
        call(N::CALLBACK_OP, &[0, wild]),
        call(N::CALLBACK_OP, &[1, wild]),
    ];
    rows.extend([2, 6, 8, 10].map(|op| call(N::GRANT_TABLE_OP, &[op, wild, 1])));
    rows.extend([2, 3, 5].map(|op| call(N::SCHED_OP, &[op, wild])));
    rows.extend([3, 4, 9, 12].map(|op| call(N::MEMORY_OP, &[op, wild])));
    rows.extend([1, 2, 3, 4, 5, 6, 8].map(|op| call(N::XEN_VERSION, &[op, wild])));
    rows.extend([0, 1, 3, 4, 5, 6, 7, 8, 9].map(|op| call(N::EVENT_CHANNEL_OP, &[op, wild])));
    rows
}

/// Each is −EFAULT, by both gates, and changes nothing.
fn wild_pointers() -> Result<(), Failed> {
    let host = Host::new()?;
    let rows: Vec<Row> = WILD.into_iter().flat_map(with_pointer).collect();
    for gate in [Via::Syscall, Via::Doorbell] {
        let results = results(&host, gate, &rows)?;
        let wrong: Vec<_> = rows.iter().zip(results).filter(|(_, result)| *result != EFAULT).collect();
        check(wrong.is_empty(), || format!("{gate:?}: {wrong:x?}"))?;
    }
    host.finish()
}

/// A table of the guest's own can be read by it and not written: nor by a hypercall's result on its behalf.
fn results_into_a_page_table() -> Result<(), Failed> {
    let host = Host::new()?;
    let probe = host.build(&Code::default())?;
    let table = probe.plan.address(probe.plan.table_frames.end - 1);
    probe.destroy()?;
    let mut rows = Vec::new();
    // Whole entries of the table, and one that ends where it begins.
    for at in [table, table + 4088, table - 4] {
        rows.extend([1, 2, 3, 4, 5, 8].map(|op| row(N::XEN_VERSION.0, &[op, at])));
        rows.push(row(N::MEMORY_OP.0, &[12, at]));
        rows.push(row(N::MMU_UPDATE.0, &[SCRATCH, 0, at, 0x7ff0]));
        rows.push(row(N::CONSOLE_IO.0, &[1, 8, at]));
    }
    let guest = host.build(&caller(Via::Syscall, rows.len()))?;
    guest.poke(TABLE, rows.as_slice());
    let mfn = guest.mfn(table);
    let entries = |guest: &Guest| -> Vec<u64> {
        // But for accessed and dirty.
        (0..512).map(|index| guest.memory().entry(mfn, index).expect("a table").0 & !0x60).collect()
    };
    let before = entries(&guest);
    guest.start()?;
    guest.wait_until_parked()?;
    check(entries(&guest) == before, || "the table was written".into())?;
    for (index, row) in (0..).zip(&rows) {
        let result = guest.peek(TABLE + index * 56) as i64;
        check(result == EFAULT, || format!("{row:x?}: {result}"))?;
    }
    guest.destroy()?;
    host.finish()
}

/// Arguments that mean something: addresses, frames, small numbers; and arrays of the same.
struct Arguments {
    frames: Vec<u64>,
}

impl Arguments {
    /// Frames that a guest may, or must not, name: its own tables and pages, the hypervisor's, a neighbour's.
    fn new(host: &Host, guest: &Guest) -> Self {
        let mut frames = vec![0, 1, 17, guest.domain.shared().frame().0, u64::MAX >> 12];
        frames.extend(guest.plan.table_frames.clone().map(|pfn| guest.mfn(guest.plan.address(pfn)).0));
        frames.extend([SCRATCH, TABLE + 0x8_0000, TABLE + 0x9_0000].map(|address| guest.mfn(address).0));
        let canary = host.canary();
        frames.extend([canary.mfn(CODE).0, canary.built.root.0, canary.table(Level::L1, CODE).0]);
        Self { frames }
    }

    fn word(&self, random: &mut Random) -> u64 {
        let frame = random.choose(&self.frames);
        match random.below(12) {
            0 => random.next(),
            1 => random.next() >> 40,
            2 | 3 => random.below(16),
            4 => 0x7ff0,
            5 => frame,
            6 => frame << 12 | random.choose(&[0, 1, 3, 5, 7, 0x67, 0x87, 0xfff]),
            7 => (frame << 12) + random.below(512) * 8 + random.below(4),
            8 => random.choose(&WILD),
            9 => UNMAPPED - random.below(4) * 4096 - random.below(64),
            // An array of words like this one.
            _ => SCRATCH + 0x1000 + random.below(0x400) * 8,
        }
    }
}

/// A guest that makes hypercalls at random, but for those that would end or stop it at once: they have tests of
/// their own.
fn mad(host: &Host, gate: Via, seed: u64, calls: usize) -> Result<Guest, Failed> {
    const ENDS: [u64; 2] = [N::IRET.0, N::SCHED_OP.0];
    let numbers: Vec<u64> = (0..48).filter(|number| !ENDS.contains(number)).collect();
    let guest = host.build(&caller(gate, calls))?;
    let (arguments, mut random) = (Arguments::new(host, &guest), Random::new(seed));
    let row = |random: &mut Random| -> Row {
        let number = random.choose(&numbers);
        std::array::from_fn(|index| if index == 0 { number } else { arguments.word(random) })
    };
    let rows: Vec<Row> = (0..calls).map(|_| row(&mut random)).collect();
    guest.poke(TABLE, rows.as_slice());
    let array: Vec<u64> = (0..0x500).map(|_| arguments.word(&mut random)).collect();
    guest.poke(SCRATCH + 0x1000, array.as_slice());
    Ok(guest)
}

/// Several such guests at once on two pcpus, each ended at some moment of its madness.
fn a_crowd() -> Result<(), Failed> {
    let host = Host::with_pcpus(2)?;
    for round in 0..4 {
        let mad = |seed| mad(&host, Via::Syscall, 100 + round * 4 + seed, 1500);
        let guests = (0..4).map(mad).collect::<Result<Vec<_>, _>>()?;
        guests.iter().try_for_each(Guest::start)?;
        for guest in guests {
            guest.wait_or_destroy(Duration::from_millis(5 + round * 10))?;
        }
        host.canary_goes_on().map_err(|error| format!("round {round}: {error:?}"))?;
    }
    host.finish()
}

/// A few thousand hypercalls of every number with such arguments. What they do to the guest is its own affair.
fn random_arguments(gate: Via) -> Result<(), Failed> {
    const ROWS: usize = 1500;
    let host = Host::new()?;
    for seed in 0..6 {
        let guest = mad(&host, gate, seed, ROWS)?;
        guest.start()?;
        let parked = guest.wait_until_parked();
        let end = guest.wait_or_destroy(Duration::ZERO)?;
        check(parked.is_ok() || !matches!(end, End::Destroyed), || format!("seed {seed} got stuck"))?;
        host.canary_goes_on().map_err(|error| format!("seed {seed}: {error:?}"))?;
    }
    host.finish()
}

/// `iret` is the one hypercall whose pointer is the stack.
fn iret_to_nowhere() -> Result<(), Failed> {
    let host = Host::new()?;
    for stack in WILD.into_iter().chain([0]) {
        let mut code = Code::default();
        code.catch_faults().mov(Reg::Rsp, stack).hypercall(N::IRET, &[]);
        let (end, _) = host.run(&code)?;
        let told = matches!(&end, End::Crashed(report) if report.reason.contains("iret cannot read"));
        check(told, || format!("a frame at {stack:#x}: {end}"))?;
    }
    host.finish()
}

/// Calls within calls, calls without end, and calls that write their results over the calls that follow.
fn multicalls() -> Result<(), Failed> {
    let entry = |op: N, args: &[u64]| {
        let mut entry = MulticallEntry { op: op.0, result: 0, args: [0; 6] };
        entry.args[..args.len()].copy_from_slice(args);
        entry
    };
    let mut code = Code::default();
    let recursive = code.data(&[entry(N::MULTICALL, &[TABLE, 1]), entry(N::XEN_VERSION, &[])]);
    code.hypercall(N::MULTICALL, &[recursive, 2]).load(Reg::Rax, recursive + 8).say();
    code.load(Reg::Rax, recursive + 72).say();
    // To the end of what is mapped, through all the tables, each result stored into the entry.
    code.hypercall(N::MULTICALL, &[TABLE, u64::from(u32::MAX)]).say();
    code.hypercall(N::MULTICALL, &[TABLE, u64::MAX]).say();
    code.hypercall(N::MULTICALL, &[u64::MAX - 64, 1]).say();
    // Each call rewrites the next: the buffer of `xen_version` is the entry behind.
    let chain = code.data::<[u64]>(&[]);
    let entries: Vec<_> = (0..64).map(|at| entry(N::XEN_VERSION, &[4, chain + 64 * (at + 1) + 16])).collect();
    code.data(entries.as_slice());
    code.hypercall(N::MULTICALL, &[chain, 64]).say().power_off();

    let host = Host::new()?;
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said: Vec<i64> = guest.said().iter().map(|&word| word as i64).collect();
    let version = said.get(1).copied().unwrap_or_default();
    check(said == [EINVAL, version, EFAULT, EFAULT, EFAULT, 0] && version > 0, || format!("{said:?}"))?;
    host.finish()
}

/// Programs make system calls, not hypercalls: `syscall` arrives at the kernel's callback, and the doorbell is
/// General Protection. Neither shuts the domain down.
fn from_user_mode() -> Result<(), Failed> {
    const PROGRAM: u64 = SCRATCH + 0x100;
    let mut code = Code::default();
    code.catch_faults();
    let operation = code.data(&MmuExtOp::new(MmuExtCommand::NEW_USER_BASEPTR, 0));
    code.hypercall(N::MMUEXT_OP, &[operation, 1, 0, 0x7ff0]).say();
    let frame = IretContext {
        rax: N::SCHED_OP.0,
        r11: 0,
        rcx: 0,
        flags: 0,
        rip: PROGRAM,
        cs: FLAT_RING3_CS64.into(),
        rflags: 0x202,
        rsp: STACK,
        ss: FLAT_RING3_SS64.into(),
    };
    let gates = [Via::Syscall, Via::Doorbell];
    // RDI and RSI are for the program, too: shut down, for reason 1.
    let reason = code.data(&[1u32]);
    for (index, _) in (0..).zip(gates) {
        let at = code.data(&IretContext { rip: PROGRAM + 64 * index, ..frame });
        code.mov(Reg::Rdi, 2).mov(Reg::Rsi, reason).mov(Reg::Rsp, at).attempt(N::IRET.0, &[0x0f, 0x05]);
    }
    code.power_off();
    let host = Host::new()?;
    let guest = host.build(&code)?;
    guest.poke(operation + 8, &guest.built.root.0);
    for (index, gate) in (0..).zip(gates) {
        let mut program = gate.bytes();
        program.extend([0xeb, 0xfe]);
        guest.poke(PROGRAM + 64 * index, program.as_slice());
    }
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    check(guest.said() == [0, trap::SYSCALL, 13], || format!("{:x?}", guest.said()))?;
    host.finish()
}
