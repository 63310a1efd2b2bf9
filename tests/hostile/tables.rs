//! Guests that play with page tables: theirs, a neighbour's and the hypervisor's.

use crate::hypercalls::{Row, caller, row};
use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Guest, Host, Reg, SCRATCH, TABLE, Via, check_power_off};
use libtest_mimic::{Failed, Trial};
use pv_abi::Mfn;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::mmu::{MmuExtCommand as Command, MmuExtOp, MmuUpdate};
use pv_abi::page_table::{Level, Pte};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("tables/what is not the guest's", what_is_not_the_guests),
        kvm_test("tables/stores to a table", stores_to_a_table),
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
