//! The two ways of making changed tables take effect on KVM. The start-up probe chooses.

use super::super::{Change, MachineError, MachineMemory, Translations};
use super::scribe::{Scribe, entry_address};
use super::shootdown::{Shared, flush_all};
use pv_abi::Mfn;
use pv_abi::page_table::{ENTRIES, Level};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// **Flush**: the CPU walks the tables itself (nested paging) and sees what the host writes; what it has cached
/// goes when each pcpu loads its root.
#[derive(Debug)]
pub struct Flush {
    pcpus: Vec<Arc<Shared>>,
}

impl Flush {
    /// For these pcpus, which are all of the machine.
    pub fn new(pcpus: Vec<Arc<Shared>>) -> Self {
        Self { pcpus }
    }
}

impl Translations for Flush {
    fn settle(&self, changes: &[Change]) -> Result<(), MachineError> {
        if !changes.is_empty() {
            flush_all(&self.pcpus);
        }
        Ok(())
    }

    fn retire(&self, _table: Mfn, _level: Level) -> Result<(), MachineError> {
        flush_all(&self.pcpus);
        Ok(())
    }

    fn flush(&self) -> Result<(), MachineError> {
        flush_all(&self.pcpus);
        Ok(())
    }
}

/// **Invalidate**: KVM keeps shadows of the tables. What a changed L1 entry mapped is invalidated on the host's
/// side, and KVM drops every translation to it; upper entries are stored again by the scribe, and KVM drops what
/// lay beneath. Both reach pcpus that are running.
#[derive(Debug)]
pub struct Invalidate {
    memory: Arc<MachineMemory>,
    scribe: Mutex<Scribe>,
}

impl Invalidate {
    /// Makes it for a machine with this memory. `scribe` stores the upper entries.
    pub fn new(memory: Arc<MachineMemory>, scribe: Scribe) -> Self {
        Self { memory, scribe: Mutex::new(scribe) }
    }

    fn drop_translations(&self, mut frames: Vec<u64>) -> Result<(), MachineError> {
        frames.sort_unstable();
        frames.dedup();
        for run in frames.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let first = run.first().copied().unwrap_or_default();
            self.memory.drop_translations(Mfn(first), run.len() as u64)?;
        }
        Ok(())
    }

    fn store(&self, words: &[(u64, u64)]) -> Result<(), MachineError> {
        if words.is_empty() {
            return Ok(());
        }
        self.scribe.lock().unwrap_or_else(PoisonError::into_inner).store(words)
    }
}

fn not_there(error: super::super::NoSuchFrame) -> MachineError {
    MachineError::new("a page table", io::Error::other(error))
}

impl Translations for Invalidate {
    fn settle(&self, changes: &[Change]) -> Result<(), MachineError> {
        let (leaves, upper): (Vec<&Change>, Vec<&Change>) =
            changes.iter().partition(|change| change.level == Level::L1);
        let mut words = Vec::with_capacity(upper.len());
        for change in upper {
            let now = self.memory.entry(change.table, usize::from(change.index)).map_err(not_there)?;
            words.push((entry_address(change.table, change.index), now.0));
        }
        self.store(&words)?;
        self.drop_translations(leaves.iter().map(|change| change.old.mfn().0).collect())
    }

    fn retire(&self, table: Mfn, level: Level) -> Result<(), MachineError> {
        let mut present = Vec::new();
        for index in 0..ENTRIES as u16 {
            let entry = self.memory.entry(table, usize::from(index)).map_err(not_there)?;
            if entry.is_present() {
                present.push((index, entry));
            }
        }
        if level == Level::L1 {
            return self.drop_translations(present.iter().map(|(_, entry)| entry.mfn().0).collect());
        }
        // KVM must see the entries go; what the guest finds in the frame afterwards is what it left there.
        let zeros: Vec<_> = present.iter().map(|(index, _)| (entry_address(table, *index), 0)).collect();
        self.store(&zeros)?;
        for (index, entry) in present {
            self.memory.exchange_entry(table, usize::from(index), entry, 0).map_err(not_there)?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), MachineError> {
        // Nothing stale is left behind by the two above, and KVM sees an entry that becomes present.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::page_table::Pte;

    /// XSA class "type change against TLB and cache". No test host shows it: emulated SVM flushes at each entry.
    #[test]
    fn each_way_of_flushing_reaches_every_pcpu() {
        let pcpu = || Arc::new(Shared::without_vcpu());
        let pcpus = vec![pcpu(), pcpu()];
        let flush = Flush::new(pcpus.clone());
        let must_load_their_root = || {
            pcpus.iter().all(|pcpu| {
                let must = pcpu.going_in();
                pcpu.is_out(true);
                must
            })
        };
        let change = Change { table: Mfn(1), index: 0, level: Level::L1, old: Pte(1) };
        flush.settle(&[change]).unwrap();
        assert!(must_load_their_root() && !must_load_their_root(), "settled, and flushed once");
        flush.retire(Mfn(1), Level::L1).unwrap();
        assert!(must_load_their_root(), "retired");
        flush.flush().unwrap();
        assert!(must_load_their_root(), "asked for");
    }
}
