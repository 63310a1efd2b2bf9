//! Between the domain's frame numbers and the machine's: the p2m list, and the hypervisor's M2P.
//!
//! The M2P is found by asking, never by Xen's customary address, and an entry of it counts only if the
//! p2m agrees: other domains' frames have entries too.

use pv_abi::memory::MachphysMapping;
use pv_abi::{Mfn, Pfn};

use crate::arch::{guard, hypercall};
use crate::start_info;
use crate::sync::Local;

struct Tables {
    p2m: &'static [u64],
    m2p: MachphysMapping,
}

static TABLES: Local<Option<Tables>> = Local::new(None);

/// Finds both tables: the p2m list by `start_info`, the M2P by `XENMEM_machphys_mapping`.
pub fn init() {
    let (list, pages) = start_info::with(|info| (info.mfn_list, info.nr_pages));
    // SAFETY: the ABI's promise: the list has an entry for each page. Nothing writes it later.
    let p2m = unsafe { core::slice::from_raw_parts(list as *const u64, pages as usize) };
    let m2p = hypercall::machphys_mapping().expect("XENMEM_machphys_mapping");
    TABLES.with(|tables| *tables = Some(Tables { p2m, m2p }));
}

fn with_tables<R>(f: impl FnOnce(&Tables) -> R) -> R {
    TABLES.with(|tables| f(tables.as_ref().expect("translation is set up first")))
}

/// Frames that the domain has.
pub fn frames() -> u64 {
    with_tables(|tables| tables.p2m.len() as u64)
}

/// The machine frame of one of the domain's frames. Panics for a pfn that it does not have.
pub fn mfn(pfn: Pfn) -> Mfn {
    with_tables(|tables| Mfn(tables.p2m[pfn.0 as usize]))
}

/// Which of the domain's frames `mfn` is, if any.
pub fn pfn(mfn: Mfn) -> Option<Pfn> {
    let pfn = machine_to_physical(mfn)?;
    with_tables(|tables| (tables.p2m.get(pfn.0 as usize) == Some(&mfn.0)).then_some(pfn))
}

/// The M2P entry of any machine frame; none where the table has a hole.
pub fn machine_to_physical(mfn: Mfn) -> Option<Pfn> {
    let m2p = with_tables(|tables| tables.m2p);
    let address = mfn.0.checked_mul(8).and_then(|offset| m2p.v_start.checked_add(offset))?;
    if mfn.0 > m2p.max_mfn || address >= m2p.v_end {
        return None;
    }
    let mut entry = 0u64;
    // SAFETY: reads hypervisor memory into a local.
    unsafe { guard::copy(&raw mut entry as u64, address, size_of::<u64>()) }.ok()?;
    Some(Pfn(entry))
}

/// Where the hypervisor has the M2P.
pub fn m2p() -> MachphysMapping {
    with_tables(|tables| tables.m2p)
}
