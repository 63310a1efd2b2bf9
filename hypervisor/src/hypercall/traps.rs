//! `set_trap_table`.

use super::{Arguments, Call, Reply, done};
use crate::error::{Failure, Refusal};
use crate::guest_memory::GuestArray;
use pv_abi::Errno;
use pv_abi::address::is_canonical;
use pv_abi::trap::{TrapInfo, VECTORS};

/// `set_trap_table(table)`: sets the entries that are listed, up to one with address 0. A null pointer forgets all.
pub fn set_trap_table(call: &mut Call<'_>, [table, ..]: Arguments) -> Reply {
    if table == 0 {
        call.vcpu.traps.clear();
        return done();
    }
    call.spend(VECTORS as u32);
    let entries = listed(call, table)?;
    entries.into_iter().for_each(|entry| call.vcpu.traps.set(entry));
    done()
}

/// The entries of a table, all of them good.
fn listed(call: &Call<'_>, table: u64) -> Result<Vec<TrapInfo>, Failure> {
    let mut entries = Vec::new();
    // Its length is not known before its end is found, and that may be the last thing that is mapped.
    for index in 0..=VECTORS as u64 {
        let entry = GuestArray::<TrapInfo>::new(table, index.saturating_add(1))?.get(&call.space(), index)?;
        if entry.address == 0 {
            return Ok(entries);
        }
        if !is_canonical(entry.address) {
            return Err(Refusal::new(Errno::EINVAL, "a handler's address is not canonical").into());
        }
        entries.push(entry);
    }
    Err(Refusal::new(Errno::E2BIG, "the trap table does not end").into())
}
