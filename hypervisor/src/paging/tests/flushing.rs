//! The flush of real machines on the pcpus of a fake one: what `machine/kvm` does where the CPU walks the tables
//! itself, with TLBs and paging-structure caches that forget nothing before their pcpu is told to load its root. Each
//! way of losing a right, with each pcpu in a guest meanwhile or outside: afterwards no pcpu has it.

use super::stale::{Loss, Scene, VIEWS, View, is_in_tables, losses, scene_in};
use super::world::{A, World, done};
use crate::machine::Kick;
use crate::machine::fake::{FakeMachine, FakeTranslations, PCPUS};
use crate::machine::kvm::{Shared, TestedFlush};
use crate::paging::Budget;
use pv_abi::Mfn;
use pv_abi::page_table::Level;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread::ScopedJoinHandle;

/// A pcpu: what other threads see of it is real, what it has cached is not.
struct Pcpu {
    number: usize,
    shared: Arc<Shared>,
    caches: Arc<FakeTranslations>,
}

impl Pcpu {
    fn go_in(&self) {
        self.shared.forget_kicks();
        if self.shared.going_in() {
            self.caches.forget(self.number);
        }
    }

    /// Touches all that a guest could; the places where it reaches `page`.
    fn touch(&self, places: &[(View, Mfn, u64)], page: Mfn) -> Vec<View> {
        let reaches =
            |(_, root, at): &&(View, Mfn, u64)| self.caches.access(self.number, *root, *at, true) == Ok(page);
        places.iter().filter(reaches).map(|&(view, ..)| view).collect()
    }

    /// Goes into the guest, touches all places once, and comes out. Returns the views that reached `page`.
    fn visit(&self, places: &[(View, Mfn, u64)], page: Mfn) -> Vec<View> {
        self.go_in();
        let reached = self.touch(places, page);
        self.shared.is_out(true);
        reached
    }

    /// Is in a guest that touches without pause, and comes out only when it is kicked; goes in again if it `may`.
    fn stay(&self, places: &[(View, Mfn, u64)], page: Mfn, turns: &AtomicU32, may: &AtomicBool) {
        loop {
            self.go_in();
            while !self.shared.is_kicked() {
                self.touch(places, page);
                turns.fetch_add(1, SeqCst);
                std::thread::yield_now();
            }
            self.shared.is_out(true);
            if !may.load(SeqCst) {
                return;
            }
        }
    }
}

fn scene() -> (Scene, Vec<Pcpu>) {
    let machine = FakeMachine::new(128);
    let shared: Vec<_> = (0..PCPUS).map(|_| Arc::new(Shared::without_vcpu())).collect();
    let flush = Arc::new(TestedFlush::new(shared.clone()));
    let caches = Arc::clone(&machine.translations);
    let pcpu = |(number, shared)| Pcpu { number, shared, caches: Arc::clone(&caches) };
    (scene_in(World::settled_by(machine, flush)), (0..).zip(shared).map(pcpu).collect())
}

/// A pcpu that comes out meanwhile has no root to go in with again.
const fn takes_root(loss: Loss) -> bool {
    loss.leaves_a_root() || matches!(loss, Loss::Death | Loss::TableReused(Level::L4))
}

/// What pcpus reach after the loss; those of `inside` (bits) are in a guest while it happens.
fn lose(loss: Loss, inside: usize) -> Vec<View> {
    let (mut scene, pcpus) = scene();
    let page = scene.tree.pages[0];
    let places = VIEWS.map(|view| {
        let (root, at) = scene.place(loss, view);
        (view, root, at)
    });
    for pcpu in &pcpus {
        assert_eq!(pcpu.visit(&places, page), VIEWS, "{loss:?}");
    }
    let guests: Vec<_> = pcpus.iter().filter(|pcpu| inside & (1 << pcpu.number) != 0).collect();
    let (turns, may) = ([(); PCPUS].map(|()| AtomicU32::new(0)), AtomicBool::new(!takes_root(loss)));
    let stay = &|pcpu: &Pcpu| pcpu.stay(&places, page, &turns[pcpu.number], &may);
    std::thread::scope(|scope| {
        let threads: Vec<_> = guests.iter().map(|&pcpu| scope.spawn(move || stay(pcpu))).collect();
        while guests.iter().any(|pcpu| turns[pcpu.number].load(SeqCst) == 0) {
            std::thread::yield_now();
        }
        let outcome = scene.lose(loss);
        may.store(false, SeqCst);
        while !threads.iter().all(ScopedJoinHandle::is_finished) {
            guests.iter().for_each(|pcpu| pcpu.shared.kick()); // one on the way in forgets a kick
        }
        outcome.unwrap();
    });
    let mut reached: Vec<_> = pcpus.iter().flat_map(|pcpu| pcpu.visit(&places, page)).collect();
    reached.retain(|&view| !is_in_tables(loss, view));
    scene.world.check(&[&scene.roots]);
    scene.world.mmu.release_roots(A, &mut scene.roots);
    done(scene.world.mmu.release_domain(A, &mut Budget::unlimited())).unwrap();
    pcpus.iter().for_each(|pcpu| _ = pcpu.visit(&[], page)); // each does what it was asked for when it goes in
    scene.world.check(&[]);
    reached
}

/// XSA class "type change against TLB and cache". No test host shows it: emulated SVM flushes at each entry.
#[test]
fn the_flush_of_real_machines_leaves_no_pcpu_a_lost_right() {
    for loss in losses() {
        for inside in 0..1 << PCPUS {
            let reached = lose(loss, inside);
            assert!(reached.is_empty(), "{loss:?}, in guests {inside:#b}: {reached:?}");
        }
    }
}
