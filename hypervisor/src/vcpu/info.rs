//! A vCPU's `vcpu_info`: the few words that it shares with the hypervisor.
//!
//! The guest writes them at any time, so each access is one atomic access and nothing is believed twice. The
//! frame is held for the domain's life; an access that fails all the same reads as "masked, nothing pending".
//!
//! They may move, once ([`InfoPage::relocate`]), while others make events pending. No event is lost
//! (`an_event_that_met_the_old_place_is_told_at_the_new_one`): a sender sets the port's bit first and looks for the
//! place then, the mover sets the place and marks everything pending there before the vCPU runs again. So a mark that
//! meets the old place is of a port whose bit was set before the vCPU looks everywhere. In either place the selector is
//! set before the upcall, which a guest takes first: so it is never told without a place to look at.
//! `tests/concurrency` tries every interleaving.

use crate::machine::{MachineMemory, NoSuchFrame};
use crate::sync::atomic::{AtomicU64, Ordering};
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
    /// The machine address of the structure.
    place: AtomicU64,
}

/// The machine address of a `vcpu_info`, where one can lie there.
fn checked(memory: &MachineMemory, frame: Mfn, offset: usize) -> Result<u64, NoSuchFrame> {
    let fits = offset.is_multiple_of(8)
        && offset.checked_add(size_of::<VcpuInfo>()).is_some_and(|end| end <= PAGE_SIZE);
    if !fits || frame.0 >= memory.frames() {
        return Err(NoSuchFrame(frame));
    }
    Ok(frame.address() | offset as u64)
}

impl InfoPage {
    /// The `vcpu_info` at `offset` of `frame`.
    ///
    /// # Errors
    /// [`NoSuchFrame`] where it is not wholly within a frame of the machine, or not aligned to 8 bytes.
    pub fn new(memory: Arc<MachineMemory>, frame: Mfn, offset: usize) -> Result<Self, NoSuchFrame> {
        let place = AtomicU64::new(checked(&memory, frame, offset)?);
        Ok(Self { memory, place })
    }

    /// Moves them to `offset` of `frame`, contents and all, and marks everything as pending there. Nobody does so at
    /// the same time, and the vCPU does not run meanwhile.
    ///
    /// # Errors
    /// As [`Self::new`], and nothing has changed.
    pub fn relocate(&self, frame: Mfn, offset: usize) -> Result<(), NoSuchFrame> {
        let place = checked(&self.memory, frame, offset)?;
        let mut contents = [0; size_of::<VcpuInfo>()];
        let (old_frame, old_offset) = self.at(0);
        self.memory.read(old_frame, old_offset, &mut contents)?;
        self.memory.write(frame, offset, &contents)?;
        self.place.store(place, Ordering::SeqCst);
        let selector = offset.saturating_add(offset_of!(VcpuInfo, evtchn_pending_sel));
        self.memory.fetch_or_u64(frame, selector, u64::MAX)?;
        self.swap(offset_of!(VcpuInfo, evtchn_upcall_pending), 1);
        Ok(())
    }

    /// The frame, and the offset there, of a field.
    fn at(&self, field: usize) -> (Mfn, usize) {
        let place = self.place.load(Ordering::SeqCst);
        (Mfn::containing(place), (place as usize % PAGE_SIZE).saturating_add(field))
    }

    fn byte(&self, field: usize) -> Option<u8> {
        let (frame, offset) = self.at(field);
        self.memory.load_u8(frame, offset).ok()
    }

    fn swap(&self, field: usize, value: u8) -> Option<u8> {
        let (frame, offset) = self.at(field);
        self.memory.swap_u8(frame, offset, value).ok()
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
        let (frame, selector) = self.at(offset_of!(VcpuInfo, evtchn_pending_sel));
        let _ = self.memory.fetch_or_u64(frame, selector, 1 << (word % 64));
        self.swap(offset_of!(VcpuInfo, evtchn_upcall_pending), 1);
    }

    /// Tells the address of a page fault.
    pub fn set_cr2(&self, address: u64) {
        let (frame, offset) = self.at(offset_of!(VcpuInfo, cr2));
        let _ = self.memory.store_u64(frame, offset, address);
    }

    /// The address of the last page fault, or what the guest has written there.
    pub fn cr2(&self) -> u64 {
        let (frame, offset) = self.at(offset_of!(VcpuInfo, cr2));
        self.memory.load_u64(frame, offset).unwrap_or_default()
    }

    /// Publishes the vCPU's clock.
    pub fn publish(&self, clock: &VcpuTimeInfo) {
        let (frame, offset) = self.at(0);
        let _ = time::publish(&self.memory, frame, offset, clock);
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
    fn an_event_that_met_the_old_place_is_told_at_the_new_one() {
        let memory = Arc::new(MachineMemory::new(2).unwrap());
        let info = InfoPage::new(memory.clone(), Mfn(0), 64).unwrap();
        info.set_masked(true);
        info.set_cr2(7);
        assert!(info.relocate(Mfn(1), 4096 - 56).is_err() && info.relocate(Mfn(2), 0).is_err());
        info.relocate(Mfn(1), 128).unwrap();
        assert!(info.pending() && info.masked(), "the contents have moved, and everything is worth a look");
        assert_eq!((memory.load_u64(Mfn(1), 136), memory.load_u64(Mfn(1), 144)), (Ok(u64::MAX), Ok(7)));
        info.mark_pending(3);
        assert_eq!(memory.load_u64(Mfn(0), 72), Ok(0), "the old place is left alone");
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
