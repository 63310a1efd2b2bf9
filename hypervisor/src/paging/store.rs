//! Stores to L1 tables that a guest has mapped read-only: each is an update of the entry that it falls into.
//!
//! What the entry becomes is a function of what it is, so the exchange is atomic: neither an accessed or dirty bit that
//! a CPU sets meanwhile is lost, nor another vCPU's update (`emulate::page_table::tests`).

use super::entry::{admit, is_bookkeeping, needs_settling};
use super::space::Space;
use super::teardown::recall;
use super::update::Place;
use super::validate::Taken;
use super::{Batch, Mmu, Progress};
use crate::error::{Failure, Refusal};
use crate::frame::Reference;
use crate::machine::Change;
use pv_abi::page_table::{Level, Pte};
use pv_abi::{Errno, Mfn, PAGE_SIZE};
use std::cell::Cell;

/// An entry's accessed and dirty bits are all that changes without the lock, and nobody clears them there. So an exchange
/// fails twice at most.
const TRIES: usize = 3;

impl Mmu {
    /// Carries out a store to the entry in memory at `address`, which the tree of `root` maps read-only and which is in
    /// an L1 table of the batch's domain. `change` makes the new entry of the old one, or nothing where the old one
    /// stays; it may be asked more than once. The entry that was replaced, or stays, comes back; none where the budget
    /// ends before.
    ///
    /// # Errors
    /// The guest's fault, and nothing has changed; or the machine's, and the domain is lost.
    pub fn store_to_table(
        &self,
        root: Mfn,
        address: u64,
        change: &dyn Fn(u64) -> Option<u64>,
        batch: &mut Batch,
    ) -> Result<Option<u64>, Failure> {
        let old = Cell::new(None);
        let store = |space: &mut Space, batch: &mut Batch| {
            let place = self.mapped_entry(space, root, address)?;
            old.set(self.change_entry(space, place, change, batch)?);
            Ok(if old.get().is_some() { Progress::Done } else { Progress::Preempted })
        };
        match self.update(batch, |space, batch| self.attempt(space, batch, store))? {
            Progress::Done => Ok(old.get()),
            Progress::Preempted => Ok(None),
        }
    }

    /// The entry in memory at `address`.
    fn mapped_entry(&self, space: &Space, root: Mfn, address: u64) -> Result<Place, Refusal> {
        let mapping = self.walk(space, root, address)?;
        let table = mapping.entry.mfn();
        let offset = address as usize % PAGE_SIZE;
        if mapping.writable || !offset.is_multiple_of(8) || !self.is_own_l1(space, table) {
            return Err(Refusal::new(Errno::EFAULT, "no L1 table of the domain's is mapped read-only there"));
        }
        Ok(Place { table, level: Level::L1, index: offset / 8 })
    }

    /// Exchanges an L1 entry for what `change` makes of it.
    fn change_entry(
        &self,
        space: &mut Space,
        place: Place,
        change: &dyn Fn(u64) -> Option<u64>,
        batch: &mut Batch,
    ) -> Result<Option<u64>, Failure> {
        let Place { table, level, index } = place;
        for _ in 0..TRIES {
            let old = self.entry(table, index)?;
            let Some(wanted) = change(old.0) else { return Ok(Some(old.0)) };
            let new = admit(level, Pte(wanted))?;
            let bookkeeping = is_bookkeeping(old, new);
            let taken = match bookkeeping {
                true => None,
                false => match self.take_for_entry(space, level, new, batch.budget())? {
                    Taken::Preempted => return Ok(None),
                    Taken::Reference(reference) => Some(reference),
                    Taken::Nothing => None,
                },
            };
            match self.exchange_if(place, old, new, batch) {
                Ok(true) => {
                    taken.into_iter().for_each(Reference::into_entry);
                    let held = if bookkeeping { None } else { recall(level, index, old) };
                    held.into_iter().for_each(|held| batch.hold(held));
                    return Ok(Some(old.0));
                }
                Ok(false) => taken.into_iter().for_each(|unused| space.defer(unused)),
                Err(failure) => {
                    taken.into_iter().for_each(|unused| space.defer(unused));
                    return Err(failure);
                }
            }
        }
        Err(Refusal::new(Errno::EBUSY, "the entry changes all the time").into())
    }

    /// Replaces the entry if it is `old`, and records the change. True where it was.
    fn exchange_if(&self, place: Place, old: Pte, new: Pte, batch: &mut Batch) -> Result<bool, Failure> {
        let Place { table, level, index } = place;
        if old.is_present() {
            self.hold_table(batch, table, level)?;
        }
        if !self.compare_exchange(table, index, old, new)? {
            return Ok(false);
        }
        if needs_settling(old, new) {
            batch.record(Change { table, index: index as u16, level, old });
        }
        batch.updated = batch.updated.saturating_add(1);
        Ok(true)
    }
}
