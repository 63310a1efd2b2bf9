//! XSA class "type change against TLB and cache": a translation that outlives its entry is an escape. Each way of
//! losing a right, seen from each place that could still have it, on both kinds of caches: afterwards the old
//! access is gone. And with the machine's flush left out, it is *not* gone: so these tests would notice.

use super::world::{A, B, RW, Tree, World, address, done, ro, rw};
use crate::error::Failure;
use crate::machine::fake::{Fault, Kind, Sabotage};
use crate::paging::{Budget, Roots};
use pv_abi::Mfn;
use pv_abi::page_table::{ENTRIES, Level, Pte};

/// How a guest loses the right to access a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
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
    /// A table becomes a table of another level.
    TableRetyped(Level, Level),
    /// A table is given back, and becomes another domain's table, of the same level or another.
    TableGiven(Level, Level),
    /// The page is given back, and another domain gets it.
    BalloonOut,
    /// The domain dies, and another one gets all its frames.
    Death,
}

/// From where the right is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    SamePcpu,
    OtherPcpu,
    OtherRoot,
    Alias,
}

const LOSSES: [Loss; 17] = [
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
    Loss::BalloonOut,
    Loss::Death,
];
pub const VIEWS: [View; 4] = [View::SamePcpu, View::OtherPcpu, View::OtherRoot, View::Alias];
/// L2 entry 1 names the same L1 table as entry 0.
const ALIAS: u64 = 1 << 21;
/// An index of the L1 table that the guest forges once it can write there.
const FORGED: usize = 9;

impl Loss {
    /// The vCPU leaves a root for another one: no entry changes.
    pub const fn leaves_a_root(self) -> bool {
        matches!(self, Self::TableRetyped(Level::L4, _) | Self::TableGiven(Level::L4, _))
    }
}

/// All ways to lose a right: the listed ones, and each pair of levels for a table that is retyped or given away.
pub fn losses() -> impl Iterator<Item = Loss> {
    let pairs = || Level::ALL.into_iter().flat_map(|from| Level::ALL.map(|to| (from, to)));
    let retyped = pairs().filter(|(from, to)| from != to).map(|(from, to)| Loss::TableRetyped(from, to));
    LOSSES.into_iter().chain(retyped).chain(pairs().map(|(from, to)| Loss::TableGiven(from, to)))
}

pub struct Scene {
    pub world: World,
    pub tree: Tree,
    pub roots: Roots,
    /// A second root over the same L3 table.
    other: Mfn,
    /// A second tree, with pages of its own.
    second: Tree,
}

fn scene(kind: Kind) -> Scene {
    scene_in(World::of_kind(kind))
}

pub fn scene_in(world: World) -> Scene {
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
    fn access(&self, loss: Loss, view: View) -> Result<Mfn, Fault> {
        let pcpu = usize::from(view == View::OtherPcpu);
        let (root, at) = self.place(loss, view);
        self.world.machine.translations.access(pcpu, root, at, true)
    }

    /// The root table and the linear address through which `view` uses the right.
    pub fn place(&self, loss: Loss, view: View) -> (Mfn, u64) {
        let alias = if loss == Loss::Move(Level::L2) { address(7) } else { ALIAS };
        match view {
            View::SamePcpu | View::OtherPcpu => (self.tree.l4, address(0)),
            View::OtherRoot => (self.other, address(0)),
            View::Alias => (self.tree.l4, alias),
        }
    }

    /// The access through a place in the L1 table that nobody used before.
    fn access_forged(&self) -> Result<Mfn, Fault> {
        self.world.machine.translations.access(0, self.tree.l4, address(FORGED), true)
    }

    pub fn lose(&mut self, loss: Loss) -> Result<(), Failure> {
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
            Loss::TableRetyped(from, to) => {
                let (table, new) = (tree.table(from), second.clone());
                self.disuse(from)?;
                (0..ENTRIES).try_for_each(|index| self.world.set(A, table, index, Pte(0)))?;
                self.world.set(A, table, 1, first_below(&new, to))?;
                self.world.pin(A, table, to)
            }
            Loss::TableGiven(from, to) => {
                let table = tree.table(from);
                self.disuse(from)?;
                self.world.mmu.deallocate(A, table)?;
                assert_eq!(self.world.page(B), table);
                let new = self.world.tree(B, 1);
                self.world.poke(table, 1, first_below(&new, to));
                self.world.pin(B, table, to)
            }
            Loss::BalloonOut => {
                world.set(A, tree.l1, 0, Pte(0))?;
                world.set(A, tree.l1, 7, Pte(0))?;
                world.mmu.deallocate(A, page)?;
                assert_eq!(world.page(B), page);
                Ok(())
            }
            Loss::Death => {
                self.world.mmu.release_roots(A, &mut self.roots);
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

    /// Nothing uses the table of this level any more, so it is none.
    fn disuse(&mut self, level: Level) -> Result<(), Failure> {
        let Self { world, tree, other, .. } = &*self;
        match level {
            Level::L1 => self.unlink(),
            Level::L2 => world.set(A, tree.l3, 0, Pte(0)),
            Level::L3 => {
                world.set(A, tree.l4, 0, Pte(0))?;
                world.set(A, *other, 0, Pte(0))
            }
            Level::L4 => self.world.base(A, &mut self.roots, self.second.l4),
        }
    }
}

/// What the page tables say afterwards; never cached.
pub fn is_in_tables(loss: Loss, view: View) -> bool {
    // Through the other root what happened to the first one does not matter.
    let of_the_root =
        loss.leaves_a_root() || matches!(loss, Loss::Move(Level::L4) | Loss::TableReused(Level::L4));
    of_the_root && view == View::OtherRoot
}

/// An entry that a table of this level may have, of a tree of its domain's.
fn first_below(tree: &Tree, level: Level) -> Pte {
    rw(level.below().map_or(tree.pages[0], |below| tree.table(below)))
}

fn cells() -> impl Iterator<Item = (Kind, Loss, View)> {
    let kinds = [Kind::Hardware, Kind::Shadow];
    kinds
        .into_iter()
        .flat_map(|kind| losses().flat_map(move |loss| VIEWS.into_iter().map(move |view| (kind, loss, view))))
}

#[test]
fn a_lost_right_is_lost_at_once_and_everywhere() {
    for (kind, loss, view) in cells() {
        let cell = format!("{kind:?} {loss:?} {view:?}");
        let mut scene = scene(kind);
        let page = scene.tree.pages[0];
        assert_eq!(scene.access(loss, view), Ok(page), "{cell}");
        scene.lose(loss).unwrap();
        if !is_in_tables(loss, view) {
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
            Loss::TableBecomesData | Loss::TableReused(_) | Loss::Death => {}
            Loss::TableRetyped(..) | Loss::TableGiven(..) => {}
            _ => assert_eq!(scene.access(loss, view), Ok(page), "{cell}"),
        }
        let saved = matches!(loss, Loss::TableReused(_) | Loss::Death)
            || is_in_tables(loss, view)
            || loss.leaves_a_root();
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

/// Of the frame that is another table now, or another domain's, what it was as a table is still there.
#[test]
fn without_retiring_what_was_cached_of_a_table_outlives_it() {
    let others = |loss: &Loss| matches!(loss, Loss::TableRetyped(..) | Loss::TableGiven(..));
    for (kind, loss) in [Kind::Hardware, Kind::Shadow]
        .into_iter()
        .flat_map(|kind| losses().filter(others).map(move |loss| (kind, loss)))
    {
        let mut scene = scene(kind);
        assert_eq!(scene.access(loss, View::SamePcpu), Ok(scene.tree.pages[0]));
        scene.world.machine.translations.sabotage(Sabotage::NoRetire);
        scene.lose(loss).unwrap();
        // On hardware the entry that led there was settled, if there was one.
        let expected = kind == Kind::Shadow || loss.leaves_a_root();
        assert_eq!(!scene.world.stale().is_empty(), expected, "{kind:?} {loss:?}");
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
                    world.mmu.release_roots(A, &mut scene.roots);
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
        let outcome = match retire {
            true => {
                world.mmu.release_roots(A, &mut roots);
                Ok(())
            }
            false => world.set(A, tree.l1, 0, Pte(0)),
        };
        let outcome = outcome.and_then(|()| done(world.mmu.drain(A, &mut Budget::unlimited())));
        assert!(matches!(outcome, Err(Failure::Machine(_))), "{outcome:?}");
        world.machine.translations.sabotage(Sabotage::None);
        assert!(matches!(world.set(A, tree.l1, 1, Pte(0)), Err(Failure::Host(_))));
        assert!(matches!(world.mmu.release_domain(A, &mut Budget::unlimited()), Err(Failure::Host(_))));
        assert_eq!((world.mmu.owner(page), world.mmu.frames_of(A)), (Some(A), owned));
        let other = world.tree(B, 1);
        world.pin(B, other.l4, Level::L4).unwrap(); // others go on
    }
}
