//! The console ring: two byte rings in a page shared with the back-end (`pv_abi::io::console`).
//!
//! Invariants: we write `out_prod` and `in_cons` only; bytes are stored before the index that publishes
//! them, and an index of the other side is read once and checked before use. A back-end whose indices
//! make no sense gets no more output and gives no more input.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use pv_abi::event_channel::{EventChannelOp, PortArgument};
use pv_abi::io::console::{self, ConsoleInterface, IN_SIZE, OUT_SIZE};
use pv_abi::{EventPort, Mfn};

use crate::arch::hypercall;
use crate::memory::{linear, translation};
use crate::time;

/// The front-end's side of the ring (`struct xencons_interface`), and the port that goes with it.
#[derive(Clone, Copy)]
pub struct Ring {
    page: u64,
    port: EventPort,
}

impl Ring {
    /// The ring in `frame`, unless the frame is not ours.
    pub fn new(frame: Mfn, port: EventPort) -> Option<Self> {
        Some(Self { page: linear::address(translation::pfn(frame)?), port })
    }

    /// The port that both sides notify.
    pub fn port(&self) -> EventPort {
        self.port
    }

    fn index(&self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: an aligned word of a page that stays the console's for ever; atomic on both sides.
        unsafe { &*((self.page + offset as u64) as *const AtomicU32) }
    }

    fn byte(&self, offset: usize) -> &'static AtomicU8 {
        // SAFETY: as above; callers keep the offset inside the page.
        unsafe { &*((self.page + offset as u64) as *const AtomicU8) }
    }

    /// Writes everything, waiting for room where there is none. The back-end learns of it by `notify`.
    pub fn write(&self, mut bytes: &[u8]) {
        let out_prod = self.index(offset_of!(ConsoleInterface, out_prod));
        while !bytes.is_empty() {
            let produced = out_prod.load(Ordering::Relaxed);
            let consumed = self.index(offset_of!(ConsoleInterface, out_cons)).load(Ordering::Acquire);
            let Ok(room) = console::free(OUT_SIZE, produced, consumed) else { return };
            if room == 0 {
                self.notify();
                hypercall::sched_yield();
                continue;
            }
            let (offset, length) = console::run(OUT_SIZE, produced, room.min(bytes.len() as u32));
            let (now, later) = bytes.split_at(length as usize);
            for (index, byte) in now.iter().enumerate() {
                let place = offset_of!(ConsoleInterface, output) + offset as usize + index;
                self.byte(place).store(*byte, Ordering::Relaxed);
            }
            out_prod.store(produced.wrapping_add(length), Ordering::Release);
            bytes = later;
        }
    }

    /// Hands what has arrived to `take`, at most `limit` bytes of it. The rest stays in the ring.
    pub fn read(&self, limit: usize, mut take: impl FnMut(&[u8])) {
        let in_cons = self.index(offset_of!(ConsoleInterface, in_cons));
        let consumed = in_cons.load(Ordering::Relaxed);
        let produced = self.index(offset_of!(ConsoleInterface, in_prod)).load(Ordering::Acquire);
        let Ok(count) = console::used(IN_SIZE, produced, consumed) else { return };
        let count = count.min(limit as u32);
        for index in 0..count {
            let (offset, _) = console::run(IN_SIZE, consumed.wrapping_add(index), 1);
            take(&[self.byte(offset_of!(ConsoleInterface, input) + offset as usize).load(Ordering::Relaxed)]);
        }
        if count > 0 {
            in_cons.store(consumed.wrapping_add(count), Ordering::Release);
            self.notify();
        }
    }

    /// Waits until the back-end has taken everything, but not for one that has stopped taking.
    pub fn drain(&self) {
        let deadline = time::now() + time::SECOND;
        while time::now() < deadline {
            let produced = self.index(offset_of!(ConsoleInterface, out_prod)).load(Ordering::Relaxed);
            let consumed = self.index(offset_of!(ConsoleInterface, out_cons)).load(Ordering::Acquire);
            if console::used(OUT_SIZE, produced, consumed) != Ok(0) {
                hypercall::sched_yield();
            } else {
                return;
            }
        }
    }

    /// Tells the back-end that there is something to do.
    pub fn notify(&self) {
        // A refusal means that the port is gone, and nobody is there to be told.
        let _ = hypercall::event_channel_op(EventChannelOp::SEND, &mut PortArgument { port: self.port });
    }
}
