//! Sees the moment at which a change is settled: until then a pcpu may reach what an entry mapped, so until then the
//! granter must see it in use.

use hypervisor::machine::fake::FakeTranslations;
use hypervisor::machine::{Change, MachineError, MachineMemory, Translations};
use pv_abi::Mfn;
use pv_abi::grant_table::GrantEntry;
use pv_abi::page_table::Level;
use std::sync::{Arc, Mutex, PoisonError};

const MARKS: u64 = (GrantEntry::READING | GrantEntry::WRITING) as u64;

/// The machine's translations, and what is watched while they are settled.
#[derive(Debug)]
pub struct Witness {
    memory: Arc<MachineMemory>,
    inner: Arc<FakeTranslations>,
    /// Table, index, and the marks that must stay; and whether they did.
    watched: Mutex<Option<(Mfn, usize, u64, bool)>>,
}

impl Witness {
    pub const fn new(memory: Arc<MachineMemory>, inner: Arc<FakeTranslations>) -> Self {
        Self { memory, inner, watched: Mutex::new(None) }
    }

    fn marks(&self, table: Mfn, index: usize) -> u64 {
        self.memory.load_u64(table, index * 8).map_or(0, |word| word & MARKS)
    }

    /// From now on the marks of this entry stay until a change was settled.
    pub fn watch(&self, entry: Option<(Mfn, usize)>) {
        let entry = entry.map(|(table, index)| (table, index, self.marks(table, index), true));
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = entry;
    }

    /// Whether the marks that were watched stayed until a change was settled. An error says which did not.
    pub fn testify(&self) -> Result<(), String> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner).take();
        match watched {
            Some((table, index, _, false)) => {
                Err(format!("entry {index} of {table} was given back before the mapping was gone"))
            }
            _ => Ok(()),
        }
    }
}

impl Translations for Witness {
    fn settle(&self, changes: &[Change]) -> Result<(), MachineError> {
        if let Some((table, index, marks, stayed)) =
            &mut *self.watched.lock().unwrap_or_else(PoisonError::into_inner)
        {
            *stayed &= self.marks(*table, *index) == *marks;
        }
        self.inner.settle(changes)
    }

    fn retire(&self, table: Mfn, level: Level) -> Result<(), MachineError> {
        self.inner.retire(table, level)
    }

    fn flush(&self) -> Result<(), MachineError> {
        self.inner.flush()
    }
}
