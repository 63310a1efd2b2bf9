//! The file of QEMU's guest for one load: [`super::code`], and behind it all that it needs in memory, filled in
//! beforehand. Offsets in the file are addresses in the guest, less the base.
//!
//! Three structures are the public virtio specification's: descriptors (address, length, flags, next), a ring of
//! descriptors that were filled, and a request of a disk (a head with kind and sector, data, a byte of status).

use super::super::access::{Action, Load, mark};
use super::code::*;
use pv_abi::io::block::SECTOR_BYTES;

/// Most chunks on their way together.
const SLOTS: u64 = QUEUE / SLOT;
/// Flags of a descriptor: another follows; the device writes to it.
const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
/// Types of virtio-blk requests (VIRTIO 1.x, block device): `VIRTIO_BLK_T_IN`, `_OUT` and `_FLUSH`.
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
/// Of the ring of what is asked for: no interrupts, please.
const NO_INTERRUPT: u16 = 1;
const HEAD_SIZE: u64 = 16;
/// Present, writable, and for CPL3 as well; in upper tables, and, with 2 MiB, in the last.
const TABLE: u64 = 7;
const LARGE: u64 = 0x87;
const LARGE_PAGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// How QEMU's guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outcome {
    /// It was done after so many ticks.
    #[error("QEMU's guest was done after {0} ticks")]
    Done(u64),
    /// There is none of the new interface.
    #[error("QEMU's guest found no disk")]
    NoDisk,
    /// A request ended with this status, which is not that of success.
    #[error("a request of QEMU's guest ended with the status {0}")]
    Refused(u64),
    /// What a sector should begin with.
    #[error("QEMU's guest read a sector that does not begin with {0:#x}")]
    Wrong(u64),
    /// An exception, or less than a result.
    #[error("QEMU's guest crashed")]
    Crashed,
}

impl Outcome {
    /// From what the guest said.
    pub fn parse(said: &[u8]) -> Self {
        let word =
            |at: usize| said.get(at..at + 8).and_then(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
        match (word(0), word(8)) {
            (Some(1), Some(ticks)) => Self::Done(ticks),
            (Some(2), _) => Self::NoDisk,
            (Some(3), Some(status)) => Self::Refused(status),
            (Some(4), Some(mark)) => Self::Wrong(mark),
            _ => Self::Crashed,
        }
    }
}

/// A file that is being filled in.
struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - BASE) as usize;
        if let Some(to) = self.0.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    fn words(&mut self, address: u64, words: &[u64]) {
        for (address, word) in (address..).step_by(8).zip(words) {
            self.put(address, &word.to_le_bytes());
        }
    }

    /// The lowest 2 MiB and the transports, where they are physically.
    fn paging(&mut self) {
        let [third, low, high] = [1, 2, 3].map(|n| ROOT + n * 0x1000);
        self.words(ROOT, &[third | TABLE]);
        self.words(third, &[low | TABLE]);
        self.words(third + TRANSPORTS / GIB * 8, &[high | TABLE]);
        self.words(low, &[LARGE]);
        let transports = TRANSPORTS / LARGE_PAGE;
        self.words(high + transports % 512 * 8, &[(transports * LARGE_PAGE) | LARGE]);
    }

    /// Flat segments, the task state for the stack of exceptions, and one handler for all of them.
    fn segments(&mut self) {
        let task = TASK_STATE << 16 | 0x89 << 40 | 0x67;
        let flat =
            [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff];
        self.words(GDT, &flat);
        self.words(GDT + u64::from(TASK), &[task, 0]);
        self.put(TASK_STATE + 4, &KERNEL_STACK.to_le_bytes());
        let handler = BASE + HANDLER;
        let gate = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | 0x8e << 40 | (handler >> 16) << 48;
        (0..32).for_each(|vector| self.words(IDT + vector * 16, &[gate, 0]));
        for (at, limit, table) in [(TABLES, 0x37_u16, GDT), (TABLES + 16, 0x1ff, IDT)] {
            self.put(at, &limit.to_le_bytes());
            self.put(at + 2, &table.to_le_bytes());
        }
    }

    /// One of a slot's descriptors, which the one behind it follows if it says so.
    fn descriptor(&mut self, number: u64, address: u64, length: u64, flags: u16) {
        let next = if flags & NEXT == 0 { 0 } else { number + 1 };
        self.words(DESCRIPTORS + number * 16, &[address, length | u64::from(flags) << 32 | next << 48]);
    }

    fn queue(&mut self, load: Load) {
        let (kind, device) = match load.action {
            Action::Read => (READ, DEVICE_WRITES),
            Action::Write | Action::Flush => (WRITE, 0),
        };
        self.put(AVAILABLE, &NO_INTERRUPT.to_le_bytes());
        self.put(FLUSH_HEAD, &FLUSH.to_le_bytes());
        for slot in 0..u64::from(load.depth) {
            let (first, head) = (slot * SLOT, HEADS + slot * HEAD_SIZE);
            self.put(head, &kind.to_le_bytes());
            self.descriptor(first, head, HEAD_SIZE, NEXT);
            self.descriptor(first + 1, BUFFERS + slot * load.chunk, load.chunk, NEXT | device);
            self.descriptor(first + 2, STATUSES + slot, 1, DEVICE_WRITES);
            self.descriptor(first + 4, FLUSH_HEAD, HEAD_SIZE, NEXT);
            self.descriptor(first + 5, STATUSES + slot, 1, DEVICE_WRITES);
            self.put(STATUSES + slot, &[0xff]);
        }
    }
}

/// Whether there is room for it.
pub const fn fits(load: Load) -> bool {
    let depth = load.depth as u64;
    depth <= SLOTS
        && depth <= load.count
        && load.count as usize * 2 <= MOST_PLACES
        && depth * load.chunk <= END - BUFFERS
}

/// The file for a load: the round of seed `before` first, which is not timed, then that of `seed`.
pub fn image(load: Load, before: u32, seed: u32) -> Vec<u8> {
    let mut image = Image(vec![0; FILE_SIZE]);
    image.put(BASE, code());
    image.paging();
    image.segments();
    image.queue(load);
    let generation = |seed| if load.action == Action::Read { 0 } else { seed };
    let [first, second] = [before, seed].map(|seed| u64::from_le_bytes(mark(0, generation(seed))));
    let action = load.action as u64;
    image.words(WORDS, &[load.count, load.depth.into(), load.chunk / SECTOR_BYTES, action, first, second]);
    let places: Vec<u64> = load.places(before).chain(load.places(seed)).collect();
    image.words(PLACES, &places);
    image.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::block::{FLUSHES, RANDOM_READS};
    use object::{Object, ObjectSegment};

    #[test]
    fn it_is_an_executable_that_holds_the_load() {
        let file = image(RANDOM_READS, 1, 2);
        let object = object::File::parse(&*file).unwrap();
        assert!((BASE..BASE + HANDLER).contains(&object.entry()));
        let segment = object.segments().next().unwrap();
        assert_eq!((segment.address(), segment.size()), (BASE, END - BASE));
        let places = &file[(PLACES - BASE) as usize..];
        let places: Vec<_> =
            places.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        let wanted: Vec<_> = RANDOM_READS.places(1).chain(RANDOM_READS.places(2)).collect();
        assert_eq!(places[..wanted.len()], wanted);
    }

    #[test]
    fn what_has_no_room_does_not_fit() {
        assert!(fits(RANDOM_READS) && fits(FLUSHES));
        assert!(!fits(Load { depth: 33, ..RANDOM_READS }));
        assert!(!fits(Load { chunk: 64 << 10, ..RANDOM_READS }));
        assert!(!fits(Load { count: 8193, ..RANDOM_READS }));
        assert!(!fits(Load { count: 4, depth: 8, ..FLUSHES }));
    }

    #[test]
    fn less_than_a_result_is_a_crash() {
        assert_eq!(Outcome::parse(&[1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0]), Outcome::Done(0x109));
        for said in [&[1; 16][..], &[1, 0, 0, 0, 0, 0, 0, 0], &[0; 16]] {
            assert_eq!(Outcome::parse(said), Outcome::Crashed);
        }
    }
}
