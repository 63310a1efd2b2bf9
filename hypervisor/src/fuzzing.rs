//! A guest on the fake machine that makes hypercalls, executes instructions that are carried out for it, and stores to its
//! page table, as it is told by a seed or by a fuzzer's bytes, while its memory changes when the hypervisor has read it
//! (one time in three), exactly where it was read. A double fetch that matters would get the first answer to one question
//! and the second to the next. Entries of grant tables change, too, between the read and the exchange that marks them:
//! the guest's own to anything, and the bystander takes its own back.
//!
//! After each call the entries that the bystander lends and the sum of all frames are looked at; every few hundred, and
//! at the end, everything is recounted and each of the bystander's pages is compared, but for the one that it lends to be
//! written. Used by `hypercall::tests::fuzz` and, led by coverage, by `tests/fuzz/target`.

#[path = "../../tests/fuzz/calls/mod.rs"]
#[allow(dead_code, missing_docs)] // each of its users needs a part of it
mod calls;

pub use calls::{Bytes, Choices, Random};

use crate::emulate::{Fault, exception};
use crate::error::Failure;
use crate::event_channel::{HostChannel, alloc_unbound, connect};
use crate::grant::lent_entries;
use crate::hypercall::{Outcome, TABLE};
use crate::paging::{Budget, Progress};
use crate::testing::{
    BASE, Guest, MARKS, STACK, World, change_what_is_read, lends_again, page, recover, was_taken_back,
};
use backend_interface::bell::Bell;
use calls::{Caller, Case, Ground, Store};
use pv_abi::grant_table::GrantEntry;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::page_table::PteFlags;
use pv_abi::trap::Vector;
use pv_abi::{DomId, Errno, GrantRef, Mfn, PAGE_SIZE};
use std::sync::Arc;
use zerocopy::IntoBytes;

const CALLS_BETWEEN_AUDITS: u64 = 200;
/// Calls before an instruction that traps.
const CALLS_BETWEEN_INSTRUCTIONS: u64 = 4;

/// Instructions that are carried out for a kernel, with a call's words in its registers.
const INSTRUCTIONS: &[&[u8]] = &[
    &[0xcd, 0x80],                               // int 0x80
    &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2], // ud2; "xen"; cpuid
    &[0xed],                                     // in eax, dx
    &[0xf3, 0x6c],                               // rep insb
    &[0xf3, 0x67, 0x6d],                         // rep insd, by EDI and ECX
    &[0xf3, 0x64, 0x6f],                         // rep outsd, from FS
    &[0x0f, 0x22, 0xc7],                         // mov cr0, rdi
    &[0x0f, 0x22, 0xdf],                         // mov cr3, rdi
    &[0x0f, 0x22, 0xe7],                         // mov cr4, rdi
    &[0x0f, 0x23, 0xd7],                         // mov dr2, rdi
    &[0x0f, 0x23, 0xff],                         // mov dr7, rdi
    &[0x0f, 0x01, 0xd1],                         // xsetbv
    &[0x0f, 0x32],                               // rdmsr
    &[0x0f, 0x30],                               // wrmsr
];
/// What RCX is for some of them: MSRs, and lengths.
const COUNTERS: &[u64] = &[0, 5, 4096, 1 << 63, 0xc000_0080, 0xc000_0100, 0xc000_0101, 0xc000_0102];

/// Pages that the bystander lends, by their references: one to be written, one to be read.
const LENT: usize = 5;
const LENT_TO_READ: usize = 6;
const REFERENCES: [GrantRef; 2] = [GrantRef(1), GrantRef(2)];

/// A machine, and a bystander on it.
pub struct Playground {
    world: World,
    bystander: Guest,
    /// The bystander's grant table.
    table: Mfn,
    /// Mappings of the bystander's pages that were seen, at the moments of recounting.
    pub mapped: u64,
}

impl Default for Playground {
    fn default() -> Self {
        let world = World::new();
        let bystander = world.guest();
        let memory = &world.machine.memory;
        for (number, mfn) in pages_of(&bystander) {
            memory.write(mfn, 0, &contents(number)).unwrap();
        }
        let table = grants(&world, &bystander);
        Self { world, bystander, table, mapped: 0 }
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
            if call % CALLS_BETWEEN_INSTRUCTIONS == 0 {
                self.execute(&guest, &case, &mut caller.choices);
            }
            change_what_is_read(None);
            if caller.choices.once_in(4) {
                let store = caller.store();
                let seed = caller.choices.below(1 << 16);
                change_what_is_read((seed != 0).then(|| (guest.domain.id(), seed << 20 | seed)));
                succeeded += u64::from(self.store(&guest, &store));
                change_what_is_read(None);
            }
            self.check(&guest);
            if call % 8 == 0 {
                self.lend(&guest);
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

    /// The bystander lends two pages to the guest, where it does not do so already.
    fn lend(&self, guest: &Guest) {
        let pages = [(LENT, 0), (LENT_TO_READ, GrantEntry::READ_ONLY)];
        for (reference, (lent, access)) in REFERENCES.into_iter().zip(pages) {
            let flags = GrantEntry::PERMIT_ACCESS | access;
            let frame = self.bystander.pages[lent].0 as u32;
            let entry = GrantEntry { flags, domid: guest.domain.id().0, frame };
            if self.entry(reference) & MARKS == 0 {
                self.world.machine.memory.write(self.table, offset(reference), entry.as_bytes()).unwrap();
                lends_again(self.table, offset(reference));
            }
        }
    }

    /// An entry of the bystander's grant table.
    fn entry(&self, reference: GrantRef) -> u64 {
        self.world.machine.memory.load_u64(self.table, offset(reference)).unwrap()
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
            grant_frame: grants(&self.world, guest).0,
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

    /// An instruction traps, with the words of `case` in the registers.
    fn execute(&self, guest: &Guest, case: &Case, choices: &mut impl Choices) {
        let mut pick = |count: usize| choices.below(count as u64) as usize;
        let instruction = INSTRUCTIONS.get(pick(INSTRUCTIONS.len())).copied().unwrap_or_default();
        let counter = COUNTERS.get(pick(COUNTERS.len() * 2)).copied();
        let (vector, iopl) = ([Vector::INVALID_OPCODE, Vector::GENERAL_PROTECTION][pick(2)].0, pick(2) as u8);
        let mmu = &self.world.services.mmu;
        // It may have unmapped that page.
        let _ = mmu.copy_to_guest(guest.domain.id(), guest.root, BASE, instruction);
        self.world.on_vcpu(guest, |handle, vcpu| {
            vcpu.iopl = iopl;
            let registers = &mut vcpu.context.registers;
            registers.rip = BASE;
            [registers.rdi, registers.rsi, registers.rdx, registers.rax, registers.rcx, _] = case.arguments;
            registers.rcx = counter.unwrap_or(registers.rcx);
            let fault = Fault { vector, error_code: 0, cr2: 0 };
            let _ = exception(&self.world.services, vcpu, handle.info(), fault);
        });
        recover(&self.world, guest);
    }

    /// The guest's kernel stores to its table, which it maps read-only where it can. Whether that was carried out.
    fn store(&self, guest: &Guest, store: &Store) -> bool {
        const WINDOW: u64 = page(31);
        let at = WINDOW.wrapping_add(store.offset);
        let table = guest.l1.address() | (PteFlags::PRESENT | PteFlags::USER).bits();
        let _ = self.world.outcome(guest, N::VM_ASSIST.0, &[0, 2]);
        let _ = self.world.outcome(guest, N::UPDATE_VA_MAPPING.0, &[WINDOW, table, 0]);
        let mmu = &self.world.services.mmu;
        let _ = mmu.copy_to_guest(guest.domain.id(), guest.root, STACK, &store.instruction);
        let carried = self.world.on_vcpu(guest, |handle, vcpu| {
            let registers = &mut vcpu.context.registers;
            (registers.rip, registers.rdi, registers.rsi) = (STACK, at, BASE);
            [registers.rax, registers.rcx] = store.words;
            let fault = Fault { vector: Vector::PAGE_FAULT.0, error_code: 0b111, cr2: at };
            let outcome = exception(&self.world.services, vcpu, handle.info(), fault);
            assert!(!outcome.as_ref().is_err_and(Failure::is_hosts), "{outcome:?}");
            outcome.is_ok() && vcpu.context.registers.rip.wrapping_sub(STACK) < 16
        });
        recover(&self.world, guest);
        carried
    }

    /// What is cheap to look at.
    fn check(&self, guest: &Guest) {
        for reference in REFERENCES {
            self.check_entry(reference);
        }
        let mmu = &self.world.services.mmu;
        let domains = [DomId::XEN, self.bystander.domain.id(), guest.domain.id()];
        let owned: u64 = domains.map(|domain| mmu.frames_of(domain)).iter().sum();
        assert_eq!(owned + mmu.free_frames(), mmu.layout().frames, "frames are lost");
    }

    /// What is in use is marked, and nothing else; what the bystander took back before it was in use is not lent.
    fn check_entry(&self, reference: GrantRef) {
        let entry = self.entry(reference);
        let grants = self.bystander.domain.grants().lock();
        let marks = match grants.active().get(&reference) {
            None => 0,
            Some(active) if active.writers == 0 => GrantEntry::READING,
            Some(_) => GrantEntry::READING | GrantEntry::WRITING,
        };
        assert_eq!(entry & MARKS, u64::from(marks), "marks of {reference:?}");
        let is_back = was_taken_back(self.table, offset(reference));
        assert!(!is_back || entry as u16 == 0, "{reference:?} was taken back, and is {entry:#x}");
    }

    /// Recounts everything, and compares all that nobody but the bystander may write.
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
        let bystanders = [LENT, LENT_TO_READ].map(|page| self.bystander.pages[page]);
        self.mapped += lent.iter().filter(|(_, frame)| bystanders.contains(frame)).count() as u64;
        assert_eq!(self.world.services.mmu.audit_lending(&held, &lent), Vec::<String>::new());
        let memory = &self.world.machine.memory;
        let to_read = self.bystander.pages[LENT_TO_READ];
        for (place, _) in lent.iter().filter(|(_, frame)| *frame == to_read) {
            let entry = memory.entry(place.table, place.index).unwrap();
            let is_written = entry.mfn() == to_read && entry.flags().contains(PteFlags::WRITABLE);
            assert!(!is_written, "a page that is lent to be read is mapped as {entry:?}");
        }
        for (number, mfn) in pages_of(&self.bystander).filter(|(number, _)| *number != LENT) {
            let mut now = [0; PAGE_SIZE];
            memory.read(mfn, 0, &mut now).unwrap();
            assert!(now == contents(number), "page {number} of the bystander's was written");
        }
    }
}

/// A grant table of one frame; its frame.
fn grants(world: &World, guest: &Guest) -> Mfn {
    let mut grants = guest.domain.grants().lock();
    grants.grow(&world.services.mmu, guest.domain.id(), 1).unwrap();
    grants.frames()[0]
}

/// Where an entry of a grant table is.
const fn offset(reference: GrantRef) -> usize {
    reference.0 as usize * size_of::<GrantEntry>()
}

/// All pages of a guest's.
fn pages_of(guest: &Guest) -> impl Iterator<Item = (usize, Mfn)> {
    guest.pages.iter().chain(&guest.user_pages).copied().enumerate()
}

/// What the bystander has in each page: nothing that is anywhere else, and no zeros.
const fn contents(number: usize) -> [u8; PAGE_SIZE] {
    [0x5a ^ number as u8; PAGE_SIZE]
}
