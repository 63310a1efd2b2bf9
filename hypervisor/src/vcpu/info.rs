//! A vCPU's `vcpu_info`: the few words that it shares with the hypervisor.
//!
//! The guest writes them at any time, so each access is one atomic access and nothing is believed twice. The
//! frame belongs to the hypervisor for the domain's life; an access that fails all the same reads as "masked,
//! nothing pending".

use crate::machine::{MachineMemory, NoSuchFrame};
use crate::time;
use pv_abi::shared_info::VcpuInfo;
use pv_abi::time::VcpuTimeInfo;
use pv_abi::{Mfn, PAGE_SIZE};
use std::mem::{offset_of, size_of};
use std::sync::Arc;

/// Where a vCPU's `vcpu_info` lies, and the accesses to it.
#[derive(Debug)]
pub struct InfoPage {
    memory: Arc<MachineMemory>,
    frame: Mfn,
    offset: usize,
}

impl InfoPage {
    /// The `vcpu_info` at `offset` of `frame`.
    ///
    /// # Errors
    /// [`NoSuchFrame`] where it is not wholly within a frame of the machine, or not aligned to 8 bytes.
    pub fn new(memory: Arc<MachineMemory>, frame: Mfn, offset: usize) -> Result<Self, NoSuchFrame> {
        let fits = offset.is_multiple_of(8)
            && offset.checked_add(size_of::<VcpuInfo>()).is_some_and(|e| e <= PAGE_SIZE);
        if !fits || frame.0 >= memory.frames() {
            return Err(NoSuchFrame(frame));
        }
        Ok(Self { memory, frame, offset })
    }

    fn byte(&self, field: usize) -> Option<u8> {
        self.memory.load_u8(self.frame, self.offset + field).ok()
    }

    fn swap(&self, field: usize, value: u8) -> Option<u8> {
        self.memory.swap_u8(self.frame, self.offset + field, value).ok()
    }

    /// Whether the guest holds upcalls off.
    pub fn masked(&self) -> bool {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_mask)) != Some(0)
    }

    /// Holds upcalls off, or no longer.
    pub fn set_masked(&self, masked: bool) {
        self.swap(offset_of!(VcpuInfo, evtchn_upcall_mask), u8::from(masked));
    }

    /// Whether an event is pending that the guest has not looked at.
    pub fn pending(&self) -> bool {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_pending)).is_some_and(|value| value != 0)
    }

    /// Whether the guest is to be told of an event now.
    pub fn wants_upcall(&self) -> bool {
        self.pending() && !self.masked()
    }

    /// Marks `word` of the pending ports as worth a look, and the upcall as pending.
    pub fn mark_pending(&self, word: u32) {
        let selector = offset_of!(VcpuInfo, evtchn_pending_sel);
        let _ = self.memory.fetch_or_u64(self.frame, self.offset + selector, 1 << (word % 64));
        self.swap(offset_of!(VcpuInfo, evtchn_upcall_pending), 1);
    }

    /// Tells the address of a page fault.
    pub fn set_cr2(&self, address: u64) {
        let _ = self.memory.store_u64(self.frame, self.offset + offset_of!(VcpuInfo, cr2), address);
    }

    /// Publishes the vCPU's clock.
    pub fn publish(&self, clock: &VcpuTimeInfo) {
        let _ = time::publish(&self.memory, self.frame, self.offset, clock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_leaves_the_frame_is_refused() {
        let memory = Arc::new(MachineMemory::new(1).unwrap());
        for (frame, offset) in [(0, 4096 - 56), (0, 4), (1, 0), (u64::MAX, 0), (0, usize::MAX - 7)] {
            assert!(InfoPage::new(memory.clone(), Mfn(frame), offset).is_err(), "{frame} {offset}");
        }
        assert!(InfoPage::new(memory, Mfn(0), 4096 - 64).is_ok());
    }

    #[test]
    fn an_upcall_is_wanted_when_pending_and_unmasked() {
        let memory = Arc::new(MachineMemory::new(1).unwrap());
        let info = InfoPage::new(memory.clone(), Mfn(0), 64).unwrap();
        info.set_masked(true);
        info.mark_pending(3);
        assert!(info.pending() && !info.wants_upcall());
        info.set_masked(false);
        assert!(info.wants_upcall());
        assert_eq!(memory.load_u64(Mfn(0), 64 + 8).unwrap(), 1 << 3);
    }
}
