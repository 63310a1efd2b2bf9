//! **The** test of the machine: a translation that outlives its entry is a guest's way out.
//!
//! A guest at CPL3 never stops storing a ticket, which the host raises, through an address whose mapping the host
//! changes. Once the change is settled the host raises the ticket; if the old page ever holds the new one, an
//! access succeeded that the tables forbid.

use crate::guest::{self, DATA, Guest, MAILBOX, enter, machine, put, replace, ro, rw};
use crate::support::{check, fail};
use hypervisor::machine::kvm::{KvmKind, KvmMachine};
use hypervisor::machine::{Change, Exit, Kick, MachineError, Pcpu, Translations};
use libtest_mimic::Failed;
use pv_abi::page_table::{Level, Pte};
use pv_abi::{Mfn, PAGE_SIZE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What is done to the mapping of [`DATA`], from read-write to page A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Unmap,
    Remap,
    Protect,
    MoveUpperEntry,
    ReuseTable,
}

/// Who keeps touching it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toucher {
    /// The pcpu that is out when the change is made.
    SamePcpu,
    /// A pcpu that runs meanwhile.
    OtherPcpu,
    /// The same, on another root over the same tables.
    OtherRoot,
    /// The same, through another address of the page, which the change covers as well.
    Alias,
}

pub const OPERATIONS: [Operation; 5] = [
    Operation::Unmap,
    Operation::Remap,
    Operation::Protect,
    Operation::MoveUpperEntry,
    Operation::ReuseTable,
];
pub const TOUCHERS: [Toucher; 4] =
    [Toucher::SamePcpu, Toucher::OtherPcpu, Toucher::OtherRoot, Toucher::Alias];

/// mov rax, [rdi]; mov [rsi], rax; inc qword [rdi + 8]; jmp to the start; for one round: syscall instead.
const LOOP: &[u8] = &[0x48, 0x8b, 0x07, 0x48, 0x89, 0x06, 0x48, 0xff, 0x47, 0x08, 0xeb, 0xf4];
const ONCE: &[u8] = &[0x48, 0x8b, 0x07, 0x48, 0x89, 0x06, 0x0f, 0x05];
const ONCE_AT: u64 = 0x100;
const ALIAS: u64 = DATA + 5 * PAGE_SIZE as u64;

/// Leaves everything out that makes a change take effect.
#[derive(Debug)]
struct Sabotage;

impl Translations for Sabotage {
    fn settle(&self, _: &[Change]) -> Result<(), MachineError> {
        Ok(())
    }
    fn retire(&self, _: Mfn, _: Level) -> Result<(), MachineError> {
        Ok(())
    }
    fn flush(&self) -> Result<(), MachineError> {
        Ok(())
    }
}

struct Cell<'a> {
    machine: &'a KvmMachine,
    guest: Guest,
    operation: Operation,
    address: u64,
    way: &'a dyn Translations,
}

impl Cell<'_> {
    fn page_a(&self) -> Mfn {
        self.guest.page(0)
    }

    fn set(&self, table: (Mfn, Level), pte: Pte) -> Result<(), Failed> {
        replace(&self.machine.memory, self.way, table, self.address, pte)
    }

    /// Maps page A, with the real way of settling: only the operation under test may be sabotaged.
    fn reset(&self) -> Result<(), Failed> {
        let (memory, way) = (&*self.machine.memory, &*self.machine.translations);
        let table = (self.guest.l1(), Level::L1);
        replace(memory, way, (self.guest.l2(), Level::L2), self.address, rw(self.guest.l1()))?;
        replace(memory, way, table, self.address, rw(self.page_a()))?;
        put(memory, self.guest.other_l1(), Level::L1, self.address, rw(self.guest.page(1)))
    }

    fn operate(&self) -> Result<(), Failed> {
        let (l1, l2) = ((self.guest.l1(), Level::L1), (self.guest.l2(), Level::L2));
        match self.operation {
            Operation::Unmap => self.set(l1, Pte(0)),
            Operation::Remap => self.set(l1, rw(self.guest.page(1))),
            Operation::Protect => self.set(l1, ro(self.page_a())),
            Operation::MoveUpperEntry => self.set(l2, rw(self.guest.other_l1())),
            Operation::ReuseTable => {
                self.set(l2, rw(self.guest.other_l1()))?;
                self.way.retire(self.guest.l1(), Level::L1)?;
                put(&self.machine.memory, self.guest.l1(), Level::L1, self.address, rw(self.guest.page(1)))?;
                self.set(l2, rw(self.guest.l1()))
            }
        }
    }

    fn ticket(&self, ticket: u64) -> Result<(), Failed> {
        Ok(self.machine.memory.store_u64(self.guest.mailbox(), 0, ticket)?)
    }

    fn rounds(&self) -> Result<u64, Failed> {
        Ok(self.machine.memory.load_u64(self.guest.mailbox(), 8)?)
    }

    fn stale(&self, ticket: u64) -> Result<u64, Failed> {
        Ok(u64::from(self.machine.memory.load_u64(self.page_a(), 0)? >= ticket))
    }
}

/// The odd tickets of `tries` tries: fewer where the machine is slow, and never fewer than 20.
fn tickets(tries: u64) -> impl Iterator<Item = u64> {
    let end = Instant::now() + Duration::from_secs(1);
    (1..=tries * 2).step_by(2).take_while(move |&ticket| ticket < 40 || Instant::now() < end)
}

/// Runs one cell `tries` times; how many accesses succeeded that must not.
fn run_cell(
    operation: Operation,
    toucher: Toucher,
    tries: u64,
    sabotage: bool,
) -> Result<(u64, KvmKind), Failed> {
    let mut machine = machine(2)?;
    let mut code = vec![0xcc; ONCE_AT as usize];
    code[..LOOP.len()].copy_from_slice(LOOP);
    code.extend(ONCE);
    let guest = Guest::new(&machine, 0, &code)?;
    let pcpus = std::mem::take(&mut machine.pcpus);
    let way: Arc<dyn Translations> =
        if sabotage { Arc::new(Sabotage) } else { Arc::clone(&machine.translations) };
    let address = if toucher == Toucher::Alias { ALIAS } else { DATA };
    let cell = Cell { machine: &machine, guest, operation, address, way: &*way };
    let kind = machine.report.kvm;
    let [first, second] = <[_; 2]>::try_from(pcpus).map_err(|_| "two pcpus")?;
    let stale = match toucher {
        Toucher::SamePcpu => same_pcpu(&cell, first.0, tries),
        _ => other_pcpu(&cell, second, toucher == Toucher::OtherRoot, tries),
    }?;
    Ok((stale, kind))
}

fn same_pcpu(cell: &Cell<'_>, mut pcpu: impl Pcpu, tries: u64) -> Result<u64, Failed> {
    let mut context = cell.guest.context(1);
    let mut touch = |ticket: u64| {
        cell.ticket(ticket)?;
        context.registers.rip = guest::CODE + ONCE_AT;
        context.registers.rdi = MAILBOX;
        context.registers.rsi = cell.address;
        enter(&mut pcpu, &mut context)
    };
    let mut stale = 0;
    for ticket in tickets(tries) {
        cell.reset()?;
        let before = touch(ticket)?;
        check(before == Exit::Syscall && cell.stale(ticket)? == 1, || format!("not mapped: {before:?}"))?;
        cell.operate()?;
        touch(ticket + 1)?;
        stale += cell.stale(ticket + 1)?;
    }
    Ok(stale)
}

fn other_pcpu(
    cell: &Cell<'_>,
    (mut pcpu, kick): (impl Pcpu, Arc<impl Kick>),
    other_root: bool,
    tries: u64,
) -> Result<u64, Failed> {
    let stop = AtomicBool::new(false);
    let faults = AtomicU64::new(0);
    let mut context = cell.guest.context(2);
    if other_root {
        context.root = cell.guest.other_root();
    }
    cell.reset()?;
    std::thread::scope(|scope| {
        let touching = scope.spawn(|| -> Result<(), String> {
            while !stop.load(SeqCst) {
                context.registers.rip = guest::CODE;
                context.registers.rdi = MAILBOX;
                context.registers.rsi = cell.address;
                match pcpu.enter(&mut context) {
                    Ok(Exit::Exception { vector: 14, .. }) => _ = faults.fetch_add(1, SeqCst),
                    Ok(Exit::Kicked) => {}
                    other => return Err(format!("{other:?}")),
                }
            }
            Ok(())
        });
        // A round through the loop, or a fault: the toucher has tried since.
        let tried = || -> Result<(), Failed> {
            let (rounds, before) = (cell.rounds()?, faults.load(SeqCst));
            while cell.rounds()? < rounds + 2 && faults.load(SeqCst) < before + 2 {
                if touching.is_finished() {
                    return fail("the toucher ended");
                }
                std::hint::spin_loop();
            }
            Ok(())
        };
        let run = || -> Result<u64, Failed> {
            let mut stale = 0;
            for ticket in tickets(tries) {
                cell.reset()?;
                cell.ticket(ticket)?;
                tried()?;
                cell.operate()?;
                cell.ticket(ticket + 1)?;
                tried()?;
                stale += cell.stale(ticket + 1)?;
            }
            Ok(stale)
        };
        let stale = run();
        stop.store(true, SeqCst);
        kick.kick();
        match touching.join() {
            Ok(Ok(())) => stale,
            Ok(Err(error)) => fail(format!("the toucher: {error}")),
            Err(_) => fail("the toucher panicked"),
        }
    })
}

/// Nothing stale is ever used.
pub fn never_stale(operation: Operation, toucher: Toucher) -> Result<(), Failed> {
    let (stale, _) = run_cell(operation, toucher, 500, false)?;
    check(stale == 0, || format!("{stale} accesses succeeded after the change was settled"))
}

/// Fail closed: a way of changing tables that changes nothing does not pass the start-up probe, the real one does.
pub fn the_probe_refuses_sabotage() -> Result<(), Failed> {
    let mut machine = machine(2)?;
    let real = Arc::clone(&machine.translations);
    machine.probe_tables(&*real)?.map_err(|why| format!("the real way: {why}"))?;
    let refused = machine.probe_tables(&Sabotage)?.is_err();
    // As below: emulated SVM hides it.
    check(refused || machine.report.kvm == KvmKind::Hardware, || "sabotage passed the probe".into())
}

/// The test above can fail: without settling, something stale is used.
pub fn sabotage_is_noticed(operation: Operation, toucher: Toucher) -> Result<(), Failed> {
    let (stale, kind) = run_cell(operation, toucher, 50, true)?;
    // Emulated SVM flushes at each entry: there only a pcpu that does not leave the guest can be caught, and it
    // leaves of its own accord sometimes.
    let can_be_seen = kind == KvmKind::Software;
    check(stale > 0 || !can_be_seen, || "nothing stale was seen although nothing was settled".into())
}
