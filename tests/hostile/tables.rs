//! Guests that play with page tables: theirs, a neighbour's and the hypervisor's.

use crate::hypercalls::{Row, caller, row};
use crate::support::{check, kvm_test};
use crate::tiny_guest::{
    CODE, Code, Condition, Guest, Host, Reg, SCRATCH, TABLE, UNMAPPED, Via, check_power_off,
};
use hypervisor::domain::End;
use libtest_mimic::{Failed, Trial};
use pv_abi::Mfn;
use pv_abi::hypercall::{HypercallNumber as N, MulticallEntry};
use pv_abi::mmu::{MmuExtCommand as Command, MmuExtOp, MmuUpdate};
use pv_abi::page_table::{Level, Pte};
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("tables/what is not the guest's", what_is_not_the_guests),
        kvm_test("tables/stores to a table", stores_to_a_table),
        kvm_test("tables/a root that goes away under its user", a_root_that_goes_away),
        kvm_test("tables/roots that take turns", roots_that_take_turns),
        kvm_test("tables/roots that take turns, ended meanwhile", ended_while_roots_take_turns),
    ]
}

const SELF: u64 = 0x7ff0;
/// Present, writable, for user mode.
const RW: u64 = 7;
const RO: u64 = 5;

/// Hypercalls whose arguments lie in memory are put together here, 32 bytes each.
struct Attempts<'a> {
    guest: &'a Guest,
    rows: Vec<Row>,
    names: Vec<String>,
}

impl Attempts<'_> {
    fn add(&mut self, name: impl Into<String>, row: Row) {
        self.rows.push(row);
        self.names.push(name.into());
    }

    fn argument(&self) -> u64 {
        SCRATCH + 0x1000 + self.rows.len() as u64 * 32
    }

    fn map(&mut self, what: &str, mfn: Mfn, flags: u64) {
        let arguments = [SCRATCH, mfn.0 << 12 | flags, 0];
        self.add(format!("mapping {what} with {flags:#x}"), row(N::UPDATE_VA_MAPPING.0, &arguments));
    }

    fn update(&mut self, what: String, ptr: u64, val: u64) {
        let at = self.argument();
        self.guest.poke(at, &MmuUpdate { ptr, val });
        self.add(what, row(N::MMU_UPDATE.0, &[at, 1, 0, SELF]));
    }

    fn set(&mut self, what: &str, (table, index): (Mfn, usize), entry: u64) {
        self.update(
            format!("entry {index} of {what} := {entry:#x}"),
            (table.0 << 12) + index as u64 * 8,
            entry,
        );
    }

    fn extended(&mut self, what: &str, command: Command, mfn: Mfn) {
        let at = self.argument();
        self.guest.poke(at, &MmuExtOp::new(command, mfn.0));
        self.add(format!("{command:?} of {what}"), row(N::MMUEXT_OP.0, &[at, 1, 0, SELF]));
    }
}

/// Frames that nobody may make a table of, and only read at best.
fn foreign(host: &Host) -> Vec<(&'static str, Mfn)> {
    let canary = host.canary();
    let frames = host.hypervisor.services().mmu.layout().frames;
    vec![
        ("the canary's page", canary.mfn(CODE)),
        ("the canary's L1", canary.table(Level::L1, CODE)),
        ("the canary's root", canary.built.root),
        ("the canary's shared page", canary.domain.shared().frame()),
        ("the hypervisor's first frame", Mfn(0)),
        ("another frame of the hypervisor's", Mfn(9)),
        ("the M2P", Mfn(host.hypervisor.services().mmu.layout().m2p.start)),
        ("the first frame beyond memory", Mfn(frames)),
        ("the last frame of all", Mfn(Pte::FRAME_MASK >> 12)),
    ]
}

/// Every way into a frame that is not the guest's, or not in that role, is refused. Nothing it tries is ever
/// accepted, so the order does not matter.
fn what_is_not_the_guests() -> Result<(), Failed> {
    let host = Host::new()?;
    // Rows are counted before the kernel is built.
    let guest = host.build(&Code::default())?;
    let count = attempts(&host, &guest).rows.len();
    guest.destroy()?;

    let guest = host.build(&caller(Via::Syscall, count))?;
    let attempts = attempts(&host, &guest);
    guest.poke(TABLE, attempts.rows.as_slice());
    guest.start()?;
    guest.wait_until_parked()?;
    let results = (0..count as u64).map(|index| guest.peek(TABLE + index * 56) as i64);
    let accepted: Vec<_> =
        attempts.names.iter().zip(results).filter(|(_, result)| !(-4095..0).contains(result)).collect();
    check(accepted.is_empty(), || format!("{accepted:#x?}"))?;
    guest.destroy()?;
    host.finish()
}

fn attempts<'a>(host: &Host, guest: &'a Guest) -> Attempts<'a> {
    let mut all = Attempts { guest, rows: Vec::new(), names: Vec::new() };
    let [l1, l2, l3] = [Level::L1, Level::L2, Level::L3].map(|level| guest.table(level, CODE));
    let l4 = guest.built.root;
    let own = [("my L1", l1), ("my L2", l2), ("my L3", l3), ("my L4", l4)];
    let page = ("my page", guest.mfn(TABLE));
    for (what, mfn) in own {
        all.map(what, mfn, RW);
    }
    for (what, mfn) in foreign(host) {
        all.map(what, mfn, RW);
        // Everybody may read the machine's M2P, at addresses that the hypervisor chose.
        all.map(what, mfn, RO);
        all.update(format!("a store to {what}"), mfn.0 << 12 | 8, 0);
        all.update(format!("the pfn of {what}"), mfn.0 << 12 | 1, 0x77);
        for command in [
            Command::PIN_L1_TABLE,
            Command::PIN_L4_TABLE,
            Command::UNPIN_TABLE,
            Command::NEW_BASEPTR,
            Command::NEW_USER_BASEPTR,
            Command::CLEAR_PAGE,
        ] {
            // No frame stands for no user mode.
            if command != Command::NEW_USER_BASEPTR || mfn != Mfn(0) {
                all.extended(what, command, mfn);
            }
        }
        all.add(format!("a descriptor in {what}"), row(N::UPDATE_DESCRIPTOR.0, &[mfn.0 << 12 | 8, 0]));
        let at = all.argument();
        guest.poke(at, &mfn.0);
        all.add(format!("a GDT in {what}"), row(N::SET_GDT.0, &[at, 512]));
    }
    levels(&mut all, &own, page);
    // The entry is there already and only its flags change: no shorter way past the checks.
    for (what, mfn) in own {
        let at = guest.plan.virt_base + guest.pfn(mfn) * 4096;
        all.add(format!("{what} made writable"), row(N::UPDATE_VA_MAPPING.0, &[at, mfn.0 << 12 | RW, 2]));
    }
    for (what, table, level) in [("my L2", l2, Level::L2), ("my L3", l3, Level::L3), ("my L4", l4, Level::L4)]
    {
        let index = level.index(CODE);
        let entry = guest.memory().entry(table, index).expect("a table").0;
        all.set(what, (table, index), entry | 0x80);
    }
    for slot in 256..272 {
        all.set("my L4, which is the hypervisor's,", (l4, slot), l3.0 << 12 | RW);
    }
    // A large page, and bits that are reserved.
    all.set("my L2", (l2, 100), page.1.0 << 12 | RW | 0x80);
    all.set("my L3", (l3, 100), page.1.0 << 12 | RW | 0x80);
    all.set("my L1", (l1, 3), page.1.0 << 12 | RW | 1 << 51);
    // Another domain's tables and frames, named by its number.
    let canary = u64::from(host.canary().domain.id().0);
    for domain in [canary, canary << 16 | SELF, 0, 0x7ff1] {
        all.add(format!("for domain {domain:#x}"), row(N::MMU_UPDATE.0, &[SCRATCH + 0x1000, 1, 0, domain]));
    }
    all
}

/// What is one level cannot be in the place of another, nor a writable page in the place of any.
fn levels(all: &mut Attempts<'_>, own: &[(&str, Mfn); 4], page: (&str, Mfn)) {
    const FREE: usize = 100;
    let commands =
        [Command::PIN_L1_TABLE, Command::PIN_L2_TABLE, Command::PIN_L3_TABLE, Command::PIN_L4_TABLE];
    for (level, &(table_name, table)) in own.iter().enumerate() {
        for (other, &(_, mfn)) in own.iter().enumerate() {
            let is_right = level == other + 1;
            if level > 0 && !is_right {
                all.set(table_name, (table, FREE), mfn.0 << 12 | RW);
            }
            if level != other {
                all.extended(table_name, commands[other], table);
            }
        }
        if level > 0 {
            all.set(table_name, (table, FREE), page.1.0 << 12 | RW);
        }
        all.extended(page.0, commands[level], page.1);
    }
    for command in [Command::NEW_BASEPTR, Command::NEW_USER_BASEPTR] {
        own[..3].iter().chain([&page]).for_each(|&(what, mfn)| all.extended(what, command, mfn));
    }
    all.extended(page.0, Command::UNPIN_TABLE, page.1);
    all.extended(own[0].0, Command::UNPIN_TABLE, own[0].1);
}

/// The processor itself refuses: tables are mapped for reading only. What such a store would write is an entry that
/// maps the root for writing.
fn stores_to_a_table() -> Result<(), Failed> {
    let host = Host::new()?;
    let probe = host.build(&Code::default())?;
    let tables: Vec<u64> = probe.plan.table_frames.clone().map(|pfn| probe.plan.address(pfn)).collect();
    probe.destroy()?;
    let mut code = Code::default();
    code.catch_faults();
    for table in &tables {
        code.mov(Reg::Rdi, table + 8 * 100);
        code.load(Reg::Rbx, SCRATCH + 0x1000).attempt(0, &[0x48, 0x89, 0x1f]); // mov [rdi], rbx
        code.attempt(0, &[0xf0, 0x48, 0x87, 0x1f]); // lock xchg [rdi], rbx
        code.attempt(0, &[0xf0, 0x80, 0x27, 0xfd]); // lock and byte [rdi], ~2
        code.attempt(0, &[0xa4]); // movsb
    }
    code.power_off();
    let guest = host.build(&code)?;
    guest.poke(SCRATCH + 0x1000, &(guest.built.root.0 << 12 | RW));
    let entry = |table: &u64| guest.memory().entry(guest.mfn(*table), 100).expect("a table").0 & !0x60;
    let before: Vec<u64> = tables.iter().map(entry).collect();
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    // No other guest has come, so the frames still hold what they held.
    let said = guest.said();
    check(said.len() == 4 * tables.len() && said.iter().all(|&vector| vector == 14), || {
        format!("{said:x?}")
    })?;
    let scrubbed = vec![0; before.len()];
    let after: Vec<u64> = tables.iter().map(entry).collect();
    check(after == before || after == scrubbed, || format!("{before:x?} became {after:x?}"))?;
    host.finish()
}

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
    code.raw(&[0x4c, 0x89, 0xfe]); // mov rsi, r15
    code.mov(Reg::Rax, N::UPDATE_VA_MAPPING.0).raw(&Via::Syscall.bytes()).say();
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
        // mov edi, WINDOW; mov ecx, 512; rep stosq: the old root is garbage.
        code.mov(Reg::Rdi, WINDOW).mov(Reg::Rcx, 512).mov(Reg::Rax, 0x6161_6161_6161_6161);
        code.raw(&[0xf3, 0x48, 0xab]);
        // Its translations are gone, and those of the new root work.
        code.increment(UNMAPPED - 8).hypercall(N::XEN_VERSION, &[0, 0]);
        // Cleared, with the one entry that it had.
        code.mov(Reg::Rdi, WINDOW).mov(Reg::Rcx, 512).raw(&[0x31, 0xc0, 0xf3, 0x48, 0xab]);
        code.load(Reg::Rax, saved).store(WINDOW + slot, Reg::Rax);
        code.hypercall(N::MULTICALL, &[back, 2]).load(Reg::Rax, back + 64 + 8);
        code.raw(&[0x48, 0x85, 0xc0]); // test rax, rax
        let fine = code.here() + 6 + 2;
        code.jump(Condition::Zero, fine).raw(&[0x0f, 0x0b]);
        patches.push((leave, pin, out));
    }
    code.raw(&[0x49, 0xff, 0xcc]).jump(Condition::NotZero, again); // dec r12
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
