//! The one slot of a root that is not the same in all domains.

use super::world::{A, B, Tree, World};
use crate::machine::DOORBELL_SLOT;
use crate::paging::Roots;
use pv_abi::DomId;
use pv_abi::page_table::Pte;

const C: DomId = DomId(3);

/// Who has another domain's doorbell page rings its doorbells. The fake machine has two pages.
#[test]
fn a_root_shows_the_doorbell_page_of_its_domain_and_no_other() {
    let world = World::new();
    let pages = world.machine.layout.doorbell_pages.clone();
    let shown = |tree: &Tree| world.machine.memory.entry(tree.l4, DOORBELL_SLOT).unwrap();
    let start = |domain, stale: Pte| {
        world.mmu.give_doorbell_page(domain);
        let tree = world.tree(domain, 1);
        world.poke(tree.l4, DOORBELL_SLOT, stale); // whatever the guest put there
        let roots = world.start(&tree);
        (tree, roots)
    };
    let (a, mut a_roots) = start(A, pages[1]);
    let (b, mut b_roots) = start(B, pages[0]);
    let (c, mut c_roots) = start(C, pages[0]);
    assert_eq!([&a, &b, &c].map(shown), [pages[0], pages[1], Pte(0)], "there is none for a third");
    assert_eq!([A, B, C].map(|domain| world.mmu.doorbell_page(domain)), [Some(0), Some(1), None]);
    world.check(&[&a_roots, &b_roots, &c_roots]);

    // The audit sees a root that shows another's.
    world.poke(a.l4, DOORBELL_SLOT, pages[1]);
    let held: Vec<_> = [&a_roots, &b_roots, &c_roots].into_iter().flat_map(Roots::held).collect();
    assert_eq!(world.mmu.audit(&held).len(), 1);
    world.poke(a.l4, DOORBELL_SLOT, pages[0]);

    world.end_beside(A, &mut a_roots, &[&b_roots, &c_roots]);
    assert_eq!(world.machine.memory.entry(a.l4, DOORBELL_SLOT), Ok(Pte(0)), "nothing of it is left behind");
    world.mmu.take_doorbell_page(A);
    assert_eq!([A, B].map(|domain| world.mmu.doorbell_page(domain)), [None, Some(1)]);
    let (d, mut d_roots) = start(A, pages[1]);
    assert_eq!(shown(&d), pages[0], "it is another's now");
    world.end_beside(A, &mut d_roots, &[&b_roots, &c_roots]);
    world.end_beside(B, &mut b_roots, &[&c_roots]);
    world.end(C, &mut c_roots);
}
