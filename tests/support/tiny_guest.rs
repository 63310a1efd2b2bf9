//! A PV kernel of a few instructions, as a file.

use std::path::PathBuf;
use tempfile::TempDir;

/// Where its code starts: one page, that can be written as well.
pub const CODE: u64 = VIRT_BASE + PHYSICAL;
const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
const PHYSICAL: u64 = 0x10_0000;
const PAGE: u64 = 4096;

/// An image, deleted when dropped.
pub struct TinyGuest {
    _directory: TempDir,
    /// Its file.
    pub path: PathBuf,
}

impl TinyGuest {
    /// A kernel that starts with these bytes.
    pub fn new(code: &[u8]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tiny");
        std::fs::write(&path, image(code)).expect("a file");
        Self { _directory: directory, path }
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }
}

/// ELF header, a LOAD and a NOTE header, the notes, and the code in a page of the file's own.
fn image(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let notes = notes();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2u16, 62].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([CODE, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 2, 64, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    for (kind, offset, physical, size, memory) in
        [(1u32, PAGE, PHYSICAL, code.len() as u64, PAGE), (4, HEADERS, 0, notes.len() as u64, 0)]
    {
        file.extend([kind, 7].iter().flat_map(|word| word.to_le_bytes()));
        file.extend([offset, 0, physical, size, memory, 4].iter().flat_map(|word| word.to_le_bytes()));
    }
    file.extend(notes);
    file.resize(PAGE as usize, 0);
    file.extend(code);
    file
}

fn notes() -> Vec<u8> {
    const ENTRY: u32 = 1;
    const BASE: u32 = 3;
    const VERSION: u32 = 5;
    let mut bytes = Vec::new();
    for (kind, value) in
        [(VERSION, *b"xen-3.0\0"), (BASE, VIRT_BASE.to_le_bytes()), (ENTRY, CODE.to_le_bytes())]
    {
        bytes.extend([4, 8, kind].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(b"Xen\0");
        bytes.extend(value);
    }
    bytes
}
