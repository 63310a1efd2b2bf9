//! Who runs next, and for how long: policy, apart from everything that happens because of it.

use crate::clock::MILLISECOND;
use crate::vcpu::VcpuKey;
use std::collections::VecDeque;
use std::fmt::Debug;

/// A vCPU's turn on a pcpu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose it is.
    pub vcpu: VcpuKey,
    /// System time at which it ends if somebody else waits.
    pub until: u64,
}

/// Chooses among the vCPUs that can run.
pub trait Policy: Debug + Send {
    /// `vcpu` can run, and is not on a pcpu: it has woken, yielded, or its turn is over.
    fn ready(&mut self, vcpu: VcpuKey, now: u64);

    /// The next turn among those that are ready and that this pcpu may run. Whoever gets it is not ready any more.
    fn next(&mut self, now: u64, may_run: &dyn Fn(VcpuKey) -> bool) -> Option<Turn>;
}

/// Everybody in turn, for equal slices.
#[derive(Debug, Default)]
pub struct RoundRobin(VecDeque<VcpuKey>);

/// Length of a slice.
pub const SLICE: u64 = 5 * MILLISECOND;

impl Policy for RoundRobin {
    fn ready(&mut self, vcpu: VcpuKey, _now: u64) {
        self.0.push_back(vcpu);
    }

    fn next(&mut self, now: u64, may_run: &dyn Fn(VcpuKey) -> bool) -> Option<Turn> {
        let place = self.0.iter().position(|&vcpu| may_run(vcpu))?;
        let vcpu = self.0.remove(place)?;
        Some(Turn { vcpu, until: now.saturating_add(SLICE) })
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
        let mut policy = RoundRobin::default();
        (1..=3).for_each(|domain| policy.ready(key(domain), 0));
        for round in 0..6u16 {
            let turn = policy.next(100, &|_| true).unwrap();
            assert_eq!(turn, Turn { vcpu: key(round % 3 + 1), until: 100 + SLICE });
            policy.ready(turn.vcpu, 100);
        }
    }

    #[test]
    fn who_may_not_run_here_keeps_its_place() {
        let mut policy = RoundRobin::default();
        (1..=2).for_each(|domain| policy.ready(key(domain), 0));
        assert_eq!(policy.next(0, &|vcpu| vcpu != key(1)).unwrap().vcpu, key(2));
        assert_eq!(policy.next(0, &|vcpu| vcpu != key(1)), None);
        assert_eq!(policy.next(0, &|_| true).unwrap().vcpu, key(1));
    }
}
