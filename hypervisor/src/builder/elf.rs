//! The little of ELF64 that a kernel image needs, on checked slices (System V ABI, chapters 4 and 5).

use super::ImageError;
use super::format::Format;
use std::ops::Range;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const CLASS_32: u8 = 1;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXEC: u16 = 2;
const TYPE_DYN: u16 = 3;
const MACHINE_X86_64: u16 = 62;

/// `p_type` of a segment to load (`PT_LOAD`).
pub const LOAD: u32 = 1;
/// `p_type` of a segment of notes (`PT_NOTE`).
pub const NOTE: u32 = 4;
/// `sh_type` of a section of notes (`SHT_NOTE`).
pub const SECTION_NOTE: u32 = 7;
/// A section without bytes in the file.
const SECTION_NOBITS: u32 = 8;
/// A program header count that says "look elsewhere".
const COUNT_ELSEWHERE: u16 = 0xffff;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 4],
    class: u8,
    encoding: u8,
    ident: [u8; 10],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    program_offset: U64,
    section_offset: U64,
    flags: U32,
    header_size: U16,
    program_size: U16,
    program_count: U16,
    section_size: U16,
    section_count: U16,
    section_names: U16,
}

/// A program header (`Elf64_Phdr`).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Program {
    pub kind: U32,
    pub flags: U32,
    pub offset: U64,
    pub virtual_address: U64,
    pub physical_address: U64,
    pub file_size: U64,
    pub memory_size: U64,
    pub alignment: U64,
}

/// A section header (`Elf64_Shdr`).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Section {
    pub name: U32,
    pub kind: U32,
    pub flags: U64,
    pub address: U64,
    pub offset: U64,
    pub size: U64,
    pub link: U32,
    pub info: U32,
    pub alignment: U64,
    pub entry_size: U64,
}

/// An ELF64 file whose header tables lie within it. What the tables point at is checked when it is asked for.
pub struct Elf<'a> {
    file: &'a [u8],
    header: &'a Header,
    pub programs: &'a [Program],
    pub sections: &'a [Section],
}

impl<'a> Elf<'a> {
    /// Reads the headers of a little-endian ELF64 file for x86-64.
    ///
    /// # Errors
    /// What the file is instead, or which of its headers cannot be used.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        check_identity(file)?;
        let (header, _) = Header::ref_from_prefix(file).map_err(|_| truncated("its headers", 64, file))?;
        check_header(header)?;
        let programs = match header.program_count.get() {
            COUNT_ELSEWHERE => return Err(ImageError::OddTable("program header")),
            0 => &[],
            count => table(file, "program headers", header.program_offset, header.program_size, count)?,
        };
        // No count with a table means 65,280 sections or more: nobody's kernel, and the notes are elsewhere.
        let sections = match header.section_count.get() {
            0 => &[],
            count => table(file, "section headers", header.section_offset, header.section_size, count)?,
        };
        Ok(Self { file, header, programs, sections })
    }

    /// The entry point that the header names.
    pub fn entry(&self) -> u64 {
        self.header.entry.get()
    }

    /// A range of the file, where it lies within it.
    pub fn range(&self, what: &'static str, offset: u64, size: u64) -> Result<Range<usize>, ImageError> {
        range(self.file, what, offset, size)
    }

    /// The bytes of such a range.
    pub fn bytes(&self, what: &'static str, offset: u64, size: u64) -> Result<&'a [u8], ImageError> {
        Ok(self.file.get(self.range(what, offset, size)?).unwrap_or_default())
    }

    /// Whether a section has this name. A broken table of names names nothing.
    pub fn has_section(&self, name: &[u8]) -> bool {
        let names = self.sections.get(usize::from(self.header.section_names.get()));
        let Some(names) = names.filter(|section| section.kind.get() != SECTION_NOBITS) else { return false };
        let Ok(names) = self.bytes("section names", names.offset.get(), names.size.get()) else {
            return false;
        };
        let named = |section: &Section| {
            names.get(section.name.get() as usize..).and_then(|rest| rest.split(|&byte| byte == 0).next())
        };
        self.sections.iter().any(|section| named(section) == Some(name))
    }
}

fn check_identity(file: &[u8]) -> Result<(), ImageError> {
    let found = match Format::of(file) {
        _ if file.is_empty() => return Err(ImageError::Empty),
        Format::Elf => return Ok(()),
        Format::CompressedOtherwise(name) => return Err(ImageError::UnsupportedCompression(name)),
        Format::Compressed(compression) => format!("{compression} data, in more than one layer"),
        Format::BzImage => "a bzImage, in more than one layer".into(),
        Format::Other(name) => name.into(),
        Format::Unknown => "of no known format".into(),
    };
    Err(ImageError::NotAnImage(found))
}

fn check_header(header: &Header) -> Result<(), ImageError> {
    if header.class == CLASS_32 {
        return Err(ImageError::Bits32);
    }
    if header.encoding != LITTLE_ENDIAN {
        return Err(ImageError::NotLittleEndian);
    }
    if header.machine.get() != MACHINE_X86_64 {
        return Err(ImageError::WrongMachine(header.machine.get()));
    }
    match header.kind.get() {
        TYPE_EXEC | TYPE_DYN => Ok(()),
        other => Err(ImageError::NotExecutable(other)),
    }
}

/// A table of headers, whose entries must have the size that their type has.
fn table<'a, T>(
    file: &'a [u8],
    what: &'static str,
    at: U64,
    size: U16,
    count: u16,
) -> Result<&'a [T], ImageError>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    if usize::from(size.get()) != size_of::<T>() {
        return Err(ImageError::OddTable(what));
    }
    let range = range(file, what, at.get(), u64::from(size.get()) * u64::from(count))?;
    let bytes = file.get(range).unwrap_or_default();
    <[T]>::ref_from_bytes(bytes).map_err(|_| ImageError::OddTable(what))
}

fn range(file: &[u8], what: &'static str, offset: u64, size: u64) -> Result<Range<usize>, ImageError> {
    let end = offset.saturating_add(size);
    if end > file.len() as u64 {
        return Err(truncated(what, end, file));
    }
    Ok(offset as usize..end as usize)
}

fn truncated(what: &'static str, end: u64, file: &[u8]) -> ImageError {
    ImageError::Truncated { what, end, length: file.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_leaves_the_file_or_wraps_is_refused() {
        let of = |offset, size| range(&[0; 8], "its bytes", offset, size);
        for (offset, size) in [(0, 9), (9, 0), (u64::MAX, 1), (1, u64::MAX), (u64::MAX - 3, 8)] {
            let refused = matches!(of(offset, size), Err(ImageError::Truncated { .. }));
            assert!(refused, "{size:#x} bytes at {offset:#x}");
        }
        assert_eq!(of(4, 4), Ok(4..8));
    }
}
