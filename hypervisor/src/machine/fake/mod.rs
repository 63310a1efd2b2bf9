//! A machine without KVM: its memory is real, its pcpus and their caches are made up. What lies above the machine
//! is tested on it, and so is what no host at hand can show: a missing flush.

mod doorbells;
mod pcpu;
mod translations;

pub use doorbells::FakeDoorbells;
pub use pcpu::{Action, FakeKick, FakePcpu, Scripts};
pub use translations::{Derived, FakeTranslations, Fault, Kind, Sabotage};

use super::{Layout, MachineMemory};
use pv_abi::page_table::{ENTRIES, Pte, PteFlags};
use pv_abi::{Mfn, PAGE_SIZE};
use std::sync::Arc;

/// Frames of a fake machine that are the hypervisor's before the M2P: one of nothing, and two of its tables.
const PRIVATE_FRAMES: u64 = 3;
/// Pcpus of a fake machine.
pub const PCPUS: usize = 2;

/// A machine for tests: real memory, and a model of what its pcpus cache. No KVM is used.
#[derive(Clone, Debug)]
pub struct FakeMachine {
    /// The memory of the machine.
    pub memory: Arc<MachineMemory>,
    /// Which frames and which slots of root tables are the hypervisor's.
    pub layout: Arc<Layout>,
    /// Its pcpus and what they cache.
    pub translations: Arc<FakeTranslations>,
    /// The machine's doorbells, which a test rings itself.
    pub doorbells: Arc<FakeDoorbells>,
}

impl FakeMachine {
    /// A machine of `frames` pages, whose pcpus cache as hardware does.
    ///
    /// # Panics
    /// Where the host gives no memory, which ends a test as it should.
    pub fn new(frames: u64) -> Self {
        Self::of_kind(frames, Kind::Hardware)
    }

    /// A machine of either kind.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn of_kind(frames: u64, kind: Kind) -> Self {
        let memory = match MachineMemory::new(frames) {
            Ok(memory) => Arc::new(memory),
            Err(error) => panic!("a fake machine needs memory: {error}"),
        };
        let translations = Arc::new(FakeTranslations::new(Arc::clone(&memory), kind, PCPUS));
        Self { layout: Arc::new(layout(frames)), memory, translations, doorbells: Arc::default() }
    }

    /// A machine with `frames` pages for domains, in whose tables only the first `entries` count: small enough for
    /// trying everything.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn short(frames: u64, entries: usize) -> Self {
        let machine = Self::new(PRIVATE_FRAMES + 1 + frames);
        let layout = Layout { entries, ..(*machine.layout).clone() };
        Self { layout: Arc::new(layout), ..machine }
    }
}

/// Slots as a real machine has them: one with the hypervisor's own tables, closed to guests, one with the M2P,
/// open to reads, the others empty.
fn layout(frames: u64) -> Layout {
    let m2p = PRIVATE_FRAMES..PRIVATE_FRAMES + frames.div_ceil(PAGE_SIZE as u64 / 8);
    let mut slots = [Pte::default(); super::layout::HYPERVISOR_SLOTS];
    let own = PteFlags::PRESENT | PteFlags::ACCESSED;
    slots[1] = Pte::new(Mfn(1), own | PteFlags::WRITABLE);
    slots[2] = Pte::new(Mfn(2), own | PteFlags::USER);
    Layout {
        frames,
        entries: ENTRIES,
        doorbell_pages: [1, 2].map(|mfn| Pte::new(Mfn(mfn), own | PteFlags::WRITABLE)).into(),
        first_free: Mfn(m2p.end),
        m2p,
        slots,
        m2p_address: 0xffff_8100_0000_0000..0xffff_8100_0000_0000 + frames * 8,
        m2p_at_fixed_address: false,
        hypercall_page: vec![0xcc; PAGE_SIZE],
    }
}
