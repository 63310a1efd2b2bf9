//! Xen's emergency console (`console_io`): all there is for a control domain.

use crate::arch::hypercall;

/// Xen copies a write in chunks; short ones keep its own lines apart from ours.
const CHUNK: usize = 128;

/// Writes all bytes by `CONSOLEIO_write`, one call a chunk.
pub fn write(bytes: &[u8]) {
    bytes.chunks(CHUNK).for_each(hypercall::console_write);
}

/// Hands what was typed to `take`, at most `limit` bytes of it.
pub fn read(mut limit: usize, mut take: impl FnMut(&[u8])) {
    let mut buffer = [0; CHUNK];
    while limit > 0 {
        match hypercall::console_read(&mut buffer[..limit.min(CHUNK)]) {
            0 => return,
            count => {
                take(&buffer[..count]);
                limit -= count;
            }
        }
    }
}
