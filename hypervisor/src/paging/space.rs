//! What the hypervisor keeps for the page tables of one domain, under one lock.

use super::counters::count;
use super::{Budget, Mmu, Progress};
use crate::error::{Failure, Refusal};
use crate::frame::Reference;
use crate::lock::{Rank, Ranked};
use pv_abi::page_table::Level;
use pv_abi::{DomId, Errno, Mfn};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Work that a call left over.
#[derive(Debug)]
pub(super) enum Deferred {
    /// A reference that no translation needs any more.
    GiveBack(Reference),
    /// A table whose type nobody holds any more. It keeps its last references until the work is done.
    TearDown {
        /// The table that is taken apart.
        table: Mfn,
        /// The level of that table.
        level: Level,
        /// Whether no pcpu can have anything that was derived from it.
        retired: bool,
    },
}

/// How far the taking apart of a domain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpaceState {
    Alive,
    /// Being taken apart: no new references.
    Dying,
    /// Taken apart, but for frames that others still refer to.
    Dead,
    /// The machine failed to settle: nothing of this domain may be touched again.
    Failed,
}

/// The state of one domain's page tables.
#[derive(Debug)]
pub(super) struct Space {
    pub domain: DomId,
    pub state: SpaceState,
    /// Last in, first out, so that a tree is torn down depth first and the list stays short.
    pub deferred: Vec<Deferred>,
}

impl Space {
    fn new(domain: DomId) -> Self {
        Self { domain, state: SpaceState::Alive, deferred: Vec::new() }
    }

    pub(super) fn defer(&mut self, reference: Reference) {
        self.deferred.push(Deferred::GiveBack(reference));
    }

    pub(super) fn check_alive(&self) -> Result<(), Failure> {
        match self.state {
            SpaceState::Alive => Ok(()),
            SpaceState::Dying | SpaceState::Dead => {
                Err(Refusal::new(Errno::EINVAL, "the domain is dying").into())
            }
            SpaceState::Failed => Err(Failure::Host("the machine failed to settle its page tables".into())),
        }
    }
}

/// All spaces, made when a domain is first heard of.
#[derive(Debug, Default)]
pub(super) struct Spaces(RwLock<BTreeMap<DomId, Arc<Ranked<Space>>>>);

impl Spaces {
    pub(super) fn of(&self, domain: DomId) -> Arc<Ranked<Space>> {
        if let Some(space) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&domain) {
            return Arc::clone(space);
        }
        let mut spaces = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let space =
            spaces.entry(domain).or_insert_with(|| Arc::new(Ranked::new(Rank::Space, Space::new(domain))));
        Arc::clone(space)
    }

    /// Those there are, for audits.
    pub(super) fn all(&self) -> Vec<Arc<Ranked<Space>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Mmu {
    /// Runs `action` under the lock of the domain's page tables. A failure of the machine in it ends the domain.
    pub(super) fn with_space<R>(
        &self,
        domain: DomId,
        action: impl FnOnce(&mut Space) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let space = self.spaces.of(domain);
        let mut space = space.lock();
        if space.state == SpaceState::Dead && self.frames.owned_by(domain) == 0 {
            *space = Space::new(domain); // the number may be used again
        }
        let outcome = action(&mut space);
        match &outcome {
            Err(Failure::Machine(_)) => space.state = SpaceState::Failed,
            Err(_) => count(&self.counters.refusals, 1),
            Ok(_) => {}
        }
        outcome
    }

    /// Runs an operation of a guest: first what earlier ones left over, then `action`. Both draw on `budget`, which may be
    /// that of a batch.
    pub(super) fn operate<B: AsMut<Budget>>(
        &self,
        domain: DomId,
        budget: &mut B,
        action: impl FnOnce(&mut Space, &mut B) -> Result<Progress, Failure>,
    ) -> Result<Progress, Failure> {
        let progress = self.with_space(domain, |space| {
            space.check_alive()?;
            match self.drain_space(space, budget.as_mut())? {
                Progress::Done => action(space, budget),
                Progress::Preempted => Ok(Progress::Preempted),
            }
        })?;
        if progress == Progress::Preempted {
            count(&self.counters.preemptions, 1);
        }
        Ok(progress)
    }
}
