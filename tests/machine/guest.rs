//! A tiny guest: code, a stack and pages at fixed addresses, on tables that the test writes by hand.

use hypervisor::cpuid::hypervisor_leaves;
use hypervisor::machine::kvm::{KvmMachine, MachineConfig};
use hypervisor::machine::{Context, Exit, MachineMemory, Pcpu, Root};
use libtest_mimic::Failed;
use pv_abi::page_table::{FIRST_HYPERVISOR_SLOT, Level, Pte, PteFlags};
use pv_abi::{Mfn, PAGE_SIZE};

pub const CODE: u64 = 0x40_0000;
pub const STACK_TOP: u64 = CODE + 2 * PAGE_SIZE as u64;
/// A page that every root maps, for the host and the guest to talk.
pub const MAILBOX: u64 = CODE + 2 * PAGE_SIZE as u64;

pub fn machine(pcpus: u32) -> Result<KvmMachine, Failed> {
    KvmMachine::new(MachineConfig { frames: 8192, pcpus, leaves: hypervisor_leaves })
        .map_err(|error| error.to_string().into())
}

/// The frames of one guest, at fixed offsets from `base`.
#[derive(Clone, Copy)]
pub struct Guest {
    pub base: Mfn,
}

impl Guest {
    pub fn frame(&self, n: u64) -> Mfn {
        Mfn(self.base.0 + n)
    }
    pub fn root(&self) -> Mfn {
        self.frame(0)
    }
    /// A second root over the same tables.
    pub fn other_root(&self) -> Mfn {
        self.frame(9)
    }
    pub fn l2(&self) -> Mfn {
        self.frame(2)
    }
    pub fn l1(&self) -> Mfn {
        self.frame(3)
    }
    pub fn other_l1(&self) -> Mfn {
        self.frame(4)
    }
    pub fn code(&self) -> Mfn {
        self.frame(5)
    }
    pub fn mailbox(&self) -> Mfn {
        self.frame(7)
    }
    /// Builds guest `number` of the machine with `code` at [`CODE`].
    pub fn new(machine: &KvmMachine, number: u64, code: &[u8]) -> Result<Self, Failed> {
        let guest = Self { base: Mfn(machine.layout.first_free.0 + number * 64) };
        let memory = &machine.memory;
        for root in [guest.root(), guest.other_root()] {
            for (n, slot) in machine.layout.slots.iter().enumerate() {
                memory.exchange_entry(root, FIRST_HYPERVISOR_SLOT + n, *slot, 0)?;
            }
            put(memory, root, Level::L4, CODE, rw(guest.frame(1)))?;
        }
        put(memory, guest.frame(1), Level::L3, CODE, rw(guest.l2()))?;
        put(memory, guest.l2(), Level::L2, CODE, rw(guest.l1()))?;
        for l1 in [guest.l1(), guest.other_l1()] {
            put(memory, l1, Level::L1, CODE, rw(guest.code()))?;
            put(memory, l1, Level::L1, STACK_TOP - 1, rw(guest.frame(6)))?;
            put(memory, l1, Level::L1, MAILBOX, rw(guest.mailbox()))?;
        }
        memory.write(guest.code(), 0, code)?;
        Ok(guest)
    }

    pub fn context(&self, identity: u64) -> Context {
        let mut context = Context::new(identity, Root::of_valid_l4(self.root()), CODE);
        context.registers.rsp = STACK_TOP;
        context
    }
}

pub fn rw(mfn: Mfn) -> Pte {
    Pte::new(mfn, PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER)
}

/// Stores an entry that was not present before.
pub fn put(memory: &MachineMemory, table: Mfn, level: Level, address: u64, pte: Pte) -> Result<(), Failed> {
    memory.exchange_entry(table, level.index(address), pte, 0)?;
    Ok(())
}

/// Enters until something other than a kick happens.
pub fn enter(memory: &MachineMemory, pcpu: &mut dyn Pcpu, context: &mut Context) -> Result<Exit, Failed> {
    loop {
        match enter_once(memory, pcpu, context)? {
            Exit::Kicked => {}
            exit => return Ok(exit),
        }
    }
}

/// Enters. Where the machine refuses `syscall`, this carries it out, as the layers above the machine do.
pub fn enter_once(
    memory: &MachineMemory,
    pcpu: &mut dyn Pcpu,
    context: &mut Context,
) -> Result<Exit, Failed> {
    let exit = pcpu.enter(context)?;
    let refused = matches!(exit, Exit::Exception { vector: 6, .. }) && !context.runs_32_bit_code();
    if refused && bytes_at(memory, context.root.mfn(), context.registers.rip) == Some([0x0f, 0x05]) {
        context.registers.rip += 2;
        return Ok(Exit::Syscall);
    }
    Ok(exit)
}

/// Two bytes of a guest's, within a page.
fn bytes_at(memory: &MachineMemory, root: Mfn, address: u64) -> Option<[u8; 2]> {
    let mut table = root;
    for level in [Level::L4, Level::L3, Level::L2, Level::L1] {
        let entry = memory.entry(table, level.index(address)).ok().filter(|entry| entry.is_present())?;
        table = entry.mfn();
    }
    let mut bytes = [0; 2];
    memory.read(table, address as usize % PAGE_SIZE, &mut bytes).ok()?;
    Some(bytes)
}
