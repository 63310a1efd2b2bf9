//! Who gets how much of the pcpus, and what the policy is told.

use super::*;
use crate::fuzzing::{Choices, Random};

/// How many slices each domain gets of `rounds` on each pcpu, all of whose vCPUs compute. They have so many.
fn slices(pcpus: usize, vcpus: &[usize], rounds: usize) -> Vec<usize> {
    let world = World::new();
    let guests: Vec<_> = vcpus.iter().map(|_| Guest::build(&world.services)).collect();
    let (scheduler, clock, _) = scheduler(pcpus);
    for (guest, &count) in guests.iter().zip(vcpus) {
        scheduler.start(&guest.domain);
        guest.domain.vcpus()[1..count].iter().for_each(|vcpu| scheduler.up(&guest.domain, vcpu.key()));
    }
    let mut ran = vec![0; guests.len()];
    let mut on: Vec<Option<VcpuKey>> = vec![None; pcpus];
    for _ in 0..rounds {
        for (pcpu, loaded) in on.iter_mut().enumerate() {
            loaded.iter().for_each(|&vcpu| scheduler.leave(pcpu, vcpu, &Leave::Ready));
            let next = picked(&scheduler, pcpu);
            loaded.iter().filter(|&&old| next != Some(old)).for_each(|&old| scheduler.saved(old));
            *loaded = next;
            let whose =
                guests.iter().position(|guest| next.is_some_and(|vcpu| vcpu.domain == guest.domain.id()));
            ran[whose.expect("somebody is always ready")] += 1;
        }
        clock.advance(SLICE);
    }
    ran
}

#[test]
fn domains_share_evenly_whatever_vcpus_they_have() {
    assert_eq!(slices(1, &[4, 1], 100), [50, 50]);
    assert_eq!(slices(1, &[1, 4], 100), [50, 50]);
    assert_eq!(slices(1, &[2, 4, 1], 99), [33, 33, 33]);
    for vcpus in [[4, 4, 1], [1, 4, 2]] {
        let ran = slices(2, &vcpus, 150);
        assert!(ran.iter().all(|&slices| (90..=110).contains(&slices)), "{vcpus:?}: {ran:?} of 300");
    }
    // Who has one vCPU can have one pcpu at most; what it leaves is the other's.
    let ran = slices(2, &[4, 1], 100);
    assert!(ran[1] >= 90, "{ran:?} of 200");
}

/// Whose the next turns on the only pcpu are, of guests that compute and are all ready. The pcpu holds no vCPU.
fn turns(scheduler: &Scheduler, guests: [&Guest; 2], count: usize) -> Vec<usize> {
    let turn = |_| {
        let vcpu = picked(scheduler, 0).expect("they are ready");
        scheduler.leave(0, vcpu, &Leave::Ready);
        scheduler.saved(vcpu);
        guests.iter().position(|guest| vcpu.domain == guest.domain.id()).expect("one of them")
    };
    (0..count).map(turn).collect()
}

/// Who is kept from the pcpus while it is ready saves up as little as who sleeps.
#[test]
fn who_was_paused_or_stopped_has_saved_up_nothing() {
    for stopped in [false, true] {
        let world = World::new();
        let (guest, other) = (Guest::build(&world.services), Guest::build(&world.services));
        let ([first, second], life) = ([key_of(&guest), second_of(&guest)], guest.domain.life());
        let (scheduler, ..) = scheduler(1);
        assert!(life.start());
        scheduler.start(&guest.domain);
        scheduler.up(&guest.domain, second);
        if stopped {
            // The second is ready, and stopped; the first sleeps.
            assert!(picked(&scheduler, 0) == Some(first) && scheduler.down(second));
            scheduler.leave(0, first, &Leave::Blocked(&|| false));
            scheduler.saved(first);
        } else {
            assert!(life.pause() && scheduler.pause(&guest.domain));
        }
        scheduler.start(&other.domain);
        assert_eq!(turns(&scheduler, [&guest, &other], 100), [1; 100], "stopped: {stopped}");
        if stopped {
            scheduler.up(&guest.domain, second);
        } else {
            assert!(life.unpause());
            scheduler.unpause(&guest.domain);
        }
        let its = turns(&scheduler, [&guest, &other], 100).iter().filter(|&&whose| whose == 0).count();
        assert!((49..=51).contains(&its), "{its} of 100; stopped: {stopped}");
    }
}

/// Whoever pauses itself, or has itself paused, gets rid of no slice that it had too much.
#[test]
fn a_pause_forgives_nothing() {
    let world = World::new();
    let (guest, other) = (Guest::build(&world.services), Guest::build(&world.services));
    let (scheduler, ..) = scheduler(2);
    assert!(guest.domain.life().start());
    scheduler.start(&guest.domain);
    scheduler.start(&other.domain);
    // The guest had a slice, and its neighbour none yet.
    let vcpu = picked(&scheduler, 0).unwrap();
    assert_eq!(vcpu, key_of(&guest));
    scheduler.leave(0, vcpu, &Leave::Ready);
    scheduler.saved(vcpu);
    assert!(guest.domain.life().pause() && scheduler.pause(&guest.domain));
    assert!(guest.domain.life().unpause());
    scheduler.unpause(&guest.domain);
    assert_eq!(turns(&scheduler, [&guest, &other], 2), [1, 0]);
}

/// Of the time that two domains have on one pcpu, how much the first has, in per mille. Its two vCPUs wake each other after
/// `turn` nanoseconds, and sleep then; the other's one computes.
fn share_of_sleepers(turn: u64) -> u64 {
    let world = World::new();
    let (guest, other) = (Guest::build(&world.services), Guest::build(&world.services));
    let ([first, second], other_vcpu) = ([key_of(&guest), second_of(&guest)], key_of(&other));
    let (scheduler, clock, _) = scheduler(1);
    scheduler.start(&guest.domain);
    scheduler.start(&other.domain);
    scheduler.up(&guest.domain, second);
    let mut had = [0; 2];
    while had[0] + had[1] < 200 * SLICE {
        let vcpu = picked(&scheduler, 0).expect("one is always ready");
        if vcpu == other_vcpu {
            clock.advance(SLICE);
            had[1] += SLICE;
            scheduler.leave(0, vcpu, &Leave::Ready);
        } else {
            clock.advance(turn);
            had[0] += turn;
            scheduler.wake(if vcpu == first { second } else { first });
            scheduler.leave(0, vcpu, &Leave::Blocked(&|| false));
        }
        scheduler.saved(vcpu);
    }
    had[0] * 1000 / (had[0] + had[1])
}

#[test]
fn domains_share_evenly_however_short_their_turns_are() {
    for turn in [SLICE / 100, SLICE / 3, SLICE - 1] {
        let share = share_of_sleepers(turn);
        assert!((480..=520).contains(&share), "{share} per mille with turns of {turn} ns");
    }
}

#[test]
fn a_turn_costs_the_time_for_which_others_waited() {
    let world = World::new();
    let (guest, other) = (Guest::build(&world.services), Guest::build(&world.services));
    let (told, clock) = (Told::default(), Arc::new(FakeClock::default()));
    let alarm = Arc::new(Alarm::new(clock.clone()));
    let kicks: Vec<Arc<dyn Kick>> = vec![Arc::new(FakeKick::default())];
    let scheduler = Scheduler::new(clock.clone(), alarm, Box::new(told.clone()), kicks);
    let vcpu = key_of(&guest);
    scheduler.start(&guest.domain);
    assert_eq!(picked(&scheduler, 0), Some(vcpu));
    clock.advance(100 * SLICE);
    scheduler.start(&other.domain);
    clock.advance(SLICE / 2);
    scheduler.leave(0, vcpu, &Leave::Blocked(&|| false));
    assert_eq!(told.charged(), [(vcpu, SLICE / 2)]);
    // What others wait for before a turn costs it nothing.
    clock.advance(SLICE);
    assert_eq!(picked(&scheduler, 0), Some(key_of(&other)));
    scheduler.wake(vcpu);
    clock.advance(SLICE / 4);
    scheduler.leave(0, key_of(&other), &Leave::Blocked(&|| true));
    assert_eq!(told.charged(), [(key_of(&other), SLICE / 4)], "it sleeps not, and has not yielded");
    assert_eq!(picked(&scheduler, 0), Some(vcpu));
    scheduler.leave(0, vcpu, &Leave::Ready);
    assert_eq!(told.charged(), [(vcpu, SLICE)], "the rest is given away");
    assert_eq!(picked(&scheduler, 0), Some(key_of(&other)));
    clock.advance(3 * SLICE);
    scheduler.leave(0, key_of(&other), &Leave::Ready);
    assert_eq!(told.charged(), [(key_of(&other), 3 * SLICE)], "whoever overstays pays for it");
}

/// Notes what it was told, and takes anybody.
#[derive(Debug, Default, Clone)]
struct Told {
    waiting: Arc<std::sync::Mutex<Vec<VcpuKey>>>,
    charged: Arc<std::sync::Mutex<Vec<(VcpuKey, u64)>>>,
}

impl Told {
    /// Which turns cost how much, since it was asked last.
    fn charged(&self) -> Vec<(VcpuKey, u64)> {
        std::mem::take(&mut self.charged.lock().unwrap())
    }
}

impl Policy for Told {
    fn ready(&mut self, vcpu: VcpuKey) {
        self.waiting.lock().unwrap().push(vcpu);
    }

    fn withdraw(&mut self, vcpu: VcpuKey) {
        let mut waiting = self.waiting.lock().unwrap();
        let place = waiting.iter().position(|&waits| waits == vcpu).expect("it waited");
        waiting.remove(place);
    }

    fn forget(&mut self, vcpu: VcpuKey) {
        self.waiting.lock().unwrap().retain(|&waits| waits != vcpu);
    }

    fn charge(&mut self, vcpu: VcpuKey, cost: u64) {
        self.charged.lock().unwrap().push((vcpu, cost));
    }

    fn next(&mut self, now: u64, may_run: &dyn Fn(VcpuKey) -> bool) -> Option<Turn> {
        let mut waiting = self.waiting.lock().unwrap();
        let place = waiting.iter().position(|&vcpu| may_run(vcpu))?;
        Some(Turn { vcpu: waiting.remove(place), until: now + SLICE })
    }
}

/// Whatever happens to vCPUs, the policy has each that waits for a pcpu once, and no other; and each pcpu, which looks
/// without the lock, sees when its turn is over.
#[test]
fn pcpus_and_the_policy_know_exactly_what_holds() {
    let world = World::new();
    let told = Told::default();
    let guests: Vec<_> = (0..3).map(|_| Guest::build(&world.services)).collect();
    let kicks = (0..2).map(|_| -> Arc<dyn Kick> { Arc::new(FakeKick::default()) }).collect();
    let clock = Arc::new(FakeClock::default());
    let alarm = Arc::new(Alarm::new(clock.clone()));
    let scheduler = Scheduler::new(clock.clone(), alarm, Box::new(told.clone()), kicks);
    let mut random = Random::new(7);
    for guest in &guests {
        guest.domain.life().start();
        scheduler.start(&guest.domain);
    }
    let mut on: [Option<VcpuKey>; 2] = [None; 2];
    let (mut seen, mut ended) = ([0; 3], 0);
    for step in 0..20_000 {
        scheduler.alarm.sleeps_until(scheduler.next_kick());
        let guest = &guests[random.below(3) as usize].domain;
        let vcpu = guest.vcpus()[random.below(3) as usize].key();
        let pcpu = random.below(2) as usize;
        match random.below(8) {
            0 => scheduler.up(guest, vcpu),
            1 => drop(scheduler.down(vcpu)),
            2 => scheduler.wake(vcpu),
            // Only where nothing of it is on a pcpu: this test is the pcpus as well.
            3 if scheduler.state.lock().is_quiet(guest.id()) && guest.life().pause() => {
                assert!(scheduler.pause(guest));
            }
            4 if guest.life().unpause() => scheduler.unpause(guest),
            5 | 6 => match on[pcpu].take() {
                Some(left) => {
                    let leave = if random.below(2) == 0 { Leave::Ready } else { Leave::Blocked(&|| false) };
                    scheduler.leave(pcpu, left, &leave);
                    scheduler.saved(left);
                }
                None => on[pcpu] = picked(&scheduler, pcpu),
            },
            7 if step % 50 == 0 => scheduler.evict(guest.id()),
            7 if step % 7 == 0 => scheduler.kick_overdue(),
            _ => clock.advance(random.below(SLICE)),
        }
        let state = scheduler.state.lock();
        let waits: Vec<_> =
            state.vcpus.iter().filter(|(_, entry)| entry.waits()).map(|(&key, _)| key).collect();
        let mut knows = told.waiting.lock().unwrap().clone();
        knows.sort_unstable();
        assert_eq!((knows, state.others_wait()), (waits.clone(), !waits.is_empty()), "step {step}");
        seen[waits.len().min(2)] += 1;
        let over = |slot: &PcpuState| {
            let Some(turn) = slot.turn else { return false };
            let slice_is_over = !waits.is_empty() && turn.until <= clock.now();
            slice_is_over || slot.refresh_at <= clock.now() || !state.vcpus[&turn.vcpu].may_run()
        };
        let expected: Vec<_> = state.slots.iter().map(over).collect();
        let ends = |slot: &PcpuState| {
            let turn = slot.turn?;
            let end = if waits.is_empty() { slot.refresh_at } else { turn.until.min(slot.refresh_at) };
            Some(end.max(slot.kick_again_at))
        };
        let first_end = state.slots.iter().filter_map(ends).min().unwrap_or(u64::MAX);
        drop(state);
        assert!(scheduler.alarm.at() <= first_end, "step {step}: the alarm's thread sleeps on");
        assert_eq!([0, 1].map(|pcpu| scheduler.turn_is_over(pcpu)), expected[..], "step {step}");
        ended += expected.iter().filter(|&&is_over| is_over).count();
    }
    assert!(seen.iter().all(|&steps| steps > 1000), "none, one, and more waited: {seen:?}");
    assert!(ended > 1000, "{ended} turns were over");
}
