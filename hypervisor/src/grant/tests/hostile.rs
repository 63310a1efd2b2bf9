//! What a lender and a borrower may try on each other.

use super::pair::{Pair, WINDOW};
use crate::domain::grants::MAX_MAPPINGS;
use crate::paging::{Budget, Progress};
use crate::testing::{BASE, at_each_look, page};
use pv_abi::grant_table::{GrantEntry, GrantHandle, GrantStatus, MapFlags, MapGrantRef};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp, MmuUpdate};
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{DomId, Errno, GrantRef, Mfn};
use std::rc::Rc;
use std::sync::Arc;

const ERROR: GrantStatus = GrantStatus::GENERAL_ERROR;
const TABLE: PteFlags = PteFlags::PRESENT.union(PteFlags::WRITABLE).union(PteFlags::USER);

/// XSA class "raw indices": each number that the borrower passes.
#[test]
fn what_is_not_lent_is_not_mapped() {
    let pair = Pair::new();
    let id = pair.lender.domain.id();
    let reference = pair.lend(0, 0);
    let host = MapFlags::HOST_MAP;
    let window = |dom, reference, flags| pair.map_with(dom, reference, flags, WINDOW);
    assert_eq!(window(DomId(id.0 + 9), reference, host), Err(GrantStatus::BAD_DOMAIN));
    assert_eq!(window(DomId::HOST, reference, host), Err(GrantStatus::GENERAL_ERROR), "it lends nothing");
    assert_eq!(window(DomId::SELF, reference, host), Err(GrantStatus::BAD_DOMAIN), "as on Xen");
    let own = pair.borrower.domain.id();
    assert_eq!(window(own, reference, host), Err(GrantStatus::BAD_GNTREF), "it has no table");
    assert_eq!(window(id, 512, host), Err(GrantStatus::BAD_GNTREF));
    assert_eq!(window(id, u32::MAX, host), Err(GrantStatus::BAD_GNTREF));
    assert_eq!(window(id, reference + 1, host), Err(ERROR), "an entry of zeros");
    assert_eq!(window(id, reference, 0), Err(GrantStatus::BAD_GNTREF));
    for address in [0x1234, BASE - 1, 0xffff_8000_0000_0000, 0xffff_8100_0000_0000, 1 << 47, u64::MAX] {
        assert_eq!(pair.map(reference, 0, address), Err(ERROR), "{address:#x}");
    }
    assert_eq!((pair.flags(reference), pair.references(0)), (GrantEntry::PERMIT_ACCESS, 0));
    pair.audit();
    pair.end();
}

#[test]
fn a_negative_count_is_refused_before_anything_is_done() {
    let pair = Pair::new();
    for op in [0, 1, 5, 7] {
        for count in [1 << 31, u64::from(u32::MAX)] {
            assert_eq!(pair.world.call(&pair.borrower, 20, &[op, page(1), count]), Err(Errno::EINVAL));
        }
    }
    pair.end();
}

#[test]
fn a_grant_for_one_domain_is_not_for_another() {
    let pair = Pair::new();
    let frame = pair.lent(0).0 as u32;
    for (flags, domid) in [(1, pair.lender.domain.id().0), (1, 0), (2, 2), (3, 2), (0, 2), (8, 2)] {
        pair.write(0, GrantEntry { flags, domid, frame });
        assert_eq!(pair.map(0, MapFlags::READ_ONLY, WINDOW), Err(ERROR), "{flags} to {domid}");
        assert_eq!(pair.flags(0), flags, "a refusal changes nothing");
    }
    pair.end();
}

/// What a lender names may not be its own, or be what nobody may write.
#[test]
fn nobody_lends_what_is_not_his() {
    let pair = Pair::new();
    let by = pair.borrower.domain.id().0;
    let mmu = &pair.world.services.mmu;
    for (frame, flags, status, what) in [
        (pair.borrower.pages[3], 0, GrantStatus::BAD_PAGE, "the borrower's own"),
        (Mfn(3), MapFlags::READ_ONLY, GrantStatus::BAD_PAGE, "the hypervisor's"),
        (Mfn(0xffff_ffff), 0, GrantStatus::BAD_PAGE, "no frame"),
        (pair.lender.l1, 0, ERROR, "a page table, to write"),
        (pair.lender.root, 0, ERROR, "a root table, to write"),
    ] {
        pair.write(0, GrantEntry { flags: 1, domid: by, frame: frame.0 as u32 });
        let word = mmu.frames().word(frame);
        assert_eq!(pair.map(0, flags, WINDOW), Err(status), "{what}");
        assert_eq!((pair.flags(0), mmu.frames().word(frame)), (1, word), "{what}");
    }
    pair.audit();
    pair.end();
}

/// A page that somebody may write must not become a table, and what is in use does not change hands.
#[test]
fn a_lent_page_stays_what_it_is() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    let (mmu, id, frame) = (&pair.world.services.mmu, pair.lender.domain.id(), pair.lent(0));
    // The lender maps it no more, and makes a table of it, or gives it back.
    let unmapped = pair.world.call(&pair.lender, 14, &[page(super::pair::LENT as u64), 0, 0]);
    assert_eq!(unmapped, Ok(0));
    let mut budget = Budget::unlimited();
    assert!(mmu.pin(id, frame, Level::L1, &mut budget).is_err());
    mmu.deallocate(id, frame).unwrap();
    assert_eq!(mmu.owner(frame), Some(id), "somebody uses it");
    assert_eq!(pair.reach(WINDOW, true), Some(frame));
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
    assert_eq!(mmu.owner(frame), None, "now it is free");
    pair.audit();
    pair.end();
}

/// XSA class "read the entry once": while it is in use, an entry is what it was, whatever the lender writes there.
#[test]
fn a_lender_cannot_change_what_is_in_use() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let first = pair.map(reference, 0, WINDOW).unwrap();
    let frame = pair.lent(1).0 as u32;
    pair.write(reference, GrantEntry { flags: 1, domid: pair.borrower.domain.id().0, frame });
    let second = pair.map(reference, 0, WINDOW + 4096).unwrap();
    assert_eq!(pair.reach(WINDOW + 4096, true), Some(pair.lent(0)), "the frame that is pinned");
    // The lender writes nonsense, and the marks are taken away all the same.
    pair.write(reference, GrantEntry { flags: 0xffff, domid: 0xffff, frame: u32::MAX });
    assert_eq!(pair.unmap(first, WINDOW), GrantStatus::OKAY);
    assert_eq!(pair.unmap(second, WINDOW + 4096), GrantStatus::OKAY);
    assert_eq!((pair.references(0), pair.references(1)), (0, 0));
    assert_eq!(pair.lender.domain.grants().lock().active().len(), 0);
    pair.end();
}

/// An address of the borrower's that tables of its own choice can map: behind the kernel's.
const FAR: u64 = BASE + (1 << 21);

/// The borrower unmaps its page `n` and makes an L1 table of it; the table.
fn table_of(pair: &Pair, n: usize) -> Mfn {
    let (world, borrower) = (&pair.world, &pair.borrower);
    assert_eq!(world.call(borrower, 14, &[page(n as u64), 0, 0]), Ok(0));
    let table = borrower.pages[n];
    extended(pair, MmuExtOp::new(MmuExtCommand::PIN_L1_TABLE, table.0));
    table
}

fn extended(pair: &Pair, op: MmuExtOp) {
    pair.world.poke(&pair.borrower, page(3), &op);
    assert_eq!(pair.world.call(&pair.borrower, 26, &[page(3), 1, 0, DomId::SELF.0.into()]), Ok(0));
}

/// The borrower sets the L2 entry for [`FAR`].
fn show(pair: &Pair, entry: Pte) {
    let (world, borrower) = (&pair.world, &pair.borrower);
    let l4 = world.machine.memory.entry(borrower.root, Level::L4.index(BASE)).unwrap();
    let l2 = world.machine.memory.entry(l4.mfn(), Level::L3.index(BASE)).unwrap().mfn();
    let ptr = l2.address() + 8 * Level::L2.index(FAR) as u64;
    world.poke(borrower, page(2), &MmuUpdate { ptr, val: entry.0 });
    assert_eq!(world.call(borrower, 1, &[page(2), 1, 0, DomId::SELF.0.into()]), Ok(0));
}

/// The borrower hides the entry of a mapping behind another table, ends the mapping, and brings it back.
#[test]
fn what_is_mapped_cannot_be_hidden() {
    let pair = Pair::new();
    let tables = [20, 21].map(|n| table_of(&pair, n));
    show(&pair, Pte::new(tables[0], TABLE));
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, FAR).unwrap();
    assert_eq!(pair.reach(FAR, true), Some(pair.lent(0)));
    show(&pair, Pte::new(tables[1], TABLE));
    assert_eq!(pair.reach(FAR, true), None);
    assert_eq!(pair.unmap(handle, FAR), GrantStatus::OKAY);
    assert_eq!((pair.flags(reference), pair.references(0)), (GrantEntry::PERMIT_ACCESS, 0));
    show(&pair, Pte::new(tables[0], TABLE));
    assert_eq!(pair.reach(FAR, false), None, "it was taken away where it was");
    pair.audit();
    pair.end();
}

/// What a mapping was recorded in is meanwhile a table of somebody else's, or no table any more: nothing is taken away
/// there, and the mapping ends all the same.
#[test]
fn a_mappings_place_may_be_anybodys_when_it_ends() {
    for is_anothers_table in [true, false] {
        let pair = Pair::new();
        let (mmu, memory) = (Arc::clone(&pair.world.services.mmu), &pair.world.machine.memory);
        let table = table_of(&pair, 20);
        show(&pair, Pte::new(table, TABLE));
        let reference = pair.lend(0, 0);
        let handle = pair.map(reference, 0, FAR).unwrap();
        let index = Level::L1.index(FAR);
        show(&pair, Pte(0));
        extended(&pair, MmuExtOp::new(MmuExtCommand::UNPIN_TABLE, table.0));
        assert_eq!(pair.references(0), 0, "the mapping is gone, its record is not");
        let (borrower, lender) = (pair.borrower.domain.id(), pair.lender.domain.id());
        if is_anothers_table {
            mmu.deallocate(borrower, table).unwrap();
            assert_eq!(mmu.allocate(lender), Ok(table), "what came back last is taken first");
            memory.zero(table).unwrap();
        }
        // An entry as the record has it.
        memory.exchange_entry(table, index, Pte::new(pair.lent(0), PteFlags::PRESENT), 0).unwrap();
        if is_anothers_table {
            assert_eq!(mmu.pin(lender, table, Level::L1, &mut Budget::unlimited()).unwrap(), Progress::Done);
        }
        assert_eq!(pair.unmap(handle, FAR), GrantStatus::OKAY, "{is_anothers_table}");
        assert_eq!(memory.entry(table, index).unwrap().mfn(), pair.lent(0), "{is_anothers_table}");
        assert_eq!(pair.flags(reference), GrantEntry::PERMIT_ACCESS);
        pair.audit();
        pair.end();
    }
}

/// An entry of a lent page goes like any other; what is left of the mapping is a record.
#[test]
fn an_entry_may_be_overwritten_but_not_copied() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    let copied = pair.entry(WINDOW);
    assert_eq!(pair.set_entry(WINDOW + 4096, copied), Err(Errno::EPERM));
    assert_eq!(pair.set_entry(WINDOW, Pte(0)), Ok(0));
    assert_eq!((pair.reach(WINDOW, false), pair.references(0)), (None, 0));
    assert_eq!(pair.set_entry(WINDOW, copied), Err(Errno::EPERM), "what is gone is gone");
    assert_ne!(pair.flags(reference) & GrantEntry::WRITING, 0, "the lender waits until it is unmapped");
    pair.audit();
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
    assert_eq!(pair.flags(reference), GrantEntry::PERMIT_ACCESS);
    pair.end();
}

/// Two mappings at one place: each ends by itself, and neither leaves anything behind.
#[test]
fn one_mapping_over_another() {
    for first_ends_first in [true, false] {
        let pair = Pair::new();
        let references = [pair.lend(0, 0), pair.lend(1, 0)];
        let handles = references.map(|reference| pair.map(reference, 0, WINDOW).unwrap());
        assert_eq!((pair.references(0), pair.references(1)), (0, 1));
        pair.audit();
        for n in if first_ends_first { [0, 1] } else { [1, 0] } {
            assert_eq!(pair.unmap(handles[n], WINDOW), GrantStatus::OKAY);
            assert_eq!(pair.flags(references[n]), GrantEntry::PERMIT_ACCESS);
            pair.audit();
        }
        assert_eq!((pair.reach(WINDOW, false), pair.references(1)), (None, 0));
        pair.end();
    }
}

/// The mapped entry moves nowhere by `UNMAP_AND_REPLACE` either.
#[test]
fn a_mapping_is_not_moved() {
    let pair = Pair::new();
    let references = [pair.lend(0, 0), pair.lend(1, 0)];
    let [first, _] = [0, 1].map(|n| pair.map(references[n], 0, WINDOW + 4096 * n as u64).unwrap());
    assert_eq!(pair.replace(first, WINDOW, WINDOW + 4096), ERROR);
    assert_eq!(pair.replace(first, WINDOW, WINDOW), ERROR);
    assert_eq!(pair.replace(first, WINDOW, 0x1000), ERROR, "no table there");
    assert_eq!(pair.reach(WINDOW, true), Some(pair.lent(0)), "a refusal changes nothing");
    pair.audit();
    pair.end();
}

#[test]
fn handles_are_the_borrowers_own() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let handle = pair.map(reference, 0, WINDOW).unwrap();
    for wrong in [GrantHandle(handle.0 + 1), GrantHandle(u32::MAX), GrantHandle(1 << 20)] {
        assert_eq!(pair.unmap(wrong, WINDOW), GrantStatus::BAD_HANDLE);
    }
    assert_eq!(pair.unmap(handle, WINDOW + 4096), ERROR);
    assert_eq!(pair.reach(WINDOW, true), Some(pair.lent(0)));
    assert_eq!(pair.unmap(handle, WINDOW), GrantStatus::OKAY);
    pair.end();
}

/// A mapping at [`WINDOW`] of what the lender lends.
fn wanted(pair: &Pair, reference: u32) -> MapGrantRef {
    MapGrantRef {
        host_addr: WINDOW,
        flags: MapFlags::HOST_MAP,
        reference: GrantRef(reference),
        dom: pair.lender.domain.id(),
        status: GrantStatus(1),
        handle: GrantHandle(0),
        dev_bus_addr: 0,
    }
}

/// A handle that cannot be told is a mapping that nobody could end.
#[test]
fn a_mapping_whose_handle_cannot_be_stored_is_undone() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let writable = pair.entry(page(4));
    let read_only = Pte(writable.0 & !PteFlags::WRITABLE.bits());
    let (host, device) = (MapFlags::HOST_MAP, MapFlags::DEVICE_MAP);
    for (flags, host_addr) in
        [(host, WINDOW), (host | device, WINDOW), (device, WINDOW), (device, 0), (device, 1)]
    {
        let request = MapGrantRef { flags, host_addr, ..wanted(&pair, reference) };
        pair.world.poke(&pair.borrower, page(4), &request);
        assert_eq!(pair.set_entry(page(4), read_only), Ok(0));
        assert_eq!(pair.world.call(&pair.borrower, 20, &[0, page(4), 1]), Err(Errno::EFAULT));
        assert_eq!((pair.reach(WINDOW, false), pair.references(0)), (None, 0), "{flags:#x}");
        assert_eq!(pair.flags(reference), GrantEntry::PERMIT_ACCESS, "{flags:#x}");
        pair.audit();
        assert_eq!(pair.set_entry(page(4), writable), Ok(0));
    }
    assert_eq!(pair.borrower.domain.maptrack().lock().reserved(), 0);
    pair.end();
}

/// A tree that another vCPU gives up after the mapping was made, and that takes more than one run to take apart: the
/// end of the mapping has to wait for it, and is not forgotten.
#[test]
fn a_mapping_is_undone_whatever_another_vcpu_left_over() {
    let pair = Pair::new();
    let (mmu, borrower) = (Arc::clone(&pair.world.services.mmu), pair.borrower.domain.id());
    let (tree, tables) = (mmu.allocate(borrower).unwrap(), 12);
    for index in 0..tables {
        let below = Pte::new(mmu.allocate(borrower).unwrap(), PteFlags::PRESENT);
        mmu.memory().exchange_entry(tree, index, below, 0).unwrap();
    }
    assert_eq!(mmu.pin(borrower, tree, Level::L2, &mut Budget::unlimited()).unwrap(), Progress::Done);

    // The handle lies behind the last byte that can be written.
    let reference = pair.lend(0, 0);
    let argument = page(5) - 16;
    pair.world.poke(&pair.borrower, argument, &wanted(&pair, reference));
    let read_only = Pte(pair.entry(page(5)).0 & !PteFlags::WRITABLE.bits());
    assert_eq!(pair.set_entry(page(5), read_only), Ok(0));

    let (lent, written, l1) = (pair.lent(0), pair.borrower.pages[4], pair.borrower.l1);
    let others = Arc::clone(&mmu);
    at_each_look(Rc::new(move || {
        let mapped = others.memory().entry(l1, Level::L1.index(WINDOW)).unwrap().mfn() == lent;
        // Beside its mapping, it is in use by whoever writes there.
        if mapped && others.frames().word(written).uses == 2 && others.frames().word(tree).pinned {
            let given_up = others.unpin(borrower, tree, &mut Budget::new(1)).unwrap();
            assert_eq!(given_up, Progress::Done);
        }
    }));
    assert_eq!(pair.world.call(&pair.borrower, 20, &[0, argument, 1]), Err(Errno::EFAULT));
    assert!(!mmu.frames().word(tree).pinned, "nobody came in between");
    assert_eq!((pair.reach(WINDOW, false), pair.references(0)), (None, 0));
    assert_eq!(pair.flags(reference), GrantEntry::PERMIT_ACCESS);
    pair.audit();
    pair.end();
}

#[test]
fn a_borrower_has_so_many_mappings_and_no_more() {
    let pair = Pair::new();
    let reference = pair.lend(0, 0);
    let mut last = GrantHandle(0);
    for _ in 0..MAX_MAPPINGS {
        last = pair.map(reference, MapFlags::READ_ONLY, WINDOW).unwrap();
    }
    assert_eq!(pair.map(reference, MapFlags::READ_ONLY, WINDOW), Err(GrantStatus::NO_SPACE));
    assert_eq!(pair.unmap(last, WINDOW), GrantStatus::OKAY);
    assert!(pair.map(reference, MapFlags::READ_ONLY, WINDOW).is_ok());
    pair.end();
}
