//! What a file is, by its first bytes.

use super::compression::Compression;

/// What a file begins like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An ELF file for any machine.
    Elf,
    /// Linux for x86, as it is installed.
    BzImage,
    /// Data compressed in a format that can be unpacked.
    Compressed(Compression),
    /// Something compressed in a way that is not supported; its name.
    CompressedOtherwise(&'static str),
    /// A kernel that cannot be started, or no kernel at all; what it is, with an article.
    Other(&'static str),
    /// Nothing that is known.
    Unknown,
}

impl Format {
    /// That of a file, or of what was unpacked from one.
    pub fn of(file: &[u8]) -> Self {
        let has = |at: usize, magic: &[u8]| file.get(at..).is_some_and(|rest| rest.starts_with(magic));
        match file {
            [0x7f, b'E', b'L', b'F', ..] => Self::Elf,
            // Before MZ: Linux can be an EFI executable at the same time.
            _ if has(0x202, b"HdrS") => Self::BzImage,
            [0x1f, 0x8b, ..] => Self::Compressed(Compression::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Compressed(Compression::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Compressed(Compression::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] | [0x04, 0x22, 0x4d, 0x18, ..] => Self::Compressed(Compression::Lz4),
            [b'B', b'Z', b'h', ..] => Self::CompressedOtherwise("bzip2"),
            [0x5d, 0, 0, ..] => Self::CompressedOtherwise("lzma"),
            [0x89, b'L', b'Z', b'O', ..] => Self::CompressedOtherwise("lzo"),
            _ if has(0x38, b"ARM\x64") => Self::Other("a Linux image for ARM64"),
            _ if has(0x38, b"RSC\x05") => Self::Other("a Linux image for RISC-V"),
            _ if has(0x24, &[0x18, 0x28, 0x6f, 0x01]) => Self::Other("a zImage, Linux for ARM"),
            [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => Self::Other("an EFI zboot image"),
            [b'M', b'Z', ..] => Self::Other("an EFI executable that is no bzImage"),
            [0x27, 0x05, 0x19, 0x56, ..] => Self::Other("an image for U-Boot"),
            [0xd0, 0x0d, 0xfe, 0xed, ..] => Self::Other("a device tree, or a FIT image for U-Boot"),
            [b'0', b'7', b'0', b'7', b'0', b'1' | b'2', ..] => Self::Other("a ramdisk (cpio)"),
            [b'Q', b'F', b'I', 0xfb, ..] => Self::Other("a qcow2 image, for a disk"),
            [b'#', b'!', ..] => Self::Other("a script"),
            _ => Self::Unknown,
        }
    }
}
