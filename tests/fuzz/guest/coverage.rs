//! How far the calls came: a fuzzer whose every call is refused at once proves nothing.

use crate::calls::Case;
use crate::kernel::{HYPERCALL_GATES, Move, SET_UP_CALLS};
use crate::support::check;
use hypervisor::domain::{End, Statistics};
use hypervisor::hypercall::{TABLE, find};
use libtest_mimic::Failed;
use pv_abi::Errno;
use pv_abi::extension::HYPERCALL_NUMBER;
use pv_abi::hypercall::HypercallNumber as N;
use std::collections::BTreeMap;

/// What must succeed now and then, by operations where a call has such: all of what deals with page tables, frames
/// and ports.
const MUST_SUCCEED: [(N, &[u64]); 13] = [
    (N::MMU_UPDATE, &[0]),
    (N::UPDATE_VA_MAPPING, &[0]),
    // Pins of each level, unpin, both roots.
    (N::MMUEXT_OP, &[0, 1, 2, 3, 4, 5, 15]),
    // Decrease, populate.
    (N::MEMORY_OP, &[1, 6]),
    // Bind a virtual interrupt and one between processors, close, send, status, new port.
    (N::EVENT_CHANNEL_OP, &[1, 3, 4, 5, 6, 7]),
    // Map, unmap, copy, set up, query: that the first maps something, `mapped` tells.
    (N::GRANT_TABLE_OP, &[0, 1, 5, 2, 6]),
    (N::MULTICALL, &[0]),
    (N::SET_GDT, &[0]),
    (N::UPDATE_DESCRIPTOR, &[0]),
    // Is it up?
    (N::VCPU_OP, &[3]),
    // Yield.
    (N::SCHED_OP, &[0]),
    (N::XEN_VERSION, &[0]),
    // An exit status, a doorbell.
    (N(HYPERCALL_NUMBER), &[0, 1]),
];

/// What was counted of all guests so far.
#[derive(Default)]
pub struct Coverage {
    guests: u64,
    ended: BTreeMap<&'static str, u64>,
    made: BTreeMap<u64, u64>,
    exits: BTreeMap<&'static str, u64>,
    /// By number and operation.
    succeeded: BTreeMap<(u64, u64), u64>,
    /// Mappings of what the canary lends that were seen.
    pub mapped: u64,
    /// Guests beside which everything was recounted.
    pub recounted: u64,
}

impl Coverage {
    /// Hypercalls made, but for those of setting up.
    pub fn calls(&self) -> u64 {
        self.made.values().sum::<u64>().saturating_sub(self.guests * SET_UP_CALLS)
    }

    /// A guest's end, and what the hypervisor counted of it.
    pub fn ended(&mut self, end: &End, statistics: &Statistics) {
        self.guests += 1;
        let how = match end {
            End::Shutdown(_) | End::Stopped => "shut down",
            End::Crashed(_) => "crashed",
            End::HostFailed(_) => "failed by the host",
            End::Destroyed => "lived",
        };
        *self.ended.entry(how).or_default() += 1;
        for row in TABLE {
            *self.made.entry(row.number).or_default() += statistics.hypercalls_of(row.number);
        }
        for (kind, count) in statistics.snapshot().exits {
            *self.exits.entry(kind).or_default() += count;
        }
    }

    /// Counts the hypercalls that succeeded. A move without a result was not made, or did not return.
    pub fn results(&mut self, moves: &[Move], results: &[Option<u64>]) {
        for ((case, gate), result) in moves.iter().zip(results) {
            let is_call = *gate < HYPERCALL_GATES;
            if is_call && result.is_some_and(|result| Errno::from_return(result).is_ok()) {
                *self.succeeded.entry((case.number, operation(case))).or_default() += 1;
            }
        }
    }

    /// The report in words, for whoever runs the fuzzer.
    pub fn report(&self) -> String {
        let mut by_number: BTreeMap<u64, u64> = BTreeMap::new();
        for ((number, _), count) in &self.succeeded {
            *by_number.entry(*number).or_default() += count;
        }
        let name = |number: u64| find(number).map_or("?", |row| row.name);
        let succeeded: Vec<String> =
            by_number.into_iter().map(|(number, count)| format!("{} {count}", name(number))).collect();
        format!(
            "guest_fuzz_calls {}\nguest_fuzz_guests {} {:?}, recounted beside {}\nguest_fuzz_mapped {}\n\
             guest_fuzz_succeeded {}",
            self.calls(),
            self.guests,
            self.ended,
            self.recounted,
            self.mapped,
            succeeded.join(", ")
        )
    }

    /// Every hypercall was reached, by both gates and beside exceptions, and the deep ones were carried out.
    pub fn check(&self) -> Result<(), Failed> {
        for row in TABLE {
            check(self.made[&row.number] > 0, || format!("{} was never called", row.name))?;
        }
        for kind in ["syscall", "doorbell", "unanswered", "exception"] {
            check(self.exits[kind] > 0, || format!("there was no exit by {kind}"))?;
        }
        check(self.mapped > 0, || "nothing that the canary lends was ever mapped".into())?;
        check(self.recounted > 0, || "nothing was ever recounted beside a guest".into())?;
        for (number, operations) in MUST_SUCCEED {
            for operation in operations {
                let succeeded = self.succeeded.contains_key(&(number.0, *operation));
                check(succeeded, || format!("operation {operation} of {number} never succeeded"))?;
            }
        }
        Ok(())
    }
}

/// What a call asks for, where it has operations: of a batch of several, none.
fn operation(case: &Case) -> u64 {
    match N(case.number) {
        N::MMU_UPDATE | N::UPDATE_VA_MAPPING | N::SET_GDT | N::MULTICALL | N::UPDATE_DESCRIPTOR => 0,
        N::MMUEXT_OP if case.arguments[1] == 1 => case.memory[0].1[0],
        N::MMUEXT_OP => u64::MAX,
        _ => case.arguments[0],
    }
}
