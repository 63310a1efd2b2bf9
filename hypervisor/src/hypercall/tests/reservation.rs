//! Memory given back and taken again.

use crate::testing::{Guest, PAGES, World, page};
use pv_abi::memory::{MemoryExchange, MemoryReservation};
use pv_abi::page_table::{Pte, PteFlags};
use pv_abi::{DomId, Errno, Mfn, Pfn};
use zerocopy::FromZeros;

const HELD: u64 = PAGES + 10;
const MAY_HAVE: u64 = 64;

fn call(
    world: &World,
    guest: &Guest,
    op: u64,
    extents: &[u64],
    domid: DomId,
    order: u32,
) -> Result<u64, Errno> {
    world.poke(guest, page(2), extents);
    let mut request = MemoryReservation::new_zeroed();
    (request.extent_start, request.nr_extents) = (page(2), extents.len() as u64);
    (request.domid, request.extent_order) = (domid, order);
    world.poke(guest, page(1), &request);
    world.call(guest, 12, &[op, page(1)])
}

fn held(world: &World, guest: &Guest) -> u64 {
    world.poke(guest, page(1), &DomId::SELF);
    world.call(guest, 12, &[3, page(1)]).unwrap()
}

pub fn all(world: &World, guest: &Guest) {
    let own = |op, extents: &[u64]| call(world, guest, op, extents, DomId::SELF, 0);
    // Unmapped, mapped, a table; then one that is not the domain's.
    world.call(guest, 14, &[page(30), 0, 2]).unwrap();
    let frames = [guest.pages[30].0, guest.pages[31].0, guest.l1.0, 1, guest.pages[29].0];
    let free = world.services.mmu.free_frames();
    assert_eq!(own(1, &frames), Ok(3), "up to the first that cannot be given back");
    assert_eq!(held(world, guest), HELD - 1, "what it can still use is its own");
    assert_eq!(world.services.mmu.free_frames(), free + 1, "what is in use is kept until it is not");
    assert_eq!(world.services.mmu.owner(guest.pages[31]), Some(guest.domain.id()));
    assert_eq!(own(1, &[guest.pages[31].0]), Ok(0), "twice");
    world.call(guest, 14, &[page(31), 0, 2]).unwrap();
    assert_eq!((world.services.mmu.free_frames(), held(world, guest)), (free + 2, HELD - 2));

    assert_eq!(own(6, &[0x700, 0x701]), Ok(2));
    let mfns: [u64; 2] = world.peek(guest, page(2));
    assert_eq!(mfns.map(|mfn| world.services.mmu.pfn(Mfn(mfn))), [Pfn(0x700), Pfn(0x701)]);
    let all = vec![0; MAY_HAVE as usize];
    assert_eq!(own(0, &all), Ok(MAY_HAVE - HELD), "as many as it may have");
    assert_eq!((own(0, &[0]), own(6, &[9]), held(world, guest)), (Ok(0), Ok(0), MAY_HAVE));
    refusals(world, guest);
}

fn refusals(world: &World, guest: &Guest) {
    for op in [0, 1, 6] {
        assert_eq!(world.call(guest, 12, &[op, page(0) - 8]), Ok(0), "a wild request does nothing");
        assert_eq!(call(world, guest, op, &[guest.pages[28].0], DomId::SELF, 1), Ok(0), "not one page");
        assert_eq!(call(world, guest, op, &[guest.pages[28].0], DomId(9), 0), Err(Errno::EPERM));
        let mut request = MemoryReservation::new_zeroed();
        (request.extent_start, request.nr_extents, request.domid) = (page(0) - 4096, 3, DomId::SELF);
        for (start, count) in
            [(page(0) - 4096, 3), (u64::MAX - 7, 1), (page(2), u64::MAX), (page(2), 1 << 26)]
        {
            (request.extent_start, request.nr_extents) = (start, count);
            world.poke(guest, page(1), &request);
            assert_eq!(world.call(guest, 12, &[op, page(1)]), Ok(0), "{op}: {start:#x}, {count}");
        }
    }
    let mut exchange = MemoryExchange::new_zeroed();
    (exchange.input.domid, exchange.output.domid) = (DomId::SELF, DomId::SELF);
    world.poke(guest, page(1), &exchange);
    assert_eq!(world.call(guest, 12, &[11, page(1)]), Err(Errno::ENOMEM));
    exchange.nr_exchanged = 1;
    world.poke(guest, page(1), &exchange);
    assert_eq!(world.call(guest, 12, &[11, page(1)]), Err(Errno::EINVAL));
    assert_eq!(world.call(guest, 12, &[11, page(0) - 4096]), Err(Errno::EFAULT));
}

/// Nobody counts a frame that its domain does not know: it must not have it.
#[test]
fn a_frame_that_the_guest_cannot_be_told_of_goes_back() {
    let mut world = World::new();
    let guest = world.guest();
    let read_only = Pte::new(guest.pages[3], PteFlags::PRESENT);
    assert_eq!(world.call(&guest, 14, &[page(3), read_only.0, 2]), Ok(0));
    let mut request = MemoryReservation::new_zeroed();
    (request.extent_start, request.nr_extents, request.domid) = (page(3), 2, DomId::SELF);
    let free = world.services.mmu.free_frames();
    for op in [0, 6] {
        world.poke(&guest, page(1), &request);
        assert_eq!(world.call(&guest, 12, &[op, page(1)]), Ok(0), "{op}");
        assert_eq!((world.services.mmu.free_frames(), held(&world, &guest)), (free, HELD), "{op}");
    }
    world.check_end(vec![guest]);
}

#[test]
fn frames_go_and_come() {
    let mut world = World::new();
    let guest = world.guest();
    all(&world, &guest);
    world.check_end(vec![guest]);
}
