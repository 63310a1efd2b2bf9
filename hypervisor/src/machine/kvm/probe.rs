//! Start-up probes: what this host does, found by trying it with a few instructions at CPL3.
//!
//! Fail closed: a machine on which no way of changing tables passes is refused, naming the probe.

use super::super::context::{Exit, Pcpu};
use super::super::{Change, Context, MachineError, MachineMemory, NoSuchFrame, Root, Translations};
use super::area::{Area, DOORBELL, PROBE_RUNS};
use super::cpuid::CpuidAnswer;
use super::gate::Gate;
use super::pcpu::{KvmPcpu, host_tsc};
use super::vm::HostError;
use pv_abi::address::MACH2PHYS_VIRT_START;
use pv_abi::page_table::{FIRST_HYPERVISOR_SLOT, Level, Pte, PteFlags};
use pv_abi::segment::{FLAT_RING3_CS32, FLAT_RING3_CS64};
use pv_abi::trap::Vector;
use pv_abi::{Mfn, PAGE_SIZE};
use serde::Serialize;
use std::io;
use std::time::Instant;

/// Which of the two kinds of KVM this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KvmKind {
    /// VMX or SVM: the CPU runs CPL0 and walks the tables.
    Hardware,
    /// KVM deprivileges the machine: CPL0 is interpreted, tables are shadowed.
    Software,
}

/// A way of making changed tables take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableWay {
    /// The host writes, the pcpus flush ([`super::translations::Flush`]).
    Flush,
    /// The host writes and KVM is made to forget ([`super::translations::Invalidate`]).
    Invalidate,
}

/// How long a hypercall by one gate takes on this host.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GateCost {
    /// The gate that was measured.
    pub gate: Gate,
    /// Median of a round trip to the host process, in nanoseconds.
    pub round_trip_ns: u64,
}

/// What the probes found.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeReport {
    /// Whether KVM uses VMX or SVM.
    pub kvm: KvmKind,
    /// How tables are changed.
    pub tables: TableWay,
    /// How long a round trip by each gate takes.
    pub gates: Vec<GateCost>,
    /// The gate of the hypercall page.
    pub gate: Gate,
    /// Whether guests can read the M2P at Xen's fixed address.
    pub m2p_at_fixed_address: bool,
    /// Guest TSC minus host TSC, a pcpu each.
    pub tsc_offsets: Vec<i64>,
    /// The frequency of the guests' TSC in kHz, as KVM tells it (KVM_GET_TSC_KHZ).
    pub tsc_khz: u32,
    /// Whether the branch predictor is cleared between two vCPUs.
    pub ibpb: bool,
    /// Who answers a `cpuid` without prefix.
    pub cpuid: CpuidAnswer,
    /// Whether CPL3 can set FS and GS bases by instructions of its own.
    pub fsgsbase: bool,
    /// Whether the FPU's first use raises #NM at CPL3 while CR0.TS is set.
    pub raises_nm: bool,
}

const CODE: u64 = 0x40_0000;
const STACK: u64 = CODE + PAGE_SIZE as u64;
const DATA: u64 = CODE + 2 * PAGE_SIZE as u64;

const READ: &[u8] = &[0x48, 0x8b, 0x07, 0x0f, 0x05]; // mov rax, [rdi]; syscall
const WRITE: &[u8] = &[0x48, 0x89, 0x07, 0x0f, 0x05]; // mov [rdi], rax; syscall
const TSC: &[u8] = &[0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x0f, 0x05]; // rdtsc; rax |= rdx << 32
const SYSCALL: &[u8] = &[0x0f, 0x05];
const SYSENTER: &[u8] = &[0x0f, 0x34];
const CPUID: &[u8] = &[0x0f, 0xa2, 0x89, 0xce, 0x0f, 0x05]; // cpuid; mov esi, ecx; syscall
const RDFSBASE: &[u8] = &[0xf3, 0x48, 0x0f, 0xae, 0xc0, 0x0f, 0x05]; // rdfsbase rax; syscall
const FNOP: &[u8] = &[0xd9, 0xd0, 0x0f, 0x05]; // fnop; syscall
/// Offsets of these in the code page.
const READ_AT: u64 = 0;
const WRITE_AT: u64 = 0x20;
const TSC_AT: u64 = 0x40;
const SYSCALL_AT: u64 = 0x60;
const DOORBELL_AT: u64 = 0x80;
const SYSENTER_AT: u64 = 0xa0;
const CPUID_AT: u64 = 0xc0;
const RDFSBASE_AT: u64 = 0xe0;
const FNOP_AT: u64 = 0x100;

/// What [`Probe::entries`] tries: the code segment, and where the instruction is.
const ENTRIES: [(&str, u16, u64); 3] = [
    ("syscall in 32-bit code", FLAT_RING3_CS32, SYSCALL_AT),
    ("sysenter in 32-bit code", FLAT_RING3_CS32, SYSENTER_AT),
    ("sysenter in 64-bit code", FLAT_RING3_CS64, SYSENTER_AT),
];

const MARKER_A: u64 = 0xaaaa_0000_1111_2222;
const MARKER_B: u64 = 0xbbbb_0000_3333_4444;

/// The tables and pages of the probe's guest, in frames that no real guest ever gets.
pub struct Probe<'a> {
    memory: &'a MachineMemory,
    area: &'a Area,
    first_frame: Mfn,
    context: Context,
}

/// What an access at CPL3 came to.
#[derive(Debug, PartialEq, Eq)]
enum Access {
    Value(u64),
    PageFault,
}

impl<'a> Probe<'a> {
    /// Builds the guest of run `run`; each run is made once.
    ///
    /// # Errors
    /// Where there is no such run, or the machine is too small.
    pub fn new(memory: &'a MachineMemory, area: &'a Area, run: u64) -> Result<Self, MachineError> {
        if run >= PROBE_RUNS {
            return Err(MachineError::new(
                "the probes",
                io::Error::other("no frames are left for another run"),
            ));
        }
        let first_frame = area.probe(run);
        let probe = Self {
            memory,
            area,
            first_frame,
            context: Context::new(u64::MAX, Root::of_valid_l4(first_frame), CODE),
        };
        probe.build().map_err(|error| MachineError::new("the start-up probes", io::Error::other(error)))?;
        Ok(probe)
    }

    fn frame(&self, n: u64) -> Mfn {
        Mfn(self.first_frame.0 + n)
    }
    fn l2(&self) -> Mfn {
        self.frame(2)
    }
    fn l1(&self) -> Mfn {
        self.frame(3)
    }
    fn other_l1(&self) -> Mfn {
        self.frame(4)
    }
    fn page_a(&self) -> Mfn {
        self.frame(7)
    }
    fn page_b(&self) -> Mfn {
        self.frame(8)
    }

    fn build(&self) -> Result<(), NoSuchFrame> {
        let all = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER;
        let set =
            |table, index, mfn| self.memory.exchange_entry(table, index, Pte::new(mfn, all), 0).map(|_| ());
        let (root, code, stack) = (self.frame(0), self.frame(5), self.frame(6));
        for (n, slot) in self.area.slots(true).iter().enumerate() {
            self.memory.exchange_entry(root, FIRST_HYPERVISOR_SLOT + n, *slot, 0)?;
        }
        set(root, Level::L4.index(CODE), self.frame(1))?;
        set(self.frame(1), Level::L3.index(CODE), self.l2())?;
        set(self.l2(), Level::L2.index(CODE), self.l1())?;
        for (l1, page) in [(self.l1(), self.page_a()), (self.other_l1(), self.page_b())] {
            set(l1, Level::L1.index(CODE), code)?;
            set(l1, Level::L1.index(STACK), stack)?;
            set(l1, Level::L1.index(DATA), page)?;
        }
        self.memory.write(self.page_a(), 0, &MARKER_A.to_le_bytes())?;
        self.memory.write(self.page_b(), 0, &MARKER_B.to_le_bytes())?;
        let doorbell = Gate::Doorbell.ring();
        for (at, bytes) in [
            (READ_AT, READ),
            (WRITE_AT, WRITE),
            (TSC_AT, TSC),
            (SYSCALL_AT, SYSCALL),
            (DOORBELL_AT, &doorbell),
            (SYSENTER_AT, SYSENTER),
            (CPUID_AT, CPUID),
            (RDFSBASE_AT, RDFSBASE),
            (FNOP_AT, FNOP),
        ] {
            self.memory.write(code, at as usize, bytes)?;
        }
        Ok(())
    }

    fn start_at(&mut self, offset: u64) {
        self.context.cs = FLAT_RING3_CS64;
        self.context.registers.rip = CODE + offset;
        self.context.registers.rsp = STACK + PAGE_SIZE as u64;
    }

    fn enter(&mut self, pcpu: &mut KvmPcpu) -> Result<Exit, MachineError> {
        loop {
            match pcpu.enter(&mut self.context)? {
                Exit::Kicked => {}
                // Where `syscall` is refused, whoever is above carries it out: here, that is the probe.
                Exit::Exception { vector, .. }
                    if vector == Vector::INVALID_OPCODE.0 && self.is_at_syscall() =>
                {
                    self.context.registers.rip += SYSCALL.len() as u64;
                    return Ok(Exit::Syscall);
                }
                exit => return Ok(exit),
            }
        }
    }

    /// Whether its 64-bit code has come to a `syscall`.
    fn is_at_syscall(&self) -> bool {
        let (mut bytes, at) = ([0; SYSCALL.len()], self.context.registers.rip.wrapping_sub(CODE));
        let read = self.memory.read(self.frame(5), at as usize, &mut bytes);
        !self.context.runs_32_bit_code() && at < PAGE_SIZE as u64 && read.is_ok() && bytes == *SYSCALL
    }

    fn access(&mut self, pcpu: &mut KvmPcpu, code: u64, address: u64) -> Result<Access, MachineError> {
        self.start_at(code);
        self.context.registers.rdi = address;
        self.context.registers.rax = MARKER_A;
        match self.enter(pcpu)? {
            Exit::Syscall => Ok(Access::Value(self.context.registers.rax)),
            Exit::Exception { vector, .. } if vector == Vector::PAGE_FAULT.0 => Ok(Access::PageFault),
            exit => Err(MachineError::new("a probe's access", io::Error::other(format!("{exit:?}")))),
        }
    }

    /// Whether `syscall` leads to the gate at CPL3, which is mapped then, or is refused.
    ///
    /// # Errors
    /// The host's.
    pub fn kind(&mut self, pcpu: &mut KvmPcpu) -> Result<KvmKind, MachineError> {
        self.start_at(SYSCALL_AT);
        if !pcpu.syscall_leads_to_the_gate(&mut self.context)? {
            return Ok(KvmKind::Hardware);
        }
        let mapped = self.area.map_gate(self.memory);
        mapped.map_err(|error| MachineError::new("the page of the gate", io::Error::other(error)))?;
        Ok(KvmKind::Software)
    }

    /// Finds out whether a way of changing tables holds: nothing at CPL3 may succeed that a changed entry forbids.
    ///
    /// # Errors
    /// What was seen instead, or the host's error in words.
    pub fn try_tables(&mut self, pcpu: &mut KvmPcpu, way: &dyn Translations) -> Result<(), String> {
        for _ in 0..4 {
            let trials: [Trial<'a>; 5] =
                [Self::remap, Self::protect, Self::unmap, Self::move_upper, Self::reuse_table];
            for trial in trials {
                trial(self, pcpu, way).map_err(|error| error.to_string())??;
            }
        }
        Ok(())
    }

    fn set(&self, way: &dyn Translations, table: Mfn, level: Level, new: Pte) -> Result<(), MachineError> {
        let index = level.index(DATA);
        let old = self
            .memory
            .exchange_entry(table, index, new, 0)
            .map_err(|error| MachineError::new("a probe's table", io::Error::other(error)))?;
        match old.is_present() {
            true => way.settle(&[Change { table, index: index as u16, level, old }]),
            false => Ok(()),
        }
    }

    fn expect(
        &mut self,
        pcpu: &mut KvmPcpu,
        what: &str,
        code: u64,
        wanted: Access,
    ) -> Result<Verdict, MachineError> {
        let seen = self.access(pcpu, code, DATA)?;
        Ok(if seen == wanted { Ok(()) } else { Err(format!("{what}: {seen:x?} instead of {wanted:x?}")) })
    }

    fn page(mfn: Mfn, writable: bool) -> Pte {
        let writable = if writable { PteFlags::WRITABLE } else { PteFlags::empty() };
        Pte::new(mfn, PteFlags::PRESENT | PteFlags::USER | writable)
    }

    fn remap(&mut self, pcpu: &mut KvmPcpu, way: &dyn Translations) -> Result<Verdict, MachineError> {
        self.set(way, self.l1(), Level::L1, Self::page(self.page_a(), true))?;
        let before = self.expect(pcpu, "a first mapping", READ_AT, Access::Value(MARKER_A))?;
        self.set(way, self.l1(), Level::L1, Self::page(self.page_b(), true))?;
        let after =
            self.expect(pcpu, "a page that was mapped elsewhere", READ_AT, Access::Value(MARKER_B))?;
        Ok(before.and(after))
    }

    fn protect(&mut self, pcpu: &mut KvmPcpu, way: &dyn Translations) -> Result<Verdict, MachineError> {
        self.set(way, self.l1(), Level::L1, Self::page(self.page_a(), true))?;
        let before = self.expect(pcpu, "a writable page", WRITE_AT, Access::Value(MARKER_A))?;
        self.set(way, self.l1(), Level::L1, Self::page(self.page_a(), false))?;
        let after = self.expect(pcpu, "a page made read-only", WRITE_AT, Access::PageFault)?;
        Ok(before.and(after))
    }

    fn unmap(&mut self, pcpu: &mut KvmPcpu, way: &dyn Translations) -> Result<Verdict, MachineError> {
        self.set(way, self.l1(), Level::L1, Self::page(self.page_a(), true))?;
        let before = self.expect(pcpu, "a page", READ_AT, Access::Value(MARKER_A))?;
        self.set(way, self.l1(), Level::L1, Pte(0))?;
        let after = self.expect(pcpu, "an unmapped page", READ_AT, Access::PageFault)?;
        Ok(before.and(after))
    }

    fn move_upper(&mut self, pcpu: &mut KvmPcpu, way: &dyn Translations) -> Result<Verdict, MachineError> {
        self.set(way, self.l1(), Level::L1, Self::page(self.page_a(), true))?;
        self.set(way, self.other_l1(), Level::L1, Self::page(self.page_b(), true))?;
        let before = self.expect(pcpu, "a page", READ_AT, Access::Value(MARKER_A))?;
        self.set(way, self.l2(), Level::L2, Self::page(self.other_l1(), true))?;
        let after = self.expect(pcpu, "an upper entry moved", READ_AT, Access::Value(MARKER_B))?;
        self.set(way, self.l2(), Level::L2, Self::page(self.l1(), true))?;
        Ok(before.and(after))
    }

    /// A table's frame is retired, gets other contents from the host, and is a table again.
    fn reuse_table(&mut self, pcpu: &mut KvmPcpu, way: &dyn Translations) -> Result<Verdict, MachineError> {
        self.set(way, self.l1(), Level::L1, Self::page(self.page_a(), true))?;
        let before = self.expect(pcpu, "a page", READ_AT, Access::Value(MARKER_A))?;
        self.set(way, self.l2(), Level::L2, Self::page(self.other_l1(), true))?;
        way.retire(self.l1(), Level::L1)?;
        self.memory
            .exchange_entry(self.l1(), Level::L1.index(DATA), Self::page(self.page_b(), false), 0)
            .map_err(|error| MachineError::new("a probe's table", io::Error::other(error)))?;
        self.set(way, self.l2(), Level::L2, Self::page(self.l1(), true))?;
        let after =
            self.expect(pcpu, "a table in a frame that held another", READ_AT, Access::Value(MARKER_B))?;
        Ok(before.and(after))
    }

    /// Finds out whether the instructions that could enter CPL0 without the IDT are refused at CPL3, in 64-bit code and in
    /// 32-bit code. The 64-bit `syscall` is what [`Self::kind`] tries.
    ///
    /// # Errors
    /// [`HostError::Probe`] where one lands elsewhere: code of a guest's would run there with CPL0.
    pub fn entries(&mut self, pcpu: &mut KvmPcpu) -> Result<(), HostError> {
        for (what, cs, at) in ENTRIES {
            self.start_at(at);
            self.context.cs = cs;
            let landed = self.enter(pcpu).map_err(|error| error.to_string());
            if !is_closed(&landed, self.context.registers.rip, CODE + at) {
                let why = match landed {
                    Ok(exit) => format!("{what} was not refused: {exit:?}"),
                    Err(error) => format!("{what} landed where guest code would run with CPL0: {error}"),
                };
                return Err(HostError::Probe { probe: "entries", why });
            }
        }
        Ok(())
    }

    /// What a round trip through each gate costs; interleaved, the median of several.
    ///
    /// # Errors
    /// [`HostError::Probe`] where a gate does not arrive.
    pub fn gates(&mut self, pcpu: &mut KvmPcpu) -> Result<Vec<GateCost>, HostError> {
        const ROUNDS: usize = 9; // each costs as much as a guest's hypercall, before the first guest can start
        let gates =
            [(Gate::Syscall, SYSCALL_AT, Exit::Syscall), (Gate::Doorbell, DOORBELL_AT, Exit::Doorbell)];
        let mut samples: [Vec<u64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for ((gate, code, expected), samples) in gates.iter().zip(&mut samples) {
                self.start_at(*code);
                let start = Instant::now();
                let exit = self.enter(pcpu)?;
                samples.push(start.elapsed().as_nanos() as u64);
                if exit != *expected {
                    let why = format!("the {gate} gate (doorbell at {DOORBELL:#x}) came back as {exit:?}");
                    return Err(HostError::Probe { probe: "gates", why });
                }
            }
        }
        Ok(gates
            .iter()
            .zip(&mut samples)
            .map(|((gate, ..), samples)| {
                samples.sort_unstable();
                GateCost { gate: *gate, round_trip_ns: samples.get(ROUNDS / 2).copied().unwrap_or_default() }
            })
            .collect())
    }

    /// Whether CPL3 can read L4 slot 256.
    ///
    /// # Errors
    /// The host's.
    pub fn m2p_at_fixed_address(&mut self, pcpu: &mut KvmPcpu) -> Result<bool, MachineError> {
        Ok(self.access(pcpu, READ_AT, MACH2PHYS_VIRT_START)? != Access::PageFault)
    }

    /// Who answers a `cpuid` without prefix at CPL3.
    ///
    /// # Errors
    /// The host's.
    pub fn cpuid(&mut self, pcpu: &mut KvmPcpu) -> Result<CpuidAnswer, MachineError> {
        self.start_at(CPUID_AT);
        (self.context.registers.rax, self.context.registers.rcx) = (1, 0);
        match self.enter(pcpu)? {
            Exit::Syscall => {
                let found = &self.context.registers;
                let leaf_1 = [found.rax, found.rbx, found.rsi, found.rdx].map(|register| register as u32);
                Ok(CpuidAnswer::of(leaf_1))
            }
            Exit::Exception { vector, .. }
                if vector == Vector::GENERAL_PROTECTION.0
                    && self.context.registers.rip == CODE + CPUID_AT =>
            {
                Ok(CpuidAnswer::Hypervisor)
            }
            exit => Err(MachineError::new("a probe's cpuid", io::Error::other(format!("{exit:?}")))),
        }
    }

    /// Whether CPL3 can read FS and GS bases, and so set them, by instructions of its own, where its kernel wants that.
    ///
    /// # Errors
    /// The host's.
    pub fn runs_fsgsbase(&mut self, pcpu: &mut KvmPcpu) -> Result<bool, MachineError> {
        self.start_at(RDFSBASE_AT);
        self.context.fsgsbase = true;
        let exit = self.enter(pcpu)?;
        self.context.fsgsbase = false;
        Ok(exit == Exit::Syscall)
    }

    /// Whether the first use of the FPU raises #NM at CPL3 while CR0.TS is set.
    ///
    /// # Errors
    /// The host's.
    pub fn raises_nm(&mut self, pcpu: &mut KvmPcpu) -> Result<bool, MachineError> {
        self.start_at(FNOP_AT);
        self.context.task_switched = true;
        let exit = self.enter(pcpu)?;
        self.context.task_switched = false;
        Ok(matches!(exit, Exit::Exception { vector, .. } if Vector(vector) == Vector::DEVICE_NOT_AVAILABLE))
    }

    /// Guest TSC minus host TSC on this pcpu; 0 where the difference is within the precision of looking.
    ///
    /// # Errors
    /// The host's.
    pub fn tsc_offset(&mut self, pcpu: &mut KvmPcpu) -> Result<u64, MachineError> {
        let mut best = (u64::MAX, 0u64);
        for _ in 0..8 {
            self.start_at(TSC_AT);
            let before = host_tsc();
            let exit = self.enter(pcpu)?;
            let window = host_tsc().wrapping_sub(before);
            if exit == Exit::Syscall && window < best.0 {
                best = (window, self.context.registers.rax.wrapping_sub(before.wrapping_add(window / 2)));
            }
        }
        let (window, offset) = best;
        Ok(if (offset as i64).unsigned_abs() <= window { 0 } else { offset })
    }

    /// Takes the probe's guest off a pcpu.
    ///
    /// # Errors
    /// The host's.
    pub fn leave(&mut self, pcpu: &mut KvmPcpu) -> Result<(), MachineError> {
        pcpu.save(&mut self.context)
    }
}

/// Whether the instruction at `at` was refused there with #UD or #GP.
fn is_closed(landed: &Result<Exit, String>, rip: u64, at: u64) -> bool {
    match landed {
        Ok(Exit::Exception { vector, .. }) => {
            let refusal = [Vector::INVALID_OPCODE.0, Vector::GENERAL_PROTECTION.0].contains(vector);
            refusal && rip == at
        }
        _ => false,
    }
}

type Verdict = Result<(), String>;
type Trial<'a> = fn(&mut Probe<'a>, &mut KvmPcpu, &dyn Translations) -> Result<Verdict, MachineError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_but_that_of_the_gate_is_tried() {
        for (cs, at) in
            [(FLAT_RING3_CS32, SYSCALL_AT), (FLAT_RING3_CS32, SYSENTER_AT), (FLAT_RING3_CS64, SYSENTER_AT)]
        {
            assert!(ENTRIES.iter().any(|&(_, tried, place)| (tried, place) == (cs, at)), "{cs:#x} {at:#x}");
        }
    }

    /// On a host whose CPU takes such an instruction elsewhere no guest is started.
    #[test]
    fn an_entry_is_closed_by_a_refusal_and_by_nothing_else() {
        let exception = |vector| Ok(Exit::Exception { vector, error_code: 0, cr2: 0 });
        for vector in 0..32 {
            let refuses = vector == 6 || vector == 13;
            assert_eq!(is_closed(&exception(vector), CODE, CODE), refuses, "vector {vector}");
            assert!(!is_closed(&exception(vector), CODE + 2, CODE), "vector {vector} behind it");
            assert!(!is_closed(&exception(vector), 0, CODE), "vector {vector} at address 0");
        }
        for other in [Exit::Syscall, Exit::Doorbell, Exit::Unanswered, Exit::Kicked] {
            assert!(!is_closed(&Ok(other.clone()), CODE + 2, CODE), "{other:?}");
        }
        assert!(!is_closed(&Err("vector 14 left its frame at an unknown place".into()), CODE, CODE));
    }
}
