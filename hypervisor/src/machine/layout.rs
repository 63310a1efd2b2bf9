//! What the hypervisor keeps in machine memory, and the part of every address space that is its own.
//!
//! Frames, from 0 up: the hypervisor's private frames (stub, descriptor tables, per-pcpu areas, its own page
//! tables), the M2P, and from [`Layout::first_free`] on what domains can be given.

use pv_abi::Mfn;
use pv_abi::page_table::{FIRST_HYPERVISOR_SLOT, LAST_HYPERVISOR_SLOT, Pte};
use std::ops::Range;

const _: () = assert!(DOORBELL_SLOT <= LAST_HYPERVISOR_SLOT);

/// Slots 256–271 of every L4 table.
pub const HYPERVISOR_SLOTS: usize = LAST_HYPERVISOR_SLOT - FIRST_HYPERVISOR_SLOT + 1;
/// The one of them that is not the same in all domains: what it holds belongs to the domain's doorbell page.
pub const DOORBELL_SLOT: usize = FIRST_HYPERVISOR_SLOT + 4;
/// Where a domain that has a doorbell page rings: the start of [`DOORBELL_SLOT`].
pub const DOORBELL_ADDRESS: u64 = 0xffff_8200_0000_0000;
/// Doorbells of one page.
pub const DOORBELLS_PER_PAGE: usize = 32;

/// Where things are. Made once, when the machine is.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Frames of the machine.
    pub frames: u64,
    /// Entries in use of every table: 512, and fewer only on a fake machine whose states are explored one by one.
    pub entries: usize,
    /// Frames of the M2P: an array of `u64`, one a frame of the machine.
    pub m2p: Range<u64>,
    /// The first frame that is not the hypervisor's.
    pub first_free: Mfn,
    /// What slots 256–271 of every L4 table hold; [`DOORBELL_SLOT`], unless the table's domain has a doorbell page.
    pub slots: [Pte; HYPERVISOR_SLOTS],
    /// Doorbell pages: what [`DOORBELL_SLOT`] holds in every L4 table of the one domain that has the page. None of them
    /// ever leads elsewhere, so a domain may have one when another has gone.
    pub doorbell_pages: Vec<Pte>,
    /// Virtual addresses at which guests can read the M2P.
    pub m2p_address: Range<u64>,
    /// Whether the M2P can be read at Xen's fixed address as well; where not, reads there are emulated.
    pub m2p_at_fixed_address: bool,
    /// Contents of a hypercall page: for each number, code that makes the call by the cheapest gate.
    pub hypercall_page: Vec<u8>,
}
