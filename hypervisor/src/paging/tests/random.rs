//! Guests that do anything, interrupted anywhere, alone and at the same time.

use super::actor::Actor;
use super::world::{A, B, World};
use crate::machine::fake::Kind;
use crate::paging::Roots;
use pv_abi::{DomId, Mfn};

const FRAMES: usize = 12;
const STEPS: u32 = 800;

fn frames(world: &World, domain: DomId) -> Vec<Mfn> {
    (0..FRAMES).map(|_| world.page(domain)).collect()
}

#[test]
fn two_domains_do_anything_and_every_count_is_right_after_every_step() {
    let mut total = [0; 3];
    for seed in 1..=6 {
        let kind = if seed % 2 == 0 { Kind::Shadow } else { Kind::Hardware };
        let world = World::of_kind(kind);
        let before = world.mmu.frames().conservation();
        let mut actors =
            [A, B].map(|domain| Actor::new(domain, seed * 2 + u64::from(domain.0), frames(&world, domain)));
        for step in 0..STEPS {
            for actor in &mut actors {
                actor.act(&world);
            }
            if step % 2 == 0 {
                world.check(&[&actors[0].roots, &actors[1].roots]);
                actors.iter().for_each(|actor| actor.check_reach(&world));
            }
        }
        for actor in &mut actors {
            let outcomes = actor.outcomes;
            total[0] += outcomes.done;
            total[1] += outcomes.refused;
            total[2] += outcomes.preempted;
            world.mmu.release_roots(actor.domain, &mut actor.roots);
        }
        for domain in [A, B] {
            world.end(domain, &mut Roots::default());
        }
        assert_eq!(world.mmu.frames().conservation(), before, "seed {seed}");
    }
    assert!(total.iter().all(|&count| count > 200), "done, refused, preempted: {total:?}");
}

/// Two vCPUs of one domain and one of another, at the same time.
#[test]
fn vcpus_act_at_the_same_time() {
    for seed in 1..=3 {
        let world = World::of_kind(if seed % 2 == 0 { Kind::Shadow } else { Kind::Hardware });
        let shared = frames(&world, A);
        let mut actors = [
            Actor::new(A, seed * 10, shared.clone()),
            Actor::new(A, seed * 10 + 1, shared),
            Actor::new(B, seed * 10 + 2, frames(&world, B)),
        ];
        std::thread::scope(|scope| {
            for actor in &mut actors {
                let world = &world;
                scope.spawn(move || (0..1500).for_each(|_| actor.act(world)));
            }
        });
        world.check(&[&actors[0].roots, &actors[1].roots, &actors[2].roots]);
        actors.iter().for_each(|actor| actor.check_reach(&world));
        for actor in &mut actors {
            world.mmu.release_roots(actor.domain, &mut actor.roots);
        }
        world.end(A, &mut Roots::default());
        world.end(B, &mut Roots::default());
    }
}
