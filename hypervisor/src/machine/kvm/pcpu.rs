//! A pcpu: a KVM vCPU that runs guests at CPL3 with the stub beneath them.
//!
//! Between two calls of [`KvmPcpu::enter`]:
//! - KVM holds no half-done access and no exception that is still to be delivered: both were brought to their end
//!   before the call returned, so nothing of one vCPU can reach the next ([`KvmPcpu::run_to_exit`]);
//! - the context is complete but for the FPU, which stays loaded until another vCPU comes or `save` is called;
//! - `live` is what the hardware holds.
//!
//! A kick may land anywhere. In a guest, the registers are the guest's. In the stub on the way in, nothing of the
//! guest has run and all that the stub was told is still in `context`: the entry is given up and made again later.
//! In the stub on the way out, the exit is a few instructions away: it is waited for.

use super::super::context::{Exit, Pcpu, Registers, Unhandled};
use super::super::sanitise::sanitise;
use super::super::{
    CR4_FSGSBASE, Context, DebugRegisters, MachineError, MachineMemory, Sanitised, is_valid_xcr0,
};
use super::area::{DoorbellAddresses, LSTAR, PcpuPages, STUB};
use super::descriptors::{self, visible_selector};
use super::exception::{self, Frame, Origin};
use super::fpu::{self, Fpu};
use super::registers::{debug_to_kvm, from_kvm};
use super::run::{Reason, Run};
use super::shootdown::Shared;
use super::stub::{self, PORT_VECTOR, VECTORS};
use super::way_in::{Difference, LiveRoot, WayIn, cr0};
use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_sregs};
use pv_abi::PAGE_SIZE;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::Vector;
use std::sync::Arc;

/// See the head of this file.
#[derive(Debug)]
pub struct KvmPcpu {
    run: Run,
    fpu: Fpu,
    memory: Arc<MachineMemory>,
    shared: Arc<Shared>,
    pages: PcpuPages,
    doorbells: DoorbellAddresses,
    offsets: stub::Offsets,
    /// Guest TSC minus host TSC.
    tsc_offset: u64,
    /// The vCPU whose segments and FPU state the hardware holds.
    loaded: Option<u64>,
    /// How many of the GDT's entries are the loaded vCPU's.
    descriptors: usize,
    /// The hardware's segments and control registers as of the last exit.
    live: kvm_sregs,
    /// The debug registers that the hardware holds.
    debug: DebugRegisters,
    /// XCR0 that the hardware holds.
    xcr0: u64,
    /// The states that XCR0 may name; 0 where there is none.
    offered_xcr0: u64,
    /// Whether KVM takes CR4.FSGSBASE.
    takes_fsgsbase: bool,
    /// Whether the host lets the branch predictor be cleared.
    ibpb: bool,
    /// The root that no domain owns: where the stub is between two vCPUs.
    own_root: u64,
}

/// Where the hardware was when KVM_RUN returned.
enum Stop {
    /// The stub reported a vector whose frame is on none of its stacks.
    Astray { vector: u8 },
    /// An exception of the guest's.
    Exception { vector: u8, error_code: u64, frame: Frame },
    /// A 4-byte store to the doorbell.
    Doorbell,
    /// The same to the domain's own, where none hangs.
    Unanswered,
    /// A kick found the guest running.
    KickedInGuest,
    /// An exception of the guest's, whose place is not known any more.
    Lost,
    /// Something found the stub not yet done with entering the guest.
    InStub,
    /// KVM cannot carry out what the guest did.
    Unhandled(Unhandled),
}

impl KvmPcpu {
    pub(super) fn new(
        run: Run,
        memory: Arc<MachineMemory>,
        shared: Arc<Shared>,
        pages: PcpuPages,
        doorbells: DoorbellAddresses,
        live: kvm_sregs,
    ) -> Result<Self, MachineError> {
        let fpu = Fpu::new(&run)?;
        let offsets = stub::offsets();
        let ibpb = barrier(&run);
        let offered_xcr0 = fpu::xcr0(&run)?;
        let takes_fsgsbase = takes_fsgsbase(&run, &live)?;
        Ok(Self {
            debug: DebugRegisters::default(),
            xcr0: offered_xcr0,
            offered_xcr0,
            takes_fsgsbase,
            ibpb,
            run,
            fpu,
            memory,
            shared,
            pages,
            doorbells,
            offsets,
            tsc_offset: 0,
            loaded: None,
            descriptors: 0,
            live,
            own_root: live.cr3,
        })
    }

    pub(super) fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
    }

    /// The TSC's frequency in kHz, as guests find it.
    pub(super) fn tsc_khz(&self) -> Result<u32, MachineError> {
        self.run.vcpu().get_tsc_khz().map_err(|error| MachineError::new("KVM_GET_TSC_KHZ", error))
    }

    /// Whether [`barrier`] works here.
    pub(super) fn has_ibpb(&self) -> bool {
        self.ibpb
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn broken(&self, what: &str) -> MachineError {
        let regs = self.run.regs();
        let state = format!(
            "rip {:#x} rsp {:#x} cs {:#x} cr3 {:#x}",
            regs.rip, regs.rsp, self.live.cs.selector, self.live.cr3
        );
        MachineError::new(format!("a pcpu cannot go on: {what}"), std::io::Error::other(state))
    }

    /// Tells the hardware to go on with `context`.
    fn prepare(&mut self, context: &mut Sanitised<'_>, flush: bool) -> Result<(), MachineError> {
        let difference = Difference::between(&self.live, context, self.cr4(context), flush);
        context.root_replaced = false;
        let way = difference.way();
        if let WayIn::Stub { segments, .. } = way {
            if difference.root == LiveRoot::Gone {
                self.live.cr3 = self.own_root;
            }
            if segments {
                self.load_segments(context)?;
            }
            self.write_frame(context)?;
        }
        let top = self.pages.stack().1 + PAGE_SIZE as u64;
        self.run.set_regs(&way.registers(context, &self.offsets, top));
        Ok(())
    }

    /// CR4 under which a guest runs.
    fn cr4(&self, context: &Context) -> u64 {
        let own = self.live.cr4 & !CR4_FSGSBASE;
        if context.fsgsbase && self.takes_fsgsbase { own | CR4_FSGSBASE } else { own }
    }

    /// Loads the stub's CS and SS and the guest's other segments.
    fn load_segments(&mut self, context: &mut Sanitised<'_>) -> Result<(), MachineError> {
        let mut sregs = self.live;
        sregs.cs = descriptors::stub_code();
        sregs.ss = descriptors::stub_stack();
        if context.segments_changed {
            self.load_descriptors(&context.descriptors)?;
            sregs.ds = descriptors::data_segment(context, context.ds);
            sregs.es = descriptors::data_segment(context, context.es);
            sregs.fs = descriptors::data_segment(context, context.fs);
            sregs.gs = descriptors::data_segment(context, context.gs);
            context.segments_changed = false;
        }
        sregs.fs.base = context.fs_base;
        sregs.gs.base = context.gs_base;
        sregs.cr0 = cr0(&self.live, context);
        sregs.cr4 = self.cr4(context);
        self.run.set_sregs(&sregs);
        self.live = sregs;
        Ok(())
    }

    /// Replaces the guest's part of the GDT; what another vCPU had there goes.
    fn load_descriptors(&mut self, descriptors: &[u64]) -> Result<(), MachineError> {
        let gone = self.descriptors.saturating_sub(descriptors.len());
        let zeros = std::iter::repeat_n(&0, gone);
        for (index, descriptor) in descriptors.iter().chain(zeros).enumerate() {
            descriptors::write_descriptor(&self.memory, &self.pages, index, *descriptor)
                .map_err(|error| MachineError::new("a GDT", std::io::Error::other(error)))?;
        }
        self.descriptors = descriptors.len();
        Ok(())
    }

    /// Writes the frame for `iretq`, and below it RAX, which the stub loads where it has used it for the root.
    fn write_frame(&mut self, context: &Sanitised<'_>) -> Result<(), MachineError> {
        let guest = &context.registers;
        let frame = [guest.rip, u64::from(context.cs), guest.rflags, guest.rsp, u64::from(context.ss)];
        let mut words = [guest.rax, 0, 0, 0, 0, 0];
        words[1..].copy_from_slice(&frame);
        let mut bytes = [0; 48];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.memory
            .write(self.pages.stack().0, PAGE_SIZE - bytes.len(), &bytes)
            .map_err(|error| MachineError::new("a pcpu's stack", std::io::Error::other(error)))
    }

    /// Runs until there is something to tell, and leaves nothing half-done in KVM.
    fn run_to_exit(&mut self) -> Result<Stop, MachineError> {
        let stop = self.run_to_stop()?;
        // Whatever the way out: an exception that KVM still holds would be the next vCPU's. Single-stepping over a gate
        // raises one on some hosts; elsewhere the gate is skipped, so it is dropped.
        self.run.drop_pending_exception();
        Ok(stop)
    }

    fn run_to_stop(&mut self) -> Result<Stop, MachineError> {
        loop {
            let reason = self.run.run()?;
            self.live = self.run.sregs();
            let in_guest = self.live.ss.dpl == 3;
            match reason {
                Reason::Out { port } if !in_guest && (PORT_VECTOR..PORT_VECTOR + VECTORS).contains(&port) => {
                    return self.reported((port - PORT_VECTOR) as u8);
                }
                Reason::Mmio { address, length: 4, is_write: true }
                    if in_guest
                        && (address == self.doorbells.hypercalls() || self.doorbells.is_page(address)) =>
                {
                    let is_page = self.doorbells.is_page(address);
                    return Ok(if is_page { Stop::Unanswered } else { Stop::Doorbell });
                }
                Reason::Mmio { .. } if in_guest => {
                    let before = self.run.regs();
                    self.run.answer_mmio_with_zeros();
                    self.run.complete()?;
                    self.live = self.run.sregs();
                    self.run.set_regs(&before);
                    return Ok(Stop::Unhandled(Unhandled::DoorbellAccess));
                }
                Reason::InternalError { suberror } if in_guest => {
                    return Ok(Stop::Unhandled(Unhandled::Emulation { reason: suberror }));
                }
                Reason::Interrupted => {
                    if let Some(stop) = self.interrupted(in_guest) {
                        return Ok(stop);
                    }
                }
                other => return Err(self.broken(&format!("KVM_RUN ended with {other:?}"))),
            }
        }
    }

    /// Where a kick found the hardware; none where it must run on for a moment.
    fn interrupted(&mut self, in_guest: bool) -> Option<Stop> {
        let rip = self.run.regs().rip;
        let entering = STUB + self.offsets.resume..STUB + self.offsets.write_list;
        if self.run.has_pending_exception() {
            // It will arrive at its vector within a few instructions.
            self.shared.forget_kicks();
            None
        } else if in_guest {
            Some(Stop::KickedInGuest)
        } else if entering.contains(&rip) {
            Some(Stop::InStub)
        } else {
            self.shared.forget_kicks();
            None
        }
    }

    /// What the stub's report of a vector stands for.
    fn reported(&self, vector: u8) -> Result<Stop, MachineError> {
        let origin = exception::origin(&self.memory, &self.pages, vector, self.run.regs().rsp);
        Ok(match origin.map_err(|what| self.broken(&what))? {
            Origin::Guest { vector, error_code, frame } => Stop::Exception { vector, error_code, frame },
            Origin::Entry => Stop::InStub,
            Origin::Lost => Stop::Lost,
            Origin::Astray => Stop::Astray { vector },
        })
    }

    fn take_exception(
        &mut self,
        context: &mut Context,
        (vector, error_code): (u8, u64),
        frame: Frame,
    ) -> Result<Exit, MachineError> {
        let regs = self.run.regs();
        let Frame { rip, cs, rflags, rsp, ss } = frame;
        context.registers = Registers { rip, rflags, rsp, ..from_kvm(&regs) };
        context.cs = visible_selector(cs);
        context.ss = visible_selector(ss);
        // `out` of the gate, where `syscall` has led.
        if rip == LSTAR && vector == Vector::GENERAL_PROTECTION.0 {
            return Ok(take_syscall(context, &regs, rsp));
        }
        if vector == Vector::DEBUG.0 {
            self.read_debug_status(context)?;
        }
        Ok(Exit::Exception { vector, error_code: error_code & 0xffff_ffff, cr2: self.live.cr2 })
    }

    /// Takes over what a guest may have changed without an exit.
    fn read_back(&self, context: &mut Context) {
        context.fs_base = self.live.fs.base;
        context.gs_base = self.live.gs.base;
        context.ds = self.live.ds.selector;
        context.es = self.live.es.selector;
        context.fs = self.live.fs.selector;
        context.gs = self.live.gs.selector;
    }

    fn load(&mut self, context: &mut Sanitised<'_>) -> Result<(), MachineError> {
        if self.loaded != Some(context.identity) {
            if self.ibpb {
                barrier(&self.run);
            }
            self.fpu.load(&self.run, &context.fpu)?;
            context.segments_changed = true;
            // The vCPU before may be dead and its root anything: the stub must not run on that.
            context.root_replaced = true;
            self.run.end_interrupt_shadow();
            self.loaded = Some(context.identity);
        }
        if context.debug != self.debug {
            self.debug = context.debug;
            let set = self.run.vcpu().set_debug_regs(&debug_to_kvm(&self.debug));
            set.map_err(|error| MachineError::new("a vCPU's debug registers cannot be loaded", error))?;
        }
        let wanted = context.xcr0.filter(|&value| is_valid_xcr0(value, self.offered_xcr0));
        let wanted = wanted.unwrap_or(self.offered_xcr0);
        if wanted != self.xcr0 {
            fpu::set_xcr0(&self.run, wanted)?;
            self.xcr0 = wanted;
        }
        Ok(())
    }

    /// After a #DB: what it was for.
    fn read_debug_status(&mut self, context: &mut Context) -> Result<(), MachineError> {
        let registers = self.run.vcpu().get_debug_regs();
        let registers =
            registers.map_err(|error| MachineError::new("a vCPU's debug registers cannot be read", error))?;
        self.debug.status = registers.dr6;
        context.debug.status = registers.dr6;
        Ok(())
    }
}

impl KvmPcpu {
    /// Start-up probe: with the gate's page not mapped, whether `syscall` of 64-bit code leads there, at CPL3. `context`
    /// is about to execute one.
    ///
    /// # Errors
    /// The host's, or where something else happened.
    pub(super) fn syscall_leads_to_the_gate(&mut self, context: &mut Context) -> Result<bool, MachineError> {
        let Some(mut context) = sanitise(context) else {
            return Err(self.broken("the probe's own context cannot be entered"));
        };
        let context = &mut context;
        self.load(context)?;
        self.shared.going_in();
        let stop = self.prepare(context, true).and_then(|()| {
            loop {
                match self.run_to_exit() {
                    Ok(Stop::KickedInGuest | Stop::InStub) => self.shared.forget_kicks(),
                    stop => break stop,
                }
            }
        });
        self.shared.is_out(true);
        let led = match stop? {
            Stop::Exception { vector, frame, .. } => led_to_the_gate(vector, frame, context.registers.rip),
            _ => None,
        };
        led.ok_or_else(|| self.broken("`syscall` was neither refused nor led to its gate at CPL3"))
    }
}

impl Pcpu for KvmPcpu {
    fn run(&mut self, mut context: Sanitised<'_>) -> Result<Exit, MachineError> {
        let context = &mut context;
        self.load(context)?;
        let flush = self.shared.going_in();
        let prepared = self.prepare(context, flush);
        let stop = prepared.and_then(|()| self.run_to_exit());
        let never_ran = matches!(stop, Ok(Stop::InStub) | Err(_));
        self.shared.is_out(!(flush && never_ran));

        let exit = match stop? {
            Stop::Exception { vector, error_code, frame } => {
                self.take_exception(context, (vector, error_code), frame)?
            }
            Stop::Astray { vector } => {
                return Err(self.broken(&format!("vector {vector} left its frame at an unknown place")));
            }
            Stop::Lost => {
                // Where the guest was last: its own doing, and its own #GP.
                let Registers { rip, rflags, rsp, .. } = context.registers;
                context.registers = Registers { rip, rflags, rsp, ..from_kvm(&self.run.regs()) };
                Exit::Unhandled { what: Unhandled::LateBreakpoint }
            }
            stop @ (Stop::Doorbell | Stop::Unanswered | Stop::KickedInGuest | Stop::Unhandled(_)) => {
                context.registers = from_kvm(&self.run.regs());
                match stop {
                    Stop::Doorbell => Exit::Doorbell,
                    Stop::Unanswered => Exit::Unanswered,
                    Stop::Unhandled(what) => Exit::Unhandled { what },
                    _ => self.kicked(),
                }
            }
            Stop::InStub => {
                // Nothing of the guest ran: the context stands, and the segments that are loaded are its own.
                return Ok(self.kicked());
            }
        };
        self.read_back(context);
        Ok(exit)
    }

    fn save(&mut self, context: &mut Context) -> Result<(), MachineError> {
        if self.loaded == Some(context.identity) {
            self.loaded = None;
            context.fpu = self.fpu.save(&self.run)?;
        }
        Ok(())
    }

    fn guest_tsc(&self) -> u64 {
        host_tsc().wrapping_add(self.tsc_offset)
    }
}

impl KvmPcpu {
    fn kicked(&self) -> Exit {
        self.shared.forget_kicks();
        Exit::Kicked
    }
}

/// Whether a `syscall` at `rip`, after which there was this exception, led to the gate, whose page is not mapped, at CPL3;
/// otherwise it was refused. None where it did something else.
fn led_to_the_gate(vector: u8, frame: Frame, rip: u64) -> Option<bool> {
    match Vector(vector) {
        Vector::PAGE_FAULT if frame.rip == LSTAR && frame.at_cpl3() => Some(true),
        Vector::INVALID_OPCODE if frame.rip == rip => Some(false),
        _ => None,
    }
}

/// Whether KVM takes CR4.FSGSBASE. Leaves `live`.
fn takes_fsgsbase(run: &Run, live: &kvm_sregs) -> Result<bool, MachineError> {
    let with = kvm_sregs { cr4: live.cr4 | CR4_FSGSBASE, ..*live };
    if run.vcpu().set_sregs(&with).is_err() {
        return Ok(false);
    }
    let back = run.vcpu().set_sregs(live);
    back.map(|()| true).map_err(|error| MachineError::new("KVM_SET_SREGS", error))
}

/// The TSC of the host CPU that this thread is on.
pub fn host_tsc() -> u64 {
    #[allow(unsafe_code)]
    // SAFETY: reads a counter; every x86-64 CPU has it.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
}

/// An indirect branch predictor barrier on this CPU, so that what one vCPU trained does not steer the next; false
/// where the host has none. KVM carries out the write of the MSR itself.
fn barrier(run: &Run) -> bool {
    const MSR_PRED_CMD: u32 = 0x49;
    let entry = kvm_msr_entry { index: MSR_PRED_CMD, data: 1, ..Default::default() };
    Msrs::from_entries(&[entry]).is_ok_and(|msrs| run.vcpu().set_msrs(&msrs).is_ok_and(|set| set == 1))
}

/// The state behind a `syscall` that landed with these registers and this stack pointer.
fn take_syscall(context: &mut Context, regs: &kvm_regs, rsp: u64) -> Exit {
    let mut registers = from_kvm(regs);
    registers.rsp = rsp;
    registers.rip = regs.rcx;
    registers.rflags = regs.r11;
    context.registers = registers;
    context.cs = FLAT_RING3_CS64;
    context.ss = FLAT_RING3_SS64;
    Exit::Syscall
}

#[cfg(test)]
mod tests {
    use super::super::super::Root;
    use super::*;
    use pv_abi::Mfn;

    /// One that lands anywhere else would run what a guest has there with CPL0.
    #[test]
    fn a_syscall_is_refused_or_leads_to_the_gate_at_cpl3() {
        let frame = |rip, cs| Frame { rip, cs, rflags: 2, rsp: 0, ss: 0 };
        for vector in 0..32 {
            for (rip, cs) in [(LSTAR, 0xe033), (LSTAR, 0xe008), (0x1000, 0xe033), (0, 0xe033)] {
                let expected = match (vector, rip, cs) {
                    (14, LSTAR, 0xe033) => Some(true),
                    (6, 0x1000, _) => Some(false),
                    _ => None,
                };
                assert_eq!(led_to_the_gate(vector, frame(rip, cs), 0x1000), expected, "{vector} {rip:#x}");
            }
        }
    }

    #[test]
    fn behind_the_gate_is_what_the_guest_had_before() {
        let mut context = Context::new(1, Root::of_valid_l4(Mfn(9)), 0x1000);
        (context.cs, context.ss) = (0x0b, 0x13);
        let regs =
            kvm_regs { rip: LSTAR, rcx: 0x1234, r11: 0x646, rax: 7, rsp: 1, rflags: 2, ..Default::default() };
        assert_eq!(take_syscall(&mut context, &regs, 0x5678), Exit::Syscall);
        let r = context.registers;
        assert_eq!((r.rip, r.rflags, r.rsp, r.rax), (0x1234, 0x646, 0x5678, 7));
        assert_eq!((context.cs, context.ss), (FLAT_RING3_CS64, FLAT_RING3_SS64));
    }
}
