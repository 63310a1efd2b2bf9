//! File systems on disks that hold little of what their size says.

use super::bytes::Bytes;
use super::format::{Kind, LEAST_BYTES, Layout, MOST_BYTES, format};
use super::{FileSystem, ext4, fat};
use crate::block::{BlockDevice, Error, Properties, SECTOR, Work};
use crate::sched::executor::block_on;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A disk that keeps the sectors which are not zero. Its other sectors are as it is told.
struct Sparse {
    properties: Properties,
    sectors: RefCell<BTreeMap<u64, Vec<u8>>>,
    /// What a sector holds that was never written.
    rest: u8,
    flushes: Cell<u32>,
}

impl Sparse {
    fn new(bytes: u64, sector_bytes: u64, rest: u8) -> Rc<Self> {
        let properties = Properties {
            sectors: bytes / SECTOR as u64,
            granularity: sector_bytes / SECTOR as u64,
            read_only: false,
            flush: true,
            discard: false,
        };
        Rc::new(Self { properties, sectors: RefCell::default(), rest, flushes: Cell::new(0) })
    }

    fn word(&self, sector: u64, offset: usize) -> u32 {
        let mut bytes = [0; SECTOR];
        self.copy(sector, &mut bytes);
        bytes[offset..offset + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
    }

    fn copy(&self, sector: u64, into: &mut [u8]) {
        let sectors = self.sectors.borrow();
        for (part, sector) in into.chunks_mut(SECTOR).zip(sector..) {
            match sectors.get(&sector) {
                Some(bytes) => part.copy_from_slice(bytes),
                None => part.fill(self.rest),
            }
        }
    }
}

impl BlockDevice for Sparse {
    fn properties(&self) -> Properties {
        self.properties
    }

    fn read<'a>(&'a self, sector: u64, into: &'a mut [u8]) -> Work<'a> {
        Box::pin(async move {
            self.properties.check(sector, into.len())?;
            self.copy(sector, into);
            Ok(())
        })
    }

    fn write<'a>(&'a self, sector: u64, from: &'a [u8]) -> Work<'a> {
        Box::pin(async move {
            self.properties.check_write(sector, from.len())?;
            let mut sectors = self.sectors.borrow_mut();
            if self.rest == 0 && from.iter().all(|byte| *byte == 0) {
                let written = sector..sector + (from.len() / SECTOR) as u64;
                sectors.retain(|sector, _| !written.contains(sector));
                return Ok(());
            }
            sectors.extend((sector..).zip(from.chunks(SECTOR).map(<[u8]>::to_vec)));
            Ok(())
        })
    }

    fn flush(&self) -> Work<'_> {
        self.flushes.set(self.flushes.get() + 1);
        Box::pin(async { Ok(()) })
    }

    fn discard(&self, _: u64, _: u64) -> Work<'_> {
        Box::pin(async { Err(Error::Unsupported) })
    }
}

/// What any reader takes a file system of so many clusters for.
fn kind_by_clusters(clusters: u32) -> Kind {
    match clusters {
        ..4085 => Kind::Fat12,
        4085..65525 => Kind::Fat16,
        _ => Kind::Fat32,
    }
}

/// Every size from the least on, in steps of 3 % and around each power of two.
fn sizes() -> Vec<u64> {
    let mut sizes: Vec<u64> = std::iter::successors(Some(LEAST_BYTES), |size| Some(size + size / 32))
        .take_while(|size| *size < MOST_BYTES)
        .collect();
    for power in 16..=41 {
        sizes.extend([-4096, -512, 0, 512, 4096].map(|by| (1u64 << power).saturating_add_signed(by)));
    }
    sizes.extend([900 * MIB, 1900 * MIB, 8400 * KIB, 260 * MIB, 33 * MIB]);
    sizes.retain(|size| (LEAST_BYTES..=MOST_BYTES).contains(size));
    sizes
}

#[test]
fn every_size_has_a_layout_that_means_its_kind() {
    for size in sizes() {
        for sector_bytes in [512, 4096] {
            let layout = Layout::new(size / sector_bytes, sector_bytes as usize);
            let layout = layout.unwrap_or_else(|error| panic!("{size}: {error}"));
            assert_eq!(
                kind_by_clusters(layout.clusters),
                layout.kind,
                "{size} in {sector_bytes}: {layout:?}"
            );
            assert!(layout.clusters < 0x0fff_fff5, "{size}: {layout:?}");
        }
    }
}

#[test]
fn what_cannot_be_formatted_says_what_can() {
    let too_small = Layout::new(LEAST_BYTES / 512 - 1, 512).unwrap_err();
    assert!(too_small.contains("at least 65536"), "{too_small}");
    let too_large = Layout::new(MOST_BYTES / 512 + 1, 512).unwrap_err();
    assert!(too_large.contains("2048"), "{too_large}");
}

/// Formats, mounts, writes a file, and reads it after mounting anew.
fn formatted(bytes: u64, sector_bytes: u64, rest: u8) {
    let disk = Sparse::new(bytes, sector_bytes, rest);
    block_on(format(&*disk, 7)).unwrap_or_else(|error| panic!("{bytes}: {error}"));
    assert_eq!(disk.flushes.get(), 2, "once before the boot sector, once behind");
    let mount = || {
        fat::mount(Bytes::new(disk.clone())).unwrap_or_else(|error| panic!("{bytes} is not mounted: {error}"))
    };
    let mounted = mount();
    assert_eq!(mounted.list("/").unwrap().len(), 0, "{bytes}: it is empty");
    let contents: Vec<u8> = (0..3000u32).map(|index| index as u8).collect();
    mounted.write("/A long name.text", &contents).unwrap_or_else(|error| panic!("{bytes}: {error}"));
    mounted.sync().unwrap();
    let mounted = mount();
    let mut file = mounted.open("/A long name.text").unwrap();
    let mut read = vec![0; 4000];
    let mut length = 0;
    while let count @ 1.. = file.read(&mut read[length..]).unwrap() {
        length += count;
    }
    assert!(read[..length] == contents, "{bytes}: {length} bytes");
}

#[test]
fn what_was_formatted_holds_files() {
    for size in sizes().into_iter().filter(|size| *size <= 64 * MIB).step_by(5) {
        formatted(size / 4096 * 4096, 512, 0xa5);
    }
    for size in [16 * MIB, 32 * MIB, 900 * MIB, GIB, 2 * GIB, 2 * GIB + MIB, 33 * GIB, 500 * GIB] {
        formatted(size, 512, 0);
        formatted(size, 4096, 0);
    }
    formatted(MOST_BYTES, 512, 0);
}

#[test]
fn the_parts_of_fat32_say_the_same() {
    let disk = Sparse::new(GIB, 512, 0);
    block_on(format(&*disk, 7)).unwrap();
    let layout = Layout::new(GIB / 512, 512).unwrap();
    assert_eq!(layout.kind, Kind::Fat32);
    let sectors = disk.sectors.borrow();
    assert_eq!(sectors[&0], sectors[&6], "the boot sector's copy");
    assert_eq!(sectors[&1], sectors[&7], "the free clusters' copy");
    drop(sectors);
    assert_eq!(disk.word(1, 488), layout.clusters - 1, "the root directory is a cluster");
    assert_eq!(disk.word(32, 8), 0x0fff_ffff, "which ends there");
}

/// The disk that a file of `tests/fixtures` describes.
fn fixture(text: &str) -> Rc<Sparse> {
    let mut image = vec![0; 256 << 10];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (offset, bytes) = line.split_once(' ').unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        for (index, digits) in bytes.as_bytes().chunks(2).enumerate() {
            image[offset + index] = u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap();
        }
    }
    let disk = Sparse::new(image.len() as u64, 512, 0);
    block_on(disk.write(0, &image)).unwrap();
    disk
}

fn read(mounted: &dyn FileSystem, path: &str) -> Result<Vec<u8>, String> {
    let mut file = mounted.open(path)?;
    let mut bytes = vec![0; file.bytes() as usize + 1];
    let mut length = 0;
    while let count @ 1.. = file.read(&mut bytes[length..])? {
        length += count;
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[test]
fn ext4_with_small_inodes_is_read() {
    let disk = fixture(include_str!("../../../tests/fixtures/ext4-small-inodes.hex"));
    let mounted = ext4::mount(Bytes::new(disk)).unwrap();
    let names: Vec<_> = mounted.list("/").unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(["hello", "hole"].iter().all(|name| names.iter().any(|it| it == name)), "{names:?}");
    assert_eq!(read(&mounted, "/hello").unwrap(), b"hello\n");
    let hole = read(&mounted, "/hole").unwrap();
    assert!(hole[..300 << 10].iter().all(|byte| *byte == 0) && hole[300 << 10..] == *b"end");
}

/// What the crate cannot read is told as that, and the rest is there.
#[test]
fn a_large_hole_of_ext2_is_told_in_plain_words() {
    let disk = fixture(include_str!("../../../tests/fixtures/ext2-hole.hex"));
    let mounted = ext4::mount(Bytes::new(disk)).unwrap();
    assert_eq!(read(&mounted, "/hello").unwrap(), b"hello\n");
    let error = read(&mounted, "/hole").unwrap_err();
    assert!(
        error.starts_with("it has a hole that cannot be read here") && !error.contains("corrupt"),
        "{error}"
    );
}
