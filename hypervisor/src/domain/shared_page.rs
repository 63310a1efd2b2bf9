//! A domain's `shared_info` page: its pending and mask bits, one a port.
//!
//! As with [`crate::vcpu::InfoPage`], the frame is the hypervisor's for the domain's life and each access is
//! one atomic access; one that fails all the same reads as "pending and masked", which makes nothing happen.

use crate::machine::{MachineMemory, NoSuchFrame};
use crate::vcpu::InfoPage;
use pv_abi::shared_info::{LEGACY_MAX_VCPUS, SharedInfo, VcpuInfo};
use pv_abi::{EventPort, Mfn, VcpuId};
use std::mem::{offset_of, size_of};
use std::sync::Arc;

/// The page, and the accesses to it.
#[derive(Debug)]
pub struct SharedPage {
    memory: Arc<MachineMemory>,
    frame: Mfn,
}

/// Offset of a port's word in an array of bits, and its bit.
fn place(array: usize, port: EventPort) -> (usize, u64) {
    (array.saturating_add(((port.0 / 64) << 3) as usize), 1 << (port.0 % 64))
}

impl SharedPage {
    /// The page `frame`.
    ///
    /// # Errors
    /// [`NoSuchFrame`].
    pub fn new(memory: Arc<MachineMemory>, frame: Mfn) -> Result<Self, NoSuchFrame> {
        memory.load_u64(frame, 0)?;
        Ok(Self { memory, frame })
    }

    /// The frame that the page is.
    pub fn frame(&self) -> Mfn {
        self.frame
    }

    /// The memory that it lies in.
    pub fn memory(&self) -> &Arc<MachineMemory> {
        &self.memory
    }

    /// Where vCPU `id`'s `vcpu_info` lies.
    ///
    /// # Errors
    /// [`NoSuchFrame`] for a vCPU past those that have theirs in this page.
    pub fn vcpu_info(&self, id: VcpuId) -> Result<InfoPage, NoSuchFrame> {
        let index = usize::try_from(id.0).ok().filter(|&index| index < LEGACY_MAX_VCPUS);
        let offset = index.ok_or(NoSuchFrame(self.frame))?.saturating_mul(size_of::<VcpuInfo>());
        InfoPage::new(self.memory.clone(), self.frame, offset)
    }

    fn bit(&self, array: usize, port: EventPort) -> bool {
        let (offset, bit) = place(array, port);
        self.memory.load_u64(self.frame, offset).map_or(true, |word| word & bit != 0)
    }

    /// Whether an event is pending on `port` (below 4096).
    pub fn is_pending(&self, port: EventPort) -> bool {
        self.bit(offset_of!(SharedInfo, evtchn_pending), port)
    }

    /// Whether an event is pending on one of `ports`.
    pub fn any_pending(&self, ports: &[EventPort]) -> bool {
        ports.iter().any(|&port| self.is_pending(port))
    }

    /// Whether the guest has masked `port`.
    pub fn is_masked(&self, port: EventPort) -> bool {
        self.bit(offset_of!(SharedInfo, evtchn_mask), port)
    }

    /// Makes `port` pending; true where it was already.
    pub fn set_pending(&self, port: EventPort) -> bool {
        let (offset, bit) = place(offset_of!(SharedInfo, evtchn_pending), port);
        self.memory.fetch_or_u64(self.frame, offset, bit).map_or(true, |old| old & bit != 0)
    }

    /// Forgets what is pending on `port`.
    pub fn clear_pending(&self, port: EventPort) {
        let (offset, bit) = place(offset_of!(SharedInfo, evtchn_pending), port);
        let _ = self.memory.fetch_and_u64(self.frame, offset, !bit);
    }

    /// Unmasks `port`; true where it was masked.
    pub fn clear_mask(&self, port: EventPort) -> bool {
        let (offset, bit) = place(offset_of!(SharedInfo, evtchn_mask), port);
        self.memory.fetch_and_u64(self.frame, offset, !bit).is_ok_and(|old| old & bit != 0)
    }
}
