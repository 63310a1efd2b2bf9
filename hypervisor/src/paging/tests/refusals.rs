//! Each thing that a guest must not get, why it does not, and that nothing has changed then. Named after the
//! classes of Xen's advisories where one applies.

use super::world::{A, B, RO, RW, Tree, World, address, done, ro, rw, why};
use crate::frame::{FrameType, ReferenceKind};
use crate::paging::{Batch, Budget, Roots};
use pv_abi::mmu::MmuUpdateKind;
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{Errno, Mfn};

/// Two domains, each with a tree of page tables that a vCPU has as its root.
struct Two {
    world: World,
    a: Tree,
    b: Tree,
    roots: [Roots; 2],
}

fn two() -> Two {
    let world = World::new();
    let (a, b) = (world.tree(A, 4), world.tree(B, 4));
    let roots = [world.start(&a), world.start(&b)];
    Two { world, a, b, roots }
}

impl Two {
    /// The update is refused for that reason, and the entry is what it was.
    fn refuse(&self, table: Mfn, index: usize, entry: Pte, reason: &str) {
        let before = self.world.machine.memory.entry(table, index).unwrap();
        assert_eq!(why(self.world.set(A, table, index, entry)), reason, "{entry:?} at {table} {index}");
        assert_eq!(self.world.machine.memory.entry(table, index).unwrap(), before);
        self.check();
    }

    fn check(&self) {
        self.world.check(&[&self.roots[0], &self.roots[1]]);
    }

    fn end(mut self) {
        self.check();
        let [a, b] = &mut self.roots;
        self.world.end_beside(A, a, &[b]);
        self.world.end(B, b);
    }
}

#[test]
fn frames_of_others_are_not_mapped() {
    let two = two();
    for flags in [RO, RW] {
        let entry = |mfn| Pte::new(mfn, flags);
        two.refuse(two.a.l1, 9, entry(two.b.pages[0]), "the frame belongs to another domain");
        two.refuse(two.a.l1, 9, entry(two.b.l1), "the frame belongs to another domain");
        two.refuse(two.a.l1, 9, entry(Mfn(0)), "the frame is the hypervisor's");
        two.refuse(
            two.a.l1,
            9,
            entry(Mfn(two.world.machine.layout.m2p.start)),
            "the frame is the hypervisor's",
        );
        two.refuse(two.a.l1, 9, entry(Mfn(127)), "the frame is free");
        two.refuse(two.a.l1, 9, entry(Mfn(128)), "the machine has no such frame");
    }
    for (table, below) in [(two.a.l2, two.b.l1), (two.a.l3, two.b.l2), (two.a.l4, two.b.l3)] {
        two.refuse(table, 9, rw(below), "the frame belongs to another domain");
    }
    two.end();
}

/// Address bits above the machine's physical addresses, up to bit 51.
#[test]
fn reserved_address_bits_are_refused() {
    let two = two();
    for bit in 19..52 {
        let entry = Pte(rw(two.a.pages[0]).0 | 1 << bit);
        two.refuse(two.a.l1, 9, entry, "the machine has no such frame");
    }
    two.end();
}

#[test]
fn tables_are_not_mapped_writable_and_may_be_mapped_read_only() {
    let two = two();
    for level in Level::ALL {
        let table = two.a.table(level);
        two.refuse(two.a.l1, 9, rw(table), "a page table cannot be writable");
        two.world.set(A, two.a.l1, 9, ro(table)).unwrap();
        two.refuse(two.a.l1, 9, rw(table), "a page table cannot be writable");
        two.check();
    }
    two.end();
}

/// XSA-148 and XSA-182: the same frame with more rights is not the same entry.
#[test]
fn gaining_the_write_bit_is_no_fast_path() {
    let two = two();
    two.world.set(A, two.a.l1, 9, ro(two.a.l4)).unwrap();
    let root = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::ACCESSED | PteFlags::AVAIL0;
    two.refuse(two.a.l1, 9, Pte::new(two.a.l4, root), "a page table cannot be writable");
    two.refuse(two.a.l2, 0, Pte(rw(two.a.l1).0 | 0x80), "large pages are not offered");
    two.end();
}

/// XSA-185, XSA-240: a table holds tables of the next level only, itself never.
#[test]
fn recursive_and_linear_tables_are_refused() {
    let two = two();
    for level in [Level::L2, Level::L3, Level::L4] {
        for below in Level::ALL.into_iter().filter(|&other| Some(other) != level.below()) {
            let entry = ro(two.a.table(below));
            two.refuse(two.a.table(level), 9, entry, "the frame is a page table of another level");
        }
    }
    let world = &two.world;
    let own = world.page(A);
    world.poke(own, 3, ro(own));
    for level in [Level::L2, Level::L3, Level::L4] {
        assert_eq!(why(world.pin(A, own, level)), "the frame is a page table of another level");
        two.check_after_leftovers();
    }
    world.pin(A, own, Level::L1).unwrap(); // an L1 table that maps itself read-only is just a page mapped
    two.check();
    two.end();
}

impl Two {
    fn check_after_leftovers(&self) {
        done(self.world.mmu.drain(A, &mut Budget::unlimited())).unwrap();
        self.check();
    }
}

#[test]
fn a_writable_frame_becomes_no_table_by_any_path() {
    let two = two();
    let page = two.a.pages[0];
    let reason = "the frame is mapped writable somewhere";
    for level in Level::ALL {
        assert_eq!(why(two.world.pin(A, page, level)), reason);
    }
    for level in [Level::L2, Level::L3, Level::L4] {
        two.refuse(two.a.table(level), 9, rw(page), reason);
    }
    let mut roots = Roots::default();
    assert_eq!(why(two.world.base(A, &mut roots, page)), reason);
    assert_eq!(why(two.world.mmu.hold_descriptors(A, page)), reason);
    let shared = two.world.mmu.allocate_shared(A).unwrap();
    assert_eq!(why(two.world.pin(A, shared, Level::L1)), reason);
    let outer = two.world.draft(A, &[(0, rw(page))]);
    assert_eq!(why(two.world.pin(A, outer, Level::L2)), reason, "nor as a part of a new tree");
    two.check_after_leftovers();
    two.end();
}

/// A table that maps itself, or its own upper tables, writable is caught while it is validated.
#[test]
fn a_new_tree_does_not_map_itself_writable() {
    let two = two();
    let tree = two.world.tree(A, 1);
    for level in Level::ALL {
        two.world.poke(tree.l1, 5, rw(tree.table(level)));
        let refused = why(two.world.pin(A, tree.l4, Level::L4));
        assert_eq!(refused, "a page table cannot be writable", "{level:?}");
        two.check_after_leftovers();
        assert!(
            Level::ALL
                .into_iter()
                .all(|level| { two.world.mmu.frames().word(tree.table(level)).kind == FrameType::None })
        );
    }
    two.end();
}

#[test]
fn flags_that_are_not_offered_are_refused() {
    let two = two();
    for table in [two.a.l2, two.a.l3] {
        two.refuse(table, 9, Pte(rw(two.a.pages[0]).0 | 0x80), "large pages are not offered");
    }
    two.refuse(two.a.l4, 9, Pte(rw(two.a.l3).0 | 0x80), "a reserved bit is set");
    let keyed = Pte(rw(two.a.pages[0]).0 | 1 << 60);
    two.refuse(two.a.l1, 9, keyed, "protection keys are not offered");
    two.end();
}

#[test]
fn the_hypervisors_slots_are_not_the_guests() {
    let two = two();
    for slot in 256..272 {
        for entry in [Pte(0), ro(two.a.l3), ro(Mfn(1))] {
            two.refuse(two.a.l4, slot, entry, "the root table's slot is the hypervisor's");
        }
    }
    for slot in [255, 272, 511] {
        two.world.set(A, two.a.l4, slot, ro(two.a.l3)).unwrap();
    }
    two.end();
}

#[test]
fn an_update_reaches_the_callers_own_frames_only() {
    let two = two();
    let world = &two.world;
    let reason = "the frame belongs to another domain";
    two.refuse(two.b.l1, 0, Pte(0), reason);
    two.refuse(two.b.pages[0], 0, Pte(1), reason);
    two.refuse(Mfn(1), 0, Pte(1), "the frame is the hypervisor's");
    let machphys = two.b.pages[0].address() | MmuUpdateKind::MACHPHYS_UPDATE.0;
    assert_eq!(why(world.update(A, machphys, 1)), reason);
    assert_eq!(why(world.update(A, !7, 1)), "the machine has no such frame");
    let crooked = two.a.l1.address() + 4;
    assert_eq!(why(world.update(A, crooked, 0)), "the address of an entry is not a multiple of 8");
    two.end();
}

#[test]
fn addresses_without_a_table_cannot_be_remapped() {
    let two = two();
    let bad =
        [1 << 21, 1 << 30, 1 << 39, 0xffff_8000_0000_0000, 0xffff_87ff_ffff_f000, 1 << 47, u64::MAX >> 1];
    for address in bad {
        let outcome = two
            .world
            .batch(A, |mmu, batch| done(mmu.update_va_mapping(two.a.l4, address, ro(two.a.pages[0]), batch)));
        assert_eq!(why(outcome), "no page table maps the address", "{address:#x}");
    }
    for root in [two.b.l4, two.a.l3, two.a.pages[0], Mfn(1), Mfn(u64::MAX)] {
        let outcome =
            two.world.batch(A, |mmu, batch| done(mmu.update_va_mapping(root, address(0), Pte(0), batch)));
        assert_eq!(why(outcome), "no page table maps the address", "{root}");
    }
    two.end();
}

#[test]
fn pins_and_roots_are_checked() {
    let two = two();
    let world = &two.world;
    world.pin(A, two.a.l4, Level::L4).unwrap();
    assert_eq!(why(world.pin(A, two.a.l4, Level::L4)), "the table is pinned already");
    assert_eq!(why(world.pin(A, two.a.l3, Level::L2)), "the frame is a page table of another level");
    assert_eq!(why(world.pin(A, two.b.l4, Level::L4)), "the frame belongs to another domain");
    assert_eq!(why(world.unpin(A, two.b.l4)), "the frame belongs to another domain");
    assert_eq!(why(world.unpin(A, two.a.l3)), "the table is not pinned");
    assert_eq!(why(world.unpin(A, two.a.pages[0])), "the table is not pinned");
    let mut roots = Roots::default();
    assert_eq!(why(world.base(A, &mut roots, two.a.l3)), "the frame is a page table of another level");
    assert_eq!(why(world.base(A, &mut roots, two.b.l4)), "the frame belongs to another domain");
    assert_eq!(why(world.base(A, &mut roots, Mfn(1))), "the frame is the hypervisor's");
    assert_eq!(roots, Roots::default());
    two.end();
}

#[test]
fn descriptor_frames_are_tables_of_their_own_kind() {
    let two = two();
    let world = &two.world;
    let frame = world.draft(A, &[(1, Pte(0x00af_9a00_0000_ffff))]);
    let held = world.mmu.hold_descriptors(A, frame).unwrap();
    let fixed = world.machine.memory.load_u64(frame, 8).unwrap();
    assert_eq!(fixed, 0x00af_fb00_0000_ffff);
    let roots = || two.roots.iter().flat_map(Roots::held);
    let all: Vec<_> = roots().chain([(frame, held.kind())]).collect();
    assert_eq!(held.kind(), ReferenceKind::Typed(FrameType::Descriptors));
    assert_eq!(why(world.set(A, two.a.l1, 9, rw(frame))), "a descriptor table cannot be writable");
    assert_eq!(why(world.set(A, frame, 1, Pte(0))), "descriptors are changed by update_descriptor");
    assert_eq!(why(world.pin(A, frame, Level::L1)), "the frame is in use as another type");
    let gate = 0x0000_ee00_0000_0000;
    let place = frame.address() + 16;
    let reason = "gates and system segments are the hypervisor's";
    assert_eq!(why(world.mmu.update_descriptor(A, place, gate)), reason);
    assert!(world.mmu.update_descriptor(A, place, fixed).unwrap(), "the vCPUs must load it");
    let foreign = world.mmu.update_descriptor(B, place, fixed);
    assert_eq!(why(foreign), "the frame belongs to another domain");
    world.check_with(&all);
    world.mmu.release(held);

    let bad = world.draft(A, &[(511, Pte(gate))]);
    assert_eq!(why(world.mmu.hold_descriptors(A, bad)), reason);
    assert!(!world.mmu.update_descriptor(A, bad.address(), 0).unwrap(), "an ordinary page");
    assert_eq!(why(world.mmu.update_descriptor(A, two.a.l1.address(), 0)), "a page table cannot be writable");
    two.end();
}

/// XSA class "ownership transfer": a frame leaves when the last use is gone, whoever gave it back when.
#[test]
fn a_frame_given_back_while_in_use_goes_with_its_last_use() {
    let two = two();
    let world = &two.world;
    let (page, table) = (two.a.pages[1], two.a.l1);
    world.mmu.deallocate(A, page).unwrap();
    world.mmu.deallocate(A, table).unwrap();
    assert_eq!(world.mmu.deallocate(A, page).unwrap_err().why, "the frame was given back before");
    assert_eq!(world.mmu.deallocate(B, page).unwrap_err().errno, Errno::EPERM);
    two.check();
    world.set(A, table, 1, Pte(0)).unwrap();
    assert_eq!(world.mmu.owner(page), None);
    world.set(A, two.a.l2, 0, Pte(0)).unwrap();
    assert_eq!(world.mmu.owner(table), None);
    two.end();
}

#[test]
fn a_dying_domain_gets_nothing_new() {
    let two = two();
    let progress = two.world.mmu.release_domain(A, &mut Budget::new(1)).unwrap();
    assert_eq!(progress, crate::paging::Progress::Preempted);
    assert_eq!(two.world.mmu.allocate(A).unwrap_err().why, "the domain is dying");
    assert_eq!(why(two.world.pin(A, two.a.l4, Level::L4)), "the domain is dying");
    assert_eq!(why(two.world.set(A, two.a.l1, 9, Pte(0))), "the domain is dying");
    two.end();
}

#[test]
fn one_batch_may_unmap_a_frame_and_make_it_a_table() {
    let two = two();
    let page = two.a.pages[2];
    two.world
        .batch(A, |mmu, batch| {
            let update = |table: Mfn, index: u64, entry: Pte| pv_abi::mmu::MmuUpdate {
                ptr: table.address() + index * 8,
                val: entry.0,
            };
            done(mmu.mmu_update(update(two.a.l1, 2, Pte(0)), batch))?;
            done(mmu.mmu_update(update(two.a.l2, 3, rw(page)), batch))?;
            done(mmu.mmu_update(update(two.a.l1, 3, ro(page)), batch))
        })
        .unwrap();
    assert_eq!(two.world.mmu.frames().word(page).kind, FrameType::Table(Level::L1));
    two.end();
}

/// What a batch knows of a table holds while it holds the table: settled, and the table gone, it is a page like others.
#[test]
fn one_batch_may_take_a_table_apart_and_write_the_page_that_it_was() {
    let two = two();
    let (world, tree) = (&two.world, &two.a);
    let other = world.draft(A, &[]);
    world.set(A, tree.l2, 5, rw(other)).unwrap();
    let written = Pte(rw(two.b.pages[0]).0);
    world
        .batch(A, |mmu, batch| {
            let mut update = |table: Mfn, index: u64, entry: Pte| {
                let ptr = table.address() + index * 8;
                done(mmu.mmu_update(pv_abi::mmu::MmuUpdate { ptr, val: entry.0 }, batch))
            };
            update(tree.l2, 0, Pte(0))?;
            update(tree.l1, 1, Pte(0))?;
            update(other, 0, rw(tree.l1))?; // refused before the two are settled
            update(tree.l1, 2, written)
        })
        .unwrap();
    assert_eq!(world.machine.memory.entry(tree.l1, 2).unwrap(), written, "data, whatever it looks like");
    assert_eq!(world.mmu.frames().word(tree.l1).kind, FrameType::Writable);
    assert_eq!(world.mmu.frames().word(tree.pages[2]).uses, 0);
    two.end();
}

/// Two vCPUs: one changed an entry and has not settled it when the other drops the whole table.
#[test]
fn a_table_with_an_unsettled_change_stays_one() {
    let two = two();
    let (world, tree) = (&two.world, &two.a);
    let mut batch = Batch::new(A, Budget::unlimited());
    done(world.mmu.update_va_mapping(tree.l4, address(0), Pte(0), &mut batch)).unwrap();
    world.set(A, tree.l2, 0, Pte(0)).unwrap();
    assert_eq!(world.mmu.frames().word(tree.l1).kind, FrameType::Table(Level::L1));
    assert_eq!(world.mmu.frames().word(tree.pages[0]).kind, FrameType::Writable, "nor does the page go");
    world.mmu.finish(batch).unwrap();
    assert_eq!(world.mmu.frames().word(tree.l1).kind, FrameType::None);
    assert_eq!(world.mmu.frames().word(tree.pages[0]).kind, FrameType::None);
    two.end();
}

#[test]
fn refusals_are_counted() {
    let two = two();
    let before = two.world.mmu.counters();
    two.refuse(two.a.l1, 9, rw(two.a.l1), "a page table cannot be writable");
    let after = two.world.mmu.counters();
    assert_eq!(after.refusals, before.refusals + 1);
    assert_eq!(after.entries_updated, before.entries_updated);
    two.end();
}
