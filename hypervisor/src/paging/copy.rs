//! Copying between the hypervisor and guest addresses.
//!
//! Each page is found by a walk under the domain's lock, and a reference to it is taken there: for a write, one
//! that keeps the frame from becoming a table. The copy itself needs no lock then, and unmapping the page meanwhile
//! redirects nothing (guarded by `tests::copying`).

use super::Mmu;
use crate::error::{Failure, Refusal};
use crate::frame::Reference;
use pv_abi::page_table::PteFlags;
use pv_abi::{DomId, Errno, Mfn, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An address that a guest gave and that cannot be used: not mapped, not writable, not canonical, or the
/// hypervisor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest address {0:#x} cannot be used")]
pub struct BadAddress(pub u64);

impl From<BadAddress> for Refusal {
    fn from(_: BadAddress) -> Self {
        Self::new(Errno::EFAULT, "a guest address cannot be used")
    }
}

impl From<BadAddress> for Failure {
    fn from(bad: BadAddress) -> Self {
        Self::Refused(bad.into())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromGuest,
    ToGuest,
}

impl Mmu {
    /// Reads guest memory at `address` of the tree `root`. Kernel and user mode differ by their roots only.
    ///
    /// # Errors
    /// The first address that cannot be read; what was read before it is in `into`.
    pub fn copy_from_guest(
        &self,
        domain: DomId,
        root: Mfn,
        address: u64,
        into: &mut [u8],
    ) -> Result<(), BadAddress> {
        #[cfg(any(test, fuzzing))]
        let length = into.len();
        let mut at = address;
        let mut rest = into;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at_mut(rest.len().min(left_in_page(at)));
            let frame = self.hold_page(domain, root, at, Direction::FromGuest)?;
            let outcome = self.memory.read(frame.mfn(), offset_in_page(at), chunk);
            self.release(frame);
            outcome.map_err(|_| BadAddress(at))?;
            at = next_page(at, behind.is_empty())?;
            rest = behind;
        }
        #[cfg(any(test, fuzzing))]
        crate::testing::was_read(self, domain, root, address, length);
        Ok(())
    }

    /// Writes guest memory.
    ///
    /// # Errors
    /// The first address that cannot be written; what comes before it is written.
    pub fn copy_to_guest(
        &self,
        domain: DomId,
        root: Mfn,
        address: u64,
        from: &[u8],
    ) -> Result<(), BadAddress> {
        let mut at = address;
        let mut rest = from;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(rest.len().min(left_in_page(at)));
            let frame = self.hold_page(domain, root, at, Direction::ToGuest)?;
            let outcome = self.memory.write(frame.mfn(), offset_in_page(at), chunk);
            self.release(frame);
            outcome.map_err(|_| BadAddress(at))?;
            at = next_page(at, behind.is_empty())?;
            rest = behind;
        }
        Ok(())
    }

    /// Reads a value.
    ///
    /// # Errors
    /// As [`Self::copy_from_guest`].
    pub fn read<T: FromBytes + IntoBytes>(
        &self,
        domain: DomId,
        root: Mfn,
        address: u64,
    ) -> Result<T, BadAddress> {
        let mut value = T::new_zeroed();
        self.copy_from_guest(domain, root, address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a value.
    ///
    /// # Errors
    /// As [`Self::copy_to_guest`].
    pub fn write<T: IntoBytes + Immutable>(
        &self,
        domain: DomId,
        root: Mfn,
        address: u64,
        value: &T,
    ) -> Result<(), BadAddress> {
        self.copy_to_guest(domain, root, address, value.as_bytes())
    }

    /// Reads element `index` of a guest's array. Whoever goes through an array reads each element once.
    ///
    /// # Errors
    /// As [`Self::read`]; also where the element's address exceeds 64 bits.
    pub fn read_element<T: FromBytes + IntoBytes>(
        &self,
        domain: DomId,
        root: Mfn,
        array: u64,
        index: u64,
    ) -> Result<T, BadAddress> {
        self.read(domain, root, element::<T>(array, index)?)
    }

    /// Writes element `index` of a guest's array.
    ///
    /// # Errors
    /// As [`Self::read_element`].
    pub fn write_element<T: IntoBytes + Immutable>(
        &self,
        domain: DomId,
        root: Mfn,
        array: u64,
        index: u64,
        value: &T,
    ) -> Result<(), BadAddress> {
        self.write(domain, root, element::<T>(array, index)?, value)
    }

    /// The frame that `address` is in, held for an access. The accessed and dirty bits are set as a CPU would.
    fn hold_page(
        &self,
        domain: DomId,
        root: Mfn,
        address: u64,
        direction: Direction,
    ) -> Result<Reference, BadAddress> {
        let writes = direction == Direction::ToGuest;
        self.with_space(domain, |space| {
            space.check_alive()?;
            let mapping = self.walk(space, root, address)?;
            if writes && !mapping.writable {
                return Err(BadAddress(address).into());
            }
            // The entry holds such a reference itself, also to a frame of another domain.
            let held = self.duplicate(mapping.entry.mfn(), writes)?;
            let mut bits = PteFlags::ACCESSED;
            bits.set(PteFlags::DIRTY, writes);
            if !mapping.entry.flags().contains(bits) {
                let marked =
                    self.memory.fetch_or_u64(mapping.table, mapping.index.saturating_mul(8), bits.bits());
                debug_assert!(marked.is_ok(), "the entry was just read");
            }
            Ok(held)
        })
        .map_err(|_| BadAddress(address))
    }
}

const fn offset_in_page(address: u64) -> usize {
    address as usize & (PAGE_SIZE - 1)
}

const fn left_in_page(address: u64) -> usize {
    PAGE_SIZE.saturating_sub(offset_in_page(address))
}

/// Where the copy goes on; nowhere behind the end of the address space.
fn next_page(address: u64, is_last: bool) -> Result<u64, BadAddress> {
    match (address | (PAGE_SIZE - 1) as u64).checked_add(1) {
        Some(next) => Ok(next),
        None if is_last => Ok(address),
        None => Err(BadAddress(0)),
    }
}

fn element<T>(array: u64, index: u64) -> Result<u64, BadAddress> {
    let offset = index.checked_mul(size_of::<T>() as u64);
    offset.and_then(|offset| array.checked_add(offset)).ok_or(BadAddress(array))
}
