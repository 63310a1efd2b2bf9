//! The Xen notes of a kernel image, found by file offset: a PT_NOTE segment may have no memory at all.

use super::ImageError;
use super::elf::{Elf, NOTE, SECTION_NOTE};
use pv_abi::elf_note::{NoteType, OWNER};

/// Bytes of a text note that are kept.
const LONGEST_TEXT: usize = 64;

/// What a kernel image says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Virtual address of the entry point, where a note gives one.
    pub entry: Option<u64>,
    /// Virtual address of the hypercall page; an image without one makes its hypercalls itself.
    pub hypercall_page: Option<u64>,
    /// Virtual address that pfn 0 is mapped at.
    pub virt_base: u64,
    /// What is subtracted from a segment's physical address.
    pub paddr_offset: u64,
    /// Where the p2m list is wanted, other than in the initial mapping.
    pub init_p2m: Option<u64>,
    /// The ramdisk need not be mapped.
    pub mod_start_pfn: bool,
    /// There is an entry point for PVH guests.
    pub pvh_entry: bool,
    /// The note XEN_VERSION: the version of Xen's interface that the kernel is for. Empty without the note.
    pub xen_version: String,
    /// Name of the guest system.
    pub guest_os: String,
}

impl Notes {
    /// Reads the notes of the segments or, where these hold none of Xen's, of the sections.
    pub(super) fn read(elf: &Elf<'_>) -> Result<Self, ImageError> {
        let mut notes = Self::default();
        let mut found = false;
        for header in elf.programs.iter().filter(|header| header.kind.get() == NOTE) {
            let bytes = elf.bytes("its notes", header.offset.get(), header.file_size.get())?;
            found |= notes.take_all(bytes, header.alignment.get())?;
        }
        if !found {
            for header in elf.sections.iter().filter(|header| header.kind.get() == SECTION_NOTE) {
                let bytes = elf.bytes("its notes", header.offset.get(), header.size.get())?;
                found |= notes.take_all(bytes, header.alignment.get())?;
            }
        }
        // PV kernels may leave the one or the other to its default, but not both.
        let pv = notes.entry.is_some() || notes.virt_base != 0;
        match found {
            true if notes.pvh_entry && !pv => Err(ImageError::PvhOnly),
            true => Ok(notes),
            false if elf.has_section(b"__xen_guest") => Err(ImageError::LegacyOnly),
            false => Err(ImageError::NoXenNotes),
        }
    }

    /// Takes the notes that are Xen's out of `bytes`; true where there was one.
    fn take_all(&mut self, mut bytes: &[u8], alignment: u64) -> Result<bool, ImageError> {
        let alignment = if alignment == 8 { 8 } else { 4 };
        let mut found = false;
        while !bytes.is_empty() {
            let (note, rest) = split_note(bytes, alignment).ok_or(ImageError::BadNotes)?;
            if note.owner.strip_suffix(b"\0") == Some(OWNER.as_bytes()) {
                self.take(note.kind, note.value)?;
                found = true;
            }
            bytes = rest;
        }
        Ok(found)
    }

    /// Takes one note. Types that change nothing for a 64-bit PV domain are left alone.
    fn take(&mut self, kind: NoteType, value: &[u8]) -> Result<(), ImageError> {
        match kind {
            NoteType::ENTRY => self.entry = Some(number(kind, value)?),
            NoteType::HYPERCALL_PAGE => self.hypercall_page = Some(number(kind, value)?),
            NoteType::VIRT_BASE => self.virt_base = number(kind, value)?,
            NoteType::PADDR_OFFSET => self.paddr_offset = number(kind, value)?,
            NoteType::INIT_P2M => self.init_p2m = Some(number(kind, value)?),
            NoteType::MOD_START_PFN => self.mod_start_pfn = number(kind, value)? != 0,
            NoteType::PHYS32_ENTRY => self.pvh_entry = true,
            NoteType::XEN_VERSION => self.xen_version = text(value),
            NoteType::GUEST_OS => self.guest_os = text(value),
            _ => {}
        }
        Ok(())
    }
}

struct Note<'a> {
    owner: &'a [u8],
    kind: NoteType,
    value: &'a [u8],
}

/// Splits the first note off. The last one's padding may be missing.
fn split_note(bytes: &[u8], alignment: usize) -> Option<(Note<'_>, &[u8])> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (owner_size, value_size, kind) = (word(0)? as usize, word(4)? as usize, NoteType(word(8)?));
    let owner_end = owner_size.checked_add(12)?;
    let owner = bytes.get(12..owner_end)?;
    let value_start = owner_end.checked_next_multiple_of(alignment)?;
    let value_end = value_start.checked_add(value_size)?;
    let value = bytes.get(value_start..value_end)?;
    let next = value_end.checked_next_multiple_of(alignment)?;
    Some((Note { owner, kind, value }, bytes.get(next..).unwrap_or_default()))
}

fn number(kind: NoteType, value: &[u8]) -> Result<u64, ImageError> {
    match *value {
        [a, b, c, d] => Ok(u32::from_le_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => Err(ImageError::BadNote(kind.name().unwrap_or("of unknown type"))),
    }
}

/// A text note, cut off at its end and made safe to be shown on a terminal.
fn text(value: &[u8]) -> String {
    let text = value.split(|&byte| byte == 0).next().unwrap_or_default();
    text.iter().take(LONGEST_TEXT).flat_map(|byte| byte.escape_ascii()).map(char::from).collect()
}
