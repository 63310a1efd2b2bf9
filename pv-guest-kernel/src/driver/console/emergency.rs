//! Xen's emergency console (`console_io`): all there is for a control domain.

use crate::arch::hypercall;

/// Xen copies a write in chunks; short ones keep its own lines apart from ours.
const CHUNK: usize = 128;

/// Writes everything.
pub fn write(bytes: &[u8]) {
    bytes.chunks(CHUNK).for_each(hypercall::console_write);
}

/// Hands what was typed to `take`.
pub fn read(mut take: impl FnMut(&[u8])) {
    let mut buffer = [0; CHUNK];
    loop {
        match hypercall::console_read(&mut buffer) {
            0 => return,
            count => take(&buffer[..count]),
        }
    }
}
