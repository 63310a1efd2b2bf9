//! What a qcow2 file is when the process ends, whenever that is: the file's writes are cut off after each of them, and
//! the image that is left is used again.

use super::images::{Change, Directory, read_at, refusal, with_header, writable, write_at};
use super::random::Random;
use crate::block::image::{Image, journal, open};
use imago::FormatCreateBuilder;
use pv_abi::PAGE_SIZE;
use std::collections::HashSet;
use std::fs;

const SECTOR: u64 = 512;

/// Clusters and counts so small or large that new tables of all kinds are often needed.
struct Kind {
    cluster_bytes: usize,
    count_bits: usize,
    sectors: u64,
    /// How many operations on the image a run has.
    operations: u8,
    /// One of so many states is looked at.
    every: u64,
    /// On an image that is full of this byte.
    base: Option<u8>,
}

const KINDS: [Kind; 4] = [
    // An L2 table for 64 sectors, a block of counts for 256.
    Kind { cluster_bytes: 512, count_bits: 16, sectors: 400, operations: 60, every: 1, base: None },
    Kind { cluster_bytes: 512, count_bits: 1, sectors: 400, operations: 60, every: 3, base: Some(201) },
    // A block of counts for 64, and a larger refcount table after 4096.
    Kind { cluster_bytes: 512, count_bits: 64, sectors: 5000, operations: 200, every: 100, base: None },
    Kind { cluster_bytes: 4096, count_bits: 16, sectors: 9000, operations: 60, every: 3, base: Some(202) },
];

/// What was asked of an image, one operation after the other.
struct Run {
    /// What the file holds before the first operation.
    start: Vec<u8>,
    /// The file's writes, and which operation made each.
    writes: Vec<(u64, Vec<u8>, usize)>,
    /// After each operation: what each sector holds.
    states: Vec<Vec<u8>>,
    /// Operations that were flushes.
    flushes: Vec<usize>,
}

impl Run {
    /// Takes note of the writes of the last operation.
    fn note(&mut self) {
        let operation = self.states.len() - 1;
        self.writes.extend(journal::take().into_iter().map(|(offset, bytes)| (offset, bytes, operation)));
    }
}

fn run(directory: &Directory, kind: &Kind, seed: u64) -> Run {
    let mut random = Random::new(seed);
    let _ = fs::remove_file(directory.path("disk.qcow2"));
    if let Some(byte) = kind.base {
        directory.raw("base.img", &vec![byte; (kind.sectors * SECTOR) as usize]);
    }
    let path = directory.qcow2_with("disk.qcow2", |builder| {
        let builder = builder.cluster_size(kind.cluster_bytes).refcount_width(kind.count_bits);
        let builder = builder.size(kind.sectors * SECTOR);
        if kind.base.is_some() { builder.backing("base.img".into(), "raw".into()) } else { builder }
    });
    let start = fs::read(&path).unwrap();
    let image = writable(&path);
    journal::take();
    let states = vec![vec![kind.base.unwrap_or(0); kind.sectors as usize]];
    let mut run = Run { start, writes: vec![], states, flushes: vec![0] };
    for operation in 1..=kind.operations {
        let mut state = run.states.last().unwrap().clone();
        let (first, most) = (random.below(kind.sectors - 8), if random.once_in(3) { 200 } else { 8 });
        let sectors = (1 + random.below(most)).min(kind.sectors - first);
        let range = first as usize..(first + sectors) as usize;
        match random.below(9) {
            0 => {
                image.flush().unwrap();
                run.flushes.push(operation.into());
            }
            1 | 2 => {
                image.discard(first * SECTOR, sectors * SECTOR).unwrap();
                state[range].fill(0);
            }
            _ => {
                fill(&*image, first, sectors, operation);
                state[range].fill(operation);
            }
        }
        run.states.push(state);
        run.note();
    }
    // The end writes what is left.
    drop(image);
    run.note();
    run
}

/// Writes a byte to sectors, as whoever goes on with transfers that fall short.
fn fill(image: &dyn Image, first: u64, sectors: u64, byte: u8) {
    let (mut offset, end) = (first * SECTOR, (first + sectors) * SECTOR);
    while offset < end {
        let bytes = vec![byte; (end - offset).min(4096) as usize];
        offset += write_at(image, offset, &bytes).unwrap() as u64;
    }
}

fn contents(image: &dyn Image, sectors: u64) -> Vec<u8> {
    let mut contents = Vec::new();
    for offset in (0..sectors * SECTOR).step_by(PAGE_SIZE) {
        let bytes = read_at(image, offset, PAGE_SIZE.min((sectors * SECTOR - offset) as usize)).unwrap();
        for sector in bytes.chunks(SECTOR as usize) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "parts of several in one sector at {offset}"
            );
            contents.push(sector[0]);
        }
    }
    contents
}

/// Judges the image that is left where the process ends after `length` writes.
fn check(directory: &Directory, kind: &Kind, run: &Run, file: &[u8], length: usize, random: &mut Random) {
    let path = directory.raw("left.qcow2", file);
    let image =
        open(&path, None, true, "the next run").unwrap_or_else(|error| panic!("after {length}: {error}"));
    let left = contents(&*image, kind.sectors);
    // Operations whose writes are all there, and the one that was under way.
    let under_way = run.writes.get(length).map_or(run.states.len() - 1, |write| write.2);
    let ended = if length == run.writes.len() { under_way } else { under_way - 1 };
    let flush = *run.flushes.iter().rfind(|flush| **flush <= ended).unwrap();
    for (sector, byte) in left.iter().enumerate() {
        let mut may_be = run.states[flush..=under_way].iter().map(|state| state[sector]);
        assert!(may_be.any(|may_be| may_be == *byte), "after {length}: sector {sector} holds {byte}");
    }
    // The next run writes, and changes nothing else by that.
    let mut changed = HashSet::new();
    for _ in 0..6 {
        let (first, sectors) = (random.below(kind.sectors - 8), 1 + random.below(8));
        fill(&*image, first, sectors, 255);
        changed.extend(first..first + sectors);
    }
    image.flush().unwrap();
    drop(image);
    let image = writable(&path);
    for (sector, byte) in contents(&*image, kind.sectors).into_iter().enumerate() {
        let expected = if changed.contains(&(sector as u64)) { 255 } else { left[sector] };
        assert_eq!(byte, expected, "after {length}: sector {sector}, in the run after that");
    }
}

#[test]
fn a_qcow2_image_is_whole_whenever_the_process_ends() {
    let (mut states, mut random) = (0, Random::new(5));
    for kind in &KINDS {
        for seed in 0..2 {
            let directory = Directory::new();
            let run = run(&directory, kind, seed);
            let mut file = run.start.clone();
            for length in 0..=run.writes.len() {
                if random.once_in(kind.every) || length == run.writes.len() {
                    check(&directory, kind, &run, &file, length, &mut random);
                    states += 1;
                }
                if let Some((offset, bytes, _)) = run.writes.get(length) {
                    let end = *offset as usize + bytes.len();
                    file.resize(file.len().max(end), 0);
                    file[*offset as usize..end].copy_from_slice(bytes);
                }
            }
            assert!(file == fs::read(directory.path("disk.qcow2")).unwrap(), "all writes are seen");
        }
    }
    assert!(states > 800, "{states}");
}

/// Where counts and tables are in an image that holds one cluster of data and no more.
const L1: u64 = 3 << 16;
const L2: u64 = 4 << 16;
const COUNTS: u64 = 2 << 16;

fn small_image(directory: &Directory) -> std::path::PathBuf {
    let path = directory.qcow2("disk.qcow2", 1 << 20, None);
    fill(&*writable(&path), 0, 8, 7);
    let bytes = fs::read(&path).unwrap();
    let entry = |offset: u64| u64::from_be_bytes(*bytes[offset as usize..].first_chunk().unwrap());
    assert_eq!((entry(40), entry(48)), (L1, 1 << 16));
    assert_eq!((entry(1 << 16), entry(L1), entry(L2)), (COUNTS, 1 << 63 | L2, 1 << 63 | 5 << 16));
    path
}

/// Such an image is read, but never written: what it refers to would be used again.
#[test]
fn an_image_that_refers_to_what_is_not_counted_is_not_written() {
    let cases: &[(&[Change], &str)] = &[
        (&[(COUNTS + 8, &[0, 0])], "it is damaged: an L2 table, at 262144, is in use, and counted as free; "),
        (
            &[(COUNTS + 10, &[0, 0])],
            "it is damaged: a cluster of data, at 327680, is in use, and counted as free",
        ),
        (
            &[(COUNTS + 10, &[0, 2])],
            "a cluster of data, at 327680, is to be written in place, and counted 2 times",
        ),
        (
            &[(L2 + 8, &[0, 0, 0, 0, 0, 5, 0, 0])],
            "a cluster of data, at 327680, is in use 2 times, and counted 1",
        ),
        (
            &[(L2 + 8, &[0, 0, 0, 0, 0, 4, 0, 0])],
            "a cluster of data, at 262144, is in use 2 times, and counted 1",
        ),
        (
            &[(L2, &[0x80, 0, 0, 0, 0, 5, 2, 0])],
            "a cluster of data, at 328192, is not where a cluster begins",
        ),
        (&[(L2, &[0x80, 0, 0, 0, 0x7f, 5, 0, 0])], "is behind its end: it has only "),
        (&[(L2, &[0x40, 0, 0, 0, 0, 6, 0, 0])], "a cluster of data, at 393216, is behind its end"),
        (&[(1 << 16, &[0; 8])], "its header, at 0, is in use, and not counted"),
        (&[(1 << 16, &[0, 0, 0, 0x7f, 0, 0, 0, 0])], "a block of counts, at 545460846592, is cut off"),
        (&[(COUNTS, &[0, 0])], "its header, at 0, is in use, and counted as free"),
        (&[(COUNTS + 6, &[0, 0])], "its L1 table, at 196608, is in use, and counted as free"),
        (
            &[(60, &[0, 0, 0, 1]), (64, &[0, 0, 0, 0, 0, 4, 0x80, 0])],
            "its list of snapshots, at 262144, is in use 2",
        ),
        (
            &[(60, &[0, 0, 0, 1]), (64, &[0, 0, 0, 0, 0, 6, 0, 0])],
            "its list of snapshots, at 393216, is cut off",
        ),
        (&[(60, &[0, 1, 0, 1])], "it is said to have 65537 snapshots"),
        (&[(72, &[0, 0, 0, 0, 0, 0, 0, 1])], "it is marked as dirty"),
        (&[(72, &[0, 0, 0, 0, 0, 0, 0, 2])], "it is marked as corrupt"),
    ];
    for (changes, expected) in cases {
        let directory = Directory::new();
        let path = small_image(&directory);
        with_header(&path, changes);
        let before = fs::read(&path).unwrap();
        let reason = refusal(&path, None, true);
        assert!(reason.contains(expected), "{reason:?}, and not {expected:?}");
        assert!(reason.ends_with("; repair it (qemu-img check -r all), or use it read-only"), "{reason}");
        assert!(open(&path, None, false, "a reader").is_ok(), "read-only, as the message says: {reason}");
        assert!(fs::read(&path).unwrap() == before, "nothing is changed");
    }
}

/// A compressed cluster lies in sectors, the first and so many more, and is counted in each cluster that these are of.
#[test]
fn a_compressed_cluster_is_counted_where_its_sectors_are() {
    let entry = |sectors: u64, start: u64| (1_u64 << 62 | sectors << 54 | start).to_be_bytes();
    let cluster = 5 << 16;
    for (sectors, start, cut_off) in [
        (0, cluster, false),
        (127, cluster, false),
        (126, cluster + 700, false),
        (0, cluster + 0xffff, false),
        (128, cluster, true),
        (127, cluster + 700, true),
        (1, cluster + 0xffff, true),
    ] {
        let directory = Directory::new();
        let path = small_image(&directory);
        with_header(&path, &[(L2, &entry(sectors, start))]);
        if cut_off {
            let reason = refusal(&path, None, true);
            assert!(reason.contains("a cluster of data, at 393216, is behind its end"), "{sectors} {reason}");
        } else {
            drop(writable(&path));
        }
    }
}

/// Counted and not in use: only lost.
#[test]
fn clusters_that_are_lost_are_no_reason_to_refuse_an_image() {
    let directory = Directory::new();
    let path = small_image(&directory);
    with_header(&path, &[(L2, &[0; 8]), (COUNTS + 20, &[0, 3])]);
    let image = writable(&path);
    fill(&*image, 0, 2000, 3);
    assert_eq!(contents(&*image, 2048), [vec![3; 2000], vec![0; 48]].concat());
}

/// An image that cannot be written as it should is not written on, as if nothing had been.
#[test]
fn a_table_that_cannot_be_written_is_the_end_of_writing() {
    let directory = Directory::new();
    let path = directory.qcow2("disk.qcow2", 1 << 20, None);
    let image = writable(&path);
    // The table of counts is gone, as on a host that fails.
    with_header(&path, &[(1 << 16, &[0; 8])]);
    assert!(write_at(&*image, 0, &[1; 512]).unwrap_err().to_string().contains("cannot be counted"));
    for failed in [write_at(&*image, 0, &[1; 512]).map(drop), image.flush()] {
        assert!(failed.unwrap_err().to_string().contains("one of its tables could not be written"));
    }
}
