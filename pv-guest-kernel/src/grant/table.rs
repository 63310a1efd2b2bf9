//! The grant table itself: its frames, and the life of an entry.
//!
//! Invariants:
//! - An entry that is free has flags of 0, and nobody may use anything by it.
//! - Frame and domain are written while the flags are 0, and the flags last.
//! - Flags become 0 by an exchange that finds the entry not in use, or not at all.

use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use pv_abi::grant_table::{
    ENTRIES_PER_FRAME, GrantEntry, GrantStatus, GrantTableOp, RESERVED_ENTRIES, SetupTable,
};
use pv_abi::{DomId, GrantRef, Mfn};

use super::{Error, outcome};
use crate::arch::hypercall;
use crate::memory::{KERNEL_DATA, SharedPage, Window};
use crate::sync::Local;

/// Frames that the table may have: windows are for other things too.
const MAX_FRAMES: usize = 32;

struct Table {
    frames: Vec<(Window, SharedPage)>,
    /// Entries that are free, the one to take next at the end.
    free: Vec<GrantRef>,
}

static TABLE: Local<Option<Table>> = Local::new(None);

/// Asks for the first frame.
pub fn init() -> Result<(), Error> {
    let mut table = Table { frames: Vec::new(), free: Vec::new() };
    table.grow()?;
    table.free.retain(|reference| reference.0 >= RESERVED_ENTRIES);
    TABLE.with(|place| *place = Some(table));
    Ok(())
}

/// Asks for a table of so many frames, and tells where they are.
pub fn set_up(frames: usize) -> Result<Vec<Mfn>, Error> {
    let mut list = alloc::vec![Mfn(0); frames];
    let mut request = [SetupTable {
        dom: DomId::SELF,
        padding0: 0,
        nr_frames: frames as u32,
        status: GrantStatus::GENERAL_ERROR,
        padding1: [0; 3],
        frame_list: list.as_mut_ptr() as u64,
    }];
    // SAFETY: writes the list; no mapping changes.
    let made = unsafe { hypercall::grant_table_op(GrantTableOp::SETUP_TABLE, &mut request) };
    outcome(made, request[0].status)?;
    Ok(list)
}

impl Table {
    /// Adds one frame to the table (`GNTTABOP_setup_table`), shows it in a window, and makes its entries free ones.
    fn grow(&mut self) -> Result<(), Error> {
        let index = self.frames.len();
        if index == MAX_FRAMES {
            return Err(Error::TableFull);
        }
        let frames = set_up(index + 1)?;
        let frame = frames.last().ok_or(Error::NoTable)?;
        let window = Window::take().ok_or(Error::NoWindow)?;
        window.show(*frame, KERNEL_DATA).map_err(Error::Refused)?;
        // SAFETY: the window shows the frame from now on, for good.
        let page = unsafe { SharedPage::at(window.address()) };
        self.frames.push((window, page));
        let first = index as u32 * ENTRIES_PER_FRAME;
        self.free.extend((first..first + ENTRIES_PER_FRAME).rev().map(GrantRef));
        Ok(())
    }

    /// The page of an entry, and its place there. Panics for a reference that the table does not reach.
    fn entry(&self, reference: GrantRef) -> (&SharedPage, usize) {
        let (frame, index) = (reference.0 / ENTRIES_PER_FRAME, reference.0 % ENTRIES_PER_FRAME);
        (&self.frames[frame as usize].1, index as usize * size_of::<GrantEntry>())
    }
}

fn with_table<R>(f: impl FnOnce(&mut Table) -> R) -> Result<R, Error> {
    TABLE.with(|table| table.as_mut().map(f).ok_or(Error::NoTable))
}

/// Takes an entry and lets `domain` use a frame by it: for writing too, or as `flags` say
/// ([`GrantEntry::READ_ONLY`]).
pub fn lend(domain: DomId, frame: Mfn, flags: u16) -> Result<GrantRef, Error> {
    let entry = GrantEntry::permit(domain, frame).ok_or(Error::FrameTooHigh)?;
    with_table(|table| {
        if table.free.is_empty() {
            table.grow()?;
        }
        let reference = table.free.pop().ok_or(Error::TableFull)?;
        let (page, offset) = table.entry(reference);
        page.word(offset + offset_of!(GrantEntry, frame)).store(entry.frame, Ordering::Relaxed);
        page.half_word(offset + offset_of!(GrantEntry, domid)).store(entry.domid, Ordering::Relaxed);
        page.half_word(offset).store(entry.flags | flags, Ordering::Release);
        Ok(reference)
    })?
}

/// The flags of an entry. Panics for a reference that the table does not reach.
pub fn flags(reference: GrantRef) -> u16 {
    let flags = with_table(|table| {
        let (page, offset) = table.entry(reference);
        page.half_word(offset).load(Ordering::Acquire)
    });
    flags.unwrap_or(0)
}

/// Takes an entry back. False where it is in use: then nothing has changed. Once it is taken back, nobody can reach the
/// frame by it.
pub fn take_back(reference: GrantRef) -> bool {
    with_table(|table| {
        let (page, offset) = table.entry(reference);
        let word = page.half_word(offset);
        let mut flags = word.load(Ordering::Relaxed);
        while flags & (GrantEntry::READING | GrantEntry::WRITING) == 0 {
            match word.compare_exchange_weak(flags, 0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    table.free.push(reference);
                    return true;
                }
                Err(now) => flags = now,
            }
        }
        false
    })
    .unwrap_or(false)
}
