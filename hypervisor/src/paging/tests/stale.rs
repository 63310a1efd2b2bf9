//! XSA class "type change against TLB and cache": a translation that outlives its entry is an escape. Each way of
//! losing a right, seen from each place that could still have it, on both kinds of caches: afterwards the old
//! access is gone. And with the machine's flush left out, it is *not* gone: so these tests would notice.

use super::world::{A, B, RW, Tree, World, address, done, ro, rw};
use crate::error::Failure;
use crate::machine::fake::{Kind, Sabotage};
use crate::paging::{Budget, Roots};
use pv_abi::Mfn;
use pv_abi::page_table::{Level, Pte};

/// How a right is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Unmap,
    Remap,
    Demote,
    /// The page, writable before, becomes a table.
    BecomesTable(Level),
    /// An entry of an upper table names another tree.
    Move(Level),
    /// The L1 table becomes a page, and the guest writes what it likes into it.
    TableBecomesData,
    /// The table of this level becomes a page, gets other contents, and becomes such a table again.
    TableReused(Level),
    /// The L1 table becomes a table of another level.
    TableRetyped(Level),
    /// The page is given back, and another domain gets it.
    BalloonOut,
    /// The domain dies, and another one gets all its frames.
    Death,
}

/// From where the right is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    SamePcpu,
    OtherPcpu,
    OtherRoot,
    Alias,
}

const LOSSES: [Loss; 19] = [
    Loss::Unmap,
    Loss::Remap,
    Loss::Demote,
    Loss::BecomesTable(Level::L1),
    Loss::BecomesTable(Level::L2),
    Loss::BecomesTable(Level::L3),
    Loss::BecomesTable(Level::L4),
    Loss::Move(Level::L2),
    Loss::Move(Level::L3),
    Loss::Move(Level::L4),
    Loss::TableBecomesData,
    Loss::TableReused(Level::L1),
    Loss::TableReused(Level::L2),
    Loss::TableReused(Level::L3),
    Loss::TableReused(Level::L4),
    Loss::TableRetyped(Level::L2),
    Loss::TableRetyped(Level::L4),
    Loss::BalloonOut,
    Loss::Death,
];
const VIEWS: [View; 4] = [View::SamePcpu, View::OtherPcpu, View::OtherRoot, View::Alias];
/// L2 entry 1 names the same L1 table as entry 0.
const ALIAS: u64 = 1 << 21;
/// An index of the L1 table that the guest forges once it can write there.
const FORGED: usize = 9;

struct Scene {
    world: World,
    tree: Tree,
    roots: Roots,
    /// A second root over the same L3 table.
    other: Mfn,
    /// A second tree, with pages of its own.
    second: Tree,
}

fn scene(kind: Kind) -> Scene {
    let world = World::of_kind(kind);
    let (tree, second) = (world.tree(A, 2), world.tree(A, 2));
    world.poke(tree.l2, 1, rw(tree.l1));
    world.poke(tree.l1, 7, rw(tree.pages[0]));
    world.poke(tree.l1, FORGED, rw(tree.pages[1]));
    let other = world.draft(A, &[(0, rw(tree.l3))]);
    world.pin(A, other, Level::L4).unwrap();
    world.pin(A, second.l4, Level::L4).unwrap();
    let roots = world.start(&tree);
    Scene { world, tree, roots, other, second }
}

impl Scene {
    /// The access that somebody has, and loses.
    fn access(&self, loss: Loss, view: View) -> Result<Mfn, crate::machine::fake::Fault> {
        let alias = if loss == Loss::Move(Level::L2) { address(7) } else { ALIAS };
        let (pcpu, root, at) = match view {
            View::SamePcpu => (0, self.tree.l4, address(0)),
            View::OtherPcpu => (1, self.tree.l4, address(0)),
            View::OtherRoot => (0, self.other, address(0)),
            View::Alias => (0, self.tree.l4, alias),
        };
        self.world.machine.translations.access(pcpu, root, at, true)
    }

    /// The access through a place in the L1 table that nobody used before.
    fn access_forged(&self) -> Result<Mfn, crate::machine::fake::Fault> {
        self.world.machine.translations.access(0, self.tree.l4, address(FORGED), true)
    }

    fn lose(&mut self, loss: Loss) -> Result<(), Failure> {
        let Self { world, tree, second, other, .. } = &*self;
        let page = tree.pages[0];
        match loss {
            Loss::Unmap => world.set(A, tree.l1, 0, Pte(0)),
            Loss::Remap => world.set(A, tree.l1, 0, rw(tree.pages[1])),
            Loss::Demote => world.set(A, tree.l1, 0, ro(page)),
            Loss::BecomesTable(level) => {
                world.set(A, tree.l1, 0, ro(page))?;
                world.set(A, tree.l1, 7, Pte(0))?;
                world.pin(A, page, level)
            }
            Loss::Move(Level::L4) => world.set(A, tree.l4, 0, rw(second.l3)),
            Loss::Move(Level::L3) => world.set(A, tree.l3, 0, rw(second.l2)),
            Loss::Move(_) => world.set(A, tree.l2, 0, rw(second.l1)),
            Loss::TableBecomesData => {
                self.unlink()?;
                world.set(A, tree.l1, FORGED, Pte::new(Mfn(0), RW | pv_abi::page_table::PteFlags::USER))
            }
            Loss::TableReused(Level::L1) => {
                self.unlink()?;
                world.set(A, tree.l1, 0, rw(second.pages[0]))?;
                world.set(A, tree.l2, 1, rw(tree.l1))?;
                world.set(A, tree.l2, 0, rw(tree.l1))
            }
            Loss::TableReused(Level::L2) => {
                world.set(A, tree.l3, 0, rw(second.l2))?;
                world.set(A, tree.l2, 0, rw(second.l1))?;
                world.set(A, tree.l2, 1, rw(second.l1))?;
                world.set(A, tree.l3, 0, rw(tree.l2))
            }
            Loss::TableReused(Level::L3) => {
                world.set(A, tree.l4, 0, rw(second.l3))?;
                world.set(A, *other, 0, rw(second.l3))?;
                world.set(A, tree.l3, 0, rw(second.l2))?;
                world.set(A, *other, 0, rw(tree.l3))?;
                world.set(A, tree.l4, 0, rw(tree.l3))
            }
            Loss::TableReused(_) => {
                let (old, new, to) = (tree.l4, second.l4, rw(second.l3));
                self.world.base(A, &mut self.roots, new)?;
                self.world.set(A, old, 0, to)?;
                self.world.base(A, &mut self.roots, old)
            }
            Loss::TableRetyped(level) => {
                self.unlink()?;
                (0..512).try_for_each(|index| world.set(A, tree.l1, index, Pte(0)))?;
                world.pin(A, tree.l1, level)
            }
            Loss::BalloonOut => {
                world.set(A, tree.l1, 0, Pte(0))?;
                world.set(A, tree.l1, 7, Pte(0))?;
                world.mmu.deallocate(A, page)?;
                assert_eq!(world.page(B), page);
                Ok(())
            }
            Loss::Death => {
                self.world.mmu.release_roots(A, &mut self.roots)?;
                let all = self.world.mmu.frames_of(A);
                done(self.world.mmu.release_domain(A, &mut Budget::unlimited()))?;
                (0..all).for_each(|_| _ = self.world.page(B)); // scrubbed, but for what pcpus remember
                Ok(())
            }
        }
    }

    fn unlink(&self) -> Result<(), Failure> {
        self.world.set(A, self.tree.l2, 0, Pte(0))?;
        self.world.set(A, self.tree.l2, 1, Pte(0))
    }

    /// What the page tables say now; never cached.
    fn in_tables(&self, loss: Loss, view: View) -> bool {
        // Through the other root an L4 entry of the first one does not matter.
        let of_the_root = matches!(loss, Loss::Move(Level::L4) | Loss::TableReused(Level::L4));
        of_the_root && view == View::OtherRoot
    }
}

fn cells() -> impl Iterator<Item = (Kind, Loss, View)> {
    let kinds = [Kind::Hardware, Kind::Shadow];
    kinds.into_iter().flat_map(|kind| {
        LOSSES.into_iter().flat_map(move |loss| VIEWS.into_iter().map(move |view| (kind, loss, view)))
    })
}

#[test]
fn a_lost_right_is_lost_at_once_and_everywhere() {
    for (kind, loss, view) in cells() {
        let cell = format!("{kind:?} {loss:?} {view:?}");
        let mut scene = scene(kind);
        let page = scene.tree.pages[0];
        assert_eq!(scene.access(loss, view), Ok(page), "{cell}");
        scene.lose(loss).unwrap();
        if !scene.in_tables(loss, view) {
            assert_ne!(scene.access(loss, view), Ok(page), "{cell}");
        }
        assert_ne!(scene.access_forged(), Ok(Mfn(0)), "{cell}");
        scene.world.check(&[&scene.roots]);
        scene.world.end(A, &mut scene.roots);
    }
}

#[test]
fn without_settling_every_cell_fails() {
    for (kind, loss, view) in cells() {
        let cell = format!("{kind:?} {loss:?} {view:?}");
        let mut scene = scene(kind);
        let page = scene.tree.pages[0];
        assert_eq!(scene.access(loss, view), Ok(page), "{cell}");
        scene.world.machine.translations.sabotage(Sabotage::NoSettle);
        scene.lose(loss).unwrap();
        match loss {
            // The stale upper entry leads into data: the guest's own entry maps the hypervisor.
            Loss::TableBecomesData if view == View::SamePcpu => {
                assert_eq!(scene.access_forged(), Ok(Mfn(0)), "{cell}");
            }
            // Retiring the tables, which is not sabotaged, saves these.
            Loss::TableBecomesData | Loss::TableReused(_) | Loss::TableRetyped(_) | Loss::Death => {}
            _ => assert_eq!(scene.access(loss, view), Ok(page), "{cell}"),
        }
        let saved = matches!(loss, Loss::TableReused(_) | Loss::Death) || scene.in_tables(loss, view);
        assert!(saved || !scene.world.stale().is_empty(), "{cell}");
    }
}

/// What the shadow of a table said when the frame was one before is believed again.
#[test]
fn without_retiring_a_reused_table_starts_life_with_old_translations() {
    let reused = Level::ALL.map(|level| (Kind::Shadow, Loss::TableReused(level)));
    let dead = [Kind::Hardware, Kind::Shadow].map(|kind| (kind, Loss::Death));
    for (kind, loss) in reused.into_iter().chain(dead) {
        let mut scene = scene(kind);
        let page = scene.tree.pages[0];
        assert_eq!(scene.access(loss, View::SamePcpu), Ok(page));
        scene.world.machine.translations.sabotage(Sabotage::NoRetire);
        scene.lose(loss).unwrap();
        assert_eq!(scene.access(loss, View::SamePcpu), Ok(page), "{kind:?} {loss:?}");
        assert!(!scene.world.stale().is_empty(), "{kind:?} {loss:?}");
    }
}

/// Trees that go without any entry having changed: unpinned, left by their vCPU, or dead.
#[test]
fn a_tree_that_ends_takes_its_translations_along_unless_retiring_is_left_out() {
    for kind in [Kind::Hardware, Kind::Shadow] {
        for sabotage in [Sabotage::None, Sabotage::NoRetire] {
            for death in [false, true] {
                let mut scene = scene(kind);
                let (tree, world) = (scene.tree.clone(), &scene.world);
                for pcpu in [0, 1] {
                    world.machine.translations.access(pcpu, tree.l4, address(0), true).unwrap();
                }
                world.machine.translations.sabotage(sabotage);
                if death {
                    world.mmu.release_roots(A, &mut scene.roots).unwrap();
                    done(world.mmu.release_domain(A, &mut Budget::unlimited())).unwrap();
                } else {
                    world.base(A, &mut scene.roots, scene.second.l4).unwrap();
                }
                let stale = !world.stale().is_empty();
                assert_eq!(stale, sabotage == Sabotage::NoRetire, "{kind:?} {sabotage:?} {death}");
            }
        }
    }
}

/// Nothing is given back, and nothing goes on, when the machine says that it cannot settle.
#[test]
fn a_domain_whose_changes_cannot_be_settled_is_lost_and_keeps_its_frames() {
    for retire in [false, true] {
        let Scene { world, tree, mut roots, .. } = scene(Kind::Hardware);
        let (page, owned) = (tree.pages[0], world.mmu.frames_of(A));
        world.machine.translations.sabotage(Sabotage::Broken);
        let outcome =
            if retire { world.mmu.release_roots(A, &mut roots) } else { world.set(A, tree.l1, 0, Pte(0)) };
        let outcome = outcome.and_then(|()| done(world.mmu.drain(A, &mut Budget::unlimited())));
        assert!(matches!(outcome, Err(Failure::Machine(_))), "{outcome:?}");
        world.machine.translations.sabotage(Sabotage::None);
        assert!(matches!(world.set(A, tree.l1, 1, Pte(0)), Err(Failure::Crash(_))));
        assert!(matches!(world.mmu.release_domain(A, &mut Budget::unlimited()), Err(Failure::Crash(_))));
        assert_eq!((world.mmu.owner(page), world.mmu.frames_of(A)), (Some(A), owned));
        let other = world.tree(B, 1);
        world.pin(B, other.l4, Level::L4).unwrap(); // others go on
    }
}
