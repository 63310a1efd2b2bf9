//! A domain's life without incident.

use super::world::{A, RO, World, address, kind, ro, rw};
use crate::frame::FrameType;
use crate::machine::Root;
use crate::machine::fake::{Fault, Kind};
use crate::paging::Roots;
use pv_abi::mmu::MmuUpdateKind;
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{Mfn, Pfn};

#[test]
fn a_tree_is_pinned_used_and_taken_apart() {
    for fake in [Kind::Hardware, Kind::Shadow] {
        let world = World::of_kind(fake);
        let before = world.mmu.frames().conservation();
        let tree = world.tree(A, 3);
        world.pin(A, tree.l4, Level::L4).unwrap();
        let mut roots = world.start(&tree);
        world.check(&[&roots]);
        assert_eq!(kind(&world, tree.l2), FrameType::Table(Level::L2));
        assert_eq!(world.access(tree.l4, address(1), true), Ok(tree.pages[1]));
        assert_eq!(world.access(tree.l4, address(3), false), Err(Fault::NotPresent));

        world.unpin(A, tree.l4).unwrap();
        assert_eq!(kind(&world, tree.l1), FrameType::Table(Level::L1), "the vCPU keeps its tree");
        world.mmu.release_roots(A, &mut roots);
        world.set(A, tree.pages[0], 0, Pte(0)).unwrap(); // any operation goes on with what is left over
        assert_eq!(kind(&world, tree.l1), FrameType::None);
        world.check(&[]);
        world.end(A, &mut roots);
        assert_eq!(world.mmu.frames().conservation(), before);
    }
}

#[test]
fn the_root_carries_the_hypervisors_slots_while_it_is_one() {
    let world = World::new();
    let tree = world.tree(A, 1);
    world.poke(tree.l4, 257, rw(tree.pages[0])); // whatever the guest put there
    let mut roots = world.start(&tree);
    let slot = |index| world.machine.memory.entry(tree.l4, index).unwrap();
    assert_eq!((256..272).map(slot).collect::<Vec<_>>(), world.machine.layout.slots);
    assert_eq!(world.access(tree.l4, 0xffff_8080_0000_0000, false), Err(Fault::NotPresent));
    world.check(&[&roots]);
    world.mmu.release_roots(A, &mut roots);
    world.set(A, tree.pages[0], 0, Pte(0)).unwrap();
    assert!((256..272).all(|index| slot(index) == Pte(0)));
    world.end(A, &mut roots);
}

#[test]
fn entries_read_back_as_the_machine_uses_them() {
    let world = World::new();
    let tree = world.tree(A, 2);
    let mut roots = world.start(&tree);
    let read = |index| world.machine.memory.entry(tree.l1, index).unwrap();
    assert_eq!(read(0), Pte(rw(tree.pages[0]).0 | 4), "the user bit is added by validation");
    let odd = PteFlags::WRITE_THROUGH | PteFlags::GLOBAL | PteFlags::AVAIL1 | PteFlags::NO_EXECUTE;
    world.set(A, tree.l1, 5, Pte::new(tree.pages[1], RO | odd)).unwrap();
    let kept = RO | PteFlags::USER | PteFlags::AVAIL1 | PteFlags::NO_EXECUTE;
    assert_eq!(read(5), Pte::new(tree.pages[1], kept), "and by updates");
    world.set(A, tree.l1, 5, Pte(0xdead_0000_0000_0002)).unwrap();
    assert_eq!(read(5).0, 0xdead_0000_0000_0002, "what is not present is the guest's");
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

#[test]
fn preserving_keeps_accessed_and_dirty_and_a_plain_update_does_not() {
    let world = World::new();
    let tree = world.tree(A, 1);
    let mut roots = world.start(&tree);
    world.access(tree.l4, address(0), true).unwrap();
    let bits = || world.machine.memory.entry(tree.l1, 0).unwrap().flags() & PteFlags::ACCESSED;
    let kind = MmuUpdateKind::PT_UPDATE_PRESERVE_AD;
    world.update_kind(A, (tree.l1, 0), kind, ro(tree.pages[0])).unwrap();
    assert_eq!(bits(), PteFlags::ACCESSED);
    let settled = || world.machine.translations.work().0;
    let before = settled();
    let with_software_bit = Pte(ro(tree.pages[0]).0 | PteFlags::AVAIL1.bits());
    world.update_kind(A, (tree.l1, 0), kind, with_software_bit).unwrap();
    assert_eq!((bits(), settled()), (PteFlags::ACCESSED, before), "it allows what it allowed");
    world.check(&[&roots]);
    world.set(A, tree.l1, 0, ro(tree.pages[0])).unwrap();
    assert_eq!(bits(), PteFlags::empty());
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

/// XSA-148, XSA-402: an update that changes nothing worth a check gets in no flag that a checked one does not.
#[test]
fn the_fast_path_stores_what_was_admitted() {
    let world = World::new();
    let tree = world.tree(A, 1);
    let mut roots = world.start(&tree);
    let admitted = Pte::new(tree.pages[0], RO | PteFlags::WRITABLE | PteFlags::USER | PteFlags::AVAIL0);
    let refused = PteFlags::WRITE_THROUGH | PteFlags::CACHE_DISABLE | PteFlags::GLOBAL;
    let asked = Pte(admitted.0 & !PteFlags::USER.bits() | (refused | PteFlags::PAGE_SIZE_OR_PAT).bits());
    world.set(A, tree.l1, 0, asked).unwrap();
    assert_eq!(world.machine.memory.entry(tree.l1, 0).unwrap(), admitted);
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

#[test]
fn the_m2p_says_what_the_owner_says_and_nothing_for_a_free_frame() {
    let world = World::new();
    let page = world.page(A);
    assert_eq!(world.mmu.pfn(page), Pfn::INVALID);
    world.update(A, page.address() | MmuUpdateKind::MACHPHYS_UPDATE.0, 77).unwrap();
    assert_eq!(world.mmu.pfn(page), Pfn(77));
    world.mmu.deallocate(A, page).unwrap();
    assert_eq!(world.mmu.pfn(page), Pfn::INVALID);
    assert_eq!(world.mmu.pfn(Mfn(u64::MAX)), Pfn::INVALID);
    world.end(A, &mut Roots::default());
}

#[test]
fn a_page_that_is_no_table_is_written_as_it_is() {
    let world = World::new();
    let page = world.page(A);
    world.set(A, page, 9, Pte(0x81)).unwrap();
    assert_eq!(world.machine.memory.entry(page, 9).unwrap(), Pte(0x81));
    world.end(A, &mut Roots::default());
}

#[test]
fn a_kernel_root_and_a_user_root_share_tables() {
    let world = World::new();
    let tree = world.tree(A, 2);
    let mut roots = world.start(&tree);
    let user = world.draft(A, &[(0, rw(tree.l3))]);
    let budget = &mut crate::paging::Budget::unlimited();
    assert!(world.mmu.new_user_baseptr(A, &mut roots, Some(user), budget).is_ok());
    assert_eq!((roots.kernel().map(Root::mfn), roots.user().map(Root::mfn)), (Some(tree.l4), Some(user)));
    world.check(&[&roots]);
    assert!(world.mmu.new_user_baseptr(A, &mut roots, None, budget).is_ok());
    assert_eq!(kind(&world, user), FrameType::None);
    world.check(&[&roots]);
    world.end(A, &mut roots);
}
