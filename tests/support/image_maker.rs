//! Makes tiny kernel images for tests: right ones, and ones that are wrong in one respect.

use pv_abi::elf_note::NoteType;

/// What an image is made of.
pub struct Maker {
    pub class: u8,
    pub encoding: u8,
    pub kind: u16,
    pub machine: u16,
    pub entry: u64,
    pub segments: Vec<Load>,
    pub notes: Vec<(NoteType, Vec<u8>)>,
    /// Notes lie in a section instead of a segment.
    pub notes_in_section: bool,
    /// Name of one more section.
    pub extra_section: &'static str,
}

/// A LOAD segment; its virtual address is never looked at.
pub struct Load {
    pub physical: u64,
    pub bytes: Vec<u8>,
    pub memory: u64,
}

/// VIRT_BASE of the images made here.
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;

const HEADER: usize = 64;
const PROGRAM: usize = 56;
const SECTION: usize = 64;

impl Default for Maker {
    /// An image that is fine: two segments from 1 MiB on, and the notes that it needs.
    fn default() -> Self {
        let code = Load { physical: 0x10_0000, bytes: b"code".repeat(100), memory: 0x2000 };
        let data = Load { physical: 0x10_2000, bytes: b"data".repeat(10), memory: 0x1800 };
        Self {
            class: 2,
            encoding: 1,
            kind: 2,
            machine: 62,
            entry: VIRT_BASE + 0x10_0000,
            segments: vec![code, data],
            notes: vec![
                (NoteType::XEN_VERSION, b"xen-3.0\0".to_vec()),
                (NoteType::GUEST_OS, b"tiny\0".to_vec()),
                (NoteType::VIRT_BASE, VIRT_BASE.to_le_bytes().to_vec()),
                (NoteType::ENTRY, (VIRT_BASE + 0x10_0010).to_le_bytes().to_vec()),
                (NoteType::HYPERCALL_PAGE, (VIRT_BASE + 0x10_1000).to_le_bytes().to_vec()),
            ],
            notes_in_section: false,
            extra_section: ".other",
        }
    }
}

impl Maker {
    /// With a numeric note, in place of the one of its type.
    pub fn note(mut self, kind: NoteType, value: u64) -> Self {
        self.notes.retain(|(present, _)| *present != kind);
        self.notes.push((kind, value.to_le_bytes().to_vec()));
        self
    }

    /// Without the notes of this type.
    pub fn without(mut self, kind: NoteType) -> Self {
        self.notes.retain(|(present, _)| *present != kind);
        self
    }

    /// The bytes of the ELF file.
    pub fn make(&self) -> Vec<u8> {
        let programs = self.segments.len() + usize::from(!self.notes_in_section);
        let mut tail = Vec::new();
        let base = HEADER + programs * PROGRAM;
        let mut place = |bytes: &[u8]| {
            let offset = base + tail.len();
            tail.extend_from_slice(bytes);
            tail.resize(tail.len().next_multiple_of(8), 0);
            (offset as u64, bytes.len() as u64)
        };
        let notes = place(&self.note_bytes());
        let mut headers = Vec::new();
        for load in &self.segments {
            headers.extend(program(1, place(&load.bytes), load.physical, load.memory));
        }
        if !self.notes_in_section {
            // Like PV-GRUB's: notes that take no memory.
            headers.extend(program(4, notes, 0, 0));
        }
        let names = format!("\0.note\0.names\0{}\0", self.extra_section);
        let names = place(names.as_bytes());
        let mut sections = vec![0; SECTION];
        sections.extend(section(1, if self.notes_in_section { 7 } else { 1 }, notes));
        sections.extend(section(7, 3, names));
        sections.extend(section(14, 1, (0, 0)));
        let (section_offset, _) = place(&sections);
        [self.header(programs, section_offset), headers, tail].concat()
    }

    fn note_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in &self.notes {
            let words = [4u32, value.len() as u32, kind.0];
            bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
            bytes.extend(b"Xen\0");
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn header(&self, programs: usize, section_offset: u64) -> Vec<u8> {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.extend([self.class, self.encoding, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([self.kind, self.machine].into_iter().flat_map(u16::to_le_bytes));
        bytes.extend(1u32.to_le_bytes());
        bytes.extend([self.entry, HEADER as u64, section_offset].into_iter().flat_map(u64::to_le_bytes));
        bytes.extend(0u32.to_le_bytes());
        let sizes = [HEADER as u16, PROGRAM as u16, programs as u16, SECTION as u16, 4, 2];
        bytes.extend(sizes.into_iter().flat_map(u16::to_le_bytes));
        bytes
    }
}

fn program(kind: u32, (offset, size): (u64, u64), physical: u64, memory: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = [kind, 7].into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.extend([offset, 0, physical, size, memory, 4].into_iter().flat_map(u64::to_le_bytes));
    bytes
}

fn section(name: u32, kind: u32, (offset, size): (u64, u64)) -> Vec<u8> {
    let mut bytes: Vec<u8> = [name, kind].into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.extend([0, 0, offset, size].into_iter().flat_map(u64::to_le_bytes));
    bytes.extend([0; 8]);
    bytes.extend([4, 0].into_iter().flat_map(u64::to_le_bytes));
    bytes
}
