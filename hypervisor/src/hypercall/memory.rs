//! `memory_op`: what memory there is. Changes of it are in [`super::reservation`].

use super::reservation::{current, decrease, exchange, increase};
use super::{Arguments, Call, Outcome, Reply, done, no_such_operation, refuse};
use pv_abi::memory::{COMMAND_MASK, E820Entry, MachphysMapping, MemoryDomain, MemoryMap, MemoryOp};
use pv_abi::{Errno, PAGE_SHIFT};

/// `memory_op(op, argument)`.
pub fn memory_op(call: &mut Call<'_>, [op, at, ..]: Arguments) -> Reply {
    match MemoryOp(op & COMMAND_MASK) {
        MemoryOp::INCREASE_RESERVATION => increase(call, at, false),
        MemoryOp::POPULATE_PHYSMAP => increase(call, at, true),
        MemoryOp::DECREASE_RESERVATION => decrease(call, at),
        MemoryOp::EXCHANGE => exchange(call, at),
        MemoryOp::MAXIMUM_RAM_PAGE => Ok(Outcome::Done(call.services.mmu.layout().frames)),
        MemoryOp::CURRENT_RESERVATION => reservation(call, at, current(call)),
        MemoryOp::MAXIMUM_RESERVATION => reservation(call, at, call.domain.maximum_pages()),
        MemoryOp::MEMORY_MAP => memory_map(call, at),
        MemoryOp::MACHPHYS_MAPPING => {
            let layout = call.services.mmu.layout();
            let (v_start, v_end) = (layout.m2p_address.start, layout.m2p_address.end);
            call.write(at, &MachphysMapping { v_start, v_end, max_mfn: layout.frames.saturating_sub(1) })?;
            done()
        }
        _ => no_such_operation(),
    }
}

fn reservation(call: &Call<'_>, at: u64, pages: u64) -> Reply {
    let MemoryDomain { domid } = call.read(at)?;
    call.check_self(domid)?;
    Ok(Outcome::Done(pages))
}

/// One entry: all that the domain may have, from 0 up.
fn memory_map(call: &Call<'_>, at: u64) -> Reply {
    let mut map: MemoryMap = call.read(at)?;
    if map.nr_entries == 0 {
        return refuse(Errno::EINVAL, "no room for the memory map");
    }
    let size = call.domain.maximum_pages() << PAGE_SHIFT;
    call.write(map.buffer, &E820Entry { addr: 0, size, kind: E820Entry::RAM })?;
    map.nr_entries = 1;
    call.write(at, &map)?;
    done()
}
