//! Pcpus that cache whatever the architecture, or KVM, lets them cache, and never forget by themselves.
//!
//! Two kinds. *Hardware*: each pcpu has a TLB and paging-structure caches, filled by walks and tagged by the root,
//! as with PCIDs: loading another root flushes nothing. *Shadow*: all pcpus share a shadow of the tables that they
//! walked; an entry which was present when it was first used is used as it was then, and a table's shadow outlives
//! the table.
//!
//! Every cached item knows the entries that it was derived from ([`Derived`]). [`Translations::settle`] drops what
//! was derived from exactly the old entries that it is told of, and [`Translations::retire`] what was derived from
//! exactly the table; so a change that is not reported, or reported wrongly, leaves a stale translation.

use crate::machine::{Change, MachineError, MachineMemory, Translations};
use pv_abi::Mfn;
use pv_abi::page_table::{Level, Pte, PteFlags};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a fake machine caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TLB and paging-structure caches in each pcpu.
    Hardware,
    /// A shadow of the tables, shared by all pcpus.
    Shadow,
}

/// What a fake machine leaves out, to prove that a test would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The machine leaves nothing out.
    None,
    /// Changes of entries are not settled.
    NoSettle,
    /// Tables are not retired.
    NoRetire,
    /// Settling and retiring fail, as if the host refused.
    Broken,
}

/// Why an access raises a page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Some entry is not present, or names no memory.
    NotPresent,
    /// Some entry is the hypervisor's.
    Supervisor,
    /// Some entry forbids writing.
    ReadOnly,
}

/// One entry that a cached translation was derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derived {
    /// The page table that holds the entry.
    pub table: Mfn,
    /// Its level at that time.
    pub level: Level,
    /// The entry's index in the table, below 512.
    pub index: usize,
    /// The entry's value when the translation was made.
    pub entry: Pte,
}

impl Derived {
    /// Whether the change takes away what it was derived from.
    fn ends_with(&self, change: &Change) -> bool {
        (self.table, self.level, self.index) == (change.table, change.level, usize::from(change.index))
            && self.entry.mfn() == change.old.mfn()
    }
}

/// What a pcpu holds: for a root, a level and the address bits from that level up, the entries followed.
type Cache = BTreeMap<(Mfn, Level, u64), Vec<Derived>>;

#[derive(Debug)]
struct Caches {
    pcpus: Vec<Cache>,
    shadow: BTreeMap<(Mfn, Level, usize), Pte>,
    sabotage: Sabotage,
}

/// The caches of a fake machine's pcpus.
#[derive(Debug)]
pub struct FakeTranslations {
    memory: Arc<MachineMemory>,
    kind: Kind,
    caches: Mutex<Caches>,
    settled: AtomicU64,
    retired: AtomicU64,
}

impl FakeTranslations {
    pub(super) fn new(memory: Arc<MachineMemory>, kind: Kind, pcpus: usize) -> Self {
        let caches =
            Caches { pcpus: vec![Cache::new(); pcpus], shadow: BTreeMap::new(), sabotage: Sabotage::None };
        let (settled, retired) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { memory, kind, caches: Mutex::new(caches), settled, retired }
    }

    /// Leaves something out from now on.
    pub fn sabotage(&self, sabotage: Sabotage) {
        self.caches().sabotage = sabotage;
    }

    /// Changes settled and tables retired so far.
    pub fn work(&self) -> (u64, u64) {
        (self.settled.load(Ordering::SeqCst), self.retired.load(Ordering::SeqCst))
    }

    /// What a guest on `pcpu` with the root table `root` gets when it touches `address`.
    ///
    /// # Errors
    /// The page fault.
    ///
    /// # Panics
    /// Where there is no such pcpu.
    pub fn access(&self, pcpu: usize, root: Mfn, address: u64, write: bool) -> Result<Mfn, Fault> {
        let mut caches = self.caches();
        if self.kind == Kind::Shadow {
            let path = self.walk(&mut caches.shadow, root, address)?;
            return self.finish(&path, write);
        }
        let cache = &mut caches.pcpus[pcpu];
        let leaf = (root, Level::L1, address >> Level::L1.shift());
        if let Some(frame) = cache.get(&leaf).and_then(|path| self.finish(path, write).ok()) {
            return Ok(frame);
        }
        cache.remove(&leaf); // a TLB entry that faults is dropped, and the tables walked
        let path = self.walk_cached(cache, root, address)?;
        self.finish(&path, write)
    }

    /// A pcpu loads its root as those of a machine do, which have no PCIDs: it forgets everything.
    ///
    /// # Panics
    /// Where there is no such pcpu.
    pub fn forget(&self, pcpu: usize) {
        self.caches().pcpus[pcpu].clear();
    }

    /// All that any pcpu still has, as the entries that it comes from.
    pub fn derived(&self) -> Vec<Derived> {
        let caches = self.caches();
        let shadow = caches.shadow.iter().map(|(&(table, level, index), &entry)| Derived {
            table,
            level,
            index,
            entry,
        });
        caches.pcpus.iter().flat_map(|cache| cache.values().flatten().copied()).chain(shadow).collect()
    }

    /// A walk from the deepest cached upper level on.
    fn walk_cached(&self, cache: &mut Cache, root: Mfn, address: u64) -> Result<Vec<Derived>, Fault> {
        let tag = |level: Level| (root, level, address >> level.shift());
        let cached = Level::ALL.into_iter().skip(1).find_map(|level| cache.get(&tag(level)).cloned());
        let mut path = cached.unwrap_or_default();
        for level in Level::ALL.into_iter().rev().skip(path.len()) {
            let table = path.last().map_or(root, |derived| derived.entry.mfn());
            path.push(self.read(table, level, address)?);
            cache.insert(tag(level), path.clone());
        }
        Ok(path)
    }

    /// A walk in which every entry comes from the shadow, if that has it.
    fn walk(
        &self,
        shadow: &mut BTreeMap<(Mfn, Level, usize), Pte>,
        root: Mfn,
        address: u64,
    ) -> Result<Vec<Derived>, Fault> {
        let mut path = Vec::new();
        let mut table = root;
        for level in Level::ALL.into_iter().rev() {
            let index = level.index(address);
            let derived = match shadow.get(&(table, level, index)) {
                Some(&entry) => Derived { table, level, index, entry },
                None => self.read(table, level, address)?,
            };
            shadow.insert((table, level, index), derived.entry);
            table = derived.entry.mfn();
            path.push(derived);
        }
        Ok(path)
    }

    /// Reads an entry as a CPU does: the accessed bit is set.
    fn read(&self, table: Mfn, level: Level, address: u64) -> Result<Derived, Fault> {
        let index = level.index(address);
        let entry = self.memory.entry(table, index).map_err(|_| Fault::NotPresent)?;
        if !entry.is_present() {
            return Err(Fault::NotPresent);
        }
        let accessed = PteFlags::ACCESSED.bits();
        let entry = match self.memory.fetch_or_u64(table, index * 8, accessed) {
            Ok(bits) => Pte(bits | accessed),
            Err(_) => entry,
        };
        Ok(Derived { table, level, index, entry })
    }

    fn finish(&self, path: &[Derived], write: bool) -> Result<Mfn, Fault> {
        let all = |flag| path.iter().all(|derived| derived.entry.flags().contains(flag));
        let leaf = path.last().ok_or(Fault::NotPresent)?;
        match () {
            () if leaf.level != Level::L1 => Err(Fault::NotPresent),
            () if !all(PteFlags::USER) => Err(Fault::Supervisor),
            () if write && !all(PteFlags::WRITABLE) => Err(Fault::ReadOnly),
            () => Ok(leaf.entry.mfn()),
        }
    }

    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broken() -> MachineError {
    MachineError::new("a fake machine's translations", std::io::Error::other("sabotaged"))
}

impl Translations for FakeTranslations {
    fn settle(&self, changes: &[Change]) -> Result<(), MachineError> {
        let mut caches = self.caches();
        match caches.sabotage {
            Sabotage::NoSettle => return Ok(()),
            Sabotage::Broken => return Err(broken()),
            Sabotage::None | Sabotage::NoRetire => {}
        }
        self.settled.fetch_add(changes.len() as u64, Ordering::SeqCst);
        let stale = |derived: &Derived| changes.iter().any(|change| derived.ends_with(change));
        for cache in &mut caches.pcpus {
            cache.retain(|_, path| !path.iter().any(stale));
        }
        caches
            .shadow
            .retain(|&(table, level, index), &mut entry| !stale(&Derived { table, level, index, entry }));
        Ok(())
    }

    fn retire(&self, table: Mfn, level: Level) -> Result<(), MachineError> {
        let mut caches = self.caches();
        match caches.sabotage {
            Sabotage::NoRetire => return Ok(()),
            Sabotage::Broken => return Err(broken()),
            Sabotage::None | Sabotage::NoSettle => {}
        }
        self.retired.fetch_add(1, Ordering::SeqCst);
        for cache in &mut caches.pcpus {
            cache.retain(|_, path| !path.iter().any(|step| (step.table, step.level) == (table, level)));
        }
        caches.shadow.retain(|&(shadowed, at, _), _| (shadowed, at) != (table, level));
        Ok(())
    }

    fn flush(&self) -> Result<(), MachineError> {
        let mut caches = self.caches();
        caches.pcpus.iter_mut().for_each(Cache::clear);
        caches.shadow.clear();
        Ok(())
    }
}
