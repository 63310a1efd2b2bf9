//! The bundled guest kernel holds no sensitive instruction: neither one that traps at CPL 3, nor one that
//! silently does something else there, nor a gate into the hypervisor of its own (that is what the
//! hypercall page is for).
//!
//! Every byte of the image's executable segments is disassembled. The user programs, some of which try
//! such instructions on purpose, lie in a section of their own, which must not be executable.

use hypervisor::kernel_image::KERNEL_IMAGE;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};
use object::elf::{PF_X, PT_LOAD};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SymbolKind};

/// `ud2; .ascii "xen"; cpuid`: a CPUID that the hypervisor answers.
const PREFIXED_CPUID: [u8; 7] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];

/// Not privileged by the processor's rules, and forbidden all the same.
const FORBIDDEN: &[Mnemonic] = &[
    // Different at CPL 3, without a trap.
    Mnemonic::Pushf,
    Mnemonic::Pushfd,
    Mnemonic::Pushfq,
    Mnemonic::Popf,
    Mnemonic::Popfd,
    Mnemonic::Popfq,
    Mnemonic::Sgdt,
    Mnemonic::Sidt,
    Mnemonic::Sldt,
    Mnemonic::Str,
    Mnemonic::Smsw,
    Mnemonic::Lar,
    Mnemonic::Lsl,
    Mnemonic::Verr,
    Mnemonic::Verw,
    Mnemonic::Cpuid,
    // Different in a virtual machine, or by the hypervisor's settings.
    Mnemonic::Rdpmc,
    Mnemonic::Rdpid,
    Mnemonic::Rdtscp,
    // Changes of privilege.
    Mnemonic::Iret,
    Mnemonic::Iretd,
    Mnemonic::Iretq,
    Mnemonic::Syscall,
    Mnemonic::Sysenter,
    Mnemonic::Sysret,
    Mnemonic::Sysretq,
    Mnemonic::Sysexit,
    Mnemonic::Sysexitq,
    Mnemonic::Retf,
    Mnemonic::Int,
    Mnemonic::Int1,
    Mnemonic::Into,
    Mnemonic::Vmcall,
    Mnemonic::Vmmcall,
    // Privileged, whatever the disassembler thinks.
    Mnemonic::Hlt,
    Mnemonic::Cli,
    Mnemonic::Sti,
    Mnemonic::In,
    Mnemonic::Out,
    Mnemonic::Insb,
    Mnemonic::Insw,
    Mnemonic::Insd,
    Mnemonic::Outsb,
    Mnemonic::Outsw,
    Mnemonic::Outsd,
    Mnemonic::Swapgs,
    Mnemonic::Rdmsr,
    Mnemonic::Wrmsr,
    Mnemonic::Clac,
    Mnemonic::Stac,
];

fn is_segment(kind: OpKind, register: iced_x86::Register) -> bool {
    kind == OpKind::Register && register.is_segment_register()
}

/// Whether a paravirtual kernel must not contain it.
fn is_sensitive(instruction: &Instruction) -> bool {
    let far = instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect();
    // `mov reg, cs` shows the real privilege level; loads of selectors are checked by the processor.
    let reads_segment = match instruction.mnemonic() {
        Mnemonic::Mov => is_segment(instruction.op1_kind(), instruction.op1_register()),
        Mnemonic::Push => is_segment(instruction.op0_kind(), instruction.op0_register()),
        _ => false,
    };
    instruction.is_privileged() || far || reads_segment || FORBIDDEN.contains(&instruction.mnemonic())
}

/// A sensitive instruction, or bytes that are none.
#[derive(Debug)]
struct Finding {
    address: u64,
    what: String,
}

fn sensitive_instructions(code: &[u8], address: u64) -> Vec<Finding> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut findings = Vec::new();
    while decoder.can_decode() {
        let start = decoder.position();
        if code[start..].starts_with(&PREFIXED_CPUID) {
            decoder.set_position(start + PREFIXED_CPUID.len()).expect("inside the code");
            decoder.set_ip(address + (start + PREFIXED_CPUID.len()) as u64);
            continue;
        }
        let instruction = decoder.decode();
        if instruction.is_invalid() || is_sensitive(&instruction) {
            let what = format!("{:?}", instruction.mnemonic()).to_lowercase();
            findings.push(Finding { address: instruction.ip(), what });
        }
    }
    findings
}

fn image() -> ElfFile64<'static, Endianness> {
    ElfFile64::parse(KERNEL_IMAGE).expect("the image is an ELF file")
}

/// The symbol that an address belongs to, and the distance from it.
fn symbolise(image: &ElfFile64<'_, Endianness>, address: u64) -> String {
    let symbol = image
        .symbols()
        .filter(|symbol| symbol.address() <= address && symbol.kind() == SymbolKind::Text)
        .max_by_key(ObjectSymbol::address);
    match symbol {
        Some(symbol) => format!("{}+{:#x}", symbol.name().unwrap_or_default(), address - symbol.address()),
        None => "?".into(),
    }
}

/// Executable segments: address and bytes.
fn executable_segments(image: &ElfFile64<'static, Endianness>) -> Vec<(u64, &'static [u8])> {
    let endian = image.endian();
    let headers = image.elf_program_headers().iter();
    headers
        .filter(|header| header.p_type(endian) == PT_LOAD && header.p_flags(endian) & PF_X != 0)
        .map(|header| (header.p_vaddr(endian), header.data(endian, KERNEL_IMAGE).expect("inside the file")))
        .collect()
}

#[test]
fn the_image_holds_no_sensitive_instruction() {
    let image = image();
    let segments = executable_segments(&image);
    assert!(!segments.is_empty(), "no executable segment");
    let found: Vec<String> = segments
        .iter()
        .flat_map(|(address, code)| sensitive_instructions(code, *address))
        .map(|finding| {
            format!("{} at {:#x} in {}", finding.what, finding.address, symbolise(&image, finding.address))
        })
        .collect();
    assert!(found.is_empty(), "sensitive instructions:\n{}", found.join("\n"));
}

/// The one place of the image where such instructions may be: data to the kernel.
#[test]
fn the_user_programs_are_no_code_of_the_kernel() {
    let image = image();
    let section = image.section_by_name(".user_programs").expect("the section of the user programs");
    let range = section.address()..section.address() + section.size();
    for (address, code) in executable_segments(&image) {
        let end = address + code.len() as u64;
        assert!(range.end <= address || end <= range.start, "the programs are in an executable segment");
    }
    let programs = section.data().expect("its bytes");
    let found = sensitive_instructions(programs, section.address());
    assert!(found.iter().any(|finding| finding.what == "hlt"), "no program executes hlt: {found:?}");
}

#[test]
fn the_image_can_be_symbolised() {
    let image = image();
    let named = |name| image.symbols().any(|symbol| symbol.name() == Ok(name));
    assert!(named("kernel_entry") && named("hypercall_page") && named("memcpy"), "no symbol table");
}

/// The detector sees each kind, one at a time, between harmless instructions.
#[test]
fn the_detector_finds_every_kind() {
    for (name, bytes) in [
        ("hlt", &[0xf4][..]),
        ("cli", &[0xfa]),
        ("sti", &[0xfb]),
        ("pushfq", &[0x9c]),
        ("popfq", &[0x9d]),
        ("sgdt", &[0x0f, 0x01, 0x07]),
        ("sidt", &[0x0f, 0x01, 0x0f]),
        ("sldt", &[0x0f, 0x00, 0xc0]),
        ("str", &[0x0f, 0x00, 0xc8]),
        ("smsw", &[0x0f, 0x01, 0xe0]),
        ("lmsw", &[0x0f, 0x01, 0xf0]),
        ("lgdt", &[0x0f, 0x01, 0x17]),
        ("lidt", &[0x0f, 0x01, 0x1f]),
        ("lldt", &[0x0f, 0x00, 0xd0]),
        ("ltr", &[0x0f, 0x00, 0xd8]),
        ("lar", &[0x0f, 0x02, 0xc0]),
        ("lsl", &[0x0f, 0x03, 0xc0]),
        ("verr", &[0x0f, 0x00, 0xe0]),
        ("verw", &[0x0f, 0x00, 0xe8]),
        ("cpuid", &[0x0f, 0xa2]),
        ("rdmsr", &[0x0f, 0x32]),
        ("wrmsr", &[0x0f, 0x30]),
        ("rdpmc", &[0x0f, 0x33]),
        ("in", &[0xe4, 0x60]),
        ("out", &[0xef]),
        ("insb", &[0x6c]),
        ("outsb", &[0x6e]),
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("invlpg", &[0x0f, 0x01, 0x3f]),
        ("wbinvd", &[0x0f, 0x09]),
        ("invd", &[0x0f, 0x08]),
        ("clts", &[0x0f, 0x06]),
        ("xsetbv", &[0x0f, 0x01, 0xd1]),
        ("iretq", &[0x48, 0xcf]),
        ("retf", &[0xcb]),
        ("syscall", &[0x0f, 0x05]),
        ("sysret", &[0x0f, 0x07]),
        ("sysenter", &[0x0f, 0x34]),
        ("int", &[0xcd, 0x82]),
        ("vmcall", &[0x0f, 0x01, 0xc1]),
        ("mov", &[0x8c, 0xc8]),
        ("mov", &[0x0f, 0x20, 0xd8]),
        ("mov", &[0x0f, 0x22, 0xd8]),
        ("mov", &[0x0f, 0x21, 0xf8]),
        ("mov", &[0x0f, 0x23, 0xf8]),
        ("push", &[0x0f, 0xa0]),
        ("jmp", &[0xff, 0x2f]),
        ("call", &[0xff, 0x1f]),
        ("stac", &[0x0f, 0x01, 0xcb]),
    ] {
        let code = [&[0x90, 0x48, 0x89, 0xc3], bytes, &[0x90, 0xc3]].concat();
        let found = sensitive_instructions(&code, 0x1000);
        assert_eq!(found.len(), 1, "{name} {bytes:x?}: {found:?}");
        assert_eq!((found[0].what.as_str(), found[0].address), (name, 0x1004), "{bytes:x?}");
    }
}

/// And it does not see what is harmless.
#[test]
fn the_detector_lets_a_guests_instructions_pass() {
    let code = [
        &PREFIXED_CPUID[..],
        &[0x0f, 0x31],             // rdtsc
        &[0xcc],                   // int3
        &[0x0f, 0x0b],             // ud2
        &[0x8e, 0xd8],             // mov ds, eax
        &[0x0f, 0xae, 0x07],       // fxsave [rdi]
        &[0xf3, 0xa4],             // rep movsb
        &[0x64, 0x48, 0x8b, 0x07], // mov rax, fs:[rdi]
        &[0xc3],
    ]
    .concat();
    assert!(sensitive_instructions(&code, 0).is_empty());
}
