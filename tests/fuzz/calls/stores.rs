//! Stores of a kernel to its own page table.

use super::{Caller, Choices};

/// An instruction that stores to the entry at `[rdi]`, or something like one.
#[derive(Clone, Debug)]
pub struct Store {
    /// The instruction's bytes, and zeros behind them.
    pub instruction: [u8; 8],
    /// What RAX and RCX hold before the store.
    pub words: [u64; 2],
    /// Bytes from the entry of the playground's first page to what is stored to.
    pub offset: u64,
}

/// `mov`, `xchg`, `cmpxchg`, `and`, `or`, `xor`, `btr`, `bts` of an immediate and of a register, `rep stos`, `rep movs`.
const INSTRUCTIONS: [[u8; 8]; 14] = [
    [0x48, 0x89, 0x07, 0, 0, 0, 0, 0],
    [0x48, 0x87, 0x07, 0, 0, 0, 0, 0],
    [0xf0, 0x48, 0x0f, 0xb1, 0x0f, 0, 0, 0],
    [0xf0, 0x80, 0x27, 0xfd, 0, 0, 0, 0],
    [0xf0, 0x80, 0x0f, 0x02, 0, 0, 0, 0],
    [0xf0, 0x48, 0x21, 0x07, 0, 0, 0, 0],
    [0xf0, 0x48, 0x09, 0x07, 0, 0, 0, 0],
    [0xf0, 0x48, 0x31, 0x07, 0, 0, 0, 0],
    [0xf0, 0x48, 0x0f, 0xba, 0x37, 0, 0, 0],
    [0xf0, 0x48, 0x0f, 0xba, 0x2f, 1, 0, 0],
    [0xf0, 0x48, 0x0f, 0xb3, 0x07, 0, 0, 0],
    [0xf0, 0x48, 0x0f, 0xab, 0x07, 0, 0, 0],
    [0xf3, 0x48, 0xab, 0, 0, 0, 0, 0],
    [0xf3, 0x48, 0xa5, 0, 0, 0, 0, 0],
];

impl<C: Choices> Caller<'_, C> {
    /// The next store: by an instruction of the list, sometimes with a byte changed, and sometimes not aligned.
    pub fn store(&mut self) -> Store {
        let mut instruction = INSTRUCTIONS[self.choices.below(INSTRUCTIONS.len() as u64) as usize];
        if self.choices.once_in(16) {
            instruction[self.choices.below(8) as usize] = self.choices.word() as u8;
        }
        let words =
            [self.entry(), if self.choices.once_in(2) { self.entry() } else { self.choices.below(40) }];
        let offset = self.ground.first_entry * 8 + self.choices.below(40) * 8;
        let unaligned = if self.choices.once_in(8) { self.choices.below(8) } else { 0 };
        Store { instruction, words, offset: offset + unaligned }
    }
}
