//! The page shared with the hypervisor: both sides write it at any time, so every access is atomic.

use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use pv_abi::mmu::UpdateVaMappingFlags;
use pv_abi::page_table::Pte;
use pv_abi::shared_info::{SharedInfo, VcpuInfo};
use pv_abi::time::VcpuTimeInfo;
use pv_abi::{Mfn, PAGE_SIZE};

use crate::arch::{hypercall, vcpu};
use crate::memory::KERNEL_DATA;
use crate::start_info;

/// An address for the page: `init` maps the shared frame in place of this one.
#[repr(C, align(4096))]
struct Page(UnsafeCell<[u64; PAGE_SIZE / 8]>);

// SAFETY: reached only through the atomics below.
unsafe impl Sync for Page {}

static PAGE: Page = Page(UnsafeCell::new([0; PAGE_SIZE / 8]));

/// Where the shared frame is mapped: the one page of the linear map that shows another frame.
pub fn page_address() -> u64 {
    PAGE.0.get() as u64
}

/// Maps the shared frame.
pub fn init() {
    let frame = Mfn::containing(start_info::with(|info| info.shared_info));
    // SAFETY: nothing has used the page yet, and all later uses are atomic.
    unsafe {
        hypercall::update_va_mapping(
            page_address(),
            Pte::new(frame, KERNEL_DATA),
            UpdateVaMappingFlags::INVLPG,
        )
    }
    .expect("mapping shared_info");
}

/// One atomic word of the page, at a byte offset.
macro_rules! word {
    ($atomic:ty, $offset:expr) => {{
        let offset = $offset;
        assert!(offset + size_of::<$atomic>() <= PAGE_SIZE && offset % align_of::<$atomic>() == 0);
        // SAFETY: inside the page, aligned, and never accessed but atomically.
        unsafe { &*PAGE.0.get().cast::<u8>().add(offset).cast::<$atomic>() }
    }};
}

/// Where the `vcpu_info` of the vCPU that this runs on is.
fn own() -> usize {
    offset_of!(SharedInfo, vcpu_info) + vcpu::number() as usize * size_of::<VcpuInfo>()
}

/// "An event is pending" of this vCPU.
pub fn upcall_pending() -> &'static AtomicU8 {
    word!(AtomicU8, own() + offset_of!(VcpuInfo, evtchn_upcall_pending))
}

/// "No upcalls, please" of this vCPU.
pub fn upcall_mask() -> &'static AtomicU8 {
    word!(AtomicU8, own() + offset_of!(VcpuInfo, evtchn_upcall_mask))
}

/// Which words of [`pending`] this vCPU is to look at.
pub fn pending_selector() -> &'static AtomicU64 {
    word!(AtomicU64, own() + offset_of!(VcpuInfo, evtchn_pending_sel))
}

/// A word of the ports' pending bits. `index` is below 64.
pub fn pending(index: usize) -> &'static AtomicU64 {
    word!(AtomicU64, offset_of!(SharedInfo, evtchn_pending) + index * 8)
}

/// A word of the ports' mask bits. `index` is below 64.
pub fn mask(index: usize) -> &'static AtomicU64 {
    word!(AtomicU64, offset_of!(SharedInfo, evtchn_mask) + index * 8)
}

/// The address of this vCPU's last page fault.
pub fn fault_address() -> u64 {
    word!(AtomicU64, own() + offset_of!(VcpuInfo, cr2)).load(Ordering::Relaxed)
}

/// One attempt at reading the parameters of this vCPU's clock; none while the hypervisor is changing them.
pub fn time_info() -> Option<VcpuTimeInfo> {
    // SAFETY: the page is mapped for good.
    unsafe { time_info_of(page_address() + own() as u64) }
}

/// The same for the vCPU whose `vcpu_info` is at `address`.
///
/// # Safety
///
/// There must be one, mapped.
pub unsafe fn time_info_of(address: u64) -> Option<VcpuTimeInfo> {
    let base = address + offset_of!(VcpuInfo, time) as u64;
    // SAFETY: the caller's; fields are aligned, and never accessed but atomically.
    let field = |offset: usize| unsafe { &*((base + offset as u64) as *const AtomicU64) };
    // SAFETY: as above.
    let version = unsafe { &*((base + offset_of!(VcpuTimeInfo, version) as u64) as *const AtomicU32) };
    let before = version.load(Ordering::Acquire);
    let scale = field(offset_of!(VcpuTimeInfo, tsc_to_system_mul)).load(Ordering::Acquire);
    let info = VcpuTimeInfo {
        version: before,
        tsc_timestamp: field(offset_of!(VcpuTimeInfo, tsc_timestamp)).load(Ordering::Acquire),
        system_time: field(offset_of!(VcpuTimeInfo, system_time)).load(Ordering::Acquire),
        tsc_to_system_mul: scale as u32,
        tsc_shift: (scale >> 32) as i8,
        flags: (scale >> 40) as u8,
        ..VcpuTimeInfo::default()
    };
    (before & 1 == 0 && version.load(Ordering::Acquire) == before).then_some(info)
}

/// Unix time at system time 0: seconds and nanoseconds; none while it is being changed.
pub fn wall_clock() -> Option<(u64, u32)> {
    let version = word!(AtomicU32, offset_of!(SharedInfo, wc_version));
    let before = version.load(Ordering::Acquire);
    let low = word!(AtomicU32, offset_of!(SharedInfo, wc_sec)).load(Ordering::Acquire);
    let high = word!(AtomicU32, offset_of!(SharedInfo, wc_sec_hi)).load(Ordering::Acquire);
    let nanoseconds = word!(AtomicU32, offset_of!(SharedInfo, wc_nsec)).load(Ordering::Acquire);
    let stable = before & 1 == 0 && version.load(Ordering::Acquire) == before;
    stable.then_some((u64::from(high) << 32 | u64::from(low), nanoseconds))
}
