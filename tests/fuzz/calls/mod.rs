//! Hypercalls as a hostile guest would make them: of the right shape, so that they get far, and with some words wrong.
//!
//! Three users share this: the fuzzer on the fake machine (`hypervisor/src/fuzzing.rs`), the same one led by coverage
//! (`../target`), and the guest on real KVM (`../guest`). Everything depends on the [`Choices`] alone, so what fails
//! can be made again.

mod choices;
mod shapes;
mod stores;
mod words;

pub use choices::{Bytes, Choices, Random};
#[allow(unused_imports)] // the guest on real KVM makes hypercalls only
pub use stores::Store;

use pv_abi::hypercall::HypercallNumber as N;

/// Pages of the playground, mapped writable one after the other, but for the drafts.
pub const PAGES: u64 = 32;
/// Where the guest has its grant table.
pub const GRANTS: u64 = 23;
/// Pages from here on are mapped nowhere at first, so that they can become tables: two of each level.
pub const FIRST_DRAFT: u64 = 24;

/// A call: its number and arguments, and what the guest writes for it.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub number: u64,
    pub arguments: [u64; 6],
    /// Words and where they go.
    pub memory: Vec<(u64, Vec<u64>)>,
}

/// What a guest knows of itself and of others.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Address of the playground.
    pub base: u64,
    /// The machine frames of its pages, in the order of their addresses.
    pub pages: Vec<u64>,
    /// Page where structures lie; what they point to is in the next one, results go to the one behind.
    pub structures: u64,
    /// Entry of the first in [`Self::l1`].
    pub first_entry: u64,
    /// The table that maps it, and the roots.
    pub l1: u64,
    pub root: u64,
    pub user_root: u64,
    /// Frames that are somebody else's, or that have a purpose.
    pub others: Vec<u64>,
    /// Frames of the machine.
    pub frames: u64,
    /// Its domain, and one that may lend it pages.
    pub domain: u64,
    pub lender: u64,
    /// The first frame of its grant table.
    pub grant_frame: u64,
    /// The numbers of all hypercalls that the hypervisor has.
    pub numbers: Vec<u64>,
    /// Where `iret` finds its frame, in the playground or not: RSP at the call.
    pub stack: u64,
    /// Somewhere to return to.
    pub code: u64,
    /// Whether the guest runs, so that a call may end it: then such calls are rare.
    pub runs: bool,
}

impl Ground {
    /// Address of a page of the playground.
    pub const fn page(&self, page: u64) -> u64 {
        self.base + page * 4096
    }

    pub const fn structure(&self) -> u64 {
        self.page(self.structures)
    }

    pub const fn pointed_to(&self) -> u64 {
        self.page(self.structures + 1)
    }

    pub const fn result(&self) -> u64 {
        self.page(self.structures + 2)
    }
}

/// Makes up hypercalls and stores: `choices` decides which, `ground` says which words make sense in them.
pub struct Caller<'a, C> {
    pub choices: C,
    pub ground: &'a Ground,
}

impl<C: Choices> Caller<'_, C> {
    /// The next hypercall, with what is to be written to memory before it.
    pub fn case(&mut self) -> Case {
        // Page tables are what keeps domains apart: half of all calls are theirs.
        let number = match self.choices.below(10) {
            0 | 1 => N::MMU_UPDATE.0,
            2 | 3 => N::MMUEXT_OP.0,
            4 => N::UPDATE_VA_MAPPING.0,
            5 => N::EVENT_CHANNEL_OP.0,
            6 => N::MEMORY_OP.0,
            7 => N::GRANT_TABLE_OP.0,
            _ => self.choices.pick(&self.ground.numbers),
        };
        self.case_of(number)
    }

    /// What a guest that has lost itself does to find back: its root, and the pages for structures.
    pub fn find_back(&self) -> Vec<Case> {
        let ground = self.ground;
        let map = |page: u64| {
            let frame = if page == GRANTS { ground.grant_frame } else { ground.pages[page as usize] };
            let entry = frame << 12 | 7;
            let arguments = [ground.page(page), entry, 0, 0, 0, 0];
            Case { number: N::UPDATE_VA_MAPPING.0, arguments, memory: Vec::new() }
        };
        let stack = ground.stack.wrapping_sub(ground.base) / 4096;
        let structures = ground.structures;
        let needed = [structures, structures + 1, structures + 2, GRANTS].into_iter();
        let mut cases: Vec<Case> = needed.chain((stack < PAGES).then_some(stack)).map(map).collect();
        let at = ground.structure();
        let new_baseptr = vec![(at, vec![5, ground.root, 0])];
        let arguments = [at, 1, 0, 0x7ff0, 0, 0];
        cases.push(Case { number: N::MMUEXT_OP.0, arguments, memory: new_baseptr });
        cases
    }

    /// Makes room for tables: what a guest does first, before it [finds back](Self::find_back).
    pub fn clear_drafts(&self) -> Vec<Case> {
        let unmap = |page: u64| Case {
            number: N::UPDATE_VA_MAPPING.0,
            arguments: [self.ground.page(page), 0, 0, 0, 0, 0],
            memory: Vec::new(),
        };
        (FIRST_DRAFT..PAGES).map(unmap).collect()
    }

    /// Whether something may be tried that ends a guest which runs, or keeps it waiting.
    fn dares(&mut self) -> bool {
        !self.ground.runs || self.choices.once_in(64)
    }
}
