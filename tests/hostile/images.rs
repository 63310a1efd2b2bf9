//! Kernel images that lie, given to the real command beside another domain's file, and to the builder beside a canary.

use crate::support::{check, finish, kvm_test, paravane, test};
use crate::tiny_guest::{Code, Host, Maker, Random, VIRT_BASE};
use hypervisor::builder::{KernelImage, Plan, Wishes};
use hypervisor::control::{DomainConfig, fill};
use hypervisor::domain::{Console, Domain};
use libtest_mimic::{Failed, Trial};
use pv_abi::elf_note::NoteType;
use std::sync::Arc;
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![test("images/lies start nothing", lies), kvm_test("images/mutated ones beside a canary", mutated)]
}

/// A good image of which one thing is made wrong.
fn with(change: impl FnOnce(&mut Maker)) -> Vec<u8> {
    let mut maker = Maker::default();
    change(&mut maker);
    maker.make()
}

fn with_note(kind: NoteType, value: u64) -> Vec<u8> {
    Maker::default().note(kind, value).make()
}

/// A good image with other bytes at a place of its ELF header or its first program header.
fn with_bytes(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = Maker::default().make();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

/// Offsets in the file: the table of program headers; of the first of these, where its bytes are and how many.
const PROGRAM_HEADERS: usize = 32;
const FIRST_OFFSET: usize = 64 + 8;
const FIRST_SIZE: usize = 64 + 32;
/// Where the initial mapping may not be: the hypervisor's part of the address space.
const HYPERVISORS: u64 = 0xffff_8080_0000_0000;

/// What is said of each lie.
fn liars() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (with_bytes(PROGRAM_HEADERS, &u64::MAX.to_le_bytes()), "truncated: program headers"),
        (with_bytes(FIRST_OFFSET, &(u64::MAX - 7).to_le_bytes()), "truncated: its segments"),
        (
            with(|it| it.segments[0].memory = 16),
            "segment 0 has 0x190 bytes in the file but only 0x10 in memory",
        ),
        (
            with_bytes(FIRST_SIZE, &u64::MAX.to_le_bytes()),
            "segment 0 has 0xffffffffffffffff bytes in the file",
        ),
        (with(|it| it.segments[1].physical = 0x10_1000), "segments 0 and 1 overlap"),
        (with(|it| it.segments[1].physical = u64::MAX - 0x1000), "segment 1 is huge or out of range"),
        (with(|it| it.segments[1].memory = u64::MAX), "segment 1 is huge or out of range"),
        (with(|it| it.segments[1].memory = 1 << 35), "memory too small"),
        (with(|it| it.notes[2].1 = vec![0; 3]), "the Xen note VIRT_BASE is not a number"),
        (with(|it| it.notes[0].1 = b"\x1b[2Jxen\0".to_vec()), "XEN_VERSION is \"\\x1b[2Jxen\""),
        (with_note(NoteType::ENTRY, 0), "the entry point 0x0 lies outside the image"),
        (with_note(NoteType::ENTRY, VIRT_BASE), "the entry point 0xffffffff80000000 lies outside"),
        (with_note(NoteType::HYPERCALL_PAGE, VIRT_BASE), "the hypercall page 0xffffffff80000000 is not"),
        (with_note(NoteType::PADDR_OFFSET, u64::MAX), "is huge or out of range"),
        (with_note(NoteType::INIT_P2M, HYPERVISORS), "the address range 0xffff808000000000"),
        (with_note(NoteType::INIT_P2M, VIRT_BASE), "the address range 0xffffffff80000000"),
        (with_note(NoteType::INIT_P2M, u64::MAX - 4095), "the address range 0xfffffffffffff000"),
    ]
}

/// XSA-25, 55, 164, 194, 443 and others. The command says what is wrong with which file, and nothing is half begun: no
/// domain beside it has run, no socket was there, no disk was written.
fn lies() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, contents: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).expect("a file");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    let disk = file("disk.img", &[0; 1 << 20]);
    let honest = file("honest.toml", b"memory = '32M'\ndisks = ['disk.img']\nexec = 'dd write xvda'\n");
    let liar = file("liar.toml", b"memory = '32M'\nkernel = 'liar'\n");
    let before = std::fs::read_dir(directory.path()).expect("a directory").count() + 1;
    for (image, words) in liars() {
        file("liar", &image);
        let mut command = paravane(&["run", &honest, &liar]);
        let child = command.env("XDG_RUNTIME_DIR", directory.path()).spawn().expect("paravane starts");
        let outcome = finish(child);
        assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(1), ""), "{words}: {outcome:?}");
        let line = outcome.stderr.strip_suffix('\n').expect("a line");
        assert!(
            line.starts_with("paravane: ") && line.contains("/liar: ") && line.contains(words),
            "{words}: {line}"
        );
        assert!(!line.contains(char::is_control), "one line that does nothing to a terminal: {line:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), before);
    assert_eq!(std::fs::read(disk).expect("the image"), vec![0; 1 << 20]);
}

#[derive(Debug)]
struct Silent;

impl Console for Silent {
    fn write(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

/// Whatever is done to the headers and notes of an image, it is refused, or makes a domain that can harm nobody.
fn mutated() -> Result<(), Failed> {
    const EDGES: [u8; 5] = [0, 1, 0x7f, 0x80, 0xff];
    let host = Host::new()?;
    let free = host.free_frames();
    let original = Code::default().power_off().image();
    let mut random = Random::new(7);
    let (mut refused, mut ran) = (0, 0);
    while ran < 60 {
        let mut image = original.clone();
        for _ in 0..=random.below(2) {
            let at = random.below(HEADERS) as usize;
            image[at] = random.choose(&EDGES);
        }
        let wishes = Wishes { pages: 1024, ..Wishes::default() };
        let Ok(kernel) = KernelImage::parse(&image) else {
            refused += 1;
            continue;
        };
        let Ok(plan) = Plan::new(&kernel, &wishes) else {
            refused += 1;
            continue;
        };
        let domain = run(&host, &kernel, &plan)?;
        ran += 1;
        host.hypervisor.destroy(&domain);
        host.hypervisor.wait(&domain);
        let now = host.free_frames();
        check(now == free, || {
            format!("{now} frames are free, and were {free}: {:?}", &image[..HEADERS as usize])
        })?;
    }
    check(refused > ran / 2, || format!("{refused} refused, {ran} ran: the mutations are too gentle"))?;
    host.finish()
}

/// Headers of the file, and its notes.
const HEADERS: u64 = 64 + 2 * 56 + 160;

/// Builds a domain, and runs it for a while if that can be.
fn run(host: &Host, kernel: &KernelImage<'_>, plan: &Plan) -> Result<Arc<Domain>, Failed> {
    let config = DomainConfig {
        name: "mutated".into(),
        vcpus: 1,
        maximum_pages: plan.pages,
        console: Arc::new(Silent),
    };
    let failed = |error: &dyn std::fmt::Display| Failed::from(error.to_string());
    let domain = host.hypervisor.create_domain(config).map_err(|error| failed(&error))?;
    if let Ok(filled) = fill(host.hypervisor.services(), &domain, kernel, &[], plan) {
        host.hypervisor.start(&domain, &filled.start_state()).map_err(|error| failed(&error))?;
        host.hypervisor.wait_for(&domain, Duration::from_millis(20));
    }
    Ok(domain)
}
