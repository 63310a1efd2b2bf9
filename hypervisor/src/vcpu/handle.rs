//! A vCPU as others than its pcpu's thread see it.

use super::{InfoPage, Vcpu};
use crate::lock::{Rank, Ranked};
use pv_abi::{DomId, VcpuId};
use std::sync::atomic::{AtomicBool, Ordering};

/// Names a vCPU within the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuKey {
    /// Its domain.
    pub domain: DomId,
    /// Its number there.
    pub vcpu: VcpuId,
}

/// What is shared of a vCPU, and its private state behind a lock.
#[derive(Debug)]
pub struct VcpuHandle {
    key: VcpuKey,
    info: InfoPage,
    polls: AtomicBool,
    descriptors_stale: AtomicBool,
    state: Ranked<Vcpu>,
}

impl VcpuHandle {
    /// A vCPU that has not started; `info` is its `vcpu_info`, in which upcalls start masked.
    pub fn new(key: VcpuKey, info: InfoPage) -> Self {
        info.set_masked(true);
        let state = Ranked::new(Rank::Vcpu, Vcpu::new(key.domain, key.vcpu));
        let (polls, descriptors_stale) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { key, info, polls, descriptors_stale, state }
    }

    /// Its name.
    pub fn key(&self) -> VcpuKey {
        self.key
    }

    /// Its `vcpu_info`.
    pub fn info(&self) -> &InfoPage {
        &self.info
    }

    /// Its private state. Locked for as long as the vCPU is on a pcpu.
    pub fn state(&self) -> &Ranked<Vcpu> {
        &self.state
    }

    /// Whether it is in `SCHEDOP_poll`, and to be woken by any port of its domain.
    pub fn polls(&self) -> bool {
        self.polls.load(Ordering::SeqCst)
    }

    /// Sets that.
    pub fn set_polls(&self, polls: bool) {
        self.polls.store(polls, Ordering::SeqCst);
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
