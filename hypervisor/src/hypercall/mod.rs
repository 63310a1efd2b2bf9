//! Hypercalls: one table, from which dispatch, the names in traces and the coverage test come.
//!
//! A handler gets the calling vCPU and six words, and says in an [`Outcome`] what shall happen next; it never
//! waits, and never assumes a pcpu. What a guest passes is a number until it has been checked:
//! - addresses are used through [`crate::guest_memory`] only, and each word of the guest's is read once;
//! - a refusal changes nothing; where a result cannot be stored, what the call made is undone;
//! - work is bounded, of one call and of a multicall's together, by [`Call::budget`] for page tables and
//!   [`Call::spend`] for the rest: what is left over is [`Outcome::Preempted`], and the hypervisor goes on
//!   with it by [`Progress`] before the guest runs again, so that nothing of it is the guest's to change.
//!
//! Tests: `tests::every_row_is_exercised`, `tests::wild_arguments_are_refused`, `tests::bounds`, and those of each family.

mod callbacks;
mod console;
mod debug;
mod dispatch;
mod events;
mod extension;
mod grants;
mod memory;
mod mmu;
mod mmuext;
mod multicall;
mod physdev;
mod refused;
mod reservation;
mod sched;
mod segments;
mod stack;
mod table;
mod timer;
mod traps;
mod vcpu;
mod version;
mod vm_assist;

#[cfg(test)]
pub(crate) mod tests;

pub use dispatch::{dispatch, resume};
pub use table::{Hypercall, TABLE, find};

use crate::domain::Domain;
use crate::error::{Failure, Refusal};
use crate::guest_memory::GuestSpace;
use crate::paging::{Batch, Budget};
use crate::services::{STEPS, Services};
use crate::vcpu::{Progress, Vcpu, VcpuHandle};
use pv_abi::{DomId, Errno, EventPort};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Other work between the same, in units of about a microsecond: an element of a batch is one.
const WORK: u32 = 1024;

/// The six words that a hypercall is called with: RDI, RSI, RDX, R10, R8, R9.
pub type Arguments = [u64; 6];

/// What happens after a hypercall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call is done, and returns this to the guest.
    Done(u64),
    /// The registers are those to go on with (`iret`).
    Resumed,
    /// It returns 0, and others may run first.
    Yielded,
    /// It returns 0, once an upcall is pending.
    Blocked,
    /// It is made again when one of these ports may be pending, or at `until`, a system time (`SCHEDOP_poll`).
    Polling {
        /// The ports that are polled.
        ports: Vec<EventPort>,
        /// When it is over without an event; never, where there is none.
        until: Option<u64>,
    },
    /// It goes on once the domain's emergency console has room.
    AwaitingRoom,
    /// Its budget is used up: it goes on after a look at events and at the time.
    Preempted,
    /// The domain has ended, and does not go on.
    Ended,
}

/// What a handler says: an outcome, or why the domain cannot go on.
pub type Reply = Result<Outcome, Failure>;

/// A hypercall's implementation.
pub type Handler = fn(&mut Call<'_>, Arguments) -> Reply;

/// A hypercall being made.
#[derive(Debug)]
pub struct Call<'a> {
    /// What handlers work with.
    pub services: &'a Services,
    /// The domain that makes the call.
    pub domain: &'a Arc<Domain>,
    /// The caller, as others see it.
    pub handle: &'a VcpuHandle,
    /// The vCPU that makes the call.
    pub vcpu: &'a mut Vcpu,
    /// How far the call has come before.
    pub progress: Progress,
    /// What it may still do before it must let others run.
    pub budget: Budget,
    /// What it may still do beside work on page tables.
    work: u32,
}

impl<'a> Call<'a> {
    /// A call of `vcpu`, whose handle is `handle`, that has come as far as `progress`.
    pub fn new(
        services: &'a Services,
        domain: &'a Arc<Domain>,
        handle: &'a VcpuHandle,
        vcpu: &'a mut Vcpu,
        progress: Progress,
    ) -> Self {
        Self { services, domain, handle, vcpu, progress, budget: Budget::new(STEPS), work: WORK }
    }

    /// Notes that work was done, of about so many microseconds.
    fn spend(&mut self, work: u32) {
        self.work = self.work.saturating_sub(work);
    }

    /// Ends a batch that was begun with the call's budget, and pays for what it did and for its end.
    fn finish(&mut self, batch: Batch) -> Result<(), Failure> {
        self.budget = self.services.mmu.finish(batch)?;
        Ok(())
    }

    /// Whether others must be let run before it does more. Never so before it has done anything.
    fn must_pause(&self) -> bool {
        self.work == 0 || self.budget.is_exhausted()
    }

    /// The memory that the caller sees.
    pub fn space(&self) -> GuestSpace<'a> {
        self.vcpu.space(&self.services.mmu)
    }

    /// Copies an argument in.
    ///
    /// # Errors
    /// −EFAULT.
    pub fn read<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T, Failure> {
        self.space().read(address)
    }

    /// Copies a result out.
    ///
    /// # Errors
    /// −EFAULT.
    pub fn write<T: IntoBytes + Immutable>(&self, address: u64, value: &T) -> Result<(), Failure> {
        self.space().write(address, value)
    }

    /// Checks that a guest means itself.
    ///
    /// # Errors
    /// −EPERM where it means another domain.
    pub fn check_self(&self, domain: DomId) -> Result<(), Refusal> {
        if domain == DomId::SELF || domain == self.domain.id() {
            return Ok(());
        }
        Err(Refusal::new(Errno::EPERM, "only the host domain acts for others"))
    }
}

/// What most calls say when they have succeeded: 0.
const fn done() -> Reply {
    Ok(Outcome::Done(0))
}

/// A refusal, as a handler's last word.
fn refuse(errno: Errno, why: &'static str) -> Reply {
    Err(Refusal::new(errno, why).into())
}

/// An operation that is not offered.
fn no_such_operation() -> Reply {
    refuse(Errno::ENOSYS, "no such operation")
}
