//! A guest on the fake machine that makes hypercalls as it is told by a seed or by a fuzzer's bytes, while its memory
//! changes each time the hypervisor has read it, exactly where it was read. A double fetch that matters would get the
//! first answer to one question and the second to the next.
//!
//! After each call the bystander's page and the sum of all frames are looked at; every few hundred, and at the end,
//! everything is recounted. Used by `hypercall::tests::fuzz` and, led by coverage, by `tests/fuzz/target`.

#[path = "../../tests/fuzz/calls/mod.rs"]
#[allow(dead_code, missing_docs)] // each of its users needs a part of it
mod calls;

pub use calls::{Bytes, Choices, Random};

use crate::event_channel::{HostChannel, alloc_unbound, connect};
use crate::grant::lent_entries;
use crate::hypercall::{Outcome, TABLE};
use crate::paging::{Budget, Progress};
use crate::testing::{BASE, Guest, STACK, World, change_what_is_read, page, recover};
use backends::bell::Bell;
use calls::{Caller, Case, Ground};
use pv_abi::grant_table::GrantEntry;
use pv_abi::{DomId, Errno, Mfn};
use std::sync::Arc;
use zerocopy::IntoBytes;

const CALLS_BETWEEN_AUDITS: u64 = 200;
const CANARY: u64 = 0x5afe;

/// Pages that the bystander lends: to be written, and to be read.
const LENT: u64 = 5;
const LENT_TO_READ: u64 = 6;

/// A machine, and a bystander on it.
pub struct Playground {
    world: World,
    bystander: Guest,
    /// Mappings of grants that were seen, at the moments of recounting.
    pub mapped: u64,
}

impl Default for Playground {
    fn default() -> Self {
        let world = World::new();
        let bystander = world.guest();
        [3, LENT_TO_READ].iter().for_each(|&kept| world.poke(&bystander, page(kept), &CANARY));
        Self { world, bystander, mapped: 0 }
    }
}

impl Playground {
    /// A guest comes, makes so many calls, and goes. How many succeeded.
    ///
    /// # Panics
    /// Where something is wrong: that is what it is for.
    pub fn guest(&mut self, choices: impl Choices, calls: u64) -> u64 {
        let guest = self.world.guest();
        self.lend(&guest);
        let back_end = self.connect(&guest);
        let ground = self.ground(&guest);
        let mut caller = Caller { choices, ground: &ground };
        let first = caller.clear_drafts().into_iter().chain(caller.find_back());
        first.for_each(|case| assert!(self.play(&guest, &case)));
        let mut succeeded = 0;
        for call in 1..=calls {
            let case = caller.case();
            // A different stream of changes each time, and sometimes none.
            let changes = caller.choices.below(1 << 16);
            change_what_is_read((changes != 0).then(|| (guest.domain.id(), changes << 20 | changes)));
            succeeded += u64::from(self.play(&guest, &case));
            change_what_is_read(None);
            self.check(&guest);
            if call % 8 == 0 {
                self.find_root(&guest);
                for case in caller.find_back() {
                    self.play(&guest, &case);
                }
            }
            if call % CALLS_BETWEEN_AUDITS == 0 {
                self.audit(&guest);
            }
        }
        self.audit(&guest);
        self.world.end(vec![guest]);
        assert_eq!(self.world.machine.doorbells.count(), 0, "a doorbell of the dead");
        drop(back_end);
        succeeded
    }

    /// The bystander goes, and everything is free.
    pub fn end(mut self) {
        self.world.check_end(vec![self.bystander]);
    }

    /// The first port is connected to a back-end, and can have a doorbell.
    fn connect(&self, guest: &Guest) -> Option<HostChannel> {
        let port = alloc_unbound(&guest.domain, DomId::HOST).ok()?;
        connect(&guest.domain, port, Arc::new(Bell::with_descriptor().ok()?)).ok()
    }

    /// A grant table of one frame; its frame.
    fn grants(&self, guest: &Guest) -> Mfn {
        let mut grants = guest.domain.grants().lock();
        grants.grow(&self.world.services.mmu, guest.domain.id(), 1).unwrap();
        grants.frames()[0]
    }

    /// The bystander lends two pages to the guest.
    fn lend(&self, guest: &Guest) {
        let table = self.grants(&self.bystander);
        for (reference, (kept, access)) in
            [(LENT, 0), (LENT_TO_READ, GrantEntry::READ_ONLY)].into_iter().enumerate()
        {
            let frame = self.bystander.pages[kept as usize].0 as u32;
            let flags = GrantEntry::PERMIT_ACCESS | access;
            let entry = GrantEntry { flags, domid: guest.domain.id().0, frame };
            self.world.machine.memory.write(table, (1 + reference) * 8, entry.as_bytes()).unwrap();
        }
    }

    fn ground(&self, guest: &Guest) -> Ground {
        Ground {
            base: BASE,
            pages: guest.pages.iter().map(|mfn| mfn.0).collect(),
            structures: 20,
            first_entry: 0,
            l1: guest.l1.0,
            root: guest.root.0,
            user_root: guest.user_root.0,
            others: vec![self.bystander.pages[3].0, self.bystander.root.0, self.bystander.l1.0],
            frames: self.world.services.mmu.layout().frames,
            domain: guest.domain.id().0.into(),
            lender: self.bystander.domain.id().0.into(),
            grant_frame: self.grants(guest).0,
            numbers: TABLE.iter().map(|row| row.number).collect(),
            stack: STACK,
            code: BASE,
            runs: false,
        }
    }

    /// A guest that runs dies with its root; this one gets it back, where that is still possible.
    fn find_root(&self, guest: &Guest) {
        let mmu = &self.world.services.mmu;
        self.world.on_vcpu(guest, |_, vcpu| {
            let (domain, budget) = (guest.domain.id(), &mut Budget::unlimited());
            if mmu.new_baseptr(domain, &mut vcpu.roots, guest.root, budget).is_ok() {
                vcpu.replace_root();
            }
        });
    }

    fn play(&self, guest: &Guest, case: &Case) -> bool {
        for (at, words) in &case.memory {
            // It may have unmapped that page.
            let mmu = &self.world.services.mmu;
            let _ = mmu.copy_to_guest(guest.domain.id(), guest.root, *at, words.as_bytes());
        }
        let outcome = self.world.outcome(guest, case.number, &case.arguments);
        recover(&self.world, guest);
        matches!(outcome, Ok(Outcome::Done(value)) if Errno::from_return(value).is_ok())
    }

    /// What is cheap to look at.
    fn check(&self, guest: &Guest) {
        for kept in [3, LENT_TO_READ] {
            assert_eq!(self.world.peek::<u64>(&self.bystander, page(kept)), CANARY);
        }
        let mmu = &self.world.services.mmu;
        let domains = [DomId::XEN, self.bystander.domain.id(), guest.domain.id()];
        let owned: u64 = domains.map(|domain| mmu.frames_of(domain)).iter().sum();
        assert_eq!(owned + mmu.free_frames(), mmu.layout().frames, "frames are lost");
    }

    /// Recounts everything.
    fn audit(&mut self, guest: &Guest) {
        let mut held = Vec::new();
        for guest in [&self.bystander, guest] {
            let drained = self.world.services.mmu.drain(guest.domain.id(), &mut Budget::unlimited());
            assert_eq!(drained.unwrap(), Progress::Done);
            for handle in guest.domain.vcpus() {
                let vcpu = handle.state().lock();
                held.extend(vcpu.roots.held().chain(vcpu.gdt.held()).chain(handle.held()));
            }
        }
        let lent = lent_entries(&self.world.services.domains);
        self.mapped += lent.len() as u64;
        assert_eq!(self.world.services.mmu.audit_lending(&held, &lent), Vec::<String>::new());
    }
}
