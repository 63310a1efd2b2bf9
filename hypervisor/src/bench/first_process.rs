//! The first process of a Linux that is measured: a ramdisk with one program, which says one line and sleeps.
#![allow(unsafe_code)] // assembly

use std::arch::global_asm;
use std::fmt::Write;

/// What it says on the console.
pub const MESSAGE: &str = "paravane: the first process";

/// Bytes of the program, an ELF file with padding.
const PROGRAM_SIZE: usize = 256;

global_asm!(
    ".pushsection .rodata.paravane_bench_first_process, \"a\"",
    ".balign 8",
    ".global paravane_bench_first_process",
    "paravane_bench_first_process:",
    ".Lpvf_file:",
    // Elf64_Ehdr: a 64-bit little-endian executable for x86-64, with one program header.
    "    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    "    .short 2, 62",
    "    .long 1",
    "    .quad 0x400000 + .Lpvf_entry - .Lpvf_file, 64, 0",
    "    .long 0",
    "    .short 64, 56, 1, 64, 0, 0",
    // PT_LOAD: the whole file, to be read and executed.
    "    .long 1, 5",
    "    .quad 0, 0x400000, 0, {size}, {size}, 4096",
    ".Lpvf_entry:",
    "    mov eax, 1", // write
    "    mov edi, 1",
    "    lea rsi, [rip + .Lpvf_message]",
    "    mov edx, {message_size}",
    "    syscall",
    "2:  mov eax, 34", // pause
    "    syscall",
    "    jmp 2b",
    ".Lpvf_message:",
    "    .ascii \"paravane: the first process\\n\"", // MESSAGE
    ".org .Lpvf_file + {size}, 0",
    ".popsection",
    size = const PROGRAM_SIZE,
    message_size = const MESSAGE.len() + 1,
);

unsafe extern "C" {
    safe static paravane_bench_first_process: [u8; PROGRAM_SIZE];
}

/// A node of the archive.
struct Node<'a> {
    path: &'a str,
    mode: u32,
    /// Of a device: its major and its minor number.
    device: (u32, u32),
    contents: &'a [u8],
}

/// The ramdisk: an archive in the form "newc" of `cpio`, as the kernel's documentation of initramfs has it.
pub fn ramdisk() -> Vec<u8> {
    let nodes = [
        Node { path: "dev", mode: 0o040_755, device: (0, 0), contents: &[] },
        Node { path: "dev/console", mode: 0o020_600, device: (5, 1), contents: &[] },
        Node { path: "init", mode: 0o100_755, device: (0, 0), contents: &paravane_bench_first_process },
        Node { path: "TRAILER!!!", mode: 0, device: (0, 0), contents: &[] },
    ];
    let mut archive = Vec::new();
    for (inode, node) in (1..).zip(nodes) {
        let Node { path, mode, device, contents } = node;
        let mut header = String::from("070701");
        // c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_devmajor, c_devminor, c_rdevmajor, c_rdevminor,
        // c_namesize, c_check
        let (size, name_size) = (contents.len() as u32, path.len() as u32 + 1);
        for field in [inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0] {
            // A string takes all that is written to it.
            let _ = write!(header, "{field:08x}");
        }
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(path.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(contents);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    #[test]
    fn the_archive_is_one_that_the_kernel_takes() {
        let archive = ramdisk();
        // Each header is 110 bytes, and each name and each file ends at a multiple of four.
        let header = |at: usize| std::str::from_utf8(&archive[at..at + 110]).unwrap();
        assert!(header(0).starts_with("070701"));
        let field =
            |at: usize, n: usize| usize::from_str_radix(&header(at)[6 + 8 * n..14 + 8 * n], 16).unwrap();
        let (mut at, mut names) = (0, Vec::new());
        while at < archive.len() {
            let (size, name_size) = (field(at, 6), field(at, 11));
            names.push(String::from_utf8(archive[at + 110..at + 110 + name_size - 1].to_vec()).unwrap());
            at = (at + 110 + name_size).next_multiple_of(4) + size;
            at = at.next_multiple_of(4);
        }
        assert_eq!(names, ["dev", "dev/console", "init", "TRAILER!!!"]);
    }

    #[test]
    fn the_program_says_its_line_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("init");
        std::fs::write(&path, paravane_bench_first_process).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = vec![0; MESSAGE.len() + 1];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), format!("{MESSAGE}\n"));
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
