//! As much of the hypervisor's `machine` as ports and rings need: memory that hypervisor and guest write at the same
//! time. Each access is one step, a copy too: between two of them anything may happen.

pub use hypervisor::machine::{DOORBELLS_PER_PAGE, Doorbells, Kick, MachineError, NoSuchFrame, Registers};

use crate::sync::atomic::{AtomicU64, Ordering::SeqCst};
use pv_abi::{Mfn, PAGE_SIZE};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub struct MachineMemory {
    frames: u64,
    /// Accesses so far; what an access does happens in the step that counts it.
    steps: AtomicU64,
    bytes: Mutex<Vec<u8>>,
}

type Access<T> = Result<T, NoSuchFrame>;

impl MachineMemory {
    pub fn new(frames: u64) -> Self {
        let bytes = Mutex::new(vec![0; frames as usize * PAGE_SIZE]);
        Self { frames, steps: AtomicU64::new(0), bytes }
    }

    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The next step, with all bytes.
    fn step(&self) -> MutexGuard<'_, Vec<u8>> {
        self.steps.fetch_add(1, SeqCst);
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One access to the `N` bytes at `offset`: what they were, and what they become.
    fn access<const N: usize>(
        &self,
        mfn: Mfn,
        offset: usize,
        next: impl FnOnce([u8; N]) -> [u8; N],
    ) -> Access<[u8; N]> {
        assert!(offset.is_multiple_of(N), "not aligned");
        let mut all = self.step();
        let at = self.range(mfn, offset, N)?;
        let bytes: &mut [u8; N] = (&mut all[at]).try_into().expect("so many");
        let old = *bytes;
        *bytes = next(old);
        Ok(old)
    }

    fn range(&self, mfn: Mfn, offset: usize, length: usize) -> Access<std::ops::Range<usize>> {
        if mfn.0 >= self.frames || offset + length > PAGE_SIZE {
            return Err(NoSuchFrame(mfn));
        }
        let start = mfn.0 as usize * PAGE_SIZE + offset;
        Ok(start..start + length)
    }

    pub fn read(&self, mfn: Mfn, offset: usize, into: &mut [u8]) -> Access<()> {
        let all = self.step();
        into.copy_from_slice(&all[self.range(mfn, offset, into.len())?]);
        Ok(())
    }

    pub fn write(&self, mfn: Mfn, offset: usize, from: &[u8]) -> Access<()> {
        let mut all = self.step();
        all[self.range(mfn, offset, from.len())?].copy_from_slice(from);
        Ok(())
    }

    pub fn load_u8(&self, mfn: Mfn, offset: usize) -> Access<u8> {
        self.access(mfn, offset, |old| old).map(u8::from_le_bytes)
    }

    pub fn swap_u8(&self, mfn: Mfn, offset: usize, value: u8) -> Access<u8> {
        self.access(mfn, offset, |_| [value]).map(u8::from_le_bytes)
    }

    pub fn load_u32(&self, mfn: Mfn, offset: usize) -> Access<u32> {
        self.access(mfn, offset, |old| old).map(u32::from_le_bytes)
    }

    pub fn store_u32(&self, mfn: Mfn, offset: usize, value: u32) -> Access<()> {
        self.access(mfn, offset, |_| value.to_le_bytes()).map(drop)
    }

    pub fn load_u64(&self, mfn: Mfn, offset: usize) -> Access<u64> {
        self.access(mfn, offset, |old| old).map(u64::from_le_bytes)
    }

    pub fn store_u64(&self, mfn: Mfn, offset: usize, value: u64) -> Access<()> {
        self.access(mfn, offset, |_| value.to_le_bytes()).map(drop)
    }

    pub fn fetch_or_u64(&self, mfn: Mfn, offset: usize, bits: u64) -> Access<u64> {
        let or = |old| (u64::from_le_bytes(old) | bits).to_le_bytes();
        self.access(mfn, offset, or).map(u64::from_le_bytes)
    }

    pub fn fetch_and_u64(&self, mfn: Mfn, offset: usize, bits: u64) -> Access<u64> {
        let and = |old| (u64::from_le_bytes(old) & bits).to_le_bytes();
        self.access(mfn, offset, and).map(u64::from_le_bytes)
    }
}
