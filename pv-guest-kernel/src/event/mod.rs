//! Event channels: from pending bits to tasks.
//!
//! The upcall itself only brings control into the kernel. `dispatch`, called by the scheduler's loop at
//! safe points, looks at the bits, which is all the state there is: first the upcall flag is cleared,
//! then the selector taken, then the words, so that an event that comes meanwhile sets the flag again.

mod bind;
#[allow(unsafe_code, reason = "rings doorbells")]
mod port;

use core::sync::atomic::Ordering;

use pv_abi::EventPort;

use crate::shared_info;

pub use bind::{alloc_unbound, bind_interdomain, bind_ipi, bind_virq, bind_virq_of, own_domain, status};
pub use port::{Port, counts};

/// Words of pending bits.
const WORDS: usize = 64;

/// Masks every port: each is unmasked when it is bound.
pub fn init() {
    for index in 0..WORDS {
        shared_info::mask(index).store(u64::MAX, Ordering::Relaxed);
    }
}

/// Wakes the tasks that wait for pending ports. False where there is nothing new.
pub fn dispatch() -> bool {
    if shared_info::upcall_pending().swap(0, Ordering::AcqRel) == 0 {
        return false;
    }
    let selector = shared_info::pending_selector().swap(0, Ordering::AcqRel);
    for index in bits(selector) {
        let ready = shared_info::pending(index).load(Ordering::Acquire)
            & !shared_info::mask(index).load(Ordering::Acquire);
        shared_info::pending(index).fetch_and(!ready, Ordering::AcqRel);
        bits(ready).for_each(|bit| port::fire(EventPort((index * 64 + bit) as u32)));
    }
    true
}

/// The positions of the set bits.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}
