//! The frame allocator: one bit a frame, next fit.
//!
//! A free frame is writable in the linear map and mapped nowhere else. Frames that the linear map does
//! not cover yet are not handed out: `linear::extend` releases them as it goes.

use pv_abi::{PAGE_SIZE, Pfn};

use super::translation;
use super::{LINEAR_FRAMES, VIRT_BASE};
use crate::start_info;
use crate::sync::Local;

const WORDS: usize = LINEAR_FRAMES as usize / 64;

struct Frames {
    /// A set bit: free.
    free: [u64; WORDS],
    count: u64,
    next_word: usize,
}

static FRAMES: Local<Frames> = Local::new(Frames { free: [0; WORDS], count: 0, next_word: 0 });

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
    rings.chain([super::protect::image_end(), module, list, tables]).max().unwrap_or(0)
}

/// Makes the pfns from `start` up to, not including, `end` available.
pub fn release(start: u64, end: u64) {
    (start..end).for_each(|pfn| free(Pfn(pfn)));
}

/// Takes a frame, with whatever it holds.
pub fn allocate() -> Option<Pfn> {
    FRAMES.with(|frames| {
        let words = frames.next_word..WORDS;
        let word = words.chain(0..frames.next_word).find(|word| frames.free[*word] != 0)?;
        let bit = frames.free[word].trailing_zeros();
        frames.free[word] &= !(1 << bit);
        frames.count -= 1;
        frames.next_word = word;
        Some(Pfn(word as u64 * 64 + u64::from(bit)))
    })
}

/// Takes `count` adjoining frames: the first one's number.
pub fn allocate_run(count: u64) -> Option<Pfn> {
    FRAMES.with(|frames| {
        let is_free = |pfn: u64| frames.free[pfn as usize / 64] & 1 << (pfn % 64) != 0;
        let mut start = 0;
        for pfn in 0..LINEAR_FRAMES {
            if !is_free(pfn) {
                start = pfn + 1;
            } else if pfn + 1 - start == count {
                (start..=pfn).for_each(|pfn| frames.free[pfn as usize / 64] &= !(1 << (pfn % 64)));
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
        let word = &mut frames.free[pfn.0 as usize / 64];
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
