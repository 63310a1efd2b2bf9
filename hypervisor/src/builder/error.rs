//! What can be wrong with a kernel image, or with a domain that it is to be started in.
//!
//! Every message is one line and reads well behind the name of the file or option at fault.

use super::Compression;
use crate::error::{Failure, Refusal};
use crate::machine::NoSuchFrame;
use pv_abi::PAGE_SIZE;
use std::fmt;

/// Why a file is no kernel that can be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file has no bytes.
    #[error("it is empty")]
    Empty,
    /// It is something else, and what.
    #[error("it is {0}; an ELF image or a bzImage is needed, for x86-64 and with Xen notes")]
    NotAnImage(String),
    /// Compressed, and by what.
    #[error("compressed with {0}, which is not supported; gzip, xz, zstd, lz4 and no compression are")]
    UnsupportedCompression(&'static str),
    /// Compressed data that is not what it should be.
    #[error("its {compression} data cannot be unpacked: {reason}")]
    Damaged {
        /// The format of the data.
        compression: Compression,
        /// What its decoder says.
        reason: String,
    },
    /// It would be larger than any kernel is.
    #[error("its {compression} data unpacks to more than {}", Amount(limit / PAGE_SIZE as u64))]
    UnpacksToMore {
        /// The format of the data.
        compression: Compression,
        /// Bytes that would have been fine.
        limit: u64,
    },
    /// A bzImage that lies about its payload.
    #[error("its payload unpacks to more than the {declared} bytes that it declares")]
    UnpacksToMoreThanDeclared {
        /// Bytes that it should have.
        declared: u64,
    },
    /// The same, the other way round.
    #[error("its payload declares {declared} bytes and unpacks to {unpacked}")]
    UnpacksToLess {
        /// Bytes that it should have.
        declared: u64,
        /// Bytes that the data unpacks to.
        unpacked: u64,
    },
    /// A bzImage from before its payload could be found.
    #[error("a bzImage of boot protocol {major}.{minor:02}: 2.08 is needed, as Linux has since 2.6.26")]
    OldBootProtocol {
        /// The protocol's number before the dot.
        major: u16,
        /// The protocol's number behind the dot.
        minor: u16,
    },
    /// The payload of a bzImage is neither compressed nor ELF.
    #[error("a bzImage whose payload is neither compressed in a known way nor an ELF image")]
    UnknownPayload,
    /// Something that the headers name lies behind the file's end.
    #[error("truncated: {what} end at byte {end}, but there are only {length}")]
    Truncated {
        /// What lies there, in the plural.
        what: &'static str,
        /// Where it ends, at least.
        end: u64,
        /// Bytes in the file, or in what was unpacked from it.
        length: usize,
    },
    /// The ELF class is 32-bit (`ELFCLASS32`).
    #[error("a 32-bit image; only 64-bit guests are supported")]
    Bits32,
    /// Data encoding other than little-endian.
    #[error("not a little-endian ELF image")]
    NotLittleEndian,
    /// `e_machine` is not 62 (x86-64), but this.
    #[error("built for {}, not for x86-64 (ELF machine 62)", machine_name(*.0))]
    WrongMachine(u16),
    /// `e_type` is neither EXEC nor DYN.
    #[error("ELF type {0}: an object or core file, not an executable image")]
    NotExecutable(u16),
    /// Header tables whose entries have an unknown size, or more entries than the format has without tricks.
    #[error("the {0} table has an unusual format")]
    OddTable(&'static str),
    /// No note of owner `Xen`.
    #[error("no Xen notes: not built as a Xen PV kernel (of a Linux, CONFIG_XEN_PV is missing)")]
    NoXenNotes,
    /// Notes of a PVH kernel only.
    #[error(
        "its Xen notes have a PVH entry only: not built as a Xen PV kernel (of a Linux, CONFIG_XEN_PV is missing)"
    )]
    PvhOnly,
    /// Only a `__xen_guest` section.
    #[error("only a legacy __xen_guest section: an image with Xen ELF notes is needed")]
    LegacyOnly,
    /// Notes that do not parse.
    #[error("malformed ELF notes")]
    BadNotes,
    /// A numeric note that is neither 4 nor 8 bytes long.
    #[error("the Xen note {0} is not a number of 4 or 8 bytes")]
    BadNote(&'static str),
    /// The XEN_VERSION note names something else, or is missing.
    #[error("XEN_VERSION is \"{0}\", not xen-3.0")]
    WrongVersion(String),
    /// No LOAD segment with any memory.
    #[error("no segment to load")]
    NoSegments,
    /// A LOAD segment that has more bytes in the file than in memory.
    #[error("segment {index} has {file:#x} bytes in the file but only {memory:#x} in memory")]
    SegmentShrinks {
        /// Index among the program headers.
        index: usize,
        /// Bytes that the file has for the segment (`p_filesz`).
        file: u64,
        /// Bytes that the segment takes in memory (`p_memsz`).
        memory: u64,
    },
    /// A LOAD segment that no domain could hold, or whose addresses wrap.
    #[error("segment {index} is huge or out of range: {memory:#x} bytes at physical address {address:#x}")]
    SegmentRange {
        /// Index among the program headers.
        index: usize,
        /// Its physical address, as the file has it.
        address: u64,
        /// Bytes that the segment takes in memory (`p_memsz`).
        memory: u64,
    },
    /// Two LOAD segments want the same memory.
    #[error("segments {0} and {1} overlap")]
    Overlap(usize, usize),
    /// VIRT_BASE is not page-aligned.
    #[error("VIRT_BASE {0:#x} is not page-aligned")]
    UnalignedBase(u64),
    /// The entry point lies in no segment.
    #[error("the entry point {0:#x} lies outside the image")]
    EntryOutside(u64),
    /// The hypercall page is unaligned or lies in no segment.
    #[error("the hypercall page {0:#x} is not page-aligned within the image")]
    HypercallPageOutside(u64),
}

fn machine_name(machine: u16) -> String {
    let name = match machine {
        3 => "32-bit x86",
        21 => "64-bit PowerPC",
        22 => "S/390",
        40 => "32-bit ARM",
        183 => "ARM64",
        243 => "RISC-V",
        258 => "LoongArch",
        other => return format!("ELF machine {other}"),
    };
    format!("{name} (ELF machine {machine})")
}

/// Why an image and a domain's size, ramdisk and command line do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Image, tables and stack do not fit.
    #[error("memory too small: this kernel needs at least {needs}, the domain has {has}")]
    MemoryTooSmall {
        /// The least that would do.
        needs: Amount,
        /// The memory that the domain has.
        has: Amount,
    },
    /// More than a domain may have.
    #[error("memory too large: a domain may have {most}, not {has}")]
    MemoryTooLarge {
        /// The most memory that a domain may have.
        most: Amount,
        /// The memory that was asked for.
        has: Amount,
    },
    /// They would fit but for the ramdisk.
    #[error("ramdisk too big: with it the domain needs at least {needs} of memory, and it has {has}")]
    RamdiskTooBig {
        /// The least that would do.
        needs: Amount,
        /// The memory that the domain has.
        has: Amount,
    },
    /// Longer than `start_info` has room for.
    #[error("command line too long: {length} bytes, at most {} fit", super::MAX_COMMAND_LINE)]
    CommandLineTooLong {
        /// Bytes of the command line, without a zero byte at its end.
        length: usize,
    },
    /// A zero byte would end it early.
    #[error("the command line has a zero byte")]
    CommandLineHasZero,
    /// The mapping would leave the guest's part of the address space.
    #[error(
        "the address range {start:#x} + {bytes:#x} wanted by the kernel's notes is not the guest's to use"
    )]
    AddressRange {
        /// The first virtual address of the range.
        start: u64,
        /// How many bytes the range has.
        bytes: u64,
    },
}

/// Why a planned domain could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The machine has not got the memory.
    #[error("the domain needs {needs}, and the machine has {has} left")]
    MachineTooSmall {
        /// The memory that the domain is to have.
        needs: Amount,
        /// The memory that no domain has.
        has: Amount,
    },
    /// The page tables were refused, or the machine failed.
    #[error("the domain cannot be built: {0}")]
    Mmu(#[from] Failure),
    /// The machine's memory is not what it was.
    #[error("the domain cannot be built: {0}")]
    Memory(#[from] NoSuchFrame),
    /// The plan names a page that the domain does not have: a defect of the plan.
    #[error("the domain cannot be built: it has no pfn {0:#x}")]
    Plan(u64),
}

impl From<Refusal> for BuildError {
    fn from(refusal: Refusal) -> Self {
        Self::Mmu(refusal.into())
    }
}

/// An amount of memory in pages, shown exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = u128::from(self.0) * PAGE_SIZE as u128;
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20)];
        match units.into_iter().find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift)) {
            Some((unit, shift)) => write!(f, "{} {unit}", bytes >> shift),
            None => write!(f, "{} KiB", bytes >> 10),
        }
    }
}
