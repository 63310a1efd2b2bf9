//! Names of a kernel's functions, for crash reports. They are a courtesy: what cannot be read is left out.

use super::elf::Elf;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const SECTION_SYMBOLS: u32 = 2;
const TYPE_FUNCTION: u8 = 2;
/// Characters of a name that are kept.
const LONGEST_NAME: usize = 120;

/// A symbol (`Elf64_Sym`).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    name: U32,
    info: u8,
    other: u8,
    section: U16,
    value: U64,
    size: U64,
}

/// A function of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The virtual address of the function's first byte.
    pub address: u64,
    /// Bytes of the function, as the symbol has them.
    pub size: u64,
    /// Its name, safe to be shown.
    pub name: String,
}

/// The functions that an image names.
pub fn functions(file: &[u8]) -> Vec<Function> {
    Elf::parse(file).ok().and_then(|elf| read(&elf)).unwrap_or_default()
}

fn read(elf: &Elf<'_>) -> Option<Vec<Function>> {
    let table = elf.sections.iter().find(|section| section.kind.get() == SECTION_SYMBOLS)?;
    let names = elf.sections.get(table.link.get() as usize)?;
    let bytes = elf.bytes("its symbols", table.offset.get(), table.size.get()).ok()?;
    let names = elf.bytes("their names", names.offset.get(), names.size.get()).ok()?;
    let (entries, _) = <[Entry]>::ref_from_prefix_with_elems(bytes, bytes.len() / size_of::<Entry>()).ok()?;
    let functions =
        entries.iter().filter(|entry| entry.info & 0xf == TYPE_FUNCTION && entry.value.get() != 0);
    Some(functions.filter_map(|entry| function(entry, names)).collect())
}

fn function(entry: &Entry, names: &[u8]) -> Option<Function> {
    let name = names.get(entry.name.get() as usize..)?.split(|&byte| byte == 0).next()?;
    Some(Function { address: entry.value.get(), size: entry.size.get(), name: readable(name) })
}

/// A name without mangling, and without what a terminal would obey.
fn readable(name: &[u8]) -> String {
    let mangled = std::str::from_utf8(name.get(..LONGEST_NAME * 8).unwrap_or(name)).unwrap_or("?");
    let plain = format!("{:#}", rustc_demangle::demangle(mangled));
    plain.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_image::KERNEL_IMAGE;

    #[test]
    fn the_bundled_kernel_names_its_functions() {
        let functions = functions(KERNEL_IMAGE);
        let named = |part: &str| functions.iter().any(|function| function.name.contains(part));
        assert!(named("pv_guest_kernel::"), "{} functions", functions.len());
        assert!(!named("17h"), "names are demangled, without their hashes");
    }

    #[test]
    fn what_is_no_image_names_nothing_and_names_are_harmless() {
        assert_eq!(functions(b"no image"), []);
        assert_eq!(readable(b"ring\x07\x1b[2J"), "ring[2J");
        assert_eq!(readable(b"\xff\xfe"), "?");
        assert_eq!(readable(&[b'a'; 5000]).len(), LONGEST_NAME);
    }
}
