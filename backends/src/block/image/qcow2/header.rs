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

/// What version 2 has, and what of version 3 is needed.
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
    compatible_features: U64,
    autoclear_features: U64,
    refcount_order: U32,
    header_bytes: U32,
}

const BYTES_OF_VERSION_2: usize = 72;
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_FEATURES: u64 = 0b1_1111;

/// Bytes of a header of version 3, without what is optional.
pub const BYTES: u64 = size_of::<Fields>() as u64;

/// The byte of the header with the marks *dirty* and *corrupt*, and these.
pub const MARKS: (u64, u8) = (79, (DIRTY | CORRUPT) as u8);

/// The most that `imago` reads of a table, as QEMU does.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// What is needed of a header that was checked. Offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    pub l1: u64,
    pub l1_entries: u64,
    pub refcount_table: u64,
    pub refcount_table_bytes: u64,
    /// A count has 2 to the power of this bits.
    pub refcount_order: u32,
    pub snapshots: u64,
    pub snapshot_count: u32,
}

impl Header {
    /// Bytes of a cluster, a power of two.
    pub const fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk for which one L2 table stands, as a power of 2: each of its entries, of 8 bytes, is for a cluster.
    pub const fn table_bits(&self) -> u32 {
        self.cluster_bits.saturating_mul(2).saturating_sub(3)
    }
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
    check_format(&fields, writable)?;
    let header = header(&fields);
    check_tables(&fields, &header, length)?;
    Ok(header)
}

fn header(fields: &Fields) -> Header {
    let cluster_bits = fields.cluster_bits.get();
    let (version, clusters) = (fields.version.get(), u64::from(fields.refcount_table_clusters.get()));
    Header {
        version,
        cluster_bits,
        l1: fields.l1_offset.get(),
        l1_entries: fields.l1_entries.get().into(),
        refcount_table: fields.refcount_table_offset.get(),
        refcount_table_bytes: clusters << cluster_bits,
        refcount_order: if version == 2 { 4 } else { fields.refcount_order.get() },
        snapshots: fields.snapshots_offset.get(),
        snapshot_count: fields.snapshots.get(),
    }
}

/// Bytes of a file or device.
pub fn file_bytes(mut file: &File) -> io::Result<u64> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0))
}

/// What cannot be used, and what must not be written.
fn check_format(fields: &Fields, writable: bool) -> Result<(), String> {
    if fields.magic != MAGIC {
        return Err("it is no qcow2 file".into());
    }
    let (features, order) = match fields.version.get() {
        2 => (0, 4),
        3 => (fields.incompatible_features.get(), fields.refcount_order.get()),
        version => return Err(format!("it is qcow2 of version {version}; 2 and 3 are known")),
    };
    if fields.encryption.get() != 0 {
        return Err("it is encrypted, which is not supported".into());
    }
    for (feature, what) in [
        (EXTERNAL_DATA, "its data lies in another file"),
        (COMPRESSION, "its clusters are compressed by another method than zlib (perhaps zstd)"),
        (EXTENDED_L2, "its L2 entries are extended, for parts of clusters"),
    ] {
        if features & feature != 0 {
            let remedy = "a copy by qemu-img convert -O qcow2 can be used";
            return Err(format!("{what}, which is not supported; {remedy}"));
        }
    }
    if features & !KNOWN_FEATURES != 0 {
        return Err(format!("it has features that nobody knows here ({features:#x})"));
    }
    for (mark, what) in [(CORRUPT, "corrupt"), (DIRTY, "dirty: its reference counts may be wrong")] {
        if features & mark != 0 && writable {
            return Err(format!("it is marked as {what}; {REPAIR}"));
        }
    }
    match (fields.cluster_bits.get(), order) {
        (9..=21, 0..=6) => Ok(()),
        (9..=21, order) => Err(format!("its counts are said to have 2^{order} bits; 2^0 to 2^6 is possible")),
        (bits, _) => Err(format!("its clusters are said to have 2^{bits} bytes; 2^9 to 2^21 is possible")),
    }
}

/// What to do with an image that must not be written as it is.
pub const REPAIR: &str = "repair it (qemu-img check -r all), or use it read-only";

fn check_tables(fields: &Fields, header: &Header, length: u64) -> Result<(), String> {
    let (size, l1_entries) = (fields.size.get(), header.l1_entries);
    if l1_entries < size.div_ceil(1 << header.table_bits()) {
        return Err(format!("its size is said to be {size} bytes, for which its L1 table is too short"));
    }
    let (l1_bytes, refcounts) = (l1_entries.saturating_mul(8), header.refcount_table_bytes);
    for (what, offset, bytes) in [
        ("L1 table", header.l1, l1_bytes),
        ("refcount table", header.refcount_table, refcounts),
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
    for (what, offset, bytes, most) in [
        ("L1 table", header.l1, l1_bytes, MAX_L1_BYTES),
        ("refcount table", header.refcount_table, refcounts, MAX_REFCOUNT_TABLE_BYTES),
    ] {
        if !offset.is_multiple_of(header.cluster_bytes()) {
            return Err(format!("its {what} is said to be at {offset}, where no cluster begins"));
        }
        if bytes > most {
            return Err(format!("its {what} has {bytes} bytes; at most {most} are supported"));
        }
    }
    Ok(())
}
