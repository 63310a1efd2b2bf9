//! Where the bytes of a disk are.

mod error;
mod file;
mod lock;
mod memory;
mod open;
mod qcow2;
mod raw;
pub(super) mod system;

pub use error::ImageError;
pub use lock::Lock;
pub use memory::MemoryImage;
pub use open::{Format, open, open_direct};
pub use qcow2::Qcow2Image;
#[cfg(test)]
pub use qcow2::journal;
pub use raw::RawImage;

use std::fmt;
use std::io;
use vm_memory::VolatileSlice;

/// The bytes of a disk. Calls wait until they are done; each is made once, so that whoever makes them decides about
/// short transfers and interruptions.
pub trait Image: Send + Sync + fmt::Debug {
    /// Bytes of the disk that the image is. A guest sees whole sectors of them.
    fn bytes(&self) -> u64;

    /// Copies bytes from `offset` on into memory, and says how many: 0 only where there are none.
    ///
    /// # Errors
    /// The host's.
    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<usize>;

    /// Copies bytes from memory to `offset` on, and says how many.
    ///
    /// # Errors
    /// The host's.
    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<usize>;

    /// Makes durable all that was written before.
    ///
    /// # Errors
    /// The host's. What was written before may be lost then.
    fn flush(&self) -> io::Result<()>;

    /// Gives the host what is in the memory of this process only, which would be lost when that ends.
    ///
    /// # Errors
    /// The host's.
    fn write_back(&self) -> io::Result<()> {
        Ok(())
    }

    /// Lets go of bytes, which read as zero from then on.
    ///
    /// # Errors
    /// The host's; [`io::ErrorKind::Unsupported`] where it cannot do that.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Looks whether the image still is what it was when it was opened.
    ///
    /// # Errors
    /// What has become of it.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    /// The image as a file that holds its bytes as they are.
    fn as_raw(&self) -> Option<&RawImage> {
        None
    }
}
