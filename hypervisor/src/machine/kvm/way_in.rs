//! The way into a guest, decided from what differs between the hardware and what is to run. Pure functions: no test host
//! shows that a root which should have been loaded was not.

use super::super::{CR0_TS, Context};
use super::area::STUB;
use super::exception::Frame;
use super::registers::to_kvm;
use super::stub::Offsets;
use kvm_bindings::{kvm_regs, kvm_sregs};
use pv_abi::trap::rflags;

/// The root table that the hardware holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveRoot {
    /// The one that the guest is to run on.
    Same,
    /// Another root, which still is one.
    Other,
    /// One that may be no root any more: nothing may be executed on it.
    Gone,
}

/// What the decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The hardware is in the guest, at CPL3; otherwise it is in the stub.
    pub in_guest: bool,
    /// Selectors or descriptors are not those that the hardware holds.
    pub segments: bool,
    /// FS or GS base, CR0 or CR4 is not what the hardware holds.
    pub bases: bool,
    /// What the root that the hardware holds is to the one that is wanted.
    pub root: LiveRoot,
    /// Somebody changed tables: what is cached of them must go before the next guest instruction.
    pub flush: bool,
}

/// How the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayIn {
    /// Where the hardware is: only general registers are told.
    Registers,
    /// The stub at CPL0 returns to the guest.
    Stub {
        /// Segments and the root that the stub runs on are loaded by the host first.
        segments: bool,
        /// The stub loads the root, with which everything that is cached goes.
        root: bool,
    },
}

impl Difference {
    /// What differs between `live`, the hardware as of its last exit, and `context`, which is to run under `cr4`. `flush`
    /// is whether tables were changed.
    pub fn between(live: &kvm_sregs, context: &Context, cr4: u64, flush: bool) -> Self {
        let root = if context.root_replaced {
            LiveRoot::Gone
        } else if context.root.address() == live.cr3 {
            LiveRoot::Same
        } else {
            LiveRoot::Other
        };
        let wanted = (context.fs_base, context.gs_base, cr0(live, context), cr4);
        Self {
            in_guest: live.ss.dpl == 3,
            segments: context.segments_changed,
            bases: wanted != (live.fs.base, live.gs.base, live.cr0, live.cr4),
            root,
            flush,
        }
    }

    /// The cheapest way that misses nothing.
    pub const fn way(self) -> WayIn {
        let Self { in_guest, segments, bases, root, flush } = self;
        let same_root = matches!(root, LiveRoot::Same);
        if in_guest && same_root && !(segments || bases || flush) {
            return WayIn::Registers;
        }
        let root_is_gone = matches!(root, LiveRoot::Gone);
        WayIn::Stub { segments: in_guest || segments || bases || root_is_gone, root: !same_root || flush }
    }
}

/// CR0 under which a guest runs: the machine's, with the vCPU's own TS.
pub const fn cr0(live: &kvm_sregs, context: &Context) -> u64 {
    live.cr0 & !CR0_TS | if context.task_switched { CR0_TS } else { 0 }
}

impl WayIn {
    /// The general registers with which the hardware goes on: the guest's, or those of the stub. The stub's stack ends at
    /// `stack_end`, with the frame for `iretq`, and the guest's RAX below it.
    pub fn registers(self, context: &Context, offsets: &Offsets, stack_end: u64) -> kvm_regs {
        let guest = to_kvm(&context.registers);
        let frame = stack_end.saturating_sub(Frame::SIZE);
        let stub = kvm_regs { rflags: rflags::RESERVED1, ..guest };
        match self {
            Self::Registers => guest,
            Self::Stub { root: false, .. } => {
                kvm_regs { rip: STUB.saturating_add(offsets.resume), rsp: frame, ..stub }
            }
            Self::Stub { root: true, .. } => kvm_regs {
                rax: context.root.address(),
                rip: STUB.saturating_add(offsets.load_root),
                rsp: frame.saturating_sub(size_of::<u64>() as u64),
                ..stub
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Root;
    use super::super::stub;
    use super::*;
    use crate::machine::Registers;
    use pv_abi::Mfn;

    fn all() -> impl Iterator<Item = Difference> {
        let roots = [LiveRoot::Same, LiveRoot::Other, LiveRoot::Gone];
        roots.into_iter().flat_map(|root| {
            (0..16).map(move |bits| {
                let [in_guest, segments, bases, flush] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
                Difference { in_guest, segments, bases, root, flush }
            })
        })
    }

    fn loads_root(way: WayIn) -> bool {
        matches!(way, WayIn::Stub { root: true, .. })
    }

    fn loads_segments(way: WayIn) -> bool {
        matches!(way, WayIn::Stub { segments: true, .. })
    }

    /// XSA class "type change against TLB and cache". No test host shows it: those with caches flush at each entry.
    #[test]
    fn a_flush_loads_the_root_whatever_else() {
        for difference in all().filter(|difference| difference.flush) {
            assert!(loads_root(difference.way()), "{difference:?}");
        }
    }

    #[test]
    fn everything_that_differs_is_loaded() {
        for difference in all() {
            let way = difference.way();
            if difference.root != LiveRoot::Same {
                assert!(loads_root(way), "{difference:?}");
            }
            let in_stub = way != WayIn::Registers;
            // The stub's own code and stack segments are not those of a guest.
            let for_the_stub = in_stub && difference.in_guest || difference.root == LiveRoot::Gone;
            if difference.segments || difference.bases || for_the_stub {
                assert!(loads_segments(way), "{difference:?}");
            }
            if !difference.in_guest {
                assert!(in_stub, "only the stub gets to CPL3: {difference:?}");
            }
        }
    }

    /// Each word that is loaded costs an exit or a flush.
    #[test]
    fn nothing_else_is_loaded() {
        let nothing =
            Difference { in_guest: true, segments: false, bases: false, root: LiveRoot::Same, flush: false };
        assert_eq!(nothing.way(), WayIn::Registers);
        let from_the_stub = Difference { in_guest: false, ..nothing };
        assert_eq!(from_the_stub.way(), WayIn::Stub { segments: false, root: false });
        let to_another = Difference { root: LiveRoot::Other, ..from_the_stub };
        assert_eq!(to_another.way(), WayIn::Stub { segments: false, root: true });
        let with_segments = Difference { segments: true, ..from_the_stub };
        assert_eq!(with_segments.way(), WayIn::Stub { segments: true, root: false });
    }

    const ROOT: Root = Root::of_valid_l4(Mfn(7));

    /// Hardware that has a guest's state loaded, and that guest.
    fn loaded() -> (kvm_sregs, Context) {
        let mut live = kvm_sregs { cr3: ROOT.address(), ..Default::default() };
        (live.ss.dpl, live.fs.base, live.gs.base) = (3, 0x1000, 0x2000);
        let mut context = Context::new(1, ROOT, 0x3000);
        (context.fs_base, context.gs_base, context.segments_changed) = (0x1000, 0x2000, false);
        (live, context)
    }

    #[test]
    fn each_difference_is_seen_whatever_else_differs() {
        for bits in 0..1024 {
            let [stub, segments, fs, gs, moved, replaced, flush, cr4, was_switched, is_switched] =
                [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map(|bit| bits & bit != 0);
            let (mut live, mut context) = loaded();
            live.ss.dpl = if stub { 0 } else { 3 };
            live.fs.base += u64::from(fs);
            live.gs.base += u64::from(gs);
            context.segments_changed = segments;
            context.root = if moved { Root::of_valid_l4(Mfn(8)) } else { ROOT };
            context.root_replaced = replaced;
            live.cr0 = 0x8005_0033 | if was_switched { CR0_TS } else { 0 };
            context.task_switched = is_switched;
            let root = match (replaced, moved) {
                (true, _) => LiveRoot::Gone,
                (false, true) => LiveRoot::Other,
                (false, false) => LiveRoot::Same,
            };
            let bases = fs || gs || cr4 || was_switched != is_switched;
            let expected = Difference { in_guest: !stub, segments, bases, root, flush };
            assert_eq!(cr0(&live, &context), 0x8005_0033 | if is_switched { 8 } else { 0 });
            assert_eq!(
                Difference::between(&live, &context, live.cr4 ^ u64::from(cr4) << 16, flush),
                expected
            );
        }
    }

    #[test]
    fn the_stub_starts_with_the_root_where_it_loads_one() {
        let (_, mut context) = loaded();
        context.registers = Registers { rax: 0xa, rbx: 0xb, rsp: 0xc, rflags: 0x246, ..context.registers };
        let (guest, offsets, end) = (to_kvm(&context.registers), stub::offsets(), 0x8000);
        assert_eq!(WayIn::Registers.registers(&context, &offsets, end), guest);
        for segments in [false, true] {
            let resumed = WayIn::Stub { segments, root: false }.registers(&context, &offsets, end);
            let expected = kvm_regs { rip: STUB + offsets.resume, rsp: end - 40, rflags: 2, ..guest };
            assert_eq!(resumed, expected);
            let loading = WayIn::Stub { segments, root: true }.registers(&context, &offsets, end);
            let (rip, rsp) = (STUB + offsets.load_root, end - 48);
            assert_eq!(loading, kvm_regs { rax: ROOT.address(), rip, rsp, ..expected });
        }
    }
}
