//! The runstate area: a place in a kernel's memory where it is told where its vCPU's time goes.

use super::Vcpu;
use crate::error::Failure;
use crate::guest_memory::GuestSpace;
use crate::paging::Mmu;
use pv_abi::vcpu::VcpuRunstateInfo;
use std::mem::offset_of;

impl Vcpu {
    /// Writes `info` at `area` of its kernel's memory, whichever mode it is in. 0 is no area. As on Xen, where the kernel
    /// could not write there itself, nothing is written and nobody is told.
    pub fn publish_runstate(&self, mmu: &Mmu, area: u64, info: &VcpuRunstateInfo) {
        let Some(root) = self.roots.kernel().filter(|_| area != 0) else { return };
        let space = GuestSpace::new(mmu, self.domain, root.mfn());
        if let Err(failure) = self.write_runstate(space, area, info) {
            tracing::trace!(domain = %self.domain, area, %failure, "the runstate area cannot be written");
        }
    }

    /// A reader who asked for that sees by the entry time whether what it read was whole.
    fn write_runstate(
        &self,
        space: GuestSpace<'_>,
        area: u64,
        info: &VcpuRunstateInfo,
    ) -> Result<(), Failure> {
        if !self.marks_runstate_updates() {
            return space.write(area, info);
        }
        let entry_time = area.wrapping_add(offset_of!(VcpuRunstateInfo, state_entry_time) as u64);
        let marked = info.state_entry_time | VcpuRunstateInfo::UPDATE;
        space.write(entry_time, &marked)?;
        space.write(area, &VcpuRunstateInfo { state_entry_time: marked, ..*info })?;
        space.write(entry_time, &info.state_entry_time)
    }
}
