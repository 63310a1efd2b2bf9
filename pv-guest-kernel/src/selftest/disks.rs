//! Disks and file systems, on a disk in memory: all but the way to a back-end.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::PAGE_SIZE;

use super::report::Report;
use crate::block::{self, BlockDevice, Error, MemoryDisk, SECTOR};
use crate::file_system;

/// What the disk is called while it is there.
const NAME: &str = "selftest";
const PAGES: usize = 128;
const SECTORS: u64 = (PAGES * PAGE_SIZE / SECTOR) as u64;

pub async fn run(report: &mut Report) {
    let Some(disk) = MemoryDisk::new(PAGES).map(Rc::new) else {
        return report.left_out("disks in memory", "there is not that much");
    };
    sectors(report, &*disk).await;
    block::add(NAME, disk);
    report.equal("an empty FAT file system", file_system::format(NAME, 1).await, Ok(()));
    report.equal("what it is mounted as", file_system::mount(NAME), Ok("FAT"));
    let used = files(report);
    report.equal("a file system", used, Ok(()));
    // A check above says what failed before.
    let _ = file_system::unmount(NAME);
    block::remove(NAME);
    let gone = file_system::mount(NAME);
    report.check("mounting a disk that is not there", gone.is_err(), format_args!("{gone:?}"));
}

async fn sectors(report: &mut Report, disk: &dyn BlockDevice) {
    let written: Vec<u8> = (0..2 * SECTOR).map(|index| index as u8 ^ 0x5a).collect();
    let mut read = alloc::vec![0; 2 * SECTOR];
    report.equal("sectors written", disk.write(SECTORS - 2, &written).await, Ok(()));
    report.equal("and made durable", disk.flush().await, Ok(()));
    report.equal("and read", disk.read(SECTORS - 2, &mut read).await, Ok(()));
    report.check("what was read", read == written, "the same");
    report.equal("forgotten", disk.discard(SECTORS - 2, 2).await, Ok(()));
    for (what, sector, bytes) in [
        ("sectors behind the end", SECTORS - 1, 2 * SECTOR),
        ("sectors far behind the end", u64::MAX, SECTOR),
        ("half a sector", 0, SECTOR / 2),
    ] {
        report.equal(what, disk.read(sector, &mut read[..bytes]).await, Err(Error::OutOfRange));
        report.equal(what, disk.write(sector, &written[..bytes]).await, Err(Error::OutOfRange));
    }
    report.equal("forgetting more", disk.discard(1, u64::MAX).await, Err(Error::OutOfRange));
}

/// Files that are written, overwritten and read again after the disk was mounted anew.
fn files(report: &mut Report) -> Result<(), String> {
    let long: Vec<u8> = (0..20_000u32).flat_map(u32::to_le_bytes).collect();
    let contents =
        [("/a", &b"first"[..]), ("/A long name.text", b"second"), ("/long", &long), ("/a", b"third")];
    let (mounted, _) = file_system::find(NAME)?;
    contents.iter().try_for_each(|(path, contents)| mounted.write(path, contents))?;
    let too_much = (0..10).find_map(|number| mounted.write(&alloc::format!("/{number}"), &long).err());
    report.check("more than the disk holds", too_much.is_some(), format_args!("{too_much:?}"));
    file_system::unmount(NAME)?;
    file_system::mount(NAME)?;
    let (mounted, _) = file_system::find(NAME)?;
    for (path, contents) in &contents[1..] {
        let mut file = mounted.open(path)?;
        let mut read = alloc::vec![0; file.bytes() as usize + 1];
        let mut length = 0;
        loop {
            match file.read(&mut read[length..])? {
                0 => break,
                count => length += count,
            }
        }
        report.check(path, read[..length] == **contents, format_args!("{length} bytes, as written"));
    }
    let names: Vec<_> = mounted.list("/")?.into_iter().map(|entry| entry.name).collect();
    let there = ["a", "A long name.text", "long"].iter().all(|name| names.iter().any(|it| it == name));
    report.check("names in the directory", there, format_args!("{names:?}"));
    Ok(())
}
