//! What a granted page is good for, and when it no longer is.

use super::pair::{ARGUMENTS, Pair, WINDOW};
use crate::domain::End;
use crate::domain::grants::{MAX_FRAMES, Parts};
use crate::grant::Unmapping;
use crate::machine::fake::Sabotage;
use crate::paging::{Batch, Budget, Progress};
use crate::testing::page;
use pv_abi::grant_table::{GrantEntry, GrantStatus, MapFlags};
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{Errno, Mfn};

const ERROR: GrantStatus = GrantStatus::GENERAL_ERROR;
const READING: u16 = GrantEntry::READING;
const WRITING: u16 = GrantEntry::WRITING;
const PERMIT: u16 = GrantEntry::PERMIT_ACCESS;

#[test]
fn a_granted_page_is_mapped_marked_and_unmapped() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    assert_eq!(pair.flags(reference), PERMIT | READING | WRITING);
    assert_eq!(pair.reach(WINDOW, true), Some(pair.lent(0)));
    let flags = pair.entry(WINDOW).flags();
    assert!(flags.contains(PteFlags::WRITABLE | PteFlags::USER | PteFlags::NO_EXECUTE));
    pair.audit();
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
    assert_eq!((pair.flags(reference), pair.references(0)), (PERMIT, 0));
    assert_eq!((pair.reach(WINDOW, false), pair.entry(WINDOW).0), (None, 0));
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::BAD_HANDLE, "it is gone");
    pair.audit();
    pair.end();
}

#[test]
fn a_page_mapped_for_reading_cannot_be_written() {
    let pair = Pair::new();
    let reference = pair.lend(0, GrantEntry::READ_ONLY);
    assert_eq!(pair.map(reference, 0, WINDOW), Err(GrantStatus::GENERAL_ERROR), "not for writing");
    assert_eq!(pair.flags(reference), PERMIT | GrantEntry::READ_ONLY, "and it is not marked");
    let handle = pair.map(reference, MapFlags::READ_ONLY, WINDOW).unwrap();
    assert_eq!(pair.flags(reference) & (READING | WRITING), READING);
    assert_eq!((pair.reach(WINDOW, false), pair.reach(WINDOW, true)), (Some(pair.lent(0)), None));
    // Nor can the borrower change that by itself.
    let writable = pair.entry(WINDOW).0 | PteFlags::WRITABLE.bits();
    assert_eq!(pair.set_entry(WINDOW, Pte(writable)), Err(Errno::EPERM));
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
    pair.end();
}

/// The marks say what is in use, whichever mapping goes first.
#[test]
fn marks_last_as_long_as_the_mappings_that_they_stand_for() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let reader = pair.map(reference, MapFlags::READ_ONLY, WINDOW).unwrap();
    let writer = pair.map(reference, 0, WINDOW + 4096).unwrap();
    let other = pair.map(reference, 0, WINDOW + 8192).unwrap();
    assert_eq!(pair.references(0), 3);
    assert_eq!(pair.unmap(writer, WINDOW + 4096), GrantStatus::OKAY);
    assert_eq!(pair.flags(reference), PERMIT | READING | WRITING);
    assert_eq!(pair.unmap(other, WINDOW + 8192), GrantStatus::OKAY);
    assert_eq!(pair.flags(reference), PERMIT | READING);
    assert_eq!(pair.unmap(reader, WINDOW), GrantStatus::OKAY);
    assert_eq!((pair.flags(reference), pair.references(0)), (PERMIT, 0));
    pair.end();
}

/// XSA class "freed before the last mapping is gone": at the moment when the granter may see that its page is free, no
/// pcpu reaches it.
#[test]
fn a_revocation_is_complete_when_it_returns() {
    let pair = Pair::new();
    for _ in 0..3 {
        let reference = pair.lend(0, 0);
        let handle = pair.map(reference, 0, WINDOW).unwrap();
        assert!(pair.reach(WINDOW, true).is_some(), "it is in the pcpu's TLB now");
        assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
        assert_eq!(pair.reach(WINDOW, false), None);
        assert_eq!(pair.references(0), 0);
    }
    pair.end();
}

/// Whose budget is used up leaves work over; but nothing that is in the way of a lender who sees its page free.
#[test]
fn a_page_that_is_free_is_its_lenders_own() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    let (mmu, borrower) = (&pair.world.services.mmu, &pair.borrower.domain);
    let mut unmapping = Unmapping::new(borrower.id(), Budget::new(0));
    let parts = Parts::Named { host_addr: WINDOW, dev_bus_addr: 0 };
    unmapping.unmap(mmu, borrower, (handle, parts), None).unwrap();
    unmapping.finish(mmu, borrower).unwrap();
    assert_eq!((pair.flags(reference), pair.references(0)), (PERMIT, 0));
    pair.end();
}

/// Another vCPU takes the entry away, or puts another in its place, and has not settled that when the mapping ends: the
/// lender sees its page free once no pcpu reaches it, and not before.
#[test]
fn a_mapping_ends_for_all_pcpus_whoever_took_its_entry_away() {
    let pair = Pair::new();
    let (mmu, borrower) = (&pair.world.services.mmu, pair.borrower.domain.id());
    let own = Pte::new(pair.borrower.pages[6], PteFlags::PRESENT | PteFlags::USER);
    for (entry, is_lost) in [(Pte(0), false), (own, false), (Pte(0), true)] {
        let reference = pair.lend(0, 0);
        let handle = pair.map(reference, 0, WINDOW).unwrap();
        assert_eq!(pair.reach(WINDOW, true), Some(pair.lent(0)), "it is in the pcpu's TLB now");
        let mut others = Batch::new(borrower, Budget::unlimited());
        let ptr = pair.borrower.l1.address() + Level::L1.index(WINDOW) as u64 * 8;
        assert_eq!(mmu.mmu_update(MmuUpdate { ptr, val: entry.0 }, &mut others).unwrap(), Progress::Done);
        if is_lost {
            pair.world.machine.translations.sabotage(Sabotage::Broken);
            mmu.finish(others).unwrap_err();
            pair.world.machine.translations.sabotage(Sabotage::None);
            // One that had begun.
            let mut unmapping = Unmapping::new(borrower, Budget::unlimited());
            let parts = Parts::Named { host_addr: WINDOW, dev_bus_addr: 0 };
            let unmapped = unmapping.unmap(mmu, &pair.borrower.domain, (handle, parts), None);
            assert!(unmapped.is_err() || unmapping.finish(mmu, &pair.borrower.domain).is_err());
            assert_eq!(pair.flags(reference), PERMIT | READING | WRITING);
            return;
        }
        assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
        assert_eq!(pair.flags(reference), PERMIT);
        assert_ne!(pair.reach(WINDOW, true), Some(pair.lent(0)));
        assert_ne!(pair.reach(WINDOW, false), Some(pair.lent(0)));
        mmu.finish(others).unwrap();
        assert_eq!(pair.references(0), 0);
        pair.set_entry(WINDOW, Pte(0)).unwrap();
        pair.audit();
    }
}

/// The same from the other side: where the change cannot be settled, the lender is told nothing.
#[test]
fn what_may_still_be_reached_stays_marked() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    pair.world.machine.translations.sabotage(Sabotage::Broken);
    pair.world.poke(&pair.borrower, ARGUMENTS, &pair.part(handle, (WINDOW, 0)));
    assert!(pair.world.outcome(&pair.borrower, 20, &[1, ARGUMENTS, 1]).is_err(), "the borrower is lost");
    assert_eq!(pair.flags(reference), PERMIT | READING | WRITING);
    assert_eq!((pair.references(0), pair.lender.domain.grants().lock().active().len()), (1, 1));
}

/// Nor when the borrower has died, whose tables nobody could take apart.
#[test]
fn what_a_lost_borrower_may_still_reach_stays_marked() {
    let mut pair = Pair::new();
    let reference = pair.lend(0, 0);
    pair.map(reference, 0, WINDOW).unwrap();
    pair.world.machine.translations.sabotage(Sabotage::Broken);
    let borrower = std::slice::from_ref(&pair.borrower);
    pair.world.destroy(borrower);
    pair.world.machine.translations.sabotage(Sabotage::None);
    assert!(pair.world.services.mmu.frames_of(pair.borrower.domain.id()) > 0, "it was not taken apart");
    assert_eq!(pair.flags(reference), PERMIT | READING | WRITING);
    assert_eq!((pair.references(0), pair.lender.domain.grants().lock().active().len()), (1, 1));
}

/// Two borrowers of one entry: the second must be the first.
#[test]
fn an_entry_in_use_is_its_users_alone() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    // The lender turns to itself meanwhile.
    let lender = pair.lender.domain.id();
    let frame = pair.lent(0).0 as u32;
    pair.write(reference, GrantEntry { flags: PERMIT, domid: lender.0, frame });
    let mut grants = pair.lender.domain.grants().lock();
    let pinned = grants.pin(
        &pair.world.services.mmu,
        lender,
        pv_abi::GrantRef(reference),
        lender,
        crate::grant::Access::ReadOnly,
    );
    drop(grants);
    assert_eq!(pinned.map(drop), Err(GrantStatus::GENERAL_ERROR));
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
    pair.end();
}

#[test]
fn an_entry_can_be_named_by_its_machine_address() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let index = Level::L1.index(WINDOW);
    let entry = pair.borrower.l1.address() + 8 * index as u64;
    let handle = pair.map(reference, MapFlags::CONTAINS_PTE, entry).unwrap();
    assert_eq!(pair.reach(WINDOW, true), Some(pair.lent(0)));
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::GENERAL_ERROR, "it was named otherwise");
    assert_eq!(
        pair.replace(handle, entry, page(12)),
        GrantStatus::GENERAL_ERROR,
        "not where it is an entry's"
    );
    assert_eq!(pair.unmap(handle, entry), GrantStatus::OKAY);
    for (bad, what) in [
        (entry + 4, "not a multiple of 8"),
        (pair.borrower.root.address(), "no L1 table"),
        (pair.lender.l1.address(), "another domain's"),
        (pair.lender.l1.address() + 8 * 400, "another domain's that is not present"),
        (pair.borrower.pages[3].address(), "no table"),
        (!7, "no frame"),
    ] {
        let refused = pair.map(reference, MapFlags::CONTAINS_PTE, bad);
        assert_eq!(refused, Err(GrantStatus::GENERAL_ERROR), "{what}");
        assert_eq!((pair.flags(reference), pair.references(0)), (PERMIT, 0), "{what}");
    }
    pair.end();
}

#[test]
fn bits_of_the_borrowers_own_reach_its_entry() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    pair.map(reference, 5 << MapFlags::GUEST_AVAIL_SHIFT, WINDOW).unwrap();
    let own = PteFlags::AVAIL0 | PteFlags::AVAIL1 | PteFlags::AVAIL2;
    assert_eq!(pair.entry(WINDOW).flags() & own, PteFlags::AVAIL0 | PteFlags::AVAIL2);
    pair.end();
}

#[test]
fn another_page_takes_the_place_in_the_same_step() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    let own = pair.reach(page(12), true);
    assert!(own.is_some() && pair.reach(WINDOW, true).is_some());
    assert_eq!(pair.replace(handle, WINDOW, page(12)), GrantStatus::OKAY);
    assert_eq!((pair.reach(WINDOW, true), pair.reach(page(12), false)), (own, None));
    assert_eq!((pair.flags(reference), pair.references(0)), (PERMIT, 0));
    pair.audit();
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    assert_eq!(pair.replace(handle, WINDOW, 0), GrantStatus::OKAY, "nothing takes the place");
    assert_eq!(pair.reach(WINDOW, false), None);
    pair.audit();
    pair.end();
}

#[test]
fn either_side_may_die() {
    // The borrower: what it had in use is marked as free, and the lender may do with its page what it likes.
    let mut pair = Pair::new();
    let reference = pair.lend(0, 0);
    pair.map(reference, 0, WINDOW).unwrap();
    pair.world.end(vec![pair.borrower]);
    let word = pair.world.services.mmu.frames().word(pair.lender.pages[super::pair::LENT]);
    assert_eq!((word.general, pair.lender.domain.grants().lock().active().len()), (2, 0));
    pair.world.check_end(vec![pair.lender]);

    // The lender: the page stays until the borrower lets go, and nobody gets the number before.
    let mut pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    let (mmu, lender, frame) = (pair.world.services.mmu.clone(), pair.lender.domain.clone(), pair.lent(0));
    lender.life().end(End::Destroyed);
    pair.world.services.scheduler.evict(lender.id());
    pair.world.turns(0, 4);
    crate::control::teardown::reap_once(&pair.world.services);
    assert_eq!((mmu.frames_of(lender.id()), mmu.owner(frame)), (1, Some(lender.id())));
    assert_eq!(pair.reach(WINDOW, true), Some(frame));
    assert_eq!(pair.map(reference, 0, page(9)), Err(GrantStatus::BAD_DOMAIN));
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
    assert_eq!((mmu.frames_of(lender.id()), mmu.owner(frame)), (0, None));
    pair.world.check_end(vec![pair.borrower]);
}

/// A number whose last owner's frames are still in use would make them the new owner's.
#[test]
fn a_number_is_not_used_again_while_frames_of_it_are_left() {
    let mut pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    let (lender, services) = (pair.lender.domain.id(), pair.world.services.clone());
    pair.lender.domain.life().end(End::Destroyed);
    services.scheduler.evict(lender);
    pair.world.turns(0, 4);
    crate::control::teardown::reap_once(&services);
    let next = || services.domains.next_id(|id| services.mmu.frames_of(id) == 0).unwrap();
    let all: Vec<_> = (0..u16::MAX / 2).map(|_| next()).collect();
    assert!(!all.contains(&lender));
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
    assert!((0..u16::MAX / 2).any(|_| next() == lender));
    pair.world.check_end(vec![pair.borrower]);
}

#[test]
fn the_whole_table_can_be_used() {
    let pair = Pair::new();
    let last = {
        let (mmu, mut grants) = (&pair.world.services.mmu, pair.lender.domain.grants().lock());
        grants.grow(mmu, pair.lender.domain.id(), MAX_FRAMES).unwrap();
        grants.frames()[MAX_FRAMES as usize - 1]
    };
    let entry = u64::from(PERMIT) | u64::from(pair.borrower.domain.id().0) << 16 | pair.lent(1).0 << 32;
    pair.world.machine.memory.store_u64(last, 511 * 8, entry).unwrap();
    let reference = MAX_FRAMES * 512 - 1;
    assert_eq!(pair.map(reference + 1, 0, WINDOW), Err(GrantStatus::BAD_GNTREF));
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    assert_eq!(pair.reach(WINDOW, false), Some(pair.lent(1)));
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
    assert_eq!(pair.world.machine.memory.load_u64(last, 511 * 8), Ok(entry));
    assert_ne!(last, Mfn(0));
    pair.end();
}

/// What is mapped for a device ends apart from what is mapped for the kernel, in either order. The entry is in use until
/// both have ended.
#[test]
fn the_part_of_a_device_ends_apart() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let marks = GrantEntry::PERMIT_ACCESS | GrantEntry::READING | GrantEntry::WRITING;
    let (bus, both) = (pair.lent(0).address(), MapFlags::DEVICE_MAP | MapFlags::HOST_MAP);
    let lender = pair.lender.domain.id();
    for device_first in [true, false] {
        let handle = pair.map_with(lender, reference, both, WINDOW).unwrap();
        assert_eq!(pair.unmap_part(handle, WINDOW, bus + 4096), ERROR, "another frame");
        assert_eq!(pair.unmap_part(handle, 0, bus + 8), ERROR);
        assert_eq!(pair.unmap_part(handle, WINDOW + 4096, bus), ERROR, "another place");
        assert_eq!(pair.reach(WINDOW, true), Some(pair.lent(0)), "nothing has ended");
        let [first, second] = match device_first {
            true => [(0, bus), (WINDOW, 0)],
            false => [(WINDOW, 0), (0, bus)],
        };
        assert_eq!(pair.unmap_part(handle, first.0, first.1), GrantStatus::OKAY);
        assert_eq!(pair.unmap_part(handle, first.0, first.1), ERROR, "once");
        assert_eq!(pair.flags(reference), marks);
        assert_eq!(pair.reach(WINDOW, true).is_some(), device_first);
        pair.audit();
        assert_eq!(pair.unmap_part(handle, second.0, second.1), GrantStatus::OKAY);
        assert_eq!((pair.flags(reference), pair.references(0)), (GrantEntry::PERMIT_ACCESS, 0));
        assert_eq!(pair.unmap_part(handle, second.0, second.1), GrantStatus::BAD_HANDLE);
    }
    // Both at once, and one that was never mapped for the kernel.
    let handle = pair.map_with(lender, reference, both, WINDOW).unwrap();
    assert_eq!(pair.unmap_part(handle, WINDOW, bus), GrantStatus::OKAY);
    assert_eq!(pair.flags(reference), GrantEntry::PERMIT_ACCESS);
    let handle = pair.map_with(lender, reference, MapFlags::DEVICE_MAP, WINDOW).unwrap();
    assert_eq!((pair.reach(WINDOW, false), pair.references(0), pair.flags(reference)), (None, 0, marks));
    assert_eq!(pair.unmap_part(handle, WINDOW, 0), ERROR);
    assert_eq!(pair.unmap_part(handle, 0, bus), GrantStatus::OKAY);
    assert_eq!(pair.flags(reference), GrantEntry::PERMIT_ACCESS);
    // One after the other in one call.
    for device_first in [true, false] {
        let handle = pair.map_with(lender, reference, both, WINDOW).unwrap();
        let mut parts = [(0, bus), (WINDOW, 0)];
        if !device_first {
            parts.reverse();
        }
        assert_eq!(pair.unmap_parts(handle, parts), [GrantStatus::OKAY; 2]);
        assert_eq!((pair.flags(reference), pair.references(0)), (GrantEntry::PERMIT_ACCESS, 0));
        assert_eq!(pair.reach(WINDOW, false), None);
    }
    let handle = pair.map_with(lender, reference, both, WINDOW).unwrap();
    assert_eq!(pair.unmap_parts(handle, [(0, bus), (0, bus)]), [GrantStatus::OKAY, ERROR]);
    assert_eq!((pair.flags(reference), pair.reach(WINDOW, true)), (marks, Some(pair.lent(0))));
    assert_eq!(pair.unmap_part(handle, WINDOW, 0), GrantStatus::OKAY);
    // What a dead borrower had for a device is given back with the rest.
    pair.map_with(lender, reference, both, WINDOW).unwrap();
    pair.audit();
    pair.end();
}
