//! The frame allocator: one bit a frame, next fit.
//!
//! A free frame is writable in the linear map and mapped nowhere else. Frames that the linear map does
//! not cover yet are not handed out: `linear::extend` releases them as it goes.

use alloc::vec::Vec;

use pv_abi::{PAGE_SIZE, Pfn};

use super::translation;
use super::{LOW_FRAMES, VIRT_BASE};
use crate::start_info;
use crate::sync::Local;

const LOW_WORDS: usize = LOW_FRAMES as usize / 64;

struct Frames {
    /// One bit for each of the first [`LOW_FRAMES`] frames: it is set while the frame is free.
    low: [u64; LOW_WORDS],
    /// The same for the frames behind those; empty until there is a heap.
    high: Vec<u64>,
    count: u64,
    next_word: usize,
}

static FRAMES: Local<Frames> =
    Local::new(Frames { low: [0; LOW_WORDS], high: Vec::new(), count: 0, next_word: 0 });

impl Frames {
    fn words(&self) -> usize {
        LOW_WORDS + self.high.len()
    }

    fn word(&mut self, index: usize) -> &mut u64 {
        match index.checked_sub(LOW_WORDS) {
            None => &mut self.low[index],
            Some(index) => &mut self.high[index],
        }
    }
}

/// Releases what the domain builder has mapped and not used: the frames below the image.
pub fn init() {
    release(0, super::protect::image_start());
}

/// The first pfn behind everything that the domain builder placed.
pub fn first_unplaced() -> u64 {
    let info = start_info::with(|info| *info);
    let pfn_behind = |address: u64, bytes: u64| {
        address.saturating_sub(VIRT_BASE).saturating_add(bytes).div_ceil(PAGE_SIZE as u64)
    };
    let rings = [info.store_mfn, info.console_mfn];
    let rings = if start_info::is_control_domain() { &[] } else { &rings[..] };
    let rings = rings.iter().filter_map(|mfn| translation::pfn(*mfn)).map(|pfn| pfn.0 + 1);
    let module = if info.mod_len > 0 { pfn_behind(info.mod_start, info.mod_len) } else { 0 };
    let list = pfn_behind(info.mfn_list, info.nr_pages * 8);
    // The boot stack, one page behind the tables, has been left: it is free.
    let tables = pfn_behind(info.pt_base, info.nr_pt_frames * PAGE_SIZE as u64);
    let first = rings.chain([super::protect::image_end(), module, list, tables]).max().unwrap_or(0);
    // The list of frames has 8 bytes for each: so this is what a kernel says that is given some 500 GiB.
    assert!(first < LOW_FRAMES, "what the domain builder placed does not fit into the first GiB of memory");
    first
}

/// Makes room to note the frames behind the lower ones.
pub fn make_room() {
    let words = translation::frames().saturating_sub(LOW_FRAMES).div_ceil(64);
    let room = alloc::vec![0; words as usize];
    FRAMES.with(|frames| frames.high = room);
}

/// Makes the pfns from `start` up to, not including, `end` available.
pub fn release(start: u64, end: u64) {
    (start..end).for_each(|pfn| free(Pfn(pfn)));
}

/// Takes a frame, with whatever it holds.
pub fn allocate() -> Option<Pfn> {
    FRAMES.with(|frames| {
        if frames.count == 0 {
            return None;
        }
        let words = frames.next_word..frames.words();
        let index = words.chain(0..frames.next_word).find(|index| *frames.word(*index) != 0)?;
        let word = frames.word(index);
        let bit = word.trailing_zeros();
        *word &= !(1 << bit);
        frames.count -= 1;
        frames.next_word = index;
        Some(Pfn(index as u64 * 64 + u64::from(bit)))
    })
}

/// Takes `count` adjoining frames of the lower ones: the first one's number, which is a multiple of `alignment`.
pub fn allocate_run(count: u64, alignment: u64) -> Option<Pfn> {
    FRAMES.with(|frames| {
        let mut start = 0;
        for pfn in 0..LOW_FRAMES {
            if pfn < start {
                continue;
            }
            if frames.low[pfn as usize / 64] & 1 << (pfn % 64) == 0 {
                start = (pfn + 1).next_multiple_of(alignment);
            } else if pfn + 1 - start == count {
                (start..=pfn).for_each(|pfn| frames.low[pfn as usize / 64] &= !(1 << (pfn % 64)));
                frames.count -= count;
                return Some(Pfn(start));
            }
        }
        None
    })
}

/// Gives a frame back. It must be writable in the linear map, and mapped nowhere else.
pub fn free(pfn: Pfn) {
    FRAMES.with(|frames| {
        let word = frames.word(pfn.0 as usize / 64);
        let bit = 1 << (pfn.0 % 64);
        assert!(*word & bit == 0, "{pfn:?} freed twice");
        *word |= bit;
        frames.count += 1;
    });
}

/// How many frames are free.
pub fn free_frames() -> u64 {
    FRAMES.with(|frames| frames.count)
}
