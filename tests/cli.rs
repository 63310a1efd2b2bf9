//! The command line: what is wrong is said in one line, with the status that the documentation gives, and what
//! needs no guest works.

#[path = "support/bzimage_maker.rs"]
mod bzimage_maker;
mod support;

use bzimage_maker::bzimage;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Outcome, finish, needs_kvm, paravane, run, run_typing, skippable_kvm_test, test};
use tempfile::TempDir;

const CONFIGURATION: i32 = 1;
const USAGE: i32 = 2;

fn main() {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials()).exit();
}

fn trials() -> Vec<Trial> {
    vec![
        test("usage_errors_are_one_line_and_status_2", usage_errors),
        test("help_and_version_are_no_errors", help_and_version),
        test("the_bundled_kernel_can_be_written", kernel_is_written),
        test("a_file_that_is_no_kernel_is_named", files_that_are_no_kernels),
        test("a_kernel_that_is_damaged_is_refused_with_the_reason", damaged_kernels),
        test("a_kernel_that_is_compressed_and_lies_is_refused_with_the_reason", lies_in_compressed_kernels),
        needs_kvm("another_kernel_gets_no_words_but_its_users", words_of_another_kernel),
        test("memory_that_does_not_fit_is_refused_with_both_figures", memory_that_does_not_fit),
        test("a_command_line_that_is_too_long_is_refused", long_command_lines),
        test("a_file_that_describes_no_domain_is_refused_with_line_and_key", damaged_domains),
        test("domains_that_do_not_go_together_are_refused", domains_that_clash),
        test("json_is_json_whatever_the_host_is_like", check_json),
        needs_kvm("check_tells_what_cpuid_hides_and_why", check_cpuid),
        test("a_misspelt_word_is_guessed_and_the_right_help_named", misspelt),
        test("xs_alone_shows_its_usage", xs_alone),
        test("a_value_may_begin_with_a_dash", dashes),
        test("a_wrong_paravane_log_is_refused", wrong_log),
        needs_kvm("debug_tells_what_an_ordinary_run_does", ordinary_log),
        test("the_process_gets_no_new_privileges_and_is_not_dumpable", process_is_confined),
        skippable_kvm_test("guest_memory_is_in_no_core_dump", guest_memory_is_not_dumped),
    ]
}

/// It ended with `status`, one line on stderr that has all of `words`, and nothing on stdout.
#[track_caller]
fn assert_refused(outcome: &Outcome, status: i32, words: &[&str]) {
    assert_eq!(outcome.status, Some(status), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "one line: {outcome:?}");
    assert!(outcome.stderr.starts_with("paravane: "), "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    for word in words {
        assert!(outcome.stderr.contains(word), "{word:?} is missing: {outcome:?}");
    }
}

fn usage_errors() {
    for (arguments, word) in [
        (&["--bogus"][..], "--bogus"),
        (&["frobnicate"], "frobnicate"),
        (&["run", "--memory"], "--memory"),
        (&["run", "--memory", "128"], "a unit is needed"),
        (&["run", "--memory", "lots"], "a number with a unit"),
        (&["run", "--memory", "5K"], "multiple of 4K"),
        (&["run", "--memory", "0M"], "from 4 KiB to 1 TiB"),
        (&["run", "--memory", "9999999T"], "from 4 KiB to 1 TiB"),
        (&["run", "--machine-memory", "1X"], "--machine-memory"),
        (&["run", "--machine-memory", "0M"], "from 4 KiB to 1073741700 KiB"),
        (&["run", "--machine-memory", "1T"], "from 4 KiB to 1073741700 KiB"),
        (&["run", "--pcpus", "0"], "a whole number from 1 to 64"),
        (&["run", "--pcpus", "many"], "a whole number from 1 to 64"),
        (&["run", "--vcpus", "33"], "a whole number from 1 to 32"),
        (&["run", "--vcpus", "99999999999"], "a whole number from 1 to 32"),
        (&["run", "--exec", "a \" b"], "double quote"),
        (&["run", "--kernel", "/nowhere/k", "--exec", ""], "--exec: it is for the bundled kernel's shell"),
        (&["run", "--memory", "64M", "one.toml"], "cannot be used with"),
        (&["run", "one.toml", "--exec", "version"], "--exec"),
        (&["run", "one.toml", "--kernel", "k"], "--kernel"),
        (&["run", "one.toml", "--ramdisk", "r"], "--ramdisk"),
        (&["run", "one.toml", "--cmdline", "quiet"], "--cmdline"),
        (&["kernel"], "--output"),
        (&["bench", "cpu"], "no suite cpu; there are: core"),
        (&["bench", "--pairs", "3"], "a whole number from 30 to 1000000"),
    ] {
        assert_refused(&run(arguments), USAGE, &[word]);
    }
}

fn help_and_version() {
    let help = run(&["--help"]);
    assert_eq!((help.status, help.stderr.as_str()), (Some(0), ""));
    for word in ["run", "check", "kernel", "bench", "--exec", "Exit status", "PARAVANE_LOG"] {
        assert!(help.stdout.contains(word), "{word} is missing from {}", help.stdout);
    }
    let version = run(&["--version"]);
    assert_eq!(
        (version.status, version.stdout),
        (Some(0), format!("paravane {}\n", env!("CARGO_PKG_VERSION")))
    );
}

/// Writes the bundled kernel into `directory` and returns its bytes.
fn bundled_kernel(directory: &TempDir) -> Vec<u8> {
    let path = directory.path().join("bundled");
    let outcome = run(&["kernel", "-o", text(&path)]);
    assert_eq!((outcome.status, outcome.stderr.as_str()), (Some(0), ""));
    std::fs::read(path).expect("the kernel was written")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory for files")
}

fn kernel_is_written() {
    assert!(bundled_kernel(&directory()).starts_with(b"\x7fELF"));
    assert_refused(&run(&["kernel", "-o", "/nowhere/kernel"]), CONFIGURATION, &["/nowhere/kernel"]);
}

fn files_that_are_no_kernels() {
    let directory = directory();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        text(&path).to_owned()
    };
    let me = std::env::current_exe().expect("this program");
    for (path, reason) in [
        ("/nowhere/vmlinux".to_owned(), "no such file"),
        (text(directory.path()).to_owned(), "is a directory"),
        ("/dev/zero".to_owned(), "not a regular file"),
        (file("empty", b""), "empty"),
        (file("script", b"#!/bin/sh\n"), "it is a script; an ELF image or a bzImage is needed"),
        (file("cut", b"\x1f\x8b\x08\0"), "its gzip data cannot be unpacked"),
        (text(&me).to_owned(), "no Xen notes"),
    ] {
        assert_refused(&run(&["run", "--kernel", &path]), CONFIGURATION, &[&path, reason]);
        assert_refused(&run(&["bench", "--linux", &path]), CONFIGURATION, &[&path, reason]);
    }
    assert_refused(&run(&["run", "--ramdisk", "/nowhere/initrd"]), CONFIGURATION, &["/nowhere/initrd"]);
}

/// Fields of the ELF header and of program headers, as offsets.
mod elf {
    pub const CLASS: usize = 4;
    pub const MACHINE: usize = 18;
    pub const PROGRAM_HEADERS: usize = 64;
    pub const PROGRAM_HEADER: usize = 56;
    pub const PHYSICAL_ADDRESS: usize = 24;
    pub const MEMORY_SIZE: usize = 40;
}

/// Where the program header of the `n`th LOAD segment is.
fn load_header(image: &[u8], n: usize) -> usize {
    let headers = (0..).map(|index| elf::PROGRAM_HEADERS + index * elf::PROGRAM_HEADER);
    headers.filter(|&at| image[at..at + 4] == 1u32.to_le_bytes()).nth(n).expect("a LOAD segment")
}

/// Where the value of a Xen note of 8 bytes is.
fn note_value(image: &[u8], kind: u32) -> usize {
    let mut head: Vec<u8> = [4, 8, kind].into_iter().flat_map(u32::to_le_bytes).collect();
    head.extend(b"Xen\0");
    image.windows(head.len()).position(|bytes| bytes == head).expect("the note") + head.len()
}

fn damaged_kernels() {
    let directory = directory();
    let original = bundled_kernel(&directory);
    let path = directory.path().join("damaged");
    let refused = |image: &[u8], reason: &str| {
        std::fs::write(&path, image).expect("a file");
        assert_refused(&run(&["run", "--kernel", text(&path)]), CONFIGURATION, &[text(&path), reason]);
    };
    let patched = |at: usize, bytes: &[u8]| {
        let mut image = original.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    refused(&original[..original.len() / 2], "truncated");
    refused(&original[..20], "truncated");
    refused(&patched(elf::CLASS, &[1]), "32-bit");
    refused(&patched(elf::MACHINE, &[183, 0]), "machine 183");
    let first = &original[load_header(&original, 0) + elf::PHYSICAL_ADDRESS..][..8];
    refused(&patched(load_header(&original, 1) + elf::PHYSICAL_ADDRESS, first), "overlap");
    refused(&patched(load_header(&original, 1) + elf::MEMORY_SIZE, &u64::MAX.to_le_bytes()), "huge");
    let nearly_all_memory = (1u64 << 35).to_le_bytes();
    let last = load_header(&original, original_loads(&original) - 1) + elf::MEMORY_SIZE;
    refused(&patched(last, &nearly_all_memory), "memory too small");
    const ENTRY: u32 = 1;
    refused(&patched(note_value(&original, ENTRY), &16u64.to_le_bytes()), "entry point 0x10");
}

/// A kernel as a payload: gzip, whose trailer is the size that a bzImage declares.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// 600 MiB in a few kilobytes: blocks of 128 KiB, each of which is one byte, repeated.
fn bomb() -> Vec<u8> {
    const BLOCK: u32 = 128 << 10;
    let mut data = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    for block in (0..600 << 20).step_by(BLOCK as usize) {
        let is_last = u32::from(block + BLOCK == 600 << 20);
        data.extend(&(BLOCK << 3 | 0b010 | is_last).to_le_bytes()[..3]);
        data.push(0);
    }
    data
}

fn lies_in_compressed_kernels() {
    let directory = directory();
    let original = gzip(&bundled_kernel(&directory));
    let path = directory.path().join("vmlinuz");
    let refused = |file: &[u8], reason: &str| {
        std::fs::write(&path, file).expect("a file");
        assert_refused(&run(&["run", "--kernel", text(&path)]), CONFIGURATION, &[text(&path), reason]);
    };
    let declaring = |size: u32| {
        let mut payload = original.clone();
        let end = payload.len();
        payload[end - 4..].copy_from_slice(&size.to_le_bytes());
        bzimage(&payload)
    };
    refused(&bomb(), "its zstd data unpacks to more than 512 MiB");
    refused(&bzimage(&bomb()), "payload");
    refused(&declaring(u32::MAX), "its gzip data unpacks to more than 512 MiB");
    refused(&declaring(1000), "its payload unpacks to more than the 1000 bytes that it declares");
    refused(&original[..original.len() / 2], "its gzip data cannot be unpacked: ");
    let linux = bzimage(&original);
    refused(&linux[..linux.len() / 2], "truncated: the bytes of its payload end at byte");
    refused(&bzimage(b"BZh91AY&SY"), "compressed with bzip2, which is not supported; gzip, xz, zstd, lz4");
    let me = std::env::current_exe().expect("this program");
    refused(&bzimage(&gzip(&std::fs::read(me).expect("this program"))), "CONFIG_XEN_PV is missing");
    refused(b"MZ\0\0zimg", "it is an EFI zboot image; an ELF image or a bzImage is needed");
}

/// A bundled kernel from a file is another kernel: without a word that its console is no terminal, its shell shows a
/// prompt, and the end of stdin is no key.
fn words_of_another_kernel() {
    let directory = directory();
    let path = directory.path().join("vmlinuz");
    std::fs::write(&path, bzimage(&gzip(&bundled_kernel(&directory)))).expect("a file");
    let typed = run_typing(&["run", "--kernel", text(&path)], b"version\rpoweroff 7\r");
    assert_eq!(typed.status, Some(4), "{typed:?}");
    assert!(typed.stdout.contains("paravane> "), "{typed:?}");
    let words = ["run", "--kernel", text(&path), "--cmdline", "exec=\"version; poweroff 7\""];
    let given = run_typing(&words, b"");
    assert_eq!(given.status, Some(4), "{given:?}");
    assert!(!given.stdout.contains("paravane> "), "{given:?}");
}

fn original_loads(image: &[u8]) -> usize {
    let count = usize::from(u16::from_le_bytes([image[56], image[57]]));
    let kinds = (0..count).map(|index| image[elf::PROGRAM_HEADERS + index * elf::PROGRAM_HEADER]);
    kinds.filter(|&kind| kind == 1).count()
}

fn memory_that_does_not_fit() {
    let too_small = run(&["run", "--memory", "1M"]);
    assert_refused(&too_small, CONFIGURATION, &["memory too small", "needs", "has 1 MiB"]);
    let ramdisk = text(&std::env::current_exe().expect("this program")).to_owned();
    let too_big = run(&["run", "--memory", "4M", "--ramdisk", &ramdisk]);
    assert_refused(&too_big, CONFIGURATION, &[&ramdisk, "ramdisk too big", "4 MiB"]);
    let machine = run(&["run", "--memory", "64M", "--machine-memory", "32M"]);
    assert_refused(&machine, CONFIGURATION, &["--machine-memory", "64 MiB", "32 MiB"]);
    let host = run(&["run", "--memory", "1T"]);
    assert_refused(&host, CONFIGURATION, &["--memory", "1 TiB"]);
    let host = run(&["run", "--machine-memory", "1023G"]);
    assert_refused(&host, CONFIGURATION, &["--machine-memory", "1023 GiB is more than this host has"]);
}

fn long_command_lines() {
    let long = "x".repeat(1024);
    assert_refused(&run(&["run", "--cmdline", &long]), CONFIGURATION, &["--cmdline", "at most 1023"]);
    assert_refused(&run(&["run", "--exec", &long]), CONFIGURATION, &["at most 1023"]);
}

/// Writes domain files and returns their names.
fn domains(directory: &TempDir, texts: &[&str]) -> Vec<String> {
    let write = |(index, contents): (usize, &&str)| {
        let path = directory.path().join(format!("d{index}.toml"));
        std::fs::write(&path, contents).expect("a file");
        text(&path).to_owned()
    };
    texts.iter().enumerate().map(write).collect()
}

fn damaged_domains() {
    let directory = directory();
    for (contents, words) in [
        ("name = 'a b'\n", &["name: ", "letters, digits"][..]),
        ("exec = 'a \" b'\n", &["exec: ", "double quote"]),
        ("kernel = 'missing'\n", &["missing: no such file"]),
        ("kernel = 'missing'\nexec = ''\n", &["d0.toml: exec: it is for the bundled kernel's shell"]),
        ("memory = '1M'\n", &["memory too small"]),
        ("memory = '1T'\n", &["d0.toml: memory: ", "1 TiB"]),
    ] {
        let names = domains(&directory, &[contents]);
        assert_refused(&run(&["run", &names[0]]), CONFIGURATION, words);
    }
    for (contents, words) in [
        (
            "name = 'a'\nmemory = '64'\n",
            &["d0.toml: line 2, column 10: memory: ", "64M, say", "\n   |          ^^^^\n"][..],
        ),
        ("kernle = 'k'\n", &["line 1, column 1: ", "no key `kernle`", "`kernel`", " 1 | kernle = 'k'\n"]),
        ("exec = 7\n", &["line 1, column 8: exec: ", "text in quotes is needed here, and not the number 7"]),
        ("name: a\n", &["line 1, column "]),
    ] {
        let names = domains(&directory, &[contents]);
        let outcome = run(&["run", &names[0]]);
        assert_eq!((outcome.status, outcome.stderr.lines().count()), (Some(CONFIGURATION), 3), "{outcome:?}");
        for word in words {
            assert!(outcome.stderr.contains(word), "{word:?} is missing: {}", outcome.stderr);
        }
    }
    assert_refused(&run(&["run", "/nowhere/one.toml"]), CONFIGURATION, &["/nowhere/one.toml: no such file"]);
    let binary = directory.path().join("binary.toml");
    std::fs::write(&binary, b"\xff\xfe").expect("a file");
    assert_refused(&run(&["run", text(&binary)]), CONFIGURATION, &["binary.toml: it is not text"]);
}

fn domains_that_clash() {
    let directory = directory();
    let names = domains(&directory, &["name = 'web'", "name = 'db'", "name = 'web'"]);
    let clash = run(&["run", &names[0], &names[1], &names[2]]);
    assert_refused(&clash, CONFIGURATION, &["d2.toml: name: ", "d0.toml has the name web already"]);
    let names = domains(&directory, &["memory = '96M'", "memory = '32M'"]);
    let machine = run(&["run", &names[0], &names[1], "--machine-memory", "64M"]);
    assert_refused(&machine, CONFIGURATION, &["--machine-memory", "2 guests' together 128 MiB", "64 MiB"]);
    let names = domains(&directory, &["memory = '512G'", "memory = '512G'"]);
    let host = run(&["run", &names[0], &names[1]]);
    assert_refused(&host, CONFIGURATION, &["the memory of 2 domains", "1 TiB"]);
}

fn check_json() {
    let outcome = run(&["check", "--json"]);
    assert!(matches!(outcome.status, Some(0 | 1)), "{outcome:?}");
    let verdict: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(verdict["usable"], serde_json::Value::Bool(outcome.status == Some(0)));
    let (one, other) = if outcome.status == Some(0) { ("probes", "missing") } else { ("missing", "probes") };
    assert!(!verdict[one].is_null() && verdict[other].is_null(), "{outcome:?}");
}

fn check_cpuid() {
    let outcome = run(&["check", "--cpuid"]);
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    for word in ["processor", "guests", "0x1.0", "0x40000003.2", "hidden: ", "each vCPU is a core"] {
        assert!(outcome.stdout.contains(word), "{word}: {}", outcome.stdout);
    }
    let outcome = run(&["check", "--cpuid", "--json"]);
    let verdict: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let registers = verdict["cpuid"].as_array().expect("a list");
    let hidden = registers.iter().flat_map(|told| told["hidden"].as_array().expect("a list"));
    assert!(hidden.clone().count() > 0, "every processor has MTRR: {}", outcome.stdout);
    assert!(hidden.clone().all(|feature| feature["why"].as_str().is_some_and(|why| !why.is_empty())));
}

fn misspelt() {
    for (arguments, words) in [
        (&["chekc"][..], &["'chekc'", "a similar", "'check'", "(see paravane --help)"][..]),
        (&["run", "--memroy", "1G"], &["'--memroy'", "a similar", "'--memory'", "(see paravane run --help)"]),
        (&["xs", "raed", "/"], &["'raed'", "'read'", "(see paravane xs --help)"]),
        (&["bench", "--jason"], &["'--json'", "(see paravane bench --help)"]),
        (&["run", "--pcpus", "0"], &["(see paravane run --help)"]),
        (&["--pcpus", "0"], &["(see paravane --help)"]),
    ] {
        assert_refused(&run(arguments), USAGE, words);
    }
}

fn xs_alone() {
    let outcome = run(&["xs"]);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(USAGE), ""));
    for word in ["Usage: paravane xs", "ls", "read", "write", "rm", "watch", "--socket"] {
        assert!(outcome.stderr.contains(word), "{word:?} is missing: {}", outcome.stderr);
    }
}

/// What follows is not taken for an option: these get as far as the file or socket that is not there.
fn dashes() {
    for arguments in [
        &["run", "--cmdline", "--x", "--kernel", "/nowhere/k"][..],
        &["run", "--exec", "-v", "--ramdisk", "/nowhere/r"],
        &["xs", "--socket", "/nowhere/s", "write", "/a", "-5"],
        &["xs", "--socket", "/nowhere/s", "write", "/a", "--5"],
    ] {
        assert_refused(&run(arguments), CONFIGURATION, &["/nowhere/"]);
    }
}

fn wrong_log() {
    for (filter, word) in [("debgu", "\"debgu\""), ("hypervizor=debug", "hypervizor"), ("", "off, error")] {
        let outcome =
            finish(paravane(&["check"]).env("PARAVANE_LOG", filter).spawn().expect("paravane starts"));
        assert_refused(&outcome, USAGE, &["PARAVANE_LOG", word, "trace", "hypervisor::paging=trace"]);
    }
}

fn ordinary_log() {
    let logged = |level| {
        let run =
            paravane(&["run", "--memory", "64M", "--exec", "version"]).env("PARAVANE_LOG", level).spawn();
        let outcome = finish(run.expect("paravane starts"));
        assert_eq!(outcome.status, Some(0), "{outcome:?}");
        outcome.stderr
    };
    let debug = logged("debug");
    for words in ["pcpus is ready after ", "64 MiB, 1 vCPUs", " is gone; ", " MiB are free"] {
        assert!(debug.contains(words), "{words:?} is missing: {debug}");
    }
    assert!(!logged("error").contains("is ready after"), "that is no error");
}

/// Waits for what another process does.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn end(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("it is waited for");
}

/// The files in `/proc` of a process that is not dumpable are root's, whoever runs it.
fn process_is_confined() {
    const NOBODY: u32 = 65_534;
    let directory = directory();
    let text_of = |name: &str| text(&directory.path().join(name)).to_owned();
    let (program, socket) = (text_of("paravane"), text_of("socket"));
    std::fs::copy(env!("CARGO_BIN_EXE_paravane"), &program).expect("a copy that everybody can execute");
    let listener = UnixListener::bind(&socket).expect("a socket that never answers");
    for path in [directory.path().to_str().expect("a path in UTF-8"), &program, &socket] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("its mode is set");
    }
    let start = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).env_remove("PARAVANE_LOG").stdin(Stdio::null()).stdout(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY);
        }
        command.spawn().expect("it starts")
    };
    let owner =
        |child: &Child| std::fs::metadata(format!("/proc/{}/status", child.id())).expect("it runs").uid();
    let status =
        |child: &Child| std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");

    let other = start("sleep", &["50"]);
    wait_for("sleep", || status(&other).starts_with("Name:\tsleep").then_some(()));
    assert_ne!(owner(&other), 0, "any other process is its user's");
    assert!(status(&other).contains("NoNewPrivs:\t0"));
    end(other);
    let mut ours = start(&program, &["xs", "--socket", &socket, "watch", "/"]);
    listener.set_nonblocking(true).expect("a listener that does not wait");
    let _client = wait_for("its connection", || {
        assert_eq!(ours.try_wait().expect("its status"), None, "it ended before it connected");
        listener.accept().ok()
    });
    assert!(status(&ours).contains("NoNewPrivs:\t1"), "{}", status(&ours));
    assert_eq!(owner(&ours), 0, "it is dumpable");
    end(ours);
}

fn guest_memory_is_not_dumped() -> Result<Completion, Failed> {
    let child = paravane(&["run", "--memory", "64M", "--exec", "sleep 50"]).spawn().expect("paravane starts");
    let smaps = || std::fs::read_to_string(format!("/proc/{}/smaps", child.id()));
    let flags = wait_for("the machine's memory", || match smaps() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Some(None),
        Err(error) => panic!("{error}"),
        Ok(text) => {
            let (_, of_memory) = text.split_once("paravane-machine")?;
            let flags = of_memory.lines().find_map(|line| line.strip_prefix("VmFlags:"))?;
            flags.split_whitespace().any(|flag| flag == "dd").then(|| Some(flags.to_owned()))
        }
    });
    end(child);
    Ok(match flags {
        Some(_) => Completion::Completed,
        None => Completion::ignored_with("only root looks at the mappings of a process that is not dumpable"),
    })
}
