//! A kernel image: what is to be loaded where, checked against the file and against itself.

use super::elf::{Elf, LOAD, Program};
use super::{ImageError, Notes};
use pv_abi::PAGE_SIZE;
use std::ops::Range;

/// No segment may have, or lie, more than this: far above every kernel, far below every overflow.
const MAX_ADDRESS: u64 = 1 << 36;
/// What an image must name as its XEN_VERSION.
const XEN_VERSION: &str = "xen-3.0";

/// A kernel image that makes sense.
#[derive(Clone, Debug)]
pub struct KernelImage<'a> {
    file: &'a [u8],
    /// What to load, by ascending address, without overlaps.
    pub segments: Vec<Segment>,
    /// What the image's Xen notes ask for.
    pub notes: Notes,
    /// Virtual address of the first instruction.
    pub entry: u64,
}

/// A LOAD segment of the image: what is copied from the file, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index among the file's program headers.
    pub index: usize,
    /// Pseudo-physical address: pfn 0 starts at 0.
    pub address: u64,
    /// Where its bytes lie in the file; what the memory has beyond them is zero.
    pub file: Range<usize>,
    /// Bytes that the segment takes in memory; never fewer than its bytes in the file.
    pub memory: u64,
}

impl Segment {
    /// The first address behind it.
    pub fn end(&self) -> u64 {
        self.address + self.memory
    }
}

impl<'a> KernelImage<'a> {
    /// Reads an image from the bytes of its file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        let elf = Elf::parse(file)?;
        let notes = Notes::read(&elf)?;
        if !notes.xen_version.starts_with(XEN_VERSION) {
            return Err(ImageError::WrongVersion(notes.xen_version));
        }
        if !notes.virt_base.is_multiple_of(PAGE_SIZE as u64) {
            return Err(ImageError::UnalignedBase(notes.virt_base));
        }
        let segments = read_segments(&elf, notes.paddr_offset)?;
        let entry = notes.entry.unwrap_or_else(|| elf.entry());
        let image = Self { file, segments, notes, entry };
        image.check_addresses()?;
        Ok(image)
    }

    /// The bytes that the file has for a segment.
    pub fn bytes(&self, segment: &Segment) -> &'a [u8] {
        self.file.get(segment.file.clone()).unwrap_or_default()
    }

    /// The pages that the image covers, from its first to its last segment.
    pub fn pages(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |segment| segment.address);
        let end = self.segments.last().map_or(0, Segment::end);
        start / PAGE_SIZE as u64..end.div_ceil(PAGE_SIZE as u64)
    }

    /// The pseudo-physical address that is mapped at a virtual one.
    fn physical(&self, address: u64) -> Option<u64> {
        address.checked_sub(self.notes.virt_base)
    }

    /// The pfn of the hypercall page, where the image has one.
    pub fn hypercall_page(&self) -> Option<u64> {
        self.notes
            .hypercall_page
            .and_then(|page| self.physical(page))
            .map(|address| address / PAGE_SIZE as u64)
    }

    fn check_addresses(&self) -> Result<(), ImageError> {
        let holds =
            |at: u64| self.segments.iter().any(|segment| (segment.address..segment.end()).contains(&at));
        if !self.physical(self.entry).is_some_and(holds) {
            return Err(ImageError::EntryOutside(self.entry));
        }
        let Some(page) = self.notes.hypercall_page else { return Ok(()) };
        let inside = |at: u64| at.is_multiple_of(PAGE_SIZE as u64) && holds(at);
        match self.physical(page).is_some_and(inside) {
            true => Ok(()),
            false => Err(ImageError::HypercallPageOutside(page)),
        }
    }
}

fn read_segments(elf: &Elf<'_>, paddr_offset: u64) -> Result<Vec<Segment>, ImageError> {
    let loads = elf.programs.iter().enumerate().filter(|(_, header)| header.kind.get() == LOAD);
    let mut segments = loads
        .filter(|(_, header)| header.memory_size.get() != 0 || header.file_size.get() != 0)
        .map(|(index, header)| read_segment(elf, index, header, paddr_offset))
        .collect::<Result<Vec<_>, _>>()?;
    if segments.is_empty() {
        return Err(ImageError::NoSegments);
    }
    segments.sort_by_key(|segment| segment.address);
    let overlap = segments.iter().zip(segments.iter().skip(1)).find(|(low, high)| low.end() > high.address);
    match overlap {
        Some((low, high)) => Err(ImageError::Overlap(low.index, high.index)),
        None => Ok(segments),
    }
}

fn read_segment(elf: &Elf<'_>, index: usize, header: &Program, offset: u64) -> Result<Segment, ImageError> {
    let (file, memory) = (header.file_size.get(), header.memory_size.get());
    if file > memory {
        return Err(ImageError::SegmentShrinks { index, file, memory });
    }
    let physical = header.physical_address.get();
    let in_range = |address: &u64| address.checked_add(memory).is_some_and(|end| end <= MAX_ADDRESS);
    let address = physical.checked_sub(offset).filter(in_range);
    let address = address.ok_or(ImageError::SegmentRange { index, address: physical, memory })?;
    let file = elf.range("its segments", header.offset.get(), file)?;
    Ok(Segment { index, address, file, memory })
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
