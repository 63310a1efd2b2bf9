//! Whatever a guest passes, the hypervisor refuses or does it: it never panics, and the books still balance.

use super::super::{Outcome, TABLE};
use crate::fuzzing::{Choices, Random};
use crate::testing::{BASE, Guest, STACK, USER_BASE, World, page, recover};
use pv_abi::Errno;

/// Values that break things.
const WILD: [u64; 26] = [
    0,
    1,
    2,
    3,
    7,
    8,
    63,
    127,
    4095,
    4096,
    0x7ff0,
    u32::MAX as u64,
    i32::MAX as u64,
    1 << 32,
    1 << 47,
    u64::MAX,
    u64::MAX - 7,
    i64::MAX as u64,
    0xffff_8000_0000_0000,
    0xffff_8100_0000_0000,
    0xffff_ffff_ffff_f000,
    BASE,
    BASE - 8,
    BASE + 4090,
    STACK,
    USER_BASE,
];

/// A word as a guest gone mad would choose it.
fn word(random: &mut Random, guest: &Guest) -> u64 {
    let frame = guest.pages[random.below(32) as usize];
    match random.below(8) {
        0 => random.word(),
        1 => random.below(16),
        2 => page(random.below(32)),
        3 => page(random.below(32)) + random.below(4096),
        4 => frame.0,
        5 => frame.address() | random.below(8),
        6 => frame.address() | 0x7,
        _ => WILD[random.below(WILD.len() as u64) as usize],
    }
}

#[test]
fn wild_arguments_are_refused() {
    let mut world = World::new();
    let guest = world.guest();
    for row in TABLE {
        for place in 0..4 {
            for wild in WILD {
                let mut arguments = [0, 1, 0, 0x7ff0, 0, 0];
                arguments[place] = wild;
                let _ = world.outcome(&guest, row.number, &arguments);
                recover(&world, &guest);
            }
        }
    }
    world.check_end(vec![guest]);
}

/// One call of a mad guest, which sometimes writes its memory first. Whether the call succeeded.
fn mad_call(world: &World, guest: &Guest, random: &mut Random) -> bool {
    let row = TABLE[random.below(TABLE.len() as u64) as usize];
    let mut arguments: [u64; 6] = std::array::from_fn(|_| word(random, guest));
    if random.below(4) == 0 {
        let words: [u64; 16] = std::array::from_fn(|_| word(random, guest));
        let bytes = zerocopy::IntoBytes::as_bytes(&words);
        // It may have unmapped that page.
        let at = page(random.below(32));
        let _ = world.services.mmu.copy_to_guest(guest.domain.id(), guest.root, at, bytes);
    }
    if random.below(2) == 0 {
        (arguments[0], arguments[1]) = (arguments[0] % 16, arguments[1] % 64);
    }
    if random.below(2) == 0 {
        arguments[3] = 0x7ff0;
    }
    let outcome = world.outcome(guest, row.number, &arguments);
    recover(world, guest);
    matches!(outcome, Ok(Outcome::Done(value)) if Errno::from_return(value).is_ok())
}

#[test]
fn a_guest_gone_mad_harms_nobody() {
    let mut world = World::new();
    let bystander = world.guest();
    world.poke(&bystander, page(3), &0x5afe_u64);
    let (mut random, mut succeeded) = (Random::new(1), 0);
    for _ in 0..100 {
        let guest = world.guest();
        succeeded += (0..1000).filter(|_| mad_call(&world, &guest, &mut random)).count();
        world.end(vec![guest]);
    }
    assert!(succeeded > 10_000, "only {succeeded} of 100,000 calls succeeded: the test is too wild");
    assert_eq!(world.peek::<u64>(&bystander, page(3)), 0x5afe);
    world.check_end(vec![bystander]);
}
