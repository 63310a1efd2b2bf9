//! `multicall`: a batch of hypercalls. A refused call does not end it; `iret` does.

use super::dispatch::invoke;
use super::{Arguments, Call, Outcome, Reply};
use crate::guest_memory::GuestArray;
use pv_abi::Errno;
use pv_abi::hypercall::{HypercallNumber, MulticallEntry};
use std::mem::offset_of;

/// What a call costs beside what it does.
const COST_OF_CALL: u32 = 16;

/// `multicall(calls, count)`.
pub fn multicall(call: &mut Call<'_>, [array, count, ..]: Arguments) -> Reply {
    let array = GuestArray::<MulticallEntry>::new(array, u64::from(count as u32))?;
    while call.progress.calls < array.len() {
        if call.must_pause() {
            return Ok(Outcome::Preempted);
        }
        let index = call.progress.calls;
        let continued = call.progress.call;
        let entry = continued.map_or_else(|| array.get(&call.space(), index), Ok)?;
        call.progress.call = Some(entry);
        call.spend(COST_OF_CALL);
        let outcome = inner(call, &entry, continued.is_some())?;
        let result = match &outcome {
            Outcome::Done(value) => *value,
            Outcome::Yielded | Outcome::Blocked => 0,
            // It goes on with this entry.
            Outcome::Preempted | Outcome::Polling { .. } | Outcome::AwaitingRoom => return Ok(outcome),
            Outcome::Resumed | Outcome::Ended => return Ok(outcome),
        };
        let result_at = array.address_of(index)?.saturating_add(offset_of!(MulticallEntry, result) as u64);
        call.write(result_at, &result)?;
        call.progress.calls = call.progress.calls.saturating_add(1);
        (call.progress.call, call.progress.elements) = (None, 0);
        if matches!(outcome, Outcome::Yielded | Outcome::Blocked) && call.progress.calls == array.len() {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Done(0))
}

fn inner(call: &mut Call<'_>, entry: &MulticallEntry, continued: bool) -> Reply {
    if HypercallNumber(entry.op) == HypercallNumber::MULTICALL {
        return Ok(Outcome::Done(Errno::EINVAL.to_return()));
    }
    if !continued {
        call.domain.statistics().hypercall(entry.op);
    }
    invoke(call, entry.op, entry.args, continued)
}
