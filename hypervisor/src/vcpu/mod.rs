//! A vCPU: what a guest sees as its processor. Plain data; a pcpu's thread holds its lock while it runs there.
//!
//! Invariants, with the tests that guard them (`vcpu::tests`):
//! - kernel and user mode both run at CPL3; which one it is, is [`Vcpu::mode`] and nothing else. The context
//!   holds GS base and root of that mode, `other_gs_base` and [`Vcpu::roots`] those of the other
//!   (`a_trap_from_user_mode_uses_the_kernel_stack`);
//! - whatever a guest chose for RIP, RSP, flags, selectors and bases passes [`resume::prepare`] before each
//!   entry (`what_cannot_be_resumed_goes_to_the_failsafe_callback`);
//! - at most one exception is on its way to a guest: bouncing one writes its frame at once, and a frame that
//!   cannot be written ends the domain (`a_frame_that_cannot_be_written_crashes_the_domain`).

mod bounce;
mod callbacks;
mod continuation;
pub mod debug;
mod gdt;
mod handle;
mod info;
mod initialise;
mod iret;
mod mode;
pub mod resume;
mod runstate;
mod trap_table;

#[cfg(test)]
pub(crate) mod tests;

pub use bounce::{bounce_syscall32, bounce_sysenter, bounce_trap, bounce_user_syscall};
pub use callbacks::{Callback, Callbacks};
pub use continuation::{Continuation, Progress};
pub use gdt::GuestGdt;
pub use handle::{Claim, VcpuHandle, VcpuKey};
pub use info::InfoPage;
pub use initialise::initialise;
pub use iret::iret;
pub use mode::Mode;
pub use trap_table::TrapTable;

use crate::error::Failure;
use crate::guest_memory::GuestSpace;
use crate::machine::{CR4_FSGSBASE, Context, Root};
use crate::paging::{Budget, Mmu, Roots};
use crate::time::VcpuClock;
use pv_abi::{DomId, Mfn, VcpuId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a vCPU without a pcpu waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// For a pcpu: it could run.
    Ready,
    /// It sleeps until an event comes.
    Blocked,
}

/// Where a domain starts (`start_info` and the initial stack are the builder's).
#[derive(Clone, Copy, Debug)]
pub struct StartState {
    /// The kernel's root table, pinned.
    pub root: Mfn,
    /// The address of its first instruction.
    pub entry: u64,
    /// Top of the boot stack.
    pub stack: u64,
    /// Virtual address of `start_info`.
    pub start_info: u64,
}

/// A vCPU's private state.
#[derive(Debug)]
pub struct Vcpu {
    /// The domain that it is of.
    pub domain: DomId,
    /// Its number in the domain.
    pub id: VcpuId,
    /// How many vCPUs its domain has.
    pub domain_vcpus: u32,
    /// All that a pcpu loads of it.
    pub context: Context,
    /// Which half of the guest runs.
    pub mode: Mode,
    /// Root tables of both modes.
    pub roots: Roots,
    /// GS base of the mode that does not run.
    pub other_gs_base: u64,
    /// GS selector of the mode that does not run.
    pub other_gs: u16,
    /// Where its kernel wants exceptions delivered.
    pub traps: TrapTable,
    /// Where everything else goes.
    pub callbacks: Callbacks,
    /// Stack pointer for traps from user mode.
    pub kernel_stack: u64,
    /// The guest's part of the GDT.
    pub gdt: GuestGdt,
    /// I/O privilege level that the kernel gave itself.
    pub iopl: u8,
    /// The bits of DR7 that arm breakpoints for I/O, none of which is loaded.
    io_breakpoints: u64,
    /// What the kernel wrote to CR4. It finds there only what is its own to choose (`emulate/control.rs`).
    pub cr4: u64,
    /// Bits of `vm_assist` that are on, for all vCPUs of the domain.
    pub assists: Arc<AtomicU64>,
    /// A hypercall that has to be finished before the guest runs again.
    pub continuation: Option<Continuation>,
    /// What its guest computes the time from.
    pub clock: VcpuClock,
    /// Since when it has been without a pcpu, and why, where that is traced.
    pub rest: Option<(u64, Rest)>,
}

impl Vcpu {
    /// A vCPU that has not started, of a domain with `domain_vcpus` vCPUs, itself among them.
    pub fn new(domain: DomId, id: VcpuId, domain_vcpus: u32, assists: Arc<AtomicU64>) -> Self {
        static IDENTITIES: AtomicU64 = AtomicU64::new(1);
        let identity = IDENTITIES.fetch_add(1, Ordering::Relaxed);
        Self {
            domain,
            id,
            domain_vcpus,
            context: Context::new(identity, Root::NONE, 0),
            mode: Mode::Kernel,
            roots: Roots::default(),
            other_gs_base: 0,
            other_gs: 0,
            traps: TrapTable::default(),
            callbacks: Callbacks::default(),
            kernel_stack: 0,
            gdt: GuestGdt::default(),
            iopl: 0,
            io_breakpoints: 0,
            cr4: 0,
            assists,
            continuation: None,
            clock: VcpuClock::default(),
            rest: None,
        }
    }

    /// Makes it start as Xen's ABI has it.
    ///
    /// # Errors
    /// Where the root is not a validated root table of the domain.
    pub fn start(&mut self, mmu: &Mmu, state: &StartState) -> Result<(), Failure> {
        // The builder pinned the root, so this is one step.
        let started = mmu.new_baseptr(self.domain, &mut self.roots, state.root, &mut Budget::unlimited())?;
        debug_assert_eq!(started, crate::paging::Progress::Done);
        self.reload_root();
        self.context.registers.rip = state.entry;
        self.context.registers.rsp = state.stack;
        self.context.registers.rsi = state.start_info;
        Ok(())
    }

    /// Takes over what the kernel wrote to CR4.
    pub fn set_cr4(&mut self, value: u64) {
        self.cr4 = value;
        self.context.fsgsbase = value & CR4_FSGSBASE != 0;
    }

    /// The memory that the half of the guest which runs sees.
    pub fn space<'a>(&self, mmu: &'a Mmu) -> GuestSpace<'a> {
        GuestSpace::new(mmu, self.domain, self.context.root.mfn())
    }

    /// Whether the kernel asked to see its I/O privilege level in RFLAGS (`VMASST_TYPE_architectural_iopl`).
    pub fn shows_iopl(&self) -> bool {
        self.assists.load(Ordering::Relaxed) & 1 << 4 != 0
    }

    /// Whether its stores to L1 tables are carried out as updates (`VMASST_TYPE_writable_pagetables`).
    pub fn writes_page_tables(&self) -> bool {
        self.assists.load(Ordering::Relaxed) & 1 << 2 != 0
    }

    /// Whether updates of its runstate are marked while they last (`VMASST_TYPE_runstate_update_flag`).
    pub fn marks_runstate_updates(&self) -> bool {
        self.assists.load(Ordering::Relaxed) & 1 << 5 != 0
    }

    /// Takes over descriptors that have changed.
    pub fn reload_descriptors(&mut self, mmu: &Mmu) {
        self.context.descriptors = self.gdt.descriptors(mmu);
        self.context.segments_changed = true;
    }

    /// Gives back what it refers to. It is on no pcpu, and never will be again.
    pub fn release(&mut self, mmu: &Mmu) {
        self.gdt.release(mmu);
        mmu.release_roots(self.domain, &mut self.roots);
    }
}
