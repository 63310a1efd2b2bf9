//! Guest addresses are allegations: the only way through one is a checked copy.

use crate::error::{Failure, Refusal};
use crate::paging::Mmu;
use pv_abi::{DomId, Errno, Mfn, PAGE_SIZE};
use std::marker::PhantomData;
use std::mem::size_of;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The longest instruction of the architecture.
pub const LONGEST_INSTRUCTION: usize = 15;

/// What one half of a guest sees: an address space of a domain.
#[derive(Clone, Copy, Debug)]
pub struct GuestSpace<'a> {
    mmu: &'a Mmu,
    domain: DomId,
    root: Mfn,
}

impl<'a> GuestSpace<'a> {
    /// The address space under `root`, a validated root table of `domain`.
    pub fn new(mmu: &'a Mmu, domain: DomId, root: Mfn) -> Self {
        Self { mmu, domain, root }
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// −EFAULT where the guest itself could not read there.
    pub fn read_bytes(&self, address: u64, into: &mut [u8]) -> Result<(), Failure> {
        Ok(self.mmu.copy_from_guest(self.domain, self.root, address, into)?)
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// −EFAULT where the guest itself could not write there.
    pub fn write_bytes(&self, address: u64, from: &[u8]) -> Result<(), Failure> {
        Ok(self.mmu.copy_to_guest(self.domain, self.root, address, from)?)
    }

    /// Copies one value in.
    ///
    /// # Errors
    /// As [`Self::read_bytes`].
    pub fn read<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T, Failure> {
        let mut value = T::new_zeroed();
        self.read_bytes(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies one value out.
    ///
    /// # Errors
    /// As [`Self::write_bytes`].
    pub fn write<T: IntoBytes + Immutable>(&self, address: u64, value: &T) -> Result<(), Failure> {
        self.write_bytes(address, value.as_bytes())
    }

    /// Copies words out, lowest address first.
    ///
    /// # Errors
    /// As [`Self::write_bytes`].
    pub fn write_words(&self, address: u64, words: &[u64]) -> Result<(), Failure> {
        self.write_bytes(address, words.as_bytes())
    }

    /// Copies the bytes of the instruction at `address` in, once: as many as can be read, up to the longest.
    ///
    /// # Errors
    /// As [`Self::read_bytes`], where not even the first byte can be read.
    pub fn fetch(&self, address: u64) -> Result<Instruction, Failure> {
        let mut bytes = [0; LONGEST_INSTRUCTION];
        let in_page = PAGE_SIZE.saturating_sub(address as usize % PAGE_SIZE);
        let (first, second) = bytes.split_at_mut(in_page.min(LONGEST_INSTRUCTION));
        self.read_bytes(address, first)?;
        let mut length = first.len();
        let next = address.wrapping_add(length as u64);
        if !second.is_empty() && self.read_bytes(next, second).is_ok() {
            length = LONGEST_INSTRUCTION;
        }
        Ok(Instruction { bytes, length })
    }
}

/// Bytes of an instruction.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    bytes: [u8; LONGEST_INSTRUCTION],
    length: usize,
}

impl Instruction {
    /// Those that could be read.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// An array that a guest says it has. Length and end are checked once; each element is copied exactly once by
/// whoever goes through it, and checked as a copy.
#[derive(Clone, Copy, Debug)]
pub struct GuestArray<T> {
    address: u64,
    length: u64,
    element: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> GuestArray<T> {
    /// An array of `length` elements at `address`.
    ///
    /// # Errors
    /// −EFAULT where its end is beyond the last address.
    pub fn new(address: u64, length: u64) -> Result<Self, Refusal> {
        let bytes = length.checked_mul(size_of::<T>() as u64);
        let end = bytes.and_then(|bytes| address.checked_add(bytes));
        let element = PhantomData;
        end.map(|_| Self { address, length, element })
            .ok_or(Refusal::new(Errno::EFAULT, "the array ends beyond the last address"))
    }

    /// How many elements the array has.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether the array has no element.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The address of an element.
    ///
    /// # Errors
    /// −EFAULT past the last one.
    pub fn address_of(&self, index: u64) -> Result<u64, Refusal> {
        let past = Refusal::new(Errno::EFAULT, "past the array's last element");
        if index >= self.length {
            return Err(past);
        }
        let offset = index.checked_mul(size_of::<T>() as u64);
        offset.and_then(|offset| self.address.checked_add(offset)).ok_or(past)
    }

    /// Copies an element in.
    ///
    /// # Errors
    /// −EFAULT past the last one, or where the guest could not read.
    pub fn get(&self, space: &GuestSpace<'_>, index: u64) -> Result<T, Failure> {
        space.read(self.address_of(index)?)
    }

    /// Copies elements in, from `index` on: as many as there are and `into` has room for, or only the first where
    /// the guest could not read them all.
    ///
    /// # Errors
    /// As [`Self::get`], for the first.
    pub fn get_some<'t>(
        &self,
        space: &GuestSpace<'_>,
        index: u64,
        into: &'t mut [T],
    ) -> Result<&'t [T], Failure> {
        let address = self.address_of(index)?;
        let count = into.len().min(usize::try_from(self.length.saturating_sub(index)).unwrap_or(usize::MAX));
        let mut some = into.get_mut(..count).unwrap_or_default();
        if space.read_bytes(address, some.as_mut_bytes()).is_err() {
            some = some.get_mut(..1).unwrap_or_default();
            space.read_bytes(address, some.as_mut_bytes())?;
        }
        Ok(some)
    }

    /// Copies an element out.
    ///
    /// # Errors
    /// −EFAULT past the last one, or where the guest could not write.
    pub fn set(&self, space: &GuestSpace<'_>, index: u64, value: &T) -> Result<(), Failure> {
        space.write(self.address_of(index)?, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_that_wrap_are_refused() {
        for (address, length) in [(u64::MAX, 1), (0, u64::MAX), (u64::MAX - 15, 2), (8, u64::MAX / 8)] {
            let refused = GuestArray::<u64>::new(address, length).unwrap_err();
            assert_eq!(refused.errno, Errno::EFAULT, "{address:#x} {length:#x}");
        }
        let array = GuestArray::<u64>::new(0x1000, 3).unwrap();
        assert_eq!(array.address_of(2), Ok(0x1010));
        assert!(array.address_of(3).is_err() && array.address_of(u64::MAX).is_err());
    }
}
