//! Images on the host: what can be opened, what is refused and with which words, and who may use one at a time.

use super::front::*;
use super::random::Random;
use crate::block::Disk;
use crate::block::image::{Format, Image, open, open_direct};
use crate::fake_host::FakeHost;
use crate::host::{Access, Page};
use imago::qcow2::{Qcow2, Qcow2CreateBuilder};
use imago::{DynStorage, FormatCreateBuilder, StorageOpenOptions};
use pv_abi::PAGE_SIZE;
use pv_abi::io::block::Status;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

type Builder = Qcow2CreateBuilder<Box<dyn DynStorage>>;

/// A directory, and the paths of what is in it.
pub(super) struct Directory(TempDir);

impl Directory {
    pub fn new() -> Self {
        // Where flushes cost nothing, if there is such a place.
        let memory = Path::new("/dev/shm");
        Self(if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn raw(&self, name: &str, contents: &[u8]) -> PathBuf {
        fs::write(self.path(name), contents).unwrap();
        self.path(name)
    }

    /// A new qcow2 image, perhaps on another one of a format.
    pub fn qcow2(&self, name: &str, bytes: u64, on: Option<(&str, &str)>) -> PathBuf {
        self.qcow2_with(name, |builder| {
            let builder = builder.size(bytes);
            match on {
                Some((backing, format)) => builder.backing(backing.into(), format.into()),
                None => builder,
            }
        })
    }

    /// A new qcow2 image that is made as `with` says.
    pub fn qcow2_with(&self, name: &str, with: impl FnOnce(Builder) -> Builder) -> PathBuf {
        let path = self.path(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let file = imago::file::File::from_open_file(file, StorageOpenOptions::new().write(true)).unwrap();
        with(Qcow2::create_builder(Box::new(file))).create().unwrap();
        path
    }
}

pub(super) fn writable(path: &Path) -> Arc<dyn Image> {
    open(path, None, true, "a test").unwrap()
}

/// Why it cannot be opened, after its path.
pub(super) fn refusal(path: &Path, format: Option<Format>, writable: bool) -> String {
    let error = open(path, format, writable, "another test").expect_err("it is refused").to_string();
    error.strip_prefix(&format!("{}: ", path.display())).expect("the path comes first").to_owned()
}

pub(super) fn read_at(image: &dyn Image, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let page = FakeHost::default().grant(GUEST, RING);
    let slice = page.slice(Access::ReadWrite).unwrap().subslice(0, length).unwrap();
    image.read(offset, &[slice])?;
    Ok(page.bytes()[..length].to_vec())
}

pub(super) fn write_at(image: &dyn Image, offset: u64, bytes: &[u8]) -> std::io::Result<usize> {
    let page = FakeHost::default().grant(GUEST, RING);
    page.write(0, bytes).unwrap();
    image.write(offset, &[page.slice(Access::ReadOnly).unwrap().subslice(0, bytes.len()).unwrap()])
}

/// A file need not have the rest of its last cluster, up to the last byte of that.
#[test]
fn the_last_cluster_of_a_qcow2_file_may_be_cut_short() {
    let directory = Directory::new();
    let path = directory.qcow2_with("disk.qcow2", |builder| builder.cluster_size(4096).size(1 << 20));
    let image = writable(&path);
    write_at(&*image, 0, &[7; 4096]).unwrap();
    image.flush().unwrap();
    drop(image);
    let file = File::options().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    let start = (length - 1) / 4096 * 4096;
    assert_eq!(fs::read(&path).unwrap()[start as usize..][..512], [7; 512], "the data comes last");
    file.set_len(start + 512).unwrap();
    let read = read_at(&*open(&path, None, false, "a test").unwrap(), 0, 4096).unwrap();
    assert!(read[..512] == [7; 512] && read[512..] == [0; 3584]);
}

#[test]
fn what_is_no_image_is_refused_with_its_name_and_the_reason() {
    let directory = Directory::new();
    assert_eq!(refusal(&directory.path("missing"), None, false), "there is no such file");
    assert_eq!(refusal(directory.0.path(), None, true), "it is a directory");
    assert_eq!(refusal(Path::new("/dev/null"), None, true), "it is neither a file nor a block device");
    let empty = directory.raw("empty", b"");
    assert_eq!(refusal(&empty, None, true), "a disk of 0 bytes has no sector");
    let short = directory.raw("short", &[1; 511]);
    assert_eq!(refusal(&short, None, true), "a disk of 511 bytes has no sector");
    // A program that runs cannot be written, not even by root.
    let why = refusal(Path::new("/proc/self/exe"), None, true);
    assert!(
        why.starts_with("it cannot be opened for writing (") && why.ends_with("as a read-only disk"),
        "{why}"
    );
    assert!(open(Path::new("/proc/self/exe"), None, false, "a test").is_ok());
}

/// Past the page cache, in pieces that are aligned to no more than a sector; nothing is left of them in the cache.
#[test]
fn a_direct_image_reads_and_writes_single_sectors() {
    let directory = Directory(tempfile::tempdir().unwrap());
    let path = directory.raw("direct.img", &[5; 1 << 16]);
    let image = match open_direct(&path, None, true, "a test") {
        Ok(image) => image,
        Err(error) => return eprintln!("not tested here: {error}"),
    };
    assert!(image.as_raw().unwrap().is_direct());
    for bytes in [512, 1024] {
        let small = directory.raw("small.img", &vec![5; bytes]);
        assert!(open_direct(&small, None, true, "a test").is_ok(), "{bytes} bytes");
    }
    let disk = Arc::new(Disk::new("direct", image, true));
    for (by, byte) in ENGINES.into_iter().zip(7..) {
        let mut front = Front::new();
        let mut backend = front.connect_by(&disk, by);
        front.fill(0, byte);
        let odd = sectors(0, 3, 5);
        for request in
            [write(1, 9, &[odd]), write(2, 32, &[odd, whole(0)]), flush(3), read(4, 8, &[whole(1)])]
        {
            assert_eq!(front.call(&mut backend, &request), Status::OKAY, "{by:?}");
        }
        let firsts: Vec<u8> = front.page(1).bytes().chunks(512).map(|sector| sector[0]).collect();
        assert_eq!(firsts, [5, byte, byte, byte, 5, 5, 5, 5], "{by:?}");
        let bytes = fs::read(&path).unwrap();
        assert!(bytes[32 * 512..43 * 512].iter().all(|found| *found == byte) && bytes[43 * 512] == 5);
    }
}

#[test]
fn what_cannot_be_direct_is_refused() {
    let why = |path: &Path, format| {
        open_direct(path, format, false, "a test").expect_err("it is refused").to_string()
    };
    let directory = Directory::new();
    let qcow2 = directory.qcow2("a.qcow2", 1 << 20, None);
    assert!(why(&qcow2, None).ends_with("direct is for raw images, and it is qcow2"));
    fs::rename(&qcow2, directory.path("a.img")).unwrap();
    assert!(why(&directory.path("a.img"), None).contains("it looks like qcow2"));
    // No file system of files on a disk, and so nothing to go past.
    let no_disk = why(Path::new("/sys/devices/system/cpu/online"), None);
    assert!(
        no_disk.contains("has no direct access") && no_disk.ends_with("use it without direct"),
        "{no_disk}"
    );
}

/// A loop device of the host's, detached when it is dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn new(file: &Path) -> Self {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(String::from_utf8(made.stdout).unwrap().trim_end().into())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        Command::new("losetup").arg("--detach").arg(&self.0).status().unwrap();
    }
}

#[test]
#[ignore = "needs root and a free loop device"]
fn a_block_device_is_a_disk_that_nobody_else_may_use() {
    let directory = Directory::new();
    let file = directory.raw("device.img", &[5; 1 << 20]);
    let device = LoopDevice::new(&file);
    let image = open(&device.0, None, true, "domain one").unwrap();
    assert_eq!(image.bytes(), 1 << 20);
    assert_eq!(refusal(&device.0, None, true), "the device is in use on this host, perhaps mounted");
    assert!(refusal(&device.0, None, false).ends_with("it is in use by domain one, in this process"));
    let disk = Arc::new(Disk::new("device", image, true));
    for by in ENGINES {
        let mut front = Front::new();
        let mut backend = front.connect_by(&disk, by);
        front.fill(0, 9);
        for request in [write(1, 8, &[whole(0)]), flush(2), discard(3, 16, 8), read(4, 8, &[whole(1)])] {
            assert_eq!(front.call(&mut backend, &request), Status::OKAY);
        }
        assert_eq!(front.page(1).bytes(), [9; PAGE_SIZE]);
        assert_eq!(front.call(&mut backend, &read(5, 16, &[whole(1)])), Status::OKAY);
        assert_eq!(front.page(1).bytes(), [0; PAGE_SIZE]);
        assert_eq!(front.call(&mut backend, &read(6, 2040, &[whole(1)])), Status::OKAY);
        assert_eq!(front.page(1).bytes(), [5; PAGE_SIZE], "up to its end");
    }
}

#[test]
fn sectors_that_are_not_whole_are_no_part_of_the_disk() {
    let directory = Directory::new();
    let image = writable(&directory.raw("disk", &[1; 1023]));
    assert_eq!(Disk::new("disk", image, true).sectors(), 1);
}

/// A guest can write a header to its raw disk. It does not make its host read other files.
#[test]
fn a_raw_image_that_looks_like_qcow2_is_used_only_when_its_format_is_said() {
    let directory = Directory::new();
    let disguised = directory.qcow2("disk.img", 1 << 20, Some(("/etc/passwd", "raw")));
    assert!(
        refusal(&disguised, None, true).starts_with("it looks like qcow2: say format=qcow2, or format=raw")
    );
    let raw = open(&disguised, Some(Format::Raw), true, "a test").unwrap();
    assert_eq!(raw.bytes(), fs::metadata(&disguised).unwrap().len());
}

#[test]
fn a_qcow2_image_holds_what_a_model_holds() {
    for backing in [None, Some(("base.img", "raw")), Some(("middle.qcow2", "qcow2"))] {
        const BYTES: usize = 3 << 20;
        let directory = Directory::new();
        let base: Vec<u8> = (0..BYTES / 2).map(|i| (i / 1000) as u8).collect();
        directory.raw("base.img", &base);
        directory.qcow2("middle.qcow2", BYTES as u64, Some(("base.img", "raw")));
        let path = directory.qcow2("disk.qcow2", BYTES as u64, backing);
        let mut model = vec![0; BYTES];
        if backing.is_some() {
            model[..base.len()].copy_from_slice(&base);
        }
        let mut random = Random::new(1);
        for _ in 0..4 {
            let image = writable(&path);
            assert_eq!(image.bytes(), BYTES as u64);
            for _ in 0..100 {
                let (offset, length) =
                    (512 * random.below(BYTES as u64 / 512 - 8), 512 + 512 * random.below(8));
                let range = offset as usize..(offset + length) as usize;
                match random.below(5) {
                    0 => {
                        image.discard(offset, length).unwrap();
                        model[range].fill(0);
                    }
                    1 | 2 => {
                        let bytes = vec![random.next() as u8; length as usize];
                        assert_eq!(write_at(&*image, offset, &bytes).unwrap(), bytes.len());
                        model[range].copy_from_slice(&bytes);
                    }
                    _ => assert!(read_at(&*image, offset, length as usize).unwrap() == model[range]),
                }
            }
            image.flush().unwrap();
        }
        let image = open(&path, None, false, "a test").unwrap();
        for offset in (0..BYTES).step_by(PAGE_SIZE) {
            let read = read_at(&*image, offset as u64, PAGE_SIZE).unwrap();
            assert!(read == model[offset..offset + PAGE_SIZE], "{offset}");
        }
        assert_eq!(fs::read(directory.path("base.img")).unwrap(), base, "it is only read");
    }
}

#[test]
fn a_qcow2_disk_is_served_like_any_other() {
    let directory = Directory::new();
    let path = directory.qcow2("disk.qcow2", 1 << 20, None);
    let disk = Arc::new(Disk::new("disk.qcow2", writable(&path), true));
    assert_eq!(disk.sectors(), 2048);
    let mut front = Front::new();
    let mut backend = front.connect_by(&disk, By::Blocking);
    front.fill(0, 9);
    for request in [write(1, 5, &[whole(0)]), flush(2), read(3, 5, &[whole(1)]), discard(4, 5, 8)] {
        assert_eq!(front.call(&mut backend, &request), Status::OKAY);
    }
    assert_eq!(front.page(1).bytes(), [9; PAGE_SIZE]);
    assert_eq!(front.call(&mut backend, &read(5, 5, &[whole(1)])), Status::OKAY);
    assert_eq!(front.page(1).bytes(), [0; PAGE_SIZE]);
}

/// Bytes, and the offset in the file that they are written to.
pub(super) type Change<'a> = (u64, &'a [u8]);

/// Changes the header, by big-endian numbers at offsets.
pub(super) fn with_header(path: &Path, changes: &[Change]) {
    let file = File::options().write(true).open(path).unwrap();
    changes.iter().for_each(|(offset, bytes)| file.write_all_at(bytes, *offset).unwrap());
}

#[test]
fn a_header_that_lies_is_refused_with_the_lie() {
    let cases: &[(&[Change], &str)] = &[
        (&[(0, b"QFI0")], "it is no qcow2 file"),
        (&[(4, &[0, 0, 0, 4])], "it is qcow2 of version 4; 2 and 3 are known"),
        (&[(20, &[0, 0, 0, 22])], "its clusters are said to have 2^22 bytes"),
        (&[(20, &[0xff; 4])], "its clusters are said to have 2^4294967295 bytes"),
        (&[(24, &[0xff; 8])], "its size is said to be 18446744073709551615 bytes, for which"),
        (&[(32, &[0, 0, 0, 1])], "it is encrypted"),
        (&[(36, &[0; 4])], "its size is said to be 1048576 bytes, for which its L1 table is too short"),
        (&[(36, &[0x7f, 0xff, 0xff, 0xff])], "it is cut off: its L1 table is said to be 17179869176 bytes"),
        (&[(40, &[0xff; 8])], "it is cut off: its L1 table"),
        (&[(40, &[0, 0, 0, 0, 0, 0x10, 0, 1])], "it is cut off: its L1 table"),
        (&[(48, &[0x7f; 8])], "it is cut off: its refcount table"),
        (&[(56, &[0xff; 4])], "it is cut off: its refcount table"),
        (&[(56, &[0; 4])], "its tables are missing"),
        (&[(8, &[0, 0, 0, 0xff, 0, 0, 0, 0])], "it is cut off: its backing file's name"),
        (
            &[(72, &[0, 0, 0, 0, 0, 0, 0, 1])],
            "it is marked as dirty: its reference counts may be wrong; repair",
        ),
        (
            &[(72, &[0, 0, 0, 0, 0, 0, 0, 2])],
            "it is marked as corrupt; repair it (qemu-img check -r all), or",
        ),
        (&[(72, &[0, 0, 0, 0, 0, 0, 0, 8])], "its clusters are compressed by another method than zlib"),
        (
            &[(72, &[0, 0, 0, 0, 0, 0, 0, 16])],
            "its L2 entries are extended, for parts of clusters, which is not",
        ),
        (&[(96, &[0, 0, 0, 7])], "its counts are said to have 2^7 bits"),
        (&[(40, &[0, 0, 0, 0, 0, 0, 2, 0])], "its L1 table is said to be at 512, where no cluster begins"),
        (&[(72, &[0, 0, 0, 0, 0, 0, 0, 4])], "its data lies in another file"),
        (&[(72, &[0x80, 0, 0, 0, 0, 0, 0, 0])], "it has features that nobody knows here"),
    ];
    for (changes, expected) in cases {
        let directory = Directory::new();
        let path = directory.qcow2("disk.qcow2", 1 << 20, None);
        with_header(&path, changes);
        let reason = refusal(&path, None, true);
        assert!(reason.starts_with(expected), "{reason:?}, and not {expected:?}");
    }
}

/// Cut off at any length, it is refused, or what is missing is an error: never zeros where there was data.
#[test]
fn a_truncated_qcow2_file_never_reads_as_zeros() {
    let directory = Directory::new();
    let path = directory.qcow2("whole.qcow2", 1 << 20, None);
    let image = writable(&path);
    for offset in (0..1 << 20).step_by(PAGE_SIZE) {
        write_at(&*image, offset, &[0xab; PAGE_SIZE]).unwrap();
    }
    image.flush().unwrap();
    drop(image);
    let contents = fs::read(&path).unwrap();
    let (mut refused, mut failed) = (0, 0);
    for length in (0..contents.len()).step_by(contents.len() / 60) {
        let cut = directory.raw("cut.qcow2", &contents[..length]);
        let Ok(image) = open(&cut, None, false, "a test") else {
            refused += 1;
            continue;
        };
        for offset in (0..1 << 20).step_by(PAGE_SIZE) {
            match read_at(&*image, offset, PAGE_SIZE) {
                // Within the cluster where the file ends, a short file cannot be told from a short cluster.
                Ok(bytes) if bytes[0] == 0xab => {}
                Ok(_) => assert!(length % 65536 != 0),
                Err(_) => failed += 1,
            }
        }
    }
    assert!(refused > 5 && failed > 100, "{refused} {failed}");
}

#[test]
fn chains_of_images_end_and_say_what_they_miss() {
    let directory = Directory::new();
    let own = directory.qcow2("own.qcow2", 1 << 20, Some(("own.qcow2", "qcow2")));
    assert!(refusal(&own, None, true).ends_with("own.qcow2, which is based on it: a loop"));
    directory.qcow2("a.qcow2", 1 << 20, Some(("b.qcow2", "qcow2")));
    directory.qcow2("b.qcow2", 1 << 20, Some(("c.qcow2", "qcow2")));
    directory.qcow2("c.qcow2", 1 << 20, Some(("a.qcow2", "qcow2")));
    let reason = refusal(&directory.path("a.qcow2"), None, false);
    assert!(reason.ends_with("a.qcow2, which is based on it: a loop"), "{reason}");
    let lonely = directory.qcow2("lonely.qcow2", 1 << 20, Some(("gone.img", "raw")));
    assert!(refusal(&lonely, None, true).ends_with("gone.img: there is no such file"));
    let strange = directory.qcow2("strange.qcow2", 1 << 20, Some(("lonely.qcow2", "vmdk")));
    assert!(refusal(&strange, None, true).contains("its format is vmdk; raw and qcow2 are known"));
    for number in 0..40 {
        let (name, below) = (format!("{number}.qcow2"), format!("{}.qcow2", number + 1));
        directory.qcow2(&name, 1 << 20, Some((&below, "qcow2")));
    }
    let reason = refusal(&directory.path("0.qcow2"), None, true);
    assert!(reason.ends_with("below more than 32 others"), "{reason}");
}

/// Whatever is in the file: an error, or some contents, and no panic.
#[test]
fn no_mutation_of_a_qcow2_file_does_harm() {
    let directory = Directory::new();
    directory.raw("base.img", &[3; 100_000]);
    let path = directory.qcow2("disk.qcow2", 1 << 20, Some(("base.img", "raw")));
    let image = writable(&path);
    for offset in [0, 70_000, 500_000] {
        write_at(&*image, offset / 512 * 512, &[7; PAGE_SIZE]).unwrap();
    }
    image.flush().unwrap();
    drop(image);
    let contents = fs::read(&path).unwrap();
    let (mut random, mut opened) = (Random::new(11), 0);
    for _ in 0..1000 {
        let mut mutated = contents.clone();
        for _ in 0..=random.below(3) {
            let cluster = random.below(contents.len() as u64 / 65536 + 1) * 65536;
            let offset = ((cluster + random.below(120)) as usize).min(mutated.len() - 1);
            mutated[offset] = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6) as usize];
        }
        let cut = directory.raw("mutated.qcow2", &mutated);
        let Ok(image) = open(&cut, None, true, "a test") else { continue };
        opened += 1;
        for _ in 0..4 {
            let offset = random.below(image.bytes() / 512) * 512;
            let _ = read_at(&*image, offset, 512);
            let _ = write_at(&*image, offset, &[1; 512]);
            let _ = image.discard(offset, 512);
        }
    }
    assert!(opened > 200, "{opened}");
}

#[test]
fn an_image_is_written_by_one_or_read_by_many() {
    let directory = Directory::new();
    let path = directory.raw("disk.img", &[0; 4096]);
    let first = open(&path, None, true, "domain one").unwrap();
    let link = directory.path("other-name.img");
    fs::hard_link(&path, &link).unwrap();
    assert_eq!(
        refusal(&link, None, true),
        "it is to be written, but it is in use by domain one, in this process"
    );
    assert_eq!(
        refusal(&path, None, false),
        "it is to be read, but it is in use by domain one, in this process"
    );
    drop(first);
    let readers = [0; 3].map(|_| open(&path, None, false, "a reader").unwrap());
    assert_eq!(
        refusal(&path, None, true),
        "it is to be written, but it is in use by a reader, in this process"
    );
    drop(readers);
    assert!(open(&path, None, true, "domain two").is_ok());
}

/// Whoever wrote to the lower image would change the upper one.
#[test]
fn what_an_image_is_based_on_cannot_be_written() {
    let directory = Directory::new();
    let base = directory.raw("base.img", &[0; 4096]);
    let upper = directory.qcow2("upper.qcow2", 4096, Some(("base.img", "raw")));
    let image = open(&upper, None, true, "domain one").unwrap();
    assert!(refusal(&base, None, true).ends_with("it is in use by domain one, in this process"));
    drop(image);
    let writer = open(&base, None, true, "domain two").unwrap();
    let reason = refusal(&upper, None, true);
    assert!(
        reason.starts_with("it is based on ") && reason.ends_with("in use by domain two, in this process")
    );
    drop(writer);
}

/// This test in a process of its own: it has an image open until it is told that it is enough.
#[test]
fn image_holder() {
    let Some(path) = std::env::var_os("PARAVANE_TEST_HOLD_IMAGE") else { return };
    let _image = writable(Path::new(&path));
    println!("it is held");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn a_second_process_is_told_which_one_has_the_image() {
    let directory = Directory::new();
    let path = directory.raw("disk.img", &[0; 4096]);
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "block::tests::images::image_holder", "--nocapture"])
        .env("PARAVANE_TEST_HOLD_IMAGE", &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("it is held")));
    let expected = format!("it is to be written, but it is in use by process {} (", holder.id());
    let reason = refusal(&path, None, true);
    assert!(reason.starts_with(&expected), "{reason}");
    holder.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(lines.all(|line| line.is_ok()), "to the end");
    assert!(holder.wait().unwrap().success());
    writable(&path);
}
