//! The words that calls are made of.

use super::{Caller, Choices, FIRST_DRAFT, Ground, PAGES};

impl<C: Choices> Caller<'_, C> {
    fn page_frame(&mut self) -> u64 {
        self.choices.pick(&self.ground.pages)
    }

    /// Mostly a frame of the guest's, sometimes a table, sometimes anybody's.
    pub(super) fn frame(&mut self) -> u64 {
        let Ground { root, user_root, l1, frames, .. } = *self.ground;
        match self.choices.below(16) {
            0 => self.choices.pick(&self.ground.others),
            1 => self.choices.below(frames + 8),
            2 => root,
            3 => user_root,
            4 | 5 => l1,
            _ => self.page_frame(),
        }
    }

    /// A frame that the guest keeps for a table of this level, from 1 up; a page for 0.
    pub(super) fn draft(&mut self, level: u64) -> u64 {
        match level {
            0 => self.page_frame(),
            _ => self.ground.pages[(FIRST_DRAFT + (level - 1) * 2 + self.choices.below(2)) as usize],
        }
    }

    pub(super) fn entry(&mut self) -> u64 {
        let flags = [0, 1, 3, 5, 7, 7, 0x27, 0x67, 0x87, 1 << 63 | 5, 1 << 59 | 7, 0x1ff];
        self.frame() << 12 | self.choices.pick(&flags)
    }

    /// An entry that belongs where it is written, mostly.
    fn sensible_update(&mut self) -> [u64; 2] {
        let level = 1 + self.choices.below(4);
        let flags = self.choices.pick(&[0, 5, 7, 7, 7, 0x27]);
        let place = self.draft(level) << 12 | self.choices.below(6) << 3 | self.choices.pick(&[0, 0, 2]);
        [place, self.draft(level - 1) << 12 | flags]
    }

    /// A `struct mmu_update`: the place of an entry and a kind of update in one word, the new entry in the other.
    pub(super) fn update(&mut self) -> [u64; 2] {
        if self.choices.below(8) < 5 {
            return self.sensible_update();
        }
        let index = match self.choices.below(4) {
            0 => self.choices.below(512),
            1 => 256,
            _ => self.ground.first_entry + 8 + self.choices.below(24),
        };
        let kind = self.choices.pick(&[0, 0, 0, 0, 1, 2, 3]);
        [self.frame() << 12 | index << 3 | kind, self.entry()]
    }

    /// Pins and roots that may work.
    fn sensible_operation(&mut self) -> [u64; 3] {
        match self.choices.below(8) {
            0 if self.dares() => [5, self.draft(4), 0],
            0 => [15, self.draft(4), 0],
            1 => [self.choices.pick(&[5, 15]), self.ground.root, 0],
            2 | 3 => {
                let level = 1 + self.choices.below(4);
                [4, self.draft(level), 0]
            }
            _ => {
                let level = self.choices.below(4);
                [level, self.draft(level + 1), 0]
            }
        }
    }

    /// A `struct mmuext_op`: the command and its two arguments.
    pub(super) fn operation(&mut self) -> [u64; 3] {
        if self.choices.below(4) < 3 {
            return self.sensible_operation();
        }
        [self.number(22), self.frame(), self.result()]
    }

    /// A small number, mostly; anything, sometimes.
    pub(super) fn number(&mut self, below: u64) -> u64 {
        if self.choices.once_in(24) { self.choices.word() } else { self.choices.below(below) }
    }

    /// Mostly that address, sometimes across the end of what is mapped, or nowhere.
    fn pointer(&mut self, good: u64) -> u64 {
        let base = self.ground.base;
        match self.choices.below(24) {
            0 => self.ground.page(PAGES) - 4,
            1 => good | self.choices.below(4096),
            2 => self.choices.pick(&[
                0,
                u64::MAX - 3,
                1 << 47,
                0xffff_8000_0000_0000,
                0xffff_8100_0000_0000,
                base - 1,
            ]),
            _ => good,
        }
    }

    /// Where a call's structure lies.
    pub(super) fn structure(&mut self) -> u64 {
        self.pointer(self.ground.structure())
    }

    /// Where what it points to lies.
    pub(super) fn indirect(&mut self) -> u64 {
        self.pointer(self.ground.pointed_to())
    }

    /// Where the hypervisor is to write a result.
    pub(super) fn result(&mut self) -> u64 {
        self.pointer(self.ground.result())
    }

    /// A domain: mostly the guest itself.
    pub(super) fn domain(&mut self) -> u64 {
        let Ground { domain, lender, .. } = *self.ground;
        self.choices.pick(&[0x7ff0, 0x7ff0, 0x7ff0, domain, lender, 0, 1, 0x7ff1, 0x7fff])
    }

    /// A domain, mostly one that may lend something.
    pub(super) fn partner(&mut self) -> u64 {
        if self.choices.once_in(2) { self.ground.lender } else { self.domain() }
    }

    /// Words that are small numbers in pairs, as most structures are.
    pub(super) fn small_words(&mut self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.number(32) | self.number(6) << 32).collect()
    }

    /// What structures point to: small numbers, frames, addresses.
    pub(super) fn pointed_to(&mut self) -> Vec<u64> {
        let kind = self.choices.below(4);
        let word = |this: &mut Self| match kind {
            0 => this.frame(),
            1 => this.draft(1),
            2 => this.indirect(),
            _ => this.number(64),
        };
        (0..8).map(|_| word(self)).collect()
    }
}
