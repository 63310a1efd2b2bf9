//! The scheduler by itself: no pcpu runs anything.

mod shares;

use super::*;
use crate::clock::FakeClock;
use crate::contain::contained;
use crate::machine::fake::FakeKick;
use crate::testing::{Guest, LIMIT, World, wait_until};
use pv_abi::vcpu::Runstate;

fn key_of(guest: &Guest) -> VcpuKey {
    guest.domain.vcpus()[0].key()
}

fn picked(scheduler: &Scheduler, pcpu: usize) -> Option<VcpuKey> {
    match scheduler.next(pcpu) {
        Next::Run { turn, .. } => Some(turn.vcpu),
        Next::Idle => None,
        Next::Save => panic!("nobody paused it"),
        Next::Stop => panic!("nobody stopped it"),
    }
}

/// Pcpus without threads.
fn scheduler(pcpus: usize) -> (Scheduler, Arc<FakeClock>, Vec<Arc<FakeKick>>) {
    let clock = Arc::new(FakeClock::default());
    let kicks: Vec<Arc<FakeKick>> = (0..pcpus).map(|_| Arc::default()).collect();
    let dyn_kicks = kicks.iter().map(|kick| -> Arc<dyn Kick> { Arc::<FakeKick>::clone(kick) }).collect();
    let alarm = Arc::new(Alarm::new(clock.clone()));
    (Scheduler::new(clock.clone(), alarm, Box::new(FairShare::default()), dyn_kicks), clock, kicks)
}

#[test]
fn a_loaded_vcpu_runs_nowhere_else() {
    let world = World::new();
    let (a, b) = (Guest::build(&world.services), Guest::build(&world.services));
    let (scheduler, ..) = scheduler(2);
    scheduler.start(&a.domain);
    assert_eq!(picked(&scheduler, 0), Some(key_of(&a)));
    scheduler.leave(0, key_of(&a), &Leave::Ready);
    assert_eq!(picked(&scheduler, 1), None, "pcpu 0 holds its state");
    scheduler.start(&b.domain);
    assert_eq!(picked(&scheduler, 1), Some(key_of(&b)));
    scheduler.saved(key_of(&a));
    scheduler.leave(1, key_of(&b), &Leave::Ready);
    assert_eq!(picked(&scheduler, 1), Some(key_of(&a)), "it was saved, and waited longer");
    assert_eq!(picked(&scheduler, 0), None);
}

/// A vCPU that is ready wakes the pcpu that holds it, or one that may have it once that has saved it.
#[test]
fn who_may_enter_a_vcpu_is_woken_for_it() {
    let world = World::new();
    let (a, b) = (Guest::build(&world.services), Guest::build(&world.services));
    let (scheduler, ..) = scheduler(2);
    let idle = |set: Option<[bool; 2]>| {
        let mut state = scheduler.state.lock();
        set.into_iter().for_each(|set| (state.slots[0].idle, state.slots[1].idle) = set.into());
        [state.slots[0].idle, state.slots[1].idle]
    };
    scheduler.start(&a.domain);
    assert_eq!(picked(&scheduler, 1), Some(key_of(&a)));
    scheduler.leave(1, key_of(&a), &Leave::Blocked(&|| false));
    idle(Some([true; 2]));
    scheduler.wake(key_of(&a));
    assert_eq!(idle(None), [true, false], "pcpu 1 holds it");
    scheduler.start(&b.domain);
    assert_eq!(picked(&scheduler, 0), Some(key_of(&b)));
    scheduler.leave(0, key_of(&b), &Leave::Ready);
    assert_eq!(picked(&scheduler, 1), Some(key_of(&a)));
    idle(Some([true, false]));
    scheduler.leave(1, key_of(&a), &Leave::Ready);
    scheduler.saved(key_of(&a));
    assert_eq!(idle(None), [false; 2], "any may enter it");
}

#[test]
fn a_blocked_vcpu_is_not_picked_until_it_is_woken() {
    let world = World::new();
    let guest = Guest::build(&world.services);
    let (scheduler, ..) = scheduler(1);
    let key = key_of(&guest);
    scheduler.start(&guest.domain);
    picked(&scheduler, 0);
    scheduler.leave(0, key, &Leave::Blocked(&|| false));
    assert_eq!(picked(&scheduler, 0), None);
    scheduler.wake(key);
    scheduler.wake(key);
    assert_eq!((picked(&scheduler, 0), picked(&scheduler, 0)), (Some(key), None), "woken once");
    scheduler.leave(0, key, &Leave::Blocked(&|| true));
    assert_eq!(picked(&scheduler, 0), Some(key), "what it waits for came meanwhile");
    scheduler.leave(0, key, &Leave::Ended);
    scheduler.wake(key);
    assert!(picked(&scheduler, 0).is_none() && !scheduler.knows(guest.domain.id()));
}

#[test]
fn a_pcpu_in_the_hypervisor_is_not_kicked() {
    let world = World::new();
    let guest = Guest::build(&world.services);
    let (scheduler, _, kicks) = scheduler(1);
    scheduler.start(&guest.domain);
    picked(&scheduler, 0);
    scheduler.wake(key_of(&guest));
    assert_eq!(kicks[0].kicks(), 0, "it looks before it enters");
    scheduler.entering(0);
    scheduler.wake(key_of(&guest));
    assert_eq!(kicks[0].kicks(), 1);
    scheduler.entered(0);
    scheduler.wake(key_of(&guest));
    assert_eq!(kicks[0].kicks(), 1);
}

#[test]
fn a_turn_ends_with_its_slice_only_where_somebody_waits() {
    let world = World::new();
    let (a, b) = (Guest::build(&world.services), Guest::build(&world.services));
    let (scheduler, clock, kicks) = scheduler(1);
    scheduler.start(&a.domain);
    picked(&scheduler, 0);
    scheduler.entering(0);
    clock.advance(2 * SLICE);
    assert!(!scheduler.turn_is_over(0));
    scheduler.kick_overdue();
    assert_eq!(kicks[0].kicks(), 0, "nobody waits");
    scheduler.start(&b.domain);
    assert!(scheduler.turn_is_over(0));
    assert!(scheduler.next_kick() <= clock.now());
    scheduler.kick_overdue();
    assert_eq!(kicks[0].kicks(), 1);
    scheduler.kick_overdue();
    assert_eq!(kicks[0].kicks(), 1, "one is enough, for a slice");
    assert!(scheduler.turn_is_over(0), "a kick is no new slice");
    assert_eq!(scheduler.next_kick(), clock.now() + SLICE);
    scheduler.leave(0, key_of(&a), &Leave::Ended);
    assert_eq!(picked(&scheduler, 0), Some(key_of(&b)));
    clock.advance(REFRESH);
    assert!(scheduler.turn_is_over(0), "alone, but its clock is to be refreshed");
}

#[test]
fn everybody_stops() {
    let (scheduler, _, kicks) = scheduler(2);
    scheduler.entering(1);
    scheduler.stop();
    assert_eq!((kicks[0].kicks(), kicks[1].kicks()), (0, 1));
    assert!(matches!(scheduler.next(0), Next::Stop) && scheduler.turn_is_over(1));
    scheduler.idle(0);
}

#[test]
fn a_failed_pcpu_takes_only_its_own_with_it() {
    let world = World::new();
    let guests: Vec<_> = (0..3).map(|_| Guest::build(&world.services)).collect();
    let (scheduler, ..) = scheduler(2);
    guests.iter().for_each(|guest| scheduler.start(&guest.domain));
    picked(&scheduler, 0);
    picked(&scheduler, 1);
    let lost = scheduler.fail(0);
    assert_eq!(lost.iter().map(|(_, key)| *key).collect::<Vec<_>>(), [key_of(&guests[0])]);
    assert!(matches!(scheduler.next(0), Next::Stop) && !scheduler.knows(guests[0].domain.id()));
    scheduler.leave(1, key_of(&guests[1]), &Leave::Ready);
    assert_eq!(picked(&scheduler, 1), Some(key_of(&guests[2])));
    assert_eq!(scheduler.fail(1).len(), 2, "nobody can run them any more");
    assert!(!scheduler.state.lock().others_wait(), "who is gone waits for nothing");
    scheduler.start(&guests[0].domain);
    scheduler.evict(guests[0].domain.id());
    assert!(!scheduler.knows(guests[0].domain.id()), "a domain that is ended later is let go, too");
}

fn second_of(guest: &Guest) -> VcpuKey {
    guest.domain.vcpus()[1].key()
}

#[test]
fn a_vcpu_that_was_stopped_gets_no_pcpu() {
    let world = World::new();
    let guest = Guest::build(&world.services);
    let (scheduler, _, kicks) = scheduler(1);
    let (first, second) = (key_of(&guest), second_of(&guest));
    assert!(!scheduler.is_up(second));
    scheduler.start(&guest.domain);
    scheduler.up(&guest.domain, second);
    assert_eq!((picked(&scheduler, 0), scheduler.is_up(second)), (Some(first), true));
    assert!(scheduler.down(second));
    scheduler.leave(0, first, &Leave::Blocked(&|| false));
    assert_eq!(picked(&scheduler, 0), None, "it is ready, and stopped");
    scheduler.up(&guest.domain, second);
    assert_eq!(picked(&scheduler, 0), Some(second), "it was ready all the time");
    scheduler.entering(0);
    assert!(!scheduler.turn_is_over(0) && scheduler.down(second));
    assert!(scheduler.turn_is_over(0) && kicks[0].kicks() == 1, "it leaves its pcpu");
    scheduler.leave(0, second, &Leave::Blocked(&|| false));
    scheduler.wake(second);
    assert_eq!(picked(&scheduler, 0), None);
    scheduler.up(&guest.domain, second);
    assert_eq!(picked(&scheduler, 0), Some(second), "it was woken while it was stopped");
    scheduler.leave(0, second, &Leave::Ready);
    assert!(scheduler.down(second));
    scheduler.evict(guest.domain.id());
    assert!(picked(&scheduler, 0).is_some() && picked(&scheduler, 0).is_some(), "to be taken off");
}

fn saves(scheduler: &Scheduler, pcpu: usize) -> bool {
    matches!(scheduler.next(pcpu), Next::Save)
}

/// A domain of two vCPUs, paused while the one runs and the other, which ran before, sleeps on another pcpu.
#[test]
fn a_paused_domain_is_on_no_pcpu_and_misses_nothing() {
    let world = World::new();
    let (guest, other) = (Guest::build(&world.services), Guest::build(&world.services));
    let (scheduler, _, kicks) = scheduler(2);
    let ([first, second], life) = ([key_of(&guest), second_of(&guest)], guest.domain.life());
    assert!(life.start());
    scheduler.start(&guest.domain);
    scheduler.up(&guest.domain, second);
    assert_eq!([0, 1].map(|pcpu| picked(&scheduler, pcpu)), [Some(first), Some(second)]);
    scheduler.leave(1, second, &Leave::Blocked(&|| false));
    scheduler.entering(0);
    assert!(life.pause());
    // What is wrong is told behind the scope, which waits for the thread that pauses.
    let (kicked, saved, early, paused) = std::thread::scope(|scope| {
        let pausing = scope.spawn(|| scheduler.pause(&guest.domain));
        let heeded = contained(|| wait_until(|| scheduler.turn_is_over(0)));
        let kicked = [kicks[0].kicks(), kicks[1].kicks()];
        let has_work = scheduler.state.lock().has_work_for(1);
        let second_is_saved = heeded.is_ok() && has_work && saves(&scheduler, 1);
        scheduler.saved(second);
        scheduler.entered(0);
        scheduler.leave(0, first, &Leave::Ready);
        let saved = [second_is_saved, saves(&scheduler, 0)];
        let early = pausing.is_finished();
        scheduler.saved(first);
        (kicked, saved, early, pausing.join().unwrap())
    });
    assert_eq!((kicked, saved, early, paused), ([1, 0], [true; 2], false, true));
    assert!(scheduler.pause(&guest.domain), "it is");
    scheduler.wake(second);
    let third = guest.domain.vcpus()[2].key();
    scheduler.up(&guest.domain, third);
    let states = [first, second, third].map(|vcpu| scheduler.account(vcpu).info().state);
    assert_eq!(states, [Runstate::OFFLINE; 3], "ready, and not to run");
    assert_eq!([0, 1].map(|pcpu| picked(&scheduler, pcpu)), [None; 2]);
    scheduler.start(&other.domain);
    assert_eq!(picked(&scheduler, 1), Some(key_of(&other)), "others go on");
    assert!(!scheduler.turn_is_over(1), "and nobody waits");
    assert!(life.unpause());
    scheduler.unpause(&guest.domain);
    assert_eq!(scheduler.account(first).info().state, Runstate::RUNNABLE);
    for vcpu in [first, second, third] {
        assert_eq!(picked(&scheduler, 0), Some(vcpu), "what was ready, was woken and was started meanwhile");
        scheduler.leave(0, vcpu, &Leave::Blocked(&|| false));
    }
}

/// Nothing else would wake it: the vCPU was ready all the time.
#[test]
fn a_pcpu_that_sleeps_is_woken_when_a_pause_ends() {
    let world = World::new();
    let guest = Guest::build(&world.services);
    let (scheduler, ..) = scheduler(1);
    let (scheduler, life) = (Arc::new(scheduler), guest.domain.life());
    assert!(life.start() && life.pause());
    scheduler.start(&guest.domain);
    let (sleeper, (woken, slept)) = (Arc::clone(&scheduler), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        sleeper.idle(0);
        woken.send(picked(&sleeper, 0))
    });
    wait_until(|| scheduler.state.lock().slots[0].idle);
    assert!(life.unpause());
    scheduler.unpause(&guest.domain);
    assert_eq!(slept.recv_timeout(LIMIT), Ok(Some(key_of(&guest))));
}

/// Whoever may run again waits behind one that computes, and ends its slice like any other.
#[test]
fn whoever_may_run_again_ends_the_slice_of_another() {
    for evicted in [false, true] {
        let world = World::new();
        let (guest, other) = (Guest::build(&world.services), Guest::build(&world.services));
        let (scheduler, clock, _) = scheduler(1);
        let life = guest.domain.life();
        assert!(life.start() && life.pause());
        scheduler.start(&guest.domain);
        scheduler.start(&other.domain);
        assert_eq!(picked(&scheduler, 0), Some(key_of(&other)));
        assert_eq!(scheduler.alarm.at(), clock.now() + REFRESH);
        if evicted {
            life.end(crate::domain::End::Destroyed);
            scheduler.evict(guest.domain.id());
        } else {
            assert!(life.unpause());
            scheduler.unpause(&guest.domain);
        }
        assert_eq!(scheduler.alarm.at(), clock.now() + SLICE, "evicted: {evicted}");
    }
}

/// Whoever ends a paused domain gets its vCPUs taken off, and whoever waits for its pause does not wait on.
#[test]
fn a_paused_domain_can_end() {
    let world = World::new();
    let guest = Guest::build(&world.services);
    let (scheduler, ..) = scheduler(1);
    assert!(guest.domain.life().start());
    scheduler.start(&guest.domain);
    assert!(guest.domain.life().pause() && scheduler.pause(&guest.domain), "it never ran");
    assert_eq!(picked(&scheduler, 0), None);
    guest.domain.life().end(crate::domain::End::Destroyed);
    scheduler.evict(guest.domain.id());
    assert_eq!(picked(&scheduler, 0), Some(key_of(&guest)), "to be taken off");
    assert!(!scheduler.pause(&guest.domain));
}

#[test]
fn the_last_vcpu_is_not_stopped() {
    let world = World::new();
    let guest = Guest::build(&world.services);
    let (scheduler, ..) = scheduler(1);
    let (first, second) = (key_of(&guest), second_of(&guest));
    scheduler.start(&guest.domain);
    assert!(!scheduler.down(first));
    scheduler.up(&guest.domain, second);
    assert!(scheduler.down(first) && !scheduler.down(second));
    assert!(!scheduler.is_up(first) && scheduler.is_up(second));
    guest.domain.life().end(crate::domain::End::Destroyed);
    scheduler.up(&guest.domain, first);
    assert!(!scheduler.is_up(first), "an ended domain starts nothing");
}

#[test]
fn each_ready_vcpu_wakes_a_pcpu_of_its_own() {
    let world = World::new();
    let guests: Vec<_> = (0..3).map(|_| Guest::build(&world.services)).collect();
    let mut state = State::new(Box::new(FairShare::default()), 2);
    state.slots.iter_mut().for_each(|slot| slot.idle = true);
    let woken = guests.iter().map(|guest| {
        state.vcpus.insert(key_of(guest), Entry::new(guest.domain.clone()));
        state.change(key_of(guest), 0, |entry| entry.activity = Activity::Ready)
    });
    assert_eq!(woken.collect::<Vec<_>>(), [Some(0), Some(1), None]);
}

#[test]
fn a_vcpu_that_is_gone_leaves_no_turn_to_its_number() {
    let world = World::new();
    let guest = Guest::build(&world.services);
    let (scheduler, ..) = scheduler(2);
    let key = key_of(&guest);
    scheduler.start(&guest.domain);
    picked(&scheduler, 0);
    scheduler.leave(0, key, &Leave::Ready);
    assert_eq!(scheduler.fail(0).len(), 1);
    // The number is another's now.
    scheduler.start(&guest.domain);
    assert_eq!(picked(&scheduler, 1), Some(key));
    scheduler.leave(1, key, &Leave::Blocked(&|| false));
    assert_eq!(picked(&scheduler, 1), None, "it sleeps");
}
