//! Stands between the `Mmu` and the fake machine in every test, and sees the order of things: at the moment when
//! the machine settles or retires, everything that a stale translation could reach is still referred to.

use crate::frame::{FrameType, Phase, Reference, ReferenceKind};
use crate::machine::{Change, MachineError, Translations};
use crate::paging::Mmu;
use pv_abi::Mfn;
use pv_abi::page_table::{ENTRIES, Level, Pte, is_hypervisor_slot};
use std::sync::{Arc, OnceLock, Weak};

#[derive(Debug)]
pub struct Witness {
    machine: Arc<dyn Translations>,
    mmu: OnceLock<Weak<Mmu>>,
}

impl Witness {
    pub fn new(machine: Arc<dyn Translations>) -> Self {
        Self { machine, mmu: OnceLock::new() }
    }

    pub fn watch(&self, mmu: &Arc<Mmu>) {
        self.mmu.set(Arc::downgrade(mmu)).unwrap();
    }

    fn mmu(&self) -> Arc<Mmu> {
        self.mmu.get().and_then(Weak::upgrade).unwrap()
    }

    /// What `entry` allows is still counted.
    fn see(&self, level: Level, entry: Pte) {
        let Some(kind) = Reference::kind_of_entry(level, entry) else { return };
        let word = self.mmu().frames().word(entry.mfn());
        let held = match kind {
            ReferenceKind::General => word.general > 0,
            ReferenceKind::Typed(kind) => word.kind == kind && word.uses > 0 && word.phase == Phase::Valid,
        };
        assert!(held, "a reference went before its translation: {level:?} {entry:?} {word:?}");
    }
}

impl Translations for Witness {
    fn settle(&self, changes: &[Change]) -> Result<(), MachineError> {
        for change in changes {
            let word = self.mmu().frames().word(change.table);
            assert!(word.is_valid_table(change.level), "settled after the table went: {change:?} {word:?}");
            self.see(change.level, change.old);
        }
        self.machine.settle(changes)
    }

    fn retire(&self, table: Mfn, level: Level) -> Result<(), MachineError> {
        let mmu = self.mmu();
        let word = mmu.frames().word(table);
        assert_eq!((word.kind, word.phase), (FrameType::Table(level), Phase::Devalidating));
        assert_eq!(mmu.frames().progress(table), ENTRIES, "retired after entries went");
        for index in (0..ENTRIES).filter(|&index| level != Level::L4 || !is_hypervisor_slot(index)) {
            self.see(level, mmu.memory().entry(table, index).unwrap());
        }
        self.machine.retire(table, level)
    }

    fn flush(&self) -> Result<(), MachineError> {
        self.machine.flush()
    }
}
