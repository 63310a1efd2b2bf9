//! The pages that a request moves data from or to.

use crate::host::{Access, HostError, Page};
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// A run of bytes in one page.
pub(crate) struct Piece<P> {
    pub page: Arc<P>,
    pub start: usize,
    pub length: usize,
}

/// The memory of one request. Whoever has it has the pages mapped.
pub struct Buffer<P> {
    pieces: Vec<Piece<P>>,
    bytes: usize,
    access: Access,
}

impl<P: Page> Buffer<P> {
    pub(crate) fn new(pieces: Vec<Piece<P>>, access: Access) -> Self {
        let bytes = pieces.iter().map(|piece| piece.length).sum();
        Self { pieces, bytes, access }
    }

    /// Bytes of all pieces together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory from byte `from` on, in order.
    ///
    /// # Errors
    /// Where a page is gone, or not for this access.
    pub fn slices(&self, from: usize) -> Result<Vec<VolatileSlice<'_>>, HostError> {
        self.each_slice(from).collect()
    }

    /// As [`Self::slices`], one after the other.
    pub(crate) fn each_slice(
        &self,
        from: usize,
    ) -> impl Iterator<Item = Result<VolatileSlice<'_>, HostError>> {
        let mut skip = from;
        self.pieces.iter().filter_map(move |Piece { page, start, length }| {
            let skipped = skip.min(*length);
            skip = skip.saturating_sub(skipped);
            let (start, length) = (start.saturating_add(skipped), length.saturating_sub(skipped));
            (length != 0).then(|| {
                let slice = page.slice(self.access)?.subslice(start, length);
                slice.map_err(|_| HostError::new("the piece leaves its page"))
            })
        })
    }

    /// The same memory, but only so many bytes of it: for calls that are to fall short.
    #[cfg(test)]
    pub(crate) fn shortened(&self, bytes: usize) -> Self {
        let mut left = bytes;
        let shortened = |piece: &Piece<P>| {
            let length = piece.length.min(left);
            left -= length;
            Piece { page: Arc::clone(&piece.page), start: piece.start, length }
        };
        Self::new(self.pieces.iter().map(shortened).collect(), self.access)
    }

    /// The memory was written.
    pub(crate) fn written(&self) {
        self.pieces.iter().for_each(|piece| piece.page.written());
    }
}
