//! Work on trees is interrupted after every step, and goes on with the same call. In between, every count is right.

use super::world::{A, B, Tree, World, done, kind, rw, why};
use crate::error::Failure;
use crate::frame::{FrameType, Phase};
use crate::machine::fake::Sabotage;
use crate::machine::{MachineError, Root};
use crate::paging::{Batch, Budget, Progress, Roots};
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{Level, Pte};

/// Makes the call with one step at a time until it is done; says how often it was interrupted.
fn step_by_step(world: &World, roots: &[&Roots], mut call: impl FnMut(&mut Budget) -> Progress) -> u32 {
    for interruptions in 0..10_000 {
        let before = world.mmu.counters().entries_validated;
        let progress = call(&mut Budget::new(1));
        // A table's last entry completes those above it, whose entries cost nothing more to look at.
        assert!(world.mmu.counters().entries_validated - before <= 4, "more work than the budget allows");
        if interruptions % 16 == 0 || progress == Progress::Done {
            world.check(roots);
        }
        if progress == Progress::Done {
            return interruptions;
        }
    }
    panic!("the call never ends");
}

#[test]
fn pinning_and_unpinning_a_tree() {
    let world = World::new();
    let tree = world.tree(A, 3);
    let interruptions =
        step_by_step(&world, &[], |budget| world.mmu.pin(A, tree.l4, Level::L4, budget).unwrap());
    assert!(interruptions > 4 * 500, "{interruptions}");
    assert!(world.mmu.frames().word(tree.l4).pinned);
    assert_eq!(world.mmu.unpin(A, tree.l4, &mut Budget::new(1)).unwrap(), Progress::Done);
    let interruptions = step_by_step(&world, &[], |budget| world.mmu.drain(A, budget).unwrap());
    assert!(interruptions > 4 * 500, "{interruptions}");
    assert_eq!(kind(&world, tree.l4), FrameType::None);
    world.end(A, &mut Roots::default());
}

#[test]
fn an_update_that_needs_a_whole_tree() {
    let world = World::new();
    let tree = world.tree(A, 1);
    let mut roots = world.start(&tree);
    let new = world.tree(A, 2);
    let request = MmuUpdate { ptr: tree.l4.address() + 8, val: rw(new.l3).0 };
    step_by_step(&world, &[&roots], |budget| {
        let mut batch = Batch::new(A, *budget);
        let progress = world.mmu.mmu_update(request, &mut batch).unwrap();
        world.mmu.finish(batch).unwrap();
        progress
    });
    assert_eq!(kind(&world, new.l3), FrameType::Table(Level::L3));
    assert_eq!(world.access(tree.l4, 1 << 39, true), Ok(new.pages[0]));
    world.check(&[&roots]);
    world.end(A, &mut roots);
}

/// A tree that a batch drops which has hardly a budget, and the batch.
fn dropped(world: &World, tree: &Tree) -> (Tree, Batch) {
    let dropped = world.tree(A, 2);
    world.set(A, tree.l4, 1, rw(dropped.l3)).unwrap();
    let mut batch = Batch::new(A, Budget::new(3));
    let clear = MmuUpdate { ptr: tree.l4.address() + 8, val: 0 };
    assert_eq!(world.mmu.mmu_update(clear, &mut batch).unwrap(), Progress::Done);
    (dropped, batch)
}

/// Nearly all of it was left over.
fn comes_apart(world: &World, roots: &Roots, dropped: &Tree) {
    let interruptions = step_by_step(world, &[roots], |budget| world.mmu.drain(A, budget).unwrap());
    assert!(interruptions > 3 * 500, "{interruptions}");
    assert_eq!(kind(world, dropped.l3), FrameType::None);
}

#[test]
fn a_batch_that_drops_a_whole_tree_leaves_it_over() {
    let world = World::new();
    let tree = world.tree(A, 2);
    let mut roots = world.start(&tree);
    let (dropped, batch) = dropped(&world, &tree);
    assert_eq!(world.mmu.finish(batch).unwrap(), Budget::new(0), "paid for");
    comes_apart(&world, &roots, &dropped);
    world.end(A, &mut roots);
}

#[test]
fn an_update_waits_for_what_its_own_batch_drops() {
    let world = World::new();
    let tree = world.tree(A, 2);
    let mut roots = world.start(&tree);
    let (dropped, mut batch) = dropped(&world, &tree);
    let remap = MmuUpdate { ptr: tree.l1.address() + 16, val: rw(dropped.l1).0 };
    assert_eq!(world.mmu.mmu_update(remap, &mut batch).unwrap(), Progress::Preempted);
    world.mmu.finish(batch).unwrap();
    comes_apart(&world, &roots, &dropped);
    world.set(A, tree.l1, 2, rw(dropped.l1)).unwrap();
    world.end(A, &mut roots);
}

#[test]
fn changing_roots() {
    let world = World::new();
    let (first, second) = (world.tree(A, 1), world.tree(A, 1));
    let mut roots = world.start(&first);
    for _ in 0..3000 {
        if world.mmu.new_baseptr(A, &mut roots, second.l4, &mut Budget::new(1)).unwrap() == Progress::Done {
            break;
        }
        assert_eq!(roots.kernel().map(Root::mfn), Some(first.l4), "the vCPU stays where it is until then");
    }
    assert_eq!(roots.kernel().map(Root::mfn), Some(second.l4));
    world.check(&[&roots]);
    let interruptions = step_by_step(&world, &[&roots], |budget| world.mmu.drain(A, budget).unwrap());
    assert!(interruptions > 4 * 500, "{interruptions}");
    assert_eq!(kind(&world, first.l4), FrameType::None);
    world.end(A, &mut roots);
}

/// A tree whose validation stopped after some steps.
fn half_pinned(world: &World, steps: u32) -> Tree {
    let tree = world.tree(A, 3);
    let progress = world.mmu.pin(A, tree.l4, Level::L4, &mut Budget::new(steps)).unwrap();
    assert_eq!(progress, Progress::Preempted);
    tree
}

#[test]
fn a_half_validated_table_is_neither_a_table_nor_a_page() {
    let world = World::new();
    let tree = half_pinned(&world, 100);
    let word = world.mmu.frames().word(tree.l1);
    assert_eq!((word.kind, word.phase), (FrameType::Table(Level::L1), Phase::Validating));
    assert_eq!((word.general, word.uses), (2, 1), "it holds both its references");
    let reason = "the table is being validated, or torn down";
    assert_eq!(why(world.set(A, tree.l1, 400, rw(tree.pages[0]))), reason);
    assert_eq!(why(world.set(A, tree.l4, 0, Pte(0))), reason);
    let mapping = world.draft(A, &[(0, rw(tree.l1))]);
    assert_eq!(why(world.pin(A, mapping, Level::L1)), "a page table cannot be writable");
    assert_eq!(why(world.pin(A, tree.l1, Level::L2)), "the frame is a page table of another level");
    assert_eq!(why(world.unpin(A, tree.l4)), "the table is not pinned");
    done(world.mmu.drain(A, &mut Budget::unlimited())).unwrap();
    world.check(&[]);
    world.pin(A, tree.l1, Level::L1).unwrap(); // somebody else finishes it
    world.pin(A, tree.l4, Level::L4).unwrap();
    world.check(&[]);
    world.end(A, &mut Roots::default());
}

/// XSA class "long or interrupted validation": wherever it stops, the domain can die, and everything comes back.
#[test]
fn death_at_every_stage_of_a_validation() {
    for steps in (1..2050).step_by(41) {
        let world = World::new();
        let before = world.mmu.frames().conservation();
        half_pinned(&world, steps);
        let mut calls = 0;
        while world.mmu.release_domain(A, &mut Budget::new(7)).unwrap() == Progress::Preempted {
            calls += 1;
            assert!(calls < 5000);
        }
        world.check(&[]);
        assert_eq!(world.mmu.frames().conservation(), before);
    }
}

/// The bad entry lies at the end of the last table: all that was taken before goes back.
#[test]
fn a_validation_that_fails_late_gives_everything_back() {
    let world = World::new();
    let foreign = world.page(B);
    let tree = world.tree(A, 3);
    world.poke(tree.l1, 511, rw(foreign));
    let mut outcome = Ok(Progress::Preempted);
    while matches!(outcome, Ok(Progress::Preempted)) {
        outcome = world.mmu.pin(A, tree.l4, Level::L4, &mut Budget::new(50));
    }
    assert_eq!(why(outcome), "the frame belongs to another domain");
    world.check(&[]);
    step_by_step(&world, &[], |budget| world.mmu.drain(A, budget).unwrap());
    for level in Level::ALL {
        assert_eq!(kind(&world, tree.table(level)), FrameType::None, "{level:?}");
    }
    world.poke(tree.l1, 511, Pte(0));
    world.pin(A, tree.l4, Level::L4).unwrap();
    world.end(A, &mut Roots::default());
    world.end(B, &mut Roots::default());
}

/// Teardown keeps one item a level: no recursion, and no list as long as the tree is wide.
#[test]
fn a_wide_tree_is_torn_down_in_little_space() {
    let world = World::new();
    let page = world.page(A);
    let l1s: Vec<_> = (0..60).map(|_| world.draft(A, &[(0, rw(page))])).collect();
    let entries: Vec<_> = l1s.iter().map(|&l1| rw(l1)).enumerate().collect();
    let l2 = world.draft(A, &entries);
    let l3 = world.draft(A, &[(0, rw(l2))]);
    world.pin(A, l3, Level::L3).unwrap();
    assert_eq!(world.mmu.frames().word(page).uses, 60);
    assert_eq!(world.mmu.unpin(A, l3, &mut Budget::new(1)).unwrap(), Progress::Done);
    let mut most = 0;
    while world.mmu.drain(A, &mut Budget::new(64)).unwrap() == Progress::Preempted {
        let spaces = world.mmu.spaces.all();
        most = spaces.iter().map(|space| space.lock().deferred.len()).max().unwrap_or(0).max(most);
    }
    assert!((2..=3).contains(&most), "{most}");
    assert_eq!(world.mmu.frames().word(page).uses, 0);
    world.check(&[]);
    world.end(A, &mut Roots::default());
}

/// XSA class "freed before the last mapping is gone": others keep a dead domain's frames, and its number.
#[test]
fn what_comes_back_after_the_end_is_freed_then() {
    let world = World::new();
    let tree = world.tree(A, 2);
    let mut roots = world.start(&tree);
    let console = world.page(A);
    let held = world.mmu.hold(A, console, true).unwrap();
    let all = Budget::unlimited;
    done(world.mmu.release_domain(A, &mut all())).unwrap();
    assert_eq!(world.mmu.frames_of(A), 4 + 2 + 1, "the tree of a forgotten root, and a back-end's page");
    assert!(world.mmu.allocate(A).is_err(), "the number is taken");
    world.check_with(&roots.held().chain([(console, held.kind())]).collect::<Vec<_>>());
    world.mmu.release_roots(A, &mut roots);
    done(world.mmu.release_domain(A, &mut all())).unwrap();
    assert_eq!(world.mmu.frames_of(A), 1);
    world.mmu.release(held);
    assert_eq!(world.mmu.frames_of(A), 0);
    world.check(&[]);
}

#[test]
fn a_descriptor_frame_waits_for_what_is_left_over() {
    let world = World::new();
    let tree = world.tree(A, 1);
    world.pin(A, tree.l4, Level::L4).unwrap();
    assert_eq!(world.mmu.unpin(A, tree.l4, &mut Budget::new(1)).unwrap(), Progress::Done);
    assert_eq!(why(world.mmu.hold_descriptors(A, tree.pages[0])), "the frame is mapped writable somewhere");
    done(world.mmu.drain(A, &mut Budget::unlimited())).unwrap();
    let held = world.mmu.hold_descriptors(A, tree.pages[0]).unwrap();
    world.check_with(&[(held.mfn(), held.kind())]);
    world.mmu.release(held);
    world.end(A, &mut Roots::default());
}

/// What the machine failed to take out of its translations may still be reached: it stays as it is for ever.
#[test]
fn what_a_lost_domain_left_over_stays_so() {
    let world = World::new();
    let tree = world.tree(A, 1);
    let mut roots = world.start(&tree);
    world.mmu.deallocate(A, tree.pages[0]).unwrap(); // it goes with its last mapping
    world.mmu.release_roots(A, &mut roots);
    let drain = || world.mmu.drain(A, &mut Budget::unlimited());
    world.machine.translations.sabotage(Sabotage::Broken);
    assert!(matches!(drain(), Err(Failure::Machine(_))));
    world.machine.translations.sabotage(Sabotage::None);
    assert!(matches!(drain(), Err(Failure::Host(_))), "the machine's getting better changes nothing");
    assert_eq!(world.mmu.owner(tree.pages[0]), Some(A));
}

/// Not even where nothing is left over that says so.
#[test]
fn no_frame_of_a_lost_domain_is_given_back() {
    let world = World::new();
    let page = world.page(A);
    let broken = || MachineError::new("a flush", std::io::Error::other("broken"));
    let lost = world.mmu.with_space(A, |_| Err::<(), _>(Failure::Machine(broken())));
    assert!(lost.is_err());
    for _ in 0..3 {
        let released = world.mmu.release_domain(A, &mut Budget::unlimited());
        assert!(matches!(released, Err(Failure::Host(_))), "{released:?}");
    }
    assert_eq!(world.mmu.owner(page), Some(A));
}

#[test]
fn release_is_bounded_whatever_the_domain_has() {
    let world = World::new();
    let tree = world.tree(A, 20);
    let mut roots = world.start(&tree);
    world.mmu.allocate_shared(A).unwrap();
    world.mmu.release_roots(A, &mut roots);
    let interruptions = step_by_step(&world, &[], |budget| world.mmu.release_domain(A, budget).unwrap());
    assert!(interruptions > 2000, "{interruptions}");
    assert_eq!(world.mmu.frames_of(A), 0);
    assert_eq!(world.mmu.release_domain(A, &mut Budget::new(9)).unwrap(), Progress::Done);
    let page = world.page(A); // the number may be used again
    assert_eq!(world.mmu.owner(page), Some(A));
    world.end(A, &mut Roots::default());
}

/// A death costs what the domain has, however large the machine is and whatever others have.
#[test]
fn a_death_looks_at_the_domains_own_frames_only() {
    let world = World::new();
    let others: Vec<_> = (0..30).map(|_| [world.page(B), world.page(A)]).collect();
    others.iter().for_each(|[_, page]| world.mmu.deallocate(A, *page).unwrap());
    let pages = [world.page(A), world.page(A)];
    assert!(others.iter().any(|[_, page]| *page == pages[0]), "its frames lie among those of others");
    let mut budget = Budget::new(pages.len() as u32 + 1);
    assert_eq!(world.mmu.release_domain(A, &mut budget).unwrap(), Progress::Done);
    assert_eq!((world.mmu.frames_of(A), world.mmu.frames_of(B)), (0, 30));
    world.end(B, &mut Roots::default());
    world.check(&[]);
}

/// XSA class "ownership transfer": whoever comes while a domain is dying comes too late, so its end is not put off.
#[test]
fn a_dying_domain_lends_nothing() {
    let world = World::new();
    let tree = world.tree(A, 2);
    world.pin(A, tree.l4, Level::L4).unwrap();
    let held = world.mmu.hold(A, tree.pages[0], false).unwrap();
    assert_eq!(world.mmu.release_domain(A, &mut Budget::new(1)).unwrap(), Progress::Preempted);
    for writable in [false, true] {
        assert_eq!(world.mmu.hold(A, tree.pages[1], writable).unwrap_err().why, "the domain is dying");
    }
    done(world.mmu.release_domain(A, &mut Budget::unlimited())).unwrap();
    assert_eq!(world.mmu.hold(A, tree.pages[0], false).unwrap_err().why, "the domain is dying", "dead, too");
    world.mmu.release(held);
    assert_eq!(world.mmu.frames_of(A), 0);
    world.check(&[]);
}
