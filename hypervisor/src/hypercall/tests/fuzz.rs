//! Structured fuzzing: calls whose arguments are of the right shape and of which some words are wrong, while the
//! guest's memory changes each time the hypervisor has read it, exactly where it was read. A double fetch that
//! matters would get the first answer to one question and the second to the next.
//!
//! The same calls in every run. After each call the bystander's page and the sum of all frames are looked at; every
//! few hundred, everything is recounted. `FUZZ_CALLS` says how many.

use super::super::{Outcome, TABLE};
use super::hostile::{Random, recover};
use crate::paging::{Budget, Progress};
use crate::testing::{BASE, Guest, STACK, World, change_what_is_read, page};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::{DomId, Errno, Mfn};
use zerocopy::IntoBytes;

/// Where structures lie, and what they point to.
const STRUCTURE: u64 = page(20);
const POINTED_TO: u64 = page(21);
const RESULT: u64 = page(22);
/// Pages from here to 31 are mapped nowhere at first, so that they can become tables: two of each level.
const FIRST_DRAFT: u64 = 24;
const CALLS_OF_A_GUEST: u64 = 400;
const CALLS_BETWEEN_AUDITS: u64 = 200;
const CANARY: u64 = 0x5afe;

/// A call: its number and arguments, and what the guest writes for it.
#[derive(Debug, Default)]
struct Case {
    number: u64,
    arguments: [u64; 6],
    memory: Vec<(u64, Vec<u64>)>,
}

struct Fuzzer<'a> {
    random: Random,
    guest: &'a Guest,
    /// A frame of somebody else's.
    foreign: Mfn,
}

impl Fuzzer<'_> {
    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.random.below(from.len() as u64) as usize]
    }

    fn page_frame(&mut self) -> u64 {
        self.guest.pages[self.random.below(32) as usize].0
    }

    /// Mostly a frame of the guest's, sometimes a table, sometimes anybody's.
    fn frame(&mut self) -> u64 {
        let Guest { root, user_root, l1, .. } = self.guest;
        match self.random.below(16) {
            0 => self.foreign.0,
            1 => self.random.below(520),
            2 => root.0,
            3 => user_root.0,
            4 | 5 => l1.0,
            _ => self.page_frame(),
        }
    }

    /// A frame that the guest keeps for a table of this level, from 1 up; a page for 0.
    fn draft(&mut self, level: u64) -> u64 {
        match level {
            0 => self.page_frame(),
            _ => self.guest.pages[(FIRST_DRAFT + (level - 1) * 2 + self.random.below(2)) as usize].0,
        }
    }

    /// An entry that belongs where it is written, mostly.
    fn sensible_update(&mut self) -> [u64; 2] {
        let level = 1 + self.random.below(4);
        let flags = self.pick(&[0, 5, 7, 7, 7, 0x27]);
        let place = self.draft(level) << 12 | self.random.below(6) << 3 | self.pick(&[0, 0, 2]);
        [place, self.draft(level - 1) << 12 | flags]
    }

    /// Pins and roots that may work.
    fn sensible_operation(&mut self) -> [u64; 3] {
        match self.random.below(8) {
            0 => [self.pick(&[5, 15]), self.draft(4), 0],
            1 => [5, self.guest.root.0, 0],
            2 | 3 => {
                let level = 1 + self.random.below(4);
                [4, self.draft(level), 0]
            }
            _ => {
                let level = self.random.below(4);
                [level, self.draft(level + 1), 0]
            }
        }
    }

    fn operation(&mut self) -> [u64; 3] {
        if self.random.below(4) < 3 {
            return self.sensible_operation();
        }
        [self.number(22), self.frame(), self.pointer(RESULT)]
    }

    fn entry(&mut self) -> u64 {
        let flags = [0, 1, 3, 5, 7, 7, 0x27, 0x67, 0x87, 1 << 63 | 5, 1 << 59 | 7, 0x1ff];
        self.frame() << 12 | self.pick(&flags)
    }

    fn update(&mut self) -> [u64; 2] {
        if self.random.below(8) < 5 {
            return self.sensible_update();
        }
        let index = match self.random.below(4) {
            0 => self.random.below(512),
            1 => 256,
            _ => 8 + self.random.below(24),
        };
        let kind = self.pick(&[0, 0, 0, 0, 1, 2, 3]);
        [self.frame() << 12 | index << 3 | kind, self.entry()]
    }

    /// A small number, mostly; anything, sometimes.
    fn number(&mut self, below: u64) -> u64 {
        if self.random.below(24) == 0 { self.random.next() } else { self.random.below(below) }
    }

    /// Mostly where a structure can be, sometimes across the end of what is mapped, or nowhere.
    fn pointer(&mut self, good: u64) -> u64 {
        match self.random.below(24) {
            0 => page(32) - 4,
            1 => good | self.random.below(4096),
            2 => {
                self.pick(&[0, u64::MAX - 3, 1 << 47, 0xffff_8000_0000_0000, 0xffff_8100_0000_0000, BASE - 1])
            }
            _ => good,
        }
    }

    fn domain(&mut self) -> u64 {
        self.pick(&[0x7ff0, 0x7ff0, 0x7ff0, u64::from(self.guest.domain.id().0), 0, 1, 0x7ff1, 0x7fff])
    }

    /// Words that are small numbers in pairs, as most structures are.
    fn small_words(&mut self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.number(32) | self.number(6) << 32).collect()
    }

    fn case(&mut self) -> Case {
        let row = TABLE[self.random.below(TABLE.len() as u64) as usize];
        // Page tables are what keeps domains apart: half of all calls are theirs.
        let number =
            self.pick(&[row.number, row.number, N::MMU_UPDATE.0, N::MMUEXT_OP.0, N::UPDATE_VA_MAPPING.0]);
        self.case_of(number)
    }

    fn case_of(&mut self, number: u64) -> Case {
        let (at, result) =
            (self.pointer(STRUCTURE), if self.random.below(2) == 0 { 0 } else { self.pointer(RESULT) });
        let (arguments, words): ([u64; 6], Vec<u64>) = match N(number) {
            N::MMU_UPDATE => {
                let count = 1 + self.random.below(6);
                let words = (0..count).flat_map(|_| self.update()).collect();
                ([at, count.wrapping_add(self.number(3) / 2), result, self.domain(), 0, 0], words)
            }
            N::MMUEXT_OP => {
                let count = 1 + self.random.below(3);
                let words = (0..count).flat_map(|_| self.operation()).collect();
                ([at, count, result, self.domain(), 0, 0], words)
            }
            N::UPDATE_VA_MAPPING => {
                let address = page(self.random.below(34)).wrapping_add(self.number(2));
                ([address, self.entry(), self.number(8) | self.pick(&[0, 0, RESULT]), 0, 0, 0], Vec::new())
            }
            N::UPDATE_DESCRIPTOR => {
                let descriptor =
                    self.pick(&[0, 0x00af_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0x0000_8900_0000_0067]);
                ([self.frame() << 12 | self.random.below(512) << 3, descriptor, 0, 0, 0, 0], Vec::new())
            }
            N::SET_GDT => {
                let words = (0..4).map(|_| self.frame()).collect();
                ([at, self.number(1100), 0, 0, 0, 0], words)
            }
            N::GRANT_TABLE_OP => {
                let words = vec![self.domain() | self.number(12) << 32, 0, self.pointer(POINTED_TO), 0];
                ([self.number(13), at, self.pick(&[1, 1, 1, 0, 2]), 0, 0, 0], words)
            }
            N::MULTICALL => return self.multicall(at),
            N::IRET => {
                let words = (0..16).map(|_| self.number(1 << 16)).collect();
                return Case { number, arguments: [0; 6], memory: vec![(STACK - 256, words)] };
            }
            N::SCHED_OP => {
                let words = [self.pointer(POINTED_TO), self.number(140), self.number(1 << 30)];
                ([self.number(10), at, 0, 0, 0, 0], words.to_vec())
            }
            N::CONSOLE_IO => ([self.number(3), self.number(5000), at, 0, 0, 0], Vec::new()),
            N::VCPU_OP => ([self.number(16), self.number(2), at, 0, 0, 0], self.small_words(4)),
            N::SET_CALLBACKS => {
                ([self.random.next(), self.random.next(), self.random.next(), 0, 0, 0], Vec::new())
            }
            N::MEMORY_OP => {
                let mut words = self.small_words(5);
                let domain = self.domain();
                words[0] = self.pick(&[domain, POINTED_TO, 1 | POINTED_TO]);
                ([self.number(30), at, 0, 0, 0, 0], words)
            }
            _ => ([self.number(24), at, self.number(64), self.pointer(RESULT), 0, 0], self.small_words(8)),
        };
        let pointed_to = (0..8).map(|_| self.number(64)).collect();
        Case { number, arguments, memory: vec![(at, words), (POINTED_TO, pointed_to)] }
    }

    /// Several calls in one, each with a structure of its own.
    fn multicall(&mut self, at: u64) -> Case {
        let count = 1 + self.random.below(4);
        let mut entries = Vec::new();
        let mut memory = Vec::new();
        for place in 0..count {
            let number =
                self.pick(&[N::MMU_UPDATE.0, N::MMUEXT_OP.0, N::UPDATE_VA_MAPPING.0, N::XEN_VERSION.0]);
            let mut case = self.case_of(number);
            let moved = POINTED_TO + place * 512;
            if let Some((first, words)) = case.memory.first_mut()
                && case.arguments[0] == *first
            {
                (case.arguments[0], *first) = (moved, moved);
                memory.push((moved, std::mem::take(words)));
            }
            entries.extend([case.number, 0]);
            entries.extend(case.arguments);
        }
        memory.push((at, entries));
        Case { number: N::MULTICALL.0, arguments: [at, count, 0, 0, 0, 0], memory }
    }
}

/// What is cheap to look at.
fn check(world: &World, bystander: &Guest, guest: &Guest) {
    assert_eq!(world.peek::<u64>(bystander, page(3)), CANARY);
    let mmu = &world.services.mmu;
    let owned = [DomId::XEN, bystander.domain.id(), guest.domain.id()].map(|domain| mmu.frames_of(domain));
    assert_eq!(owned.iter().sum::<u64>() + mmu.free_frames(), mmu.layout().frames, "frames are lost");
}

/// Recounts everything.
fn audit(world: &World, guests: [&Guest; 2]) {
    let mut held = Vec::new();
    for guest in guests {
        let drained = world.services.mmu.drain(guest.domain.id(), &mut Budget::unlimited());
        assert_eq!(drained.unwrap(), Progress::Done);
        world.on_vcpu(guest, |_, vcpu| {
            held.extend(vcpu.roots.held());
            held.extend(vcpu.gdt.held());
        });
    }
    assert_eq!(world.services.mmu.audit(&held), Vec::<String>::new());
}

/// A guest that has lost itself finds back, where that is still possible: its root, and the pages for structures.
fn find_back(world: &World, guest: &Guest) {
    let mmu = &world.services.mmu;
    world.on_vcpu(guest, |_, vcpu| {
        if mmu.new_baseptr(guest.domain.id(), &mut vcpu.roots, guest.root, &mut Budget::unlimited()).is_ok() {
            vcpu.replace_root();
        }
    });
    for place in [STRUCTURE, POINTED_TO, RESULT, STACK - 4096] {
        let frame = guest.pages[((place - BASE) >> 12) as usize];
        let _ = world.outcome(guest, N::UPDATE_VA_MAPPING.0, &[place, frame.address() | 7, 0]);
    }
}

fn play(world: &World, guest: &Guest, case: &Case) -> bool {
    for (at, words) in &case.memory {
        // It may have unmapped that page.
        let _ = world.services.mmu.copy_to_guest(guest.domain.id(), guest.root, *at, words.as_bytes());
    }
    let outcome = world.outcome(guest, case.number, &case.arguments);
    recover(world, guest);
    matches!(outcome, Ok(Outcome::Done(value)) if Errno::from_return(value).is_ok())
}

#[test]
fn a_guest_whose_memory_changes_under_every_read() {
    let calls: u64 =
        std::env::var("FUZZ_CALLS").ok().and_then(|calls| calls.parse().ok()).unwrap_or(1_000_000);
    let mut world = World::new();
    let bystander = world.guest();
    world.poke(&bystander, page(3), &CANARY);
    let (mut made, mut succeeded) = (0, 0);
    while made < calls {
        let guest = world.guest();
        for draft in FIRST_DRAFT..32 {
            world.call(&guest, N::UPDATE_VA_MAPPING.0, &[page(draft), 0, 0]).unwrap();
        }
        let random = Random(0x9e37_79b9_7f4a_7c15 ^ made);
        let mut fuzzer = Fuzzer { random, guest: &guest, foreign: bystander.pages[3] };
        change_what_is_read(Some((guest.domain.id(), made | 1)));
        for call in 1..=CALLS_OF_A_GUEST {
            succeeded += u64::from(play(&world, &guest, &fuzzer.case()));
            check(&world, &bystander, &guest);
            if call % 8 == 0 {
                find_back(&world, &guest);
            }
            if call % CALLS_BETWEEN_AUDITS == 0 {
                audit(&world, [&bystander, &guest]);
            }
        }
        change_what_is_read(None);
        made += CALLS_OF_A_GUEST;
        world.end(vec![guest]);
    }
    println!("fuzz_calls {made}\nfuzz_succeeded {succeeded}");
    assert!(succeeded > made / 10, "only {succeeded} of {made} calls succeeded: the test is too wild");
    world.check_end(vec![bystander]);
}
