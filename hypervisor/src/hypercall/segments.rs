//! Segments: `set_gdt`, `update_descriptor`, `set_segment_base`.

use super::{Arguments, Call, Outcome, Reply, done, refuse};
use crate::guest_memory::GuestArray;
use crate::paging::Progress;
use crate::vcpu::resume::data_base;
use pv_abi::address::is_canonical;
use pv_abi::segment::{DESCRIPTORS_PER_FRAME, FIRST_RESERVED_GDT_ENTRY, SegmentBase};
use pv_abi::{Errno, Mfn};

/// `set_gdt(frames, entries)`.
pub fn set_gdt(call: &mut Call<'_>, [frames, entries, ..]: Arguments) -> Reply {
    let entries = match u32::try_from(entries) {
        Ok(entries) if entries <= FIRST_RESERVED_GDT_ENTRY => entries,
        _ => return refuse(Errno::EINVAL, "that many descriptors do not fit"),
    };
    let array = GuestArray::<Mfn>::new(frames, u64::from(entries.div_ceil(DESCRIPTORS_PER_FRAME)))?;
    let frames: Vec<Mfn> =
        (0..array.len()).map(|index| array.get(&call.space(), index)).collect::<Result<_, _>>()?;
    // Each frame may have to be checked.
    call.spend(entries);
    let (mmu, domain) = (&call.services.mmu, call.domain.id());
    if call.vcpu.gdt.replace(mmu, domain, &frames, entries, &mut call.budget)? == Progress::Preempted {
        return Ok(Outcome::Preempted);
    }
    call.vcpu.reload_descriptors(&call.services.mmu);
    done()
}

/// `update_descriptor(machine_address, descriptor)`.
pub fn update_descriptor(call: &mut Call<'_>, [machine_address, descriptor, ..]: Arguments) -> Reply {
    let in_use = call.services.mmu.update_descriptor(call.domain.id(), machine_address, descriptor)?;
    if in_use {
        call.domain.vcpus().iter().for_each(|vcpu| vcpu.mark_descriptors_stale());
    }
    done()
}

/// `set_segment_base(which, base)`.
pub fn set_segment_base(call: &mut Call<'_>, [which, base, ..]: Arguments) -> Reply {
    let which = SegmentBase(which);
    let vcpu = &mut *call.vcpu;
    if which == SegmentBase::GS_USER_SEL {
        // A selector that cannot be loaded reads as none when user mode is resumed.
        let (selector, descriptors) = (base as u16, vcpu.gdt.descriptors(&call.services.mmu));
        vcpu.other_gs = selector;
        vcpu.other_gs_base = data_base(selector, &descriptors).unwrap_or(0);
        return done();
    }
    if !is_canonical(base) {
        return refuse(Errno::EINVAL, "the base is not canonical");
    }
    match which {
        SegmentBase::FS => vcpu.context.fs_base = base,
        SegmentBase::GS_USER => vcpu.other_gs_base = base,
        SegmentBase::GS_KERNEL => vcpu.context.gs_base = base,
        _ => return refuse(Errno::EINVAL, "no such segment base"),
    }
    done()
}
