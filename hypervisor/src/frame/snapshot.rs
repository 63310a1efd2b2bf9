//! The frame table as a value, for tests that go back to a state and try something else.

use super::FrameTable;
use super::lists::FrameLists;
use std::sync::atomic::Ordering::SeqCst;

/// All of a frame table while nothing goes on.
#[derive(Clone, Debug)]
pub struct FramesAtRest {
    /// Word, owner and progress of each frame.
    records: Vec<(u64, u16, u16)>,
    lists: FrameLists,
}

impl FrameTable {
    /// All words, owners and counts, while nobody changes them.
    pub(crate) fn at_rest(&self) -> FramesAtRest {
        let records = self.records.iter();
        let records = records.map(|record| {
            (record.word.load(SeqCst), record.owner.load(SeqCst), record.progress.load(SeqCst))
        });
        FramesAtRest { records: records.collect(), lists: self.lists.lock().clone() }
    }

    /// Goes back to a state of this table. Nobody else has the table meanwhile.
    pub(crate) fn go_back(&mut self, to: &FramesAtRest) {
        let owned = |table: &Self, owner: u16, live: u64, by: i32| {
            if let Some(count) = table.owned.get(usize::from(owner)).filter(|_| live != 0) {
                count.store(count.load(SeqCst).saturating_add_signed(by), SeqCst);
            }
        };
        for (record, &(word, owner, progress)) in self.records.iter().zip(&to.records) {
            let was = (record.word.load(SeqCst), record.owner.load(SeqCst));
            if (was.0 != 0, was.1) != (word != 0, owner) {
                owned(self, was.1, was.0, -1);
                owned(self, owner, word, 1);
            }
            record.word.store(word, SeqCst);
            record.owner.store(owner, SeqCst);
            record.progress.store(progress, SeqCst);
        }
        self.lists.lock().clone_from(&to.lists);
    }
}
