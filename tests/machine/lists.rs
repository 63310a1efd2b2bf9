//! Long lists of changes: the last one takes effect as the first. What carries them out does so in pieces.

use crate::guest::{CODE, Guest, MAILBOX, enter, machine, put, rw};
use crate::support::{check, kvm_test};
use hypervisor::machine::kvm::{KvmMachine, KvmPcpu};
use hypervisor::machine::{Change, Exit};
use libtest_mimic::{Failed, Trial};
use pv_abi::page_table::{ENTRIES, Level, Pte};
use pv_abi::{Mfn, PAGE_SIZE};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("lists/upper entries of many tables", upper_entries_of_many_tables),
        kvm_test("lists/a full table that is retired", a_full_table_that_is_retired),
        kvm_test("lists/a table full of pages", a_table_full_of_pages),
    ]
}

const OLD: u64 = 0x01d0_01d0;
const NEW: u64 = 0x2e30_2e30;
/// Where tables of the test's own are shown: an L3 table, an L2 table, an L1 table, away from the guest's code.
const BELOW_L3: u64 = 1 << 39;
const BELOW_L2: u64 = 1 << 30;
const BELOW_L1: u64 = CODE + (1 << 21);
/// In the guest's L1 tables, where the two differ.
const OFFSET: u64 = MAILBOX - CODE;

struct Setup {
    machine: KvmMachine,
    guest: Guest,
    pcpu: KvmPcpu,
    /// An empty frame, for a table.
    table: Mfn,
}

impl Setup {
    /// A guest whose two L1 tables lead from the same address to different pages.
    fn new() -> Result<Self, Failed> {
        let mut machine = machine(1)?;
        let guest = Guest::new(&machine, 0, &[0x48, 0x8b, 0x07, 0x0f, 0x05])?; // mov rax, [rdi]; syscall
        let other = guest.frame(8);
        machine.memory.exchange_entry(guest.other_l1(), Level::L1.index(MAILBOX), rw(other), 0)?;
        for (mfn, value) in [(guest.mailbox(), OLD), (other, NEW)] {
            machine.memory.write(mfn, 0, &value.to_le_bytes())?;
        }
        let (pcpu, _) = machine.pcpus.remove(0);
        let table = guest.frame(10);
        Ok(Self { machine, guest, pcpu, table })
    }

    /// What the guest reads there; nothing where it faults.
    fn read(&mut self, address: u64) -> Result<Option<u64>, Failed> {
        let mut context = self.guest.context(1);
        context.registers.rdi = address;
        match enter(&self.machine.memory, &mut self.pcpu, &mut context)? {
            Exit::Syscall => Ok(Some(context.registers.rax)),
            Exit::Exception { vector: 14, .. } => Ok(None),
            exit => Err(format!("{address:#x}: {exit:?}").into()),
        }
    }

    /// The guest reads through each entry of the table.
    fn expect(
        &mut self,
        address: impl Fn(u64) -> u64,
        wanted: impl Fn(u64) -> Option<u64>,
    ) -> Result<(), Failed> {
        for index in 0..ENTRIES as u64 {
            let (seen, wanted) = (self.read(address(index))?, wanted(index));
            check(seen == wanted, || format!("entry {index}: {seen:x?} instead of {wanted:x?}"))?;
        }
        Ok(())
    }

    /// Sets all entries of the table, and returns the changes.
    fn fill(&self, level: Level, entry: impl Fn(u64) -> Pte) -> Result<Vec<Change>, Failed> {
        let set = |index| {
            let old = self.machine.memory.exchange_entry(self.table, index, entry(index as u64), 0)?;
            Ok(Change { table: self.table, index: index as u16, level, old })
        };
        (0..ENTRIES).map(set).collect()
    }

    /// One of many frames that nobody uses, no two of which are neighbours.
    fn spare(&self, n: u64) -> Mfn {
        Mfn(self.guest.base.0 + 1024 + 2 * n)
    }
}

/// A KVM that sees several stores into one table gives up all of what it derived from that: so one entry a table.
fn upper_entries_of_many_tables() -> Result<(), Failed> {
    let mut setup = Setup::new()?;
    let index = Level::L2.index(BELOW_L3);
    for n in 0..ENTRIES as u64 {
        put(&setup.machine.memory, setup.spare(n), Level::L2, BELOW_L3, rw(setup.guest.l1()))?;
    }
    setup.fill(Level::L3, |n| rw(setup.spare(n)))?;
    put(&setup.machine.memory, setup.guest.root(), Level::L4, BELOW_L3, rw(setup.table))?;
    let address = |n| BELOW_L3 + (n << 30) + OFFSET;
    setup.expect(address, |_| Some(OLD))?;
    let changes = (0..ENTRIES as u64).map(|n| {
        let (table, level) = (setup.spare(n), Level::L2);
        let old = setup.machine.memory.exchange_entry(table, index, rw(setup.guest.other_l1()), 0)?;
        Ok(Change { table, index: index as u16, level, old })
    });
    let changes: Vec<Change> = changes.collect::<Result<_, Failed>>()?;
    setup.machine.translations.settle(&changes)?;
    setup.expect(address, |_| Some(NEW))
}

fn a_full_table_that_is_retired() -> Result<(), Failed> {
    let mut setup = Setup::new()?;
    let (above, index) = (setup.guest.frame(1), Level::L3.index(BELOW_L2));
    setup.fill(Level::L2, |_| rw(setup.guest.l1()))?;
    put(&setup.machine.memory, above, Level::L3, BELOW_L2, rw(setup.table))?;
    let address = |n| BELOW_L2 + (n << 21) + OFFSET;
    setup.expect(address, |_| Some(OLD))?;
    let old = setup.machine.memory.exchange_entry(above, index, Pte(0), 0)?;
    setup.machine.translations.settle(&[Change {
        table: above,
        index: index as u16,
        level: Level::L3,
        old,
    }])?;
    setup.machine.translations.retire(setup.table, Level::L2)?;
    setup.fill(Level::L2, |_| rw(setup.guest.other_l1()))?;
    put(&setup.machine.memory, above, Level::L3, BELOW_L2, rw(setup.table))?;
    setup.expect(address, |_| Some(NEW))
}

/// Each has to be invalidated by itself.
fn a_table_full_of_pages() -> Result<(), Failed> {
    let mut setup = Setup::new()?;
    for n in 0..ENTRIES as u64 {
        setup.machine.memory.write(setup.spare(n), 0, &(OLD + n).to_le_bytes())?;
    }
    setup.fill(Level::L1, |n| rw(setup.spare(n)))?;
    put(&setup.machine.memory, setup.guest.l2(), Level::L2, BELOW_L1, rw(setup.table))?;
    let address = |n| BELOW_L1 + n * PAGE_SIZE as u64;
    setup.expect(address, |n| Some(OLD + n))?;
    let changes = setup.fill(Level::L1, |_| Pte(0))?;
    setup.machine.translations.settle(&changes)?;
    setup.expect(address, |_| None)
}
