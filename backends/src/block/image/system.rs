//! The system calls that move bytes between a file and memory which a guest can write.
//!
//! The kernel copies; no reference to that memory is made on the way.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::VolatileSlice;

/// More segments than this are a short transfer.
const MAX_SEGMENTS: usize = libc::UIO_MAXIOV as usize;

fn vectors(slices: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    let vector = |slice: &VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    slices.iter().take(MAX_SEGMENTS).map(vector).collect()
}

fn result(moved: isize) -> io::Result<usize> {
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(io::Error::other)
}

/// Reads by one `preadv`, which may fall short.
pub(super) fn read(file: &File, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (vectors, offset) = (vectors(into), position(offset)?);
    // SAFETY: each vector is a slice of `into`, which is mapped and writable for the time of the call; nothing but the
    // kernel accesses it by these pointers, and it may be written by others at the same time.
    result(unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as _, offset) })
}

/// One `preadv2` that moves what is in the host's memory, and waits for nothing. `WouldBlock` where the first byte is
/// not there, or the host cannot tell.
pub fn read_cached(file: &File, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (vectors, offset) = (vectors(into), position(offset)?);
    let (descriptor, count) = (file.as_raw_fd(), vectors.len() as _);
    // SAFETY: as in `read`.
    let moved = unsafe { libc::preadv2(descriptor, vectors.as_ptr(), count, offset, libc::RWF_NOWAIT) };
    result(moved)
}

/// Writes by one `pwritev`, which may fall short.
pub(super) fn write(file: &File, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (vectors, offset) = (vectors(from), position(offset)?);
    // SAFETY: as in `read`; the kernel only reads the memory.
    result(unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as _, offset) })
}
