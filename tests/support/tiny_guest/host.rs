//! A machine, mostly with one pcpu, a canary on it, and whoever comes beside it.

use super::canary;
use super::code::Code;
use super::guest::{Guest, failed};
use hypervisor::assemble::{assemble, machine};
use hypervisor::control::Hypervisor;
use hypervisor::domain::{Console, End};
use hypervisor::frame::{FrameType, ReferenceKind};
use hypervisor::machine::kvm::KvmKind;
use hypervisor::paging::EntryPlace;
use libtest_mimic::Failed;
use pv_abi::Mfn;
use pv_abi::page_table::Level;
use std::sync::Arc;
use std::time::Duration;

/// Frames of a machine: for itself, and for a few guests.
const FRAMES: u64 = 8192;
/// So often everything is counted while somebody runs.
const RECOUNTS: usize = 10;

/// A machine, and a canary that runs on it.
pub struct Host {
    /// The hypervisor, which all guests of the machine share.
    pub hypervisor: Arc<Hypervisor>,
    /// Which kind of KVM it runs on.
    pub kvm: KvmKind,
    canary: Option<Guest>,
    /// The references that the canary's vCPU holds for as long as it lives.
    held: Vec<(Mfn, ReferenceKind)>,
    /// Pages of the canary's that others may write, because it lends them.
    given: Vec<u64>,
    free: u64,
}

impl Host {
    /// One pcpu, and a canary on it that has begun to count.
    pub fn new() -> Result<Self, Failed> {
        Self::with_pcpus(1)
    }

    /// So many pcpus, and a canary that has begun to count.
    pub fn with_pcpus(pcpus: u32) -> Result<Self, Failed> {
        let mut host = Self::bare_with_pcpus(pcpus)?;
        let mut canary = host.build(&canary::code())?;
        canary.original = canary.contents();
        canary.start()?;
        // Its vCPU may be on a pcpu already: what it holds is known.
        host.held = vec![(canary.built.root, ReferenceKind::Typed(FrameType::Table(Level::L4)))];
        host.canary = Some(canary);
        host.canary_goes_on()?;
        Ok(host)
    }

    /// One pcpu with nobody on it.
    pub fn bare() -> Result<Self, Failed> {
        Self::bare_with_pcpus(1)
    }

    /// So many pcpus with nobody on them.
    pub fn bare_with_pcpus(pcpus: u32) -> Result<Self, Failed> {
        let machine = machine(FRAMES, pcpus).map_err(failed)?;
        let kvm = machine.report.kvm;
        let hypervisor = Arc::new(assemble(machine).map_err(failed)?);
        let free = hypervisor.services().mmu.free_frames();
        Ok(Self { hypervisor, kvm, canary: None, held: Vec::new(), given: Vec::new(), free })
    }

    /// A guest that is ready to start.
    pub fn build(&self, code: &Code) -> Result<Guest, Failed> {
        Guest::build(&self.hypervisor, code, None)
    }

    /// A guest that is ready to start, and says everything to `console`.
    pub fn build_with(&self, code: &Code, console: Arc<dyn Console>) -> Result<Guest, Failed> {
        Guest::build(&self.hypervisor, code, Some(console))
    }

    /// Runs a guest to its end.
    pub fn run(&self, code: &Code) -> Result<(End, Guest), Failed> {
        let guest = self.build(code)?;
        guest.start()?;
        Ok((guest.wait()?, guest))
    }

    /// The canary. Panics on a host without one.
    pub fn canary(&self) -> &Guest {
        self.canary.as_ref().expect("a host with a canary")
    }

    /// Waits until the canary has counted on. It must not have ended.
    pub fn canary_goes_on(&self) -> Result<(), Failed> {
        let canary = self.canary();
        let before = canary.peek(canary::COUNTER);
        let done = canary.wait_for(|| canary.peek(canary::COUNTER) >= before + 1000);
        done.map_err(|error| format!("the canary: {error:?}").into())
    }

    /// Every count is right while nobody but the canary runs.
    pub fn audit_beside_canary(&self) -> Result<(), Failed> {
        self.audit_beside(&[], &[])
    }

    /// Every count is right beside the canary and guests that hold `held`, where the entries at `lent` name these
    /// frames of others. They may take interrupts and make calls that change nothing: for a moment, such a call holds
    /// the page that it reads. A count that is wrong in every recount is wrong.
    pub fn audit_beside(
        &self,
        held: &[(Mfn, ReferenceKind)],
        lent: &[(EntryPlace, Mfn)],
    ) -> Result<(), Failed> {
        let held = [&self.held[..], held].concat();
        let mut wrong = Vec::new();
        for _ in 0..RECOUNTS {
            wrong = self.hypervisor.services().mmu.audit_lending(&held, lent);
            if wrong.is_empty() {
                return Ok(());
            }
            // Whoever holds a page may wait for this CPU.
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(format!("the books are wrong: {wrong:?}").into())
    }

    /// The page of the canary's at this address is lent to be written, and no longer compared.
    pub fn canary_gives(&mut self, page: u64) {
        self.given.push(page);
    }

    /// The canary's memory is as it was, but for what it lends to be written, though it counts on.
    pub fn canary_is_unharmed(&self) -> Result<(), Failed> {
        self.canary().check_memory(&[canary::COUNTER], &self.given)
    }

    /// Frames that nobody has.
    pub fn free_frames(&self) -> u64 {
        self.hypervisor.services().mmu.free_frames()
    }

    /// The canary is well and its memory as it was; without it, everything is free and every count right.
    pub fn finish(mut self) -> Result<(), Failed> {
        if let Some(canary) = self.canary.take() {
            let before = canary.peek(canary::COUNTER);
            canary.wait_for(|| canary.peek(canary::COUNTER) >= before + 1000)?;
            canary.check_memory(&[canary::COUNTER], &self.given)?;
            canary.destroy()?;
        }
        let audit = self.hypervisor.services().mmu.audit(&[]);
        if !audit.is_empty() {
            return Err(format!("the books are wrong: {audit:?}").into());
        }
        match self.free_frames() {
            free if free == self.free => Ok(()),
            free => Err(format!("{free} frames are free, and were {}", self.free).into()),
        }
    }
}
