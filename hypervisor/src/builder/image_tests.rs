use super::*;
use crate::builder::image_maker::{Load, Maker, VIRT_BASE};
use crate::builder::{Plan, Wishes};
use pv_abi::elf_note::NoteType;

fn error(maker: &Maker) -> ImageError {
    KernelImage::parse(&maker.make()).expect_err("the image is wrong")
}

fn segments(list: &[(u64, usize, u64)]) -> Maker {
    let load = |&(physical, bytes, memory)| Load { physical, bytes: vec![0xcc; bytes], memory };
    Maker { segments: list.iter().map(load).collect(), ..Maker::default() }
}

#[test]
fn a_good_image_is_read() {
    let file = Maker::default().make();
    let image = KernelImage::parse(&file).unwrap();
    assert_eq!(image.entry, VIRT_BASE + 0x10_0010);
    assert_eq!(image.hypercall_page(), Some(0x101));
    assert_eq!(image.pages(), 0x100..0x104);
    assert_eq!(image.notes.guest_os, "tiny");
    assert_eq!(image.segments[1].address, 0x10_2000);
    assert_eq!(image.bytes(&image.segments[1]), b"data".repeat(10));
}

#[test]
fn notes_are_found_in_sections_too() {
    let file = Maker { notes_in_section: true, ..Maker::default() }.make();
    assert_eq!(KernelImage::parse(&file).unwrap().notes.virt_base, VIRT_BASE);
}

/// A PT_NOTE segment has a place in the file and need have none in memory; where that place is does not matter.
#[test]
fn notes_are_found_anywhere_in_the_file() {
    let mut file = Maker::default().make();
    let header = 64 + 2 * 56;
    assert_eq!(file[header], 4, "the header of the notes, behind those of two segments");
    let field = |file: &[u8], at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let (at, size) = (field(&file, header + 8), field(&file, header + 32));
    let notes = file[at..at + size].to_vec();
    file[at..at + size].fill(0);
    file.resize(0x12_3457, 0);
    let there = file.len() as u64;
    file[header + 8..header + 16].copy_from_slice(&there.to_le_bytes());
    assert_eq!(
        KernelImage::parse(&file).unwrap_err().to_string(),
        ImageError::Truncated { what: "its notes", end: there + size as u64, length: file.len() }.to_string()
    );
    file.extend(notes);
    assert_eq!(KernelImage::parse(&file).unwrap().notes.virt_base, VIRT_BASE);
}

#[test]
fn an_entry_without_a_note_is_the_headers() {
    let file = Maker::default().without(NoteType::ENTRY).make();
    assert_eq!(KernelImage::parse(&file).unwrap().entry, VIRT_BASE + 0x10_0000);
}

#[test]
fn paddr_offset_is_subtracted() {
    let mut maker = Maker::default().note(NoteType::PADDR_OFFSET, VIRT_BASE);
    maker.segments.iter_mut().for_each(|load| load.physical += VIRT_BASE);
    assert_eq!(KernelImage::parse(&maker.make()).unwrap().pages(), 0x100..0x104);
    maker.segments[0].physical = VIRT_BASE - 0x1000;
    assert!(matches!(error(&maker), ImageError::SegmentRange { index: 0, .. }));
}

#[test]
fn what_is_no_elf_image_is_told_apart() {
    let parse = |bytes: &[u8]| KernelImage::parse(bytes).unwrap_err().to_string();
    assert_eq!(parse(b""), "it is empty");
    let needed = "; an ELF image or a bzImage is needed, for x86-64 and with Xen notes";
    assert_eq!(parse(b"#!/bin/sh"), format!("it is a script{needed}"));
    assert_eq!(parse(b"\0\x01\x02"), format!("it is of no known format{needed}"));
    assert_eq!(parse(b"\x1f\x8b\x08"), format!("it is gzip data, in more than one layer{needed}"));
    assert_eq!(error(&Maker { class: 1, ..Maker::default() }), ImageError::Bits32);
    assert_eq!(error(&Maker { encoding: 2, ..Maker::default() }), ImageError::NotLittleEndian);
    let arm = error(&Maker { machine: 183, ..Maker::default() }).to_string();
    assert_eq!(arm, "built for ARM64 (ELF machine 183), not for x86-64 (ELF machine 62)");
    let odd = error(&Maker { machine: 0x8000, ..Maker::default() }).to_string();
    assert_eq!(odd, "built for ELF machine 32768, not for x86-64 (ELF machine 62)");
    assert_eq!(error(&Maker { kind: 1, ..Maker::default() }), ImageError::NotExecutable(1));
}

#[test]
fn an_image_without_xen_notes_is_refused() {
    let bare = Maker { notes: Vec::new(), ..Maker::default() };
    assert_eq!(error(&bare), ImageError::NoXenNotes);
    assert!(ImageError::NoXenNotes.to_string().contains("CONFIG_XEN_PV is missing"));
    let pvh = Maker::default().without(NoteType::ENTRY).without(NoteType::VIRT_BASE);
    let pvh = pvh.note(NoteType::PHYS32_ENTRY, 0x10_0000);
    assert_eq!(error(&pvh), ImageError::PvhOnly);
    let both = Maker::default().note(NoteType::PHYS32_ENTRY, 0x10_0000);
    assert!(KernelImage::parse(&both.make()).is_ok(), "a kernel for PVH and PV, such as Debian's");
    let legacy = Maker { extra_section: "__xen_guest", ..bare };
    assert_eq!(error(&legacy), ImageError::LegacyOnly);
}

#[test]
fn wrong_notes_are_refused() {
    let mut maker = Maker::default();
    maker.notes.push((NoteType::INIT_P2M, vec![1, 2, 3]));
    assert_eq!(error(&maker), ImageError::BadNote("INIT_P2M"));
    let mut maker = Maker::default();
    maker.notes[0].1 = b"xen-2.0\x1b[31m\0".to_vec();
    assert_eq!(error(&maker).to_string(), "XEN_VERSION is \"xen-2.0\\x1b[31m\", not xen-3.0");
    let unaligned = Maker::default().note(NoteType::VIRT_BASE, VIRT_BASE + 8);
    assert_eq!(error(&unaligned), ImageError::UnalignedBase(VIRT_BASE + 8));
}

#[test]
fn every_truncation_is_refused_as_one() {
    let file = Maker::default().make();
    for length in 4..file.len() {
        let error = KernelImage::parse(&file[..length]).unwrap_err();
        assert!(matches!(error, ImageError::Truncated { .. }), "{length} bytes: {error}");
    }
}

#[test]
fn wrong_segments_are_refused() {
    assert_eq!(error(&segments(&[])), ImageError::NoSegments);
    let overlap = segments(&[(0x10_0000, 16, 0x3000), (0x10_2fff, 16, 0x1000)]);
    assert_eq!(error(&overlap), ImageError::Overlap(0, 1));
    let shrinks = segments(&[(0x10_0000, 0x100, 0x80)]);
    assert!(matches!(error(&shrinks), ImageError::SegmentShrinks { index: 0, .. }));
    for (address, memory) in
        [(0x10_0000, u64::MAX), (u64::MAX - 8, 0x100), (0x10_0000, 1 << 40), (1 << 40, 16)]
    {
        let huge = segments(&[(address, 16, memory)]);
        assert!(matches!(error(&huge), ImageError::SegmentRange { .. }), "{address:#x} {memory:#x}");
    }
}

#[test]
fn entry_and_hypercall_page_must_lie_in_a_segment() {
    for entry in [0, VIRT_BASE, VIRT_BASE + 0x10_3800, u64::MAX] {
        assert_eq!(error(&Maker::default().note(NoteType::ENTRY, entry)), ImageError::EntryOutside(entry));
    }
    for page in [0, VIRT_BASE + 0x10_0800, VIRT_BASE + 0x10_4000] {
        let maker = Maker::default().note(NoteType::HYPERCALL_PAGE, page);
        assert_eq!(error(&maker), ImageError::HypercallPageOutside(page));
    }
}

/// A generator of numbers that are the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

/// Whatever is done to an image, it is refused or makes a plan; nothing panics, and nothing takes more memory or
/// time than the image and the domain account for.
#[test]
fn no_mutation_of_an_image_does_harm() {
    const EDGES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
    let original = Maker { extra_section: "__xen_guest", ..Maker::default() }.make();
    let wishes = Wishes { pages: 1 << 12, ramdisk: Some(5000), command_line: String::new() };
    let mut numbers = Numbers(0x9a7a_7a9e);
    let mut planned = 0;
    for _ in 0..100_000 {
        let mut file = original.clone();
        for _ in 0..=numbers.below(3) {
            let at = numbers.below(file.len());
            file[at] = match numbers.below(2) {
                0 => file[at] ^ (1 << numbers.below(8)),
                _ => EDGES[numbers.below(EDGES.len())],
            };
        }
        if numbers.below(10) == 0 {
            file.truncate(numbers.below(original.len() + 1));
        }
        let Ok(image) = KernelImage::parse(&file) else { continue };
        let bytes: usize = image.segments.iter().map(|segment| image.bytes(segment).len()).sum();
        assert!(bytes <= file.len() * image.segments.len());
        if let Ok(plan) = Plan::new(&image, &wishes) {
            assert!(plan.tables.count() <= 64 && plan.stack < wishes.pages, "{plan:?}");
            planned += 1;
        }
    }
    assert!(planned > 10_000, "only {planned} mutations got as far as a plan: the fuzz is too coarse");
}
