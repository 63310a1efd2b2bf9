//! `set_trap_table`.

use super::{Arguments, Call, Reply, done, refuse};
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
    // One vector may be listed often; still, no table is longer than this.
    let array =
        GuestArray::<TrapInfo>::new(table, VECTORS as u64 + 1).or_else(|_| GuestArray::new(table, 1))?;
    for index in 0..array.len() {
        let entry = array.get(&call.space(), index)?;
        if entry.address == 0 {
            return done();
        }
        if !is_canonical(entry.address) {
            return refuse(Errno::EINVAL, "a handler's address is not canonical");
        }
        call.vcpu.traps.set(entry);
    }
    refuse(Errno::E2BIG, "the trap table does not end")
}
