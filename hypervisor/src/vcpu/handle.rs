//! A vCPU as others than its pcpu's thread see it.
//!
//! A vCPU that the guest starts itself is initialised by another one of its domain, once
//! (`hypercall::tests::vcpus`, `two_vcpus_initialise_a_third`):
//! ```text
//!   fresh ──claim──▶ claimed ──Claim::keep──▶ initialised
//!     ▲                 │
//!     └── Claim dropped ┘
//! ```
//! Whoever has the [`Claim`] is the only one that changes the private state: the vCPU is on no pcpu before it is
//! initialised. The first vCPU is initialised by the domain's builder.

use super::{InfoPage, Vcpu};
use crate::error::Refusal;
use crate::frame::{Reference, ReferenceKind};
use crate::lock::{Guard, Rank, Ranked};
use crate::paging::Mmu;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use pv_abi::{DomId, Errno, Mfn, VcpuId};
use std::sync::Arc;

const FRESH: u8 = 0;
const CLAIMED: u8 = 1;
const INITIALISED: u8 = 2;

/// The right to initialise a vCPU; dropped, it is as before.
#[derive(Debug)]
#[must_use = "dropping it leaves the vCPU as it was"]
pub struct Claim<'a>(&'a VcpuHandle);

impl<'a> Claim<'a> {
    /// The private state. Nobody holds it for long: no pcpu has the vCPU.
    ///
    /// # Errors
    /// −EEXIST, which nobody should see.
    pub fn state(&self) -> Result<Guard<'a, Vcpu>, Refusal> {
        let state = self.0.state.try_lock();
        state.ok_or(Refusal::new(Errno::EEXIST, "the vCPU is in use"))
    }

    /// The vCPU is initialised, and stays so.
    pub fn keep(self) {
        self.0.stage.store(INITIALISED, Ordering::SeqCst);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let (from, to) = (CLAIMED, FRESH);
        // A claim that was kept has nothing to give back.
        let _ = self.0.stage.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// Names a vCPU within the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuKey {
    /// The domain that the vCPU is of.
    pub domain: DomId,
    /// The vCPU's number in that domain.
    pub vcpu: VcpuId,
}

/// What is shared of a vCPU, and its private state behind a lock.
#[derive(Debug)]
pub struct VcpuHandle {
    key: VcpuKey,
    info: InfoPage,
    /// What keeps the frame that `info` has moved to.
    info_frame: Ranked<Option<Reference>>,
    stage: AtomicU8,
    polls: AtomicBool,
    awaits_room: AtomicBool,
    descriptors_stale: AtomicBool,
    /// Where its kernel wants to see where its time goes; 0 for nowhere.
    runstate_area: AtomicU64,
    state: Ranked<Vcpu>,
}

impl VcpuHandle {
    /// A vCPU that has not started, of a domain with `domain_vcpus` vCPUs, itself among them; `info` is its `vcpu_info`, in which
    /// upcalls start masked, and `assists` is what its domain has switched on by `vm_assist`.
    pub fn new(key: VcpuKey, domain_vcpus: u32, info: InfoPage, assists: Arc<AtomicU64>) -> Self {
        info.set_masked(true);
        let state = Ranked::new(Rank::Vcpu, Vcpu::new(key.domain, key.vcpu, domain_vcpus, assists));
        let [polls, awaits_room, descriptors_stale] = [(); 3].map(|()| AtomicBool::new(false));
        let (info_frame, stage) = (Ranked::new(Rank::VcpuInfo, None), AtomicU8::new(FRESH));
        let runstate_area = AtomicU64::new(0);
        Self { key, info, info_frame, stage, polls, awaits_room, descriptors_stale, runstate_area, state }
    }

    /// What names the vCPU in the machine.
    pub fn key(&self) -> VcpuKey {
        self.key
    }

    /// What the vCPU and the hypervisor tell each other of events (`vcpu_info`).
    pub fn info(&self) -> &InfoPage {
        &self.info
    }

    /// Its private state. Locked for as long as the vCPU is on a pcpu.
    pub fn state(&self) -> &Ranked<Vcpu> {
        &self.state
    }

    /// Moves its `vcpu_info` to `offset` of a frame, which `frame` keeps writable and the domain's.
    ///
    /// # Errors
    /// −EINVAL where it has moved before, −ENXIO where it does not fit there; the reference comes back.
    pub fn move_info(&self, frame: Reference, offset: u32) -> Result<(), (Refusal, Reference)> {
        let mut kept = self.info_frame.lock();
        if kept.is_some() {
            return Err((Refusal::new(Errno::EINVAL, "vcpu_info has been moved before"), frame));
        }
        if self.info.relocate(frame.mfn(), offset as usize).is_err() {
            return Err((Refusal::new(Errno::ENXIO, "vcpu_info cannot lie there"), frame));
        }
        *kept = Some(frame);
        Ok(())
    }

    /// The reference that keeps the frame that its `vcpu_info` has moved to, for [`Mmu::audit`].
    pub fn held(&self) -> Option<(Mfn, ReferenceKind)> {
        let kept = self.info_frame.lock();
        kept.as_ref().map(|frame| (frame.mfn(), frame.kind()))
    }

    /// Gives up the frame that its `vcpu_info` has moved to: all event channels are closed, and nobody uses it any
    /// more.
    pub fn release_info(&self, mmu: &Mmu) {
        let kept = self.info_frame.lock().take();
        kept.into_iter().for_each(|frame| mmu.release(frame));
    }

    /// Whether it has a context to run.
    pub fn is_initialised(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == INITIALISED
    }

    /// The right to initialise it.
    ///
    /// # Errors
    /// −EEXIST where it is initialised, or somebody else is at it.
    pub fn claim(&self) -> Result<Claim<'_>, Refusal> {
        let taken = Refusal::new(Errno::EEXIST, "the vCPU is initialised");
        let claimed = self.stage.compare_exchange(FRESH, CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
        claimed.map(|_| Claim(self)).map_err(|_| taken)
    }

    /// Whether it is in `SCHEDOP_poll`, and to be woken by any port of its domain.
    pub fn polls(&self) -> bool {
        self.polls.load(Ordering::SeqCst)
    }

    /// Sets whether it is in `SCHEDOP_poll`.
    pub fn set_polls(&self, polls: bool) {
        self.polls.store(polls, Ordering::SeqCst);
    }

    /// Whether it waits for room in its domain's emergency console.
    pub fn awaits_room(&self) -> bool {
        self.awaits_room.load(Ordering::SeqCst)
    }

    /// Sets whether it waits for room in its domain's emergency console.
    pub fn set_awaits_room(&self, awaits: bool) {
        self.awaits_room.store(awaits, Ordering::SeqCst);
    }

    /// The address in its kernel's memory at which it is told where its time goes; 0 for nowhere.
    pub fn runstate_area(&self) -> u64 {
        self.runstate_area.load(Ordering::SeqCst)
    }

    /// Sets the address at which it is told where its time goes; 0 for nowhere.
    pub fn set_runstate_area(&self, address: u64) {
        self.runstate_area.store(address, Ordering::SeqCst);
    }

    /// A descriptor in a frame of its domain has changed.
    pub fn mark_descriptors_stale(&self) {
        self.descriptors_stale.store(true, Ordering::SeqCst);
    }

    /// Whether one has since the last call.
    pub fn take_descriptors_stale(&self) -> bool {
        self.descriptors_stale.swap(false, Ordering::SeqCst)
    }
}
