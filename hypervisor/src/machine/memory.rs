//! Machine memory: one sparse memfd, mapped shared, and the only door through which the hypervisor reads and
//! writes memory that a guest can write.
//!
//! Invariants:
//! - No reference into this memory ever leaves this module: bytes are copied in and out, words are accessed
//!   atomically, and every access is checked against the end of the frame it starts in.
//! - Every write passes [`MachineMemory::dirty`]: KVM's dirty log does not see the host's writes (`tests`,
//!   `every_write_passes_the_hook`).
//! - Bytes are copied by `vm-memory`'s volatile accesses, while guests on other CPUs may write them. By the letter of Rust's
//!   memory model that is a data race, and stable Rust has no copy that is none. Nothing follows from it but the bytes
//!   themselves: no reference exists, the compiler assumes nothing of what a volatile access reads, and whoever copied
//!   bytes checks the copy. What must not be torn (entries, indices, event words) is accessed atomically.
//! - The mapping is shared, never huge, merged or locked: [`MachineMemory::drop_translations`] relies on
//!   `MADV_DONTNEED` dropping KVM's translations and nothing else.
#![allow(unsafe_code)] // madvise on the own mapping

use super::MachineError;
use pv_abi::page_table::Pte;
use pv_abi::{Mfn, PAGE_SHIFT, PAGE_SIZE};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, madvise};
use std::fs::File;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// A frame number, or a range within a frame, that the machine does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not in the machine's memory, or the access leaves the frame")]
pub struct NoSuchFrame(pub Mfn);

/// All memory of the machine.
#[derive(Debug)]
pub struct MachineMemory {
    region: MmapRegion,
    file: File,
    frames: u64,
}

impl MachineMemory {
    /// Makes a machine of `frames` pages, all zero and none of them taking host memory yet.
    ///
    /// # Errors
    /// The host's reason where it gives no memory file or no address space of that size.
    pub fn new(frames: u64) -> Result<Self, MachineError> {
        let failed = |source: std::io::Error| {
            MachineError::new(format!("machine memory of {} MiB cannot be set up", frames >> 8), source)
        };
        let bytes = usize::try_from(frames).ok().and_then(|n| n.checked_mul(PAGE_SIZE)).ok_or_else(|| {
            failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it exceeds the address space"))
        })?;
        let file = File::from(
            memfd_create("paravane-machine", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?,
        );
        ftruncate(&file, bytes as u64).map_err(|errno| match errno {
            Errno::FBIG => failed(std::io::Error::other("it exceeds the limit of a file's size (ulimit -f)")),
            errno => failed(errno.into()),
        })?;
        let mapped = file.try_clone().map_err(failed)?;
        let region = MmapRegion::from_file(FileOffset::new(mapped, 0), bytes)
            .map_err(|error| failed(std::io::Error::other(error)))?;
        // SAFETY: the range is exactly the mapping made above; the advice changes neither contents nor layout.
        // A kernel without transparent huge pages says EINVAL, which is as good.
        let _ = unsafe { madvise(region.as_ptr().cast(), bytes, Advice::LinuxNoHugepage) };
        // SAFETY: as above. A core dump of this process is no place for the memory of guests.
        unsafe { madvise(region.as_ptr().cast(), bytes, Advice::LinuxDontDump) }
            .map_err(|errno| failed(errno.into()))?;
        Ok(Self { region, file, frames })
    }

    /// How many frames of 4 KiB the machine has.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The memory file, to be given to KVM or to another process.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the mapping starts in this process; for KVM's slots only.
    pub(super) fn host_address(&self) -> u64 {
        self.region.as_ptr() as u64
    }

    /// The hook that every write of the host passes when it is done, so that whoever copies a frame that was named here
    /// copies what was written. Live migration will need it.
    fn dirty(&self, mfn: Mfn) {
        #[cfg(test)]
        tests::DIRTIED.set(Some((mfn, self.load_u64(mfn, 0))));
        let _ = mfn;
    }

    fn slice(&self, mfn: Mfn, offset: usize, length: usize) -> Result<VolatileSlice<'_>, NoSuchFrame> {
        let end = offset.checked_add(length).ok_or(NoSuchFrame(mfn))?;
        if mfn.0 >= self.frames || end > PAGE_SIZE {
            return Err(NoSuchFrame(mfn));
        }
        let start = (mfn.address() as usize).saturating_add(offset);
        self.region.get_slice(start, length).map_err(|_| NoSuchFrame(mfn))
    }

    /// A frame for the host's own system calls to read and write. Whoever had them write says so with
    /// [`Self::written`].
    ///
    /// # Errors
    /// [`NoSuchFrame`].
    pub fn frame(&self, mfn: Mfn) -> Result<VolatileSlice<'_>, NoSuchFrame> {
        self.slice(mfn, 0, PAGE_SIZE)
    }

    /// The host has written a frame through [`Self::frame`].
    pub fn written(&self, mfn: Mfn) {
        self.dirty(mfn);
    }

    /// Copies bytes out of a frame.
    ///
    /// # Errors
    /// [`NoSuchFrame`] where the range is not wholly within one frame of the machine.
    pub fn read(&self, mfn: Mfn, offset: usize, into: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.slice(mfn, offset, into.len())?.copy_to(into);
        Ok(())
    }

    /// Copies bytes into a frame.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn write(&self, mfn: Mfn, offset: usize, from: &[u8]) -> Result<(), NoSuchFrame> {
        self.slice(mfn, offset, from.len())?.copy_from(from);
        self.dirty(mfn);
        Ok(())
    }

    /// Fills a frame with zeros.
    ///
    /// # Errors
    /// [`NoSuchFrame`].
    pub fn zero(&self, mfn: Mfn) -> Result<(), NoSuchFrame> {
        self.write(mfn, 0, &[0; PAGE_SIZE])
    }

    /// Copies one frame onto another.
    ///
    /// # Errors
    /// [`NoSuchFrame`], naming the one that is missing.
    pub fn copy_frame(&self, from: Mfn, to: Mfn) -> Result<(), NoSuchFrame> {
        let mut bytes = [0; PAGE_SIZE];
        self.read(from, 0, &mut bytes)?;
        self.write(to, 0, &bytes)
    }

    /// Reads a table's entry, atomically.
    ///
    /// # Errors
    /// [`NoSuchFrame`], also where `index` is 512 or more.
    pub fn entry(&self, table: Mfn, index: usize) -> Result<Pte, NoSuchFrame> {
        self.load_u64(table, index.saturating_mul(8)).map(Pte)
    }

    /// Replaces a table's entry, atomically, and returns what was there. Bits of `keep` (accessed, dirty) are
    /// taken over from the old entry, whatever the CPU does to it meanwhile.
    ///
    /// Does not make the change take effect on pcpus: [`super::Translations::settle`] does.
    ///
    /// # Errors
    /// As [`Self::entry`].
    pub fn exchange_entry(&self, table: Mfn, index: usize, new: Pte, keep: u64) -> Result<Pte, NoSuchFrame> {
        let slice = self.slice(table, index.saturating_mul(8), 8)?;
        let word = slice.get_atomic_ref::<AtomicU64>(0).map_err(|_| NoSuchFrame(table))?;
        let old = if keep == 0 {
            word.swap(new.0, Ordering::SeqCst)
        } else {
            let kept = |old: u64| Some(new.0 & !keep | old & keep);
            word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, kept).unwrap_or_else(|old| old)
        };
        self.dirty(table);
        Ok(Pte(old))
    }

    /// Replaces a table's entry, atomically, if it is `old`. True where it was.
    ///
    /// # Errors
    /// As [`Self::entry`].
    pub fn compare_exchange_entry(
        &self,
        table: Mfn,
        index: usize,
        old: Pte,
        new: Pte,
    ) -> Result<bool, NoSuchFrame> {
        let slice = self.slice(table, index.saturating_mul(8), 8)?;
        let word = slice.get_atomic_ref::<AtomicU64>(0).map_err(|_| NoSuchFrame(table))?;
        let exchanged = word.compare_exchange(old.0, new.0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        self.dirty(table);
        Ok(exchanged)
    }

    /// Reads 8 bytes atomically.
    ///
    /// # Errors
    /// [`NoSuchFrame`], also where `offset` is not a multiple of 8 below the page's size.
    pub fn load_u64(&self, mfn: Mfn, offset: usize) -> Result<u64, NoSuchFrame> {
        self.slice(mfn, offset, 8)?.load(0, Ordering::SeqCst).map_err(|_| NoSuchFrame(mfn))
    }

    /// Writes 8 bytes atomically.
    ///
    /// # Errors
    /// As [`Self::load_u64`].
    pub fn store_u64(&self, mfn: Mfn, offset: usize, value: u64) -> Result<(), NoSuchFrame> {
        self.slice(mfn, offset, 8)?.store(value, 0, Ordering::SeqCst).map_err(|_| NoSuchFrame(mfn))?;
        self.dirty(mfn);
        Ok(())
    }

    /// Reads 4 bytes atomically; the offset is a multiple of 4.
    ///
    /// # Errors
    /// As [`Self::load_u64`].
    pub fn load_u32(&self, mfn: Mfn, offset: usize) -> Result<u32, NoSuchFrame> {
        self.slice(mfn, offset, 4)?.load(0, Ordering::SeqCst).map_err(|_| NoSuchFrame(mfn))
    }

    /// Writes 4 bytes atomically; the offset is a multiple of 4.
    ///
    /// # Errors
    /// As [`Self::load_u64`].
    pub fn store_u32(&self, mfn: Mfn, offset: usize, value: u32) -> Result<(), NoSuchFrame> {
        self.slice(mfn, offset, 4)?.store(value, 0, Ordering::SeqCst).map_err(|_| NoSuchFrame(mfn))?;
        self.dirty(mfn);
        Ok(())
    }

    /// Replaces 4 bytes if they hold `current`; the offset is a multiple of 4. True where it did.
    ///
    /// # Errors
    /// As [`Self::load_u64`].
    pub fn compare_exchange_u32(
        &self,
        mfn: Mfn,
        offset: usize,
        current: u32,
        new: u32,
    ) -> Result<bool, NoSuchFrame> {
        let slice = self.slice(mfn, offset, 4)?;
        let word = slice.get_atomic_ref::<AtomicU32>(0).map_err(|_| NoSuchFrame(mfn))?;
        let exchanged = word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        self.dirty(mfn);
        Ok(exchanged)
    }

    /// Reads a byte atomically.
    ///
    /// # Errors
    /// As [`Self::load_u64`].
    pub fn load_u8(&self, mfn: Mfn, offset: usize) -> Result<u8, NoSuchFrame> {
        self.slice(mfn, offset, 1)?.load(0, Ordering::SeqCst).map_err(|_| NoSuchFrame(mfn))
    }

    /// Replaces a byte atomically and returns what was there.
    ///
    /// # Errors
    /// As [`Self::load_u64`].
    pub fn swap_u8(&self, mfn: Mfn, offset: usize, value: u8) -> Result<u8, NoSuchFrame> {
        let slice = self.slice(mfn, offset, 1)?;
        let byte = slice.get_atomic_ref::<AtomicU8>(0).map_err(|_| NoSuchFrame(mfn))?;
        let old = byte.swap(value, Ordering::SeqCst);
        self.dirty(mfn);
        Ok(old)
    }

    /// Sets bits of an 8-byte word atomically and returns what was there; the offset is a multiple of 8.
    ///
    /// # Errors
    /// As [`Self::load_u64`].
    pub fn fetch_or_u64(&self, mfn: Mfn, offset: usize, bits: u64) -> Result<u64, NoSuchFrame> {
        let slice = self.slice(mfn, offset, 8)?;
        let word = slice.get_atomic_ref::<AtomicU64>(0).map_err(|_| NoSuchFrame(mfn))?;
        let old = word.fetch_or(bits, Ordering::SeqCst);
        self.dirty(mfn);
        Ok(old)
    }

    /// Clears bits of an 8-byte word atomically and returns what was there; the offset is a multiple of 8.
    ///
    /// # Errors
    /// As [`Self::load_u64`].
    pub fn fetch_and_u64(&self, mfn: Mfn, offset: usize, bits: u64) -> Result<u64, NoSuchFrame> {
        let slice = self.slice(mfn, offset, 8)?;
        let word = slice.get_atomic_ref::<AtomicU64>(0).map_err(|_| NoSuchFrame(mfn))?;
        let old = word.fetch_and(bits, Ordering::SeqCst);
        self.dirty(mfn);
        Ok(old)
    }

    /// Makes KVM drop every translation to `count` frames from `first` on, on every pcpu, also on one that runs.
    /// The contents stay: they are the memory file's.
    ///
    /// # Errors
    /// The host's; then the caller must not let a guest run that could still use such a translation.
    pub fn drop_translations(&self, first: Mfn, count: u64) -> Result<(), MachineError> {
        self.advise(first, count, Advice::LinuxDontNeed, "translations cannot be dropped")
    }

    /// Gives the memory of `count` frames from `first` on back to the host: they read as zero from then on.
    ///
    /// # Errors
    /// The host's.
    pub fn release(&self, first: Mfn, count: u64) -> Result<(), MachineError> {
        self.advise(first, count, Advice::LinuxRemove, "memory cannot be given back")?;
        (first.0..first.0.saturating_add(count)).for_each(|frame| self.dirty(Mfn(frame)));
        Ok(())
    }

    fn advise(&self, first: Mfn, count: u64, advice: Advice, what: &str) -> Result<(), MachineError> {
        let failed = |source| MachineError::new(format!("{what} for {count} frames from {first}"), source);
        let end = first.0.checked_add(count).filter(|&end| end <= self.frames);
        if end.is_none() {
            return Err(failed(std::io::Error::other(NoSuchFrame(first))));
        }
        let start = self.region.as_ptr().wrapping_add(first.address() as usize);
        // SAFETY: the range was just checked to lie in the mapping, which lives as long as `self`. No Rust
        // reference into it exists (see the head of this file), and both kinds of advice keep it mapped.
        unsafe { madvise(start.cast(), (count << PAGE_SHIFT) as usize, advice) }
            .map_err(|errno| failed(errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// The frame that passed the hook last, and its first word then.
        pub(super) static DIRTIED: Cell<Option<(Mfn, Result<u64, NoSuchFrame>)>> = const { Cell::new(None) };
    }

    /// A write that passed by the hook would be missing in a copy of a running machine.
    #[test]
    fn every_write_passes_the_hook() {
        let memory = MachineMemory::new(4).unwrap();
        let mfn = Mfn(2);
        let writes: [(&str, &dyn Fn()); 13] = [
            ("write", &|| memory.write(mfn, 0, &[1]).unwrap()),
            ("written", &|| memory.written(mfn)),
            ("zero", &|| memory.zero(mfn).unwrap()),
            ("copy_frame", &|| memory.copy_frame(Mfn(1), mfn).unwrap()),
            ("exchange_entry", &|| assert_eq!(memory.exchange_entry(mfn, 0, Pte(1), 0), Ok(Pte(0)))),
            ("compare_exchange_entry", &|| {
                assert_eq!(memory.compare_exchange_entry(mfn, 0, Pte(1), Pte(9)), Ok(true));
            }),
            ("store_u64", &|| memory.store_u64(mfn, 0, 2).unwrap()),
            ("store_u32", &|| memory.store_u32(mfn, 0, 3).unwrap()),
            ("compare_exchange_u32", &|| assert_eq!(memory.compare_exchange_u32(mfn, 0, 3, 4), Ok(true))),
            ("swap_u8", &|| assert_eq!(memory.swap_u8(mfn, 0, 5), Ok(4))),
            ("fetch_or_u64", &|| assert_eq!(memory.fetch_or_u64(mfn, 0, 2), Ok(5))),
            ("fetch_and_u64", &|| assert_eq!(memory.fetch_and_u64(mfn, 0, 1), Ok(7))),
            ("release", &|| memory.release(mfn, 1).unwrap()),
        ];
        for (name, write) in writes {
            DIRTIED.set(None);
            write();
            assert_eq!(DIRTIED.get(), Some((mfn, memory.load_u64(mfn, 0))), "{name}, when it is done");
        }
    }

    #[test]
    fn accesses_stay_within_their_frame() {
        let memory = MachineMemory::new(4).unwrap();
        assert_eq!(memory.read(Mfn(3), 4090, &mut [0; 7]), Err(NoSuchFrame(Mfn(3))));
        assert_eq!(memory.write(Mfn(4), 0, &[1]), Err(NoSuchFrame(Mfn(4))));
        assert_eq!(memory.write(Mfn(u64::MAX), 0, &[1]), Err(NoSuchFrame(Mfn(u64::MAX))));
        assert_eq!(memory.read(Mfn(0), usize::MAX, &mut [0; 2]), Err(NoSuchFrame(Mfn(0))));
        assert!(memory.entry(Mfn(0), 512).is_err());
        assert!(memory.load_u64(Mfn(0), 4).is_err(), "unaligned");
        assert!(memory.drop_translations(Mfn(3), 2).is_err());
        assert!(memory.drop_translations(Mfn(u64::MAX), 2).is_err());
    }

    #[test]
    fn dropping_translations_keeps_contents_and_releasing_does_not() {
        let memory = MachineMemory::new(4).unwrap();
        memory.write(Mfn(2), 8, b"kept").unwrap();
        let mut bytes = [0; 4];
        memory.drop_translations(Mfn(2), 1).unwrap();
        memory.read(Mfn(2), 8, &mut bytes).unwrap();
        assert_eq!(&bytes, b"kept");
        memory.release(Mfn(2), 1).unwrap();
        memory.read(Mfn(2), 8, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4]);
    }

    #[test]
    fn exchanging_an_entry_keeps_the_bits_asked_for() {
        let memory = MachineMemory::new(1).unwrap();
        memory.exchange_entry(Mfn(0), 7, Pte(0x1061), 0).unwrap();
        let old = memory.exchange_entry(Mfn(0), 7, Pte(0x2001), 0x60).unwrap();
        assert_eq!((old, memory.entry(Mfn(0), 7).unwrap()), (Pte(0x1061), Pte(0x2061)));
    }
}
