//! ext2, ext3 and ext4, for reading, by the crate `ext4-view`.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::error::Error;

use ext4_view::{Ext4, Ext4Error, Ext4Read};

use super::bytes::Bytes;
use super::{Entry, File, FileSystem};

/// The superblock, and fields of it.
const SUPERBLOCK: u64 = 1024;
const INODE_SIZE: u64 = SUPERBLOCK + 0x58;
/// The byte of `s_feature_ro_compat` with the flag that metadata has checksums.
const FEATURES: u64 = SUPERBLOCK + 0x65;
const METADATA_CHECKSUMS: u8 = 0x04;
/// The least inodes in which the crate finds their checksums.
const CHECKED_INODE_SIZE: u16 = 0x84;

/// The disk. The crate refuses checksums in inodes that are too small for the upper half of one, which are allowed: so
/// there it is not told that there are any, and does not check them.
struct Reader {
    disk: Bytes,
    hides_checksums: bool,
}

impl Ext4Read for Reader {
    fn read(&mut self, start_byte: u64, dst: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.disk.read(start_byte, dst).map_err(Box::new)?;
        let features = FEATURES.checked_sub(start_byte).and_then(|offset| dst.get_mut(offset as usize));
        if let Some(features) = features.filter(|_| self.hides_checksums) {
            *features &= !METADATA_CHECKSUMS;
        }
        Ok(())
    }
}

pub fn mount(mut disk: Bytes) -> Result<impl FileSystem, String> {
    let mut inode_size = [0; 2];
    disk.read(INODE_SIZE, &mut inode_size).map_err(|error| error.to_string())?;
    let hides_checksums = u16::from_le_bytes(inode_size) < CHECKED_INODE_SIZE;
    Ext4::load(Box::new(Reader { disk, hides_checksums })).map_err(|error| error.to_string())
}

/// An error in words. For the crate, a hole of a whole indirect block is a corrupt file system.
fn message(error: Ext4Error) -> String {
    let text = error.to_string();
    if text.contains("from block 0 (originally 0)") {
        return "it has a hole that cannot be read here: in ext2 and ext3, one of some hundred blocks or more".into();
    }
    text
}

impl FileSystem for Ext4 {
    fn kind(&self) -> &'static str {
        "ext4, read-only"
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>, String> {
        let names = self.read_dir(path).map_err(message)?;
        let entry = |found: ext4_view::DirEntry| {
            let metadata = found.metadata()?;
            let name = found.file_name().display().to_string();
            Ok(Entry { name, bytes: metadata.len(), is_directory: metadata.is_dir() })
        };
        let entries: Result<_, Ext4Error> = names.map(|found| found.and_then(entry)).collect();
        entries.map_err(message)
    }

    fn open<'a>(&'a self, path: &str) -> Result<Box<dyn File + 'a>, String> {
        let file = Ext4::open(self, path).map_err(message)?;
        Ok(Box::new(file))
    }

    fn write(&self, _: &str, _: &[u8]) -> Result<(), String> {
        Err("ext4 is read-only here".into())
    }

    fn sync(&self) -> Result<(), String> {
        Ok(())
    }
}

impl File for ext4_view::File {
    fn bytes(&self) -> u64 {
        self.metadata().len()
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, String> {
        self.read_bytes(into).map_err(message)
    }
}
