//! A page that its guest wants back while the back-end has it.

use super::{SECTORS, honest};
use crate::served::{Served, disk};
use crate::support::check;
use crate::tiny_guest::{Code, DATA_PAGE, DATA_REF, SCRATCH};
use backends::block::image::{Image, MemoryImage};
use libtest_mimic::Failed;
use pv_abi::grant_table::GrantEntry;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::io::block::{Request, SECTOR_BYTES, Status};
use pv_abi::mmu::{MmuExtCommand, MmuExtOp};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vm_memory::VolatileSlice;

/// A disk whose reads wait until the test lets them.
#[derive(Debug)]
struct Gate {
    image: MemoryImage,
    reached: AtomicBool,
    open: AtomicBool,
}

impl Image for Gate {
    fn bytes(&self) -> u64 {
        self.image.bytes()
    }

    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        self.reached.store(true, Ordering::SeqCst);
        while !self.open.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.image.read(offset, into)
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<usize> {
        self.image.write(offset, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.image.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.image.discard(offset, length)
    }
}

/// While the back-end reads into a page, the guest unmaps the page, revokes its grant and wants a page table of it: what is
/// written there then would be entries that nobody has checked. That is refused until the request has ended, and the
/// next request by that grant is.
pub fn meanwhile() -> Result<(), Failed> {
    let served = Served::new()?;
    let gate = Arc::new(Gate {
        image: MemoryImage::new(SECTORS * SECTOR_BYTES, &[])?,
        reached: AtomicBool::new(false),
        open: AtomicBool::new(false),
    });
    let (pin, unpin) = (SCRATCH + 0x100, SCRATCH + 0x140);
    let mut code = Code::default();
    code.find_store().connect_disk();
    code.hypercall(N::UPDATE_VA_MAPPING, &[DATA_PAGE, 0, 2]).say(); // and flush that address
    code.ask_disk(&honest()).await_poke(SCRATCH);
    code.hypercall(N::MMUEXT_OP, &[pin, 1, 0, 0x7ff0]).say();
    code.await_disk().ask_disk(&Request { id: 1, ..honest() }).await_disk();
    code.hypercall(N::MMUEXT_OP, &[pin, 1, 0, 0x7ff0]).say();
    code.hypercall(N::MMUEXT_OP, &[unpin, 1, 0, 0x7ff0]).say().park();
    let attacker = served.build_with_disk(&code, disk(gate.clone(), true))?;
    let guest = &attacker.guest;
    let page = guest.mfn(DATA_PAGE);
    guest.poke(pin, &MmuExtOp::new(MmuExtCommand::PIN_L1_TABLE, page.0));
    guest.poke(unpin, &MmuExtOp::new(MmuExtCommand::UNPIN_TABLE, page.0));
    guest.start()?;
    guest.wait_for(|| gate.reached.load(Ordering::SeqCst))?;
    guest.set_grant(DATA_REF.0, &GrantEntry { flags: 0, domid: 0, frame: 0 })?;
    guest.poke(SCRATCH, &1u64);
    guest.wait_for(|| guest.said().len() == 2)?;
    served.neighbour_goes_on()?;
    gate.open.store(true, Ordering::SeqCst);
    guest.wait_until_parked()?;
    let said: Vec<i64> = guest.said().iter().map(|&word| word as i64).collect();
    check(matches!(said[..], [0, refused, 0, 0] if refused < 0), || format!("{said:?}"))?;
    let answers: Vec<Status> = guest.answers().values().map(|answer| answer.status).collect();
    check(answers == [Status::OKAY, Status::ERROR], || format!("{answers:?}"))?;
    served.end(attacker)?;
    served.finish()
}
