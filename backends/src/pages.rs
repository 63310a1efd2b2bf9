//! Several shared pages that count as one memory.

use crate::host::{HostError, Page};
use pv_abi::PAGE_SIZE;
use pv_abi::ring::RingMemory;

/// Pages of a front-end, one behind the other: what a ring lies in.
pub struct Pages<P>(Vec<P>);

impl<P: Page> Pages<P> {
    /// Pages that lie one behind the other, in this order.
    pub fn new(pages: Vec<P>) -> Self {
        Self(pages)
    }

    /// Bytes of all pages together.
    pub fn bytes(&self) -> usize {
        self.0.len().saturating_mul(PAGE_SIZE)
    }

    fn page(&self, offset: usize) -> Result<&P, HostError> {
        self.0.get(offset / PAGE_SIZE).ok_or_else(|| HostError::new("the access leaves the ring"))
    }

    /// Calls `action` with the page, the offset in it and the range of each part that lies in one page.
    fn each_part(
        &self,
        offset: usize,
        length: usize,
        mut action: impl FnMut(&P, usize, std::ops::Range<usize>) -> Result<(), HostError>,
    ) -> Result<(), HostError> {
        let mut done: usize = 0;
        while done < length {
            let offset = offset.saturating_add(done);
            let within = offset % PAGE_SIZE;
            let end = done.saturating_add(PAGE_SIZE.saturating_sub(within)).min(length);
            action(self.page(offset)?, within, done..end)?;
            done = end;
        }
        Ok(())
    }
}

impl<P: Page> RingMemory for Pages<P> {
    type Error = HostError;

    fn load_u32(&self, offset: usize) -> Result<u32, HostError> {
        self.page(offset)?.load_u32(offset % PAGE_SIZE)
    }

    fn store_u32(&self, offset: usize, value: u32) -> Result<(), HostError> {
        self.page(offset)?.store_u32(offset % PAGE_SIZE, value)
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), HostError> {
        self.each_part(offset, into.len(), |page, within, part| {
            page.read(within, into.get_mut(part).unwrap_or_default())
        })
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), HostError> {
        self.each_part(offset, from.len(), |page, within, part| {
            page.write(within, from.get(part).unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::FakeHost;
    use pv_abi::{DomId, GrantRef};

    #[test]
    fn accesses_cross_pages_and_leave_them_not() {
        let host = FakeHost::default();
        let page = |number| host.grant(DomId(1), GrantRef(number));
        let pages = Pages::new(vec![page(8), page(9)]);
        pages.write(4094, b"abcd").unwrap();
        assert_eq!((&page(8).bytes()[4094..], &page(9).bytes()[..2]), (&b"ab"[..], &b"cd"[..]));
        let mut back = [0; 4];
        pages.read(4094, &mut back).unwrap();
        assert_eq!(&back, b"abcd");
        pages.store_u32(4096, 7).unwrap();
        assert_eq!((pages.load_u32(4096), page(9).peek(0)), (Ok(7), 7));
        assert!(pages.read(8190, &mut back).is_err() && pages.load_u32(8192).is_err());
        assert!(pages.write(usize::MAX / 2, &[1]).is_err());
    }
}
