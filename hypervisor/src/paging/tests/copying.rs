//! Accesses of the hypervisor at guest addresses.

use super::world::{A, B, Tree, World, address, ro, rw, why};
use crate::paging::{BadAddress, Roots};
use crate::testing::at_each_look;
use pv_abi::Mfn;
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{Level, Pte, PteFlags};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

fn world() -> (World, Tree, Roots) {
    let world = World::new();
    let tree = world.tree(A, 3);
    let roots = world.start(&tree);
    (world, tree, roots)
}

#[test]
fn bytes_cross_pages_and_values_come_back() {
    let (world, tree, mut roots) = world();
    let bytes: Vec<u8> = (0..9000_u32).map(|n| n as u8).collect();
    world.mmu.copy_to_guest(A, tree.l4, 3, &bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    world.mmu.copy_from_guest(A, tree.l4, 3, &mut back).unwrap();
    assert_eq!(back, bytes);
    let update = MmuUpdate { ptr: 1, val: 2 };
    world.mmu.write_element(A, tree.l4, 4088, 1, &update).unwrap();
    assert_eq!(world.mmu.read_element::<MmuUpdate>(A, tree.l4, 4088, 1), Ok(update));
    assert_eq!(world.mmu.read::<u64>(A, tree.l4, 4104), Ok(1));
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

#[test]
fn addresses_that_lead_nowhere_are_refused() {
    let (world, tree, mut roots) = world();
    let mut byte = [0];
    // As on a real machine, CPL3 can read something where the M2P is; that is no guest memory for all that.
    let m2p = world.machine.layout.slots[2].mfn();
    world.poke(m2p, 0, Pte::new(m2p, PteFlags::PRESENT | PteFlags::USER));
    assert!(world.access(tree.l4, 0xffff_8100_0000_0000, false).is_ok());
    world.mmu.flush().unwrap();
    let bad = [
        address(3),            // no entry
        1 << 21,               // no L1 table
        1 << 39,               // no L3 table
        1 << 47,               // not canonical
        0xffff_8000_0000_0000, // the M2P's fixed address
        0xffff_8080_0000_0000, // the hypervisor's own tables
        0xffff_8100_0000_0000, // the M2P
        0xffff_87ff_ffff_ffff, // the end of the hypervisor's range
        0xffff_7fff_ffff_ffff, // not canonical
        u64::MAX,              // nothing there
    ];
    for address in bad {
        assert_eq!(world.mmu.copy_from_guest(A, tree.l4, address, &mut byte), Err(BadAddress(address)));
        assert_eq!(world.mmu.copy_to_guest(A, tree.l4, address, &byte), Err(BadAddress(address)));
    }
    assert_eq!(world.mmu.copy_from_guest(A, tree.l4, address(3), &mut []), Ok(()), "nothing is anywhere");
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

#[test]
fn a_copy_stops_at_the_first_bad_page_and_never_wraps() {
    let (world, tree, mut roots) = world();
    let last = address(3) - 2;
    assert_eq!(world.mmu.copy_to_guest(A, tree.l4, last, b"four"), Err(BadAddress(address(3))));
    assert_eq!(world.mmu.read::<[u8; 2]>(A, tree.l4, last), Ok(*b"fo"));
    // The last page of the address space.
    world.set(A, tree.l4, 511, rw(tree.l3)).unwrap();
    world.set(A, tree.l3, 511, rw(tree.l2)).unwrap();
    world.set(A, tree.l2, 511, rw(tree.l1)).unwrap();
    world.set(A, tree.l1, 511, rw(tree.pages[0])).unwrap();
    assert!(world.mmu.copy_to_guest(A, tree.l4, u64::MAX - 3, b"last").is_ok());
    assert_eq!(world.mmu.copy_to_guest(A, tree.l4, u64::MAX - 3, b"beyond"), Err(BadAddress(0)));
    assert!(world.mmu.read_element::<u64>(A, tree.l4, 8, u64::MAX / 8).is_err());
    assert!(world.mmu.read_element::<u64>(A, tree.l4, 8, u64::MAX).is_err());
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

#[test]
fn writing_needs_the_write_bit_on_every_level() {
    let (world, tree, mut roots) = world();
    let path = [(tree.l4, tree.l3), (tree.l3, tree.l2), (tree.l2, tree.l1), (tree.l1, tree.pages[0])];
    for (table, below) in path {
        world.set(A, table, 0, ro(below)).unwrap();
        assert!(world.mmu.copy_to_guest(A, tree.l4, 0, &[1]).is_err(), "{table}");
        assert!(world.mmu.copy_from_guest(A, tree.l4, 0, &mut [0]).is_ok(), "{table}");
        world.set(A, table, 0, rw(below)).unwrap();
        assert!(world.mmu.copy_to_guest(A, tree.l4, 0, &[1]).is_ok(), "{table}");
    }
    world.set(A, tree.l1, 9, ro(tree.l4)).unwrap();
    assert!(world.mmu.copy_from_guest(A, tree.l4, address(9), &mut [0; 64]).is_ok());
    assert!(world.mmu.copy_to_guest(A, tree.l4, address(9), &[0; 64]).is_err(), "a table");
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

#[test]
fn accesses_set_the_bits_that_a_cpu_would() {
    let (world, tree, mut roots) = world();
    let flags = || world.machine.memory.entry(tree.l1, 0).unwrap().flags();
    assert!(!flags().intersects(PteFlags::ACCESSED | PteFlags::DIRTY));
    world.mmu.copy_from_guest(A, tree.l4, 0, &mut [0]).unwrap();
    assert!(flags().contains(PteFlags::ACCESSED) && !flags().contains(PteFlags::DIRTY));
    world.mmu.copy_to_guest(A, tree.l4, 0, &[0]).unwrap();
    assert!(flags().contains(PteFlags::DIRTY));
    world.end(A, &mut roots);
}

#[test]
fn only_a_root_of_the_domains_own_is_walked() {
    let (world, tree, mut roots) = world();
    for root in [tree.l3, tree.pages[0], Mfn(1), Mfn(u64::MAX)] {
        assert!(world.mmu.copy_from_guest(A, root, 0, &mut [0]).is_err());
    }
    assert!(world.mmu.copy_from_guest(B, tree.l4, 0, &mut [0]).is_err());
    assert!(world.mmu.translate(B, tree.l4, 0).is_err());
    let mapping = world.mmu.translate(A, tree.l4, address(1) + 5).unwrap();
    assert_eq!((mapping.table, mapping.index, mapping.entry.mfn()), (tree.l1, 1, tree.pages[1]));
    assert!(mapping.writable);
    world.end(A, &mut roots);
}

/// While somebody writes a page, it becomes no table, although nothing maps it any more.
#[test]
fn a_page_that_is_being_written_becomes_no_table() {
    let (world, tree, mut roots) = world();
    let page = tree.pages[0];
    let held = world.mmu.hold(A, page, true).unwrap();
    world.set(A, tree.l1, 0, Pte(0)).unwrap();
    assert_eq!(why(world.pin(A, page, Level::L1)), "the frame is mapped writable somewhere");
    world.check_with(&roots.held().chain([(page, held.kind())]).collect::<Vec<_>>());
    world.mmu.release(held);
    world.pin(A, page, Level::L1).unwrap();
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

/// XSA class "freed before the last mapping is gone": whoever writes a page has a writable reference to it, which goes
/// back when the access is over.
#[test]
fn a_page_is_written_before_it_is_let_go() {
    let (world, tree, mut roots) = world();
    let (mmu, page) = (Arc::clone(&world.mmu), tree.pages[0]);
    let seen = Rc::new(Cell::new((0, 0)));
    let at_last = Rc::clone(&seen);
    at_each_look(Rc::new(move || {
        at_last.set((mmu.memory().load_u64(page, 0).unwrap(), mmu.frames().word(page).uses));
    }));
    world.mmu.copy_to_guest(A, tree.l4, 0, &7_u64.to_le_bytes()).unwrap();
    let uses = world.mmu.frames().word(page).uses;
    assert_eq!(seen.get(), (7, uses + 1), "when the reference went back");
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

/// One thread writes a page by its address all the time, another makes it a table and back. No write ever lands in
/// the table, and every page is where it was in the end.
#[test]
fn a_write_never_lands_in_a_table() {
    let (world, tree, mut roots) = world();
    let page = tree.pages[0];
    let rounds = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2_000_000 {
                if rounds.load(Ordering::Relaxed) == 300 {
                    break;
                }
                let _ = world.mmu.copy_to_guest(A, tree.l4, 0, &u64::MAX.to_le_bytes());
            }
        });
        for _ in 0..300 {
            world.set(A, tree.l1, 0, Pte(0)).unwrap();
            // Whoever writes still holds the page for a moment.
            let becomes_table = || world.set(A, page, 0, Pte(0)).and_then(|()| world.pin(A, page, Level::L1));
            assert!((0..1_000_000).any(|_| becomes_table().is_ok()), "the page is never let go");
            assert_eq!(world.machine.memory.entry(page, 0).unwrap(), Pte(0));
            world.unpin(A, page).unwrap();
            world.set(A, tree.l1, 0, rw(page)).unwrap();
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    });
    world.check(&[&roots]);
    world.end(A, &mut roots);
}
