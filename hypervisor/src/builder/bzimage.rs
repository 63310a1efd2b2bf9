//! Linux for x86 as it is installed, `vmlinuz`: a setup header, and in the protected-mode code behind it the ELF image,
//! compressed (Linux, Documentation/arch/x86/boot.rst).

use super::ImageError;
use super::compression::Compression;
use super::format::Format;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Where the setup header is.
const HEADER: u64 = 0x1f1;
/// Bytes of what setup code is counted in.
const SECTOR: u64 = 512;
/// What a header without a number of them means.
const DEFAULT_SECTORS: u64 = 4;
/// The first protocol that tells where the payload is.
const LEAST_PROTOCOL: u16 = 0x208;
/// The size of the image when it is unpacked, at the payload's end.
const SIZE: usize = 4;

/// The setup header, as far as it matters here.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SetupHeader {
    setup_sectors: u8,
    before_magic: [u8; 16],
    magic: [u8; 4],
    protocol: U16,
    before_payload: [u8; 64],
    payload_offset: U32,
    payload_length: U32,
}

/// The ELF image that a bzImage holds.
pub(super) fn unpack_payload(file: &[u8], limit: u64) -> Result<Vec<u8>, ImageError> {
    let payload = payload(file)?;
    let compression = match Format::of(payload) {
        Format::Compressed(compression) => compression,
        Format::CompressedOtherwise(name) => return Err(ImageError::UnsupportedCompression(name)),
        Format::Elf => return Ok(payload.to_vec()),
        _ => return Err(ImageError::UnknownPayload),
    };
    let (data, size) = payload.split_last_chunk::<SIZE>().ok_or(ImageError::UnknownPayload)?;
    let declared = u64::from(u32::from_le_bytes(*size));
    if declared > limit {
        return Err(ImageError::UnpacksToMore { compression, limit });
    }
    // The size is gzip's own trailer, and stands behind what the other formats end with.
    let data = if compression == Compression::Gzip { payload } else { data };
    match compression.unpack(data, declared) {
        Ok(image) if image.len() as u64 == declared => Ok(image),
        Ok(image) => Err(ImageError::UnpacksToLess { declared, unpacked: image.len() as u64 }),
        Err(ImageError::UnpacksToMore { .. }) => Err(ImageError::UnpacksToMoreThanDeclared { declared }),
        Err(error) => Err(error),
    }
}

/// The bytes of the payload, which lies in the protected-mode code.
fn payload(file: &[u8]) -> Result<&[u8], ImageError> {
    let header = part(file, "its setup headers", HEADER, size_of::<SetupHeader>() as u64)?;
    let Ok(header) = SetupHeader::ref_from_bytes(header) else { return Err(ImageError::UnknownPayload) };
    let protocol = header.protocol.get();
    if protocol < LEAST_PROTOCOL {
        return Err(ImageError::OldBootProtocol { major: protocol >> 8, minor: protocol & 0xff });
    }
    let sectors = match header.setup_sectors {
        0 => DEFAULT_SECTORS,
        sectors => sectors.into(),
    };
    let code = (sectors + 1) * SECTOR;
    let offset = code + u64::from(header.payload_offset.get());
    part(file, "the bytes of its payload", offset, header.payload_length.get().into())
}

/// A part of the file, if it lies within it.
fn part<'a>(file: &'a [u8], what: &'static str, offset: u64, size: u64) -> Result<&'a [u8], ImageError> {
    let end = offset + size;
    let bytes = file.get(offset as usize..).and_then(|rest| rest.get(..size as usize));
    bytes.ok_or(ImageError::Truncated { what, end, length: file.len() })
}
