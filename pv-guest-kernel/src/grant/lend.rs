//! A page of ours that another domain may use.

use alloc::vec::Vec;
use core::convert::Infallible;
use core::sync::atomic::Ordering;

use pv_abi::grant_table::GrantEntry;
use pv_abi::ring::RingMemory;
use pv_abi::{DomId, GrantRef, Pfn};

use super::{Error, table};
use crate::memory::{self, SharedPage, linear, translation};
use crate::sync::Local;

/// A page, lent to one domain for reading and writing. Dropping it takes it back; while the other still uses it, it is
/// kept from every other use, and looked at again whenever something is lent.
pub struct Grant {
    reference: GrantRef,
    pfn: Pfn,
    page: SharedPage,
}

/// Pages that came to their end while they were in use.
static LINGERING: Local<Vec<(GrantRef, Pfn)>> = Local::new(Vec::new());

impl Grant {
    /// Lends a page full of zeroes to `domain`.
    pub fn new(domain: DomId) -> Result<Self, Error> {
        LINGERING.with(|lingering| lingering.retain(|&(reference, pfn)| !end(reference, pfn)));
        let pfn = memory::allocate().ok_or(Error::NoMemory)?;
        linear::clear(pfn);
        let reference = table::lend(domain, translation::mfn(pfn), 0).inspect_err(|_| memory::free(pfn))?;
        // SAFETY: a frame of the linear map, ours alone and the other domain's until it is taken back.
        let page = unsafe { SharedPage::at(linear::address(pfn)) };
        Ok(Self { reference, pfn, page })
    }

    /// What the other domain calls it.
    pub fn reference(&self) -> GrantRef {
        self.reference
    }

    /// The page as this domain sees it. The other domain may write it at any time.
    pub fn page(&self) -> &SharedPage {
        &self.page
    }

    /// Whether the other domain uses it.
    pub fn is_in_use(&self) -> bool {
        table::flags(self.reference) & (GrantEntry::READING | GrantEntry::WRITING) != 0
    }
}

/// What a ring needs of the page that it lies in.
impl RingMemory for Grant {
    type Error = Infallible;

    fn load_u32(&self, offset: usize) -> Result<u32, Infallible> {
        Ok(self.page.word(offset).load(Ordering::SeqCst))
    }

    fn store_u32(&self, offset: usize, value: u32) -> Result<(), Infallible> {
        self.page.word(offset).store(value, Ordering::SeqCst);
        Ok(())
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Infallible> {
        self.page.read(offset, into);
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), Infallible> {
        self.page.write(offset, from);
        Ok(())
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !end(self.reference, self.pfn) {
            LINGERING.with(|lingering| lingering.push((self.reference, self.pfn)));
        }
    }
}

/// Takes a page back, unless it is in use.
fn end(reference: GrantRef, pfn: Pfn) -> bool {
    let ended = table::take_back(reference);
    if ended {
        memory::free(pfn);
    }
    ended
}
