//! What kernel images are compressed with, and their unpacking, with a limit: the data is hostile.

use super::ImageError;
use super::format::Format;
use std::fmt;
use std::io::{self, Read};

/// No image unpacks to more: the largest kernels, with all their drivers built in, have a tenth of this.
pub const MAX_UNPACKED: u64 = 512 << 20;

/// No decoder may look back further than this, nor hold more for it: what the kernel's build uses at most.
const MAX_WINDOW: u64 = 128 << 20;
/// The memory of an xz decoder with such a window, in KiB.
const XZ_MEMORY_KIB: u32 = (MAX_WINDOW >> 10) as u32 + 1024;

/// A format of compressed data that can be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip (RFC 1952), the default of Linux on x86.
    Gzip,
    /// xz, with the filter for x86 code as well.
    Xz,
    /// Zstandard (RFC 8878), with a window of 128 MiB at most.
    Zstd,
    /// LZ4 frames, also the legacy ones that a kernel's build makes.
    Lz4,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        })
    }
}

/// The image within what was read from a file: of a bzImage its payload, unpacked; of compressed data what it holds, which
/// may be a bzImage. Anything else comes back as it is.
///
/// # Errors
/// Why it cannot be unpacked.
pub fn unpack(file: Vec<u8>) -> Result<Vec<u8>, ImageError> {
    unpack_at_most(file, MAX_UNPACKED)
}

/// The same, with another limit, in bytes.
pub(super) fn unpack_at_most(file: Vec<u8>, limit: u64) -> Result<Vec<u8>, ImageError> {
    let file = match Format::of(&file) {
        Format::Compressed(compression) => compression.unpack(&file, limit)?,
        _ => file,
    };
    match Format::of(&file) {
        Format::BzImage => super::bzimage::unpack_payload(&file, limit),
        _ => Ok(file),
    }
}

impl Compression {
    /// Unpacks `data`, unless that makes more than `limit` bytes.
    pub fn unpack(self, data: &[u8], limit: u64) -> Result<Vec<u8>, ImageError> {
        let unpacked = self.read(data, limit.saturating_add(1));
        let unpacked = unpacked.map_err(|error| self.damaged(&error))?;
        match unpacked.len() as u64 > limit {
            true => Err(ImageError::UnpacksToMore { compression: self, limit }),
            false => Ok(unpacked),
        }
    }

    /// The first bytes that `data` unpacks to, no more than `most`.
    pub(super) fn read(self, data: &[u8], most: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => read_at_most(flate2::read::GzDecoder::new(data), most),
            Self::Xz => read_at_most(lzma_rust2::XzReader::new_mem_limit(data, false, XZ_MEMORY_KIB), most),
            Self::Zstd => read_zstd(data, most),
            Self::Lz4 => read_at_most(lz4_flex::frame::FrameDecoder::new(data), most),
        }
    }

    fn damaged(self, error: &io::Error) -> ImageError {
        ImageError::Damaged { compression: self, reason: error.to_string() }
    }
}

fn read_at_most(decoder: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The decoder leaves it to its user to compare checksums.
fn read_zstd(data: &[u8], most: u64) -> io::Result<Vec<u8>> {
    let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(data, MAX_WINDOW);
    let mut decoder = decoder.map_err(io::Error::other)?;
    let bytes = read_at_most(&mut decoder, most)?;
    let decoder = decoder.into_frame_decoder();
    let is_whole = (bytes.len() as u64) < most;
    let stored = decoder.get_checksum_from_data().filter(|_| is_whole);
    if stored.is_some() && stored != decoder.get_calculated_checksum() {
        return Err(io::Error::other("its checksum is wrong"));
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "compression_tests.rs"]
mod tests;
