//! Who runs next, and for how long: policy, apart from everything that happens because of it.

use crate::clock::MILLISECOND;
use crate::vcpu::VcpuKey;
use pv_abi::DomId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;

/// A vCPU's turn on a pcpu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The vCPU that may run.
    pub vcpu: VcpuKey,
    /// System time at which it ends if somebody else waits.
    pub until: u64,
}

/// Chooses among the vCPUs that wait for a pcpu.
pub trait Policy: Debug + Send {
    /// `vcpu` waits from now on: it has woken, yielded, its turn is over, or it may run again.
    fn ready(&mut self, vcpu: VcpuKey);

    /// `vcpu` does not wait any more, and had no turn: it was stopped, or its domain is paused. When it waits again, it
    /// stands behind the others of its domain.
    fn withdraw(&mut self, vcpu: VcpuKey);

    /// The next turn among those that wait and that this pcpu may run. Whoever gets it does not wait any more.
    fn next(&mut self, now: u64, may_run: &dyn Fn(VcpuKey) -> bool) -> Option<Turn>;

    /// A turn of `vcpu` is over, which costs it `cost` nanoseconds.
    fn charge(&mut self, vcpu: VcpuKey, cost: u64);

    /// `vcpu` never runs again: were it still among those who wait, its number could be another's by its turn.
    fn forget(&mut self, vcpu: VcpuKey);
}

/// Domains share the pcpus evenly, whatever vCPUs they have: who had the least time is next. A domain's vCPUs run in
/// turn. (Start-time fair queueing with equal weights.)
#[derive(Debug, Default)]
pub struct FairShare {
    domains: BTreeMap<DomId, Share>,
    /// The domains with vCPUs that wait, by their [`Share::place`].
    waiting: BTreeSet<(u128, DomId)>,
    /// The place of the domain whose turn began last: who sleeps, or may not run, saves up no more than that.
    level: u128,
}

/// What a domain had, has, and has ready.
#[derive(Debug, Default)]
struct Share {
    /// Nanoseconds, counted from whatever [`FairShare::level`] was when it came. A yield costs a slice and takes no time: a
    /// guest that does nothing else would come to the end of 64 bits.
    had: u128,
    /// Turns that are not over: each counts as a whole slice, so that a domain of many vCPUs does not begin several at the
    /// price of one.
    turns: u64,
    /// The one that waits longest first.
    ready: VecDeque<VcpuKey>,
}

impl Share {
    /// What the turns cost that are not over.
    fn begun(&self) -> u128 {
        u128::from(self.turns).saturating_mul(SLICE.into())
    }

    /// Who has the least is next.
    fn place(&self) -> u128 {
        self.had.saturating_add(self.begun())
    }
}

/// How long a vCPU may run while others wait, in nanoseconds.
pub const SLICE: u64 = 5 * MILLISECOND;

impl FairShare {
    /// Changes what a domain that is known had or has, and with it its place among those who wait.
    fn change<R>(&mut self, domain: DomId, change: impl FnOnce(&mut Share) -> R) -> Option<R> {
        let share = self.domains.get_mut(&domain)?;
        self.waiting.remove(&(share.place(), domain));
        let changed = change(share);
        if !share.ready.is_empty() {
            self.waiting.insert((share.place(), domain));
        }
        Some(changed)
    }
}

impl Policy for FairShare {
    fn ready(&mut self, vcpu: VcpuKey) {
        let level = self.level;
        self.domains.entry(vcpu.domain).or_default();
        self.change(vcpu.domain, |share| {
            if share.ready.is_empty() {
                share.had = share.had.max(level.saturating_sub(share.begun()));
            }
            share.ready.push_back(vcpu);
        });
    }

    fn withdraw(&mut self, vcpu: VcpuKey) {
        self.change(vcpu.domain, |share| share.ready.retain(|&ready| ready != vcpu));
    }

    fn next(&mut self, now: u64, may_run: &dyn Fn(VcpuKey) -> bool) -> Option<Turn> {
        let first = |domain| self.domains.get(&domain)?.ready.iter().position(|&vcpu| may_run(vcpu));
        let mut waiting = self.waiting.iter();
        let (domain, index) = waiting.find_map(|&(_, domain)| Some((domain, first(domain)?)))?;
        let (level, vcpu) = self.change(domain, |share| {
            let level = share.place();
            share.turns = share.turns.saturating_add(1);
            (level, share.ready.remove(index))
        })?;
        self.level = level;
        let vcpu = vcpu?;
        Some(Turn { vcpu, until: now.saturating_add(SLICE) })
    }

    fn charge(&mut self, vcpu: VcpuKey, cost: u64) {
        self.change(vcpu.domain, |share| {
            share.turns = share.turns.saturating_sub(1);
            share.had = share.had.saturating_add(cost.into());
        });
    }

    fn forget(&mut self, vcpu: VcpuKey) {
        self.withdraw(vcpu);
        if self.domains.get(&vcpu.domain).is_some_and(|share| share.ready.is_empty()) {
            self.domains.remove(&vcpu.domain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::{DomId, VcpuId};

    fn key(domain: u16) -> VcpuKey {
        VcpuKey { domain: DomId(domain), vcpu: VcpuId(0) }
    }

    #[test]
    fn everybody_gets_a_turn_in_order() {
        let mut policy = FairShare::default();
        (1..=3).for_each(|domain| policy.ready(key(domain)));
        for round in 0..6u16 {
            let turn = policy.next(100, &|_| true).unwrap();
            assert_eq!(turn, Turn { vcpu: key(round % 3 + 1), until: 100 + SLICE });
            policy.ready(turn.vcpu);
        }
    }

    #[test]
    fn a_domain_with_more_vcpus_gets_no_more_turns() {
        let of_first = |vcpu| VcpuKey { domain: DomId(1), vcpu: VcpuId(vcpu) };
        let mut policy = FairShare::default();
        (0..3).for_each(|vcpu| policy.ready(of_first(vcpu)));
        policy.ready(key(2));
        for round in 0..6u32 {
            for expected in [of_first(round % 3), key(2)] {
                assert_eq!(policy.next(0, &|_| true).unwrap().vcpu, expected);
                policy.ready(expected);
            }
        }
    }

    #[test]
    fn who_slept_has_saved_up_nothing() {
        let mut policy = FairShare::default();
        policy.ready(key(1));
        for _ in 0..100 {
            policy.next(0, &|_| true).unwrap();
            policy.ready(key(1));
        }
        policy.ready(key(2));
        let turns: Vec<_> = (0..6)
            .map(|_| {
                let vcpu = policy.next(0, &|_| true).unwrap().vcpu;
                policy.ready(vcpu);
                vcpu.domain.0
            })
            .collect();
        assert_eq!(turns, [2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn who_is_withdrawn_gets_no_turn_and_its_domain_keeps_its_share() {
        let mut policy = FairShare::default();
        (1..=2).for_each(|domain| policy.ready(key(domain)));
        assert_eq!(policy.next(0, &|_| true).unwrap().vcpu, key(1));
        policy.ready(key(1));
        policy.withdraw(key(1));
        policy.ready(key(1));
        let turns = [(); 2].map(|()| policy.next(0, &|_| true).unwrap().vcpu);
        assert_eq!(turns, [key(2), key(1)], "it had one already");
        policy.ready(key(1));
        policy.withdraw(key(1));
        assert_eq!(policy.next(0, &|_| true), None);
    }

    /// Whoever has the number next has nothing to do with what the last one had.
    #[test]
    fn a_debt_goes_with_its_domain() {
        let mut policy = FairShare::default();
        (1..=2).for_each(|domain| policy.ready(key(domain)));
        assert_eq!(policy.next(0, &|_| true).unwrap().vcpu, key(1));
        policy.charge(key(1), 100 * SLICE);
        policy.forget(key(1));
        policy.ready(key(1));
        let turns = [(); 2].map(|()| policy.next(0, &|_| true).unwrap().vcpu);
        assert_eq!(turns, [key(1), key(2)]);
    }

    #[test]
    fn no_guest_comes_to_the_end_of_the_numbers() {
        let mut policy = FairShare::default();
        for _ in 0..10 {
            policy.ready(key(2));
            let turn = policy.next(0, &|_| true).unwrap();
            policy.charge(turn.vcpu, u64::MAX);
        }
        (1..=2).for_each(|domain| policy.ready(key(domain)));
        let turns = [(); 10].map(|()| {
            let vcpu = policy.next(0, &|_| true).unwrap().vcpu;
            policy.charge(vcpu, u64::MAX);
            policy.ready(vcpu);
            vcpu.domain.0
        });
        assert_eq!(turns, [1, 1, 2, 1, 2, 1, 2, 1, 2, 1], "the first owes a turn less when it comes");
    }

    #[test]
    fn who_is_forgotten_gets_no_turn() {
        let mut policy = FairShare::default();
        (1..=2).for_each(|domain| policy.ready(key(domain)));
        policy.forget(key(1));
        assert_eq!(policy.next(0, &|_| true).unwrap().vcpu, key(2));
        assert_eq!(policy.next(0, &|_| true), None);
    }

    #[test]
    fn who_may_not_run_here_keeps_its_place() {
        let mut policy = FairShare::default();
        (1..=2).for_each(|domain| policy.ready(key(domain)));
        assert_eq!(policy.next(0, &|vcpu| vcpu != key(1)).unwrap().vcpu, key(2));
        assert_eq!(policy.next(0, &|vcpu| vcpu != key(1)), None);
        assert_eq!(policy.next(0, &|_| true).unwrap().vcpu, key(1));
    }
}
