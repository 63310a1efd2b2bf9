//! The header of a qcow2 file, as far as it can be wrong in ways that people should be told of.
//!
//! `imago` reads it again, and checks what it needs itself. What it does not mind is a table that lies behind the end of
//! the file: it would read as zeros, and so would the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The first bytes of such a file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// What version 2 has, and the features of version 3.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Fields {
    magic: [u8; 4],
    version: U32,
    backing_file_offset: U64,
    backing_file_bytes: U32,
    cluster_bits: U32,
    size: U64,
    encryption: U32,
    l1_entries: U32,
    l1_offset: U64,
    refcount_table_offset: U64,
    refcount_table_clusters: U32,
    snapshots: U32,
    snapshots_offset: U64,
    incompatible_features: U64,
}

const BYTES_OF_VERSION_2: usize = 72;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const KNOWN_FEATURES: u64 = 0b1_1111;

/// What is needed of a header that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of a cluster.
    pub cluster_bytes: u64,
}

/// Reads and checks the header of `file`.
///
/// # Errors
/// What is wrong with it, as part of a sentence.
pub fn check(file: &File, writable: bool) -> Result<Header, String> {
    let mut fields = Fields::new_zeroed();
    let length = file_bytes(file).map_err(|error| format!("it cannot be read: {error}"))?;
    let known = if length < size_of::<Fields>() as u64 { BYTES_OF_VERSION_2 } else { size_of::<Fields>() };
    let bytes = fields.as_mut_bytes().get_mut(..known).unwrap_or_default();
    file.read_exact_at(bytes, 0).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            format!("its {length} bytes are too few for the header of a qcow2 file")
        }
        _ => format!("it cannot be read: {error}"),
    })?;
    let cluster_bytes = check_format(&fields, writable)?;
    check_tables(&fields, cluster_bytes, length)?;
    Ok(Header { cluster_bytes })
}

/// Bytes of a file or device.
fn file_bytes(mut file: &File) -> io::Result<u64> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0))
}

fn check_format(fields: &Fields, writable: bool) -> Result<u64, String> {
    if fields.magic != MAGIC {
        return Err("it is no qcow2 file".into());
    }
    let features = match fields.version.get() {
        2 => 0,
        3 => fields.incompatible_features.get(),
        version => return Err(format!("it is qcow2 of version {version}; 2 and 3 are known")),
    };
    if fields.encryption.get() != 0 {
        return Err("it is encrypted, which is not supported".into());
    }
    if features & EXTERNAL_DATA != 0 {
        return Err("its data lies in another file, which is not supported".into());
    }
    if features & !KNOWN_FEATURES != 0 {
        return Err(format!("it has features that nobody knows here ({features:#x})"));
    }
    if features & CORRUPT != 0 && writable {
        return Err("it is marked as corrupt; repair it (qemu-img check -r all), or use it read-only".into());
    }
    match fields.cluster_bits.get() {
        bits @ 9..=21 => Ok(1 << bits),
        bits => Err(format!("its clusters are said to have 2^{bits} bytes; 2^9 to 2^21 is possible")),
    }
}

fn check_tables(fields: &Fields, cluster_bytes: u64, length: u64) -> Result<(), String> {
    let (size, l1_entries) = (fields.size.get(), u64::from(fields.l1_entries.get()));
    // An entry of the L1 table stands for an L2 table of one cluster, whose entries stand for a cluster each.
    let bytes_per_entry = (cluster_bytes / 8).saturating_mul(cluster_bytes);
    if l1_entries < size.div_ceil(bytes_per_entry) {
        return Err(format!("its size is said to be {size} bytes, for which its L1 table is too short"));
    }
    let refcounts = u64::from(fields.refcount_table_clusters.get()).saturating_mul(cluster_bytes);
    for (what, offset, bytes) in [
        ("L1 table", fields.l1_offset.get(), l1_entries.saturating_mul(8)),
        ("refcount table", fields.refcount_table_offset.get(), refcounts),
        ("backing file's name", fields.backing_file_offset.get(), fields.backing_file_bytes.get().into()),
    ] {
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(format!(
                "it is cut off: its {what} is said to be {bytes} bytes at {offset}, but it has only {length}"
            ));
        }
    }
    if l1_entries == 0 && size != 0 || refcounts == 0 {
        return Err("its tables are missing".into());
    }
    Ok(())
}
