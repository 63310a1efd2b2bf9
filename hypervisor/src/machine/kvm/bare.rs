//! A bare VM: the machine's pages and stub with one vCPU, and nothing that makes a hypervisor of it. It checks
//! nothing, saves nothing and cannot be kicked. Measurements compare with it.
//!
//! Its guest is one page of code at CPL3, with a page of stack and a window of pages, on tables that never change.
//! It may run on either of two roots over the same tables.

use super::super::{MachineError, MachineMemory, NoSuchFrame, Registers};
use super::area::{Area, LSTAR, PcpuPages, STUB};
use super::probe::KvmKind;
use super::registers::{from_kvm, to_kvm};
use super::run::{Reason, Run};
use super::stub::{self, PORT_VECTOR, VECTORS};
use super::vm::{self, EmptyVm, HostError};
use kvm_bindings::{KVM_SYNC_X86_REGS, kvm_regs, kvm_sregs};
use pv_abi::page_table::{ENTRIES, FIRST_HYPERVISOR_SLOT, Level, Pte, PteFlags};
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::{Vector, rflags};
use pv_abi::{Mfn, PAGE_SIZE};
use std::sync::Arc;

/// Where the code is. The stack is the page behind it.
pub const CODE: u64 = 0x40_0000;
/// Where the window starts.
pub const WINDOW: u64 = 0x80_0000;

/// Bytes of the instruction `syscall` (0f 05).
const SYSCALL_LENGTH: u64 = 2;

/// Why the guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareExit {
    /// It executed `syscall`.
    Syscall,
    /// A store to the doorbell.
    Doorbell,
    /// It raised the exception of this vector.
    Exception(u8),
}

/// See the head of this file.
#[derive(Debug)]
pub struct Bare {
    /// The guest's registers, as of the last exit and for the next entry.
    pub registers: Registers,
    run: Run,
    memory: Arc<MachineMemory>,
    pages: PcpuPages,
    offsets: stub::Offsets,
    frames: Frames,
    /// What the vCPU was made with: its segments are the stub's.
    at_stub: kvm_sregs,
    /// It stopped in the guest, not in the stub.
    at_cpl3: bool,
    /// The root to load on the way in.
    load: Option<Mfn>,
    /// Machine address of the doorbell.
    doorbell: u64,
}

/// The guest's frames, from `first` on: two roots, L3, L2, an L1 table for the code, then the code, the stack, the
/// window's L1 tables and the window.
#[derive(Clone, Copy, Debug)]
struct Frames {
    first: u64,
    window_pages: u64,
}

impl Frames {
    const fn nth(self, n: u64) -> Mfn {
        Mfn(self.first + n)
    }

    const fn window_table(self, n: u64) -> Mfn {
        self.nth(7 + n)
    }

    const fn window_page(self, n: u64) -> Mfn {
        self.nth(7 + self.window_pages.div_ceil(ENTRIES as u64) + n)
    }
}

impl Bare {
    /// Makes a VM whose guest has `code` and `window_pages` pages in its window.
    ///
    /// # Errors
    /// The host's.
    pub fn new(kind: KvmKind, window_pages: u64, code: &[u8]) -> Result<Self, HostError> {
        let window = window_pages + window_pages.div_ceil(ENTRIES as u64);
        // The machine's own pages, whose number depends on the sum a little, and the guest's other tables and code.
        let vm = EmptyVm::new(|_, _| Vec::new())?;
        let doorbells = vm.doorbells();
        let total = window + Area::new(window, 1, doorbells).frames_needed() + 16;
        let area = Area::new(total, 1, doorbells);
        let frames = Frames { first: area.frames_needed(), window_pages };
        let memory = Arc::new(MachineMemory::new(total)?);
        vm::write_area(&memory, &area, 2)?;
        build(&memory, &area, frames, kind, code).map_err(not_there)?;
        let vm = vm.map(Arc::clone(&memory))?;
        let pages = area.pcpu(0);
        let (mut run, at_stub) = vm.create_vcpu(0, area.scribe_root(), &pages)?;
        run.synchronise(KVM_SYNC_X86_REGS);
        let registers = Registers::default();
        let (offsets, load) = (stub::offsets(), Some(frames.nth(0)));
        Ok(Self {
            registers,
            run,
            memory,
            pages,
            offsets,
            frames,
            at_stub,
            at_cpl3: false,
            load,
            doorbell: doorbells.hypercalls(),
        })
    }

    /// The memory of the bare VM.
    pub fn memory(&self) -> &MachineMemory {
        &self.memory
    }

    /// The frame of page `n` of the window.
    pub fn window(&self, n: u64) -> Mfn {
        self.frames.window_page(n)
    }

    /// Starts the guest's code anew at the next entry, with these registers.
    pub fn start(&mut self, registers: Registers) {
        let (rip, rsp) = (CODE, CODE + 2 * PAGE_SIZE as u64);
        self.registers = Registers { rip, rsp, rflags: rflags::RESERVED1 | rflags::IF, ..registers };
    }

    /// Loads a root on the way into the guest: the first or the second.
    pub fn load_root(&mut self, second: bool) {
        self.load = Some(self.frames.nth(second.into()));
    }

    /// Runs the guest until it stops.
    ///
    /// # Errors
    /// The host's, or where the guest did what it cannot.
    pub fn run(&mut self) -> Result<BareExit, MachineError> {
        self.resume()?;
        loop {
            match self.run.run()? {
                Reason::Interrupted => {}
                Reason::Mmio { address, is_write: true, .. } if address == self.doorbell => {
                    self.at_cpl3 = true;
                    self.registers = from_kvm(&self.run.regs());
                    return Ok(BareExit::Doorbell);
                }
                Reason::Out { port } if (PORT_VECTOR..PORT_VECTOR + VECTORS).contains(&port) => {
                    self.at_cpl3 = false;
                    return self.take_exception((port - PORT_VECTOR) as u8);
                }
                other => {
                    let error = std::io::Error::other(format!("{other:?} at {:#x}", self.run.regs().rip));
                    return Err(MachineError::new("a bare VM stopped", error));
                }
            }
        }
    }

    fn take_exception(&mut self, vector: u8) -> Result<BareExit, MachineError> {
        let regs = from_kvm(&self.run.regs());
        let mut bytes = [0; 40];
        let skip = if Vector(vector).has_error_code() { 8 } else { 0 };
        let (frame, base) = self.pages.stack();
        let offset = regs.rsp.wrapping_add(skip).wrapping_sub(base) as usize;
        self.memory.read(frame, offset, &mut bytes).map_err(not_there)?;
        let words =
            |n: usize| bytes.as_chunks::<8>().0.get(n).copied().map(u64::from_le_bytes).unwrap_or_default();
        let (rip, flags, rsp) = (words(0), words(2), words(3));
        if rip == LSTAR {
            self.registers = Registers { rip: regs.rcx, rflags: regs.r11, rsp, ..regs };
            return Ok(BareExit::Syscall);
        }
        // Nothing else in its code raises this.
        if Vector(vector) == Vector::INVALID_OPCODE {
            self.registers = Registers { rip: rip.wrapping_add(SYSCALL_LENGTH), rflags: flags, rsp, ..regs };
            return Ok(BareExit::Syscall);
        }
        self.registers = Registers { rip, rflags: flags, rsp, ..regs };
        Ok(BareExit::Exception(vector))
    }

    fn resume(&mut self) -> Result<(), MachineError> {
        let load = self.load.take();
        if self.at_cpl3 {
            if load.is_none() {
                self.run.set_regs(&to_kvm(&self.registers));
                return Ok(());
            }
            self.run.set_sregs(&self.at_stub);
        }
        let guest = &self.registers;
        let (cs, ss) = (FLAT_RING3_CS64.into(), FLAT_RING3_SS64.into());
        let mut bytes = [0; 48];
        let words = [guest.rax, guest.rip, cs, guest.rflags, guest.rsp, ss];
        bytes.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
        let (frame, base) = self.pages.stack();
        let offset = PAGE_SIZE - bytes.len();
        self.memory.write(frame, offset, &bytes).map_err(not_there)?;
        let mut regs = kvm_regs { rflags: rflags::RESERVED1, ..to_kvm(guest) };
        (regs.rip, regs.rsp) = (STUB + self.offsets.resume, base + offset as u64 + 8);
        if let Some(root) = load {
            (regs.rip, regs.rsp) = (STUB + self.offsets.load_root, base + offset as u64);
            regs.rax = root.address();
        }
        self.run.set_regs(&regs);
        Ok(())
    }
}

fn build(
    memory: &MachineMemory,
    area: &Area,
    frames: Frames,
    kind: KvmKind,
    code: &[u8],
) -> Result<(), NoSuchFrame> {
    if kind == KvmKind::Software {
        area.map_gate(memory)?;
    }
    let flags = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER;
    let set = |table, index, page| memory.exchange_entry(table, index, Pte::new(page, flags), 0).map(|_| ());
    let (l3, l2, code_l1) = (frames.nth(2), frames.nth(3), frames.nth(4));
    for root in [frames.nth(0), frames.nth(1)] {
        for (n, slot) in area.slots(false).into_iter().enumerate() {
            memory.exchange_entry(root, FIRST_HYPERVISOR_SLOT + n, slot, 0)?;
        }
        set(root, Level::L4.index(CODE), l3)?;
    }
    set(l3, Level::L3.index(CODE), l2)?;
    set(l2, Level::L2.index(CODE), code_l1)?;
    set(code_l1, Level::L1.index(CODE), frames.nth(5))?;
    set(code_l1, Level::L1.index(CODE) + 1, frames.nth(6))?;
    for n in 0..frames.window_pages {
        let table = frames.window_table(n / ENTRIES as u64);
        set(l2, Level::L2.index(WINDOW) + n as usize / ENTRIES, table)?;
        set(table, n as usize % ENTRIES, frames.window_page(n))?;
    }
    memory.write(frames.nth(5), 0, code)
}

fn not_there(error: NoSuchFrame) -> MachineError {
    MachineError::new("a bare VM's pages", std::io::Error::other(error))
}
