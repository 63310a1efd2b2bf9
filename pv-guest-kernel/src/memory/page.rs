//! A frame of one's own.

use pv_abi::Pfn;

use super::{SharedPage, frames, linear};

/// A page that begins with zeroes, given back when dropped.
pub struct Page {
    pfn: Pfn,
    bytes: SharedPage,
}

impl Page {
    /// Takes a frame and clears it. None where no frame is free.
    pub fn new() -> Option<Self> {
        let pfn = frames::allocate()?;
        linear::clear(pfn);
        // SAFETY: a frame of the linear map, ours alone until `drop`.
        let bytes = unsafe { SharedPage::at(linear::address(pfn)) };
        Some(Self { pfn, bytes })
    }

    /// The page's bytes, to be copied in and out.
    pub fn bytes(&self) -> &SharedPage {
        &self.bytes
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        frames::free(self.pfn);
    }
}
