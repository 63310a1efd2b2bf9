//! The way into a guest, decided from what differs between the hardware and what is to run. A pure function: no test host
//! shows that a root which should have been loaded was not.

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
    /// FS or GS base is not what the hardware holds.
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
    /// Through the stub.
    Stub {
        /// Segments and the root that the stub runs on are loaded by the host first.
        segments: bool,
        /// The stub loads the root, with which everything that is cached goes.
        root: bool,
    },
}

impl Difference {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
